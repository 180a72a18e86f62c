"""Matches the tensors of a Hugging Face checkpoint with the network that its config describes, by name and shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxllm.errors import UserError
from jaxllm.models.families import FAMILIES, TensorMap, tensor_maps
from jaxllm.models.network import init_params
from jaxllm.models.spec import ModelSpec
from jaxllm.models.tensors import TensorSource

# Value heads that reinforcement learning saves with a language model; generation does not need them.
VALUE_HEADS = ("v_head.", "value_head.")


@dataclasses.dataclass(frozen=True)
class Match:
    """Match of a checkpoint's tensors with the network that its config describes.

    Attributes:
        names: names in the family's table -> names in the files.
        missing: names that the network needs and no file has.
        unused: names in the files that the network does not need.
        passed_over: names in the files that are known to hold no parameters, or those of another head.
        reshaped: name -> (its shape, the shape that the config implies), where they differ.
    """

    names: dict[str, str]
    missing: list[str]
    unused: list[str]
    passed_over: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def check(self, spec: ModelSpec, tensors: TensorSource) -> None:
        """Raises a `UserError` unless everything fits."""
        if self.missing:
            raise UserError(f"{len(self.missing)} tensors are missing: {_some(self.missing)}", tensors.path)
        if self.unused:
            raise UserError(f"{len(self.unused)} tensors have no place in a {spec.family} model as config.json "
                            f"describes it: {_some(self.unused)}", tensors.path)
        for name, (shape, wanted) in self.reshaped.items():
            raise UserError(f"tensor '{name}' has shape {list(shape)}, config.json implies {list(wanted)}",
                            tensors.files[name].file)


def match_tensors(spec: ModelSpec, tensors: TensorSource) -> Match:
    """Compares the names and shapes of a checkpoint with those that its network needs."""
    family, leaves = FAMILIES[spec.family], tensor_maps(spec)
    shapes, widths = jax.eval_shape(lambda: init_params(spec, jax.random.key(0))), _fused_widths(leaves)
    stored_names, names, missing, reshaped = set(tensors.names()), {}, [], {}
    for leaf in leaves:
        wanted = lookup(shapes, leaf.path).shape
        for index, name in names_of(leaf, spec):
            bare = name.removeprefix(family.prefix)
            real = next((n for n in (name, bare, _old(name), _old(bare)) if n in stored_names), None)
            if real is None:
                missing.append(name)
                continue
            names[name] = real
            stored = _stored_shape(leaf, wanted[len(index):], widths)
            if tensors.shape(real) != stored:
                reshaped[real] = tensors.shape(real), stored
    # A tied head may be stored a second time, and a scoring network may still have the language model's head.
    heads = {leaf.name for leaf in family.leaves(dataclasses.replace(spec, tied=False, head=None))
             if leaf.path[0] in ("head", "head_bias")} if spec.encoder is None else set()
    left = sorted(stored_names - set(names.values()))
    passed = [name for name in left if name in heads or name.endswith(family.ignored) or (
        spec.head is None and name.startswith(VALUE_HEADS))]
    return Match(names, sorted(set(missing)), [name for name in left if name not in passed], passed, reshaped)


def _old(name: str) -> str:
    """Returns the name that the first BERT checkpoints have for a parameter of a norm."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def names_of(leaf: TensorMap, spec: ModelSpec) -> list[tuple[tuple[int, ...], str]]:
    """Returns (index in our array, tensor name) of every tensor of a leaf: one, or one per layer (and expert)."""
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
    """Returns the size of the last axis of every tensor that several leaves share."""
    widths: dict[str, int] = {}
    for leaf in leaves:
        if leaf.part is not None:
            widths[leaf.name] = max(widths.get(leaf.name, 0), leaf.groups * leaf.part[1])
    return widths


def _stored_shape(leaf: TensorMap, ours: tuple[int, ...], widths: dict[str, int]) -> tuple[int, ...]:
    """Returns the shape of the tensor that one layer of a leaf is read from."""
    stored = (*ours[:-1], widths.get(leaf.name, ours[-1] if ours else 0))
    return stored[::-1] if leaf.transpose else stored


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
