"""Rows of data files as a stream, checked against a schema; a bad row is reported with its reason, never dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.text.readers import EVERY, Block, Cells, data_files, read_raw
from jaxllm.text.schema import Message, NonEmpty, check_row

__all__ = ["Message", "NonEmpty", "Rejected", "Row", "RowSet", "as_text", "check_share", "data_files", "iter_rows",
           "read_rows"]


class Row(NamedTuple):
    """A row that fits its schema.

    Fields:
        line: line of a text file, or number of the row in a table; from 1.
        fields: name -> value; an optional field that is absent or null has no key, undeclared fields are included.
    """

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Rejected:
    """A row that was not used.

    Fields:
        file: source of the row, as the user named it.
        line: line of a text file, or number of the row in a table; from 1.
        reason: the problem.
        raw: the row as text.
    """

    file: str
    line: int
    reason: str
    raw: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class RowSet:
    """Good rows in file order, and the rejected ones.

    Fields:
        rows: fields of each row; see `Row`.
        lines: line (or row number) of each of `rows`, for problems that are detected later.
        rejected: rows that were not used, in file order.
    """

    rows: list[dict[str, Any]]
    lines: list[int]
    rejected: list[Rejected]


def iter_rows(source: str | Path | Block, required: Mapping[str, Any], optional: Mapping[str, Any] | None = None,
              wanted: Container[int] = EVERY) -> Iterator[Row | Rejected]:
    """Yields the rows of a data file in order, each checked against a schema; holds one row in memory.

    A row is rejected when a required field is missing or null, a field has another type than declared, it is
    no valid JSON or UTF-8, or a text in a declared field holds NUL or a lone surrogate. Blank lines are skipped.

    Args:
        source: a .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet file, a folder written by ``save_to_disk``,
            ``"asset:tiny/documents.jsonl"`` for a packaged file, or a Hub data set
            ``ORG/NAME[/CONFIG][:SPLIT]`` (split ``train`` unless given); or lines of a file.
        required: field -> type: str, int, float (takes whole numbers), bool, dict, list[...], ``list[Message]``,
            ``NonEmpty[...]``, a union of these, or Any. Cells of a CSV file are converted; lists in them are JSON.
        optional: as `required`, for fields that may be absent.
        wanted: numbers of the lines that are wanted, all by default; others are passed over.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    schema = {name: (expected, True) for name, expected in required.items()}
    schema |= {name: (expected, False) for name, expected in (optional or {}).items()}
    for line, raw, row, clean in read_raw(source, wanted):
        if isinstance(row, Cells):
            row = row.typed({name: expected for name, (expected, _) in schema.items()})
        if isinstance(row, str):
            yield Rejected(str(source), line, row, raw())
            continue
        reason = check_row(row, schema, clean)
        yield Row(line, row) if reason is None else Rejected(str(source), line, reason, raw())


def read_rows(
    source: str | Path,
    required: Mapping[str, Any],
    optional: Mapping[str, Any] | None = None,
    limit_bad: float = 0.1,
    rejected_path: str | Path | None = None,
    limit: int | None = None,
    refusal: Callable[[dict[str, Any]], str | None] | None = None,
    select: Callable[[dict[str, Any]], bool] | None = None,
) -> RowSet:
    """Reads all rows of `iter_rows` into memory.

    Args:
        source, required, optional: see `iter_rows`.
        limit_bad: share of rejected rows above which the whole file is refused.
        rejected_path: JSONL file to write rejected rows to; written, possibly empty, even when this raises
            for them.
        limit: stop after this many good rows.
        refusal: returns the reason why a row cannot be used, or None.
        select: returns whether a row is wanted; others are passed over.

    Raises:
        UserError: there is no such file, it cannot be read, too many rows are rejected or all are.
        StorageError: `rejected_path` cannot be written because the disk is full.
    """
    rows, lines, rejected, passed = [], [], [], 0
    stream = iter_rows(source, required, optional)
    while limit is None or len(rows) < limit:
        item = next(stream, None)
        if item is None:
            break
        if isinstance(item, Rejected):
            rejected.append(item)
        elif select is not None and not select(item.fields):
            passed += 1
        elif refusal is not None and (reason := refusal(item.fields)) is not None:
            rejected.append(Rejected(str(source), item.line, reason, as_text(item.fields)))
        else:
            rows.append(item.fields)
            lines.append(item.line)
    if rejected_path is not None:
        write_jsonl(rejected_path, map(asdict, rejected))
    if not rows and not rejected:
        raise UserError(f"none of its {passed} rows is selected" if passed else
                        "there are no rows in it", source)
    check_share(len(rows), rejected, limit_bad, rejected_path)
    return RowSet(rows, lines, rejected)


def check_share(good: int, rejected: list[Rejected], limit_bad: float, rejected_path: str | Path | None = None) -> None:
    """Checks that few rows are rejected.

    Args:
        good: number of usable rows.
        rejected: rows that cannot be used.
        limit_bad: largest share of rejected rows.
        rejected_path: file that lists them, for the message.

    Raises:
        UserError: more than `limit_bad` of all rows are rejected, or all.
    """
    total = good + len(rejected)
    if not rejected or (good and len(rejected) / total <= limit_bad):
        return
    listed = "".join(f"\n  {row}" for row in rejected[:3]) + ("\n  ..." if len(rejected) > 3 else "")
    fix = "fix the rows" + ("" if rejected_path is None else f" listed in {rejected_path}")
    raise UserError(f"{len(rejected)} of {total} rows cannot be used{listed}", rejected[0].file,
                    f"{fix}, or increase data.limit_bad ({limit_bad:g})" if good else fix)


def as_text(row: Mapping[str, Any]) -> str:
    """Dumps a row for `Rejected.raw`, at most 1,000 characters."""
    return json.dumps(row, ensure_ascii=False, default=str)[:1000]
