"""A JSON-lines file of numbers that is right whenever the run stops."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import StorageError
from jaxllm.train.storage import storage_error


class MetricsWriter:
    """Appends one JSON object a line, each with the `step` it belongs to, and buffers none.

    JSON has no NaN and no infinity. Such a value is written as null and named in the line's `nonfinite`
    object: `{"step": 3, "loss": null, "nonfinite": {"loss": "nan"}}`, with "nan", "inf" or "-inf".

    In a run of many processes only one of them makes a writer.

    Args:
        path: of the file; its folder is made if it is not there.
        resume_step: number of steps the run has behind it. Lines of later steps and a line torn off by a
            kill are removed, since the run is about to write them again; 0 starts an empty file.
    """

    def __init__(self, path: str | Path, resume_step: int = 0):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= resume_step]
        # By rename, so that a kill in the middle of this leaves the old lines.
        rewritten = self.path.with_name(self.path.name + ".tmp")
        rewritten.write_text("".join(kept if resume_step else []), encoding="utf-8")
        os.replace(rewritten, self.path)
        self._file = open(self.path, "ab", buffering=0)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the line of `step`: numbers (python, numpy or array scalars), strings, bools or None.

        Raises:
            StorageError: the disk is full.
        """
        line: dict[str, Any] = {"step": int(step)}
        nonfinite = {}
        for name, value in values.items():
            if isinstance(value, str | bool | None):
                line[name] = value
                continue
            number = np.asarray(value).item()
            line[name] = number if math.isfinite(number) else None
            if not math.isfinite(number):
                nonfinite[name] = str(number)
        if nonfinite:
            line["nonfinite"] = nonfinite
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            written = self._file.write(data)
        except OSError as error:
            raise storage_error(error, self.path) or error from error
        if written < len(data):
            raise StorageError(f"{self.path}: no room to write")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file as dicts, without a torn last one; values as written (null is None)."""
    return [json.loads(line) for line in _whole_lines(Path(path))]


def _whole_lines(path: Path) -> list[str]:
    """Lines that end in a newline; an absent file has none."""
    if not path.exists():
        return []
    return [line + "\n" for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
