"""What was done with each pair, and the rows that come of it.

A ledger has a line for every pair of the data, in their order: `{id, action, rule, value, config, texts}`, and with an
audit `votes`, `voters`, `bucket`, `source`, `quantiles`. `config` is a hash of the settings, `texts` a digest of the
pair's texts, so that a ledger of another file is recognized. The same function makes the rows of a first run and of a
replay, so that they are the same to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.feedback.data import digest_of
from jaxllm.files import iter_jsonl
from jaxllm.text.forms import PairRow
from jaxllm.text.preferences import COLUMNS

# What is done with a pair; `keep` is first.
ACTIONS = ("keep", "flip", "remove", "soft", "reweight", "margin", "unpaired")
KEEP, FLIP, REMOVE, SOFT, REWEIGHT, MARGIN, UNPAIRED = range(len(ACTIONS))
_OPPOSITE = {"chosen": "rejected", "rejected": "chosen", 1: -1, -1: 1}


@dataclass(frozen=True)
class Line:
    """A pair of the data.

    Attributes:
        row: the pair.
        fields: columns of its line, or of a pair that a scored or ranked line makes.
    """

    row: PairRow
    fields: Mapping[str, Any]


def columns_of(row: PairRow, form: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the columns of a pair: those of its line, untouched, or of the pair itself where a line makes several."""
    if form == "paired":
        return fields
    own = {name: value for name, value in fields.items()
           if name not in ("completions", "scores", "ranks", "chosen", "rejected", "prompt", "id")}
    return {"id": row.id, "prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected, **own}


def entry(row: PairRow, texts: str, action: str, rule: str, value: float | None = None,
          found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes the ledger's line of a pair; `texts` is the digest of its texts, and `found` are further columns."""
    own: dict[str, Any] = {"id": row.id, "action": action, "rule": rule}
    if value is not None:
        own["value"] = value
    return own | dict(found or {}) | {"texts": texts}


def cleaned(line: Line, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Applies a ledger's line to its pair: returns the row, None where it is removed.

    A flip exchanges the answers, and what people answered about them; weight, margin and label probability hold for the
    new label. A label probability below one half turns around: by both it and the flip the rejected answer is better.
    """
    row, action = dict(line.fields), own["action"]
    if action in ("remove", "unpaired"):
        return None
    if action == "flip":
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        if row.get("human_votes"):
            row["human_votes"] = [_OPPOSITE.get(vote, vote) for vote in row["human_votes"]]
        if line.row.label_probability < 0.5:
            row["label_probability"] = 1 - line.row.label_probability
    elif action == "soft":
        row["label_probability"] = own["value"]
    elif action == "reweight":
        row["weight"] = own["value"] * line.row.weight
    elif action == "margin":
        row["margin"] = own["value"]
    return row


def unpaired(line: Line, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Makes the rows for KTO of a pair with two bad answers: both are undesirable.

    They have the pair's weight and its columns that are no part of a form; its label probability and margin compare the
    answers.
    """
    if own["action"] != "unpaired":
        return []
    row = line.row
    more = {name: value for name, value in line.fields.items() if name not in COLUMNS or name == "weight"}
    return [{"id": f"{row.id}/{name}", "prompt": row.prompt, "completion": getattr(row, name), "label": False, **more}
            for name in ("chosen", "rejected")]


def replayed(path: str | Path, lines: Iterator[Line]) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Pairs the lines of the data with those of a ledger.

    Raises:
        UserError: the ledger is of other data, or damaged.
    """
    fix = "give the ledger and the file that were used together, with the same data.limit"
    entries = iter_jsonl(path)
    for number, line in enumerate(lines, 1):
        own = next(entries, None)
        if own is None:
            raise UserError(f"the ledger ends after {number - 1} pairs, and the data goes on", path, fix)
        if missing := {"id", "action", "texts"} - (own.keys() if isinstance(own, dict) else set()):
            raise UserError(f"line {number} has no {sorted(missing)[0]!r}: it is no ledger", path, fix)
        valued = own["action"] in ("soft", "reweight", "margin")
        if own["action"] not in ACTIONS or valued and not isinstance(own.get("value"), int | float):
            raise UserError(f"line {number} has an action that is not known", path, fix)
        if valued and not abs(own["value"]) < math.inf or own["action"] == "soft" and not 0 <= own["value"] <= 1 or (
                own["action"] == "reweight" and own["value"] <= 0):
            raise UserError(f"the value of line {number} is out of range", path, fix)
        if str(own["id"]) != str(line.row.id) or own["texts"] != digest_of(line.row):
            raise UserError(f"line {number} is of the pair {own['id']!r}" + (
                ", which has other texts in the data" if str(own["id"]) == str(line.row.id) else
                f", and the data has the pair {line.row.id!r} there"), path, fix)
        yield line, own
    if next(entries, None) is not None:
        raise UserError("the ledger has more pairs than the data", path, fix)
