"""Files of preference pairs and other fine-tuning data as normalized rows, and their split by prompt.

The forms of rows are those of `forms`; whichever a line has, the rows of a kind have one type.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.text.conversions import Pairing, order_of
from jaxllm.text.forms import (
    FORMS,
    NUMBERS,
    ORDERED,
    AnyRow,
    ClassifyRow,
    Kind,
    PairRow,
    SftRow,
    Text,
    UnpairedRow,
    form_of,
    rows_of,
)
from jaxllm.text.readers import Block
from jaxllm.text.rows import Rejected, Row, as_text, check_share, iter_rows

__all__ = ["AnyRow", "ClassifyRow", "FormLine", "Kind", "PairRow", "PreferenceRows", "SftRow", "Text", "UnpairedRow",
           "cluster_of", "iter_forms", "normalized", "preference_rows", "prompt_of", "read_forms", "split_by_prompt"]

# Columns that forms have, of any type: types are checked with reasons that hold no text of the row.
COLUMNS: dict[str, Any] = dict.fromkeys(("prompt", "chosen", "rejected", "completion", "completions", "label", "scores",
                                         "ranks", "messages", "text", "text_pair", "id", *NUMBERS), Any)
_SAMPLE = 1000


@dataclass(frozen=True)
class PreferenceRows:
    """Rows of one kind.

    Attributes:
        kind: kind of the rows.
        rows: usable rows, in file order; a scored or ranked line may give several.
        lines: line of each of `rows`.
        rejected: lines that cannot be used, in file order.
        forms: number of usable lines of each form.
        ties: pairs of answers of scored or ranked lines with equal scores, which make no row.
        unscored: answers without a score or rank, which make no row.
    """

    kind: Kind
    rows: list[Any]
    lines: list[int]
    rejected: list[Rejected]
    forms: dict[str, int]
    ties: int = 0
    unscored: int = 0


class FormLine(NamedTuple):
    """A line of a data file, as rows of one kind.

    Fields:
        line: number of the line.
        fields: its columns.
        kind: kind of the rows.
        form: form of the line.
        rows: its rows.
        ties, unscored: as in `PreferenceRows`, of this line.
    """

    line: int
    fields: dict[str, Any]
    kind: Kind
    form: str
    rows: list[Any]
    ties: int
    unscored: int


def preference_rows(source: str | Path, kind: Kind, *, limit: int | None = None, limit_bad: float = 0.1,
                    rejected_path: str | Path | None = None, pairing: Pairing = "all") -> PreferenceRows:
    """Reads the rows of a data file as rows of one kind; a line that cannot be used is rejected with its reason.

    Pairs are made of scored and ranked lines; two unpaired rows, or a completion to imitate (`chosen`, or `rejected` at
    a `label_probability` below one half), of a pair.

    Args:
        source, kind, limit, pairing: see `read_forms`.
        limit_bad: share of rejected lines above which the file is refused.
        rejected_path: JSONL file for the rejected lines; written, possibly empty, even when this raises for them.

    Raises:
        UserError: there is no such file, it cannot be read, too many lines are rejected or all are.
    """
    read = read_forms(source, kind, limit, pairing)
    if rejected_path is not None:
        write_jsonl(rejected_path, map(asdict, read.rejected))
    check_share(sum(read.forms.values()), read.rejected, limit_bad, rejected_path)
    return read


def read_forms(source: str | Path, kind: Kind | None = None, limit: int | None = None, pairing: Pairing = "all"
               ) -> PreferenceRows:
    """Reads a data file as `preference_rows` does, regardless of how many lines are rejected.

    Args:
        source: see `rows.iter_rows`.
        kind: paired, unpaired, sft or classify; None takes that of most of the first 1,000 lines.
        limit: stop after this many good lines.
        pairing: pairs of a scored or ranked line; see `conversions.pairs_from_scores`.

    Raises:
        UserError: there is no such file, it cannot be read, or it has no lines.
    """
    rows, lines, rejected, forms, ties, unscored = [], [], [], dict.fromkeys(FORMS, 0), 0, 0
    for item in iter_forms(source, kind, limit, pairing):
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        kind = item.kind
        ties, unscored = ties + item.ties, unscored + item.unscored
        forms[item.form] += 1
        rows += item.rows
        lines += [item.line] * len(item.rows)
    if not rows and not rejected:
        raise UserError("there are no rows in it", source)
    return PreferenceRows(kind or "paired", rows, lines, rejected,
                          {name: n for name, n in forms.items() if n}, ties, unscored)


def iter_forms(source: str | Path | Block, kind: Kind | None = None, limit: int | None = None,
               pairing: Pairing = "all") -> Iterator[FormLine | Rejected]:
    """Yields the lines of a data file as rows of one kind; holds one line in memory. See `read_forms`."""
    stream: Iterator[Row | Rejected] = iter_rows(source, {}, COLUMNS)
    if kind is None:
        first = list(itertools.islice(stream, _SAMPLE))
        kind = _most_frequent([item.fields for item in first if isinstance(item, Row)])
        stream = itertools.chain(first, stream)
    used = 0
    for item in stream:
        if used == limit:
            return
        if isinstance(item, Rejected):
            yield item
            continue
        try:
            made = rows_of(item.fields, kind, item.line, pairing)
        except UserError as error:
            yield Rejected(str(source), item.line, error.what, as_text(item.fields))
            continue
        ties = unscored = 0
        if (form := form_of(item.fields)) in ORDERED:
            values = order_of(item.fields, ORDERED[form][0])
            counts = collections.Counter(value for value in values if value is not None)
            ties, unscored = sum(math.comb(n, 2) for n in counts.values()), values.count(None)
        used += 1
        yield FormLine(item.line, item.fields, kind, form, made, ties, unscored)


def _most_frequent(rows: Sequence[dict[str, Any]]) -> Kind:
    """Returns the kind of the form that most rows have; the earlier one of equally frequent ones."""
    counts = collections.Counter({form: 0 for form in FORMS})
    for row in rows:
        with contextlib.suppress(UserError):
            counts[form_of(row)] += 1
    form = max(counts, key=lambda form: counts[form])
    return "paired" if form in ORDERED else cast(Kind, form)


def normalized(text: Text) -> str:
    """Returns a text by which equal texts are found: NFC, without case, every run of blanks one blank.

    A single turn of the user is its text.
    """
    if isinstance(text, list):
        turns = [f"{turn['role']}: {turn['content']}" for turn in text]
        text = text[0]["content"] if len(text) == 1 and text[0]["role"] == "user" else "\n".join(turns)
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def prompt_of(row: AnyRow) -> str:
    """Returns the normalized prompt of a row; of a text without one the whole, of a conversation what precedes the
    assistant's first turn."""
    if isinstance(row, ClassifyRow):
        return normalized(row.text) + (f"\n{normalized(row.pair)}" if row.pair is not None else "")
    if isinstance(row, SftRow) and row.prompt is None:
        whole = row.completion
        if isinstance(whole, str):
            return normalized(whole)
        first = next((i for i, turn in enumerate(whole) if turn["role"] == "assistant"), len(whole))
        return normalized(whole[:first] or whole)
    return normalized(row.prompt or "")


def cluster_of(row: AnyRow) -> str:
    """Returns the text that dependent rows have in common: the normalized prompt, or of a pair without one the chosen
    answer."""
    return prompt_of(row) or normalized(row.chosen if isinstance(row, PairRow) else "")


def split_by_prompt(rows: Sequence[AnyRow], share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Splits rows so that rows with the same prompt (`cluster_of`) are on the same side.

    Prompts are taken in the order of a hash, which depends on the seed and the prompt alone, until the share is
    reached; a larger share holds the rows of a smaller one.

    Args:
        rows: normalized rows.
        share: share of rows to hold back, at least 0 and below 1.
        seed: seed of the order.

    Returns:
        Indices of the rows for training and of those held back, ascending. With a share above 0 and two prompts or
        more, neither is empty.

    Raises:
        ValueError: the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share must be at least 0 and below 1, got {share}")
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(cluster_of(row), []).append(i)
    order = sorted(groups, key=lambda prompt: hashlib.sha256(f"{seed}\n{prompt}".encode()).digest())
    held: list[int] = []
    for prompt in order[:-1]:
        if len(held) >= share * len(rows):
            break
        held += groups[prompt]
    return sorted(set(range(len(rows))) - set(held)), sorted(held)
