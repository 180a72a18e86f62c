"""Training targets and their two views: what the teacher reads, and what the student reads.

For a target s and a context x (SELF-PARAM, section 3; x may be empty):

    teacher:  prefix ++ x ++ s        student:  prefix ++ s

The state at student index j and the state at teacher index len(x) + j both predict the same token of s,
for every token of s, from the last token of the prefix on; without a prefix the first token of s has nothing to be
predicted from.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxllm.text.batches import bucket, bucket_sizes, pad_right
from jaxllm.train import row_indices

TARGET_TYPES = ("qa", "continuation", "unrelated", "rehearsal")


@dataclasses.dataclass(frozen=True)
class Target:
    """One target text in both views.

    Attributes:
        student: prefix and target ids.
        teacher: prefix, context and target ids.
        offset: tokens of the context; the teacher's states are shifted by it.
        target_type: index into `TARGET_TYPES`; the loss is also reported by type.
        masked_tokens: tokens at the start of the student's view without a loss.
        prompt_tokens: tokens at its start that are a prompt, so that the rest is a completion; 0 if it has none.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    offset: int
    target_type: int = 0
    masked_tokens: int = 0
    prompt_tokens: int = 0


EMPTY = Target((), (), 0)
"""Fills a batch: it has no tokens and no weight in a loss."""


def build_target(prefix: Sequence[int], context: Sequence[int], target: Sequence[int], target_type: str,
                 prompt_tokens: int = 0, mask_prompt: bool = False) -> Target:
    """Builds both views of a target; context and target are tokenized separately and concatenated.

    Args:
        prefix, context, target: ids; the prefix has no loss.
        target_type: one of `TARGET_TYPES`.
        prompt_tokens: tokens at the start of `target` that are its prompt.
        mask_prompt: the prompt has no loss.
    """
    before = len(prefix) + prompt_tokens
    return Target((*prefix, *target), (*prefix, *context, *target), len(context), TARGET_TYPES.index(target_type),
                  before if mask_prompt else len(prefix), before if prompt_tokens else 0)


def continuation(prefix: Sequence[int], context: Sequence[int], cut: int) -> Target:
    """Builds the target "rest of a document after `cut` tokens"; only the teacher reads the part before the cut.

    Args:
        cut: 1 ... len(context) - 2, so that both parts have tokens to learn.
    """
    if not 1 <= cut <= len(context) - 2:
        raise ValueError(f"cut must be within 1 and {len(context) - 2}, got {cut}")
    return build_target(prefix, context[:cut], context[cut:], "continuation")


def collate(targets: Sequence[Target], student_length: int, teacher_length: int | None) -> dict[str, np.ndarray]:
    """Builds one batch of targets, padded on the right.

    Args:
        targets: the targets.
        student_length, teacher_length: lengths of the views; a teacher's of None leaves that view out.

    Returns:
        `student`, `student_segments` `[B, Ts]`, `target_type`, `masked_tokens` and `row` (number in the batch) `[B]`;
        and of the teacher's view `teacher`, `teacher_segments` `[B, Tt]` and `offset` `[B]`; int32.
    """
    student, student_segments = pad_right([t.student for t in targets], student_length)
    numbers = lambda values: np.array(list(values), np.int32)
    batch = {"student": student, "student_segments": student_segments,
             "target_type": numbers(t.target_type for t in targets),
             "masked_tokens": numbers(t.masked_tokens for t in targets), "row": numbers(range(len(targets)))}
    if teacher_length is not None:
        teacher, teacher_segments = pad_right([t.teacher for t in targets], teacher_length)
        batch |= {"teacher": teacher, "teacher_segments": teacher_segments,
                  "offset": numbers(t.offset for t in targets)}
    return batch


def common_lengths(targets: Sequence[Target], window: int) -> tuple[int, int]:
    """Computes bucketed lengths that hold all student and all teacher views."""
    sizes = bucket_sizes(window)
    return (bucket(max(len(t.student) for t in targets), sizes), bucket(max(len(t.teacher) for t in targets), sizes))


def purpose_seed(seed: int, *purpose: str | int) -> int:
    """Derives an independent seed for every purpose, so that no two draws of a run are the same draw."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in purpose]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0]) >> 1


class TargetSource(Protocol):
    """Targets by number, a function of the number and the seed alone: a run can resume anywhere.

    Attributes:
        seed: seed of all draws.
        cycle: number of targets in one cycle of the mixture.
    """

    @property
    def seed(self) -> int: ...

    @property
    def cycle(self) -> int: ...

    def target(self, number: int) -> Target:
        """Returns target `number` of the run."""

    def longest(self) -> list[Target]:
        """Returns targets with lengths, in both views, that no target of the source exceeds."""


@dataclasses.dataclass(frozen=True)
class InterleavedTargets:
    """Several sources, one cycle each in turn, in a new order every epoch.

    Attributes:
        sources: sources of the targets, for example one per document.
        seed: seed of the order.
    """

    sources: tuple[TargetSource, ...]
    seed: int

    @property
    def cycle(self) -> int:
        return max(source.cycle for source in self.sources)

    def target(self, number: int) -> Target:
        """See `TargetSource.target`."""
        turn, index = divmod(number, self.cycle)
        source = self.sources[row_indices(self.seed, turn, 1, len(self.sources))[0]]
        # A source with a shorter cycle continues with its next one: no target comes twice.
        return source.target(turn // len(self.sources) * self.cycle + index)

    def longest(self) -> list[Target]:
        """See `TargetSource.longest`."""
        return [target for source in self.sources for target in source.longest()]


@dataclasses.dataclass(frozen=True)
class ReplayTargets:
    """A new source and, every other cycle, the sources of earlier runs.

    Attributes:
        new: targets of this run.
        earlier: targets of earlier runs.
    """

    new: TargetSource
    earlier: InterleavedTargets

    @property
    def seed(self) -> int:
        return self.new.seed

    @property
    def cycle(self) -> int:
        return self.new.cycle

    def target(self, number: int) -> Target:
        """See `TargetSource.target`."""
        turn, index = divmod(number, self.cycle)
        return (self.earlier if turn % 2 else self.new).target(turn // 2 * self.cycle + index)

    def longest(self) -> list[Target]:
        """See `TargetSource.longest`."""
        return self.new.longest() + self.earlier.longest()


def interleave(sources: Sequence[TargetSource], seed: int) -> TargetSource:
    """Returns the only source, or all of them interleaved."""
    return sources[0] if len(sources) == 1 else InterleavedTargets(tuple(sources), seed)
