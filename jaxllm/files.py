"""Atomic text files, append-only JSONL files, strict JSON, and YAML files of users."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from jaxllm.errors import StorageError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_PLAIN = {type(None), str, bool, int}  # types of values that are JSON as they are


def expanded(path: str | Path) -> Path:
    """Expands `~` in a path as shells do: a name that no user has is left as it is."""
    return Path(os.path.expanduser(path))


def storage_error(error: BaseException, path: str | Path) -> StorageError | None:
    """Returns the `StorageError` for a full disk, an exceeded quota or a file size limit; None for other errors.

    Args:
        error: an exception raised while writing `path`.
        path: file or directory, for the message.
    """
    if isinstance(error, StorageError):
        return error
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno in _FULL else None
    else:  # tensorstore and safetensors put the code into the text of errors of their own
        codes = {int(code) for code in re.findall(r"os_error_code='(\d+)'|\(os error (\d+)\)", str(error))
                 for code in code if code} & _FULL
        reason = os.strerror(min(codes)) if codes else None
    return None if reason is None else StorageError(f"{path}: cannot be written: {reason}")


def unread(error: BaseException, folder: Path) -> str:
    """Describes in a few words what Orbax could not read of a folder; its own messages print its settings too.

    Args:
        error: an exception raised while reading `folder`.
        folder: the folder; files are named relative to it.
    """
    texts = list[str]()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, json.JSONDecodeError):
            return "a file in it is not valid JSON"
        texts.append(str(cause))
        cause = cause.__cause__
    files = [Path(name) for name in re.findall(r'local file "([^"]+)"', "\n".join(texts))]
    inside = [file.relative_to(folder.absolute()) for file in files if file.is_relative_to(folder.absolute())]
    if named := [file for file in inside if not (folder / file).is_dir()]:
        return f"{named[-1]} is cut, changed or missing"
    return "its arrays cannot be read"


@contextlib.contextmanager
def storage(path: str | Path) -> Iterator[None]:
    """Raises a `StorageError` in place of an error that `storage_error` recognizes; other errors pass."""
    try:
        yield
    except Exception as error:
        if (full := storage_error(error, path)) is None or full is error:
            raise
        raise full from error


def write_atomic(path: str | Path, text: str | Iterable[str]) -> None:
    """Writes a whole text file, or leaves the old one unchanged.

    Args:
        path: the file.
        text: its text, or parts of it, which are written as they come.

    Raises:
        StorageError: the disk is full.
    """
    path = Path(path)
    with storage(path):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.writelines([text] if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_temporary(path: Path) -> bool:
    """Returns whether a killed `write_atomic` left this file."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.partial", path.name) is not None and path.is_file()


class JsonlWriter:
    """Append-only JSONL file; rows are in the file when `write` returns, nothing is buffered.

    Args:
        path: the file. An existing one is continued; an incomplete last line, left by a killed process, is cut off.
        last_step: drop the lines at the end of an existing file with a larger "step", which a resumed run writes
            again. Steps must not decrease along the file, so that only its end is read. None keeps all lines.
    """

    def __init__(self, path: str | Path, last_step: int | None = None):
        self.path = Path(path)
        with storage(self.path):
            self._file = open(self.path, "ab", buffering=0)
            self._end = _whole_lines(self.path)
            if last_step is not None:
                self._end = _end_of_step(self.path, self._end, last_step)
            if self._file.tell() > self._end:
                self._file.truncate(self._end)

    def write(self, *rows: Mapping[str, Any]) -> None:
        """Appends rows, all of them or none.

        Raises:
            ValueError: a row holds NaN, an infinity, or something JSON has no form for.
            StorageError: the disk is full; the file ends with the previous rows.
        """
        self.append("".join(map(_line, rows)).encode("utf-8", "backslashreplace"))

    def append(self, data: bytes) -> None:
        """Appends whole lines, such as those of `json_lines`, all of them or none.

        Raises:
            StorageError: as `write`.
        """
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
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a whole JSONL file atomically, row by row; errors as `JsonlWriter.write`."""
    write_atomic(path, (_line(row).encode("utf-8", "backslashreplace").decode() for row in rows))


def json_lines(rows: Iterable[dict[str, Any]], convert: Callable[[Any], Any] | None = None) -> bytes:
    """Returns the lines that `write_jsonl` writes, in half the time; names in the rows are texts.

    Args:
        rows: the rows.
        convert: converts a row that holds more than JSON types, such as `jsonable`; None is `plain`.

    Raises:
        ValueError: as `JsonlWriter.write`.
    """
    lines = []
    for row in rows:
        try:
            lines.append(_ENCODER.encode(row) + "\n")
        except (TypeError, ValueError):
            lines.append(_line(row if convert is None else convert(row)))
    return "".join(lines).encode("utf-8", "backslashreplace")


def _line(row: Mapping[str, Any]) -> str:
    return _ENCODER.encode(plain(row)) + "\n"


def iter_jsonl(path: str | Path, start: int = 0) -> Iterator[dict]:
    """Yields the rows that a `JsonlWriter` wrote, one at a time; skips an incomplete last line and an absent file.

    Args:
        path: the file.
        start: lines that are passed over first; they are not parsed.

    Raises:
        UserError: a line is not valid JSON.
    """
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number > start and line.endswith(b"\n"):
                yield _parsed(line, f"{path}:{number}")


def read_jsonl(path: str | Path) -> list[dict]:
    """Returns all rows of `iter_jsonl`."""
    return list(iter_jsonl(path))


def count_lines(path: str | Path) -> int:
    """Counts the complete lines of a file without parsing them; an absent file has none."""
    path = Path(path)
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def read_yaml(path: str | Path, what: str) -> Any:
    """Returns the contents of a YAML file.

    Args:
        path: the file.
        what: a noun phrase for it in messages, such as "the template".

    Raises:
        UserError: as `yaml_node`, or it has a date that does not exist.
    """
    root = yaml_node(path, what)
    try:
        return None if root is None else yaml.SafeLoader("").construct_document(root)
    except yaml.YAMLError as error:
        raise _invalid_yaml(error, path) from None
    except ValueError as error:  # such as 2020-13-45
        raise UserError(f"not valid YAML: a date or number: {error}", path, "put texts into quotation marks") from None


def yaml_node(path: str | Path, what: str) -> yaml.Node | None:
    """Returns the root node of a YAML file; None for an empty one.

    Args:
        path: the file.
        what: a noun phrase for it in messages, such as "the template".

    Raises:
        UserError: it cannot be read, holds no valid YAML, or has a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror or error}", path) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not valid UTF-8 at byte {error.start + 1}", path) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _invalid_yaml(error, path) from None
    if twice := repeated_key(root):
        key, line = twice
        raise UserError(f"{key} is given twice", f"{path}:{line}", "remove one")
    return root


def repeated_key(root: yaml.Node | None) -> tuple[str, int] | None:
    """Returns the first key that a mapping has twice, with those above it, and its line; None without one."""
    waiting, seen = [(root, "")], set[int]()
    while waiting:
        node, prefix = waiting.pop()
        if id(node) in seen:  # an alias may be within its own anchor
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, f"{prefix}{number}.") for number, item in reversed([*enumerate(node.value)])]
        elif isinstance(node, yaml.MappingNode):
            names = set[tuple[str, str]]()
            for name, _ in node.value:
                if (name.tag, str(name.value)) in names:
                    return f"{prefix}{name.value}", name.start_mark.line + 1
                names.add((name.tag, str(name.value)))
            waiting += [(value, f"{prefix}{name.value}.") for name, value in reversed(node.value)]
    return None


def _invalid_yaml(error: yaml.YAMLError, path: str | Path) -> UserError:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return UserError(f"not valid YAML: {what}", f"{path}:{mark.line + 1}" if mark else path)


def _parsed(line: bytes, where: str) -> dict:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"the line is damaged: {error}", where,
                        "restore the file, or start again in another directory") from error


def _whole_lines(path: Path) -> int:
    """Returns the length of the file up to the end of its last complete line, in bytes."""
    if not path.is_file():  # a pipe or a device cannot be truncated
        return 0
    with open(path, "rb") as file:
        return _line_start(file, file.seek(0, os.SEEK_END))


def _end_of_step(path: Path, end: int, last_step: int) -> int:
    """Returns the length of the file without the lines of steps after `last_step` at its end, in bytes."""
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        while end:
            start = _line_start(file, end - 1)
            file.seek(start)
            if _parsed(file.read(end - start), str(path))["step"] <= last_step:
                break
            end = start
    return end


def _line_start(file: BinaryIO, end: int) -> int:
    """Returns the offset after the last newline in the first `end` bytes; 0 without a newline."""
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def jsonable(value: Any) -> Any:
    """Converts a value of a user's data to JSON types; nothing is refused.

    Numbers that are not finite become null, as missing values do; what else JSON has no form for, such as times in
    Parquet files, becomes its text.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): v if type(v) in _PLAIN else jsonable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [v if type(v) in _PLAIN else jsonable(v) for v in value]
    if isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return jsonable(dict(value))
    return jsonable(list(value)) if isinstance(value, tuple) else str(value)


def plain(value: Any, where: str = "") -> Any:
    """Converts `value` to JSON types: dataclasses and mappings to dicts, arrays to lists or numbers, paths to text.

    Raises:
        ValueError: it holds NaN, an infinity, or something JSON has no form for; the message names its key.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'value'} is {value}, which JSON cannot hold")
        return float(value)
    if isinstance(value, dict):
        return {str(k): v if type(v) in _PLAIN else plain(v, f"{where}.{k}" if where else str(k))
                for k, v in value.items()}
    if isinstance(value, list):
        return [v if type(v) in _PLAIN else plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str | int):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, where)
    if isinstance(value, Mapping):
        return plain(dict(value), where)
    if isinstance(value, tuple):
        return plain(list(value), where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        return plain(value.tolist(), where)
    raise ValueError(f"{where or 'value'} is a {type(value).__name__}, which JSON cannot hold")
