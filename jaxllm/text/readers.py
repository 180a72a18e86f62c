"""Readers of JSONL, CSV, Parquet, saved and Hub data sets: raw rows with their line numbers, one at a time."""

from __future__ import annotations

import collections
import contextlib
import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jaxllm import assets
from jaxllm.errors import UserError
from jaxllm.parallel import in_order, processes
from jaxllm.text.schema import describe, mismatch, short, type_name

_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
# Most levels of lists and objects in a row; checks and writers of rows recurse over them.
_DEEPEST = 100
Item = TypeVar("Item")
EVERY = range(sys.maxsize)  # numbers of all lines
BLOCK = 1 << 20  # bytes of lines that are read together
LARGE = 20_000_000  # bytes of a file that several processes read in less time than one
_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(/(?P<config>[\w.-]+))?(:(?P<split>[\w.-]+))?")


class Raw(NamedTuple):
    """A row before the schema is checked.

    Fields:
        line: as in `Row`.
        raw: makes the text of the row, for `Rejected`.
        row: its fields, cells of a CSV file, or the reason why it cannot be read.
        clean: no text in it can hold NUL or a lone surrogate.
    """

    line: int
    raw: Callable[[], str]
    row: dict[str, Any] | Cells | str
    clean: bool = False


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a JSONL file, to be read in the file's place.

    Attributes:
        source: the file, as the user named it.
        first: number of the first line.
        lines: the lines.
    """

    source: str
    first: int
    lines: list[bytes]

    def __str__(self) -> str:
        return self.source


def in_blocks(function: Callable[[Any], Iterable[Item]], source: str | Path,
              argument: Callable[[Any], Any] | None = None, whole: bool = False) -> Iterator[Item]:
    """Yields what a function gives of a source; of a large JSONL file block by block, in several processes.

    Args:
        function: takes the source, or a `Block` of its lines; see `parallel.in_order`.
        source: as of `read_raw`.
        argument: makes what `function` takes in place of the source, or of a block.
        whole: never in blocks, such as with a limit of lines.
    """
    path, count = assets.resolve(source), processes()
    lines = path.name.lower().endswith((".jsonl", ".jsonl.gz")) and path.is_file()
    if whole or count == 1 or not lines or path.stat().st_size < LARGE:
        yield from function(source if argument is None else argument(source))
    else:
        blocks: Iterable[Any] = _blocks(str(source), path)
        for items in in_order(partial(_listed, function), blocks if argument is None else map(argument, blocks), count):
            yield from items


def _listed(function: Callable[[Any], Iterable[Item]], argument: Any) -> list[Item]:
    return list(function(argument))


def _blocks(source: str, path: Path) -> Iterator[Block]:
    first, size, lines = 1, 0, list[bytes]()
    for line in _lines(path):
        lines.append(line)
        size += len(line)
        if size >= BLOCK:
            yield Block(source, first, lines)
            first, size, lines = first + len(lines), 0, []
    yield Block(source, first, lines)


def read_raw(source: str | Path | Block, wanted: Container[int] = EVERY) -> Iterator[Raw]:
    """Yields the rows of a source; see `rows.iter_rows`.

    Args:
        source: the source.
        wanted: numbers of the lines that are wanted; others are passed over, without parsing JSON or tables.

    Raises:
        UserError: there is no such file, its type is unknown, or it cannot be read.
    """
    if isinstance(source, Block):
        return _read_jsonl(source.lines, wanted, source.first)
    if not str(source).strip():
        raise UserError("no data file given")
    path = assets.resolve(source)
    name = path.name.lower()
    if path.is_dir():
        return _read_folder(path, wanted)
    if not path.exists():
        hub = _HUB.fullmatch(str(source))
        if hub is None or name.endswith(_SUFFIXES):
            raise UserError("no such file", source)
        return _read_dataset(_load_hub(hub), wanted)
    if not name.endswith(_SUFFIXES):
        raise UserError("unknown file type", source, f"give one of {', '.join(_SUFFIXES)}")
    if name.endswith(".parquet"):
        return _read_parquet(path, wanted)
    if ".csv" in name[-7:]:
        return (raw for raw in _read_csv(path) if raw.line in wanted)
    return _read_jsonl(_lines(path), wanted)


def data_files(source: str | Path) -> list[Path]:
    """Returns the files that hold a source's rows, for `Job.pin_file`; of a Hub data set those in its cache.

    Raises:
        UserError: there is no such file.
    """
    path = assets.resolve(source)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.exists() or not (hub := _HUB.fullmatch(str(source))):
        return [path]
    return sorted(Path(file["filename"]) for file in _load_hub(hub).cache_files)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, plain or gzip, without a byte order mark."""
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise UserError("the text is UTF-16", path, "save it as UTF-8")
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"the gzip file is damaged after line {number}: {error}", path, "download it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", path) from error


def _read_jsonl(lines: Iterable[bytes], wanted: Container[int], first: int = 1) -> Iterator[Raw]:
    for number, line in enumerate(lines, first):
        if number in wanted and (line := line.strip()):
            # JSON refuses control characters, and UTF-8 surrogates: only an escape such as \u0000 can make them.
            yield Raw(number, partial(line.decode, "utf-8", "backslashreplace"), _parse(line),
                       clean=b"\\u" not in line)


def _parse(line: bytes) -> dict | str:
    try:
        row = _load(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return "not usable JSON: nested too deeply"
    except ValueError as error:
        return f"not valid JSON: {error}"
    return row if isinstance(row, dict) else f"expected an object, got {describe(row)}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _load(text: str, decoder: json.JSONDecoder = _DECODER) -> Any:
    """Parses JSON; raises a RecursionError for more than `_DEEPEST` levels too, and a ValueError as `_unique`."""
    value = decoder.decode(text)
    if text.count("[") + text.count("{") > _DEEPEST:
        level = [value]
        for _ in range(_DEEPEST):
            level = [inner for outer in level if isinstance(outer, list | dict)
                     for inner in (outer if isinstance(outer, list) else outer.values())]
        if any(isinstance(inner, list | dict) for inner in level):
            raise RecursionError
    return value


@dataclass(frozen=True)
class Cells:
    """Names and cells of a row of a CSV file, before they are converted to the types of a schema."""

    names: list[str]
    cells: list[str]

    def typed(self, types: Mapping[str, Any]) -> dict | str:
        """Converts the cells; returns the fields of the row, or the reason why it cannot be used."""
        row: dict[str, Any] = {}
        if twice := next((name for name in types if self.names.count(name) > 1), None):
            return f"column {twice!r} appears twice in the header"
        for name, cell in zip(self.names, self.cells, strict=True):
            expected = types.get(name, str)
            if mismatch(cell, expected) is None:
                row[name] = cell
            elif cell.strip():
                try:
                    row[name] = _load(cell.strip(), _STRICT)
                except (ValueError, RecursionError):
                    return f"field {name!r}: expected {type_name(expected)}, got {short(cell)}"
        return row


def _read_csv(path: Path) -> Iterator[Raw]:
    names: list[str] | None = None
    for lines, cells in _records(path):
        number, raw = lines[0][0], partial(_text, *lines)
        if isinstance(cells, str):
            if names is None:
                raise UserError(f"the header cannot be read: {cells}", path,
                                "close every quote, and save the file with line feeds at the ends of lines")
            yield Raw(number, raw, f"not valid CSV: {cells}")
        elif names is None:
            names = cells
        elif len(cells) == len(names):
            yield Raw(number, raw, Cells(names, cells))
        else:  # a stray quote may have joined rows, so each line counts
            joined = f", in the row of lines {number} to {lines[-1][0]}" if len(lines) > 1 else ""
            for line in filter(_text, lines):
                yield Raw(line[0], partial(_text, line), f"{len(cells)} cells under a header of {len(names)}{joined}")


def _records(path: Path) -> Iterator[tuple[list[tuple[int, str]], list[str] | str]]:
    """Yields the rows of a CSV file: their lines, each with its number, and the cells, or the problem of a line.

    A quoted cell may have several lines. Where a quote is never closed, or closed within a text, its line alone is at
    fault: the lines after it are read again, as rows of their own.
    """
    # Bytes that are no UTF-8 become lone surrogates, for which the row is then rejected.
    source = ((number, line.decode("utf-8", "surrogateescape")) for number, line in enumerate(_lines(path), 1))
    again: collections.deque[tuple[int, str]] = collections.deque()
    taken: list[tuple[int, str]] = []

    def feed() -> Iterator[str]:
        while (line := again.popleft() if again else next(source, None)) is not None:
            taken.append(line)
            yield line[1]

    while True:
        taken.clear()
        try:
            with _long_cells():
                cells = next(csv.reader(feed(), strict=True), None)
        except csv.Error as error:
            again.extendleft(reversed(taken[1:]))
            # The csv module has advice for programs.
            yield taken[:1], "a carriage return outside of quotes" if "new-line" in str(error) else str(error)
            continue
        if cells is None:
            return
        if cells:
            yield taken[:], cells


def _text(*lines: tuple[int, str]) -> str:
    """Joins numbered lines into the text of a row."""
    text = "".join(line for _, line in lines).strip("\r\n")
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Lifts the csv module's limit of 128 KiB a cell, which documents exceed; it is global, so it is restored."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path, wanted: Container[int]) -> Iterator[Raw]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            names = collections.Counter(file.schema_arrow.names)
            if twice := next((name for name, count in names.items() if count > 1), None):
                raise UserError(f"the column {twice!r} appears twice", path, "rename or remove one")
            for batch in file.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    number += 1
                    if number in wanted:
                        yield _table_row(number, batch.slice(i, 1).to_pylist)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"the Parquet file cannot be read: {str(error).splitlines()[0]}", path) from error


def _table_row(number: int, get: Callable[[], list[dict]]) -> Raw:
    try:
        [row] = get()
    except UnicodeDecodeError:
        return Raw(number, str, "a text is not valid UTF-8")
    return Raw(number, lambda: json.dumps(row, default=str), row)


def _read_folder(path: Path, wanted: Container[int]) -> Iterator[Raw]:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "dataset_info.json").is_file())
        if len(splits) != 1:
            raise UserError("the folder holds several splits", path, f"give one: {', '.join(splits)}")
        path = path / splits[0]
    if not (path / "dataset_info.json").is_file():
        inside = sorted(p.name for p in path.iterdir() if p.name.lower().endswith(_SUFFIXES))
        raise UserError(
            "not a folder that `datasets` saved",
            path,
            f"give one file: {', '.join(inside[:5])}" if inside else f"give a file: {', '.join(_SUFFIXES)}",
        )
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # readers of damaged files raise many types
        raise UserError(f"the data set cannot be read: {_first_line(error)}", path) from error
    return _read_dataset(data, wanted)


def _load_hub(hub: re.Match) -> Any:
    import datasets

    split = hub["split"] or "train"
    try:
        return datasets.load_dataset(hub["name"], hub["config"], split=split)
    except Exception as error:  # network, names, splits and formats each have their own exceptions
        raise UserError(
            f"neither a local file nor a data set that can be fetched from the Hub: {_first_line(error)}",
            hub[0],
            "check the path; a data set is ORG/NAME[/CONFIG][:SPLIT], from the network or the Hub cache",
        ) from error


def _read_dataset(data: Any, wanted: Container[int]) -> Iterator[Raw]:
    for i in range(len(data)):
        if i + 1 in wanted:
            yield _table_row(i + 1, partial(_rows, data, i))


def _rows(data: Any, index: int) -> list[dict]:
    return [data[index]]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
