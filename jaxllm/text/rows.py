"""Rows of a data file, read and checked: a bad row is kept with its reason, never silently dropped."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxllm import assets
from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.text.schema import Message, check_row, describe, kind_name, mismatch, short

__all__ = ["Message", "Rejected", "RowSet", "as_text", "check_share", "read_rows"]

_KINDS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(/(?P<config>[\w.-]+))?(:(?P<split>[\w.-]+))?")


@dataclass(frozen=True)
class Rejected:
    """A row that was not used.

    Fields:
        file: where it came from, as the user named it.
        line: line of a text file, or number of the row in a table; from 1.
        reason: what is wrong with it.
        raw: the row as it stood.
    """

    file: str
    line: int
    reason: str
    raw: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class RowSet:
    """Good rows in file order, and the others.

    Fields:
        rows: fields of each row; an optional field that is absent or null has no key, undeclared ones are
            kept.
        lines: the line (or row number) each of `rows` came from, for what is found wrong with it later.
        rejected: rows that were not used, in file order.
    """

    rows: list[dict[str, Any]]
    lines: list[int]
    rejected: list[Rejected]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers for result.json: rows read, kept and rejected."""
        return {
            "read": len(self.rows) + len(self.rejected),
            "kept": len(self.rows),
            "rejected": len(self.rejected),
        }


def read_rows(
    source: str | Path,
    required: Mapping[str, Any],
    optional: Mapping[str, Any] | None = None,
    limit_bad: float = 0.1,
    rejected_path: str | Path | None = None,
    limit: int | None = None,
) -> RowSet:
    """Reads rows and checks them against a small schema.

    A row is rejected when a required field is missing or null, a field has another type than declared, it is
    no valid JSON or UTF-8, or any text in it holds NUL or a lone surrogate. Blank lines are no rows.

    Args:
        source: a .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet file, a folder written by ``save_to_disk``,
            ``"asset:tiny/documents.jsonl"`` for a packaged file, or a Hub data set
            ``ORG/NAME[/CONFIG][:SPLIT]`` (split ``train`` unless given).
        required: field -> type: str, int, float (takes whole numbers), bool, list[...], ``list[Message]``,
            dict, a union of these, or Any. Cells of a CSV file are converted; lists in them are JSON.
        optional: as `required`, for fields that may be absent.
        limit_bad: share of rejected rows beyond which the whole file is refused.
        rejected_path: JSONL file to write rejected rows to; written, possibly empty, even when this raises
            for them.
        limit: stop after this many good rows.

    Raises:
        UserError: nothing is there, it cannot be read, too many rows are bad or none is good.
        StorageError: `rejected_path` cannot be written because the disk is full.
    """
    schema = {name: (kind, True) for name, kind in required.items()}
    schema |= {name: (kind, False) for name, kind in (optional or {}).items()}
    rows, lines, rejected = [], [], []
    for line, raw, row in _read(source):
        if limit is not None and len(rows) >= limit:
            break
        if isinstance(row, _Cells):
            row = row.typed({name: kind for name, (kind, _) in schema.items()})
        reason = row if isinstance(row, str) else check_row(row, schema)
        if reason is None:
            rows.append(row)
            lines.append(line)
        else:
            rejected.append(Rejected(str(source), line, reason, raw))
    if rejected_path is not None:
        write_jsonl(rejected_path, map(asdict, rejected))
    total = len(rows) + len(rejected)
    if total == 0:
        raise UserError("there are no rows in it", source)
    if not rows or len(rejected) > limit_bad * total:
        first = "".join(f"\n  {r}" for r in rejected[:3]) + ("\n  ..." if len(rejected) > 3 else "")
        if rejected_path is not None:
            first += f"\n  all of them: {rejected_path}"
        raise UserError(
            f"{len(rejected)} of {total} rows cannot be used{first}",
            source,
            "correct the rows"
            if not rows
            else f"correct the rows, or allow a larger share than {limit_bad:g}",
        )
    return RowSet(rows, lines, rejected)


# ---- where rows come from: each reader yields (line, raw text, row), the row being its fields or what is wro


def _read(source: str | Path) -> Iterator[tuple[int, str, Any]]:
    if not str(source).strip():
        raise UserError("no data file given")
    path = assets.resolve(source)
    name = path.name.lower()
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        hub = _HUB.fullmatch(str(source))
        if hub is None or name.endswith(_KINDS):
            raise UserError("no such file", source)
        return _read_hub(hub)
    if not name.endswith(_KINDS):
        raise UserError("not a kind of file that can be read", source, f"give one of {', '.join(_KINDS)}")
    if name.endswith(".parquet"):
        return _read_parquet(path)
    return (_read_csv if ".csv" in name[-7:] else _read_jsonl)(path)


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
            f"the gzip file is damaged after line {number}: {error}", path, "fetch it anew"
        ) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", path) from error


def _read_jsonl(path: Path) -> Iterator[tuple[int, str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if line := line.strip():
            yield number, line.decode("utf-8", "backslashreplace"), _parse(line)


def _parse(line: bytes) -> dict | str:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twice)
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


def _no_twice(pairs: list[tuple[str, Any]]) -> dict:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return row


@dataclass(frozen=True)
class _Cells:
    """A row of a CSV file before its texts are read as the types of a schema."""

    cells: dict[str, str]

    def typed(self, kinds: Mapping[str, Any]) -> dict | str:
        row: dict[str, Any] = {}
        for name, cell in self.cells.items():
            kind = kinds.get(name, str)
            if mismatch(cell, kind) is None:
                row[name] = cell
            elif cell.strip():
                try:
                    row[name] = json.loads(cell.strip(), parse_constant=_no_constant, object_pairs_hook=_no_twice)
                except (ValueError, RecursionError):
                    return f"field {name!r}: expected {kind_name(kind)}, got {short(cell)}"
        return row


def _read_csv(path: Path) -> Iterator[tuple[int, str, Any]]:
    # Bytes that are no UTF-8 become lone surrogates, for which the row is then rejected.
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in _lines(path)), strict=True)
    names: list[str] | None = None
    while True:
        try:
            with _long_cells():
                cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if names is None:
                raise UserError(f"the header cannot be read: {error}", path) from error
            yield reader.line_num, "", f"not valid CSV: {error}"
            continue
        if not cells:
            continue
        if names is None:
            names = cells
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UserError(f"column {twice!r} stands twice in the header", path)
            continue
        raw = json.dumps(cells)
        if len(cells) != len(names):
            yield reader.line_num, raw, f"{len(cells)} cells under a header of {len(names)}"
        else:
            yield reader.line_num, raw, _Cells(dict(zip(names, cells, strict=True)))


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells beyond 128 KiB, which documents are; the limit is the process's, so put
    back.
    """
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path) -> Iterator[tuple[int, str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    number += 1
                    yield _table_row(number, batch.slice(i, 1).to_pylist)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"the Parquet file cannot be read: {str(error).splitlines()[0]}", path) from error


def _table_row(number: int, get: Any) -> tuple[int, str, Any]:
    try:
        [row] = get()
    except UnicodeDecodeError:
        return number, "", "a text is not valid UTF-8"
    return number, json.dumps(row, default=str), row


def _read_folder(path: Path) -> Iterator[tuple[int, str, Any]]:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "dataset_info.json").is_file())
        if len(splits) != 1:
            raise UserError("the folder holds several splits", path, f"give one: {', '.join(splits)}")
        path = path / splits[0]
    if not (path / "dataset_info.json").is_file():
        inside = sorted(p.name for p in path.iterdir() if p.name.lower().endswith(_KINDS))
        raise UserError(
            "not a folder that `datasets` saved",
            path,
            f"give one file: {', '.join(inside[:5])}" if inside else f"give a file: {', '.join(_KINDS)}",
        )
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged files raise whatever the reader of the format raises
        raise UserError(f"the data set cannot be read: {_first_line(error)}", path) from error
    return _read_dataset(data)


def _read_hub(hub: re.Match) -> Iterator[tuple[int, str, Any]]:
    import datasets

    split = hub["split"] or "train"
    try:
        data = datasets.load_dataset(hub["name"], hub["config"], split=split)
    except Exception as error:  # network, names, splits and formats each have their own exceptions
        raise UserError(
            f"neither a file here nor a data set that can be fetched from the Hub: {_first_line(error)}",
            hub[0],
            "check the path; a data set is ORG/NAME[/CONFIG][:SPLIT], from the network or the Hub cache",
        ) from error
    return _read_dataset(data)


def _read_dataset(data: Any) -> Iterator[tuple[int, str, Any]]:
    for i in range(len(data)):
        yield _table_row(i + 1, lambda i=i: [data[i]])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def as_text(row: Mapping[str, Any]) -> str:
    """A row as `Rejected.raw` holds it, the beginning of a long one."""
    return json.dumps(row, ensure_ascii=False, default=str)[:1000]


def check_share(good: int, rejected: list[Rejected], limit_bad: float) -> None:
    """Makes sure that rejected rows are few, for rows that a job itself finds wanting.

    Raises:
        UserError: more than `limit_bad` of all rows are rejected, or all.
    """
    total = good + len(rejected)
    if rejected and (not good or len(rejected) > limit_bad * total):
        raise UserError(f"{len(rejected)} of {total} rows cannot be used; the first: {rejected[0].reason}",
                        f"{rejected[0].file}:{rejected[0].line}",
                        "mend the rows (rejected.jsonl lists them), or raise data.limit_bad")
