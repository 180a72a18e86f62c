"""Preference pairs with what is known of their labels, and scores or votes of committee members, line by line.

Texts stay in memory only where members read them: a file of any length is audited and cleaned in the memory that its
ids and digests take.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.feedback.votes import ABSTAIN, consistent_votes, votes_of_scores
from jaxllm.files import write_jsonl
from jaxllm.parallel import in_order, processes
from jaxllm.progress import notice
from jaxllm.text.audit import NEAR, Audit, Auditor, audit_overlap
from jaxllm.text.forms import PairRow
from jaxllm.text.preferences import FormLine, iter_forms
from jaxllm.text.readers import Block, blocks_of
from jaxllm.text.rows import Rejected, Row, as_text, check_share, iter_rows

CRITERIA = ("helpfulness", "harmlessness")
LARGEST = 1e100  # score; squares of larger ones overflow
DOMAINS = ("helpful", "harmless", "mixed")
DOMAIN = "mixed"  # of a row without one
# What a person may have answered, and its number in files.
ANSWERS: dict[Any, str] = {"chosen": "chosen", "rejected": "rejected", "both_good": "both_good", "both_bad": "both_bad",
                           "tie": "tie", "uncertain": "uncertain", 1: "chosen", -1: "rejected", 0: "tie",
                           None: "uncertain"}


@dataclass(frozen=True)
class Pairs:
    """Pairs of a file, `N` in all.

    Attributes:
        ids: id of each pair, all different as text.
        lines: line of each pair.
        clusters: number of each pair's prompt, or of both answers without one.
        digests: digest of each pair's texts, in hexadecimal.
        first: whether the chosen answer is the first one in an order of texts, `[N]`.
        words: words of the chosen and the rejected answer, `[N, 2]`.
        domains: domain of each pair.
        people: answers of people, of each pair.
        tags: tags of each prompt.
        issues: findings of a check of the data, of each pair.
        audit: findings of that check.
        named: whether all lines have ids of their own.
        rows: the pairs with their texts; None if they are not in memory.
        rejected: lines that cannot be used.
    """

    ids: list[Any]
    lines: list[int]
    clusters: np.ndarray
    digests: list[str]
    first: np.ndarray
    words: np.ndarray
    domains: list[str]
    people: list[tuple[str, ...]]
    tags: list[tuple[str, ...]]
    issues: list[tuple[str, ...]]
    audit: Audit
    named: bool
    rows: list[PairRow] | None
    rejected: list[Rejected]

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def decisions(self) -> np.ndarray:
        """Answer of more than half of the people, `[N]` text; "" without one."""
        known = {own: decision_of(own) for own in set(self.people)}
        return np.array([known[own] for own in self.people], dtype="U12")

    @property
    def domain_numbers(self) -> tuple[list[str], np.ndarray]:
        """Returns the names of the domains as they occur, and the number of each pair's domain in them, `[N]`."""
        numbers: dict[str, int] = {}
        number = np.array([numbers.setdefault(name, len(numbers)) for name in self.domains], np.int32)
        return list(numbers), number

    def index(self) -> dict[str, int]:
        """Returns the number of each id, as text."""
        return {str(name): number for number, name in enumerate(self.ids)}


def read_pairs(path: str | Path, limit: int | None = None, limit_bad: float = 0.1,
               rejected_path: str | Path | None = None, texts: bool = False, seed: int = 0,
               near: float | None = NEAR, compare: str | Path | None = None) -> Pairs:
    """Reads preference pairs, and checks them as `jaxllm check` does.

    Args:
        path: rows `{id?, prompt, chosen, rejected, domain?, human_votes?, tags?}`, or of another form with pairs.
        limit, limit_bad: see `config.DataConfig`.
        rejected_path: file for lines that cannot be used.
        texts: keep the texts.
        seed: seed of intervals.
        near: least similarity of near-duplicates; None searches none.
        compare: second file, of which prompts are searched in the pairs.

    Raises:
        UserError: the file cannot be read, an id occurs twice, or too many lines cannot be used.
    """
    read = functools.partial(_Read.of, limit=limit, near=near, texts=texts)
    blocks = blocks_of(path) if limit is None and processes() > 1 else None
    parts = map(read, [path]) if blocks is None else in_order(read, blocks, processes())
    whole, first = _Read(Auditor("paired", near)), dict[str, int]()
    for part in parts:
        for name, line in zip(part.ids, part.lines, strict=True):
            if (before := first.setdefault(str(name), line)) != line:
                raise UserError(f"the id {name!r} occurs twice, in lines {before} and {line}", path,
                                "give every row an id of its own")
        whole.extend(part)
    ids, rejected, auditor = whole.ids, whole.rejected, whole.auditor
    if rejected_path is not None:
        write_jsonl(rejected_path, map(asdict, rejected))
    if not ids and not rejected:
        raise UserError("there are no rows in it", path)
    check_share(whole.forms.total(), rejected, limit_bad, rejected_path)
    words, answers = auditor.words, auditor.answers
    audit = auditor.finish(rejected, whole.forms, whole.ties, whole.unscored, seed)
    if compare is not None:
        audit_overlap(audit, compare)
    if whole.turned:
        notice(f"{whole.turned:,} rows have a label_probability below one half; votes and probabilities of the audit are "
               "those of the answers as the columns name them")
    _, clusters = np.unique(auditor.clusters, return_inverse=True)
    issues = [audit.of_row(row) for row in range(len(ids))]
    return Pairs(ids, whole.lines, clusters.reshape(-1), whole.digests, answers[:, 0] < answers[:, 1], words,
                 whole.domains, whole.people, whole.tags, issues, audit, whole.named == len(ids),
                 whole.rows if texts else None, rejected)


@dataclass
class _Read:
    """Pairs of a file, or of some of its lines, before rows are compared; fields as of `Pairs` and `PreferenceRows`."""

    auditor: Auditor
    ids: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    people: list[tuple[str, ...]] = field(default_factory=list)
    tags: list[tuple[str, ...]] = field(default_factory=list)
    rows: list[PairRow] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    forms: collections.Counter[str] = field(default_factory=collections.Counter)
    ties: int = 0
    unscored: int = 0
    named: int = 0
    turned: int = 0

    @classmethod
    def of(cls, source: str | Path | Block, limit: int | None, near: float | None, texts: bool) -> _Read:
        """Reads the pairs of a source; arguments as of `read_pairs`."""
        read = cls(Auditor("paired", near))
        for item in iter_forms(source, "paired", limit):
            reason = item.reason if isinstance(item, Rejected) else extra_reason(item.fields)
            if isinstance(item, Rejected):
                read.rejected.append(item)
                continue
            if reason is not None:
                read.rejected.append(Rejected(str(source), item.line, reason, as_text(item.fields)))
                continue
            read.forms[item.form] += 1
            read.ties, read.unscored = read.ties + item.ties, read.unscored + item.unscored
            for row in item.rows:
                read._add(item, row)
                if texts:
                    read.rows.append(row)
        return read

    def _add(self, item: FormLine, row: PairRow) -> None:
        self.auditor.add(item.line, row)
        self.ids.append(row.id)
        self.lines.append(item.line)
        self.digests.append(digest_of(row))
        self.named += item.fields.get("id") is not None
        self.turned += row.label_probability < 0.5
        self.domains.append(item.fields.get("domain") or DOMAIN)
        self.people.append(tuple(ANSWERS[vote] for vote in item.fields.get("human_votes") or ()))
        self.tags.append(tuple(dict.fromkeys(map(str, item.fields.get("tags") or ()))))

    def extend(self, other: _Read) -> None:
        """Adds the pairs of later lines."""
        self.auditor.extend(other.auditor)
        for name in ("ids", "lines", "digests", "domains", "people", "tags", "rows", "rejected"):
            getattr(self, name).extend(getattr(other, name))
        self.forms.update(other.forms)
        for name in ("ties", "unscored", "named", "turned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def extra_reason(row: Mapping[str, Any]) -> str | None:
    """Returns why columns about the label cannot be used, or None."""
    votes, tags, domain = row.get("human_votes"), row.get("tags"), row.get("domain")
    if domain is not None and not isinstance(domain, str):
        return "domain must be a text"
    if votes is not None and not (isinstance(votes, list) and all(
            vote is None or isinstance(vote, str | int) and not isinstance(vote, bool) and vote in ANSWERS
            for vote in votes)):
        names = ", ".join(name for name in ANSWERS if isinstance(name, str))
        return f"human_votes must be a list of {names}, or 1, -1, 0, null"
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        return "tags must be a list of texts"
    return None


def decision_of(answers: Sequence[str]) -> str:
    """Returns the answer of more than half of the people who are not uncertain; "" without one."""
    counts = collections.Counter(answer for answer in answers if answer != "uncertain")
    most = counts.most_common(1)
    return most[0][0] if most and 2 * most[0][1] > sum(counts.values()) else ""


def digest_of(row: PairRow) -> str:
    """Returns a digest of the texts of a pair, by which a ledger knows it again."""
    texts = ", ".join(map(json.dumps, (row.prompt, row.chosen, row.rejected)))  # the text of a list, in less time
    return hashlib.blake2b(f"[{texts}]".encode(), digest_size=8).hexdigest()


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
    scores: array[float] | None = None
    votes: np.ndarray | None = None
    known: bytearray = field(init=False)
    twice: np.ndarray = field(init=False)

    def __post_init__(self):
        self.known, self.twice = bytearray(self.count), np.zeros(self.count, bool)


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
        # Votes are not declared, so that null (no vote) differs from a column that is absent; nor are scores, so that
        # one that is not finite concerns one member.
        for item in iter_rows(path, {"id": Any}, dict.fromkeys(("member", "criterion"), Any)):
            if isinstance(item, Rejected):
                rejected.append(item)
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
            votes = [_from_cell(vote) for vote in votes]
            if not all(vote is None or isinstance(vote, int) and not isinstance(vote, bool) and -1 <= vote <= 1
                       for vote in votes):
                return "a vote must be 1 (agrees with the label), -1 (disagrees), 0 (tie) or null"
            self._put((name, criterion), number, None, votes, item, path)
            return None
        if missing := [side for side in ("chosen", "rejected") if side not in row]:
            return f"field {missing[0]!r} is missing: a line has either a vote, or the scores of both answers"
        both = [_from_cell(row[side]) for side in ("chosen", "rejected")]
        if not all(map(_is_score, both)):
            return "chosen and rejected must be finite numbers (or null)"
        self._put((name, criterion), number, both, None, item, path)
        return None

    def _put(self, key: tuple[str, str | None], number: int | None, scores: Sequence[Any] | None,
             votes: Sequence[Any] | None, item: Row, path: str | Path) -> None:
        if number is None:
            return
        if (column := self._columns.get(key)) is None:
            column = self._columns[key] = _Column(self._count)
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
            if column.scores is None:
                column.scores = array("d", [np.nan]) * (2 * self._count)
            column.scores[2 * number], column.scores[2 * number + 1] = scores

    def members(self) -> Iterator[Member]:
        """Yields the members.

        Raises:
            UserError: a member has scores for some pairs and votes for others.
        """
        if self._unknown:
            notice(f"{self._unknown:,} lines of scores have ids that no row has; they are left out")
        most = max((sum(column.known) for column in self._columns.values()), default=0)
        for (name, criterion), column in self._columns.items():
            if column.scores is not None and column.votes is not None:
                raise UserError(f"member {name!r} has scores for some rows and votes for others", "committee.scores",
                                "give the two different names")
            if (scored := sum(column.known)) < self._count:
                kind = "fewer rows than others" if scored < most else "not all rows"
                notice(f"member {name} has scored {kind}: {scored:,} of {self._count:,}; it abstains on the rest")
            if column.votes is not None:
                orders = column.votes
                in_both = np.where(column.twice[:, None], orders, ABSTAIN).astype(np.int8)
                yield Member(name, criterion, consistent_votes(orders[:, 0], orders[:, 1]), None, "votes",
                             in_both if column.twice.any() else None)
            else:
                scores = np.full((self._count, 2), np.nan) if column.scores is None else np.array(
                    column.scores).reshape(-1, 2)
                yield Member(name, criterion, votes_of_scores(scores, self._tolerance), scores)


def _is_score(value: Any) -> bool:
    return value is None or type(value) in (float, int) and abs(value) <= LARGEST


def _from_cell(value: Any) -> Any:
    """Returns the number in a cell of a CSV file, None in an empty one, and the whole number that a float is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = None if not value.strip() else float(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST else value
