"""Quantized parameters: which matrices are quantized, and conversion from and to full precision.

The matrices of the layers (attention, feed-forward, experts) hold nearly all parameters and are quantized. Embedding,
head, router, norms and biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.params import Params
from jaxllm.ops.quantize import Quantized, Scheme, group_size, quantize

EXPERTS = ("up", "gate", "down")


def is_quantizable(path: tuple[str, ...], shape: tuple[int, ...], scheme: Scheme | None) -> bool:
    """Whether the parameter at `path`, of a stacked `shape`, is quantized by `scheme`."""
    matrix = path[-1] == "kernel" or len(path) == 3 and path[1] == "mlp" and path[2] in EXPERTS
    if scheme is None or path[0] != "layers" or not matrix:
        return False
    return scheme == "int8" or group_size(shape[-2]) is not None


def quantize_params(params: Params, scheme: Scheme) -> Params:
    """Quantizes the matrices of the layers, which are stacked."""
    shrink = jax.jit(partial(quantize, scheme=scheme))
    return _map(lambda path, leaf: shrink(leaf) if is_quantizable(path, leaf.shape, scheme) else leaf, params)


def dequantize_params(params: Params, dtype: jnp.dtype) -> Params:
    """Converts quantized matrices to arrays of `dtype`; the rounding of quantization remains."""
    grow = jax.jit(lambda leaf: leaf.dequantize(dtype))
    return _map(lambda _, leaf: grow(leaf) if isinstance(leaf, Quantized) else leaf, params)


def scheme_of(params: Params) -> Scheme | None:
    """Returns the quantization scheme of parameters, None if they are not quantized."""
    return next((leaf.scheme for leaf in jax.tree.leaves(params, is_leaf=_is_quantized) if _is_quantized(leaf)), None)


def _is_quantized(leaf: Any) -> bool:
    return isinstance(leaf, Quantized)


def _map(change: Callable[[tuple[str, ...], Any], Any], params: Params) -> Params:
    def visit(path, leaf):
        return change(tuple(key.key for key in path), leaf)

    return jax.tree_util.tree_map_with_path(visit, params, is_leaf=_is_quantized)
