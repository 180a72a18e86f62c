"""Linen modules of a transformer: norms, linear layers, attention, feed-forward network, block, stack of blocks.

The residual stream is `x`, `[B, T, D]`. A block adds attention and then a feed-forward network, each
reading a normalized copy of the stream:

    x = x + attention(norm(x));   x = x + mlp(norm(x))

Families differ in the order of the norms, in the attention window of a layer, and in a few factors; see `ModelSpec`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models.attention import (
    AttentionKernel,
    AttentionMask,
    CacheWrite,
    SharedPrefix,
    attend,
    attend_biased,
    by_head,
)
from jaxllm.models.disentangled import Distances, distance_bias
from jaxllm.models.rope import rotate
from jaxllm.models.spec import ModelSpec, Relative
from jaxllm.ops.matmul import PRODUCT, matmul
from jaxllm.ops.quantize import Quantized

Remat = Literal["none", "full", "dots"]

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}

# Projections that an adapter can change; a projection's index is part of its dropout key.
ADAPTABLE = ("q", "k", "v", "o", "up", "gate", "down")

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PRODUCT)),
}


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of one forward pass; the architecture itself is `ModelSpec`.

    Attributes:
        param_dtype: dtype of parameters created by `init_params`.
        adapter_scale: factor of the adapter's low-rank product.
        adapter_dropout: rate of dropout on the adapter's input, where the context has dropout keys.
        attention: attention kernel; None picks the fastest.
        remat: the backward pass recomputes.
        unrolled: layers are separate trees and run one after the other, instead of stacked and scanned.
    """

    param_dtype: jnp.dtype = jnp.dtype("float32")
    adapter_scale: float = 1.0
    adapter_dropout: float = 0.0
    attention: AttentionKernel | None = None
    remat: Remat = "none"
    unrolled: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerContext:
    """Inputs that all layers share, in addition to the residual stream.

    Attributes:
        mask: attention mask.
        rotations: cosines and sines, each `[K, B, T, rotated / 2]` for the K layer types; None without rotary
            positions.
        distances: embeddings of relative positions (DeBERTa); None elsewhere.
        kv_update: how cached keys and values are read and new ones stored; None without a cache.
        dropout_keys: `[B]` typed keys, one per row, of dropout on the adapter's inputs; None without dropout.
    """

    mask: AttentionMask
    rotations: tuple[jax.Array, jax.Array] | None
    distances: Distances | None = None
    kv_update: CacheWrite | SharedPrefix | None = None
    dropout_keys: jax.Array | None = None


def matrix_param(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...],
                 dtype: jnp.dtype) -> jax.Array | Quantized:
    """Returns a matrix of `module` as it is stored, quantized or not; initialized with fan-in scale."""
    stored = module.get_variable("params", name)
    if isinstance(stored, Quantized):
        return stored
    initializer = nn.with_logical_partitioning(nn.initializers.normal(shape[-2] ** -0.5), axes)
    return module.param(name, initializer, shape, dtype)


def row_dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Applies inverted dropout to `x` `[B, T, D]` with one key per row `[B]`: zeroes a share `rate`, scales the rest.

    A row's mask depends on its key only, so neither the other rows nor padding on the right changes it.
    """
    retained = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(retained, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


class Norm(nn.Module):
    """RMSNorm (1910.07467) or LayerNorm (1607.06450) over the last axis; statistics in float32."""

    spec: ModelSpec
    run: RunOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, offset = x.shape[-1:], float(self.spec.norm_offset)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.constant(1 - offset), (None,)),
                           size, self.run.param_dtype).astype(jnp.float32) + offset
        h = x.astype(jnp.float32)
        if self.spec.norm == "rms":
            mean_square = jnp.mean(jnp.square(h), -1, keepdims=True)
            return (h * lax.rsqrt(mean_square + self.spec.norm_eps) * scale).astype(x.dtype)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
                          size, self.run.param_dtype).astype(jnp.float32)
        h = h - jnp.mean(h, -1, keepdims=True)
        variance = jnp.mean(jnp.square(h), -1, keepdims=True)
        return (h * lax.rsqrt(variance + self.spec.norm_eps) * scale + bias).astype(x.dtype)


class Linear(nn.Module):
    """`x @ kernel + bias`, plus `scale * (dropout(x) @ a) @ b` where the adapter has this layer.

    Attributes:
        features: size of the output.
        axes: logical names of the kernel's two axes.
        use_bias: whether a bias is added.
    """

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool
    run: RunOptions

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        dtype = self.run.param_dtype
        y = matmul(x, matrix_param(self, "kernel", (x.shape[-1], self.features), self.axes, dtype))
        if self.use_bias:
            y += self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]),
                            (self.features,), dtype).astype(x.dtype)
        if self.has_variable("adapter", "a"):
            if dropout_keys is not None:
                keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, ADAPTABLE.index(self.name))
                x = row_dropout(x, keys, self.run.adapter_dropout)
            low_rank = matmul(matmul(x, self.get_variable("adapter", "a")), self.get_variable("adapter", "b"))
            y += low_rank * jnp.asarray(self.run.adapter_scale, y.dtype)
        return y


class Attention(nn.Module):
    """Self-attention with its four projections."""

    spec: ModelSpec
    run: RunOptions

    @nn.compact
    def __call__(self, x, context: LayerContext, layer_type: jax.Array | int = 0, kv=None):
        spec, dropout_keys = self.spec, context.dropout_keys
        project = {name: Linear(heads * spec.head_dim, ("embed", axis), spec.qkv_bias, self.run, name=name)
                   for name, heads, axis in (("q", spec.heads, "heads"), ("k", spec.kv_heads, "kv"),
                                             ("v", spec.kv_heads, "kv"))}
        split_heads = lambda out: out.reshape(*out.shape[:-1], -1, spec.head_dim)

        def projected(name):
            out = project[name](x, dropout_keys)
            if spec.query_norm == "all" and name != "v":
                out = Norm(spec, self.run, name=f"{name}_norm")(out)
            out = split_heads(out)
            if spec.query_norm == "head" and name != "v":
                out = Norm(spec, self.run, name=f"{name}_norm")(out)
            return out

        queries, keys, values = projected("q"), projected("k"), projected("v")
        if context.rotations is not None:
            cos, sin = (leaf[layer_type] for leaf in context.rotations)
            queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        keys, values = by_head(keys), by_head(values)
        if context.kv_update is not None:
            (keys, values), kv = context.kv_update.extend(kv, keys, values)
        if context.distances is not None:
            query_table, key_table = (split_heads(project[name](context.distances.table)) for name in "qk")
            bias, scale = distance_bias(queries, by_head(keys), query_table, key_table, context.distances.index,
                                        cast(Relative, spec.encoder.relative))
            mixed = attend_biased(queries, keys, values, context.mask, bias, scale)
        else:
            mixed = self._attend(queries, keys, values, context.mask, layer_type)
        out = Linear(spec.width, ("heads", "embed"), spec.out_bias, self.run, name="o")
        return out(mixed, dropout_keys), kv

    def _attend(self, queries, keys, values, mask: AttentionMask, layer_type: jax.Array | int) -> jax.Array:
        """Attends with the window of the layer's type, which kernels need as a constant."""
        spec = self.spec
        windows = [layer.window for layer in spec.distinct_layer_types]
        with_window = lambda window: partial(attend, window=window, scale=spec.attention_scale,
                                             softcap=spec.attention_softcap, kernel=self.run.attention)
        if isinstance(layer_type, int) or len(set(windows)) == 1:
            return with_window(windows[layer_type if isinstance(layer_type, int) else 0])(queries, keys, values, mask)
        return lax.switch(layer_type, [with_window(window) for window in windows], queries, keys, values, mask)


class Mlp(nn.Module):
    """The feed-forward network, gated or plain."""

    spec: ModelSpec
    run: RunOptions

    @nn.compact
    def __call__(self, x, dropout_keys: jax.Array | None = None):
        spec, act = self.spec, ACTIVATIONS[self.spec.activation]

        def linear(name, size, *axes):
            return partial(Linear(size, axes, spec.mlp_bias, self.run, name=name), dropout_keys=dropout_keys)

        up = linear("up", spec.mlp_width, "embed", "mlp")(x)
        if spec.gated_mlp:
            up = act(linear("gate", spec.mlp_width, "embed", "mlp")(x)) * up
        else:
            up = act(up)
        return linear("down", spec.width, "mlp", "embed")(up)


class MixtureOfExperts(nn.Module):
    """Top-k routed experts (2401.04088, section 2.1); adapters do not change them.

    Tokens are sorted by expert and multiplied in groups: only the chosen experts are computed, and no token is dropped,
    even with an uneven load.
    """

    spec: ModelSpec
    run: RunOptions

    @nn.compact
    def __call__(self, x, dropout_keys: jax.Array | None = None):
        spec, experts = self.spec, self.spec.experts
        flat = x.reshape(-1, spec.width)
        dtype = self.run.param_dtype
        router = matrix_param(self, "router", (spec.width, experts.count), ("embed", None), dtype)
        scores = matmul(flat, router).astype(jnp.float32)
        shares, chosen = lax.top_k(jax.nn.softmax(scores, axis=-1), experts.chosen)
        if experts.normalized:
            shares /= shares.sum(-1, keepdims=True)

        chosen = chosen.reshape(-1)
        order = jnp.argsort(chosen)
        tokens = order // experts.chosen
        sizes = jnp.bincount(chosen, length=experts.count).astype(jnp.int32)
        precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None

        def grouped(rows, name, fan_in, fan_out, axes):
            kernel = matrix_param(self, name, (experts.count, fan_in, fan_out), ("experts", *axes), dtype)
            kernel = kernel.dequantize(x.dtype) if isinstance(kernel, Quantized) else kernel.astype(x.dtype)
            return lax.ragged_dot(rows, kernel, sizes, precision=precision)

        rows = flat[tokens]
        up = grouped(rows, "up", spec.width, spec.mlp_width, ("embed", "mlp"))
        gate = ACTIVATIONS[spec.activation](grouped(rows, "gate", spec.width, spec.mlp_width, ("embed", "mlp")))
        down = grouped(gate * up, "down", spec.mlp_width, spec.width, ("mlp", "embed"))
        weighted = down * shares.reshape(-1)[order, None].astype(x.dtype)
        return jnp.zeros_like(flat).at[tokens].add(weighted).reshape(x.shape)


class Block(nn.Module):
    """One layer; returns the stream and the layer's keys and values, as a scan expects.

    `layer` is the layer's index: an int if unrolled, a traced scalar in a scan.
    """

    spec: ModelSpec
    run: RunOptions

    @nn.compact
    def __call__(self, x, context: LayerContext, layer: jax.Array | int = 0, kv=None):
        spec, options = self.spec, (self.spec, self.run)
        layer_type = _layer_type(spec, layer)
        if context.dropout_keys is not None:
            keys = jax.vmap(jax.random.fold_in, (0, None))(context.dropout_keys, layer)
            context = dataclasses.replace(context, dropout_keys=keys)
        norm = lambda name: Norm(*options, name=name)
        attention = Attention(*options, name="attn")
        mlp = partial((Mlp if spec.experts is None else MixtureOfExperts)(*options, name="mlp"),
                      dropout_keys=context.dropout_keys)
        if spec.parallel is not None:
            normed = norm("attn_norm")(x)
            mixed, kv = attention(normed, context, layer_type, kv)
            return x + mixed + mlp(normed if spec.parallel == "shared" else norm("mlp_norm")(x)), kv

        def residual(x, name, sublayer):
            """Adds a sub-layer's output to the stream, with the family's norms."""
            out = sublayer(norm(f"{name}_norm")(x) if spec.norms in ("before", "around") else x)
            if spec.norms == "outside":
                return norm(f"{name}_after_norm")(x + out)
            if spec.norms in ("after", "around"):
                out = norm(f"{name}_after_norm")(out)
            return x + (out if spec.residual_scale == 1.0 else out * spec.residual_scale)

        def attend_and_store(normed):
            nonlocal kv
            mixed, kv = attention(normed, context, layer_type, kv)
            return mixed

        x = residual(x, "attn", attend_and_store)
        return residual(x, "mlp", mlp), kv


# Traced and lowered once for all unrolled layers of a type; the compiler inlines the calls.
SharedBlock = nn.jit(Block, static_argnums=(3,))


def _layer_type(spec: ModelSpec, layer: jax.Array | int) -> jax.Array | int:
    """Returns the index of a layer's type in `spec.distinct_layer_types`."""
    distinct = spec.distinct_layer_types
    if len(distinct) == 1:
        return 0
    indices = [distinct.index(layer_type) for layer_type in spec.layer_types]
    return indices[layer] if isinstance(layer, int) else jnp.asarray(indices)[layer]


def run_layers(spec: ModelSpec, run: RunOptions, x: jax.Array, context: LayerContext, kv=None,
               after_first: Callable[[jax.Array], jax.Array] | None = None) -> tuple[jax.Array, Any]:
    """Runs all blocks inside the calling module; returns the stream and the new keys and values.

    Args:
        spec, run: the architecture and the options of this pass.
        x: `[B, T, D]`.
        context: inputs shared by all layers.
        kv: cached keys and values per layer; unrolled layers only.
        after_first: applied to the stream between the first block and the second; unrolled layers only.
    """
    block = Block
    if run.remat != "none":
        block = nn.remat(Block, policy=REMAT_POLICIES[run.remat], prevent_cse=run.unrolled, static_argnums=(3,) if
                         run.unrolled else ())
    if run.unrolled:
        new_kv, layers = [], list(range(spec.layers))
        if run.remat == "none" and context.dropout_keys is None:
            # Only the type of a layer matters: all layers of a type pass the index of the first and share its trace.
            block, layers = SharedBlock, [spec.layer_types.index(layer_type) for layer_type in spec.layer_types]
        for i, layer in enumerate(layers):
            x, layer_kv = block(spec, run, name=f"layers_{i}")(x, context, layer, None if kv is None else kv[i])
            x = after_first(x) if after_first is not None and i == 0 else x
            new_kv.append(layer_kv)
        return x, tuple(new_kv)
    scanned = nn.scan(block, variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True},
                      in_axes=(nn.broadcast, 0), length=spec.layers, metadata_params={nn.PARTITION_NAME: "layers"})
    return scanned(spec, run, name="layers")(x, context, jnp.arange(spec.layers))
