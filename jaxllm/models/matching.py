"""How the tensors of a Hugging Face checkpoint fit the network that its config describes, by name and shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxllm.errors import UserError
from jaxllm.models.families import FAMILIES, TensorMap, tensor_maps
from jaxllm.models.network import init_params
from jaxllm.models.spec import ModelSpec
from jaxllm.models.tensors import Tensors

# Saved with a language model by reinforcement learning, and not needed to generate.
VALUE_HEADS = ("v_head.", "value_head.")


@dataclasses.dataclass(frozen=True)
class Match:
    """How a checkpoint's tensors fit the network that its config describes.

    Attributes:
        found: names in the family's table -> names in the files.
        missing: names that the network needs and no file has.
        unused: names in the files that the network has no place for.
        passed_over: names in the files that are known to hold no parameters, or those of another head.
        reshaped: name -> (its shape, the shape that the config implies), where they differ.
    """

    found: dict[str, str]
    missing: list[str]
    unused: list[str]
    passed_over: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def check(self, spec: ModelSpec, tensors: Tensors) -> None:
        """Raises a `UserError` unless everything fits."""
        if self.missing:
            raise UserError(f"{len(self.missing)} tensors are missing: {_some(self.missing)}", tensors.path)
        if self.unused:
            raise UserError(f"{len(self.unused)} tensors have no place in a {spec.family} model as config.json "
                            f"describes it: {_some(self.unused)}", tensors.path)
        for name, (shape, wanted) in self.reshaped.items():
            raise UserError(f"tensor '{name}' has shape {list(shape)}, config.json implies {list(wanted)}",
                            tensors.files[name].file)


def match_tensors(spec: ModelSpec, tensors: Tensors) -> Match:
    """Compares the names and shapes of a checkpoint with those that its network needs."""
    family, leaves = FAMILIES[spec.family], tensor_maps(spec)
    shapes, widths = jax.eval_shape(lambda: init_params(spec, jax.random.key(0))), _fused_widths(leaves)
    there, found, missing, reshaped = set(tensors.names()), {}, [], {}
    for leaf in leaves:
        wanted = lookup(shapes, leaf.path).shape
        for place, name in names_of(leaf, spec):
            bare = name.removeprefix(family.prefix)
            real = next((n for n in (name, bare, _old(name), _old(bare)) if n in there), None)
            if real is None:
                missing.append(name)
                continue
            found[name] = real
            stored = _stored_shape(leaf, wanted[len(place):], widths)
            if tensors.shape(real) != stored:
                reshaped[real] = tensors.shape(real), stored
    # A tied head may be there a second time, and a scoring network may carry the head it had before.
    heads = {leaf.name for leaf in family.leaves(dataclasses.replace(spec, tied=False, head=None))
             if leaf.path[0] in ("head", "head_bias")} if spec.encoder is None else set()
    left = sorted(there - set(found.values()))
    passed = [name for name in left if name in heads or name.endswith(family.ignored) or (
        spec.head is None and name.startswith(VALUE_HEADS))]
    return Match(found, sorted(set(missing)), [name for name in left if name not in passed], passed, reshaped)


def _old(name: str) -> str:
    """How the first checkpoints of BERT spell the two parameters of a norm."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def names_of(leaf: TensorMap, spec: ModelSpec) -> list[tuple[tuple[int, ...], str]]:
    """(place in our array, tensor name) for every tensor that a leaf is made of: one, or one a layer (and expert)."""
    if "{i}" not in leaf.name:
        return [((), leaf.name)]
    if "{e}" not in leaf.name:
        return [((i,), leaf.name.format(i=i)) for i in range(spec.layers)]
    return [((i, e), leaf.name.format(i=i, e=e)) for i in range(spec.layers) for e in range(spec.experts.count)]


def lookup(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _fused_widths(leaves: Sequence[TensorMap]) -> dict[str, int]:
    """Size of the last axis of every tensor that several leaves share."""
    widths: dict[str, int] = {}
    for leaf in leaves:
        if leaf.part is not None:
            widths[leaf.name] = max(widths.get(leaf.name, 0), leaf.groups * leaf.part[1])
    return widths


def _stored_shape(leaf: TensorMap, ours: tuple[int, ...], widths: dict[str, int]) -> tuple[int, ...]:
    """Shape of the tensor that one layer of a leaf is read from."""
    stored = (*ours[:-1], widths.get(leaf.name, ours[-1] if ours else 0))
    return stored[::-1] if leaf.transpose else stored


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
