"""Low-rank adapters (LoRA, 2106.09685) as a tree of their own beside the frozen weights.

An adapter adds `scale * (x @ a) @ b` to the linear layers it has a place for. `b` starts at zero, so a
fresh adapter changes nothing; leaving the adapter out of `forward` is the base model, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.errors import UserError
from jaxllm.models.spec import ModelSpec
from jaxllm.ops.quantize import Quantized

ATTENTION = ("q", "k", "v", "o")
MLP = ("up", "gate", "down")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapter:
    """A low-rank change of a model's linear layers.

    Attributes:
        params: `{"layers": {"attn": {"q": {"a": [L, D, r], "b": [L, r, F]}, ...}, "mlp": {...}}}`.
        scale: factor of the low-rank product, `alpha / rank`.
    """

    params: dict[str, Any]
    scale: float = dataclasses.field(metadata=dict(static=True))


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which layers get an adapter, and of what size.

    Args:
        rank: inner dimension r.
        alpha: the product is scaled by `alpha / rank`.
        targets: names of the adapted projections, of q, k, v, o, up, gate, down.
    """

    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q", "k", "v", "up", "gate", "down")

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"must be 1 or more, got {self.rank}", "rank")
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"must be above 0, got {self.alpha:g}", "alpha")
        unknown = set(self.targets) - {*ATTENTION, *MLP}
        if not self.targets or unknown:
            raise UserError(f"must be some of {', '.join((*ATTENTION, *MLP))}, got {list(self.targets)}", "targets")


def linear_shapes(spec: ModelSpec) -> dict[tuple[str, str], tuple[int, int]]:
    """Input and output size of every linear layer of a block, by (module, projection)."""
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes = {("attn", "q"): (spec.width, queries), ("attn", "k"): (spec.width, keys),
              ("attn", "v"): (spec.width, keys), ("attn", "o"): (queries, spec.width)}
    if spec.experts is not None:  # experts are no linear layers of the block's own: they are not adapted
        return shapes
    shapes |= {("mlp", "up"): (spec.width, spec.mlp_width), ("mlp", "down"): (spec.mlp_width, spec.width)}
    if spec.gated_mlp:
        shapes["mlp", "gate"] = (spec.width, spec.mlp_width)
    return shapes


def init_adapter(spec: ModelSpec, key: jax.Array, config: LoraConfig) -> Adapter:
    """A fresh float32 adapter that changes nothing yet.

    `a` is uniform in `+-fan_in ** -0.5` (what PEFT's Kaiming initialization comes to), `b` is zero.
    Targets that a family lacks (a plain feed-forward network has no gate) are passed over.

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
    return Adapter({"layers": layers}, config.alpha / config.rank)


def adapter_axes(adapter: Adapter) -> dict[str, Any]:
    """Logical axis names of every leaf of `adapter.params`; the rank is never sharded."""
    wide = {"q": ("embed", "heads"), "k": ("embed", "kv"), "v": ("embed", "kv"), "o": ("heads", "embed"),
            "up": ("embed", "mlp"), "gate": ("embed", "mlp"), "down": ("mlp", "embed")}
    return {"layers": {module: {name: {"a": ("layers", wide[name][0], None), "b": ("layers", None, wide[name][1])}
                                for name in places}
                       for module, places in adapter.params["layers"].items()}}


def merge_adapter(params: dict[str, Any], adapter: Adapter, sign: float = 1.0) -> dict[str, Any]:
    """The weights with the adapter folded in: `kernel + sign * scale * a @ b`.

    The product and the sum are float32, whatever the dtype of the weights; a quantized kernel comes out in full, in
    the dtype of the embedding. Layers must be stacked.
    """
    layers = {module: dict(places) for module, places in params["layers"].items()}
    for module, places in adapter.params["layers"].items():
        for name, low_rank in places.items():
            linear = layers[module][name]
            kernel = linear["kernel"]
            if isinstance(kernel, Quantized):
                kernel = kernel.dequantize(params["embed"].dtype)
            change = jnp.einsum("lir,lro->lio", low_rank["a"].astype(jnp.float32),
                                low_rank["b"].astype(jnp.float32), precision="highest")
            kernel = (kernel.astype(jnp.float32) + sign * adapter.scale * change).astype(kernel.dtype)
            layers[module][name] = linear | {"kernel": kernel}
    return params | {"layers": layers}


def unmerge(params: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
    """Takes a merged adapter out again, up to one rounding of the weights' dtype."""
    return merge_adapter(params, adapter, sign=-1.0)


def sum_adapters(adapters: Sequence[Adapter]) -> Adapter:
    """One adapter for several: its change is the sum of theirs, its rank the sum of their ranks.

    Args:
        adapters: one or more of the same base model, layers stacked; they may adapt different layers.
    """
    if not adapters:
        raise ValueError("the sum of no adapters")
    found: dict[tuple[str, str], list[tuple[jax.Array, jax.Array]]] = {}
    for adapter in adapters:
        for module, places in adapter.params["layers"].items():
            for name, factors in places.items():
                found.setdefault((module, name), []).append((factors["a"], factors["b"] * adapter.scale))
    layers: dict[str, Any] = {}
    for (module, name), parts in found.items():
        downs, ups = zip(*parts, strict=True)
        layers.setdefault(module, {})[name] = {"a": jnp.concatenate(downs, -1), "b": jnp.concatenate(ups, -2)}
    return Adapter({"layers": layers}, 1.0)
