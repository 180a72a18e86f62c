"""Audit of fine-tuning data before training: duplicates, contradictions, length bias, balance, overlap with a file.

Nothing here returns a text of a row: lines and reasons only, since rows may hold what must not be in a report.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxllm.errors import UserError
from jaxllm.statistics import clustered
from jaxllm.text.forms import ORDERED, ClassifyRow, Kind, PairRow, SftRow, Text, UnpairedRow, form_of, rows_of
from jaxllm.text.preferences import COLUMNS, PreferenceRows, normalized, prompt_of
from jaxllm.text.rows import Row, iter_rows

# Issue -> what it means, in the order of reports.
ISSUES = {
    "rejected": "rejected lines",
    "duplicate": "duplicates of an earlier row",
    "contradiction": "contradictions: the same rows with opposite labels",
    "both": "answers that are chosen in one row and rejected in another",
    "contained": "pairs of which one answer contains the other",
    "roles": "prompts in which a role repeats",
    "overlap": "rows with a prompt of the compared file",
    "control": "rows that spell control tokens, which are read as ordinary text",
    "too_long": "rows that are dropped for their length",
    "cut": "rows with a completion or prompt that is cut",
    "refused": "rows that the tokenizer or its chat template refuses",
}


@dataclass
class Audit:
    """Findings on a file.

    Attributes:
        result: numbers, for result.json.
        issues: (issue, reason) of lines that have any, by line; issues are keys of `ISSUES`.
        ids: ids of usable lines.
    """

    result: dict[str, Any]
    ids: dict[int, Any]
    issues: dict[int, list[tuple[str, str]]] = field(default_factory=lambda: collections.defaultdict(list))

    def add(self, line: int, issue: str, reason: str) -> None:
        """Adds an issue of a line, once."""
        if (issue, reason) not in self.issues[line]:
            self.issues[line].append((issue, reason))

    def counts(self) -> dict[str, int]:
        """Counts the lines that have an issue, by issue; in the order of `ISSUES`, without those of no line."""
        found = collections.Counter(issue for own in self.issues.values() for issue in {issue for issue, _ in own})
        return {issue: found[issue] for issue in ISSUES if found[issue]}


def audit_rows(read: PreferenceRows, seed: int = 0) -> Audit:
    """Audits rows of one kind: counts, duplicates, contradictions, and length bias or balance of the labels.

    Texts are compared as `normalized`.

    Args:
        read: rows of one kind.
        seed: seed of the intervals.
    """
    lines = len(set(read.lines))
    audit = Audit({
        "kind": read.kind, "forms": read.forms, "lines": lines + len(read.rejected), "rows": len(read.rows),
        "rejected": len(read.rejected), "ties": read.ties, "unscored": read.unscored,
        "rejected_reasons": dict(collections.Counter(row.reason for row in read.rejected).most_common())},
        {line: row.id for line, row in zip(read.lines, read.rows, strict=True)})
    for row in read.rejected:
        audit.add(row.line, "rejected", row.reason)
    prompts = [_digest(prompt_of(row)) for row in read.rows]
    _count_prompts(audit, read, prompts)
    _find_equal(audit, read, prompts)
    if read.kind == "paired":
        _audit_pairs(audit, read, prompts, seed)
    elif read.kind == "classify":
        _audit_classes(audit, read.rows)
    else:
        _audit_completions(audit, read.rows)
    return audit


def audit_overlap(audit: Audit, read: PreferenceRows, other: str | Path) -> None:
    """Adds the rows of which another file has the prompt, such as a test set that training must not see.

    Args:
        audit: changed in place.
        read: rows of the audited file.
        other: the other file; of its lines in none of the forms the column `prompt` counts.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    prompts, lines, name = set(), 0, Path(other).name
    for item in iter_rows(other, {}, COLUMNS):
        if isinstance(item, Row):
            found = _prompts_in(item.fields)
            prompts |= set(map(_digest, found))
            lines += bool(found)
    common: collections.Counter[bytes] = collections.Counter()
    for line, row in zip(read.lines, read.rows, strict=True):
        if (prompt := _digest(prompt_of(row))) in prompts:
            common[prompt] += 1
            audit.add(line, "overlap", f"its prompt is in {name} too")
    audit.result["overlap"] = {"file": name, "lines_there": lines, "prompts": len(common),
                               "rows": sum(common.values())}


def _digest(text: str) -> bytes:
    """Returns a digest in place of a normalized text, of which a file may have many; empty of an empty one."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest() if text else b""


def _prompts_in(row: dict[str, Any]) -> set[str]:
    """Returns the normalized prompts of a line."""
    with contextlib.suppress(UserError):
        form = form_of(row)
        kind = "paired" if form in ORDERED else cast(Kind, form)
        return {prompt_of(made) for made in rows_of(row, kind)} - {""}
    given = row.get("prompt")
    return {normalized(given)} - {""} if isinstance(given, str) else set()


def words(text: Text) -> int:
    """Counts the words of a text, or of the assistant's turns among messages."""
    if isinstance(text, str):
        return len(text.split())
    return sum(len(turn["content"].split()) for turn in text if turn["role"] == "assistant")


def _count_prompts(audit: Audit, read: PreferenceRows, prompts: Sequence[bytes]) -> None:
    lines: dict[bytes, set[int]] = collections.defaultdict(set)
    for line, row, prompt in zip(read.lines, read.rows, prompts, strict=True):
        lines[prompt].add(line)
        turns = getattr(row, "prompt", None)
        turns = turns if isinstance(turns, list) else getattr(row, "completion", None) if turns is None else None
        if isinstance(turns, list) and any(a["role"] == b["role"] for a, b in itertools.pairwise(turns)):
            audit.add(line, "roles", "a role repeats")
    without = len(lines.pop(b"", ()))
    repeated = [own for own in lines.values() if len(own) > 1]
    audit.result["prompts"] = {"distinct": len(lines), "repeated": len(repeated),
                               "lines_with_repeated": sum(map(len, repeated)), "lines_without": without}
    columns = {"weight": 1.0, "label_probability": 1.0, "margin": 0.0}
    audit.result["columns"] = {name: n for name, default in columns.items()
                               if (n := sum(getattr(row, name, default) != default for row in read.rows))}


def _find_equal(audit: Audit, read: PreferenceRows, prompts: Sequence[bytes]) -> None:
    """Finds duplicates and contradictions."""
    equal: dict[tuple, list[int]] = collections.defaultdict(list)
    opposite = []
    for line, row, prompt in zip(read.lines, read.rows, prompts, strict=True):
        key, other = _keys(row, prompt)
        opposite.append(other)
        if line not in equal[key][-1:]:
            equal[key].append(line)
    for lines in equal.values():
        for line in lines[1:]:
            audit.add(line, "duplicate", f"duplicate of line {lines[0]}")
    for line, other in zip(read.lines, opposite, strict=True):
        if other is not None and other in equal:
            audit.add(line, "contradiction", f"contradicts line {equal[other][0]}")
    if read.kind == "classify":  # any other class contradicts
        texts: dict[bytes, list[tuple[int, Any]]] = collections.defaultdict(list)
        for line, row, text in zip(read.lines, read.rows, prompts, strict=True):
            texts[text].append((line, row.label))
        for own in texts.values():
            for line, label in own:
                if (first := next((at for at, its in own if its != label), None)) is not None:
                    audit.add(line, "contradiction", f"contradicts line {first}")


def _keys(row: Any, prompt: bytes) -> tuple[tuple, tuple | None]:
    """Returns what equal rows have in common, and the same of rows with the opposite label; None without one."""
    if isinstance(row, PairRow):
        chosen, rejected = _digest(normalized(row.chosen)), _digest(normalized(row.rejected))
        return (prompt, chosen, rejected), (prompt, rejected, chosen)
    if isinstance(row, UnpairedRow):
        completion = _digest(normalized(row.completion))
        return (prompt, completion, row.label), (prompt, completion, not row.label)
    return (prompt, row.label if isinstance(row, ClassifyRow) else _digest(normalized(row.completion))), None


def _audit_pairs(audit: Audit, read: PreferenceRows, prompts: Sequence[bytes], seed: int) -> None:
    sides: dict[tuple[bytes, bytes], tuple[set[int], set[int]]] = collections.defaultdict(lambda: (set(), set()))
    lengths = []
    for line, row, prompt in zip(read.lines, read.rows, prompts, strict=True):
        answers = normalized(row.chosen), normalized(row.rejected)
        for i, answer in enumerate(answers):
            sides[prompt, _digest(answer)][i].add(line)
        if answers[0] in answers[1] or answers[1] in answers[0]:
            audit.add(line, "contained", "one answer contains the other")
        lengths.append((words(row.chosen), words(row.rejected)))
    both = 0
    for chosen, rejected in sides.values():
        # Within one scored or ranked line, an answer between two others is both.
        lines = {line for line in chosen if rejected - {line}} | {line for line in rejected if chosen - {line}}
        both += bool(lines)
        for line in lines:
            audit.add(line, "both", "an answer is chosen here and rejected in another line, or the other way around")
    audit.result["answers_chosen_and_rejected"] = both
    if not lengths:
        return
    difference = np.array([chosen - rejected for chosen, rejected in lengths])
    mean_chosen, mean_rejected = np.mean(lengths, axis=0).tolist()
    audit.result["length"] = {
        "unit": "words", "mean_chosen": mean_chosen, "mean_rejected": mean_rejected,
        "chosen_longer": int((difference > 0).sum()), "rejected_longer": int((difference < 0).sum()),
        "equal": int((difference == 0).sum()),
        "longer_is_better": clustered((np.sign(difference) + 1) / 2, [prompt.hex() for prompt in prompts], seed)}


def _audit_completions(audit: Audit, rows: Sequence[SftRow | UnpairedRow]) -> None:
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for row in rows:
        name = "completions"
        if isinstance(row, UnpairedRow):
            name = "desirable" if row.label else "undesirable"
        elif row.prompt is None:
            name = "texts" if isinstance(row.completion, str) else "conversations"
        groups[name].append(words(row.completion))
    audit.result["completions"] = {name: _spread(values) for name, values in groups.items()}


def _audit_classes(audit: Audit, rows: Sequence[ClassifyRow]) -> None:
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for row in rows:
        text = row.text if isinstance(row.text, str) else " ".join(turn["content"] for turn in row.text)
        groups[str(row.label)].append(words(text) + words(row.pair or ""))
    order = sorted(groups, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    largest = max(map(len, groups.values()), default=0)
    audit.result["classes"] = {name: _spread(groups[name]) for name in order}
    audit.result["largest_class"] = largest / max(len(rows), 1)
    audit.result["label_types"] = sorted({"name" if isinstance(row.label, str) else "number" for row in rows})


def _spread(values: Iterable[int]) -> dict[str, Any]:
    values = list(values)
    return {"rows": len(values), "mean_words": float(np.mean(values)),
            "median_words": int(np.quantile(values, 0.5, method="nearest")), "most_words": max(values)}
