"""Description of adapters and their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxllm.models.peft import PROVENANCE, adapter_folders
from jaxllm.models.tensors import read_json


def inspect_adapters(path: str) -> dict[str, Any]:
    """Every adapter of a folder, or the one that it is, as JSON types.

    Returns:
        `adapters`: for each its folder, rank, alpha, targets, bytes, base model and, if it was saved, its provenance.
    """
    found = []
    for folder in adapter_folders(path):
        config = read_json(folder / "adapter_config.json")
        weights = folder / "adapter_model.safetensors"
        known = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else None
        found.append({"path": str(folder), "rank": config.get("r"), "alpha": config.get("lora_alpha"),
                      "targets": config.get("target_modules"), "base": config.get("base_model_name_or_path"),
                      "bytes": weights.stat().st_size if weights.is_file() else None, "provenance": known})
    return {"model": path, "adapters": found}


def describe_adapters(found: dict[str, Any]) -> str:
    """The same as text."""
    lines = [f"{found['model']}: {len(found['adapters'])} adapters; given as --adapter, their sum is applied", ""]
    for one in found["adapters"]:
        size = "no weights" if one["bytes"] is None else f"{one['bytes'] / 2**20:.2f} MiB"
        lines.append(f"{Path(one['path']).name}  rank {one['rank']}, alpha {one['alpha']}, {size}, "
                     f"on {one['base'] or 'an unnamed base'}")
        known = one["provenance"] or {}
        lines += [f"      document {document.get('document', '-')}: {document.get('begins', '')!r}"
                  for document in known.get("documents", []) if isinstance(document, dict)]
        if known:
            lines.append("      " + ", ".join(f"{name} {known[name]}" for name in ("setting", "seed", "jaxllm")
                                              if name in known))
    return "\n".join(lines)
