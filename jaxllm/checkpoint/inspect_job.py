"""`jaxllm inspect`: architecture, size and support of a checkpoint, with the reasons why it is not supported."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.checkpoint.adapters import describe_adapters, inspect_adapters
from jaxllm.checkpoint.sizes import FORMATS, cache_bytes, count_parameters, weight_bytes
from jaxllm.errors import UserError
from jaxllm.files import plain
from jaxllm.model import model_tokenizer
from jaxllm.models import ModelSpec, load_spec, native
from jaxllm.models.families import FAMILIES, architecture, read_all_keys
from jaxllm.models.gguf.header import is_gguf
from jaxllm.models.gguf.tensors import GGUFTensors
from jaxllm.models.loading import check_tied_head, model_config, open_tensors, stored_dtype
from jaxllm.models.matching import match_tensors
from jaxllm.models.peft import adapter_folders
from jaxllm.models.tensors import model_directory


@dataclass(frozen=True)
class Config:
    """Describes a checkpoint without loading its weights, or adapters and their documents.

    Args:
        model: checkpoint directory, GGUF file, Hub id, or tiny; or the directory of an adapter, or of several.
        json: print one JSON object instead of text.
    """

    model: str
    json: bool = False


def run(config: Config) -> None:
    """Runs the job: prints the description."""
    if adapter_folders(config.model) and not (Path(config.model) / "config.json").is_file():
        summary, text = inspect_adapters(config.model), describe_adapters
    else:
        summary, text = inspect(config.model), describe
    print(json.dumps(summary, indent=2, ensure_ascii=False) if config.json else text(summary))


def inspect(model: str) -> dict[str, Any]:
    """Describes a checkpoint as JSON types; `problems` has the reasons why it is not supported.

    Raises:
        UserError: there is no such checkpoint, or no config.json in it.
    """
    path = model_directory(model)
    config, where = model_config(path)
    summary: dict[str, Any] = {"model": str(model), "architecture": architecture(config),
                               "family": config.get("model_type"), "supported": False, "problems": []}
    try:
        spec = load_spec(path)
    except UserError as error:
        return summary | {"problems": [_problem(error)], "supported_families": sorted(FAMILIES)}
    _, passed_over = read_all_keys(config, where)
    summary |= {"spec": _differences(spec),
                "config_passed_over": {name: _short_json(value) for name, value in passed_over.items()},
                "parameters": count_parameters(spec), "bytes": {name: weight_bytes(spec, name) for name in FORMATS},
                "cache_bytes_per_token": cache_bytes(spec),
                "layout": "orbax" if native.is_native(path) else "gguf" if is_gguf(path) else "hf"}
    parts = {"weights": lambda: _weights(path, spec), "tokenizer": lambda: _tokenizer(path, spec)}
    for name, describe_part in parts.items():
        try:
            summary[name], problems = describe_part()
            summary["problems"] += problems
        except UserError as error:
            summary[name] = None
            summary["problems"].append(_problem(error))
    return plain(summary | {"supported": not summary["problems"]})


def _problem(error: UserError) -> str:
    return " ".join(str(error).split())


def _differences(part: Any) -> dict[str, Any]:
    """Returns fields of a spec: all without a default, and the others where they differ from it."""
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)
            if field.default is dataclasses.MISSING or getattr(part, field.name) != field.default}
    return {name: _differences(value) if dataclasses.is_dataclass(value) else value for name, value in fields.items()}


def _weights(path, spec: ModelSpec) -> tuple[dict[str, Any], list[str]]:
    """Describes dtype and names of the stored weights; returns (description, problems)."""
    if native.is_native(path):
        native.check(path, spec)
        return {"dtype": stored_dtype(path), "quantized": native.stored_scheme(path)}, []
    with open_tensors(path, spec) as tensors:
        match = match_tensors(spec, tensors)
        tensors.check_formats()
        if not match.missing:
            check_tied_head(spec, tensors, match)
        weights: dict[str, Any] = {
            "dtype": stored_dtype(path), "tensors": len(tensors.names()), "missing": match.missing,
            "unused": match.unused, "passed_over": match.passed_over,
            "reshaped": {name: [list(shape) for shape in pair] for name, pair in match.reshaped.items()}}
        if isinstance(tensors, GGUFTensors):
            weights["formats"] = tensors.types()
    names = ("missing", "unused", "reshaped")
    problems = [f"{len(weights[name])} tensors are {name}" for name in names if weights[name]]
    return weights, problems


def _tokenizer(path, spec: ModelSpec) -> tuple[dict[str, Any], list[str]]:
    """Describes the tokenizer; returns (description, problems)."""
    tokenizer = model_tokenizer(path, spec)
    fields: dict[str, Any] = {"tokens": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id,
            "adds_bos": tokenizer.adds_bos, "stop_ids": list(tokenizer.stop_ids),
            "chat_template": tokenizer.has_chat_template}
    if tokenizer.beyond_rows:
        fields["without_embedding"] = tokenizer.beyond_rows
    return fields, []


def describe(summary: dict[str, Any]) -> str:
    """Formats the output of `inspect` as text."""
    lines = [f"{summary['model']}: {summary['architecture'] or 'no class named'}, family {summary['family']}"]
    if "spec" in summary:
        counts = summary["parameters"]
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != "total")
        lines += ["", "network", *(f"  {name:<20}{_value(value)}" for name, value in summary["spec"].items()),
                  "", f"parameters          {counts['total']:,} ({parts})", "", "memory of the weights",
                  *(f"  {name:<20}{size / 2**20:,.1f} MiB" for name, size in summary["bytes"].items())]
        if summary["cache_bytes_per_token"]:
            size = summary["cache_bytes_per_token"]
            lines.append(f"  and {size / 2**10:,.1f} KiB a token for the cache, in bfloat16")
        if keys := summary["config_passed_over"]:
            lines += ["", "keys of config.json that change nothing and are passed over",
                      *(f"  {name:<20}{value}" for name, value in keys.items())]
    for name in ("weights", "tokenizer"):
        if summary.get(name):
            lines += ["", name if name != "weights" else f"weights ({summary['layout']})",
                      *(f"  {key:<20}{_value(value)}" for key, value in summary[name].items())]
    lines += ["", "supported           " + ("yes" if summary["supported"] else "no")]
    lines += [f"  {problem}" for problem in summary["problems"]]
    if "supported_families" in summary:
        lines.append("  families: " + ", ".join(summary["supported_families"]))
    return "\n".join(lines)


def _short_json(value: Any, limit: int = 80) -> str:
    """Returns a value of config.json on one line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + " ..."


def _value(value: Any, limit: int = 8) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in list(value.items())[:limit]) or "none"
    if isinstance(value, list | tuple):
        more = f" and {len(value) - limit} more" if len(value) > limit else ""
        return (", ".join(_value(item) for item in value[:limit]) or "none") + more
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
