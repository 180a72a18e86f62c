"""Shardings: the table from logical axes to mesh axes, applied to parameters, batches and the KV cache."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm.errors import UserError
from jaxllm.models.attention import Cache
from jaxllm.models.network import cache_axes, init_cache, init_params, logical_axes
from jaxllm.models.spec import ModelSpec

RULES: Mapping[str, str | tuple[str, ...] | None] = MappingProxyType(
    {
        "layers": None,  # scanned over, never split
        "vocab": "tensor",
        "embed": "fsdp",
        "heads": "tensor",
        "kv": "tensor",
        "mlp": "tensor",
        "experts": None,  # a token's experts are looked up on every device
        "rank": None,  # of low-rank adapters: too small to split
        "batch": ("data", "fsdp"),
        "length": None,
    }
)
"""Logical axis name -> mesh axis or axes it is split over; None means replicated."""


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding that keeps a full copy on every device of `mesh`."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of arrays `[rows, ...]`: rows split over the `data` and `fsdp` axes, the rest whole."""
    return NamedSharding(mesh, P(RULES["batch"]))


def shardings(axes_tree: Any, mesh: jax.sharding.Mesh, shapes: Any = None) -> Any:
    """Looks every parameter's logical axes up in `RULES`.

    A dimension stays whole when its size does not divide evenly, and when an earlier dimension of
    the same array has already taken its mesh axis.

    Args:
        axes_tree: tree of tuples with one logical axis name (or None) per dimension.
        mesh: from `make_mesh`.
        shapes: tree of the same structure; its leaves have `.shape`; None takes every size to divide.

    Returns:
        A tree of `NamedSharding` with the structure of `axes_tree`.

    Raises:
        ValueError: a name that is not in `RULES`, or a number of names other than the array's rank.
    """
    if shapes is None:
        return jax.tree.map(lambda axes: _sharding(axes, mesh, None), axes_tree, is_leaf=_is_axes)
    return jax.tree.map(lambda axes, x: _sharding(axes, mesh, x.shape), axes_tree, shapes, is_leaf=_is_axes)


def model_shardings(spec: ModelSpec, mesh: jax.sharding.Mesh) -> Any:
    """Returns the sharding of every parameter of a model, the tree that `load_model` takes."""
    shapes = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))
    return shardings(logical_axes(spec), mesh, shapes)


def cache_sharding(spec: ModelSpec, mesh: jax.sharding.Mesh) -> Cache:
    """Returns the shardings of a KV cache: rows over `data` and `fsdp`, KV heads over `tensor` where they divide.

    Returns:
        A `Cache` of `NamedSharding`, for `jax.jit(..., out_shardings=...)` or `jax.device_put`. The number of rows must
        be a multiple of `data * fsdp`.
    """
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    return shardings(cache_axes(spec), mesh, jax.eval_shape(lambda: init_cache(spec, groups, 1)))


def _is_axes(x: Any) -> bool:
    return isinstance(x, tuple) and all(name is None or isinstance(name, str) for name in x)


def _sharding(
    axes: tuple[str | None, ...], mesh: jax.sharding.Mesh, shape: tuple[int, ...] | None
) -> NamedSharding:
    if shape is not None and len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {shape}")
    unknown = [name for name in axes if name is not None and name not in RULES]
    if unknown:
        raise ValueError(f"logical axis {unknown[0]!r} is not one of {', '.join(RULES)}")
    taken: set[str] = set()
    spec = []
    for i, name in enumerate(axes):
        rule = None if name is None else RULES[name]
        names = (rule,) if isinstance(rule, str) else rule or ()
        parts = math.prod(mesh.shape[n] for n in names)
        if not names or taken & set(names) or (shape is not None and shape[i] % parts):
            spec.append(None)
        else:
            taken |= set(names)
            spec.append(rule)
    return NamedSharding(mesh, P(*spec))


def put_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Puts one process's rows on the mesh; together the processes' rows make the global batch.

    Args:
        batch: tree of host arrays `[rows of this process, ...]`; scalars are copied to every device.
        mesh: from `make_mesh`.

    Returns:
        The same tree as global arrays `[rows of all processes, ...]`, rows split over `data` and `fsdp`.

    Raises:
        UserError: the global number of rows does not divide over the devices that split it.
    """
    rows_apart, whole = batch_sharding(mesh), replicated(mesh)
    groups = mesh.shape["data"] * mesh.shape["fsdp"]

    def put(x: Any) -> jax.Array:
        x = np.asarray(x)
        if x.ndim == 0:
            return jax.make_array_from_process_local_data(whole, x, x.shape)
        rows = x.shape[0] * jax.process_count()
        if rows % groups:
            raise UserError(
                f"a batch of {rows} rows does not divide over data x fsdp = {groups} groups of devices",
                "mesh",
                f"make the batch size a multiple of {groups}",
            )
        return jax.make_array_from_process_local_data(rows_apart, x, (rows, *x.shape[1:]))

    return jax.tree.map(put, batch)
