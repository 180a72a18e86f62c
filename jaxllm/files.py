"""Files that are whole or not there at all, and JSON that any reader accepts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxllm.errors import StorageError, UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage(path: str | Path) -> Iterator[None]:
    """Turns "no space left" while writing `path` into a StorageError that says so; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageError(f"{path}: cannot be written: {os.strerror(error.errno)}") from error
        raise


def write_atomic(path: str | Path, text: str) -> None:
    """Writes a whole text file or leaves what was there.

    Raises:
        StorageError: the disk is full.
    """
    path = Path(path)
    with storage(path):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class JsonlWriter:
    """Appends rows to a JSONL file, each whole and in the file when `write` returns.

    Args:
        path: the file. One that exists is continued; half a line at its end, left by a killed run, is cut
            off.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with storage(self.path):
            self._file = open(self.path, "ab", buffering=0)
            self._end = _whole_lines(self.path)
            if self._file.tell() > self._end:
                self._file.truncate(self._end)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row.

        Raises:
            ValueError: the row holds NaN, an infinity, or something JSON has no form for.
            StorageError: the disk is full; the file ends with the row before.
        """
        data = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        with storage(self.path):
            try:
                written = 0
                while written < len(data):  # a nearly full disk takes a part and refuses the rest
                    written += self._file.write(data[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                raise
        self._end += len(data)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a whole JSONL file atomically; errors as `JsonlWriter.write`."""
    lines = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomic(path, "".join(lines).encode("utf-8", "backslashreplace").decode())


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows that a `JsonlWriter` wrote; half a line at the end is left out, no file is no rows.

    Raises:
        UserError: a line is not what was written.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes()[: _whole_lines(path)].split(b"\n")[:-1], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"the line is damaged: {error}", f"{path}:{number}",
                            "restore the file, or start anew in another directory") from error
    return rows


def _whole_lines(path: Path) -> int:
    """Length of the file up to the end of its last whole line, in bytes."""
    if not path.is_file():  # a pipe or a device has no lines to go back to
        return 0
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def plain(value: Any, where: str = "") -> Any:
    """`value` as JSON types: dataclasses and mappings to dicts, arrays to lists or numbers, paths to text.

    Raises:
        ValueError: it holds NaN, an infinity, or something JSON has no form for; the message names its key.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'value'} is {value}, which JSON cannot hold")
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}.{k}" if where else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        return plain(value.tolist(), where)
    raise ValueError(f"{where or 'value'} is a {type(value).__name__}, which JSON cannot hold")
