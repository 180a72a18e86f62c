"""Tools of a model family: the map from parameters to tensors, and the strict reading of its `config.json`.

A key of `config.json` is either read, checked to have the one supported value, or known not to matter. `unread` decides
about any other key: those that could change what the network computes are an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from jaxllm.errors import UserError
from jaxllm.models.families.unread import may_change_network
from jaxllm.models.spec import Activation, Head, ModelSpec, Rope

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "tanh": "tanh"}
ACTIVATION_NAMES: dict[Activation | None, str] = {
    "silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "tanh": "tanh"}

# Keys of every model that never change what a forward pass computes; see also `unread`.
BOOKKEEPING = frozenset("""
    _attn_implementation _attn_implementation_autoset _name_or_path _num_labels architectures attn_implementation
    auto_map chunk_size_feed_forward dtype finetuning_task id2label initializer_range is_decoder is_encoder_decoder
    label2id model_type num_labels output_past pad_token_id prefix problem_type return_dict task_specific_params
    tf_legacy_loss tokenizer_class torch_dtype torchscript transformers.js_config transformers_version unsloth_fixed
    use_bfloat16 use_cache
""".split())


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """Maps one parameter to its tensors in a Hugging Face checkpoint.

    Attributes:
        path: keys into our parameters.
        name: tensor name; `{i}` is the layer, `{e}` for the expert.
        transpose: the checkpoint holds `[out, in]`.
        part: `(start, stop)` of our part in the last axis (after transposing) of a tensor that several parameters
            share; None is all of it.
        groups: the last axis is that many groups, and `part` is within each (GPT-NeoX: q, k and v of every head).
    """

    path: tuple[str, ...]
    name: str
    transpose: bool = False
    part: tuple[int, int] | None = None
    groups: int = 1


def cut(leaf: TensorMap, whole: Any) -> Any:
    """Returns the mapping's part of the last axis of a (transposed) tensor."""
    if leaf.part is None:
        return whole
    grouped = whole.reshape(*whole.shape[:-1], leaf.groups, -1)[..., slice(*leaf.part)]
    return grouped.reshape(*whole.shape[:-1], -1)


def fuse(leaves: Sequence[TensorMap], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Inverts `cut` for all mappings of one tensor."""
    if leaves[0].part is None:
        return parts[0]
    in_order = sorted(zip(leaves, parts, strict=True), key=lambda pair: pair[0].part or ())
    grouped = [part.reshape(*part.shape[:-1], leaf.groups, -1) for leaf, part in in_order]
    return np.concatenate(grouped, -1).reshape(*parts[0].shape[:-1], -1)


def linear(path: tuple[str, ...], name: str, bias: bool, part: tuple[int, int] | None = None,
           groups: int = 1) -> list[TensorMap]:
    """Returns the maps of a linear layer that torch stores as `[out, in]`."""
    leaves = [TensorMap((*path, "kernel"), f"{name}.weight", True, part, groups)]
    return leaves + [TensorMap((*path, "bias"), f"{name}.bias", False, part, groups)] if bias else leaves


def norm(path: tuple[str, ...], name: str, bias: bool = False) -> list[TensorMap]:
    """Returns the maps of a norm."""
    leaves = [TensorMap((*path, "scale"), f"{name}.weight")]
    return leaves + [TensorMap((*path, "bias"), f"{name}.bias")] if bias else leaves


@dataclasses.dataclass(frozen=True)
class Family:
    """Functions that read and write the checkpoints of one model family.

    Attributes:
        read: `config.json` (through a `Keys`) -> `ModelSpec`.
        write: `ModelSpec` -> `config.json`.
        leaves: `ModelSpec` -> a `TensorMap` for every parameter.
        prefix: prefix of all tensor names but the head's, which some checkpoints lack.
        ignored: suffixes of the names of tensors that hold no parameters (masks, rotary tables).
    """

    read: Callable[[Keys], ModelSpec]
    write: Callable[[ModelSpec], dict[str, Any]]
    leaves: Callable[[ModelSpec], list[TensorMap]]
    prefix: str
    ignored: tuple[str, ...]


class Keys:
    """A `config.json` that records which of its keys were read, to report the others."""

    def __init__(self, config: dict[str, Any], where: Path | str):
        self.config, self.where, self.seen = dict(config), where, set(BOOKKEEPING)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        value = self.config.get(name)
        return default if value is None else value

    def need(self, name: str, expected: type = int) -> Any:
        value = self.get(name)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise UserError(f"config key '{name}' must be {expected.__name__}, found {value!r}", self.where)
        return value

    def whole(self, name: str, default: int, least: int = 0) -> int:
        """Returns a whole number; raises a `UserError` unless it is at least `least`."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"config key '{name}' must be a whole number of at least {least}, found {value!r}",
                            self.where)
        return value

    def only(self, name: str, supported: Any) -> None:
        value = self.get(name, supported)
        if value != supported:
            raise UserError(f"config key '{name}' is {value!r}; only {supported!r} is supported", self.where)

    def ignore(self, *names: str) -> None:
        self.seen.update(names)

    def activation(self, name: str, default: str) -> Activation:
        value = self.get(name, default)
        if value not in ACTIVATIONS:
            raise UserError(f"activation '{value}' is not supported (have: {', '.join(ACTIVATIONS)})", self.where)
        return ACTIVATIONS[value]

    def tokens(self, bos: int | None = None, eos: int | None = None, pad: int | None = None) -> dict[str, Any]:
        """Reads begin, end and padding tokens, for the spec; the arguments are a family's defaults.

        The default padding token is None where it is outside of the vocabulary, as in small models.
        """
        self.ignore("bos_token_id", "eos_token_id")
        end = self.config.get("eos_token_id", eos)
        ids = () if end is None else tuple(end) if isinstance(end, list) else (end,)
        begin, padding = self.config.get("bos_token_id", bos), self.config.get(
            "pad_token_id", pad if pad is not None and pad < self.config.get("vocab_size", 0) else None)
        single = [token for token in (begin, padding) if token is not None]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in (*ids, *single)):
            raise UserError(f"begin, end and padding tokens must be numbers, found {begin!r}, {end!r}, {padding!r}",
                            self.where)
        return {"bos_id": begin, "eos_ids": ids, "pad_id": padding}

    def finish(self, spec: ModelSpec) -> dict[str, Any]:
        """Returns the keys that were not read and are set to a value; raises on those that may change the network."""
        left = {k: v for k, v in sorted(self.config.items()) if k not in self.seen and v is not None}
        listing = ", ".join(f"{key}={value!r}" for key, value in left.items() if may_change_network(key, value, spec))
        if listing:
            raise UserError(
                f"config keys that this library does not know and that may change the network: {listing}",
                self.where, "remove the keys from config.json if they do not change what the model computes")
        return left


def read_head(keys: Keys, token: Literal["first", "last"], *, bias: bool = False, hidden: Activation | None = None,
              name: str = "score") -> Head:
    """Reads the scoring head of a sequence classifier; `id2label` has the names of its scores."""
    names = keys.get("id2label", {})
    labels = keys.get("num_labels", len(names) or 2)
    if not isinstance(names, dict) or names and len(names) != labels:
        raise UserError(f"config key 'id2label' must name {labels} labels, found {names!r}", keys.where)
    if not all(str(index).isdigit() for index in names):
        raise UserError(f"config key 'id2label' must have numbers as keys, found {list(names)}", keys.where)
    ordered = tuple(str(names[index]) for index in sorted(names, key=int))
    plain = all(label == f"LABEL_{i}" for i, label in enumerate(ordered))
    return Head(labels, token, bias, hidden, name=name, label_names=() if plain else ordered)


def read_rope(keys: Keys, default_theta: float = 10_000.0, settings: dict[str, Any] | None = None,
              default_fraction: float | None = None, positions: int = 2048, original: int | None = None) -> Rope:
    """Reads rotary settings in the format of transformers 5 (`rope_parameters`) or 4 (`rope_scaling`).

    Args:
        keys: the configuration.
        default_theta: base of the wavelengths where the config has none.
        settings: the settings themselves, where a family has several; None reads them from the config.
        default_fraction: share of the dimensions that is rotated where the config has none; None for families that
            rotate all of them regardless of the config.
        positions, original: default context window, and default window before it was extended.

    Raises:
        UserError: a type of rope, or a setting of it, that is not supported.
    """
    positions = keys.get("max_position_embeddings", positions)
    settings = rope_settings(keys, keys.get("rope_parameters", {})) if settings is None else _set_values(settings)
    theta = settings.pop("rope_theta", None) or keys.get("rope_theta", default_theta)
    keys.ignore("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    rope_type = settings.pop("rope_type", "default")
    rope_type = "longrope" if rope_type == "su" else rope_type
    fraction = settings.pop("partial_rotary_factor", None) or keys.get("partial_rotary_factor", default_fraction or 1.0)
    if default_fraction is None and fraction != 1.0:
        raise UserError(f"config key 'partial_rotary_factor' is {fraction}; this family rotates all dimensions, "
                        "regardless of it", keys.where, "remove the key")
    given = settings.pop("original_max_position_embeddings", None)
    original = given or keys.get("original_max_position_embeddings", original or positions)
    if rope_type == "default":  # some configs have a factor, which the default type ignores
        settings.pop("factor", None)
    settings.pop("finetuned", None)  # describes the training
    rename = {"short_factor": "short_factors", "long_factor": "long_factors"}
    needed = {"default": (), "linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",),
              "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
              "longrope": ("short_factor", "long_factor")}
    allowed = {"yarn": ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"),
               "longrope": ("factor", "attention_factor")}
    if rope_type not in needed:
        raise UserError(f"rotary positions of type '{rope_type}' are not supported (have: {', '.join(needed)})",
                        keys.where)
    missing = [name for name in needed[rope_type] if name not in settings]
    unknown = [name for name in settings if name not in (*needed[rope_type], *allowed.get(rope_type, ()))]
    if missing or unknown:
        raise UserError(f"rotary positions of type '{rope_type}' lack {missing} or have unknown {unknown}", keys.where)
    fields = {rename.get(name, name): value for name, value in settings.items()}
    if rope_type == "dynamic":  # torch scales relative to the window in the config
        original = positions
    if rope_type == "longrope":
        fields |= {name: tuple(fields[name]) for name in ("short_factors", "long_factors")}
        fields.setdefault("factor", positions / original)
    magnitude = _magnitude(rope_type, fields.pop("attention_factor", None), fields.get("factor", 1.0), original,
                           fields.pop("mscale", None), fields.pop("mscale_all_dim", None))
    if rope_type not in ("default", "linear"):
        fields["original_positions"] = original
    return Rope(float(theta), cast(Any, rope_type), fraction=float(fraction), magnitude=magnitude, **fields)


def rope_settings(keys: Keys, parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings in `parameters`, a value of `rope_parameters`, and in `rope_scaling`.

    Raises:
        UserError: both name a setting, with different values; torch takes one of the two keys.
    """
    scaling, parameters = _set_values(keys.get("rope_scaling", {})), _set_values(parameters)
    if different := [name for name, value in scaling.items() if parameters.get(name, value) != value]:
        raise UserError(f"config keys 'rope_scaling' and 'rope_parameters' differ in {', '.join(different)}",
                        keys.where, "remove one of the two")
    return scaling | parameters


def _set_values(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not null; the type's early name `type` becomes `rope_type`."""
    named = {"rope_type": settings.get("type")} | {k: v for k, v in settings.items() if v is not None}
    return {name: value for name, value in named.items() if name != "type" and value is not None}


def _magnitude(rope_type: str, given: float | None, factor: float, original: int, mscale: float | None,
               mscale_all: float | None) -> float:
    """Returns the factor of cosines and sines: `given`, or the default of the type of rope."""
    if given is not None or rope_type not in ("yarn", "longrope") or factor <= 1:
        return float(given or 1.0)
    if rope_type == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original))
    temperature = lambda scale: 0.1 * scale * math.log(factor) + 1
    return temperature(mscale) / temperature(mscale_all) if mscale and mscale_all else temperature(1.0)


def write_rope(rope: Rope | None) -> dict[str, Any]:
    """Returns rotary settings in the format of transformers 4, which 5 reads as well."""
    scaling: dict[str, Any] = {}
    if rope.kind != "default":
        scaling |= {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind in ("llama3", "yarn", "longrope"):
        scaling["original_max_position_embeddings"] = rope.original_positions
    if rope.kind == "llama3":
        scaling |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, "truncate": rope.truncate}
    if rope.kind == "longrope":
        scaling |= {"short_factor": list(rope.short_factors), "long_factor": list(rope.long_factors)}
    if rope.kind in ("yarn", "longrope"):
        scaling["attention_factor"] = rope.magnitude
    written = {"rope_theta": rope.theta, "rope_scaling": scaling or None}
    return written | ({"partial_rotary_factor": rope.fraction} if rope.fraction != 1.0 else {})


def read_positions(keys: Keys, rope: Rope, default: int) -> int:
    """Reads the context window, in tokens; the config may have that from before it was extended by `rope`."""
    window = keys.get("max_position_embeddings", default)
    if rope.kind == "linear":  # most files have the extended window, some (Vicuna) in a key of its own
        return max(window, keys.whole("max_sequence_length", 0))
    return max(window, int(rope.original_positions * rope.factor)) if rope.kind in ("dynamic", "yarn") else window


def written_positions(spec: ModelSpec) -> int:
    """Returns the context window for `config.json`, relative to which torch scales dynamic rope."""
    return spec.rope.original_positions if spec.rope.kind == "dynamic" else spec.max_positions


def read_window(keys: Keys, layers: int, default: list[bool] | None = None,
                default_window: int | None = None) -> dict[str, Any]:
    """Reads window and local layers, for the spec, from `sliding_window` and `layer_types`.

    Args:
        keys: the configuration.
        layers: number of layers.
        default: for every layer, whether it is local where `layer_types` is missing; None means all.
        default_window: window where the key is missing; a null key means no window.
    """
    window = keys.get("sliding_window", None if "sliding_window" in keys.config else default_window)
    types = keys.get("layer_types")
    if types is not None:
        unknown = set(types) - {"sliding_attention", "full_attention"}
        if unknown:
            raise UserError(f"layers of type '{sorted(unknown)[0]}' are not supported", keys.where)
        local = tuple(layer_type == "sliding_attention" for layer_type in types)
    else:
        local = tuple(default) if default is not None else (True,) * layers
    if window is None or not any(local):
        return {}
    return {"window": window, "local_layers": () if all(local) else local}


def write_window(spec: ModelSpec, name_types: bool = True) -> dict[str, Any]:
    """Inverts `read_window`; `name_types` for families with a list of layer types in the config."""
    types = ["sliding_attention" if layer_type.window else "full_attention" for layer_type in spec.layer_types]
    return {"sliding_window": spec.window} | ({"layer_types": types} if name_types else {})
