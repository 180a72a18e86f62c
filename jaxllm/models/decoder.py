"""One decoder-only transformer for every family: Linen modules behind `init` and `forward`.

The residual stream is `x`, `[B, T, D]`. A block adds attention and then a feed-forward network, each
reading a normalised copy of the stream:

    x = x + attention(norm(x));   x = x + mlp(norm(x))

Families differ in where the norms stand, in what a layer sees, and in a few factors; `ModelSpec` names them.

Parameters are a nested dict of arrays. `params["layers"]` is either one tree of `[L, ...]` arrays, run
by a scan (training: compile time does not grow with depth), or a tuple of L trees, unrolled (decoding:
measured 1.4x faster, since no step slices the stack). `stack` and `unstack` go between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models.adapters import Adapter
from jaxllm.models.attention import Cache, attend, cache_mask, causal_mask, write_cache
from jaxllm.models.rope import no_rotation, rotate, rotation
from jaxllm.models.spec import ModelSpec, Rope
from jaxllm.ops.matmul import matmul
from jaxllm.ops.vocab import Unembedding

Params = dict[str, Any]
Remat = Literal["none", "full", "dots"]

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


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


class Norm(nn.Module):
    """RMSNorm (1910.07467) or LayerNorm (1607.06450) over the last axis; statistics in float32."""

    spec: ModelSpec
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, offset = x.shape[-1:], float(self.spec.norm_offset)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.constant(1 - offset), (None,)),
                           size, self.param_dtype).astype(jnp.float32) + offset
        h = x.astype(jnp.float32)
        if self.spec.norm == "rms":
            mean_square = jnp.mean(jnp.square(h), -1, keepdims=True)
            return (h * lax.rsqrt(mean_square + self.spec.norm_eps) * scale).astype(x.dtype)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
                          size, self.param_dtype).astype(jnp.float32)
        h = h - jnp.mean(h, -1, keepdims=True)
        variance = jnp.mean(jnp.square(h), -1, keepdims=True)
        return (h * lax.rsqrt(variance + self.spec.norm_eps) * scale + bias).astype(x.dtype)


class Linear(nn.Module):
    """`x @ kernel + bias`, plus the low-rank term of an adapter that has this place.

    Attributes:
        features: size of the output.
        axes: logical names of the kernel's two axes.
        use_bias: whether a bias is added.
        adapter_scale: factor of the adapter's term.
    """

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool
    param_dtype: jnp.dtype
    adapter_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = nn.initializers.normal(x.shape[-1] ** -0.5)
        kernel = self.param("kernel", nn.with_logical_partitioning(fan_in, self.axes),
                            (x.shape[-1], self.features), self.param_dtype)
        y = matmul(x, kernel.astype(x.dtype))
        if self.use_bias:
            y += self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]),
                            (self.features,), self.param_dtype).astype(x.dtype)
        if self.has_variable("adapter", "a"):
            down = self.get_variable("adapter", "a").astype(x.dtype)
            up = self.get_variable("adapter", "b").astype(x.dtype)
            y += matmul(matmul(x, down), up) * jnp.asarray(self.adapter_scale, x.dtype)
        return y


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What a layer needs to know beside the stream: the visible keys, the rotation, the cache's write slot."""

    mask: jax.Array
    rotation: tuple[jax.Array, jax.Array] | None
    index: jax.Array | None


class Attention(nn.Module):
    """Self-attention with its four projections."""

    spec: ModelSpec
    param_dtype: jnp.dtype
    adapter_scale: float

    @nn.compact
    def __call__(self, x, context: Context, buffers=None):
        spec, (batch, length, _) = self.spec, x.shape
        rest = dict(param_dtype=self.param_dtype, adapter_scale=self.adapter_scale)

        def project(name, heads, axis):
            out = Linear(heads * spec.head_dim, ("embed", axis), spec.qkv_bias, name=name, **rest)(x)
            if spec.query_norm == "all" and name != "v":
                out = Norm(spec, self.param_dtype, name=f"{name}_norm")(out)
            out = out.reshape(batch, length, heads, spec.head_dim)
            if spec.query_norm == "head" and name != "v":
                out = Norm(spec, self.param_dtype, name=f"{name}_norm")(out)
            return out

        queries, keys, values = (project("q", spec.heads, "heads"), project("k", spec.kv_heads, "kv"),
                                 project("v", spec.kv_heads, "kv"))
        if context.rotation is not None:
            queries, keys = rotate(queries, *context.rotation), rotate(keys, *context.rotation)
        if buffers is not None:
            keys, values = buffers = write_cache(buffers, keys, values, context.index)
        mixed = attend(queries, keys, values, context.mask, spec.attention_scale, spec.attention_softcap)
        return Linear(spec.width, ("heads", "embed"), spec.out_bias, name="o", **rest)(mixed), buffers


class Mlp(nn.Module):
    """The feed-forward network, gated or plain."""

    spec: ModelSpec
    param_dtype: jnp.dtype
    adapter_scale: float

    @nn.compact
    def __call__(self, x):
        spec, act = self.spec, ACTIVATIONS[self.spec.activation]
        rest = dict(use_bias=spec.mlp_bias, param_dtype=self.param_dtype, adapter_scale=self.adapter_scale)
        up = Linear(spec.mlp_width, ("embed", "mlp"), name="up", **rest)(x)
        if spec.gated_mlp:
            up = act(Linear(spec.mlp_width, ("embed", "mlp"), name="gate", **rest)(x)) * up
        else:
            up = act(up)
        return Linear(spec.width, ("mlp", "embed"), name="down", **rest)(up)


class MixtureOfExperts(nn.Module):
    """Every token goes through the few experts that the router scores highest (2401.04088, section 2.1).

    Tokens are sorted by expert and multiplied in groups, so the work is that of the chosen experts only, and no
    token is dropped however uneven the choice.
    """

    spec: ModelSpec
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        spec, experts = self.spec, self.spec.experts
        flat = x.reshape(-1, spec.width)
        router = self._weight("router", (spec.width, experts.count), ("embed", None))
        scores = matmul(flat, router.astype(x.dtype)).astype(jnp.float32)
        shares, chosen = lax.top_k(jax.nn.softmax(scores, axis=-1), experts.chosen)
        if experts.normalised:
            shares /= shares.sum(-1, keepdims=True)

        chosen = chosen.reshape(-1)
        order = jnp.argsort(chosen)
        tokens = order // experts.chosen
        sizes = jnp.bincount(chosen, length=experts.count).astype(jnp.int32)
        precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None

        def grouped(rows, name, fan_in, fan_out, axes):
            kernel = self._weight(name, (experts.count, fan_in, fan_out), ("experts", *axes))
            return lax.ragged_dot(rows, kernel.astype(x.dtype), sizes, precision=precision)

        rows = flat[tokens]
        up = grouped(rows, "up", spec.width, spec.mlp_width, ("embed", "mlp"))
        gate = ACTIVATIONS[spec.activation](grouped(rows, "gate", spec.width, spec.mlp_width, ("embed", "mlp")))
        down = grouped(gate * up, "down", spec.mlp_width, spec.width, ("mlp", "embed"))
        weighted = down * shares.reshape(-1)[order, None].astype(x.dtype)
        return jnp.zeros_like(flat).at[tokens].add(weighted).reshape(x.shape)

    def _weight(self, name, shape, axes):
        initializer = nn.initializers.normal(shape[-2] ** -0.5)
        return self.param(name, nn.with_logical_partitioning(initializer, axes), shape, self.param_dtype)


class Block(nn.Module):
    """One layer; returns the stream and the layer's cache buffers, as a scan wants it.

    `kind` picks the layer's own context out of contexts stacked along a first axis; None takes `context` as it is.
    """

    spec: ModelSpec
    param_dtype: jnp.dtype
    adapter_scale: float

    @nn.compact
    def __call__(self, x, context: Context, kind=None, buffers=None):
        spec, shape = self.spec, (self.spec, self.param_dtype)
        if kind is not None:
            context = jax.tree.map(lambda leaf: leaf[kind], context)
        norm = lambda name: Norm(*shape, name=name)
        attention = Attention(*shape, self.adapter_scale, name="attn")
        mlp = (Mlp(*shape, self.adapter_scale, name="mlp") if spec.experts is None else
               MixtureOfExperts(*shape, name="mlp"))
        if spec.parallel is not None:
            normed = norm("attn_norm")(x)
            mixed, buffers = attention(normed, context, buffers)
            return x + mixed + mlp(normed if spec.parallel == "shared" else norm("mlp_norm")(x)), buffers

        def around(x, name, sublayer):
            """The stream after a sub-layer, with norms where this family has them."""
            out = sublayer(norm(f"{name}_norm")(x) if spec.norms in ("before", "around") else x)
            if spec.norms == "outside":
                return norm(f"{name}_after_norm")(x + out)
            if spec.norms in ("after", "around"):
                out = norm(f"{name}_after_norm")(out)
            return x + (out if spec.residual_scale == 1.0 else out * spec.residual_scale)

        def attend_and_keep(normed):
            nonlocal buffers
            mixed, buffers = attention(normed, context, buffers)
            return mixed

        x = around(x, "attn", attend_and_keep)
        return around(x, "mlp", mlp), buffers


class Decoder(nn.Module):
    """Embedding, blocks and final norm; the unembedding's table is created here, applied elsewhere."""

    spec: ModelSpec
    param_dtype: jnp.dtype = jnp.float32
    compute_dtype: jnp.dtype = jnp.float32
    adapter_scale: float = 1.0
    remat: Remat = "none"
    unrolled: bool = False

    @nn.compact
    def __call__(self, tokens, positions, contexts: tuple[Context, ...], buffers=None):
        spec = self.spec
        width = spec.embed_width or spec.width
        # A tied table is also the head: its rows then need the small scale of a fan-in matrix.
        x = self._table("embed", (spec.vocab_size, width), width**-0.5 if spec.tied else 1.0)[tokens]
        x = x.astype(self.compute_dtype)
        if spec.embed_scale != 1.0:
            # torch rounds the factor to the weights' type as well
            x *= jnp.asarray(spec.embed_scale, self.compute_dtype)
        if spec.embed_width:
            x = self._linear("embed_in", spec.width, (None, "embed"))(x)
        if spec.rope is None:
            rows = (spec.max_positions + spec.position_offset, spec.width)
            x += self._table("positions", rows, 0.02, axis=None)[positions + spec.position_offset].astype(x.dtype)
        if not spec.tied:
            self._table("head", (spec.vocab_size, width), width**-0.5)
        if spec.head_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.param("head_bias", zeros, (spec.vocab_size,), self.param_dtype)

        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=self.unrolled)
        arguments, kinds = (spec, self.param_dtype, self.adapter_scale), _layer_kinds(spec)
        if self.unrolled:
            new = []
            for i in range(spec.layers):
                layer_buffers = None if buffers is None else buffers[i]
                layer = block(*arguments, name=f"layers_{i}")
                x, layer_buffers = layer(x, contexts[kinds[i]], None, layer_buffers)
                new.append(layer_buffers)
            buffers = None if buffers is None else tuple(new)
        else:
            one = len(contexts) == 1
            context = contexts[0] if one else jax.tree.map(lambda *leaves: jnp.stack(leaves), *contexts)
            scanned = nn.scan(block, variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True},
                              in_axes=(nn.broadcast, nn.broadcast if one else 0), length=spec.layers,
                              metadata_params={nn.PARTITION_NAME: "layers"})
            x, _ = scanned(*arguments, name="layers")(x, context, None if one else jnp.asarray(kinds))
        if spec.final_norm:
            x = Norm(spec, self.param_dtype, name="final_norm")(x)
        if spec.embed_width:
            x = self._linear("embed_out", spec.embed_width, ("embed", None))(x)
        # The factor of the logits acts on what they are linear in; losses then need not know of it.
        return (x if spec.logit_scale == 1.0 else x * spec.logit_scale), buffers

    def _table(self, name: str, shape: tuple[int, int], std: float, axis: str | None = "vocab") -> jax.Array:
        initializer = nn.with_logical_partitioning(nn.initializers.normal(std), (axis, "embed"))
        return self.param(name, initializer, shape, self.param_dtype)

    def _linear(self, name: str, features: int, axes: tuple[str | None, str | None]) -> Linear:
        return Linear(features, axes, False, self.param_dtype, 1.0, name=name)


def _layer_kinds(spec: ModelSpec) -> list[int]:
    """For every layer the place of its kind among the different ones, in order of their first layer."""
    different = list(dict.fromkeys(spec.kinds))
    return [different.index(kind) for kind in spec.kinds]


def _initialise(spec: ModelSpec, dtype: jnp.dtype, key: jax.Array):
    """Linen's variables, boxed with the logical names of their axes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    contexts = _contexts(spec, tokens, tokens, lambda window: jnp.ones((1, 1, 1), bool), None)
    return Decoder(spec, param_dtype=dtype).init(key, tokens, tokens, contexts)["params"]


def _contexts(spec: ModelSpec, positions: jax.Array, segments: jax.Array, mask: Callable[[int | None], jax.Array],
              index: jax.Array | None) -> tuple[Context, ...]:
    """A context for every different kind of layer; `mask` makes one from a window."""
    def turns(rope: Rope | None):
        if spec.rope is None:
            return None
        if rope is None:
            return no_rotation(spec.rope.rotated(spec.head_dim), positions)
        return rotation(rope, spec.head_dim, positions, segments)

    return tuple(Context(mask(kind.window), turns(kind.rope), index) for kind in dict.fromkeys(spec.kinds))


def init(spec: ModelSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Params:
    """Random parameters with stacked layers.

    Matrices have standard deviation `fan_in ** -0.5`; the embedding 1, or `D ** -0.5` where it is also
    the head. Call it under `jax.jit` with `out_shardings` to create a large model in place.
    """
    return nn.unbox(_initialise(spec, jnp.dtype(dtype), key))


def logical_axes(spec: ModelSpec) -> Params:
    """The tree of `init`, each leaf a tuple with the logical name of every axis of that parameter.

    Names are `layers`, `vocab`, `embed`, `heads`, `kv`, `mlp` or None.
    """
    shapes = jax.eval_shape(lambda: _initialise(spec, jnp.dtype(jnp.float32), jax.random.key(0)))
    boxed = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    return jax.tree.map(lambda leaf: tuple(leaf.names), shapes, is_leaf=boxed)


def segment_positions(segments: jax.Array) -> jax.Array:
    """Index of every token within its run of equal `segments` `[B, T]`; int32, starting at 0."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return index - lax.cummax(jnp.where(starts, index, 0), axis=1)


def forward(spec: ModelSpec, params: Params, tokens: jax.Array, *, positions: jax.Array | None = None,
            segments: jax.Array | None = None, cache: Cache | None = None, adapter: Adapter | None = None,
            dtype: jnp.dtype = jnp.float32, remat: Remat = "none") -> Output:
    """Runs the network.

    Args:
        spec: the network's description.
        params: from `init` or a checkpoint. Layers stacked (scan) or a tuple (unrolled).
        tokens: `[B, T]` int32.
        positions: `[B, T]` int32; by default the index within the segment. Required with a cache.
        segments: `[B, T]` int32, 0 for padding. A token sees earlier tokens of its own segment, so
            one argument serves left padding, right padding and packing. All ones by default.
        cache: keys and values of earlier tokens; needs unstacked layers.
        adapter: low-rank change of the linear layers; None runs the base weights.
        dtype: of activations and matrix products. Norms, softmax and logits are float32 regardless.
        remat: what the backward pass recomputes: nothing, every block (`full`), or all but the
            matrix products (`dots`).

    Returns:
        Hidden states and the new cache.

    Raises:
        ValueError: a cache with stacked layers or without positions.
    """
    unrolled = isinstance(params["layers"], tuple)
    if segments is None:
        segments = jnp.ones_like(tokens)
    if cache is None:
        positions = segment_positions(segments) if positions is None else positions
        mask, index, buffers = partial(causal_mask, segments), None, None
    else:
        if not unrolled or positions is None:
            raise ValueError("decoding with a cache needs unstack(params) and explicit positions")
        seen = lax.dynamic_update_slice(cache.segments, segments, (0, cache.index))
        mask, index, buffers = partial(cache_mask, segments, seen, cache.index), cache.index, cache.layers
    variables = {"params": _linen_layers(params)}
    if adapter is not None:
        stacked_adapter = isinstance(adapter.params.get("layers"), dict)
        if unrolled == stacked_adapter:
            raise ValueError("params and adapter must both be stacked or both be unstacked")
        variables["adapter"] = _linen_layers(adapter.params)
    module = Decoder(spec, compute_dtype=jnp.dtype(dtype), remat=remat, unrolled=unrolled,
                     adapter_scale=1.0 if adapter is None else adapter.scale)
    contexts = _contexts(spec, positions, segments, mask, index)
    hidden, buffers = module.apply(variables, tokens, positions, contexts, buffers)
    if cache is not None:
        cache = Cache(buffers, seen, cache.index + tokens.shape[1])
    return Output(hidden, cache)


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


def logits(spec: ModelSpec, params: Params, hidden: jax.Array) -> jax.Array:
    """`[..., V]` float32 scores of `hidden` `[..., D]`. For a few positions at a time; see `ops`."""
    return unembedding(spec, params).logits(hidden)


def init_cache(spec: ModelSpec, batch: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """An empty cache of `slots` positions for `batch` rows."""
    empty = lambda: jnp.zeros((batch, slots, spec.kv_heads, spec.head_dim), dtype)
    layers = tuple((empty(), empty()) for _ in range(spec.layers))
    return Cache(layers, jnp.zeros((batch, slots), jnp.int32), jnp.zeros((), jnp.int32))


def unstack(params: Params) -> Params:
    """`[L, ...]` layers as a tuple of L trees; also for an adapter's tree."""
    depth = jax.tree.leaves(params["layers"])[0].shape[0]
    layers = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(depth))
    return params | {"layers": layers}


def stack(params: Params) -> Params:
    """A tuple of layers as one tree of `[L, ...]` arrays; the inverse of `unstack`."""
    return params | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["layers"])}
