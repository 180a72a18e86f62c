"""Audit of fine-tuning data before training: duplicates, contradictions, length bias, balance, overlap with a file.

Nothing here returns a text of a row: lines and reasons only, since rows may hold what must not be in a report.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxllm.errors import UserError
from jaxllm.progress import notice
from jaxllm.statistics import clustered, distinct_rows, resampled_units
from jaxllm.text.forms import ORDERED, AnyRow, ClassifyRow, Kind, PairRow, Text, UnpairedRow, form_of, rows_of
from jaxllm.text.near_duplicates import NearDuplicates, words_of
from jaxllm.text.preferences import COLUMNS, PreferenceRows, normalized, prompt_of
from jaxllm.text.rows import Rejected, Row, iter_rows

# Issue -> what it means, in the order of reports.
ISSUES = {
    "rejected": "rejected lines",
    "duplicate": "duplicates of an earlier row",
    "near_duplicate": "near-duplicates of an earlier row",
    "contradiction": "contradictions: the same rows with opposite labels",
    "both": "answers that are chosen in one row and rejected in another",
    "contained": "pairs of which one answer contains the other",
    "roles": "prompts in which a role repeats",
    "overlap": "rows with a prompt of the compared file",
    "near_overlap": "rows with nearly a prompt of the compared file",
    "control": "rows that spell control tokens, which are read as ordinary text",
    "too_long": "rows that are dropped for their length",
    "cut": "rows with a completion or prompt that is cut",
    "refused": "rows that the tokenizer or its chat template refuses",
}


# Least similarity of near-duplicates.
NEAR = 0.8
# Texts of a row that near-duplicates have alike: prompt, answers, label.
_PARTS: dict[Kind, int] = {"paired": 3, "classify": 2, "unpaired": 3, "sft": 3}
# Columns of numbers and the value that means none.
_PLAIN = {"weight": 1.0, "label_probability": 1.0, "margin": 0.0}


@dataclass
class Audit:
    """Findings on a file.

    Attributes:
        result: numbers, for result.json.
        issues: (issue, reason) of lines that have any, by line; issues are keys of `ISSUES`.
        row_issues: issues of rows that have any, by number of the row: of a line that makes several rows, each its own.
        ids: ids of usable lines.
        lines: line of each row.
        prompts: digest of each row's prompt, 0 without one.
        near: the rows as near-duplicates are found in them, the prompt first; None if they are not searched.
    """

    result: dict[str, Any]
    ids: dict[int, Any]
    issues: dict[int, list[tuple[str, str]]] = field(default_factory=lambda: collections.defaultdict(list))
    row_issues: dict[int, set[str]] = field(default_factory=lambda: collections.defaultdict(set))
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    prompts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    near: NearDuplicates | None = None

    def add(self, line: int, issue: str, reason: str, row: int | None = None) -> None:
        """Adds an issue of a line, once; `row` is the number of the row that has it."""
        if (issue, reason) not in self.issues[line]:
            self.issues[line].append((issue, reason))
        if row is not None:
            self.row_issues[row].add(issue)

    def of_row(self, row: int) -> tuple[str, ...]:
        """Lists the issues of a row, in the order of `ISSUES`."""
        own = self.row_issues.get(row)
        return () if own is None else tuple(issue for issue in ISSUES if issue in own)

    @property
    def searched(self) -> list[str]:
        """Issues that were searched, in the order of `ISSUES`."""
        near, other = self.near is not None, "overlap" in self.result
        absent = {"near_duplicate": not near, "overlap": not other, "near_overlap": not (near and other)}
        return [issue for issue in ISSUES if not absent.get(issue, False)]

    def counts(self) -> dict[str, int]:
        """Counts the lines that have an issue, by issue; in the order of `ISSUES`, without those of no line."""
        found = collections.Counter(issue for own in self.issues.values() for issue in {issue for issue, _ in own})
        return {issue: found[issue] for issue in ISSUES if found[issue]}


def audit_rows(read: PreferenceRows, seed: int = 0, near: float | None = NEAR) -> Audit:
    """Audits rows of one kind; see `Auditor`.

    Args:
        read: rows of one kind.
        seed: seed of the intervals.
        near: as for `Auditor`.
    """
    auditor = Auditor(read.kind, near)
    for line, row in zip(read.lines, read.rows, strict=True):
        auditor.add(line, row)
    return auditor.finish(read.rejected, read.forms, read.ties, read.unscored, seed)


class Auditor:
    """Audits rows of one kind, one after another: counts, duplicates, contradictions, and length bias or balance of the
    labels.

    Texts are compared as `normalized`; only their digests and lengths stay in memory.

    Args:
        kind: kind of the rows.
        near: least similarity of near-duplicates (see `near_duplicates`); None searches none.
    """

    def __init__(self, kind: Kind, near: float | None = NEAR):
        self.kind, self._threshold = kind, near
        self._audit = Audit({}, {}, near=None if near is None else NearDuplicates(_PARTS[kind]))
        self._lines = array("q")
        # Digests of the prompt and of two columns, such that a contradicting row has the latter exchanged (pairs) or
        # another second one.
        self._prompts, self._first, self._second = array("Q"), array("Q"), array("Q")
        self._words = array("l")  # of both answers of a pair
        self._groups: dict[str, list[int]] = collections.defaultdict(list)
        self._columns = dict.fromkeys(_PLAIN, 0)
        self._label_types: set[str] = set()

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def prompts(self) -> np.ndarray:
        """Digests of the prompts, `[N]` uint64, 0 without one."""
        return np.array(self._prompts, np.uint64)

    @property
    def clusters(self) -> np.ndarray:
        """Digests by which rows are dependent, `[N]` uint64: of the prompt, or of both answers without one."""
        return np.where(self.prompts > 0, self.prompts, self.answers.min(1) ^ np.uint64(1))

    @property
    def answers(self) -> np.ndarray:
        """Digests of the chosen and the rejected answer of pairs, `[N, 2]` uint64."""
        return np.stack([np.array(self._first, np.uint64), np.array(self._second, np.uint64)], 1)

    @property
    def words(self) -> np.ndarray:
        """Words of the chosen and the rejected answer of pairs, `[N, 2]`."""
        return np.array(self._words, np.int64).reshape(-1, 2)

    def add(self, line: int, row: AnyRow) -> None:
        """Adds a row."""
        self._audit.ids[line] = row.id
        number = len(self)
        parts: tuple[str, ...]
        self._lines.append(line)
        prompt = prompt_of(row)
        self._prompts.append(digest_of(prompt))
        for name, default in _PLAIN.items():
            self._columns[name] += getattr(row, name, default) != default
        turns = getattr(row, "prompt", None)
        turns = turns if isinstance(turns, list) else getattr(row, "completion", None) if turns is None else None
        if isinstance(turns, list) and any(a["role"] == b["role"] for a, b in itertools.pairwise(turns)):
            self._audit.add(line, "roles", "a role repeats", number)
        if isinstance(row, PairRow):
            chosen, rejected = normalized(row.chosen), normalized(row.rejected)
            digests, parts = (digest_of(chosen), digest_of(rejected)), (prompt, chosen, rejected)
            if _contains(rejected, chosen) or _contains(chosen, rejected):
                self._audit.add(line, "contained", "one answer contains the other", number)
            # A text has as many words as its normalized form, which is divided by single blanks.
            self._words.extend(normal.count(" ") + 1 if isinstance(text, str) else words(text)
                               for text, normal in ((row.chosen, chosen), (row.rejected, rejected)))
        elif isinstance(row, ClassifyRow):
            digests, parts = (0, digest_of(f"{type(row.label).__name__} {row.label}")), (prompt, str(row.label))
            text = row.text if isinstance(row.text, str) else " ".join(turn["content"] for turn in row.text)
            self._groups[str(row.label)].append(words(text) + words(row.pair or ""))
            self._label_types.add("name" if isinstance(row.label, str) else "number")
        else:
            name = "completions"
            if isinstance(row, UnpairedRow):
                name = "desirable" if row.label else "undesirable"
            elif row.prompt is None:
                name = "texts" if isinstance(row.completion, str) else "conversations"
            self._groups[name].append(words(row.completion))
            completion, label = normalized(row.completion), int(getattr(row, "label", 0))
            digests, parts = (digest_of(completion), label), (prompt, completion, str(label))
        self._first.append(digests[0])
        self._second.append(digests[1])
        if self._audit.near is not None:
            self._audit.near.add(parts)

    def extend(self, other: Auditor) -> None:
        """Adds the rows of another auditor after these; they are of later lines."""
        own, more = self._audit, other._audit
        own.row_issues.update({len(self) + number: issues for number, issues in more.row_issues.items()})
        own.issues.update(more.issues)
        own.ids.update(more.ids)
        for mine, added in ((self._lines, other._lines), (self._prompts, other._prompts), (self._first, other._first),
                            (self._second, other._second), (self._words, other._words)):
            mine.extend(added)
        for name, values in other._groups.items():
            self._groups[name] += values
        for name, count in other._columns.items():
            self._columns[name] += count
        self._label_types |= other._label_types
        if own.near is not None and more.near is not None:
            own.near.extend(more.near)

    def finish(self, rejected: Sequence[Rejected], forms: Mapping[str, int], ties: int = 0, unscored: int = 0,
               seed: int = 0) -> Audit:
        """Returns the findings on all rows.

        Args:
            rejected, forms, ties, unscored: as in `PreferenceRows`.
            seed: seed of the intervals.
        """
        audit, lines = self._audit, np.array(self._lines, np.int64)
        audit.lines, audit.prompts = lines, self.prompts
        audit.result |= {
            "kind": self.kind, "forms": dict(forms), "lines": len(np.unique(lines)) + len(rejected), "rows": len(lines),
            "rejected": len(rejected), "ties": ties, "unscored": unscored,
            "rejected_reasons": dict(collections.Counter(row.reason for row in rejected).most_common())}
        for row in rejected:
            audit.add(row.line, "rejected", row.reason)
        self._count_prompts(lines)
        self._find_near(lines, self._find_equal(lines))
        if self.kind == "paired":
            self._find_both(lines)
            self._measure_lengths(seed)
        elif self.kind == "classify":
            order = sorted(self._groups, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0,
                                                           name))
            largest = max(map(len, self._groups.values()), default=0)
            audit.result["classes"] = {name: _spread(self._groups[name]) for name in order}
            audit.result["largest_class"] = largest / max(len(lines), 1)
            audit.result["label_types"] = sorted(self._label_types)
        else:
            audit.result["completions"] = {name: _spread(values) for name, values in self._groups.items()}
        order_of_issues = list(ISSUES)
        for own in audit.issues.values():
            own.sort(key=lambda issue: order_of_issues.index(issue[0]))
        return audit

    def _count_prompts(self, lines: np.ndarray) -> None:
        """Counts prompts, and the lines that share one."""
        # A line may give several rows.
        pairs, _, _ = distinct_rows(np.stack([self.prompts, lines.astype(np.uint64)], 1))
        prompts, counts = np.unique(pairs[pairs[:, 0] > 0, 0], return_counts=True)
        repeated = counts[counts > 1]
        self._audit.result["prompts"] = {
            "distinct": len(prompts), "repeated": len(repeated), "lines_with_repeated": int(repeated.sum()),
            "lines_without": int((pairs[:, 0] == 0).sum())}
        self._audit.result["columns"] = {name: n for name, n in self._columns.items() if n}

    def _find_equal(self, lines: np.ndarray) -> np.ndarray:
        """Finds duplicates and contradictions; returns the first row of each group of equal ones."""
        first, second = self.answers.T
        keys = np.stack([self.prompts, first, second], 1)
        groups, starts, group = distinct_rows(keys)
        earliest = lines[starts]
        for i in np.flatnonzero(lines != earliest[group]):
            self._audit.add(int(lines[i]), "duplicate", f"duplicate of line {earliest[group[i]]}", int(i))
        if self.kind == "classify":  # any other class contradicts
            _, text_starts, text = distinct_rows(keys[:, :1])
            other = np.full(len(text_starts), len(lines))  # first row of another class than the first row's
            different = np.flatnonzero(second != second[text_starts[text]])
            np.minimum.at(other, text[different], different)
            at = np.where(second == second[text_starts[text]], other[text], text_starts[text])
            for i in np.flatnonzero(at < len(lines)):
                self._audit.add(int(lines[i]), "contradiction", f"contradicts line {lines[at[i]]}", int(i))
        elif self.kind != "sft":
            opposite = np.stack([self.prompts, second, first] if self.kind == "paired" else
                                [self.prompts, first, 1 - second], 1)
            _, _, both = distinct_rows(np.concatenate([groups, opposite]))
            known = np.full(both.max(initial=-1) + 1, -1)
            known[both[:len(groups)]] = np.arange(len(groups))
            found = known[both[len(groups):]]
            for i in np.flatnonzero((found >= 0) & (found != group)):
                self._audit.add(int(lines[i]), "contradiction", f"contradicts line {earliest[found[i]]}", int(i))
        return starts

    def _find_near(self, lines: np.ndarray, distinct: np.ndarray) -> None:
        """Finds near-duplicates among the rows that are no duplicates."""
        if self._audit.near is None or self._threshold is None:
            return
        used = np.zeros(len(lines), bool)
        used[distinct] = True
        earlier, similarity = self._audit.near.find(self._threshold, lines, used)
        found = np.flatnonzero(earlier >= 0)
        for i in found.tolist():
            self._audit.add(int(lines[i]), "near_duplicate",
                            f"near-duplicate of line {lines[earlier[i]]} (similarity {similarity[i]:.2f})", i)
        self._audit.result["near_duplicates"] = {"threshold": self._threshold, "rows": len(found),
                                                 "of_equal_words": int((similarity[found] == 1).sum())}

    def _find_both(self, lines: np.ndarray) -> None:
        """Finds answers that are chosen in a line and rejected in another one.

        Within one scored or ranked line, an answer between two others is both.
        """
        prompts, answers = self.prompts, self.answers
        _, starts, answer = distinct_rows(np.concatenate([np.stack([prompts, answers[:, side]], 1) for side in (0, 1)]))
        answer, flagged = answer.reshape(2, -1), np.zeros(len(lines), bool)
        touched = np.zeros(len(starts), bool)
        for side in (0, 1):
            low, high = np.full(len(starts), np.iinfo(np.int64).max), np.full(len(starts), -1)
            np.minimum.at(low, answer[1 - side], lines)  # lines in which the answer is on the other side
            np.maximum.at(high, answer[1 - side], lines)
            own = answer[side]
            found = (high[own] >= 0) & ((low[own] != lines) | (high[own] != lines))
            touched[own[found]] = True
            flagged |= found
        for i in np.flatnonzero(flagged).tolist():
            self._audit.add(int(lines[i]), "both", "an answer is chosen here and rejected in another line, or the "
                            "other way around", i)
        self._audit.result["answers_chosen_and_rejected"] = int(touched.sum())

    def _measure_lengths(self, seed: int) -> None:
        if not len(self):
            return
        lengths = self.words
        difference, (mean_chosen, mean_rejected) = lengths[:, 0] - lengths[:, 1], lengths.mean(0).tolist()
        self._audit.result["length"] = {
            "unit": "words", "mean_chosen": mean_chosen, "mean_rejected": mean_rejected,
            "chosen_longer": int((difference > 0).sum()), "rejected_longer": int((difference < 0).sum()),
            "equal": int((difference == 0).sum()),
            "longer_is_better": clustered((np.sign(difference) + 1) / 2, resampled_units(self.clusters), seed)}


def audit_overlap(audit: Audit, other: str | Path) -> None:
    """Adds the rows of which another file has the prompt, such as a test set that training must not see.

    Args:
        audit: changed in place.
        other: the other file; of its lines in none of the forms the column `prompt` counts.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    prompts, lines, name = set(), 0, Path(other).name
    theirs = NearDuplicates(1)
    for item in iter_rows(other, {}, COLUMNS):
        if isinstance(item, Row):
            found = _prompts_in(item.fields)
            for text in found - {""}:
                if (digest := digest_of(text)) not in prompts:
                    prompts.add(digest)
                    theirs.add([text])
            lines += bool(found)
    if not lines:
        notice(f"warning: no line of {name} has a prompt, so that no overlap can be found")
    common: collections.Counter[int] = collections.Counter()
    for row, (line, prompt) in enumerate(zip(audit.lines.tolist(), audit.prompts.tolist(), strict=True)):
        if prompt in prompts:
            common[prompt] += 1
            audit.add(line, "overlap", f"its prompt is in {name} too", row)
    audit.result["overlap"] = {"file": name, "lines_there": lines, "prompts": len(common),
                               "rows": sum(common.values())}
    if audit.near is not None:
        threshold = audit.result["near_duplicates"]["threshold"]
        before = len(theirs)
        theirs.extend(audit.near.part(0))
        sides = np.arange(len(theirs)) >= before  # rows of one side are not compared
        earlier, similarity = theirs.find(threshold, sides, np.ones(len(theirs), bool))
        new = (earlier[before:] >= 0) & ~np.isin(audit.prompts, np.fromiter(prompts, np.uint64, len(prompts)))
        for i in np.flatnonzero(new).tolist():
            audit.add(int(audit.lines[i]), "near_overlap",
                      f"its prompt is nearly one of {name} (similarity {similarity[before + i]:.2f})", i)
        audit.result["near_duplicates"]["overlap"] = int(new.sum())


def digest_of(text: str) -> int:
    """Returns a digest of 64 bits in place of a normalized text, of which a file may have many; 0 of an empty one."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") if text else 0


def _contains(whole: str, part: str) -> bool:
    """Returns whether a normalized text holds another one, from word to word."""
    spaced = lambda text: f" {' '.join(words_of(text))} "
    return part in whole and spaced(part) in spaced(whole)


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


def _spread(values: Iterable[int]) -> dict[str, Any]:
    values = list(values)
    return {"rows": len(values), "mean_words": float(np.mean(values)),
            "median_words": int(np.quantile(values, 0.5, method="nearest")), "most_words": max(values)}
