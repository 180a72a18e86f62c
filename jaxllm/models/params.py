"""Parameter trees, and their two layouts: layers stacked in one tree, or a tuple with one tree per layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]
"""Nested dict of arrays. `params["layers"]` is one tree of `[L, ...]` arrays, or a tuple of L trees."""


def is_stacked(params: Params) -> bool:
    """Whether the layers are one tree of `[L, ...]` arrays rather than a tuple of L trees."""
    return not isinstance(params["layers"], tuple)


def unstack_layers(params: Params, consume: bool = False) -> Params:
    """Converts stacked layers `[L, ...]` to a tuple of L trees; a tuple is returned as it is.

    Args:
        params: parameters of a model or of an adapter.
        consume: free each stacked array as soon as its layers are separate, so that the model is never in memory
            twice. `params` and arrays that share its memory must not be used afterwards.
    """
    if not is_stacked(params):
        return params
    leaves, structure = jax.tree.flatten(params["layers"])
    columns = []
    for leaf in leaves:
        columns.append([leaf[i] for i in range(len(leaf))])
        if consume:
            jax.block_until_ready(columns[-1])
            leaf.delete()
    return params | {"layers": tuple(structure.unflatten(layer) for layer in zip(*columns, strict=True))}


def stack_layers(params: Params, consume: bool = False) -> Params:
    """Converts a tuple of L trees to one tree of `[L, ...]` arrays, the inverse of `unstack_layers`.

    Args:
        params: parameters of a model or of an adapter; stacked layers are returned as they are.
        consume: free the layers' arrays as soon as they are stacked; see `unstack_layers`.
    """
    if is_stacked(params):
        return params
    structure = jax.tree.structure(params["layers"][0])
    stacked = []
    for column in zip(*(jax.tree.leaves(layer) for layer in params["layers"]), strict=True):
        stacked.append(jnp.stack(column))
        if consume:
            jax.block_until_ready(stacked[-1])
            for leaf in column:
                leaf.delete()
    return params | {"layers": structure.unflatten(stacked)}
