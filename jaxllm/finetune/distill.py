"""Losses on targets: distillation from an open-book teacher (SELF-PARAM, 2410.00487), and next-token prediction.

    minimize  mean over targets s of  1/n sum_t D( p_teacher(s_t | x, s_<t),  p_student(s_t | s_<t) )

over all tokens of s, and the whole vocabulary or the teacher's top k and the rest (`ops/top_k.py`). The teacher is the
same network without the adapter. Every target has the same weight, as in the paper, where each had an optimizer step
of its own; the paper's code divides by the vocabulary size as well, which only rescales the loss and is not done here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.config import check
from jaxllm.finetune.on_policy import TeacherWeights
from jaxllm.finetune.packing import gather_states, is_packed, view_of
from jaxllm.finetune.targets import TARGET_TYPES
from jaxllm.finetune.trainable import student_of
from jaxllm.models import Adapter, ModelSpec, forward, unembedding
from jaxllm.models.network import Params, Remat
from jaxllm.ops import masked_sum, token_divergence, token_logprobs, top_k_kl
from jaxllm.ops.losses import SumAndWeight
from jaxllm.ops.top_k import top_k_rest
from jaxllm.ops.vocab import Divergence
from jaxllm.train import LossFn

TargetObjective = Literal["distill", "finetune"]
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class DivergenceConfig:
    """Divergence between teacher and student; the paper's is forward KL at temperature 1.

    Args:
        kind: forward is KL(teacher, student), reverse is KL(student, teacher), jsd is a mixture of both.
        beta: weight of the teacher in the mixture of jsd.
        temperature: divides the logits of both.
        top_k: cache the teacher's top-k log-probabilities, with all other tokens as one: each target is run through
            the teacher once per run instead of once per step; forward only. null runs the teacher in every step over
            the whole vocabulary (paper). auto is 64 where forward KL to a frozen teacher then reads at most half the
            tokens, and null elsewhere.
    """

    kind: Literal["forward", "reverse", "jsd"] = "forward"
    beta: float = 0.5
    temperature: float = 1.0
    top_k: int | Literal["auto"] | None = "auto"

    def __post_init__(self):
        if isinstance(self.top_k, int):
            check(self.top_k >= 1, "top_k", f"must be 1 or more, got {self.top_k}")
            check(self.kind == "forward", "top_k", f"is not available for {self.kind}",
                  "set kind to forward, or top_k to null")
        check(0 < self.beta < 1, "beta", f"must be between 0 and 1, got {self.beta:g}")
        check(0 < self.temperature < math.inf, "temperature", f"must be above 0, got {self.temperature:g}")


def target_mask(segments: jax.Array, masked_tokens: jax.Array | None = None) -> jax.Array:
    """Computes which states predict a token with a loss.

    Args:
        segments: `[B, T]`, 0 for padding; a state counts if its next token exists.
        masked_tokens: `[B]`, tokens at the start of every row without a loss; none by default.

    Returns:
        `[B, T]` bool.
    """
    chex.assert_rank(segments, 2)
    chex.assert_type(segments, int)
    mask = jnp.pad(segments[:, 1:] > 0, ((0, 0), (0, 1)))
    if masked_tokens is None:
        return mask
    chex.assert_shape(masked_tokens, segments.shape[:1])
    return mask & (jnp.arange(1, segments.shape[1] + 1)[None] >= masked_tokens[:, None])


def target_means(values: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Averages values over the predicted tokens of every target.

    Args:
        values: `[B, Ts]` at the student's states, or `[R, N]` at the predictions of packed rows.
        batch: from `collate` or `pack_targets`.

    Returns:
        means and weights of the targets `[B]`, 0 for one without a predicted token; of packed rows the values
        themselves, with weights that sum to 1 over each target.
    """
    if is_packed(batch):
        return values, batch["weights"]
    mask = target_mask(batch["student_segments"], batch["masked_tokens"])
    lengths = mask.sum(-1)
    return jnp.where(mask, values, 0.0).sum(-1) / jnp.maximum(lengths, 1), (lengths > 0).astype(jnp.float32)


def align(teacher_hidden: jax.Array, offset: jax.Array, length: int) -> jax.Array:
    """Gathers the teacher states `[B, length, D]` that predict the same tokens as student states 0 ... length - 1."""
    chex.assert_rank(teacher_hidden, 3)
    chex.assert_shape(offset, teacher_hidden.shape[:1])
    index = jnp.minimum(offset[:, None] + jnp.arange(length)[None], teacher_hidden.shape[1] - 1)
    return jnp.take_along_axis(teacher_hidden, index[..., None], axis=1)


def target_divergence(spec: ModelSpec, teacher: Params, student: Params, adapter: Adapter | None, batch: Batch, *,
                      open_book_teacher: Params | None = None, open_book_adapter: Adapter | None = None,
                      kind: Divergence = "forward", beta: float = 0.5, temperature: float = 1.0,
                      dtype: jnp.dtype = jnp.float32, remat: Remat = "none",
                      dropout_keys: jax.Array | None = None) -> jax.Array:
    """Computes the divergence between the open-book teacher and the student at every student position.

    Args:
        spec: spec of both.
        teacher: weights of the teacher, which gets no gradient.
        student, adapter: weights of the student.
        batch: from `collate` or `pack_targets`.
        open_book_teacher: weights of the teacher of those rows that have a context, where these are not the same, with
            equal embeddings; `teacher` then teaches the other rows.
        open_book_adapter: an adapter of the teacher of those rows.
        kind, beta, temperature: see `token_divergence`.
        dtype, remat, dropout_keys: see `forward`.

    Returns:
        `[B, Ts]` float32, nats, meaningful where `target_mask` is set; of packed rows `[R, N]`, one per prediction.
    """
    hidden = student_states(spec, student, adapter, batch, dtype=dtype, remat=remat, dropout_keys=dropout_keys)
    target = lax.stop_gradient(teacher_states(spec, teacher, batch, open_book_teacher=open_book_teacher,
                                              open_book_adapter=open_book_adapter, dtype=dtype))
    return token_divergence(hidden, unembedding(spec, student), target, unembedding(spec, teacher), kind=kind,
                            beta=beta, temperature=temperature)


def student_states(spec: ModelSpec, student: Params, adapter: Adapter | None, batch: Batch, *,
                   dtype: jnp.dtype = jnp.float32, remat: Remat = "none", dropout_keys: jax.Array | None = None
                   ) -> jax.Array:
    """Computes the student's hidden states `[B, Ts, D]`, or those of the predictions of packed rows `[R, N, D]`.

    The arguments are those of `target_divergence`.
    """
    view = view_of(batch, "student") if is_packed(batch) else {"lengths": _lengths(batch, "student")}
    hidden = forward(spec, student, batch["student"], **view, adapter=adapter, dtype=dtype, remat=remat,
                     dropout_keys=dropout_keys).hidden
    return gather_states(hidden, batch["student_index"]) if is_packed(batch) else hidden


def teacher_states(spec: ModelSpec, teacher: Params, batch: Batch, *, open_book_teacher: Params | None = None,
                   open_book_adapter: Adapter | None = None, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Computes the teacher's hidden states at the student's positions, `[B, Ts, D]` or `[R, N, D]`.

    The arguments are those of `target_divergence`.
    """
    open_book = teacher if open_book_teacher is None else open_book_teacher
    if is_packed(batch):
        hidden = forward(spec, open_book, batch["teacher"], **view_of(batch, "teacher"), adapter=open_book_adapter,
                         dtype=dtype).hidden
        hidden, has_context = gather_states(hidden, batch["teacher_index"]), batch["has_context"] > 0
    else:
        hidden = forward(spec, open_book, batch["teacher"], lengths=_lengths(batch, "teacher"),
                         adapter=open_book_adapter, dtype=dtype).hidden
        hidden, has_context = align(hidden, batch["offset"], batch["student"].shape[1]), (batch["offset"] > 0)[:, None]
    if open_book_teacher is None and open_book_adapter is None:
        return hidden
    # A target without a context is the same in both views.
    closed_book = student_states(spec, teacher, None, batch, dtype=dtype)
    return jnp.where(has_context[..., None], hidden, closed_book)


def _lengths(batch: Batch, view: str) -> jax.Array:
    """Counts the tokens `[B]` of the rows of `collate`, which hold one text each, padded on the right. From lengths,
    unlike from segments, flash attention kernels know that no mask is needed."""
    return (batch[f"{view}_segments"] > 0).sum(-1, dtype=jnp.int32)


def next_token_nll(spec: ModelSpec, params: Params, adapter: Adapter | None, batch: Batch, *,
                   dtype: jnp.dtype = jnp.float32, remat: Remat = "none", dropout_keys: jax.Array | None = None
                   ) -> jax.Array:
    """Computes negative log-likelihoods, in nats, of the token after each of the student's, `[B, Ts]`, or of the
    labels of packed rows, `[R, N]`."""
    hidden = student_states(spec, params, adapter, batch, dtype=dtype, remat=remat, dropout_keys=dropout_keys)
    labels = batch["labels"] if is_packed(batch) else jnp.roll(batch["student"], -1, axis=1)
    return -token_logprobs(hidden, unembedding(spec, params), labels)


def make_loss(spec: ModelSpec, objective: TargetObjective, adapter_scale: float | None, *, kind: Divergence = "forward",
              beta: float = 0.5, temperature: float = 1.0, two_teachers: bool = False, dropout: float = 0.0,
              teacher: TeacherWeights = "frozen", dtype: jnp.dtype = jnp.float32, remat: Remat = "full") -> LossFn:
    """Makes the loss of one batch for `make_train_step`.

    Args:
        spec: spec of the network.
        objective: `distill` is SELF-PARAM; `finetune` is plain next-token prediction on the same targets, and reads the
            student's view only.
        adapter_scale: scale of the trained adapter's tree; None trains the full weights. The base weights are
            `frozen` either way.
        kind, beta, temperature: settings of the divergence.
        two_teachers: `frozen` is the base weights and those of the open-book teacher, see `target_divergence`. A batch
            with `teacher_ids` and `teacher_logprobs` needs no teacher.
        dropout: rate of dropout on the adapter's inputs; its mask depends on seed, step and row number.
        teacher: adapter of the open-book teacher: none, the student's, or the average in the state's `extra`.
        dtype, remat: settings of the forward passes.

    Returns:
        the loss, with the metrics `loss_TYPE` and, of a batch with `teacher_logprobs`, `top_k_rest`: the teacher's
        probability of the tokens outside its top k.

    Raises:
        ValueError: the teacher has an adapter, and all weights are trained.
    """
    if teacher != "frozen" and adapter_scale is None:
        raise ValueError(f"the {teacher} teacher is the base with an adapter, and all weights are trained")

    def loss(trained: Any, frozen: Any, batch: Batch, key: jax.Array, extra: Any):
        open_book_teacher: Params | None = None
        if two_teachers:
            frozen, open_book_teacher = frozen
        student, adapter = student_of(trained, frozen, adapter_scale, dropout)
        keys, metrics = None, dict[str, SumAndWeight]()
        if dropout and adapter is not None:
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch["row"])
        if objective == "finetune":
            values = next_token_nll(spec, student, adapter, batch, dtype=dtype, remat=remat, dropout_keys=keys)
        elif "teacher_ids" in batch:
            hidden = student_states(spec, student, adapter, batch, dtype=dtype, remat=remat, dropout_keys=keys)
            values = top_k_kl(hidden, unembedding(spec, student), batch["teacher_ids"], batch["teacher_logprobs"],
                              temperature=temperature) * temperature**2
            metrics["top_k_rest"] = masked_sum(*target_means(top_k_rest(batch["teacher_logprobs"]), batch))
        else:
            open_book_adapter = None
            if teacher != "frozen":
                _, open_book_adapter = student_of(trained if teacher == "latest" else extra["teacher"], frozen,
                                                  adapter_scale)
            values = target_divergence(spec, frozen, student, adapter, batch, open_book_teacher=open_book_teacher,
                                       open_book_adapter=open_book_adapter, kind=kind, beta=beta,
                                       temperature=temperature, dtype=dtype, remat=remat, dropout_keys=keys
                                       ) * temperature**2
        values, weights = target_means(values, batch)
        metrics |= {f"loss_{name}": masked_sum(values, weights * (batch["target_type"] == i))
                    for i, name in enumerate(TARGET_TYPES)}
        return masked_sum(values, weights), metrics

    return loss
