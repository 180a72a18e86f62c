"""Precision by device."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

Precision = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Number formats.

    Args:
        params: of the weights; auto is float32.
        compute: of activations and matrix products; auto is bfloat16 on GPU and TPU, float32 on CPU. Norms,
            softmax, logits and losses are float32 in any case.
        quantise: 8 or 4 bits for the matrices of the layers, which are frozen then; null leaves them as they are.
    """

    params: Precision = "auto"
    compute: Precision = "auto"
    quantise: Literal["int8", "int4", "nf4"] | None = None

    @property
    def param_dtype(self) -> jnp.dtype:
        return jnp.dtype("float32" if self.params == "auto" else self.params)

    @property
    def compute_dtype(self) -> jnp.dtype:
        if self.compute == "auto":
            return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        return jnp.dtype(self.compute)
