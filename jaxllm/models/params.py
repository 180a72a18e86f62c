"""Parameter trees, and their two layouts: layers stacked in one tree, or a tuple with one tree per layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

Params = dict[str, Any]
"""Nested dict of arrays. `params["layers"]` is one tree of `[L, ...]` arrays, or a tuple of L trees."""


def is_stacked(params: Params) -> bool:
    """Whether the layers are one tree of `[L, ...]` arrays rather than a tuple of L trees."""
    return not isinstance(params["layers"], tuple)


def unstack_layers(params: Params, donate: bool = False) -> Params:
    """Converts stacked layers `[L, ...]` to a tuple of L trees; a tuple is returned as it is.

    Args:
        params: parameters of a model or of an adapter.
        donate: free each stacked array as soon as its layers are separate, so that the model is never in memory
            twice. `params` and arrays that share its memory must not be used afterwards.
    """
    if not is_stacked(params):
        return params
    leaves, structure = jax.tree.flatten(params["layers"])
    columns = []
    for leaf in leaves:
        columns.append([leaf[i] for i in range(len(leaf))])
        if donate:
            jax.block_until_ready(columns[-1])
            leaf.delete()
    return params | {"layers": tuple(structure.unflatten(layer) for layer in zip(*columns, strict=True))}


def stack_layers(params: Params, donate: bool = False) -> Params:
    """Converts a tuple of L trees to one tree of `[L, ...]` arrays, the inverse of `unstack_layers`.

    Args:
        params: parameters of a model or of an adapter; stacked layers are returned as they are.
        donate: free the layers' arrays as soon as they are stacked; see `unstack_layers`.
    """
    if is_stacked(params):
        return params
    structure = jax.tree.structure(params["layers"][0])
    stacked = []
    for column in zip(*(jax.tree.leaves(layer) for layer in params["layers"]), strict=True):
        stacked.append(_stack(column))
        if donate:
            jax.block_until_ready(stacked[-1])
            for leaf in column:
                leaf.delete()
    return params | {"layers": structure.unflatten(stacked)}


def _stack(column: Sequence[jax.Array]) -> jax.Array:
    """Stacks arrays; on a mesh the new axis is replicated, and the others stay as they are split."""
    sharding = getattr(column[0], "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return jnp.stack(column)
    axes = (*sharding.spec, *[None] * (column[0].ndim - len(sharding.spec)))
    stacked = NamedSharding(sharding.mesh, PartitionSpec(None, *axes))
    return jax.jit(jnp.stack, out_shardings=stacked)(column)


def own_layers(params: Params, others: Params) -> Params:
    """Copies the arrays of the layers that `params` shares with `others`."""
    shared = {id(leaf) for leaf in jax.tree.leaves(others["layers"])}
    return params | {"layers": jax.tree.map(lambda leaf: leaf.copy() if id(leaf) in shared else leaf, params["layers"])}


class Weights:
    """Weights in one layout at a time: unstacked for decoding, stacked for training, which scans the layers.

    A conversion goes array by array and frees the first layout, so that the weights are never in memory twice. What was
    returned before must not be used after a conversion.

    Args:
        params: parameters of a model, in either layout.
        donate: `params` may be freed. If not, they stay, and the other layout is a copy, freed on the way back.
        placed: `params` were made for this object, but may share memory with arrays that others use: they are dropped
            instead of freed.
    """

    def __init__(self, params: Params, donate: bool = False, placed: bool = False):
        self._given = None if donate or placed else params
        self._may_free = donate
        self.current = params

    def unstacked(self) -> Params:
        """Returns the weights with a tuple of layers."""
        return self._converted(False)

    def stacked(self) -> Params:
        """Returns the weights with layers stacked in one tree."""
        return self._converted(True)

    def _converted(self, stacked: bool) -> Params:
        if is_stacked(self.current) == stacked:
            return self.current
        if self._given is not None and is_stacked(self._given) == stacked:
            for leaf in jax.tree.leaves(self.current["layers"]):
                leaf.delete()
            self.current, self._may_free = self._given, False
        else:
            convert = stack_layers if stacked else unstack_layers
            self.current, self._may_free = convert(self.current, donate=self._may_free), True
        return self.current
