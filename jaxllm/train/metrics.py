"""A JSON-lines file of numbers that is complete whenever the run stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm.files import JsonlWriter, read_jsonl


class MetricsWriter:
    """Appends one JSON object a line, each with the `step` it belongs to, and buffers none.

    JSON has no NaN and no infinity. Such a value is written as null and named in the line's `nonfinite`
    object: `{"step": 3, "loss": null, "nonfinite": {"loss": "nan"}}`, with "nan", "inf" or "-inf"; a value
    inside a nested object is named by its path, `agent.loss`.

    In a run of many processes only one of them makes a writer.

    Args:
        path: path of the file; its folder is made if it does not exist.
        resume_step: number of steps made so far. Lines of later steps at the end of the file and a line torn off by a
            kill are removed, since the run is about to write them again; 0 starts an empty file.
        first: number of the first step: 1, or 0 where the run counts so.
    """

    def __init__(self, path: str | Path, resume_step: int = 0, first: int = 1):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not resume_step:
            self.path.unlink(missing_ok=True)
        self._writer = JsonlWriter(self.path, last_step=resume_step - 1 + first)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the line of `step`: numbers (python, numpy or array scalars), strings, bools, None, or mappings and
        lists of them.

        Raises:
            StorageError: the disk is full.
        """
        nonfinite: dict[str, str] = {}
        line = {"step": int(step), **_finite(dict(values), "", nonfinite)}
        self._writer.write({**line, "nonfinite": nonfinite} if nonfinite else line)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _finite(value: Any, path: str, nonfinite: dict[str, str]) -> Any:
    """Replaces NaN and infinities by None and notes them, with their path, in `nonfinite`."""
    join = lambda name: f"{path}.{name}" if path else str(name)
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _finite(inner, join(name), nonfinite) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner, join(i), nonfinite) for i, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite[path] = str(value)
        return None
    return value


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads the lines of a metrics file, without a torn last one; values as written (null is None)."""
    return read_jsonl(path)
