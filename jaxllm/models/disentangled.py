"""Disentangled attention: separate scores from contents and relative positions (DeBERTa, 2006.03654)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.models.spec import Relative


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Distances:
    """Embeddings of relative positions.

    Attributes:
        table: `[2 span, D]`.
        index: `[T, T]` int32, the row of `table` for query t and key s.
    """

    table: jax.Array
    index: jax.Array


def distance_index(relative: Relative, length: int) -> np.ndarray:
    """Rows of the table for every query and key of a text, `[length, length]` int32.

    Distances t - s are taken as they are up to half the buckets, and beyond that in buckets that widen as the
    logarithm. Float32 throughout, as in torch: where a bucket begins is a matter of rounding.
    """
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    if relative.buckets is not None:
        middle = relative.buckets // 2
        far = np.maximum(np.abs(distance), middle).astype(np.float32)
        steps = np.log(far / np.float32(middle)) / np.log(np.float32((relative.distance - 1) / middle))
        wide = np.ceil(steps * np.float32(middle - 1)).astype(np.int64) + middle
        distance = np.where(np.abs(distance) <= middle, distance, np.sign(distance) * wide)
    return np.clip(distance + relative.span, 0, 2 * relative.span - 1).astype(np.int32)


def distance_bias(queries: jax.Array, keys: jax.Array, query_distances: jax.Array, key_distances: jax.Array,
                  index: jax.Array, relative: Relative) -> tuple[jax.Array, float]:
    """Computes the bias of relative positions on the scaled scores, and the scale of all of them.

    Args:
        queries, keys: `[B, T, H, head_dim]`.
        query_distances, key_distances: `[2 span, H, head_dim]`, the projected table.
        index: from `distance_index`.
        relative: which of the two terms there are.

    Returns:
        float32 `[B, H, T, T]`, and the factor of the content's own scores.
    """
    scale = (queries.shape[-1] * (1 + relative.content + relative.position)) ** -0.5
    precision = lax.Precision.HIGHEST if queries.dtype == jnp.float32 else None
    # scores for every row of the table, then the row of each pair is selected
    against = lambda x, rows: jnp.einsum("bthd,rhd->bhtr", x, rows, precision=precision,
                                         preferred_element_type=jnp.float32)
    total = jnp.zeros((), jnp.float32)
    if relative.content:  # query's content, key's position
        total += jnp.take_along_axis(against(queries, key_distances), index[None, None], -1)
    if relative.position:  # key's content, query's position
        by_key = jnp.take_along_axis(against(keys, query_distances), index.T[None, None], -1)
        total += by_key.swapaxes(-1, -2)
    return total * scale, scale
