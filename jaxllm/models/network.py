"""Functions of a model: `init_params`, `forward`, `prefill`, `compute_logits`, and an empty KV cache.

Parameters are a nested dict of arrays. `params["layers"]` is either one tree of `[L, ...]` arrays, run by a scan
(training: compile time does not grow with depth), or a tuple of L trees, unrolled (decoding: measured 1.4x faster,
since no step slices the stack). `stack_layers` and `unstack_layers` convert between them; an adapter may have
either layout.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
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
from jaxllm.models.layers import LayerContext, Remat, RunOptions
from jaxllm.models.params import Params, is_stacked, unstack_layers
from jaxllm.models.rope import no_rotation, rotation
from jaxllm.models.spec import ModelSpec, Rope
from jaxllm.ops.unembedding import Unembedding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """Result of `forward`.

    Attributes:
        hidden: `[B, T, D]`, input of the unembedding, in the compute dtype. `compute_logits` turns it into logits;
            losses in `ops` take it as it is and never hold `[B, T, V]`.
        cache: the KV cache with this call's tokens written to it; None without one.
    """

    hidden: jax.Array
    cache: Cache | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """Keys and values of a prefix shared by many texts, computed once.

    Attributes:
        layers: per layer keys and values, each `[KV, P, head_dim]`.
        length: scalar int32, number of tokens; later entries are undefined.
    """

    layers: tuple[KeysValues, ...]
    length: jax.Array


def _initialize(spec: ModelSpec, dtype: jnp.dtype, key: jax.Array):
    """Returns Linen's variables, boxed with the logical names of their axes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    run = RunOptions(param_dtype=dtype, attention="xla")
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


def _context(spec: ModelSpec, positions: jax.Array, mask: AttentionMask,
             kv_update: CacheWrite | SharedPrefix | None = None, dropout_keys: jax.Array | None = None) -> LayerContext:
    """Returns the inputs that all layers share."""
    def angles(rope: Rope | None):
        if rope is None:
            return no_rotation(spec.rope.rotated(spec.head_dim), positions)
        return rotation(rope, spec.head_dim, positions, mask.query_segments)

    rotations = None
    if spec.rope is not None:
        by_type = [angles(layer_type.rope) for layer_type in spec.distinct_layer_types]
        rotations = tuple(jnp.stack(leaves) for leaves in zip(*by_type, strict=True))
    return LayerContext(mask, rotations, kv_update=kv_update, dropout_keys=dropout_keys)


def init_params(spec: ModelSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Params:
    """Draws random parameters with stacked layers.

    Matrices have standard deviation `fan_in ** -0.5`; the embedding 1, or `D ** -0.5` where it is also the unembedding.
    Call it under `jax.jit` with `out_shardings` to create a large model in place.
    """
    return nn.unbox(_initialize(spec, jnp.dtype(dtype), key))


def logical_axes(spec: ModelSpec) -> Params:
    """Returns the tree of `init_params` with a tuple of logical axis names as every leaf.

    Names are `layers`, `vocab`, `embed`, `heads`, `kv`, `mlp` or None.
    """
    shapes = jax.eval_shape(lambda: _initialize(spec, jnp.dtype(jnp.float32), jax.random.key(0)))
    boxed = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    return jax.tree.map(lambda leaf: tuple(leaf.names), shapes, is_leaf=boxed)


def segment_positions(segments: jax.Array) -> jax.Array:
    """Returns the index of every token within its run of equal `segments` `[B, T]`; int32, starting at 0."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return index - lax.cummax(jnp.where(starts, index, 0), axis=1)


def forward(spec: ModelSpec, params: Params, tokens: jax.Array, *, positions: jax.Array | None = None,
            segments: jax.Array | None = None, lengths: jax.Array | None = None, branches: jax.Array | None = None,
            types: jax.Array | None = None, cache: Cache | None = None, adapter: Adapter | None = None,
            dtype: jnp.dtype = jnp.float32, remat: Remat = "none", attention: AttentionKernel | None = None,
            dropout_keys: jax.Array | None = None) -> Output:
    """Runs the network.

    Args:
        spec: architecture.
        params: from `init_params` or a checkpoint. Layers stacked (scan) or a tuple (unrolled).
        tokens: `[B, T]` int32.
        positions: `[B, T]` int32; by default the index within the segment. With a cache they follow from it.
        segments: `[B, T]` int32, 0 for padding. A token sees tokens of its own segment (in a decoder: earlier ones), so
            one argument serves left padding, right padding and packing. All ones by default.
        lengths: `[B]` int32, in place of `segments`: every row is one text of that many tokens, then padding. The same
            result; flash attention on GPU then needs no dense mask.
        branches: `[B, T]` int32, of a decoder: several continuations of one prefix in one segment. The prefix is branch
            0 and comes first, continuation k is branch k. A token sees branch 0 and its own branch. `positions` is
            required then: every continuation starts at the length of the prefix.
        types: `[B, T]` int32, of an encoder: 0 in the first text, 1 in the second of a pair. Zeros by default.
        cache: keys and values of earlier tokens, which these continue; needs unstacked layers. Padding follows a row's
            tokens then and is not stored.
        adapter: low-rank change of the linear layers, stacked or unstacked independently of `params`; None runs the
            base weights.
        dtype: dtype of activations and matrix products. Norms, softmax and logits are float32 regardless.
        remat: recomputation in the backward pass: nothing, every block (`full`), or all but the matrix products
            (`dots`).
        attention: attention kernel; by default the fastest that supports these arguments.
        dropout_keys: `[B]` typed keys, one per row: dropout at rate `adapter.dropout` on the adapter's inputs. A row's
            masks depend on its key, the layer and the projection only. None, as in evaluation, drops nothing.

    Returns:
        Hidden states and the new cache.

    Raises:
        ValueError: a cache with stacked layers, with positions, with branches, or in an encoder; branches without
            positions, in an encoder, or where rotary positions depend on the length of the text; segments with lengths.
    """
    chex.assert_rank(tokens, 2)
    chex.assert_type(tokens, int)
    chex.assert_equal_shape([tokens, *(one for one in (positions, segments, branches, types) if one is not None)])
    if lengths is not None:
        chex.assert_shape(lengths, tokens.shape[:1])
    if spec.encoder is not None and spec.encoder.convolution is not None:
        params = unstack_layers(params)  # the convolution follows the first layer
    if segments is not None and lengths is not None:
        raise ValueError("give segments or lengths, not both")
    if branches is not None:
        _check_branches(spec, positions, cache)
    unrolled, causal = not is_stacked(params), spec.encoder is None
    if segments is None:
        # Without both every row is full, which is right-padded by zero tokens.
        lengths = jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32) if lengths is None else lengths
        segments = (jnp.arange(tokens.shape[1]) < lengths[:, None]).astype(jnp.int32)
    if adapter is None or adapter.dropout == 0:
        dropout_keys = None
    if cache is None:
        positions = segment_positions(segments) if positions is None else positions
        mask = (self_attention_mask(segments, causal, lengths) if branches is None else
                _branch_mask(segments, positions, branches))
        context, kv = _context(spec, positions, mask, dropout_keys=dropout_keys), None
    else:
        if not unrolled or positions is not None:
            raise ValueError("decoding with a cache needs unstack_layers(params), and positions follow from it")
        slots = cache.slots
        positions = cache.lengths[:, None] + jnp.cumsum(segments > 0, axis=1, dtype=jnp.int32) - 1
        # Slots after a row's last token are later positions, so the causal mask hides what is left in them.
        mask = AttentionMask(segments, jnp.ones((len(tokens), slots), jnp.int32), positions,
                             jnp.arange(slots, dtype=jnp.int32)[None])
        targets = jnp.where(segments > 0, positions, slots + jnp.arange(tokens.shape[1], dtype=jnp.int32))
        context, kv = _context(spec, positions, mask, CacheWrite(targets), dropout_keys), cache.layers
    run = _run_options(adapter, attention=attention, remat=remat, unrolled=unrolled)
    variables = _variables(params, adapter)
    if spec.encoder is not None:
        if cache is not None:
            raise ValueError("an encoder attends in both directions and has no KV cache")
        types = jnp.zeros_like(tokens) if types is None else types
        return Output(Encoder(spec, run, jnp.dtype(dtype)).apply(variables, tokens, positions, types, context), None)
    hidden, kv = Decoder(spec, run, jnp.dtype(dtype)).apply(variables, tokens, positions, context, kv)
    if cache is None:
        return Output(hidden, None)
    return Output(hidden, Cache(kv, cache.lengths + (segments > 0).sum(1, dtype=jnp.int32)))


def _check_branches(spec: ModelSpec, positions: jax.Array | None, cache: Cache | None) -> None:
    """Raises a `ValueError` where `branches` have no meaning."""
    if positions is None or cache is not None:
        raise ValueError("branches need positions, and cannot be combined with a cache")
    if spec.encoder is not None:
        raise ValueError("an encoder cannot use branches: tokens of the prefix would see the continuations")
    if spec.rope_depends_on_length:
        raise ValueError("branches share the keys of their prefix, which in this network depend on the whole length")


def _branch_mask(segments: jax.Array, positions: jax.Array, branches: jax.Array) -> AttentionMask:
    """Returns the mask of rows `[B, T]` with several continuations of a prefix, which are ordered by position."""
    return AttentionMask(segments, segments, positions, positions, (branches, branches), ordered=True)


def _run_options(adapter: Adapter | None, **options) -> RunOptions:
    if adapter is None:
        return RunOptions(**options)
    return RunOptions(adapter_scale=adapter.scale, adapter_dropout=adapter.dropout, **options)


def prefill(spec: ModelSpec, params: Params, tokens: jax.Array, positions: jax.Array, segments: jax.Array, *,
            branches: jax.Array | None = None, prefix: Prefix | None = None, adapter: Adapter | None = None,
            dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, tuple[KeysValues, ...]]:
    """Runs packed texts, several to a row, through the decoder; returns hidden states, keys and values.

    Args:
        spec, params: a decoder; layers unstacked.
        tokens, positions, segments: `[B, T]` int32; segments separate the texts, 0 is padding.
        branches: `[B, T]` int32; see `forward`.
        prefix: keys and values of a prefix of all texts; their positions then start at `prefix.length`.
        adapter: low-rank change of the linear layers, in either layout.
        dtype: dtype of activations.

    Returns:
        Hidden states `[B, T, D]`, and per layer the keys and values of these tokens, `[B, KV, T, head_dim]`.
    """
    if prefix is None:
        # Within a text index and position differ by a constant, and flash kernels order tokens by index.
        mask = self_attention_mask(segments) if branches is None else _branch_mask(segments, positions, branches)
        kv: Any = (None,) * spec.layers
    else:
        slots = prefix.layers[0][0].shape[1]
        prefix_segments = jnp.where(jnp.arange(slots) < prefix.length, -1, 0)
        join = lambda first, rest: jnp.concatenate([jnp.broadcast_to(first, (len(tokens), slots)), rest], 1)
        both_branches = None if branches is None else (branches, join(jnp.int32(0), branches))
        mask = AttentionMask(segments, join(prefix_segments, segments), positions,
                             join(jnp.arange(slots, dtype=jnp.int32), positions), both_branches, ordered=True)
        kv = prefix.layers
    context = _context(spec, positions, mask, SharedPrefix())
    decoder = Decoder(spec, _run_options(adapter, unrolled=True), jnp.dtype(dtype))
    return decoder.apply(_variables(params, adapter), tokens, positions, context, kv)


def _variables(params: Params, adapter: Adapter | None) -> dict[str, Params]:
    """Returns the variables of the Linen modules; the adapter gets the layout of `params`."""
    if adapter is None:
        return {"params": _linen_layers(params)}
    return {"params": _linen_layers(params), "adapter": _linen_layers(match_layout(adapter, params).params)}


def _linen_layers(tree: Params) -> Params:
    """Renames unrolled layers to the names that Linen gives to separate modules."""
    if is_stacked(tree):
        return tree
    rest = {name: value for name, value in tree.items() if name != "layers"}
    return rest | {f"layers_{i}": layer for i, layer in enumerate(tree["layers"])}


def unembedding(spec: ModelSpec, params: Params) -> Unembedding:
    """Returns the unembedding of a language model, as `ops` takes it."""
    table = params["embed"] if spec.tied else params["head"]
    return Unembedding(table, params["head_bias"] if spec.head_bias else None, spec.logit_softcap)


def compute_logits(spec: ModelSpec, params: Params, hidden: jax.Array) -> jax.Array:
    """Computes `[..., V]` float32 logits of `hidden` `[..., D]`. For a few positions at a time; see `ops`."""
    return unembedding(spec, params).logits(hidden)


def init_cache(spec: ModelSpec, batch: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """Returns an empty KV cache of `slots` tokens for each of `batch` rows.

    Under `jax.jit(..., out_shardings=cache_sharding(spec, mesh))` it is created in place on a mesh.
    """
    empty = lambda *shape: jnp.zeros((batch, spec.kv_heads, *shape), dtype)
    layers = tuple((empty(spec.head_dim, slots), empty(slots, spec.head_dim)) for _ in range(spec.layers))
    return Cache(layers, jnp.zeros(batch, jnp.int32))


def cache_axes(spec: ModelSpec) -> Cache:
    """Returns the logical axis names of every array of a KV cache, as a `Cache` of tuples."""
    keys, values = ("batch", "kv", None, "length"), ("batch", "kv", "length", None)
    return Cache(((keys, values),) * spec.layers, ("batch",))
