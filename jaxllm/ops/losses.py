"""Sequence losses as `(sum, weight)`: masked, in float32, divided once by whoever holds the whole batch."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxllm.ops.vocab import Divergence, Unembedding, token_divergence, token_logprobs


def masked_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of `values` under `mask`, and the mask's total.

    Values outside the mask are dropped before they are weighted, so that an infinity there is nothing.

    Args:
        values: `[...]`.
        mask: `[...]`, bool or non-negative weights.

    Returns:
        Two float32 scalars.
    """
    chex.assert_equal_shape([values, mask])
    mask = mask.astype(jnp.float32)
    return jnp.sum(jnp.where(mask > 0, values.astype(jnp.float32), 0.0) * mask), jnp.sum(mask)


def cross_entropy(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, mask: jax.Array, *,
                  block: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Next-token loss `-sum_t mask_t log p(target_t)`.

    Args:
        hidden: `[B, T, D]`, the states that predict `targets`: shifting is the caller's.
        unembedding: from the model.
        targets: `[B, T]` int32.
        mask: `[B, T]`.
        block: vocabulary rows held at a time.

    Returns:
        `(sum in nats, number of tokens)`, float32 scalars.
    """
    return masked_sum(-token_logprobs(hidden, unembedding, targets, block=block), mask)


def kl_distillation(student: jax.Array, student_unembedding: Unembedding, teacher: jax.Array,
                    teacher_unembedding: Unembedding, mask: jax.Array, *, kind: Divergence = "forward",
                    beta: float = 0.5, temperature: float = 1.0,
                    block: int | None = None) -> tuple[jax.Array, jax.Array]:
    """`T^2 sum_t mask_t D(teacher_t, student_t)`: distillation over the whole vocabulary (1503.02531).

    The factor T^2 keeps the size of the gradient while the temperature changes.

    Args:
        student, teacher: `[B, T, D]` hidden states at aligned positions.
        student_unembedding, teacher_unembedding: of one vocabulary.
        mask: `[B, T]`.
        kind, beta, temperature, block: see `token_divergence`.

    Returns:
        `(sum in nats, number of tokens)`, float32 scalars.
    """
    values = token_divergence(student, student_unembedding, teacher, teacher_unembedding, kind=kind,
                              beta=beta, temperature=temperature, block=block)
    total, weight = masked_sum(values, mask)
    return temperature**2 * total, weight
