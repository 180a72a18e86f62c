"""Adapters in the format of the PEFT library: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.directories import new_directory
from jaxllm.errors import UserError
from jaxllm.files import write_atomic
from jaxllm.models.adapters import Adapter, linear_shapes, sum_adapters
from jaxllm.models.families import TensorMap, tensor_maps
from jaxllm.models.families.table import cut, fuse
from jaxllm.models.heads import replace_head
from jaxllm.models.matching import lookup
from jaxllm.models.network import init_params
from jaxllm.models.params import Params
from jaxllm.models.spec import Head, ModelSpec
from jaxllm.models.tensors import open_safetensors, read_json, save_tensors

PROVENANCE = "provenance.json"
# What PEFT has no place for: the names of a head's scores, and the padding token that its texts never end in.
ABOUT_HEAD = "score_head.json"
PREFIX = "base_model.model."
# Settings of PEFT under which an adapter is more than `scale * x @ a @ b`, with the value that means "off".
PLAIN = {"use_dora": False, "bias": "none", "lora_bias": False, "layer_replication": None, "use_qalora": False,
         "trainable_token_indices": None, "target_parameters": None, "alora_invocation_tokens": None,
         "use_bdlora": None, "arrow_config": None, "kasa_config": None, "monteclora_config": None}
# `init_lora_weights`: initializations that leave the base weights alone, and those that subtract the initial product
# from them (the first and the third also with a suffix, such as pissa_niter_4; loftq quantizes the base).
BASE_UNCHANGED = ("gaussian", "eva", "orthogonal", "mica")
BASE_CHANGED = ("pissa", "olora", "corda", "loftq", "lora_ga")
# `task_type` of an adapter with a head that may be one for texts; under the others it labels tokens, or nothing.
HEAD_TASKS = ("SEQ_CLS", "CAUSAL_LM", None)
# The way out for an adapter that is more than `scale * x @ a @ b`.
MERGE = ("load base and adapter with PEFT, call merge_and_unload().save_pretrained(DIR), and give DIR as the model, "
         "without an adapter")
MERGE_OWN = f"use the base model that it was trained on; if this is it, {MERGE}"


def _adapted(spec: ModelSpec) -> dict[str, list[TensorMap]]:
    """Returns module names of the checkpoint (with `{i}`) -> the kernels that a module consists of, in order."""
    kernels: dict[str, list[TensorMap]] = collections.defaultdict(list)
    for leaf in tensor_maps(spec):
        if leaf.path[0] == "layers" and leaf.path[-1] == "kernel":
            kernels[leaf.name.removesuffix(".weight")].append(leaf)
    return kernels


def _head_leaves(spec: ModelSpec) -> list[TensorMap]:
    return [leaf for leaf in tensor_maps(spec) if leaf.path[0] == "score"]


def _head_modules(spec: ModelSpec) -> list[str]:
    """Returns the modules of transformers' classifier that are its head: RoBERTa's layers are in one, BERT's are two.
    """
    names = [leaf.name.removesuffix(".weight") for leaf in _head_leaves(spec) if leaf.path[-1] == "kernel"]
    return list(dict.fromkeys("classifier" if name.startswith("classifier.") else name for name in names))


def save_adapter(path: str | Path, spec: ModelSpec, adapter: Adapter, base: str = "",
                 provenance: Mapping[str, Any] | None = None, head: Params | None = None) -> Path:
    """Writes an adapter that PEFT loads on the same base model.

    Where a checkpoint fuses projections (GPT-2's q, k, v), their adapters become one of the summed rank,
    block-diagonal unless they share their first factor. With a scoring head it is an adapter for sequence
    classification; PEFT's base is `AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=...)`, and texts
    are padded with the `pad_token_id` of score_head.json.

    Args:
        path: a directory that does not exist yet, or is empty.
        spec: spec of the base model.
        adapter: layers stacked.
        base: name of the base model, for the record.
        provenance: where the adapter comes from, as JSON types; saved with it in provenance.json.
        head: the scoring head that was trained with it, `params["score"]` of a network with `spec`, saved whole.
    """
    tensors: dict[str, np.ndarray] = {}
    modules, ranks = _adapted(spec), {}
    for module, leaves in modules.items():
        parts = [adapter.params["layers"].get(leaf.path[1], {}).get(leaf.path[2]) for leaf in leaves]
        if all(part is None for part in parts):
            continue
        down, up = _fuse(spec, leaves, parts)
        ranks[module] = down.shape[-1]
        for i in range(spec.layers):
            name = PREFIX + module.format(i=i)
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down[i].T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up[i].T)
    if not tensors:
        raise ValueError("the adapter is empty")
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    # PEFT matches the ends of names: BERT's `output.dense` would also be `attention.output.dense`.
    targets = {module: module.split("{i}.")[-1] for module in ranks}
    patterns = {module: re.escape(module).replace(r"\{i\}", r"\d+") for module, target in targets.items()
                if any(other.endswith(f".{target}") and ranks.get(other) != ranks[module] for other in modules)}
    listed: Any = list(targets.values())
    if patterns:
        listed = "|".join(rf"(.*\.)?{patterns.get(module, re.escape(target))}" for module, target in targets.items())
    others = {patterns.get(module, targets[module]): r for module, r in ranks.items() if r != rank}
    if head is not None:
        for leaf in _head_leaves(spec):
            weights = np.asarray(lookup({"score": head}, leaf.path), np.float32)
            tensors[PREFIX + leaf.name] = np.ascontiguousarray(weights.T if leaf.transpose else weights)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM" if head is None else "SEQ_CLS",
        "base_model_name_or_path": base, "r": rank, "lora_alpha": adapter.scale * rank,
        "lora_dropout": adapter.dropout, "bias": "none", "inference_mode": True,
        "target_modules": listed, "fan_in_fan_out": spec.family == "gpt2", "rank_pattern": others,
        "alpha_pattern": {target: adapter.scale * r for target, r in others.items()},
        "modules_to_save": None if head is None else _head_modules(spec)}
    with new_directory(path) as target:
        save_tensors(target / "adapter_model.safetensors", tensors)
        write_atomic(target / "adapter_config.json", json.dumps(config, indent=2) + "\n")
        if provenance is not None:
            write_atomic(target / PROVENANCE, json.dumps(provenance, indent=2, ensure_ascii=False) + "\n")
        if head is not None:
            about = {"label_names": list(spec.head.label_names), "pad_token_id": spec.pad_id}
            write_atomic(target / ABOUT_HEAD, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return Path(path)


def _fuse(spec: ModelSpec, leaves: list[TensorMap],
          parts: list[dict[str, Any] | None]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factors `[L, in, R]` and `[L, R, out]` of a checkpoint's module from those of its parts."""
    if len(parts) == 1 and parts[0] is not None:
        return np.asarray(parts[0]["a"]), np.asarray(parts[0]["b"])
    shapes = linear_shapes(spec)
    present = [part for part in parts if part is not None]
    downs = [np.asarray(part["a"]) for part in present]
    shared = all(down.shape == downs[0].shape and np.array_equal(down, downs[0]) for down in downs)
    rank = downs[0].shape[-1] if shared else sum(down.shape[-1] for down in downs)
    blocks, row = [], 0
    for leaf, part in zip(leaves, parts, strict=True):
        block = np.zeros((spec.layers, rank, shapes[leaf.path[1], leaf.path[2]][1]), np.float32)
        if part is not None:
            up = np.asarray(part["b"])
            block[:, row:row + up.shape[1]] = up
            row += 0 if shared else up.shape[1]
        blocks.append(block)
    return downs[0] if shared else np.concatenate(downs, -1), fuse(leaves, blocks)


def adapter_folders(path: str | Path) -> list[Path]:
    """Returns the folder itself if it holds an adapter, else the folders in it that do, sorted by name."""
    path = Path(path)
    if (path / "adapter_config.json").is_file():
        return [path]
    # Hidden folders are incomplete: they are being written, or were left by a killed process.
    return sorted(config.parent for config in path.glob("*/adapter_config.json")
                  if not config.parent.name.startswith("."))


def adapter_head(path: str | Path, spec: ModelSpec) -> tuple[ModelSpec, Params | None]:
    """Reads the scoring head that was trained with an adapter, as a module that PEFT saved whole.

    Args:
        path: directory of the adapter, or of several.
        spec: spec of the base model, a language model or a classifier.

    Returns:
        The spec of the scoring network, and the head's float32 parameters, without a hidden layer that was not trained.
        `spec` and None if the adapter has no head.

    Raises:
        UserError: the head is missing or does not fit the model; or one of several adapters has a head.
    """
    folders = adapter_folders(path) or [Path(path)]
    if not any(_has_head(read_json(folder / "adapter_config.json")) for folder in folders):
        return spec, None
    if len(folders) > 1:
        raise UserError("one of the adapters in it has a scoring head, and cannot be added to the others", path,
                        "give the directory of one adapter")
    base, file = spec.head, folders[0] / "adapter_model.safetensors"
    spec = _with_head(spec)
    _check_saved_modules(folders[0] / "adapter_config.json", spec)
    names = {leaf.path: PREFIX + leaf.name for leaf in _head_leaves(spec)}
    with contextlib.ExitStack() as stack:
        stored = open_safetensors(file, stack)
        tensors = {path: np.asarray(stored.get_tensor(name), np.float32) for path, name in names.items()
                   if name in stored.keys()}
    if missing := [name for path, name in names.items() if path not in tensors and (base is None or path[1] == "out")]:
        raise UserError(f"the scoring head is missing: there is no tensor '{missing[0]}'", file,
                        f"save the adapter again with PEFT, with modules_to_save {_head_modules(spec)}")
    labels = len(tensors["score", "out", "kernel"])
    if labels != spec.head.labels:
        spec = _with_head(spec, labels=labels, label_names=())
    spec = _described(folders[0] / ABOUT_HEAD, spec)
    shapes, head = jax.eval_shape(lambda: init_params(spec, jax.random.key(0))), {}
    for leaf in _head_leaves(spec):
        if leaf.path in tensors:
            value = tensors[leaf.path].T if leaf.transpose else tensors[leaf.path]
            if value.shape != (wanted := lookup(shapes, leaf.path).shape):
                raise UserError(f"'{names[leaf.path]}' is {list(value.shape)}, the base model's is {list(wanted)}",
                                file, "use the base model that it was trained on")
            head.setdefault(leaf.path[1], {})[leaf.path[2]] = jnp.asarray(value)
    return spec, head


def _with_head(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Returns the spec with changes of its head; by default a decoder has that of transformers' classifiers."""
    head = spec.head or Head(1, "last", before_padding=True)
    return dataclasses.replace(spec, head=dataclasses.replace(head, **changes))


def _has_head(config: Mapping[str, Any]) -> bool:
    return bool(config.get("modules_to_save")) or config.get("task_type") == "SEQ_CLS"


def _check_saved_modules(where: Path, spec: ModelSpec) -> None:
    """Raises a `UserError` for an adapter with modules that were trained whole, none of which is a scoring head."""
    config = read_json(where)
    modules, task = config.get("modules_to_save") or (), config.get("task_type")
    # PEFT names both for a classifier, whichever the base model has.
    heads = {"score", "classifier", *_head_modules(_with_head(spec))}
    if task != "SEQ_CLS" and modules and not heads & set(modules):
        raise UserError(f"'modules_to_save' = {modules!r}: modules that were trained whole are not supported, except "
                        "for a scoring head", where, MERGE)
    if modules and task not in HEAD_TASKS:
        raise UserError(f"'task_type' = {task!r}: the adapter has a head, and it does not score texts", where)


def _described(file: Path, spec: ModelSpec) -> ModelSpec:
    """Returns the spec with the label names and the padding token that `save_adapter` wrote; PEFT writes none."""
    if not file.is_file():
        return spec
    about = read_json(file)
    names, padding = about.get("label_names"), about.get("pad_token_id")
    if not (isinstance(names, list) and len(names) in (0, spec.head.labels) and isinstance(padding, int | None)):
        raise UserError(f"does not describe a head of {spec.head.labels} labels", file)
    return dataclasses.replace(_with_head(spec, label_names=tuple(map(str, names))), pad_id=padding)


def apply_head(path: str | Path, spec: ModelSpec, params: Params) -> tuple[ModelSpec, Params]:
    """Returns spec and parameters with the scoring head of an adapter, or as they are if it has none.

    The adapter itself is read by `load_adapters`, with the spec returned here.
    """
    spec, head = adapter_head(path, spec)
    return spec, params if head is None else replace_head(params, {**params.get("score", {}), **head})


def load_adapters(path: str | Path, spec: ModelSpec) -> Adapter:
    """Reads an adapter, or all adapters of a folder as one adapter, their sum; see `load_adapter`.

    Raises:
        UserError: as `load_adapter`; and for several adapters without a record that they have the same base model,
            such as the checkpoints of one run of a trainer.
    """
    folders = adapter_folders(path) or [Path(path)]
    if len(folders) == 1:
        return load_adapter(folders[0], spec)
    models = set()
    for folder in folders:
        if not (folder / PROVENANCE).is_file():
            raise UserError(f"{folder.name} has no record of its base model ({PROVENANCE}), and so not whether it is "
                            "to be added to the others", path, "give the directory of one adapter")
        models.add(read_json(folder / PROVENANCE).get("model_fingerprint"))
    if len(models) > 1:
        raise UserError("the adapters in it are of different models", path, "give the directory of one adapter")
    print(f"jaxllm: the sum of {len(folders)} adapters in {path}", file=sys.stderr)
    return sum_adapters([load_adapter(folder, spec) for folder in folders])


def load_adapter(path: str | Path, spec: ModelSpec) -> Adapter:
    """Reads a LoRA adapter that PEFT or `save_adapter` wrote; a scoring head with it is read by `adapter_head`.

    Raises:
        UserError: files missing or damaged, not plain LoRA, or not made for this base model; it has a scoring head, and
            `spec` is that of a language model.
    """
    path = Path(path)
    config = read_json(path / "adapter_config.json")
    where = path / "adapter_config.json"
    if config.get("peft_type") != "LORA":
        raise UserError(f"adapters of type {config.get('peft_type')!r} are not supported, only LORA", where)
    for key, off in PLAIN.items():
        if config.get(key, off) not in (off, None, []):
            raise UserError(f"'{key}' = {config[key]!r} is not supported", where, MERGE)
    _check_initialization(config.get("init_lora_weights", True), where)
    _check_saved_modules(where, spec)
    if _has_head(config) and spec.head is None:
        raise UserError("the adapter has a scoring head, and this model predicts tokens", where, "use jaxllm score")
    if (path / "adapter_model.bin").is_file() and not (path / "adapter_model.safetensors").is_file():
        raise UserError("adapter_model.bin is not read, it can run code", path, "write it as safetensors with PEFT: "
                        "PeftModel.from_pretrained(BASE, DIR).save_pretrained(NEW)")
    with contextlib.ExitStack() as stack:
        stored = open_safetensors(path / "adapter_model.safetensors", stack)
        tensors = {name: np.asarray(stored.get_tensor(name), np.float32) for name in stored.keys()}
    scale = _scale(config, config.get("r"), config.get("lora_alpha"), where)
    layers: dict[str, Any] = {}
    for module, leaves in _adapted(spec).items():
        names = [f"{PREFIX}{module.format(i=i)}.lora_" for i in range(spec.layers)]
        present = [f"{name}{side}.weight" in tensors for name in names for side in "AB"]
        if not any(present):
            continue
        if not all(present):
            raise UserError(f"only some layers of '{module}' are adapted, which is not supported", path, MERGE_OWN)
        down = _stack([tensors.pop(f"{name}A.weight").T for name in names], module, path)
        up = _stack([tensors.pop(f"{name}B.weight").T for name in names], module, path)
        # Modules may have scales of their own; the ratio goes into their second factor.
        scales = np.array([_module_scale(config, module.format(i=i), down.shape[-1], where)
                           for i in range(spec.layers)], np.float32)
        up = up * (scales / scale)[:, None, None]
        shapes = [linear_shapes(spec)[leaf.path[1], leaf.path[2]] for leaf in leaves]
        wanted = shapes[0][0], sum(size for _, size in shapes)
        if (down.shape[1], up.shape[-1]) != wanted:
            raise UserError(f"adapter of '{module}' is {down.shape[1]} x {up.shape[-1]}, the base model's "
                            f"layer {wanted[0]} x {wanted[1]}", path, "use the base model it was trained on")
        for leaf in leaves:
            part = cut(leaf, up)
            layers.setdefault(leaf.path[1], {})[leaf.path[2]] = {"a": jnp.asarray(down), "b": jnp.asarray(part)}
    if _has_head(config):
        heads = [PREFIX + leaf.name for leaf in _head_leaves(spec)]
        tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    if tensors:
        raise UserError(f"{len(tensors)} tensors have no place in this {spec.family} model, for example "
                        f"'{min(tensors)}'", path, MERGE_OWN)
    if not layers:
        raise UserError("the adapter holds no tensors", path)
    return Adapter({"layers": layers}, scale)


def _check_initialization(value: Any, where: Path) -> None:
    """Raises a `UserError` unless the adapter's initialization left the base weights as they are in the checkpoint."""
    name = value.lower() if isinstance(value, str) else value
    if isinstance(name, str) and name.startswith(BASE_CHANGED):
        raise UserError(
            f"'init_lora_weights' = {value!r}: this initialization changed the base weights, and the adapter does not "
            "fit the original ones", where,
            "convert it to a plain adapter when it is saved after training, with PEFT's save_pretrained(DIR, "
            f"path_initial_model_for_weight_conversion=INITIAL); or {MERGE}")
    if not (value is None or isinstance(value, bool) or name in BASE_UNCHANGED):
        raise UserError(f"'init_lora_weights' = {value!r} is not known, and so not whether it changed the base "
                        "weights", where, f"known are true, false, {', '.join((*BASE_UNCHANGED, *BASE_CHANGED))}")


def _stack(parts: list[np.ndarray], module: str, path: Path) -> np.ndarray:
    if len({part.shape for part in parts}) > 1:
        raise UserError(f"ranks of '{module}' differ from layer to layer, which is not supported", path, MERGE)
    return np.stack(parts)


def _scale(config: dict[str, Any], rank: Any, alpha: Any, where: Path) -> float:
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise UserError(f"needs a positive rank and a positive alpha, found r={rank!r}, lora_alpha={alpha!r}", where)
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _module_scale(config: dict[str, Any], module: str, rank: int, where: Path) -> float:
    """Returns the scale of one module of one layer: PEFT's patterns, regular expressions, override rank and alpha."""
    settings = {}
    for key, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise UserError(f"'{key}' must map names to numbers, found {patterns!r}", where)
        settings[default] = next((value for pattern, value in patterns.items()
                                  if re.match(rf"(.*\.)?({pattern})$", module)), config.get(default))
    if settings["r"] != rank:
        raise UserError(f"'{module}' has rank {rank}, the configuration has {settings['r']}", where)
    return _scale(config, settings["r"], settings["lora_alpha"], where)
