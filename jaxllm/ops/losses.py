"""Sequence losses as `(sum, weight)`: masked, in float32, divided once over the whole batch by the caller."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxllm.ops.unembedding import Unembedding
from jaxllm.ops.vocab import Divergence, token_divergence, token_logprobs

SumAndWeight = tuple[jax.Array, jax.Array]
"""A weighted sum and the sum of its weights, float32 scalars; means over microbatches and devices divide once."""


def masked_sum(values: jax.Array, mask: jax.Array) -> SumAndWeight:
    """Sums `values` under `mask`, and the mask itself.

    Values outside the mask are replaced by zero before weighting, so infinities and NaN there have no effect.

    Args:
        values: `[...]`.
        mask: `[...]`, bool or non-negative weights.

    Returns:
        Two float32 scalars.
    """
    chex.assert_equal_shape([values, mask])
    chex.assert_type(values, float)
    mask = mask.astype(jnp.float32)
    return jnp.sum(jnp.where(mask > 0, values.astype(jnp.float32), 0.0) * mask), jnp.sum(mask)


def cross_entropy(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, mask: jax.Array, *,
                  block: int | None = None) -> SumAndWeight:
    """Computes the next-token loss `-sum_t mask_t log p(target_t)`.

    Args:
        hidden: `[B, T, D]`, the states that predict `targets`; the caller shifts.
        unembedding: from the model.
        targets: `[B, T]` int32.
        mask: `[B, T]`.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `(sum in nats, number of tokens)`, float32 scalars.
    """
    chex.assert_rank([hidden, targets, mask], [3, 2, 2])
    return masked_sum(-token_logprobs(hidden, unembedding, targets, block=block), mask)


def kl_distillation(student: jax.Array, student_unembedding: Unembedding, teacher: jax.Array,
                    teacher_unembedding: Unembedding, mask: jax.Array, *, kind: Divergence = "forward",
                    beta: float = 0.5, temperature: float = 1.0,
                    block: int | None = None) -> SumAndWeight:
    """Computes `T^2 sum_t mask_t D(teacher_t, student_t)`: distillation over the whole vocabulary (1503.02531).

    The factor T^2 makes the size of the gradient independent of the temperature.

    Args:
        student, teacher: `[B, T, D]` hidden states at aligned positions.
        student_unembedding, teacher_unembedding: unembeddings of one vocabulary.
        mask: `[B, T]`.
        kind, beta, temperature, block: see `token_divergence`.

    Returns:
        `(sum in nats, number of tokens)`, float32 scalars.
    """
    chex.assert_rank([student, teacher, mask], [3, 3, 2])
    values = token_divergence(student, student_unembedding, teacher, teacher_unembedding, kind=kind,
                              beta=beta, temperature=temperature, block=block)
    total, weight = masked_sum(values, mask)
    return temperature**2 * total, weight
