"""Scores and votes of committee members in files, by the ids of the pairs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.errors import UserError
from jaxllm.feedback.data import CRITERIA, Pairs
from jaxllm.feedback.votes import ABSTAIN, consistent_votes, votes_of_scores
from jaxllm.progress import notice
from jaxllm.text.readers import Block, in_blocks
from jaxllm.text.rows import Rejected, Row, as_text, check_share, iter_rows

LARGEST = 1e100  # score; squares of larger ones overflow
_TOGETHER = 1000  # lines of scores that are taken together


@dataclass
class Member:
    """A member of a committee.

    Attributes:
        name: its name.
        criterion: helpfulness or harmlessness; None for the better answer as a whole.
        votes: vote on each pair, `[N]`.
        scores: scores of the chosen and the rejected answer `[N, 2]`, NaN where there are none; None for a member that
            votes.
        kind: kind of the member.
        orders: votes with the chosen answer first and with the rejected one first, `[N, 2]`, of a member that voted in
            both orders.
        verdicts: counts of the verdicts of a judge: `rows`, `invalid`, and the tokens and cost of all attempts.
    """

    name: str
    criterion: str | None
    votes: np.ndarray
    scores: np.ndarray | None = None
    kind: str = "scores"
    orders: np.ndarray | None = None
    verdicts: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """Name with the criterion."""
        return self.name if self.criterion is None else f"{self.name} ({self.criterion})"

    @property
    def directions(self) -> np.ndarray:
        """Votes as numbers `[N]`, NaN where the member abstains; in place of margins where it has no scores."""
        return np.where(self.votes == ABSTAIN, np.nan, self.votes)


@dataclass
class _Column:
    """Scores or votes of a member while a file is read."""

    count: int
    scores: np.ndarray | None = None
    votes: np.ndarray | None = None
    known: np.ndarray = field(init=False)
    twice: np.ndarray = field(init=False)

    def __post_init__(self):
        self.known, self.twice = np.zeros(self.count, bool), np.zeros(self.count, bool)

    def filled(self) -> np.ndarray:
        """Returns the scores, `[N, 2]`, NaN before there are any."""
        if self.scores is None:
            self.scores = np.full((self.count, 2), np.nan)
        return self.scores


class _Wide(NamedTuple):
    """Scores that L lines give, each of the same members.

    Fields:
        keys: name and criterion of each member, `[M]` of them.
        ids, lines: id and number of each line.
        scores: `[L, M, 2]`.
    """

    keys: list[tuple[str, str | None]]
    ids: list[Any]
    lines: list[int]
    scores: np.ndarray


def _score_lines(source: str | Path | Block) -> Iterator[_Wide | Row | Rejected]:
    """Yields the lines of a score file in order: of those with two numbers of each member, up to 1,000 together."""
    keys, ids, lines, values = list[tuple[str, str | None]](), list[Any](), list[int](), list[list[float]]()
    # Votes are not declared, so that null (no vote) differs from a column that is absent; nor are scores, so that
    # one that is not finite concerns one member.
    for item in iter_rows(source, {"id": Any}, dict.fromkeys(("member", "criterion"), Any)):
        own = None if isinstance(item, Rejected) else _plain_scores(item.fields)
        if ids and (own is None or own[0] != keys or len(ids) == _TOGETHER):
            yield _Wide(keys, ids, lines, np.array(values, np.float64).reshape(len(ids), len(keys), 2))
            ids, lines, values = [], [], []
        if own is None or isinstance(item, Rejected):
            yield item
            continue
        keys = own[0]
        ids.append(item.fields["id"])
        lines.append(item.line)
        values.append(own[1])
    if ids:
        yield _Wide(keys, ids, lines, np.array(values, np.float64).reshape(len(ids), len(keys), 2))


def _plain_scores(row: Mapping[str, Any]) -> tuple[list[tuple[str, str | None]], list[float]] | None:
    """Returns name and criterion of each member of a line in wide form, and the scores one after another; None where
    the line has another form, or anything that `Scores` has to check."""
    wide, criterion = row.get("scores"), row.get("criterion")
    if not isinstance(wide, dict) or not wide or criterion is not None and criterion not in CRITERIA:
        return None
    if {type(both) for both in wide.values()} != {list} or {len(both) for both in wide.values()} != {2}:
        return None
    values = list(itertools.chain.from_iterable(wide.values()))
    if not {type(value) for value in values} <= {float, int} or not all(-LARGEST <= one <= LARGEST for one in values):
        return None
    return ([(name, criterion) for name in wide], values) if all(map(str.strip, wide)) else None


class Scores:
    """Collects scores and votes of members from files.

    Args:
        pairs: the pairs.
        tolerance: scores that differ by no more are a tie.
        member: name of the member of rows that name none.

    Raises:
        UserError: the pairs have no ids.
    """

    def __init__(self, pairs: Pairs, tolerance: float = 0.0, member: str | None = None):
        if not pairs.named:
            raise UserError("scores belong to rows by their ids, and some rows have none", "data.path",
                            "give every row an id of its own")
        self._index, self._count, self._tolerance, self._member = pairs.index(), len(pairs), tolerance, member
        self._columns: dict[tuple[str, str | None], _Column] = {}
        self._unknown = 0

    def read(self, path: str | Path, limit_bad: float) -> list[Rejected]:
        """Reads a file: rows `{id, member, chosen, rejected}`, `{id, member, vote, vote_swapped?}`, both with
        `criterion?`, or `{id, scores: {member: [chosen, rejected]}}`. Returns the lines that cannot be used.

        Raises:
            UserError: the file cannot be read, a member has two entries for a pair, or too many lines cannot be used.
        """
        rejected, good, unknown = [], 0, self._unknown
        for item in in_blocks(_score_lines, path):
            if isinstance(item, Rejected):
                rejected.append(item)
            elif isinstance(item, _Wide):
                self._put_all(item, path)
                good += len(item.ids)
            elif reason := self._take(item, path):
                rejected.append(Rejected(str(path), item.line, reason, as_text(item.fields)))
            else:
                good += 1
        check_share(good, rejected, limit_bad)
        if not good:
            raise UserError("there are no scores in it", path)
        if self._unknown - unknown == good:
            raise UserError("none of its ids is that of a row", path, "let the rows and the scores have the same ids")
        return rejected

    def _take(self, item: Row, path: str | Path) -> str | None:
        """Takes a line; returns the reason why it cannot be used."""
        row = item.fields
        number = self._index.get(str(row["id"]))
        if number is None:
            self._unknown += 1
        if (wide := row.get("scores")) is not None:
            if not isinstance(wide, dict) or not wide:
                return "scores must map members to [chosen, rejected]"
            criterion = row.get("criterion")
            if criterion is not None and criterion not in CRITERIA:
                return f"criterion must be one of {', '.join(CRITERIA)}"
            bad = [name for name, both in wide.items() if not name.strip() or not isinstance(both, list)
                   or len(both) != 2 or not all(map(_is_score, both))]
            for name, both in wide.items():
                if name not in bad:
                    self._put((name, criterion), number, both, None, item, path)
            return None if not bad else (f"the scores of {', '.join(map(repr, bad))} must be two finite numbers (or "
                                         "null): [chosen, rejected]")
        name, criterion = row.get("member", self._member), row.get("criterion")
        if not isinstance(name, str) or not name.strip():
            return "field 'member' is missing, or no text"
        if criterion is not None and criterion not in CRITERIA:
            return f"criterion must be one of {', '.join(CRITERIA)}"
        if "vote_swapped" in row and "vote" not in row:
            return "vote_swapped needs vote, that with the chosen answer first"
        if "vote" in row and {"chosen", "rejected"} & row.keys():
            return "a line has either a vote or scores"
        if "vote" in row:
            votes = [row[column] for column in ("vote", "vote_swapped") if column in row]
            votes = [from_cell(vote) for vote in votes]
            if not all(vote is None or isinstance(vote, int) and not isinstance(vote, bool) and -1 <= vote <= 1
                       for vote in votes):
                return "a vote must be 1 (agrees with the label), -1 (disagrees), 0 (tie) or null"
            self._put((name, criterion), number, None, votes, item, path)
            return None
        if missing := [side for side in ("chosen", "rejected") if side not in row]:
            return f"field {missing[0]!r} is missing: a line has either a vote, or the scores of both answers"
        both = [from_cell(row[side]) for side in ("chosen", "rejected")]
        if not all(map(_is_score, both)):
            return "chosen and rejected must be finite numbers (or null)"
        self._put((name, criterion), number, both, None, item, path)
        return None

    def _put(self, key: tuple[str, str | None], number: int | None, scores: Sequence[Any] | None,
             votes: Sequence[Any] | None, item: Row, path: str | Path) -> None:
        if number is None:
            return
        column = self._column(key)
        if column.known[number]:
            raise UserError(f"member {key[0]!r} has two entries for the id {item.fields['id']!r}; line {item.line} is "
                            "the second", path, "leave one of them")
        column.known[number] = True
        if votes is not None:
            if column.votes is None:
                column.votes = np.full((self._count, 2), ABSTAIN, np.int8)
            column.twice[number] = len(votes) == 2
            column.votes[number] = [ABSTAIN if None in votes else vote for vote in (votes[0], votes[-1])]
        elif scores is not None and None not in scores:
            column.filled()[number] = scores

    def _put_all(self, lines: _Wide, path: str | Path) -> None:
        """Takes lines."""
        numbers = np.array([self._index.get(str(name), -1) for name in lines.ids])
        known = np.flatnonzero(numbers >= 0)
        numbers, columns = numbers[known], [self._column(key) for key in lines.keys if len(known)]
        if len(np.unique(numbers)) < len(numbers) or any(column.known[numbers].any() for column in columns):
            # Somewhere here is a second entry.
            for line, name, own in zip(lines.lines, lines.ids, lines.scores.tolist(), strict=True):
                for key, both in zip(lines.keys, own, strict=True):
                    self._put(key, self._index.get(str(name)), both, None, Row(line, {"id": name}), path)
        self._unknown += len(lines.ids) - len(known)
        for place, column in enumerate(columns):
            column.known[numbers] = True
            column.filled()[numbers] = lines.scores[known, place]

    def _column(self, key: tuple[str, str | None]) -> _Column:
        if key not in self._columns:
            self._columns[key] = _Column(self._count)
        return self._columns[key]

    def members(self) -> Iterator[Member]:
        """Yields the members.

        Raises:
            UserError: a member has scores for some pairs and votes for others.
        """
        if self._unknown:
            notice(f"{self._unknown:,} lines of scores have ids that no row has; they are left out")
        most = max((int(column.known.sum()) for column in self._columns.values()), default=0)
        for (name, criterion), column in self._columns.items():
            if column.scores is not None and column.votes is not None:
                raise UserError(f"member {name!r} has scores for some rows and votes for others", "committee.scores",
                                "give the two different names")
            if (scored := int(column.known.sum())) < self._count:
                kind = "fewer rows than others" if scored < most else "not all rows"
                notice(f"member {name} has scored {kind}: {scored:,} of {self._count:,}; it abstains on the rest")
            if column.votes is not None:
                orders = column.votes
                in_both = np.where(column.twice[:, None], orders, ABSTAIN).astype(np.int8)
                yield Member(name, criterion, consistent_votes(orders[:, 0], orders[:, 1]), None, "votes",
                             in_both if column.twice.any() else None)
            else:
                scores = column.filled()
                yield Member(name, criterion, votes_of_scores(scores, self._tolerance), scores)


def _is_score(value: Any) -> bool:
    return value is None or type(value) in (float, int) and abs(value) <= LARGEST


def from_cell(value: Any) -> Any:
    """Returns the number in a cell of a CSV file, None in an empty one, and the whole number that a float is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = None if not value.strip() else float(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST else value
