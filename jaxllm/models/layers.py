"""The parts of a transformer as Linen modules: norms, linear layers, attention, feed-forward, a block, a stack of them.

The residual stream is `x`, `[B, T, D]`. A block adds attention and then a feed-forward network, each
reading a normalized copy of the stream:

    x = x + attention(norm(x));   x = x + mlp(norm(x))

Families differ in where the norms stand, in what a layer sees, and in a few factors; `ModelSpec` names them.
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
from jaxllm.models.spec import ModelSpec
from jaxllm.ops.matmul import matmul
from jaxllm.ops.quantize import Quantized

Remat = Literal["none", "full", "dots"]

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """How a network is run; what it is, is in `ModelSpec`.

    Attributes:
        param_dtype: of parameters that are made here.
        adapter_scale: factor of an adapter's terms.
        attention: the kernel; None picks one.
        remat: what the backward pass recomputes.
        unrolled: layers are separate trees and run one after the other, not stacked and scanned.
    """

    param_dtype: jnp.dtype = jnp.dtype("float32")
    adapter_scale: float = 1.0
    attention: AttentionKernel | None = None
    remat: Remat = "none"
    unrolled: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What the layers need to know beside the stream.

    Attributes:
        sight: what a token may see.
        rotations: cosines and sines, each `[K, B, T, rotated / 2]` for the K different kinds of layers; None without
            rotation.
        distances: of the encoder that attends by relative position; None elsewhere.
        memory: where earlier keys and values come from and new ones go; None where nothing is kept.
    """

    sight: AttentionMask
    rotations: tuple[jax.Array, jax.Array] | None
    distances: Distances | None = None
    memory: CacheWrite | SharedPrefix | None = None


def weight(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...],
           dtype: jnp.dtype) -> jax.Array | Quantized:
    """A matrix of `module` as it is stored, quantized or not; made with fan-in scale where there is none yet."""
    if isinstance(found := module.get_variable("params", name), Quantized):
        return found
    initializer = nn.with_logical_partitioning(nn.initializers.normal(shape[-2] ** -0.5), axes)
    return module.param(name, initializer, shape, dtype)


class Norm(nn.Module):
    """RMSNorm (1910.07467) or LayerNorm (1607.06450) over the last axis; statistics in float32."""

    spec: ModelSpec
    run: Run

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
    """`x @ kernel + bias`, plus the low-rank term of an adapter that has this place.

    Attributes:
        features: size of the output.
        axes: logical names of the kernel's two axes.
        use_bias: whether a bias is added.
    """

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool
    run: Run

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.run.param_dtype
        y = matmul(x, weight(self, "kernel", (x.shape[-1], self.features), self.axes, dtype))
        if self.use_bias:
            y += self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]),
                            (self.features,), dtype).astype(x.dtype)
        if self.has_variable("adapter", "a"):
            low_rank = matmul(matmul(x, self.get_variable("adapter", "a")), self.get_variable("adapter", "b"))
            y += low_rank * jnp.asarray(self.run.adapter_scale, x.dtype)
        return y


class Attention(nn.Module):
    """Self-attention with its four projections."""

    spec: ModelSpec
    run: Run

    @nn.compact
    def __call__(self, x, context: Context, kind: jax.Array | int = 0, buffers=None):
        spec = self.spec
        project = {name: Linear(heads * spec.head_dim, ("embed", axis), spec.qkv_bias, self.run, name=name)
                   for name, heads, axis in (("q", spec.heads, "heads"), ("k", spec.kv_heads, "kv"),
                                             ("v", spec.kv_heads, "kv"))}
        in_heads = lambda out: out.reshape(*out.shape[:-1], -1, spec.head_dim)

        def projected(name):
            out = project[name](x)
            if spec.query_norm == "all" and name != "v":
                out = Norm(spec, self.run, name=f"{name}_norm")(out)
            out = in_heads(out)
            if spec.query_norm == "head" and name != "v":
                out = Norm(spec, self.run, name=f"{name}_norm")(out)
            return out

        queries, keys, values = projected("q"), projected("k"), projected("v")
        if context.rotations is not None:
            cos, sin = (leaf[kind] for leaf in context.rotations)
            queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        keys, values = by_head(keys), by_head(values)
        if context.memory is not None:
            (keys, values), buffers = context.memory.extend(buffers, keys, values)
        if context.distances is not None:
            ours, theirs = (in_heads(project[name](context.distances.table)) for name in "qk")
            bias, scale = distance_bias(queries, by_head(keys), ours, theirs, context.distances.index,
                                        spec.encoder.relative)
            mixed = attend_biased(queries, keys, values, context.sight, bias, scale)
        else:
            mixed = self._attend(queries, keys, values, context.sight, kind)
        return Linear(spec.width, ("heads", "embed"), spec.out_bias, self.run, name="o")(mixed), buffers

    def _attend(self, queries, keys, values, sight: AttentionMask, kind: jax.Array | int) -> jax.Array:
        """Attention with the window of the layer's kind, which kernels want to know when they are compiled."""
        spec = self.spec
        windows = [one.window for one in spec.different_kinds]
        one = lambda window: partial(attend, window=window, scale=spec.attention_scale,
                                     softcap=spec.attention_softcap, path=self.run.attention)
        if isinstance(kind, int) or len(set(windows)) == 1:
            return one(windows[kind if isinstance(kind, int) else 0])(queries, keys, values, sight)
        return lax.switch(kind, [one(window) for window in windows], queries, keys, values, sight)


class Mlp(nn.Module):
    """The feed-forward network, gated or plain."""

    spec: ModelSpec
    run: Run

    @nn.compact
    def __call__(self, x):
        spec, act = self.spec, ACTIVATIONS[self.spec.activation]
        linear = lambda name, size, *axes: Linear(size, axes, spec.mlp_bias, self.run, name=name)
        up = linear("up", spec.mlp_width, "embed", "mlp")(x)
        if spec.gated_mlp:
            up = act(linear("gate", spec.mlp_width, "embed", "mlp")(x)) * up
        else:
            up = act(up)
        return linear("down", spec.width, "mlp", "embed")(up)


class MixtureOfExperts(nn.Module):
    """Every token goes through the few experts that the router scores highest (2401.04088, section 2.1).

    Tokens are sorted by expert and multiplied in groups, so the work is that of the chosen experts only, and no
    token is dropped however uneven the choice.
    """

    spec: ModelSpec
    run: Run

    @nn.compact
    def __call__(self, x):
        spec, experts = self.spec, self.spec.experts
        flat = x.reshape(-1, spec.width)
        dtype = self.run.param_dtype
        router = weight(self, "router", (spec.width, experts.count), ("embed", None), dtype)
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
            kernel = weight(self, name, (experts.count, fan_in, fan_out), ("experts", *axes), dtype)
            kernel = kernel.dequantize(x.dtype) if isinstance(kernel, Quantized) else kernel.astype(x.dtype)
            return lax.ragged_dot(rows, kernel, sizes, precision=precision)

        rows = flat[tokens]
        up = grouped(rows, "up", spec.width, spec.mlp_width, ("embed", "mlp"))
        gate = ACTIVATIONS[spec.activation](grouped(rows, "gate", spec.width, spec.mlp_width, ("embed", "mlp")))
        down = grouped(gate * up, "down", spec.mlp_width, spec.width, ("mlp", "embed"))
        weighted = down * shares.reshape(-1)[order, None].astype(x.dtype)
        return jnp.zeros_like(flat).at[tokens].add(weighted).reshape(x.shape)


class Block(nn.Module):
    """One layer; returns the stream and the layer's cache buffers, as a scan wants it.

    `kind` is the place of the layer's kind among the different ones; None where there is only one.
    """

    spec: ModelSpec
    run: Run

    @nn.compact
    def __call__(self, x, context: Context, kind=None, buffers=None):
        spec, shape = self.spec, (self.spec, self.run)
        kind = 0 if kind is None else kind
        norm = lambda name: Norm(*shape, name=name)
        attention = Attention(*shape, name="attn")
        mlp = (Mlp if spec.experts is None else MixtureOfExperts)(*shape, name="mlp")
        if spec.parallel is not None:
            normed = norm("attn_norm")(x)
            mixed, buffers = attention(normed, context, kind, buffers)
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
            mixed, buffers = attention(normed, context, kind, buffers)
            return mixed

        x = around(x, "attn", attend_and_keep)
        return around(x, "mlp", mlp), buffers


def run_layers(spec: ModelSpec, run: Run, x: jax.Array, context: Context, buffers=None,
               after_first: Callable[[jax.Array], jax.Array] | None = None) -> tuple[jax.Array, Any]:
    """All blocks in turn, within the module that calls; the stream and the new buffers.

    Args:
        spec, run: the network, and how it is run.
        x: `[B, T, D]`.
        context: of all layers.
        buffers: of the memory, one a layer; unrolled layers only.
        after_first: what happens to the stream between the first block and the second; unrolled layers only.
    """
    block = Block
    if run.remat != "none":
        block = nn.remat(Block, policy=REMAT_POLICIES[run.remat], prevent_cse=run.unrolled, static_argnums=(3,) if
                         run.unrolled else ())
    kinds = [spec.different_kinds.index(kind) for kind in spec.kinds]
    if run.unrolled:
        new = []
        for i, kind in enumerate(kinds):
            x, layer_buffers = block(spec, run, name=f"layers_{i}")(x, context, kind,
                                                                    None if buffers is None else buffers[i])
            x = after_first(x) if after_first is not None and i == 0 else x
            new.append(layer_buffers)
        return x, tuple(new)
    one = len(spec.different_kinds) == 1
    scanned = nn.scan(block, variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True},
                      in_axes=(nn.broadcast, nn.broadcast if one else 0), length=spec.layers,
                      metadata_params={nn.PARTITION_NAME: "layers"})
    return scanned(spec, run, name="layers")(x, context, None if one else jnp.asarray(kinds))
