"""Low-rank adapters (LoRA, 2106.09685) as a tree separate from the frozen weights.

An adapter adds `scale * (dropout(x) @ a) @ b` to the linear layers that it adapts. `b` starts at zero, so a fresh
adapter changes nothing; `forward` without the adapter is the base model, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from jaxllm.errors import UserError
from jaxllm.models.params import Params, is_stacked, stack_layers, unstack_layers
from jaxllm.models.spec import ModelSpec
from jaxllm.ops.quantize import Quantized

ATTENTION = ("q", "k", "v", "o")
MLP = ("up", "gate", "down")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapter:
    """A low-rank change of a model's linear layers.

    Attributes:
        params: `{"layers": {"attn": {"q": {"a": [L, D, r], "b": [L, r, F]}, ...}, "mlp": {...}}}`; the layers may
            also be a tuple of L such trees of `[D, r]` and `[r, F]`.
        scale: factor of the low-rank product: `alpha / rank`, and `alpha / rank**0.5` of a loaded adapter with rslora.
        dropout: rate of dropout on the inputs, applied where `forward` gets `dropout_keys`.
    """

    params: Params
    scale: float = dataclasses.field(metadata={"static": True})
    dropout: float = dataclasses.field(default=0.0, metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapter (LoRA).

    Args:
        rank: inner dimension r.
        alpha: the product is scaled by `alpha / rank`.
        targets: adapted projections, out of q, k, v, o, up, gate, down.
        dropout: rate of dropout on the adapter's inputs during training.
    """

    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q", "k", "v", "up", "gate", "down")
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"must be 1 or more, got {self.rank}", "rank")
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"must be above 0, got {self.alpha:g}", "alpha")
        if not 0 <= self.dropout < 1:
            raise UserError(f"must be at least 0 and below 1, got {self.dropout:g}", "dropout")
        unknown = set(self.targets) - {*ATTENTION, *MLP}
        if not self.targets or unknown:
            raise UserError(f"must be some of {', '.join((*ATTENTION, *MLP))}, got {list(self.targets)}", "targets")


def linear_shapes(spec: ModelSpec) -> dict[tuple[str, str], tuple[int, int]]:
    """Returns input and output size of every linear layer of a block, by (module, projection)."""
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes = {("attn", "q"): (spec.width, queries), ("attn", "k"): (spec.width, keys),
              ("attn", "v"): (spec.width, keys), ("attn", "o"): (queries, spec.width)}
    if spec.experts is not None:  # experts are not adapted
        return shapes
    shapes |= {("mlp", "up"): (spec.width, spec.mlp_width), ("mlp", "down"): (spec.mlp_width, spec.width)}
    if spec.gated_mlp:
        shapes["mlp", "gate"] = (spec.width, spec.mlp_width)
    return shapes


def init_adapter(spec: ModelSpec, key: jax.Array, config: LoraConfig) -> Adapter:
    """Initializes a float32 adapter that changes nothing yet.

    `a` is uniform in `+-fan_in ** -0.5` (what PEFT's Kaiming initialization comes to), `b` is zero.
    Targets that a family lacks (a plain feed-forward network has no gate) are skipped.

    Raises:
        UserError: the family lacks all of them.
    """
    layers: dict[str, Any] = {}
    for index, ((module, name), (fan_in, fan_out)) in enumerate(sorted(linear_shapes(spec).items())):
        if name not in config.targets:
            continue
        bound = fan_in**-0.5
        down = jax.random.uniform(jax.random.fold_in(key, index), (spec.layers, fan_in, config.rank),
                                  jnp.float32, -bound, bound)
        up = jnp.zeros((spec.layers, config.rank, fan_out), jnp.float32)
        layers.setdefault(module, {})[name] = {"a": down, "b": up}
    if not layers:
        have = sorted(name for _, name in linear_shapes(spec))
        raise UserError(f"a {spec.family} model has none of {list(config.targets)}; it has {', '.join(have)}",
                        "lora.targets")
    return Adapter({"layers": layers}, config.alpha / config.rank, config.dropout)


def adapter_axes(adapter: Adapter) -> dict[str, Any]:
    """Returns the logical axis names of every leaf of `adapter.params` (layers stacked); the rank is never sharded."""
    wide = {"q": ("embed", "heads"), "k": ("embed", "kv"), "v": ("embed", "kv"), "o": ("heads", "embed"),
            "up": ("embed", "mlp"), "gate": ("embed", "mlp"), "down": ("mlp", "embed")}
    return {"layers": {module: {name: {"a": ("layers", wide[name][0], None), "b": ("layers", None, wide[name][1])}
                                for name in linears}
                       for module, linears in adapter.params["layers"].items()}}


def match_layout(adapter: Adapter, params: Params) -> Adapter:
    """Returns the adapter with its layers stacked or unstacked as those of `params`; an adapter is small."""
    convert = stack_layers if is_stacked(params) else unstack_layers
    return dataclasses.replace(adapter, params=convert(adapter.params))


def merge_adapter(params: Params, adapter: Adapter, sign: float = 1.0, donate: bool = False) -> Params:
    """Folds an adapter into the weights: `kernel + sign * scale * a @ b`.

    Product and sum are float32 and rounded once, one layer of one kernel at a time, so the only large temporary is one
    layer's kernel in float32. A quantized kernel becomes an array in the dtype of the embedding.

    Args:
        params: layers stacked or a tuple; the result has the same layout.
        adapter: in either layout.
        sign: -1 subtracts the adapter.
        donate: reuse the memory of the kernels that change; `params` must not be used afterwards.
    """
    adapter = match_layout(adapter, params)
    factor = jnp.float32(sign * adapter.scale)

    def merged(layers: Params, low_rank_layers: Params) -> Params:
        layers = {module: dict(linears) for module, linears in layers.items()}
        for module, linears in low_rank_layers.items():
            for name, low_rank in linears.items():
                linear = layers[module][name]
                kernel = _merge_kernel(linear["kernel"], low_rank["a"], low_rank["b"], factor,
                                       params["embed"].dtype, donate)
                layers[module][name] = linear | {"kernel": kernel}
        return layers

    base, low_rank = params["layers"], adapter.params["layers"]
    if is_stacked(params):
        return params | {"layers": merged(base, low_rank)}
    return params | {"layers": tuple(merged(*pair) for pair in zip(base, low_rank, strict=True))}


def _merge_kernel(kernel: jax.Array | Quantized, a: jax.Array, b: jax.Array, factor: jax.Array,
                  dtype: jnp.dtype, donate: bool) -> jax.Array:
    """Returns `kernel + factor * a @ b`; a quantized kernel becomes an array of `dtype`."""
    quantized = isinstance(kernel, Quantized)
    stored = kernel.codes if quantized else kernel
    sharding = None if isinstance(stored, jax.core.Tracer) else stored.sharding
    sharding = sharding if isinstance(sharding, NamedSharding) else None
    add = _add_low_rank_in_place if donate and not quantized else _add_low_rank
    merged = add(kernel, a, b, factor, dtype if quantized else kernel.dtype, sharding)
    if donate:
        jax.block_until_ready(merged)  # so that one kernel at a time is in memory twice
        if quantized:
            jax.tree.map(lambda leaf: leaf.delete(), kernel)
    return merged


def _low_rank_sum(kernel: jax.Array | Quantized, a: jax.Array, b: jax.Array, factor: jax.Array,
                  dtype: jnp.dtype, sharding: NamedSharding | None) -> jax.Array:
    def one_layer(kernel: jax.Array | Quantized, a: jax.Array, b: jax.Array) -> jax.Array:
        kernel = kernel.dequantize(jnp.float32) if isinstance(kernel, Quantized) else kernel
        product = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")
        return (kernel.astype(jnp.float32) + factor * product).astype(dtype)

    # XLA on CPU converts a whole bfloat16 stack to float32 for every update of a layer in it.
    if a.ndim == 2 or dtype != jnp.float32 and jax.default_backend() == "cpu":
        merged = one_layer(kernel, a, b)
    else:
        def write(i: jax.Array, merged: jax.Array) -> jax.Array:
            source = kernel if isinstance(kernel, Quantized) else merged
            # Without the barrier reading and writing are fused, and XLA copies the stack to keep them apart.
            layer = lax.optimization_barrier(
                jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), source))
            return lax.dynamic_update_index_in_dim(merged, one_layer(layer, a[i], b[i]), i, 0)

        start = jnp.zeros(kernel.shape, dtype) if isinstance(kernel, Quantized) else kernel
        start = start if sharding is None else lax.with_sharding_constraint(start, sharding)
        merged = lax.fori_loop(0, len(a), write, start)
    return merged if sharding is None else lax.with_sharding_constraint(merged, sharding)


_add_low_rank = jax.jit(_low_rank_sum, static_argnums=(4, 5))
_add_low_rank_in_place = jax.jit(_low_rank_sum, static_argnums=(4, 5), donate_argnums=0)


def sum_adapters(adapters: Sequence[Adapter]) -> Adapter:
    """Combines adapters into one: its change is the sum of theirs, its rank the sum of their ranks.

    Args:
        adapters: one or more of the same base model; they may adapt different layers.
    """
    if not adapters:
        raise ValueError("the sum of no adapters")
    by_linear: dict[tuple[str, str], list[tuple[jax.Array, jax.Array]]] = {}
    for adapter in adapters:
        for module, linears in stack_layers(adapter.params)["layers"].items():
            for name, factors in linears.items():
                by_linear.setdefault((module, name), []).append((factors["a"], factors["b"] * adapter.scale))
    layers: dict[str, Any] = {}
    for (module, name), pairs in by_linear.items():
        downs, ups = zip(*pairs, strict=True)
        layers.setdefault(module, {})[name] = {"a": jnp.concatenate(downs, -1), "b": jnp.concatenate(ups, -2)}
    return Adapter({"layers": layers}, 1.0)
