"""A network whose frozen matrices are quantized: which of them, from and to full precision, and what they weigh.

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
    """The same network with its matrices quantized; layers stacked."""
    shrink = jax.jit(partial(quantize, scheme=scheme))
    return _map(lambda path, leaf: shrink(leaf) if is_quantizable(path, leaf.shape, scheme) else leaf, params)


def dequantize_params(params: Params, dtype: jnp.dtype) -> Params:
    """The same network in full precision again, as the codes say; nothing that was lost comes back."""
    grow = jax.jit(lambda leaf: leaf.dequantize(dtype))
    return _map(lambda _, leaf: grow(leaf) if isinstance(leaf, Quantized) else leaf, params)


def scheme_of(params: Params) -> Scheme | None:
    """How a network is quantized, None if it is not."""
    return next((leaf.scheme for leaf in jax.tree.leaves(params, is_leaf=_is_quantized) if _is_quantized(leaf)), None)


def _is_quantized(leaf: Any) -> bool:
    return isinstance(leaf, Quantized)


def _map(change: Callable[[tuple[str, ...], Any], Any], params: Params) -> Params:
    def visit(path, leaf):
        return change(tuple(key.key for key in path), leaf)

    return jax.tree_util.tree_map_with_path(visit, params, is_leaf=_is_quantized)
