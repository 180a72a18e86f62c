"""Weight quantization to 4 or 8 bits: integer codes and the scales that convert them to weights.

A weight w, `[..., D, F]`, is cut along D into groups of G rows; every group of a column has one scale:

    int8   w ~ scale * code,          code in -127 ... 127,  scale = max |w| / 127,  G = D (one scale a column)
    int4   w ~ scale * code,          code in -7 ... 7,      scale = max |w| / 7
    nf4    w ~ scale * NF4[code],     code in 0 ... 15,      scale = max |w|

NF4 (QLoRA, 2305.14314) are quantiles of the normal distribution, which weights are closer to than to a uniform one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

Scheme = Literal["int8", "int4", "nf4"]

# Rows that share a scale in the 4-bit schemes, where D divides so.
GROUP = 64
# Below this the scales would take as much memory as they save.
SMALLEST_GROUP = 16

# 2305.14314, appendix E: 8 quantiles of the positive and 7 of the negative half, 0, scaled to end at +-1.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A weight `[..., D, F]` as codes and scales, in place of the array.

    Attributes:
        codes: int8 `[..., D, F]`, or, for the 4-bit schemes, uint8 `[..., D / 2, F]`: rows 2i and 2i + 1 share a
            byte, the even one in its lower half.
        scales: `[..., D / G, F]`; float32 for int8, bfloat16 for the 4-bit schemes.
        scheme: `int8`, `int4` or `nf4`.
    """

    codes: jax.Array
    scales: jax.Array
    scheme: Scheme = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        *batch, rows, columns = self.codes.shape
        return (*batch, rows if self.scheme == "int8" else 2 * rows, columns)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def dequantize(self, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Returns the weight, `[..., D, F]`, each product rounded once to `dtype`."""
        codes = self.codes if self.scheme == "int8" else _unpack(self.codes, signed=self.scheme == "int4")
        values = jnp.asarray(NF4)[codes] if self.scheme == "nf4" else codes.astype(jnp.float32)
        *batch, rows, columns = codes.shape
        groups = self.scales.shape[-2]
        grouped = values.reshape(*batch, groups, rows // groups, columns)
        scaled = grouped * self.scales.astype(jnp.float32)[..., None, :]
        return scaled.reshape(*batch, rows, columns).astype(dtype)


def group_size(rows: int) -> int | None:
    """Returns the rows that share a 4-bit scale: a power of two from 16 to 64, or None."""
    size = math.gcd(rows, GROUP)
    return size if size >= SMALLEST_GROUP else None


def quantize(weight: jax.Array, scheme: Scheme) -> Quantized:
    """Quantizes a weight to the nearest codes, with scales from the largest magnitude of every group.

    Args:
        weight: `[..., D, F]`, floating.
        scheme: see the module.

    Raises:
        ValueError: a 4-bit scheme, and D has no usable group size.
    """
    chex.assert_type(weight, float)
    chex.assert_rank(weight, set(range(2, 9)))
    *batch, rows, columns = weight.shape
    size = rows if scheme == "int8" else group_size(rows)
    if size is None:
        raise ValueError(f"{rows} rows cannot be cut into groups of {SMALLEST_GROUP} to {GROUP} for {scheme}")
    grouped = weight.reshape(*batch, rows // size, size, columns)
    largest = jnp.abs(grouped).max(-2).astype(jnp.float32)
    # Without the barrier the compiler for CPU makes a float32 copy of the whole weight, to share it between two passes.
    grouped, largest = jax.lax.optimization_barrier((grouped, largest))
    scales = largest / {"int8": 127.0, "int4": 7.0, "nf4": 1.0}[scheme]
    if scheme != "int8":
        scales = scales.astype(jnp.bfloat16)
    # Codes are chosen for the scale as it is stored, so that its rounding is not an error twice.
    divisor = scales.astype(jnp.float32)[..., None, :]
    scaled = (grouped.astype(jnp.float32) / jnp.where(divisor == 0, 1.0, divisor)).reshape(*batch, rows, columns)
    if scheme == "nf4":
        # A value's code is the number of midpoints below it.
        codes = sum((scaled > middle).astype(jnp.uint8) for middle in (NF4[1:] + NF4[:-1]) / 2)
        return Quantized(_pack(codes), scales, scheme)
    limit = 127 if scheme == "int8" else 7
    codes = jnp.clip(jnp.round(scaled), -limit, limit).astype(jnp.int8)
    return Quantized(codes if scheme == "int8" else _pack(codes), scales, scheme)


def _pack(codes: jax.Array) -> jax.Array:
    """Packs 4-bit codes `[..., D, F]` into uint8 `[..., D / 2, F]`; signed ones as two's complement."""
    *batch, rows, columns = codes.shape
    pairs = (codes.astype(jnp.uint8) & 15).reshape(*batch, rows // 2, 2, columns)
    return pairs[..., 0, :] | (pairs[..., 1, :] << 4)


def _unpack(packed: jax.Array, signed: bool) -> jax.Array:
    """Inverts `_pack`."""
    *batch, rows, columns = packed.shape
    if signed:  # shifting a signed byte down repeats its sign
        whole = jax.lax.bitcast_convert_type(packed, jnp.int8)
        halves = (whole << 4) >> 4, whole >> 4
    else:
        halves = packed & 15, packed >> 4
    return jnp.stack(halves, axis=-2).reshape(*batch, 2 * rows, columns)
