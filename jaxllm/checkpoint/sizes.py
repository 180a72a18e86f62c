"""Parameter counts and bytes of a model, without loading it."""

from __future__ import annotations

import math
from functools import partial
from typing import cast, get_args

import jax
import numpy as np

from jaxllm.models import ModelSpec, Params, init_params
from jaxllm.models.quantized import is_quantizable
from jaxllm.ops.quantize import Scheme, quantize

FORMATS = ("float32", "bfloat16", "int8", "int4", "nf4")


def shapes_of(spec: ModelSpec) -> Params:
    """Returns the tree of parameters as shapes."""
    return jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))


def count_parameters(spec: ModelSpec) -> dict[str, int]:
    """Counts parameters of the layers, of each parameter outside of them by name, and `total`."""
    parts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(spec)):
        parts[path[0].key] = parts.get(path[0].key, 0) + math.prod(leaf.shape)
    return parts | {"total": sum(parts.values())}


def weight_bytes(spec: ModelSpec, number_format: str) -> int:
    """Computes the bytes of the weights in one of `FORMATS`; with a quantized one the rest is bfloat16."""
    scheme = cast(Scheme, number_format) if number_format in get_args(Scheme) else None
    dtype = np.dtype(jax.numpy.bfloat16 if number_format != "float32" else np.float32)
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(spec)):
        if scheme is not None and is_quantizable(tuple(key.key for key in path), leaf.shape, scheme):
            quantized = jax.eval_shape(partial(quantize, scheme=scheme), leaf)
            total += sum(math.prod(part.shape) * part.dtype.itemsize for part in jax.tree.leaves(quantized))
        else:
            total += math.prod(leaf.shape) * dtype.itemsize
    return total


def cache_bytes(spec: ModelSpec) -> int:
    """Computes the bytes of one token's KV cache in bfloat16; 0 for an encoder, which has none."""
    return 0 if spec.encoder is not None else 2 * 2 * spec.layers * spec.kv_heads * spec.head_dim
