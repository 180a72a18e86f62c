"""Matrix product of activations with a stored, possibly quantized kernel."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.ops.quantize import Quantized


def matmul(x: jax.Array, kernel: jax.Array | Quantized, out_dtype: jnp.dtype | None = None) -> jax.Array:
    """Computes ``x @ kernel`` over the last axis of `x`, in two dimensions.

    Activations are flattened first: XLA's CPU backend has no fast kernel for a weight gradient that
    contracts two axes, and a train step measured 1.25-1.5x slower without this. Float32 operands
    are multiplied in full float32 also where the accelerator would by default use a shorter format.

    Args:
        x: `[..., D]`.
        kernel: `[D, F]` in any dtype; converted to the dtype of `x`.
        out_dtype: dtype of the result and of the accumulation; that of `x` by default.

    Returns:
        `[..., F]`.
    """
    chex.assert_type(x, float)
    chex.assert_axis_dimension(x, -1, kernel.shape[0])
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    kernel = kernel.dequantize(x.dtype) if isinstance(kernel, Quantized) else kernel.astype(x.dtype)
    flat = lax.dot_general(
        x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())),
        precision=precision, preferred_element_type=out_dtype or x.dtype,
    )
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])
