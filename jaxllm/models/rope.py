"""Rotary position embeddings: angles from positions, and the rotation of queries and keys."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.spec import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians per position of each rotated pair, `[rotated / 2]`, slowest last, where they are constants.

    Computed in float64 on the host: the slow ones multiply positions of 100,000 and more.
    """
    size = rope.rotated(head_dim)
    frequencies = rope.theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        wavelengths = 2 * math.pi / frequencies
        low, high = rope.low_freq_factor, rope.high_freq_factor
        kept = np.clip((rope.original_positions / wavelengths - low) / (high - low), 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / rope.factor
    if rope.kind == "yarn":
        kept = 1 - _yarn_ramp(rope, size)
        return kept * frequencies + (1 - kept) * frequencies / rope.factor
    return frequencies


def _yarn_ramp(rope: Rope, size: int) -> np.ndarray:
    """0 for pairs that turn often within the original context, 1 for those that hardly turn (2309.00071, 3.2)."""
    def pair(turns: float) -> float:
        """The pair, as a real number, that makes this number of turns."""
        return size * math.log(rope.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    return np.clip((np.arange(size // 2) - low) / (high - low or 0.001), 0, 1)


def _by_length(rope: Rope, head_dim: int, length: jax.Array) -> jax.Array:
    """Frequencies of the kinds that depend on how long a text is: `[..., rotated / 2]` of lengths `[..., 1]`."""
    size = rope.rotated(head_dim)
    frequencies = inverse_frequencies(rope, head_dim)
    if rope.kind == "dynamic":
        # The base grows once the text is longer than the original context; up to there it is what it was.
        longer = jnp.maximum(length, rope.original_positions) / rope.original_positions
        base = rope.theta * (rope.factor * longer - (rope.factor - 1)) ** (size / (size - 2))
        return base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    short, long = (jnp.asarray(frequencies / np.asarray(f), jnp.float32)
                   for f in (rope.short_factors, rope.long_factors))
    return jnp.where(length > rope.original_positions, long, short)


def no_rotation(size: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of angle zero, for layers without rotation; `size` dimensions."""
    still = jnp.ones((*positions.shape, size // 2), jnp.float32)
    return still, jnp.zeros_like(still)


def rotation(rope: Rope, head_dim: int, positions: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, each float32 `[B, T, rotated / 2]`, of `positions` `[B, T]`.

    Dynamic and long rope depend on the length of the text, which is taken of the token's own segment: torch takes the
    longest row of the batch, but what a text comes to must not depend on its neighbors. When text is decoded with a
    cache, keys stay as they were rotated when the text was shorter.
    """
    if rope.kind in ("dynamic", "longrope"):
        same = segments[:, :, None] == segments[:, None, :]
        lengths = jnp.where(same, positions[:, None, :], 0).max(-1) + 1
        frequencies = _by_length(rope, head_dim, lengths[..., None])
    else:
        frequencies = jnp.asarray(inverse_frequencies(rope, head_dim), jnp.float32)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * rope.magnitude, jnp.sin(angles) * rope.magnitude


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the halves of the first dimensions of every head of `x` `[B, T, heads, head_dim]`; float32 inside."""
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size].astype(jnp.float32), x[..., size:]
    first, second = jnp.split(turned, 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
    return turned if not rest.shape[-1] else jnp.concatenate([turned, rest], -1)
