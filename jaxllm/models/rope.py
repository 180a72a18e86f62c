"""Rotary position embeddings: angles from positions, and the rotation of queries and keys."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.spec import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Computes radians per position of each rotated pair, `[rotated / 2]`, slowest last, without dependence on length.

    In float64 on the host: slow frequencies are multiplied by positions of 100,000 and more.
    """
    size = rope.rotated(head_dim)
    frequencies = rope.theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        wavelengths = 2 * math.pi / frequencies
        low, high = rope.low_freq_factor, rope.high_freq_factor
        unscaled = np.clip((rope.original_positions / wavelengths - low) / (high - low), 0.0, 1.0)
        return unscaled * frequencies + (1 - unscaled) * frequencies / rope.factor
    if rope.kind == "yarn":
        unscaled = 1 - _yarn_ramp(rope, size)
        return unscaled * frequencies + (1 - unscaled) * frequencies / rope.factor
    return frequencies


def _yarn_ramp(rope: Rope, size: int) -> np.ndarray:
    """Computes 0 for pairs with many turns within the original context, 1 for those with few (2309.00071, 3.2)."""
    def pair(turns: float) -> float:
        """Returns the pair, as a real number, that makes this number of turns."""
        return size * math.log(rope.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    return np.clip((np.arange(size // 2) - low) / (high - low or 0.001), 0, 1)


def _by_length(rope: Rope, head_dim: int, length: jax.Array) -> jax.Array:
    """Computes frequencies of dynamic and long rope, `[..., rotated / 2]`, for texts of lengths `[..., 1]`."""
    size = rope.rotated(head_dim)
    frequencies = inverse_frequencies(rope, head_dim)
    if rope.kind == "dynamic":
        # The base grows once the text is longer than the original context.
        longer = jnp.maximum(length, rope.original_positions) / rope.original_positions
        base = rope.theta * (rope.factor * longer - (rope.factor - 1)) ** (size / (size - 2))
        return base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    short, long = (jnp.asarray(frequencies / np.asarray(f), jnp.float32)
                   for f in (rope.short_factors, rope.long_factors))
    return jnp.where(length > rope.original_positions, long, short)


def no_rotation(size: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of angle zero, for layers without rotation; `size` dimensions."""
    cosines = jnp.ones((*positions.shape, size // 2), jnp.float32)
    return cosines, jnp.zeros_like(cosines)


def rotation(rope: Rope, head_dim: int, positions: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes cosines and sines, each float32 `[B, T, rotated / 2]`, of `positions` `[B, T]`.

    Dynamic and long rope depend on the length of the text, here that of the token's own segment. Torch takes the
    longest row of the batch, which would make a text's states depend on its neighbors. In a KV cache, keys stay as
    they were rotated when the text was shorter, as in torch for dynamic rope; `check_prompt`
    of `jaxllm.generate` refuses to generate so with long rope.
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
    rotated, rest = x[..., :size].astype(jnp.float32), x[..., size:]
    first, second = jnp.split(rotated, 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
    return rotated if not rest.shape[-1] else jnp.concatenate([rotated, rest], -1)
