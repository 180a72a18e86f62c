"""The lines of rows.jsonl: findings of a committee on each pair, without texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.feedback.sources import CODES, RULES
from jaxllm.feedback.votes import ABSTAIN
from jaxllm.files import json_lines, write_atomic
from jaxllm.parallel import in_order, processes

BLOCK = 4000  # pairs of which the lines are made together
LARGE = 50_000  # pairs of which several processes make the lines in less time than one


@dataclass(frozen=True)
class Columns:
    """Findings on N pairs.

    Attributes:
        buckets: names of the buckets.
        members: names of the M voting members.
        ids, issues: id of each pair, and issues of the data check.
        numbers: `[N]` each: votes, voters, bucket, source, rule, right, consensus, margin, margin_mean, margin_std;
            quantiles `[N, 2]` and by_member `[N, M]`.
    """

    buckets: Sequence[str]
    members: Sequence[str]
    ids: Sequence[Any]
    issues: Sequence[Sequence[str]]
    numbers: Mapping[str, np.ndarray]

    def block(self, start: int) -> Columns:
        """Returns the findings on the pairs of a block."""
        own = slice(start, start + BLOCK)
        return replace(self, ids=self.ids[own], issues=self.issues[own],
                       numbers={name: values[own] for name, values in self.numbers.items()})


def lines_of(columns: Columns) -> str:
    """Returns the lines of pairs."""
    own = {name: values.tolist() for name, values in columns.numbers.items() if values.dtype.kind != "f"}
    own |= {name: _rounded(values) for name, values in columns.numbers.items() if values.dtype.kind == "f"}
    own["by_member"] = np.where(columns.numbers["by_member"] == ABSTAIN, np.array(None),
                                columns.numbers["by_member"]).tolist()
    rows = (dict(zip(own, values, strict=True)) for values in zip(*own.values(), strict=True))
    return json_lines({
        "id": name, "votes": row["votes"], "voters": row["voters"],
        "bucket": columns.buckets[row["bucket"]] if row["voters"] else None, "source": CODES[row["source"]],
        "rule": RULES[row["rule"]], "label_probability": row["right"], "consensus": row["consensus"],
        "margin": row["margin"], "margin_mean": row["margin_mean"], "margin_std": row["margin_std"],
        "quantiles": row["quantiles"], "by_member": dict(zip(columns.members, row["by_member"], strict=True)),
        "issues": list(issues)} for name, issues, row in zip(columns.ids, columns.issues, rows, strict=True)).decode()


def _rounded(values: np.ndarray) -> list[Any]:
    """Rounds numbers to six digits; NaN becomes None."""
    return np.where(np.isnan(values), np.array(None), np.round(values, 6)).tolist()


def write(path: Path, columns: Columns) -> None:
    """Writes the lines of all pairs."""
    blocks, count = map(columns.block, range(0, len(columns.ids), BLOCK)), processes()
    several = len(columns.ids) >= LARGE and count > 1
    write_atomic(path, in_order(lines_of, blocks, count) if several else map(lines_of, blocks))
