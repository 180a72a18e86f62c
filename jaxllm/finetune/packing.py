"""Packed rows of targets: several targets share a row, and the teacher reads a document once for all its questions.

    segments    the student's views one after the other, each with its own segment id and positions from 0
    branches    of the teacher's views one segment holds a shared prefix (branch 0), the document, and the rests of
                several views (branches 1, 2, ...), with positions that continue after the prefix

Hidden states and gradients equal those of padded rows up to rounding. A shared state predicts the first token of
several texts, so losses are computed over *predictions*: every predicted token of every target names the state of its
own row that predicts it, in the student's view and, aligned, in the teacher's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.targets import Target
from jaxllm.models import ModelSpec
from jaxllm.text.batches import bucket, bucket_sizes


@dataclasses.dataclass(frozen=True)
class PackedShape:
    """Static shape of packed rows; only the number of rows differs between batches, in buckets.

    Attributes:
        student, teacher: tokens of a row in either view; teacher 0 packs the student's view alone.
        targets: the most targets of a row.
        predictions: the most predicted tokens of a row.
    """

    student: int
    teacher: int
    targets: int
    predictions: int


def packed_shape(lengths: tuple[int, int], targets_per_row: int = 4, *, teacher: bool = True) -> PackedShape:
    """Chooses row lengths that hold any `targets_per_row` targets of one document, or any one target.

    Args:
        lengths: lengths of the student's and the teacher's view of any target, from `common_lengths`.
        targets_per_row: the most targets of a row.
        teacher: pack the teacher's view too.
    """
    student = lengths[0] * targets_per_row
    # The document is read once; of every further target only its own text is added.
    return PackedShape(student, lengths[1] + lengths[0] * (targets_per_row - 1) if teacher else 0, targets_per_row,
                       student)


def row_counts(batch_size: int, multiple: int) -> tuple[int, ...]:
    """Computes the numbers of rows that batches of `batch_size` targets are padded to; each is a new program.

    Args:
        batch_size: the most rows are needed where every target has a row of its own.
        multiple: multiple of which the number of rows has to be a multiple: microbatches times devices that split rows.
    """
    return tuple(multiple * size for size in bucket_sizes(-(-batch_size // multiple), smallest=1))


def can_pack(spec: ModelSpec) -> bool:
    """Returns whether hidden states in packed rows equal those in padded ones."""
    return spec.encoder is None and not spec.rope_depends_on_length


def check_packing(spec: ModelSpec, key: str = "train.packing") -> None:
    """Refuses models with other hidden states in packed rows than in padded ones.

    Raises:
        UserError: the model is an encoder, or its rotary embedding depends on the length of the text.
    """
    if not can_pack(spec):
        reason = "is an encoder" if spec.encoder is not None else "has a rotary embedding that depends on the length"
        raise UserError(f"the model {reason}, so that its texts cannot share rows", key, "set it to false")


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
        """Finds a prefix in the row that `ids` continues, or that contains it."""
        if self.share:
            for prefix in self._prefixes:
                if shareable and ids[:len(prefix)] == prefix or prefix[:len(ids)] == ids:
                    return prefix
        return None

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
        self.student, self.teacher = _Rows(False), _Rows(True)
        self.targets = 0
        # Per prediction: student index, teacher index, label, type, has context, number, state; and 1 / n.
        self.predictions: list[tuple[int, ...]] = []
        self.weights: list[float] = []

    def cost(self, target: Target) -> int | None:
        """Counts the tokens that a target adds; None where it does not fit."""
        shape = self.shape
        student = len(target.student)
        teacher = self.teacher.new_tokens(target.teacher, target.offset) if shape.teacher else 0
        fits = (self.targets < shape.targets and len(self.student.tokens) + student <= shape.student
                and len(self.teacher.tokens) + teacher <= shape.teacher
                and len(self.predictions) + len(_predicting_states(target)) <= shape.predictions)
        return student + teacher if fits else None

    def add(self, target: Target, number: int) -> None:
        """Places target `number` of the batch."""
        states = _predicting_states(target)
        student = self.student.add(target.student, 0)
        teacher = self.teacher.add(target.teacher, target.offset) if self.shape.teacher else None
        for state in states:
            self.predictions.append((
                int(student[state]), 0 if teacher is None else int(teacher[target.offset + state]),
                target.student[state + 1], target.target_type, int(target.offset > 0), number, state))
        self.weights += [1.0 / len(states)] * len(states)
        self.targets += 1


def _predicting_states(target: Target) -> range:
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
    rows: list[_Row] = []
    # Targets of one document come one after the other, those with the longest context first.
    order = sorted(range(len(targets)), key=lambda i: (
        -targets[i].offset, targets[i].teacher[:targets[i].offset], -len(targets[i].student)))
    for i in order:
        target = targets[i]
        if not len(_predicting_states(target)):
            continue
        costs = [(cost, n) for n, row in enumerate(rows) if (cost := row.cost(target)) is not None]
        if not costs:
            rows.append(_Row(shape))
            if rows[-1].cost(target) is None:
                raise ValueError(f"a target with {len(target.student)} student and {len(target.teacher)} teacher "
                                 f"tokens does not fit a row of {shape}")
        (rows[min(costs)[1]] if costs else rows[-1]).add(target, i)
    return _arrays(rows, shape, bucket(max(len(rows), 1), counts))


def _arrays(rows: Sequence[_Row], shape: PackedShape, count: int) -> PackedTargets:
    batch: dict[str, np.ndarray] = {}
    # Without branches the mask follows from the segments, which flash attention kernels support.
    views = [("student", shape.student, False), ("teacher", shape.teacher, True)]
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
    return jnp.take_along_axis(hidden, index[..., None], axis=1)
