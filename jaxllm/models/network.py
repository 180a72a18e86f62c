"""Networks as functions: `init`, `forward`, and what goes between stacked and separate layers.

Parameters are a nested dict of arrays. `params["layers"]` is either one tree of `[L, ...]` arrays, run
by a scan (training: compile time does not grow with depth), or a tuple of L trees, unrolled (decoding:
measured 1.4x faster, since no step slices the stack). `stack` and `unstack` go between them.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models.adapters import Adapter, match_layout
from jaxllm.models.attention import (
    AttentionKernel,
    AttentionMask,
    Cache,
    CacheWrite,
    KeysValues,
    SharedPrefix,
    self_attention_mask,
)
from jaxllm.models.decoder import Decoder
from jaxllm.models.encoder import Encoder
from jaxllm.models.heads import ScoreHead
from jaxllm.models.layers import Context, Remat, Run
from jaxllm.models.params import Params, is_stacked, unstack_layers
from jaxllm.models.rope import no_rotation, rotation
from jaxllm.models.spec import ModelSpec, Rope
from jaxllm.ops.vocab import Unembedding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What `forward` returns.

    Attributes:
        hidden: `[B, T, D]`, ready for the head, in the compute dtype. `logits` turns it into scores;
            losses take it as it is and never hold `[B, T, V]`.
        cache: the cache with this call's tokens written to it, None without one.
    """

    hidden: jax.Array
    cache: Cache | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """What many texts begin with, computed once.

    Attributes:
        layers: per layer keys and values, each `[KV, P, head_dim]`.
        length: scalar int32, tokens of it; what lies behind them means nothing.
    """

    layers: tuple[KeysValues, ...]
    length: jax.Array


def _initialize(spec: ModelSpec, dtype: jnp.dtype, key: jax.Array):
    """Linen's variables, boxed with the logical names of their axes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    run = Run(param_dtype=dtype, attention="xla")
    context = _context(spec, tokens, self_attention_mask(jnp.ones_like(tokens), spec.encoder is None))
    if spec.encoder is not None:
        params = Encoder(spec, run, jnp.float32).init(key, tokens, tokens, tokens, context)["params"]
    else:
        params = Decoder(spec, run, jnp.float32).init(key, tokens, tokens, context)["params"]
    if spec.head is not None:
        features = jnp.zeros((1, spec.state_width), jnp.float32)
        key = jax.random.fold_in(key, 1)
        params |= {"score": ScoreHead(spec, run).init(key, features)["params"]}
    return params


def _context(spec: ModelSpec, positions: jax.Array, sight: AttentionMask,
             memory: CacheWrite | SharedPrefix | None = None) -> Context:
    """What the layers need to know."""
    def turns(rope: Rope | None):
        if rope is None:
            return no_rotation(spec.rope.rotated(spec.head_dim), positions)
        return rotation(rope, spec.head_dim, positions, sight.queries)

    if spec.rope is None:
        return Context(sight, None, memory=memory)
    found = [turns(kind.rope) for kind in spec.different_kinds]
    return Context(sight, tuple(jnp.stack(leaves) for leaves in zip(*found, strict=True)), memory=memory)


def init_params(spec: ModelSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Params:
    """Random parameters with stacked layers.

    Matrices have standard deviation `fan_in ** -0.5`; the embedding 1, or `D ** -0.5` where it is also
    the head. Call it under `jax.jit` with `out_shardings` to create a large model in place.
    """
    return nn.unbox(_initialize(spec, jnp.dtype(dtype), key))


def logical_axes(spec: ModelSpec) -> Params:
    """The tree of `init`, each leaf a tuple with the logical name of every axis of that parameter.

    Names are `layers`, `vocab`, `embed`, `heads`, `kv`, `mlp` or None.
    """
    shapes = jax.eval_shape(lambda: _initialize(spec, jnp.dtype(jnp.float32), jax.random.key(0)))
    boxed = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    return jax.tree.map(lambda leaf: tuple(leaf.names), shapes, is_leaf=boxed)


def segment_positions(segments: jax.Array) -> jax.Array:
    """Index of every token within its run of equal `segments` `[B, T]`; int32, starting at 0."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return index - lax.cummax(jnp.where(starts, index, 0), axis=1)


def forward(spec: ModelSpec, params: Params, tokens: jax.Array, *, positions: jax.Array | None = None,
            segments: jax.Array | None = None, branches: jax.Array | None = None, types: jax.Array | None = None,
            cache: Cache | None = None, adapter: Adapter | None = None, dtype: jnp.dtype = jnp.float32,
            remat: Remat = "none", attention: AttentionKernel | None = None) -> Output:
    """Runs the network.

    Args:
        spec: the network's description.
        params: from `init_params` or a checkpoint. Layers stacked (scan) or a tuple (unrolled).
        tokens: `[B, T]` int32.
        positions: `[B, T]` int32; by default the index within the segment. With a cache they follow from it.
        segments: `[B, T]` int32, 0 for padding. A token sees tokens of its own segment (in a decoder: earlier
            ones), so one argument serves left padding, right padding and packing. All ones by default.
        branches: `[B, T]` int32, of a decoder: several continuations of one prefix in one segment. The prefix is branch
            0, continuation k is branch k. A token sees branch 0 and its own branch. `positions` is required then: every
            continuation starts at the length of the prefix.
        types: `[B, T]` int32, of an encoder: 0 in the first text, 1 in the second of a pair. Zeros by default.
        cache: keys and values of earlier tokens, which these go on from; needs unstacked layers. Padding stands behind
            a row's tokens then, and is not kept.
        adapter: low-rank change of the linear layers, stacked or unstacked whatever the layout of `params`; None runs
            the base weights.
        dtype: of activations and matrix products. Norms, softmax and logits are float32 regardless.
        remat: what the backward pass recomputes: nothing, every block (`full`), or all but the
            matrix products (`dots`).
        attention: the kernel; by default the fastest that supports what is asked for.

    Returns:
        Hidden states and the new cache.

    Raises:
        ValueError: a cache with stacked layers, with positions, with branches, or in an encoder; branches without
            positions, in an encoder, or where rotary positions depend on the length of the text.
    """
    if spec.encoder is not None and spec.encoder.convolution is not None:
        params = unstack_layers(params)  # the first layer is not like the others
    unrolled = not is_stacked(params)
    if segments is None:
        segments = jnp.ones_like(tokens)
    if branches is not None:
        _check_branches(spec, positions, cache)
    if cache is None:
        positions = segment_positions(segments) if positions is None else positions
        sight = _row_mask(segments, positions, branches, spec.encoder is None)
        context, buffers = _context(spec, positions, sight), None
    else:
        if not unrolled or positions is not None:
            raise ValueError("decoding with a cache needs unstack(params), and positions follow from it")
        slots = cache.slots
        positions = cache.lengths[:, None] + jnp.cumsum(segments > 0, axis=1, dtype=jnp.int32) - 1
        # A slot behind a row's last token is a later place, so nobody sees what is left in it.
        sight = AttentionMask(segments, jnp.ones((len(tokens), slots), jnp.int32), positions,
                      jnp.arange(slots, dtype=jnp.int32)[None])
        kept = jnp.where(segments > 0, positions, slots + jnp.arange(tokens.shape[1], dtype=jnp.int32))
        context, buffers = _context(spec, positions, sight, CacheWrite(kept)), cache.layers
    run = Run(adapter_scale=1.0 if adapter is None else adapter.scale, attention=attention, remat=remat,
              unrolled=unrolled)
    variables = _variables(params, adapter)
    if spec.encoder is not None:
        if cache is not None:
            raise ValueError("an encoder reads a whole text at once and keeps no cache")
        types = jnp.zeros_like(tokens) if types is None else types
        return Output(Encoder(spec, run, jnp.dtype(dtype)).apply(variables, tokens, positions, types, context), None)
    hidden, buffers = Decoder(spec, run, jnp.dtype(dtype)).apply(variables, tokens, positions, context, buffers)
    if cache is None:
        return Output(hidden, None)
    return Output(hidden, Cache(buffers, cache.lengths + (segments > 0).sum(1, dtype=jnp.int32)))


def _check_branches(spec: ModelSpec, positions: jax.Array | None, cache: Cache | None) -> None:
    """Raises a `ValueError` where `branches` have no meaning."""
    if positions is None or cache is not None:
        raise ValueError("branches need positions, and cannot be combined with a cache")
    if spec.encoder is not None:
        raise ValueError("an encoder cannot read branches: a prefix would see what follows it")
    if spec.turns_by_length:
        raise ValueError("branches share the keys of their prefix, which in this network depend on the whole length")


def _row_mask(segments: jax.Array, positions: jax.Array, branches: jax.Array | None, causal: bool) -> AttentionMask:
    """Mask of rows that attend to themselves, `[B, T]` each."""
    if branches is None:  # order within the row is order within every text, and flash kernels know no other
        return self_attention_mask(segments, causal)
    return AttentionMask(segments, segments, positions, positions, (branches, branches))


def prefill(spec: ModelSpec, params: Params, tokens: jax.Array, positions: jax.Array, segments: jax.Array, *,
         branches: jax.Array | None = None, prefix: Prefix | None = None, adapter: Adapter | None = None,
         dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, tuple[KeysValues, ...]]:
    """Reads many short texts at once, several to a row, and keeps what was computed of them.

    Args:
        spec, params: a decoder; layers unstacked.
        tokens, positions, segments: `[B, T]` int32; segments tell texts apart, 0 is padding.
        branches: `[B, T]` int32; texts that begin alike may share their segment: what they have in common is branch 0,
            and each goes on in a branch of its own. None without.
        prefix: what stands before all texts, which begin at position `prefix.length` then.
        adapter: low-rank change of the linear layers.
        dtype: of activations.

    Returns:
        Hidden states `[B, T, D]`, and per layer the keys and values of these tokens, `[B, KV, T, head_dim]`.
    """
    places = positions
    if prefix is None:
        sight = _row_mask(segments, positions, branches, causal=True)
        buffers = (None,) * spec.layers
    else:
        slots = prefix.layers[0][0].shape[1]
        before = jnp.where(jnp.arange(slots) < prefix.length, -1, 0)
        join = lambda first, rest: jnp.concatenate([jnp.broadcast_to(first, (len(tokens), slots)), rest], 1)
        beside = None if branches is None else (branches, join(jnp.int32(0), branches))
        sight = AttentionMask(segments, join(before, segments), places,
                              join(jnp.arange(slots, dtype=jnp.int32), places), beside)
        buffers = prefix.layers
    run = Run(adapter_scale=1.0 if adapter is None else adapter.scale, unrolled=True)
    context = _context(spec, positions, sight, SharedPrefix())
    return Decoder(spec, run, jnp.dtype(dtype)).apply(_variables(params, adapter), tokens, positions, context, buffers)


def _variables(params: Params, adapter: Adapter | None) -> dict[str, Params]:
    """Variables for the Linen modules; the adapter gets the layout of `params`."""
    if adapter is None:
        return {"params": _linen_layers(params)}
    return {"params": _linen_layers(params), "adapter": _linen_layers(match_layout(adapter, params).params)}


def _linen_layers(tree: Params) -> Params:
    """Unrolled layers under the names that Linen gives to separate modules."""
    if not isinstance(tree["layers"], tuple):
        return tree
    rest = {name: value for name, value in tree.items() if name != "layers"}
    return rest | {f"layers_{i}": layer for i, layer in enumerate(tree["layers"])}


def unembedding(spec: ModelSpec, params: Params) -> Unembedding:
    """The matrix that turns hidden states into logits, as `ops` wants it."""
    table = params["embed"] if spec.tied else params["head"]
    return Unembedding(table, params["head_bias"] if spec.head_bias else None, spec.logit_softcap)


def compute_logits(spec: ModelSpec, params: Params, hidden: jax.Array) -> jax.Array:
    """`[..., V]` float32 scores of `hidden` `[..., D]`. For a few positions at a time; see `ops`."""
    return unembedding(spec, params).logits(hidden)


def init_cache(spec: ModelSpec, batch: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """An empty cache of `slots` positions for `batch` rows."""
    empty = lambda *shape: jnp.zeros((batch, spec.kv_heads, *shape), dtype)
    layers = tuple((empty(spec.head_dim, slots), empty(slots, spec.head_dim)) for _ in range(spec.layers))
    return Cache(layers, jnp.zeros(batch, jnp.int32))


def cache_axes(spec: ModelSpec) -> Cache:
    """Returns the logical axis names of every array of a KV cache, as a `Cache` of tuples."""
    keys, values = ("batch", "kv", None, "length"), ("batch", "kv", "length", None)
    return Cache(((keys, values),) * spec.layers, ("batch",))
