"""Packed rows of targets: several targets share a row, and a prefix that they have in common is in it once.

    segments    texts one after the other, each with its own segment id and positions from 0
    branches    one segment holds a shared prefix (branch 0), such as a document or the head of a chat template, and the
                rests of several texts (branches 1, 2, ...), with positions that continue after the prefix

Hidden states and gradients equal those of padded rows up to rounding. A shared state predicts the first token of
several texts, so losses are computed over *predictions*: every predicted token of every target names the state of its
own row that predicts it, in the student's view and, aligned, in the teacher's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.finetune.targets import Target
from jaxllm.models import ModelSpec
from jaxllm.text.batches import bucket, bucket_sizes


@dataclasses.dataclass(frozen=True)
class PackedShape:
    """Static shape of packed rows; only the number of rows differs between batches, in buckets.

    Attributes:
        student, teacher: tokens of a row in either view; a view of 0 tokens is not packed.
        predictions: the most predicted tokens of a row.
        share: the student's views share prefixes too; its attention then needs a dense mask.
    """

    student: int
    teacher: int
    predictions: int
    share: bool = False


# Row lengths are multiples of this, and the longest that are tried hold this many of the longest target.
ROUNDING, LONGEST_ROWS = 16, 8
# Row length, in widths of the network, at which attention costs as much as the matrices of the layers: 6 by the number
# of multiplications, 1.8 to 2.5 by the time of training steps of SmolLM2-135M on two CPU cores.
ATTENTION_WIDTHS, ATTENTION_WIDTHS_CPU = 6.0, 1.8
# Shared prefixes of the student are used where they save this share of its tokens.
WORTHWHILE_SHARING = 0.1
UNLIMITED = 1 << 30


def row_cost(length: int, width: int) -> float:
    """Computes the cost of a packed row, attention included, in tokens of short rows.

    Args:
        length: tokens of the row.
        width: width of the network.
    """
    return length * (1 + length / width / (ATTENTION_WIDTHS_CPU if jax.default_backend() == "cpu" else
                                           ATTENTION_WIDTHS))


def packed_shape(longest: tuple[int, int], batches: Sequence[Sequence[Target]], width: int, *, multiple: int = 1,
                 views: tuple[bool, bool] = (True, True)) -> PackedShape:
    """Chooses the shape that computes the fewest tokens for batches like `batches`, and that holds any one target.

    Args:
        longest: lengths of the student's and the teacher's view of any target, from `common_lengths`.
        batches: typical batches; without any, rows hold four of the longest targets of one document.
        width: width of the network, see `row_cost`.
        multiple: see `row_counts`.
        views: whether the student's and the teacher's view are packed.
    """
    batches = [own for own in ([one for one in batch if len(predicting_states(one))] for batch in batches) if own]
    if not batches:
        further = longest[0] * 3  # of every further target only its own text is added
        return PackedShape(longest[0] + further if views[0] else 0, longest[1] + further if views[1] else 0,
                           longest[0] + further)
    students = [[one.student for one in batch] for batch in batches]
    total, distinct = (sum(map(count, students)) for count in (lambda own: sum(map(len, own)), count_distinct))
    share = views[0] and total - distinct >= WORTHWHILE_SHARING * total
    counts = row_counts(max(map(len, batches)), multiple)
    tokens = _rounded(longest[0 if views[0] else 1])
    lengths, most = [], LONGEST_ROWS * tokens
    while tokens <= most:
        lengths.append(tokens)
        tokens = _rounded(tokens * 1.1 + 1)
    shapes = (_fitted_shape(longest, batches, counts, width, tokens, share, views) for tokens in lengths)
    return min(shapes, key=lambda own: own[0])[1]


def _fitted_shape(longest: tuple[int, int], batches: Sequence[Sequence[Target]], counts: Sequence[int], width: int,
                  tokens: int, share: bool, views: tuple[bool, bool]) -> tuple[float, PackedShape]:
    """Fits a shape to batches, with rows of `tokens` in the student's view, or the teacher's if that is the only one.

    Returns:
        the cost of all batches, and the shape.
    """
    limits = (tokens, UNLIMITED if views[1] else 0) if views[0] else (0, tokens)
    packed = [_fill_rows(batch, PackedShape(*limits, predictions=UNLIMITED, share=share)) for batch in batches]
    most = lambda size: max(size(row) for rows in packed for row in rows)
    teacher = _rounded(max(longest[1], most(lambda row: len(row.teacher.tokens)))) if all(views) else limits[1]
    shape = PackedShape(limits[0], teacher, _rounded(max(longest[0], most(lambda row: len(row.predictions)))), share)
    # In forward passes of a token: the student takes about three, and the vocabulary about one per prediction.
    cost = shape.predictions + sum(passes * row_cost(length, width)
                                   for passes, length in ((3, shape.student), (1, shape.teacher)))
    return cost * sum(bucket(len(rows), counts) for rows in packed), shape


def teacher_passes(targets: Iterable[Target], size: int) -> list[list[Target]]:
    """Splits the distinct ones of `targets` into passes of `size`; those with one document are next to each other, so
    that packed rows read it once."""
    ordered = sorted(dict.fromkeys(targets), key=lambda one: one.teacher)
    return [ordered[start:start + size] for start in range(0, len(ordered), size)]


def _rounded(tokens: float) -> int:
    return -(-int(tokens) // ROUNDING) * ROUNDING


def count_distinct(sequences: Sequence[Sequence[int]]) -> int:
    """Counts the tokens of sequences with every shared prefix once."""
    prefixes: dict[tuple[int, ...], int] = {}
    total = 0
    for ids, length in zip(sequences, shared_prefixes(sequences), strict=True):
        total += len(ids) - length
        prefixes[tuple(ids[:length])] = length
    return total + sum(prefixes.values())


def shared_prefixes(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Chooses the length of the prefix that each sequence shares with others, 0 for none, so that most is saved.

    Sharing has one level: all that share a prefix share the whole of it. Where some of them have more in common, the
    larger saving of either grouping is taken.
    """
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    common = [_common(sequences[i], sequences[j]) for i, j in itertools.pairwise(order)]

    def grouped(start: int, stop: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Returns the tokens saved within `order[start:stop]`, and its groups with their prefixes."""
        if stop - start == 1:
            return 0, [(start, stop, 0)]
        least = min(common[start:stop - 1])
        ends = [i + 1 for i in range(start, stop - 1) if common[i] == least]
        parts = [grouped(*part) for part in itertools.pairwise([start, *ends, stop])]
        together, apart = (stop - start - 1) * least, sum(saved for saved, _ in parts)
        if together > apart:
            return together, [(start, stop, least)]
        return apart, [group for _, groups in parts for group in groups]

    lengths = [0] * len(sequences)
    for start, stop, length in grouped(0, len(order))[1] if order else ():
        for i in order[start:stop]:
            lengths[i] = length
    return lengths


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def row_counts(batch_size: int, multiple: int) -> tuple[int, ...]:
    """Computes the numbers of rows that batches of `batch_size` targets are padded to; each is a new program.

    Args:
        batch_size: the most rows are needed where every target has a row of its own.
        multiple: the number of rows is a multiple of this: microbatches times groups of devices that split rows.
    """
    return tuple(multiple * size for size in bucket_sizes(-(-batch_size // multiple), smallest=1))


def can_pack(spec: ModelSpec) -> bool:
    """Returns whether hidden states in packed rows equal those in padded ones."""
    return spec.encoder is None and not spec.rope_depends_on_length


class _Rows:
    """Tokens of one view of one packed row."""

    def __init__(self, share: bool):
        self.share = share
        self.tokens: list[int] = []
        self.segments: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        # Shared prefix -> (segment id, row index of its first token, {rest: (branch, row index of its first token)}).
        self._prefixes: dict[tuple[int, ...], tuple[int, int, dict[tuple[int, ...], tuple[int, int]]]] = {}
        self._segment_count = 0

    def _prefix_of(self, ids: tuple[int, ...], shareable: int) -> tuple[int, ...] | None:
        """Finds the prefix in the row that `ids` shares, or one that contains all of it."""
        if not self.share:
            return None
        if shareable and ids[:shareable] in self._prefixes:
            return ids[:shareable]
        return next((prefix for prefix in self._prefixes if prefix[:len(ids)] == ids), None)

    def new_tokens(self, ids: tuple[int, ...], shareable: int) -> int:
        """Counts the tokens that `add` would append."""
        prefix = self._prefix_of(ids, shareable)
        if prefix is None:
            return len(ids)
        rest = ids[len(prefix):]
        return 0 if not rest or rest in self._prefixes[prefix][2] else len(rest)

    def add(self, ids: tuple[int, ...], shareable: int) -> np.ndarray:
        """Places a sequence; returns the row index of each of its tokens, int64 `[len(ids)]`.

        Args:
            ids: the sequence.
            shareable: tokens at its start that other sequences may share; 0 shares none.
        """
        prefix = self._prefix_of(ids, shareable)
        if prefix is None:
            prefix = ids[:shareable] if self.share and shareable else ids
            self._segment_count += 1
            start = self._append(prefix, self._segment_count, 0, 0)
            self._prefixes[prefix] = self._segment_count, start, {}
        segment, start, rests = self._prefixes[prefix]
        rest = ids[len(prefix):]
        if rest and rest not in rests:
            rests[rest] = len(rests) + 1, self._append(rest, segment, len(rests) + 1, len(prefix))
        index = start + np.arange(min(len(prefix), len(ids)))
        return np.concatenate([index, rests[rest][1] + np.arange(len(rest))]) if rest else index

    def _append(self, ids: tuple[int, ...], segment: int, branch: int, position: int) -> int:
        start = len(self.tokens)
        self.tokens.extend(ids)
        self.segments.extend([segment] * len(ids))
        self.branches.extend([branch] * len(ids))
        self.positions.extend(range(position, position + len(ids)))
        return start


class _Row:
    """One packed row: both views and the predictions of its targets."""

    def __init__(self, shape: PackedShape):
        self.shape = shape
        self.student, self.teacher = _Rows(shape.share), _Rows(True)
        # Per prediction: student index, teacher index, label, type, has context, number, state; and 1 / n.
        self.predictions: list[tuple[int, ...]] = []
        self.weights: list[float] = []

    def cost(self, target: Target, shared: tuple[int, int]) -> int | None:
        """Counts the tokens that a target adds, with `shared` of them in prefixes; None where it does not fit."""
        shape = self.shape
        student = self.student.new_tokens(target.student, shared[0]) if shape.student else 0
        teacher = self.teacher.new_tokens(target.teacher, shared[1]) if shape.teacher else 0
        fits = (len(self.student.tokens) + student <= shape.student
                and len(self.teacher.tokens) + teacher <= shape.teacher
                and len(self.predictions) + len(predicting_states(target)) <= shape.predictions)
        return student + teacher if fits else None

    def add(self, target: Target, number: int, shared: tuple[int, int]) -> None:
        """Places target `number` of the batch."""
        states = predicting_states(target)
        student = self.student.add(target.student, shared[0]) if self.shape.student else None
        teacher = self.teacher.add(target.teacher, shared[1]) if self.shape.teacher else None
        for state in states:
            self.predictions.append((
                0 if student is None else int(student[state]),
                0 if teacher is None else int(teacher[target.offset + state]),
                target.student[state + 1], target.target_type, int(target.offset > 0), number, state))
        self.weights += [1.0 / len(states)] * len(states)


def predicting_states(target: Target) -> range:
    """Student states that predict a token with a loss."""
    return range(max(target.masked_tokens - 1, 0), max(len(target.student) - 1, 0))


@dataclasses.dataclass(frozen=True)
class PackedTargets:
    """Targets in packed rows.

    Attributes:
        batch: `student`, `student_segments`, `student_positions` `[R, Ts]`; the same of `teacher`, and
            `teacher_branches`, `[R, Tt]`; and `[R, N]` for every predicted token: `student_index`, `teacher_index`
            (states of the same row), `labels`, `weights` (float32, one over the number of predicted tokens of the
            target, 0 for padding), `target_type`, `has_context`; and `row` `[R]`, number in the batch.
        number, state: `[R, N]`, the target in the list given, and the state in its student view; -1 for padding.
    """

    batch: dict[str, np.ndarray]
    number: np.ndarray
    state: np.ndarray


def pack_targets(targets: Sequence[Target], shape: PackedShape, counts: Sequence[int]) -> PackedTargets:
    """Packs targets into rows.

    Args:
        targets: targets; those without a predicted token are left out.
        shape: from `packed_shape`.
        counts: from `row_counts`; the number of rows is the smallest of these that is enough.

    Raises:
        ValueError: a target does not fit a row, or the last of `counts` is too small.
    """
    rows = _fill_rows(targets, shape)
    return _arrays(rows, shape, bucket(max(len(rows), 1), counts))


def _fill_rows(targets: Sequence[Target], shape: PackedShape) -> list[_Row]:
    """Places targets in as many rows as they need, each in the row where it adds the fewest tokens."""
    rows: list[_Row] = []
    students = shared_prefixes([one.student for one in targets]) if shape.share else [0] * len(targets)
    teachers = shared_prefixes([one.teacher for one in targets]) if shape.teacher else [0] * len(targets)
    # Targets of one document come one after the other, those with the longest context first.
    order = sorted(range(len(targets)), key=lambda i: (
        -targets[i].offset, targets[i].teacher[:targets[i].offset], -len(targets[i].student)))
    for i in order:
        target, shared = targets[i], (students[i], teachers[i])
        if not len(predicting_states(target)):
            continue
        costs = [(cost, n) for n, row in enumerate(rows) if (cost := row.cost(target, shared)) is not None]
        if not costs:
            rows.append(_Row(shape))
            if rows[-1].cost(target, shared) is None:
                raise ValueError(f"a target with {len(target.student)} student and {len(target.teacher)} teacher "
                                 f"tokens does not fit a row of {shape}")
        (rows[min(costs)[1]] if costs else rows[-1]).add(target, i, shared)
    return rows


def _arrays(rows: Sequence[_Row], shape: PackedShape, count: int) -> PackedTargets:
    batch: dict[str, np.ndarray] = {}
    # Without branches the mask follows from the segments, which flash attention kernels support.
    views = [("student", shape.student, shape.share), ("teacher", shape.teacher, True)]
    for name, length, branches in [view for view in views if view[1]]:
        for field in ("tokens", "segments", "positions", *(["branches"] if branches else [])):
            key = name if field == "tokens" else f"{name}_{field}"
            batch[key] = np.zeros((count, length), np.int32)
            for number, row in enumerate(rows):
                values = getattr(getattr(row, name), field)
                batch[key][number, :len(values)] = values
    table = np.zeros((count, shape.predictions, 7), np.int32)
    table[..., 5:] = -1
    batch["weights"] = np.zeros((count, shape.predictions), np.float32)
    for number, row in enumerate(rows):
        size = len(row.predictions)
        table[number, :size] = row.predictions
        batch["weights"][number, :size] = row.weights
    columns = ("student_index", "teacher_index", "labels", "target_type", "has_context")
    batch["row"] = np.arange(count, dtype=np.int32)
    batch |= {name: np.ascontiguousarray(table[..., i]) for i, name in enumerate(columns)}
    return PackedTargets(batch, table[..., 5], table[..., 6])


def is_packed(batch: dict[str, Any]) -> bool:
    """Distinguishes the batches of `pack_targets` from those of `collate`."""
    return "student_index" in batch


def view_of(batch: dict[str, Any], view: str) -> dict[str, Any]:
    """Selects the arguments of `forward` that describe a packed view: segments, positions and, if used, branches."""
    names = ("segments", "positions", "branches")
    return {name: batch[f"{view}_{name}"] for name in names if f"{view}_{name}" in batch}


def gather_states(hidden: jax.Array, index: jax.Array) -> jax.Array:
    """Selects states `[R, N, D]` of `hidden` `[R, T, D]` by row index `[R, N]`."""
    chex.assert_rank([hidden, index], [3, 2])
    chex.assert_equal_shape_prefix([hidden, index], 1)
    return jnp.take_along_axis(hidden, index[..., None], axis=1)
