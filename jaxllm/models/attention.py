"""Grouped-query attention by the kernel that suits the device; attention masks; the KV cache."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models import splash

AttentionKernel = Literal["xla", "cudnn", "splash"]
KeysValues = tuple[jax.Array, jax.Array]

# Below any score a network can produce, and finite: a query without visible keys (padding) gets a harmless average
# instead of NaN.
MASKED = -1e30
# Queries of a causal text are computed in blocks of at least this many, at most this many blocks: each block multiplies
# only the keys up to its end. A training step of SmolLM2-135M on rows of 1,024 tokens takes 0.63 to 0.74 of the time on
# two CPU cores.
_QUERY_BLOCK, _QUERY_BLOCKS = 256, 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """KV cache: token i of a row is in slot i.

    Attributes:
        layers: per layer `(keys, values)`, `[B, KV, head_dim, S]` and `[B, KV, S, head_dim]`: the layouts that the
            products of a decoding step need (on CPU 17 times faster than transposing in every step). A tuple of layers
            rather than one stacked array: every step then updates its buffers in place.
        lengths: `[B]` int32, number of tokens of every row; later entries are undefined.
    """

    layers: tuple[KeysValues, ...]
    lengths: jax.Array

    @property
    def slots(self) -> int:
        """Capacity of a row in tokens, S."""
        return self.layers[0][1].shape[2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """Segment ids, positions and branch ids from which the boolean mask `[B, T, S]` is derived.

    A query sees keys of its own segment, and in a decoder no later ones.

    Attributes:
        query_segments: `[B, T]` int32, 0 for padding.
        key_segments: `[B, S]` int32, 0 for padding; keys of segment -1 are visible to every segment.
        query_positions, key_positions: `[B or 1, T]` and `[B or 1, S]` int32, on one scale.
        branches: `[B, T]` of the queries and `[B, S]` of the keys, where several continuations share a prefix: keys of
            branch 0 are visible to all branches, others only to their own. None without branches.
        lengths: `[B]` int32, set where every row is one text of that many tokens with padding only on the right: flash
            kernels then need no dense mask. None for other rows (packed, padded on the left).
        causal: whether later keys are hidden.
        self_attention: queries and keys are the same tokens in the same order, and there are no branches.
        ordered: the queries are the last T of the S keys, and none sees a key after itself in the row.
    """

    query_segments: jax.Array
    key_segments: jax.Array
    query_positions: jax.Array
    key_positions: jax.Array
    branches: tuple[jax.Array, jax.Array] | None = None
    lengths: jax.Array | None = None
    causal: bool = dataclasses.field(default=True, metadata={"static": True})
    self_attention: bool = dataclasses.field(default=False, metadata={"static": True})
    ordered: bool = dataclasses.field(default=False, metadata={"static": True})

    def mask(self, window: int | None = None) -> jax.Array:
        """Returns the mask `[B, T, S]`, True where a key is visible.

        Args:
            window: keys are visible only at a distance of less than `window` positions.
        """
        queries, keys = self.query_segments[:, :, None], self.key_segments[:, None, :]
        mask = ((queries == keys) | (keys < 0)) & (keys != 0) & (queries != 0)
        distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
        if self.causal:
            mask &= distance >= 0
        if self.branches is not None:
            query_branches, key_branches = self.branches[0][:, :, None], self.branches[1][:, None, :]
            mask &= (key_branches == 0) | (query_branches == key_branches)
        return mask if window is None else mask & (jnp.abs(distance) < window)

    def part(self, queries: slice, keys: slice) -> AttentionMask:
        """Returns the mask of some of the queries and some of the keys."""
        branches = None if self.branches is None else (self.branches[0][:, queries], self.branches[1][:, keys])
        return AttentionMask(self.query_segments[:, queries], self.key_segments[:, keys],
                             self.query_positions[:, queries], self.key_positions[:, keys], branches,
                             causal=self.causal)


def self_attention_mask(segments: jax.Array, causal: bool = True, lengths: jax.Array | None = None) -> AttentionMask:
    """Returns the mask of texts that attend to themselves; padding is before, after or between texts, never inside.

    Args:
        segments: `[B, T]` int32, 0 for padding.
        causal: whether later keys are hidden.
        lengths: `[B]` int32 where every row is one text with padding only on the right; see `AttentionMask`.
    """
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    return AttentionMask(segments, segments, index, index, lengths=lengths, causal=causal, self_attention=True,
                         ordered=causal)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CacheWrite:
    """Writes new keys and values into the slots of a KV cache and attends to all slots.

    Attributes:
        slots: `[B, T]` int32, the slot of every token; S or more for tokens that are not stored.
    """

    slots: jax.Array

    def extend(self, layer: KeysValues, keys: jax.Array, values: jax.Array) -> tuple[KeysValues, KeysValues]:
        """Returns the keys and values to attend to, and those to store, from a layer's cache and the new
        `[B, KV, T, head_dim]`."""
        write = self._write_one if keys.shape[2] == 1 else self._write_many
        keys, values = write(layer[0], keys.swapaxes(2, 3), 3), write(layer[1], values, 2)
        return (keys.swapaxes(2, 3), values), (keys, values)

    def _write_many(self, buffer: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        rows = jnp.arange(len(self.slots))[:, None]
        index = (rows, slice(None), self.slots) if axis == 2 else (rows, slice(None), slice(None), self.slots)
        return buffer.at[index].set(jnp.moveaxis(new.astype(buffer.dtype), axis, 1), mode="drop", unique_indices=True,
                                    indices_are_sorted=True)

    def _write_one(self, buffer: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        """Writes one token per row; on CPU in half the time of `_write_many`."""
        def write(row: jax.Array, token: jax.Array, slot: jax.Array) -> jax.Array:
            old = lax.dynamic_slice_in_dim(row, slot, 1, axis - 1)
            return lax.dynamic_update_slice_in_dim(row, jnp.where(slot < row.shape[axis - 1], token, old), slot,
                                                   axis - 1)

        return jax.vmap(write)(buffer, new.astype(buffer.dtype), self.slots[:, 0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SharedPrefix:
    """Attends to the keys and values of a shared prefix, and stores those of the new tokens only."""

    def extend(self, layer: KeysValues | None, keys: jax.Array, values: jax.Array) -> tuple[KeysValues, KeysValues]:
        """Extends a layer as `CacheWrite.extend`; its buffers are `[KV, P, head_dim]`, or None without a prefix."""
        if layer is None:
            return (keys, values), (keys, values)
        prefix = [jnp.broadcast_to(part.astype(keys.dtype), (len(keys), *part.shape)) for part in layer]
        joined = (jnp.concatenate([prefix[0], keys], 2), jnp.concatenate([prefix[1], values], 2))
        return joined, (keys, values)


def by_head(x: jax.Array) -> jax.Array:
    """Transposes `[B, T, heads, head_dim]` to `[B, heads, T, head_dim]`, and back."""
    return x.transpose(0, 2, 1, 3)


def pick_kernel(queries: jax.Array, keys: jax.Array, softcap: float | None, platform: str | None = None,
                self_attention: bool = True) -> AttentionKernel:
    """Returns the fastest kernel that supports these shapes on this platform.

    Flash attention (2205.14135) never holds the scores `[B, H, T, S]`. Decoding steps stay with `xla`: the scores of
    one query are small.

    Args:
        queries, keys, softcap: see `attend`.
        platform: `cpu`, `gpu` or `tpu`; that of the default backend if None.
        self_attention: see `AttentionMask`.
    """
    platform = platform or jax.default_backend()
    _, length, _, head_dim = queries.shape
    self_attention &= length == keys.shape[2]
    if platform == "tpu" and self_attention and length % splash.BLOCK == 0 and head_dim % splash.HEAD_DIMS == 0:
        return "splash" if splash.is_available() else "xla"
    short = queries.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "gpu" and short and self_attention and length % 2 == 0 and head_dim % 8 == 0 and head_dim <= 128:
        return "xla" if softcap is not None else "cudnn"
    return "xla"


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, mask: AttentionMask, *, window: int | None = None,
           scale: float | None = None, softcap: float | None = None,
           kernel: AttentionKernel | None = None) -> jax.Array:
    """Computes scaled dot-product attention (Vaswani et al., 1706.03762), grouped as in 2305.13245.

    Args:
        queries: `[B, T, H, head_dim]`.
        keys, values: `[B, KV, S, head_dim]`; query head h reads key head `h // (H / KV)`.
        mask: the attention mask.
        window: number of positions that a query sees, its own included; None sees all.
        scale: factor of the scores, `head_dim ** -0.5` by default.
        softcap: scores pass `softcap * tanh(score / softcap)`.
        kernel: by default that of `pick_kernel`. All kernels agree where a query sees any key; the output at padding
            has no meaning and differs.

    Returns:
        `[B, T, H * head_dim]` in the dtype of `queries`; scores and softmax are float32.
    """
    chex.assert_rank([queries, keys, values], 4)
    chex.assert_equal_shape([keys, values])
    chex.assert_axis_dimension(keys, -1, queries.shape[-1])
    batch, length, heads, head_dim = queries.shape
    scale = head_dim**-0.5 if scale is None else scale
    keys, values = keys.astype(queries.dtype), values.astype(queries.dtype)
    kernel = pick_kernel(queries, keys, softcap, self_attention=mask.self_attention) if kernel is None else kernel
    if kernel == "splash":
        mixed = splash.attend(queries * jnp.asarray(scale, queries.dtype), by_head(keys), by_head(values),
                              mask.query_segments, mask.causal, window, softcap)
    elif kernel == "cudnn":
        mixed = jax.nn.dot_product_attention(queries, by_head(keys), by_head(values), scale=scale,
                                             implementation="cudnn", **cudnn_arguments(mask, window))
    else:
        mixed = jnp.concatenate([
            _plain(queries[:, rows], keys[:, :, seen], values[:, :, seen], mask.part(rows, seen).mask(window)[:, None],
                   None, scale, softcap)
            for rows, seen in _blocks(mask, length, keys.shape[2], window)], axis=1)
    return mixed.reshape(batch, length, heads * head_dim)


def _blocks(mask: AttentionMask, length: int, slots: int, window: int | None) -> list[tuple[slice, slice]]:
    """Splits `length` queries into blocks; returns each with the range of the `slots` keys that hold all it sees."""
    if not mask.ordered:
        return [(slice(None), slice(None))]
    size, before, blocks = max(_QUERY_BLOCK, -(-length // _QUERY_BLOCKS)), slots - length, []
    for start in range(0, length, size):
        end = min(start + size, length)
        # Positions of branches are not places in the row.
        first = 0 if window is None or not mask.self_attention else max(0, start - window + 1)
        blocks.append((slice(start, end), slice(first, before + end)))
    return blocks


def cudnn_arguments(mask: AttentionMask, window: int | None) -> dict[str, Any]:
    """Returns the arguments of `jax.nn.dot_product_attention` that describe `mask` and `window`.

    Rows with known lengths are described by causality, window and lengths. Other rows need a dense mask, which costs
    `[B, 1, T, S]` memory and computes the masked half of the scores.
    """
    # cuDNN has a window only to the left.
    if mask.lengths is None or not mask.self_attention or window is not None and not mask.causal:
        return {"mask": mask.mask(window)[:, None]}
    lengths = jnp.maximum(mask.lengths.astype(jnp.int32), 1)  # a row without tokens attends to its first padding
    arguments = {"is_causal": mask.causal, "query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
    return arguments if window is None else arguments | {"local_window_size": (window - 1, 0)}


def attend_biased(queries: jax.Array, keys: jax.Array, values: jax.Array, mask: AttentionMask, bias: jax.Array,
                  scale: float) -> jax.Array:
    """Attends as `attend`, with `bias` `[B, H, T, S]` added to the scaled scores; always by XLA."""
    mixed = _plain(queries, keys, values, mask.mask()[:, None], bias, scale, None)
    return mixed.reshape(*queries.shape[:2], -1)


def _plain(queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, bias: jax.Array | None,
           scale: float, softcap: float | None) -> jax.Array:
    """Computes attention by batched products, `[B, T, H, head_dim]`; `mask` is `[B, 1, T, S]`."""
    batch, length, heads, head_dim = queries.shape
    kv_heads, slots = keys.shape[1:3]
    group = heads // kv_heads
    precision = lax.Precision.HIGHEST if queries.dtype == jnp.float32 else None
    # Heads before positions: the layout of plain batched products, for which every backend has a fast kernel. Batch
    # and heads stay two axes, since each may be sharded.
    both = ((0, 1), (0, 1))
    grouped = queries.reshape(batch, length, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, kv_heads, group * length, head_dim)
    scores = lax.dot_general(grouped, keys, (((3,), (3,)), both), precision=precision,
                             preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = scores.reshape(batch, heads, length, slots)
    if bias is not None:
        scores += bias
    if length == 1:
        # Added rather than selected; the sum is MASKED as well. XLA on CPU fuses products with sums, not with selects:
        # a decoding step takes half as long. For longer texts the sum would cost a second array of scores.
        scores += jnp.where(mask, 0.0, MASKED)
    else:
        scores = jnp.where(mask, scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(queries.dtype).reshape(batch, kv_heads, group * length, slots)
    mixed = lax.dot_general(weights, values, (((3,), (2,)), both), precision=precision)
    mixed = mixed.reshape(batch, kv_heads, group, length, head_dim).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, length, heads, head_dim)
