"""Attention with grouped key-value heads, by the kernel that suits the device, and the cache that decoding keeps."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models import splash

AttentionKernel = Literal["xla", "cudnn", "splash"]

# Below any score a network can produce, and still finite: a row that may see nothing (padding) gets
# a harmless average instead of NaN.
MASKED = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens seen so far: a row's token number i lies in slot i.

    Attributes:
        layers: per layer `(keys, values)`, `[B, KV, head_dim, S]` and `[B, KV, S, head_dim]`: both as the products of a
            decoding step want them (on CPU 17 times faster than to turn them in every step). A tuple of layers, not
            one stacked array: every step then updates its buffers in place.
        lengths: `[B]` int32, tokens of every row; what lies in the slots behind them means nothing.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    lengths: jax.Array

    @property
    def slots(self) -> int:
        """Tokens that a row has room for."""
        return self.layers[0][1].shape[2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """Which keys a query may see: those of its own segment, and in a decoder none that stand later.

    Attributes:
        queries: `[B, T]` int32 segments, 0 for padding.
        keys: `[B, S]` int32, the same of the keys; those of segment -1 are part of every text.
        query_places, key_places: `[B or 1, T]` and `[B or 1, S]` int32, where they stand; counted alike.
        branches: of the queries, `[B, T]`, and of the keys, `[B, S]`, where texts go on in several ways: all ways of a
            text see what it begins with (branch 0), none sees another. None without.
        causal: whether later keys are hidden.
        whole: queries and keys are the same tokens in the same order, and there are no branches.
    """

    queries: jax.Array
    keys: jax.Array
    query_places: jax.Array
    key_places: jax.Array
    branches: tuple[jax.Array, jax.Array] | None = None
    causal: bool = dataclasses.field(default=True, metadata={"static": True})
    whole: bool = dataclasses.field(default=False, metadata={"static": True})

    def mask(self, window: int | None = None) -> jax.Array:
        """`[B, T, S]` bool, True where a key is visible and, with a window, fewer than `window` places earlier."""
        queries, keys = self.queries[:, :, None], self.keys[:, None, :]
        mask = ((queries == keys) | (keys < 0)) & (keys != 0) & (queries != 0)
        distance = self.query_places[:, :, None] - self.key_places[:, None, :]
        if self.causal:
            mask &= distance >= 0
        if self.branches is not None:
            ours, theirs = self.branches[0][:, :, None], self.branches[1][:, None, :]
            mask &= (theirs == 0) | (ours == theirs)
        return mask if window is None else mask & (jnp.abs(distance) < window)


def self_attention_mask(segments: jax.Array, causal: bool = True) -> AttentionMask:
    """Of texts that see themselves. Padding stands before, behind or between them, never inside."""
    places = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    return AttentionMask(segments, segments, places, places, causal=causal, whole=True)


KeysValues = tuple[jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CacheWrite:
    """Memory of rows that go on: their new keys and values are written where they belong.

    Attributes:
        places: `[B, T]` int32, the slot of every token; S or more for one that is not kept.
    """

    places: jax.Array

    def extend(self, layer: KeysValues, keys: jax.Array, values: jax.Array) -> tuple[KeysValues, KeysValues]:
        """What is attended to, and what is kept, from a layer's buffers and the new `[B, KV, T, head_dim]`."""
        place = self._place_one if keys.shape[2] == 1 else self._place_many
        keys, values = place(layer[0], keys.swapaxes(2, 3), 3), place(layer[1], values, 2)
        return (keys.swapaxes(2, 3), values), (keys, values)

    def _place_many(self, buffer: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        rows = jnp.arange(len(self.places))[:, None]
        to = (rows, slice(None), self.places) if axis == 2 else (rows, slice(None), slice(None), self.places)
        return buffer.at[to].set(jnp.moveaxis(new.astype(buffer.dtype), axis, 1), mode="drop", unique_indices=True,
                                 indices_are_sorted=True)

    def _place_one(self, buffer: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        """One token a row; on CPU in half the time."""
        def one(row: jax.Array, token: jax.Array, place: jax.Array) -> jax.Array:
            kept = jnp.where(place < row.shape[axis - 1], token, lax.dynamic_slice_in_dim(row, place, 1, axis - 1))
            return lax.dynamic_update_slice_in_dim(row, kept, place, axis - 1)

        return jax.vmap(one)(buffer, new.astype(buffer.dtype), self.places[:, 0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SharedPrefix:
    """Memory of texts that begin alike: what stands before them is attended to, and their own part is kept."""

    def extend(self, layer: KeysValues | None, keys: jax.Array, values: jax.Array) -> tuple[KeysValues, KeysValues]:
        """As `Slots.extend`; the layer's buffers are `[KV, P, head_dim]`, None where texts begin with nothing."""
        if layer is None:
            return (keys, values), (keys, values)
        before = [jnp.broadcast_to(part.astype(keys.dtype), (len(keys), *part.shape)) for part in layer]
        joined = (jnp.concatenate([before[0], keys], 2), jnp.concatenate([before[1], values], 2))
        return joined, (keys, values)


def by_head(x: jax.Array) -> jax.Array:
    """`[B, T, heads, head_dim]` as `[B, heads, T, head_dim]`, and back."""
    return x.transpose(0, 2, 1, 3)


def pick_path(queries: jax.Array, keys: jax.Array, softcap: float | None, platform: str | None = None,
              whole: bool = True) -> AttentionKernel:
    """The fastest way that supports these shapes on this platform.

    Flash attention (2205.14135) never holds the scores `[B, H, T, S]`. Decoding steps stay with `xla`: one query has no
    scores worth saving.

    Args:
        queries, keys: as `attend` takes them.
        softcap: as `attend` takes it.
        platform: `cpu`, `gpu` or `tpu`; that of the default backend if None.
        whole: as of `Sight`.
    """
    platform = platform or jax.default_backend()
    _, length, _, head_dim = queries.shape
    whole &= length == keys.shape[2]
    if platform == "tpu" and whole and length % splash.BLOCK == 0 and head_dim % splash.HEAD_DIMS == 0:
        return "splash" if splash.can_be_shared() else "xla"
    short = queries.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "gpu" and short and whole and length % 2 == 0 and head_dim % 8 == 0 and head_dim <= 128:
        return "xla" if softcap is not None else "cudnn"
    return "xla"


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, sight: AttentionMask, *, window: int | None = None,
           scale: float | None = None, softcap: float | None = None, path: AttentionKernel | None = None) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 1706.03762), grouped as in 2305.13245.

    Args:
        queries: `[B, T, H, head_dim]`.
        keys, values: `[B, KV, S, head_dim]`; query head h reads key head `h // (H / KV)`.
        sight: what may be seen.
        window: a query sees so many tokens back, itself included; None sees all.
        scale: factor of the scores, `head_dim ** -0.5` by default.
        softcap: scores pass `softcap * tanh(score / softcap)`.
        path: the kernel; by default what `pick_path` says. All paths agree where a query sees anything; what comes
            out for padding means nothing and differs.

    Returns:
        `[B, T, H * head_dim]` in the dtype of `queries`; scores and softmax are float32.
    """
    batch, length, heads, head_dim = queries.shape
    scale = head_dim**-0.5 if scale is None else scale
    keys, values = keys.astype(queries.dtype), values.astype(queries.dtype)
    path = pick_path(queries, keys, softcap, whole=sight.whole) if path is None else path
    if path == "splash":
        mixed = splash.attend(queries * jnp.asarray(scale, queries.dtype), by_head(keys), by_head(values),
                              sight.queries, sight.causal, window, softcap)
    elif path == "cudnn":
        mixed = jax.nn.dot_product_attention(queries, by_head(keys), by_head(values), mask=sight.mask(window)[:, None],
                                             scale=scale, implementation="cudnn")
    else:
        mixed = _plain(queries, keys, values, sight.mask(window)[:, None], None, scale, softcap)
    return mixed.reshape(batch, length, heads * head_dim)


def attend_biased(queries: jax.Array, keys: jax.Array, values: jax.Array, sight: AttentionMask, bias: jax.Array,
                  scale: float) -> jax.Array:
    """As `attend`, with `bias` `[B, H, T, S]` added to the scaled scores; always by XLA."""
    mixed = _plain(queries, keys, values, sight.mask()[:, None], bias, scale, None)
    return mixed.reshape(*queries.shape[:2], -1)


def _plain(queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, bias: jax.Array | None,
           scale: float, softcap: float | None) -> jax.Array:
    """Attention by batched products, `[B, T, H, head_dim]`; `mask` is `[B, 1, T, S]`."""
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
        # Added, not selected; the sum is MASKED as well. XLA on CPU fuses products with sums and not with choices: a
        # decoding step takes half as long. For longer texts the sum would cost a second array of scores.
        scores += jnp.where(mask, 0.0, MASKED)
    else:
        scores = jnp.where(mask, scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(queries.dtype).reshape(batch, kv_heads, group * length, slots)
    mixed = lax.dot_general(weights, values, (((3,), (2,)), both), precision=precision)
    mixed = mixed.reshape(batch, kv_heads, group, length, head_dim).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, length, heads, head_dim)
