"""Instances: a context and items, of which a judge compares every two; perhaps with what people prefer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.consistency.comparisons import key_of
from jaxllm.generate.rows_job import ID
from jaxllm.progress import notice
from jaxllm.text.rows import RowSet, read_rows

_JUDGED: dict[str, Any] = {"id": ID, "context": str, "human": list[Any]}
_MATRIX: dict[str, Any] = {"id": ID, "q": list[list[Any]], "human": list[Any], "items": list[str],
                           "mass": list[list[Any]], "positions": list[int], "votes": list[list[Any]],
                           "compared": list[list[Any]]}


@dataclass(frozen=True)
class Instance:
    """Items to compare.

    Attributes:
        id: identifier, unique in a run; by default the number of the line.
        context: text that all comparisons share, such as an article.
        items: texts of the items; "" for a matrix without them.
        human: scores of the items, or pairs (i, j) of which i is before j; empty without any.
        p, q, mass: answers of a matrix, `[N, N]`, NaN where missing; None for instances to judge.
        votes: number of valid samples of which p is the share for the first slot, `[N, N]`; None for probabilities.
        compared: ordered pairs that the judge was given, `[N, N]`; None for all.
        positions: order of the items by which the graph is built, `[N]`; None for the order of `items`.
        line: line of its row in the file, from 1.
    """

    id: str | int | float
    context: str
    items: tuple[str, ...]
    human: Sequence[Any] = ()
    p: np.ndarray | None = None
    q: np.ndarray | None = None
    mass: np.ndarray | None = None
    votes: np.ndarray | None = None
    compared: np.ndarray | None = None
    positions: np.ndarray | None = None
    line: int = 0

    @cached_property
    def key(self) -> int:
        """Number for seeds; see `key_of`."""
        return key_of(self.id)

    @cached_property
    def order(self) -> np.ndarray | None:
        """Preferences of people, `[N, N]`: 1 where the item of the row is before that of the column, -1 the other way
        round, 0 where they are equal, NaN where it is not known; None without any."""
        if not self.human:
            return None
        count = len(self.items)
        if isinstance(self.human[0], list):
            order = np.full((count, count), np.nan, np.float32)
            for better, worse in self.human:
                order[better, worse], order[worse, better] = 1, -1
            return order
        scores = np.array([np.nan if one is None else one for one in self.human], np.float64)
        return np.sign(scores[:, None] - scores).astype(np.float32)

    @property
    def answers(self) -> np.ndarray:
        """The matrix p of an instance that was judged."""
        assert self.p is not None, "the instance was not judged"
        return self.p

    @cached_property
    def sampled(self) -> bool:
        """Whether the matrix p has votes or single decisions, of which as many may be for one slot as for the other."""
        p = self.answers
        return self.votes is not None or bool(((p == 0) | (p == 1) | np.isnan(p)).all())

    @property
    def repeated(self) -> int:
        """Number of items with the text of an earlier item."""
        return 0 if self.items and not any(self.items) else len(self.items) - len(set(self.items))


def read_instances(path: str | Path, limit: int | None = None, limit_bad: float = 0.1,
                   rejected_path: Path | None = None) -> tuple[list[Instance], RowSet]:
    """Reads rows `{id?, context?, items, human?}`.

    `human` is one score for each item, higher for better ones, or pairs `[[i, j], ...]`, item i before item j.

    Args:
        path, limit, limit_bad, rejected_path: as in `rows.read_rows`.

    Raises:
        UserError: the file cannot be read, or too many rows cannot be used.
    """
    return _read(path, limit, limit_bad, rejected_path, {"items": list[str]}, _JUDGED, _items_problem)


def read_matrices(path: str | Path, limit: int | None = None, limit_bad: float = 0.1,
                  rejected_path: Path | None = None) -> tuple[list[Instance], RowSet]:
    """Reads rows `{id?, p, q?, human?, items?, mass?, votes?, compared?, positions?}`, such as the rows.jsonl of an
    earlier run.

    `p[i][j]` is the probability that the judge picks the item that is shown first, where i is shown first and j second;
    null where it is missing. `q` is the same for the negated question. Where `p` is a share of samples, `votes[i][j]`
    is their number. `compared[i][j]` is false for pairs without an answer by intention. Diagonals are ignored.

    Args:
        path, limit, limit_bad, rejected_path: as in `rows.read_rows`.

    Raises:
        UserError: the file cannot be read, or too many rows cannot be used.
    """
    return _read(path, limit, limit_bad, rejected_path, {"p": list[list[Any]]}, _MATRIX, _matrix_problem)


def notice_repeated(instances: Sequence[Instance]) -> int:
    """Counts the items with the text of an earlier item of their instance, and prints a line if there are any."""
    if repeated := sum(instance.repeated for instance in instances):
        notice(f"{repeated} items have the text of another item of their instance: their comparison means nothing")
    return repeated


def _read(path, limit, limit_bad, rejected_path, required, optional, problem) -> tuple[list[Instance], RowSet]:
    seen: set[str] = set()

    def refusal(row: dict[str, Any]) -> str | None:
        reason = problem(row)
        if reason is None and "id" in row:
            if str(row["id"]) in seen:
                return f"a second row with the id {row['id']!r}"
            seen.add(str(row["id"]))
        return reason

    found = read_rows(path, required, optional, limit_bad, rejected_path, limit, refusal)
    return [_instance(row, row.get("id", line if str(line) not in seen else f"line {line}"), line)
            for line, row in zip(found.lines, found.rows, strict=True)], found


def _items_problem(row: Mapping[str, Any]) -> str | None:
    items = row["items"]
    if len(items) < 2:
        return f"there are {len(items)} items: two are needed for a comparison, three for a cycle"
    if empty := [number for number, text in enumerate(items) if not text.strip()]:
        return f"item {empty[0]} is empty"
    return _human_problem(row.get("human"), len(items))


def _matrix_problem(row: Mapping[str, Any]) -> str | None:
    count = len(row["p"])
    if count < 2:
        return f"p has {count} items: two are needed for a comparison, three for a cycle"
    number = lambda value, kind: isinstance(value, kind) and not isinstance(value, bool)
    probability = ("neither a probability from 0 to 1 nor null",
                   lambda value: value is None or number(value, int | float) and 0 <= value <= 1)
    for name, (wanted, fits) in {"p": probability, "q": probability, "mass": probability,
                                 "votes": ("not a number of samples", lambda value: number(value, int) and value >= 0),
                                 "compared": ("neither true nor false", lambda value: isinstance(value, bool))}.items():
        matrix = row.get(name)
        if matrix is None:
            continue
        if len(matrix) != count or any(len(line) != count for line in matrix):
            return f"{name} is not square, with {count} rows and columns"
        for i, line in enumerate(matrix):
            for j, value in enumerate(line):
                if i != j and not fits(value):
                    return f"{name}[{i}][{j}] is {value!r}, {wanted}"
    if "items" in row and len(row["items"]) != count:
        return f"there are {len(row['items'])} items, and {count} rows in p"
    if "positions" in row and sorted(row["positions"]) != list(range(count)):
        return f"positions are no order of {count} items"
    return _human_problem(row.get("human"), count)


def _human_problem(human: Sequence[Any] | None, count: int) -> str | None:
    if not human:
        return None
    if all(isinstance(one, list) for one in human):
        for pair in human:
            if len(pair) != 2 or any(isinstance(one, bool) or not isinstance(one, int) for one in pair):
                return f"human has {pair!r}, which is no pair of numbers of items"
            if not all(0 <= one < count for one in pair) or pair[0] == pair[1]:
                return f"human has the pair {pair!r}, and items are 0 to {count - 1}"
        pairs = {tuple(pair) for pair in human}
        if both := next((pair for pair in pairs if pair[::-1] in pairs), None):
            return f"human has both {list(both)} and {list(both[::-1])}"
        return None
    if any(one is not None and (isinstance(one, bool) or not isinstance(one, int | float)) for one in human):
        return "human is neither a score for each item nor a list of pairs [i, j]"
    if any(one is not None and not _is_finite(one) for one in human):
        return "human has a score that is not finite"
    if len(human) != count:
        return f"human has {len(human)} scores for {count} items"
    return None


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _instance(row: Mapping[str, Any], name: str | int | float, line: int) -> Instance:
    matrix = lambda key, diagonal=np.nan, dtype=np.float32: None if key not in row else np.array(
        [[diagonal if i == j else np.nan if value is None else value for j, value in enumerate(line)]
         for i, line in enumerate(row[key])], dtype)
    p = matrix("p") if "p" in row else None
    items = tuple(row["items"]) if "items" in row else ("",) * (0 if p is None else len(p))
    positions = None if "positions" not in row else np.array(row["positions"], np.int32)
    return Instance(name, row.get("context", ""), items, row.get("human") or (), p, matrix("q"), matrix("mass"),
                    matrix("votes", 0, np.int32), matrix("compared", False, bool), positions, line)
