"""The objective of SELF-PARAM: the student that has not read agrees with the teacher that has.

    minimize  mean over targets s of  1/n sum_t D( p_teacher(s_t | x, s_<t),  p_student(s_t | s_<t) )

over the whole vocabulary and all tokens of s. The teacher is the same network with the adapter off. Every
target text has the same weight, as in the paper, where each had an optimizer step of its own; the paper's
code divides by the vocabulary size as well, which only rescales the loss and is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.errors import UserError
from jaxllm.models import Adapter, ModelSpec, forward, unembedding
from jaxllm.models.network import Params, Remat
from jaxllm.ops import masked_sum, token_divergence, token_logprobs, top_k_kl
from jaxllm.ops.vocab import Divergence
from jaxllm.self_param.targets import KINDS
from jaxllm.train import LossFn

Objective = Literal["distill", "finetune"]
Batch = dict[str, jax.Array]


def target_mask(segments: jax.Array, given: jax.Array | None = None) -> jax.Array:
    """The states that predict what is learned.

    Args:
        segments: `[B, T]`, 0 for padding; a state counts if its next token exists.
        given: `[B]`, tokens of every row that are only read; none by default.

    Returns:
        `[B, T]` bool.
    """
    mask = jnp.pad(segments[:, 1:] > 0, ((0, 0), (0, 1)))
    return mask if given is None else mask & (jnp.arange(1, segments.shape[1] + 1)[None] >= given[:, None])


def align(teacher_hidden: jax.Array, offset: jax.Array, length: int) -> jax.Array:
    """Teacher states `[B, length, D]` that predict the same tokens as the student's states 0 ... length - 1."""
    index = jnp.minimum(offset[:, None] + jnp.arange(length)[None], teacher_hidden.shape[1] - 1)
    return jnp.take_along_axis(teacher_hidden, index[..., None], axis=1)


def reading_gap(spec: ModelSpec, teacher: Params, student: Params, adapter: Adapter | None, batch: Batch, *,
                reader: Params | None = None, kind: Divergence = "forward", beta: float = 0.5, temperature: float = 1.0,
                dtype: jnp.dtype = jnp.float32, remat: Remat = "none") -> jax.Array:
    """Divergence between the reading teacher and the student at every student position.

    Args:
        spec: of both.
        teacher: weights of the teacher, which gets no gradient.
        student, adapter: weights of the student.
        batch: from `collate`.
        reader: weights of the teacher of those rows that it reads something before, where that is another one with
            the same embeddings; `teacher` then teaches the others.
        kind, beta, temperature: see `token_divergence`.
        dtype, remat: see `forward`.

    Returns:
        `[B, Ts]` float32, nats; meaningful where `target_mask` is set.
    """
    told = forward(spec, student, batch["student"], segments=batch["student_segments"], adapter=adapter,
                   dtype=dtype, remat=remat).hidden
    read = lax.stop_gradient(teacher_states(spec, teacher, batch, reader=reader, dtype=dtype))
    return token_divergence(told, unembedding(spec, student), read, unembedding(spec, teacher), kind=kind,
                            beta=beta, temperature=temperature)


def teacher_states(spec: ModelSpec, teacher: Params, batch: Batch, *, reader: Params | None = None,
                   dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """What the teacher has in mind where the student is, `[B, Ts, D]`; arguments as of `reading_gap`."""
    read = forward(spec, teacher if reader is None else reader, batch["teacher"], segments=batch["teacher_segments"],
                   dtype=dtype).hidden
    read = align(read, batch["offset"], batch["student"].shape[1])
    if reader is None:
        return read
    # A row that reads nothing is the same in both views.
    known = forward(spec, teacher, batch["student"], segments=batch["student_segments"], dtype=dtype).hidden
    return jnp.where((batch["offset"] > 0)[:, None, None], read, known)


def make_loss(spec: ModelSpec, objective: Objective, adapter_scale: float | None, *, kind: Divergence = "forward",
              beta: float = 0.5, temperature: float = 1.0, two_teachers: bool = False,
              dtype: jnp.dtype = jnp.float32, remat: Remat = "full") -> LossFn:
    """The loss of one batch for `make_train_step`.

    Args:
        spec: of the network.
        objective: `distill` is SELF-PARAM; `finetune` is plain next-token training on the same targets.
        adapter_scale: what is trained is an adapter's tree of this scale, or, for None, the full weights.
            The base weights are `frozen` either way.
        kind, beta, temperature: of the divergence.
        two_teachers: `frozen` is the base weights and those of the reader, see `reading_gap`. Of a batch that brings
            what the teacher said (`teacher_ids`, `teacher_logprobs`) there is no teacher.
        dtype, remat: of the forward passes.
    """

    def loss(trained: Any, frozen: Params, batch: Batch, key: jax.Array):
        del key  # nothing here is random: the texts were drawn when the batch was made
        frozen, reader = frozen if two_teachers else (frozen, None)
        student, adapter = (trained, None) if adapter_scale is None else (frozen, Adapter(trained, adapter_scale))
        mask = target_mask(batch["student_segments"], batch["given"])
        if objective == "distill" and "teacher_ids" in batch:
            told = forward(spec, student, batch["student"], segments=batch["student_segments"], adapter=adapter,
                           dtype=dtype, remat=remat).hidden
            values = top_k_kl(told, unembedding(spec, student), batch["teacher_ids"],
                                          batch["teacher_logprobs"], temperature=temperature) * temperature**2
        elif objective == "distill":
            values = reading_gap(spec, frozen, student, adapter, batch, reader=reader, kind=kind, beta=beta,
                                 temperature=temperature, dtype=dtype, remat=remat) * temperature**2
        else:
            values = _next_token_nats(spec, student, adapter, batch, dtype, remat)
        lengths = mask.sum(-1)
        means = jnp.where(mask, values, 0.0).sum(-1) / jnp.maximum(lengths, 1)
        by_kind = {f"loss_{name}": masked_sum(means, (lengths > 0) & (batch["kind"] == i))
                   for i, name in enumerate(KINDS)}
        return masked_sum(means, lengths > 0), by_kind

    return loss


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _mean_gap(spec: ModelSpec, teacher: Params, student: Params, batch: Batch, dtype: jnp.dtype):
    values = reading_gap(spec, teacher, student, None, batch, dtype=dtype)
    return masked_sum(values, target_mask(batch["student_segments"]))


def mean_gap(spec: ModelSpec, teacher: Params, student: Params, batches: list[Batch],
             dtype: jnp.dtype = jnp.float32) -> float:
    """Mean forward KL per token between a teacher that reads and a student that does not, nats."""
    return _mean(_mean_gap(spec, teacher, student, batch, dtype) for batch in batches)


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _student_nats(spec: ModelSpec, params: Params, batch: Batch, dtype: jnp.dtype):
    values = _next_token_nats(spec, params, None, batch, dtype, "none")
    return masked_sum(values, target_mask(batch["student_segments"]))


def mean_nats(spec: ModelSpec, params: Params, batches: list[Batch], dtype: jnp.dtype = jnp.float32) -> float:
    """Mean negative log-likelihood per token of the targets as the student sees them, nats."""
    return _mean(_student_nats(spec, params, batch, dtype) for batch in batches)


def _mean(sums: Iterable[tuple[jax.Array, jax.Array]]) -> float:
    """The mean of several `(sum, weight)`."""
    sums = jax.device_get(list(sums))
    mean = float(sum(s for s, _ in sums) / max(sum(w for _, w in sums), 1.0))
    if not np.isfinite(mean):
        raise UserError("what was measured on the model is not finite", "model",
                        "look for NaN or infinity in the weights, or lower the learning rate")
    return mean


def _next_token_nats(spec: ModelSpec, params: Params, adapter: Adapter | None, batch: Batch, dtype: jnp.dtype,
                     remat: Remat) -> jax.Array:
    """`[B, Ts]` negative log-likelihood of the token after each of the student's."""
    hidden = forward(spec, params, batch["student"], segments=batch["student_segments"], adapter=adapter, dtype=dtype,
                     remat=remat).hidden
    return -token_logprobs(hidden, unembedding(spec, params), jnp.roll(batch["student"], -1, axis=1))
