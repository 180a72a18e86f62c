"""Mean KL from a teacher, mean negative log-likelihood and perplexity on held-out targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.distill import Batch, next_token_nll, target_divergence, target_mask
from jaxllm.finetune.targets import EMPTY, Target, collate, common_lengths
from jaxllm.model import Model
from jaxllm.models import ModelSpec
from jaxllm.models.network import Params
from jaxllm.ops import masked_sum
from jaxllm.text.batches import bucket, bucket_sizes


def target_batches(targets: Sequence[Target], window: int, batch_size: int = 32) -> list[Batch]:
    """Builds batches of one shape; the last one is filled with empty targets.

    The number of rows is bucketed too, so that lists of similar lengths share a program.
    """
    lengths = common_lengths(targets, window)
    size = bucket(min(batch_size, len(targets)), bucket_sizes(batch_size, smallest=8))
    padded = [*targets, *[EMPTY] * (-len(targets) % size)]
    return [collate(padded[i:i + size], *lengths) for i in range(0, len(padded), size)]


def mean_kl(model: Model, student: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32) -> float:
    """Computes the mean forward KL per token, nats, from the open-book `model` to the closed-book `student`."""
    return _mean(_kl_sum(model.spec, model.params, student, batch, dtype) for batch in batches)


def mean_nll(model: Model, params: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32) -> float:
    """Computes the mean negative log-likelihood per token, nats, of the targets' student view under `params`."""
    return _mean(_nll_sum(model.spec, params, batch, dtype) for batch in batches)


def perplexity(model: Model, params: Params, batches: Sequence[Batch], dtype: jnp.dtype = jnp.float32) -> float:
    """Computes `exp(mean_nll)`."""
    return math.exp(mean_nll(model, params, batches, dtype))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _kl_sum(spec: ModelSpec, teacher: Params, student: Params, batch: Batch, dtype: jnp.dtype):
    values = target_divergence(spec, teacher, student, None, batch, dtype=dtype)
    return masked_sum(values, target_mask(batch["student_segments"]))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def _nll_sum(spec: ModelSpec, params: Params, batch: Batch, dtype: jnp.dtype):
    values = next_token_nll(spec, params, None, batch, dtype=dtype)
    return masked_sum(values, target_mask(batch["student_segments"]))


def _mean(sums: Iterable[tuple[jax.Array, jax.Array]]) -> float:
    """Divides the sum of several `(sum, weight)` once."""
    sums = jax.device_get(list(sums))
    mean = float(sum(s for s, _ in sums) / max(sum(w for _, w in sums), 1.0))
    if not np.isfinite(mean):
        raise UserError("the likelihood is not finite", "model",
                        "look for NaN or infinity in the weights, or lower the learning rate")
    return mean
