"""Rotary positions: angles from positions, and their application to queries and keys."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.spec import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians per position of each rotated pair, `[head_dim / 2]`, slowest last.

    Computed in float64 on the host: they are constants of the network, and the slow ones multiply
    positions of 100,000 and more.
    """
    frequencies = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        wavelengths = 2 * math.pi / frequencies
        low, high = rope.low_freq_factor, rope.high_freq_factor
        kept = np.clip((rope.original_positions / wavelengths - low) / (high - low), 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / rope.factor
    return frequencies


def rotation(rope: Rope, head_dim: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, each float32 `[B, T, head_dim / 2]`, of `positions` `[B, T]`."""
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(
        inverse_frequencies(rope, head_dim), jnp.float32)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the halves of every head of `x` `[B, T, heads, head_dim]`; float32 inside."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
