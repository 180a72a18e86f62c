"""Preference pairs with what is known of their labels, line by line.

Texts stay in memory only where members read them: a file of any length is audited and cleaned in the memory that its
ids and digests take.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.progress import notice
from jaxllm.statistics import resampled_units
from jaxllm.text.audit import NEAR, Audit, Auditor, audit_overlap
from jaxllm.text.forms import PairRow
from jaxllm.text.preferences import FormLine, iter_forms
from jaxllm.text.readers import Block, in_blocks
from jaxllm.text.rows import Rejected, as_text, check_share

CRITERIA = ("helpfulness", "harmlessness")
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
    def units(self) -> np.ndarray:
        """Number of what an interval resamples, `[N]`: each pair's prompt, or the pair where all have one prompt."""
        return resampled_units(self.clusters)

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
    read = functools.partial(_read, limit=limit, near=near, texts=texts)
    whole, first = _Read(Auditor("paired", near)), dict[str, int]()
    for part in in_blocks(read, path, whole=limit is not None):
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
        notice(f"{whole.turned:,} rows have a label_probability below one half; votes and probabilities of the audit "
               "are those of the answers as the columns name them")
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

    def add(self, item: FormLine, row: PairRow) -> None:
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


def _read(source: str | Path | Block, limit: int | None, near: float | None, texts: bool) -> Iterator[_Read]:
    """Reads the pairs of a source; arguments as of `read_pairs`. Yields all of them together."""
    read = _Read(Auditor("paired", near))
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
            read.add(item, row)
            if texts:
                read.rows.append(row)
    yield read


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
    # The JSON of a list, in less time.
    texts = ", ".join(encode_basestring_ascii(text) if isinstance(text, str) else json.dumps(text)
                      for text in (row.prompt, row.chosen, row.rejected))
    return hashlib.blake2b(f"[{texts}]".encode(), digest_size=8).hexdigest()
