"""`jaxllm convert` from a test."""

from __future__ import annotations

import json
from pathlib import Path

from jaxllm.cli import main


def convert(out: Path, *arguments: object, model: object = "tiny") -> dict:
    """Converts a model into `out`, which must succeed, and returns the content of `result.json`."""
    assert main(["convert", "--model", str(model), "--out", str(out), *map(str, arguments)]) == 0
    return json.loads((out / "result.json").read_text())
