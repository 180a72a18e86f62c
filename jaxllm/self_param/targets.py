"""Target texts and their two views: what the reading teacher sees, and what the student sees.

For a target s and a context x (SELF-PARAM, section 3; x may be empty):

    teacher:  prefix ++ x ++ s        student:  prefix ++ s

The state at student index j and the state at teacher index len(x) + j both predict the same token of s,
for every token of s; without a prefix the first token of s has nothing to be predicted from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxllm.text.batches import bucket, bucket_sizes, pad_right

KINDS = ("qa", "continuation", "unrelated", "recall")


@dataclasses.dataclass(frozen=True)
class Target:
    """One target text in both views.

    Attributes:
        student: prefix and target ids.
        teacher: prefix, context and target ids.
        offset: tokens of the context, by which the teacher's states lie further on.
        kind: index into `KINDS`.
        given: tokens at the beginning of the student's view that are read and not learned.
        asked: tokens at its beginning that ask, so that the rest is an answer; 0 if it is none.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    offset: int
    kind: int = 0
    given: int = 0
    asked: int = 0


def build_target(prefix: Sequence[int], context: Sequence[int], target: Sequence[int], kind: str,
                 asked: int = 0, answer_only: bool = False) -> Target:
    """Both views of a target; context and target are tokenized separately and joined as they are.

    Args:
        prefix, context, target: ids.
        kind: one of `KINDS`.
        asked: tokens of the target, from its first, that ask, where the others answer.
        answer_only: whether these are read and not learned.
    """
    asked = len(prefix) + asked if asked else 0
    return Target((*prefix, *target), (*prefix, *context, *target), len(context), KINDS.index(kind),
                  asked if answer_only else 0, asked)


def continuation(prefix: Sequence[int], context: Sequence[int], cut: int) -> Target:
    """The rest of a document after `cut` tokens, told to a student that has not read the beginning.

    Args:
        cut: 1 ... len(context) - 2, so that both sides hold something.
    """
    if not 1 <= cut <= len(context) - 2:
        raise ValueError(f"cut must be within 1 and {len(context) - 2}, got {cut}")
    return build_target(prefix, context[:cut], context[cut:], "continuation")


def collate(targets: Sequence[Target], student_length: int, teacher_length: int) -> dict[str, np.ndarray]:
    """Targets as one batch, padded on the right.

    Returns:
        `student`, `student_segments` `[B, Ts]`, `teacher`, `teacher_segments` `[B, Tt]`, `offset`, `kind` and
        `given` `[B]`; int32.
    """
    student, student_segments = pad_right([t.student for t in targets], student_length)
    teacher, teacher_segments = pad_right([t.teacher for t in targets], teacher_length)
    numbers = lambda values: np.array(list(values), np.int32)
    return {"student": student, "student_segments": student_segments, "teacher": teacher,
            "teacher_segments": teacher_segments, "offset": numbers(t.offset for t in targets),
            "kind": numbers(t.kind for t in targets), "given": numbers(t.given for t in targets)}


def common_lengths(targets: Sequence[Target], window: int) -> tuple[int, int]:
    """Bucketed lengths that hold all student and all teacher views."""
    sizes = bucket_sizes(window)
    return (bucket(max(len(t.student) for t in targets), sizes), bucket(max(len(t.teacher) for t in targets), sizes))
