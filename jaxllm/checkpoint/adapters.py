"""Description of adapters and their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxllm.models.peft import PROVENANCE, adapter_folders
from jaxllm.models.tensors import read_json


def inspect_adapters(path: str) -> dict[str, Any]:
    """Describes every adapter of a folder, or the adapter in it, as JSON types.

    Returns:
        `adapters`: for each its folder, rank, alpha, targets, bytes, base model and its provenance, if there is one.
    """
    adapters = []
    for folder in adapter_folders(path):
        config = read_json(folder / "adapter_config.json")
        weights = folder / "adapter_model.safetensors"
        provenance = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else None
        adapters.append({"path": str(folder), "rank": config.get("r"), "alpha": config.get("lora_alpha"),
                         "targets": config.get("target_modules"), "base": config.get("base_model_name_or_path"),
                         "bytes": weights.stat().st_size if weights.is_file() else None, "provenance": provenance})
    return {"model": path, "adapters": adapters}


def describe_adapters(summary: dict[str, Any]) -> str:
    """Formats the output of `inspect_adapters` as text."""
    lines = [f"{summary['model']}: {len(summary['adapters'])} adapters; given as --adapter, their sum is applied", ""]
    for adapter in summary["adapters"]:
        size = "no weights" if adapter["bytes"] is None else f"{adapter['bytes'] / 2**20:.2f} MiB"
        lines.append(f"{Path(adapter['path']).name}  rank {adapter['rank']}, alpha {adapter['alpha']}, {size}, "
                     f"on {adapter['base'] or 'an unnamed base'}")
        provenance = adapter["provenance"] or {}
        lines += [f"      document {document.get('document', '-')}: {document.get('begins', '')!r}"
                  for document in provenance.get("documents", []) if isinstance(document, dict)]
        if provenance:
            lines.append("      " + ", ".join(f"{name} {provenance[name]}" for name in ("setting", "seed", "jaxllm")
                                              if name in provenance))
    return "\n".join(lines)
