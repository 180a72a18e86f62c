"""Matrix product of activations with a stored, possibly quantized kernel."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxllm.ops.quantize import Quantized

PRODUCT = "product"
"""Name of the bfloat16 products on CPU for a policy of rematerialization, which cannot see the dots inside them."""


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
    rows, out_dtype = x.reshape(-1, x.shape[-1]), jnp.dtype(out_dtype or x.dtype)
    if x.dtype == out_dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
        flat = checkpoint_name(_bfloat16_product(rows, kernel), PRODUCT)
    else:
        flat = lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), precision=precision,
                               preferred_element_type=out_dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _bfloat16_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes ``x @ kernel`` with float32 results that are rounded once, in the gradient too.

    XLA's CPU backend converts both operands of a bfloat16 product to float32 unless its result is float32; with that
    it uses the CPU's own bfloat16 instructions where there are any (3 to 4 times the rate of float32, measured).
    """
    return _contract(x, kernel, 1, 0)


def _contract(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    product = lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)
    return product.astype(jnp.bfloat16)


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _contract(x, kernel, 1, 0), (x, kernel)


def _product_backward(operands: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = operands
    return _contract(slope, kernel, 1, 1), _contract(x, slope, 0, 0)


_bfloat16_product.defvjp(_product_forward, _product_backward)
