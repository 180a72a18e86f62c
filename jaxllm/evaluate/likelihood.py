"""KL from a teacher, equal predictions, negative log-likelihood and perplexity on held-out targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.distill import Batch, next_token_nll, student_states, target_divergence, target_mask
from jaxllm.finetune.targets import EMPTY, Target, collate, common_lengths
from jaxllm.model import Model
from jaxllm.models import Adapter, ModelSpec
from jaxllm.models.mesh import put_batch
from jaxllm.models.network import Params, unembedding
from jaxllm.ops.top_k import top_k_logprobs
from jaxllm.text.batches import bucket, bucket_sizes


def target_batches(targets: Sequence[Target], window: int, batch_size: int = 32) -> list[Batch]:
    """Builds batches of one shape; the last one is filled with empty targets.

    The number of rows is bucketed too, so that lists of similar lengths share a program.
    """
    lengths = common_lengths(targets, window)
    size = bucket(min(batch_size, len(targets)), bucket_sizes(batch_size, smallest=8))
    padded = [*targets, *[EMPTY] * (-len(targets) % size)]
    return [collate(padded[i:i + size], *lengths) for i in range(0, len(padded), size)]


def kl_by_target(model: Model, student: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32, *,
                 adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the forward KL from the open-book `model` to the closed-book student, summed over each target's tokens.

    Args:
        model: the teacher.
        student: weights of the student.
        batches: from `target_batches`.
        dtype: dtype of the forward passes.
        adapter: adapter of the student.
        mesh: devices that share the rows.

    Returns:
        sums in nats and token counts, float64 `[N]`, with zeros for the empty targets at the end.

    Raises:
        UserError: a sum is not finite.
    """
    return _by_target(lambda batch: _kl_sums(model.spec, model.params, student, adapter, batch, dtype), batches, mesh)


def nll_by_target(model: Model, params: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32, *,
                  adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the negative log-likelihood of the targets' student view under `params`; see `kl_by_target`."""
    return _by_target(lambda batch: _nll_sums(model.spec, params, adapter, batch, dtype), batches, mesh)


def same_prediction_by_target(model: Model, params: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32, *,
                              adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None
                              ) -> tuple[np.ndarray, np.ndarray]:
    """Counts each target's tokens where the closed-book `model` and `params` have the same most probable token.

    Both read the target's own tokens before each (teacher forcing). The arguments are those of `kl_by_target`.

    Returns:
        these counts and token counts, float64 `[N]`.

    Raises:
        UserError: a log-probability is not finite.
    """
    return _by_target(lambda batch: _same_predictions(model.spec, model.params, params, adapter, batch, dtype), batches,
                      mesh)


def mean_kl(model: Model, student: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32, *,
            adapter: Adapter | None = None) -> float:
    """Computes the mean forward KL per token, nats; see `kl_by_target`."""
    sums, tokens = kl_by_target(model, student, batches, dtype, adapter=adapter)
    return float(sums.sum() / max(tokens.sum(), 1.0))


def mean_nll(model: Model, params: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32, *,
             adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None) -> float:
    """Computes the mean negative log-likelihood per token, nats; see `nll_by_target`."""
    sums, tokens = nll_by_target(model, params, batches, dtype, adapter=adapter, mesh=mesh)
    return float(sums.sum() / max(tokens.sum(), 1.0))


def perplexity(model: Model, params: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32, *,
               adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None) -> float:
    """Computes `exp(mean_nll)`."""
    return math.exp(mean_nll(model, params, batches, dtype, adapter=adapter, mesh=mesh))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _kl_sums(spec: ModelSpec, teacher: Params, student: Params, adapter: Adapter | None, batch: Batch,
             dtype: jnp.dtype):
    values = target_divergence(spec, teacher, student, adapter, batch, dtype=dtype)
    return _sum_rows(values, target_mask(batch["student_segments"], batch["masked_tokens"]))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _nll_sums(spec: ModelSpec, params: Params, adapter: Adapter | None, batch: Batch, dtype: jnp.dtype):
    values = next_token_nll(spec, params, adapter, batch, dtype=dtype)
    return _sum_rows(values, target_mask(batch["student_segments"], batch["masked_tokens"]))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _same_predictions(spec: ModelSpec, base: Params, params: Params, adapter: Adapter | None, batch: Batch,
                      dtype: jnp.dtype):
    def predictions(weights: Params, change: Adapter | None) -> tuple[jax.Array, jax.Array]:
        hidden = student_states(spec, weights, change, batch, dtype=dtype)
        return tuple(best[..., 0] for best in top_k_logprobs(hidden, unembedding(spec, weights), 1))

    (before, _), (after, logprobs) = predictions(base, None), predictions(params, adapter)
    same = jnp.where(jnp.isfinite(logprobs), before == after, jnp.nan)
    return _sum_rows(same, target_mask(batch["student_segments"], batch["masked_tokens"]))


def _sum_rows(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums `values` `[B, T]` over the tokens of each row where `mask` is set, and counts them."""
    return jnp.where(mask, values, 0.0).sum(-1), mask.sum(-1)


def _by_target(compute: Callable[[Batch], Any], batches: Sequence[Batch], mesh: jax.sharding.Mesh | None
               ) -> tuple[np.ndarray, np.ndarray]:
    if mesh is None:
        parts = [compute(batch) for batch in batches]
    else:
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        with jax.set_mesh(mesh):
            parts = [compute(put_batch(batch, mesh) if len(batch["offset"]) % rows == 0 else batch)
                     for batch in batches]
    sums, tokens = (np.concatenate(arrays).astype(np.float64) for arrays in zip(*jax.device_get(parts), strict=True))
    if not np.isfinite(sums).all():
        raise UserError("the likelihood is not finite", "model",
                        "look for NaN or infinity in the weights, or lower the learning rate")
    return sums, tokens
