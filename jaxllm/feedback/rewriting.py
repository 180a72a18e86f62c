"""The lines of ledger and cleaned rows that follow from a decision, for all pairs of a file or block by block."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.errors import UserError
from jaxllm.feedback.data import digest_of, extra_reason
from jaxllm.feedback.ledger import ACTIONS, SOFT, Line, cleaned, columns_of, entry, unpaired
from jaxllm.feedback.sources import CODES
from jaxllm.files import json_lines, jsonable
from jaxllm.text.preferences import FormLine, iter_forms
from jaxllm.text.readers import Block
from jaxllm.text.rows import Rejected, as_text, check_share

BLOCK = 100  # pairs that are written together, few enough for the processor's cache


@dataclass
class Tally:
    """Lines that were read: the number of those that can be used, and the others."""

    used: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Adds later lines."""
        self.used += other.used
        self.rejected += other.rejected

    def check(self, path: str, limit_bad: float) -> None:
        """Raises a `UserError` where there are no lines, or many cannot be used."""
        if not self.used and not self.rejected:
            raise UserError("there are no rows in it", path)
        check_share(self.used, self.rejected, limit_bad)


class Part(NamedTuple):
    """Lines of some pairs: how many have each action, and those of the ledger, the cleaned rows and rows for KTO."""

    counts: collections.Counter[str]
    ledger: bytes
    cleaned: bytes
    unpaired: bytes


@dataclass
class Index:
    """Ids, lines, digests and tags of pairs, with the lines that they are of."""

    ids: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    tags: list[tuple[str, ...]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def add(self, other: Index) -> None:
        """Adds later pairs."""
        for own, more in zip(*((one.ids, one.lines, one.digests, one.tags) for one in (self, other)), strict=True):
            own.extend(more)
        self.tally.add(other.tally)


@dataclass(frozen=True)
class Plan:
    """What is done with the N pairs of a source.

    Attributes:
        source: the file, or a block of its lines.
        limit: usable lines that are read; None for all.
        lines: line of each pair.
        digests: digest of each pair.
        action, value, rule: as in `methods.Decision`.
        rules: names of the rules.
        settings: hash of the config.
        found: votes, voters, bucket, source and quantile of each pair by the audit; empty without one.
        buckets: names of the buckets, the last one for no votes.
    """

    source: str | Path | Block
    limit: int | None
    lines: np.ndarray
    digests: np.ndarray
    action: np.ndarray
    value: np.ndarray
    rule: np.ndarray
    rules: Sequence[str]
    settings: str
    found: Mapping[str, np.ndarray]
    buckets: Sequence[str | None] = ()

    def of(self, source: str | Path | Block) -> Plan:
        """Returns the plan of a block of the source."""
        if not isinstance(source, Block):
            return self
        own = slice(*np.searchsorted(self.lines, (source.first, source.first + len(source.lines))))
        arrays = {name: getattr(self, name)[own] for name in ("lines", "digests", "action", "value", "rule")}
        return replace(self, source=source, found={name: values[own] for name, values in self.found.items()}, **arrays)

    def entries(self, pairs: Iterator[Line]) -> Iterator[tuple[Line, dict[str, Any]]]:
        """Yields the pairs with their lines of the ledger."""
        columns: Iterable[dict[str, Any]] = itertools.repeat({}, len(self.lines))
        if self.found:
            quantiles = [[None if math.isnan(one) else one for one in both]
                         for both in np.round(self.found["quantile"], 6).tolist()]
            columns = (dict(zip(("votes", "voters", "bucket", "source", "quantiles"), own, strict=True)) for own in zip(
                self.found["votes"].tolist(), self.found["voters"].tolist(),
                [self.buckets[n] for n in self.found["bucket"]], [CODES[n] for n in self.found["source"]], quantiles,
                strict=True))
        for line, digest, action, rule, value, found in zip(
                pairs, self.digests.tolist(), self.action.tolist(), self.rule.tolist(), self.value.tolist(), columns,
                strict=True):
            given = round(value, 6) if action >= SOFT and ACTIONS[action] != "unpaired" else None
            yield line, entry(line.row, f"{digest:016x}", ACTIONS[action], self.rules[rule], given,
                              found | {"config": self.settings})


def usable(source: str | Path | Block, limit: int | None, tally: Tally) -> Iterator[FormLine]:
    """Yields the lines of a source that can be used; counts them, and collects the others."""
    for item in iter_forms(source, "paired", limit):
        if isinstance(item, Rejected):
            tally.rejected.append(item)
        elif (reason := extra_reason(item.fields)) is not None:
            tally.rejected.append(Rejected(str(source), item.line, reason, as_text(item.fields)))
        else:
            tally.used += 1
            yield item


def pairs(source: str | Path | Block, limit: int | None, tally: Tally) -> Iterator[Line]:
    """Yields the pairs of these lines with their columns."""
    for item in usable(source, limit, tally):
        yield from (Line(row, columns_of(row, item.form, item.fields)) for row in item.rows)


def index(source: str | Path | Block, limit: int | None) -> Iterator[Index]:
    """Reads ids, lines, digests and tags of the pairs of a source. Yields all of them together."""
    found = Index()
    for item in usable(source, limit, found.tally):
        found.ids += [str(row.id) for row in item.rows]
        found.lines += [item.line] * len(item.rows)
        found.digests += [int(digest_of(row), 16) for row in item.rows]
        found.tags += [tuple(dict.fromkeys(map(str, item.fields.get("tags") or ())))] * len(item.rows)
    yield found


def rewritten(plan: Plan) -> Iterator[Part | Tally]:
    """Yields the lines that follow from a plan, and at the end the tally of those of its source."""
    tally = Tally()
    yield from parts(plan.entries(pairs(plan.source, plan.limit, tally)))
    yield tally


def parts(entries: Iterator[tuple[Line, dict[str, Any]]]) -> Iterator[Part]:
    """Makes the lines of pairs with their lines of the ledger."""
    while block := list(itertools.islice(entries, BLOCK)):
        yield Part(collections.Counter(own["action"] for _, own in block), json_lines(own for _, own in block),
                   json_lines((row for line, own in block if (row := cleaned(line, own)) is not None), jsonable),
                   json_lines((row for line, own in block for row in unpaired(line, own)), jsonable))
