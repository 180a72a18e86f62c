"""Implicit prompts: the common start of a chosen and a rejected text, or of two conversations.

A prompt is cut off only where one can be recognized: after the last role marker of an assistant that both texts have in
common, else after whole words. Prompt and answer together are always the original text, byte for byte.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxllm.errors import UserError
from jaxllm.text.schema import Message

# Role markers of a transcript: what precedes a marker, the user's and the assistant's. The first line is the form of
# HH-RLHF, in which a line within a turn may start with a marker's word.
_FAMILIES = (
    (r"(?:\A|\n\n)", "Human:", "Assistant:"),
    (r"^", "Human:", "(?:Assistant|AI):"),
    (r"^", "User:", "(?:Assistant|AI|Bot):"),
    (r"^", "Question:", "Answer:"),
    (r"^", "Q:", "A:"),
    (r"^", "### (?:Instruction|Human|User):", "### (?:Response|Assistant):"),
)
_MARKERS = [re.compile(rf"{before}(?:(?P<user>{user})|(?P<assistant>{assistant}))", re.MULTILINE)
            for before, user, assistant in _FAMILIES]


class _Marker(NamedTuple):
    """A role marker in a transcript.

    Fields:
        role: user or assistant.
        start, stop: its characters.
    """

    role: str
    start: int
    stop: int


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Splits two texts into their common prompt and the two answers.

    Transcripts with role markers (``Human:`` and ``Assistant:``, ``Q:`` and ``A:``, ...) are cut after the last marker
    of the assistant that both have in common. Other texts are cut after the last whole word that both have in common; a
    blank before the next word belongs to the answers. The prompt is empty if the texts have no word in common.

    Raises:
        UserError: the texts are equal, one is the start of the other, an answer would be empty, or the transcripts
            differ before the last answer or repeat a role.
    """
    if chosen == rejected:
        raise UserError("chosen equals rejected")
    common = os.path.commonprefix([chosen, rejected])
    stop = _transcript_stop(chosen, rejected, len(common))
    if stop is None:
        if len(common) == min(len(chosen), len(rejected)):
            raise UserError("no prompt can be recognized, since one text is the start of the other")
        words = re.match(r"(?s:.*)\s", common)
        stop = len(common[:words.end() if words else 0].rstrip(" \t"))
    for name, answer in (("chosen", chosen[stop:]), ("rejected", rejected[stop:])):
        if not answer.strip():
            raise UserError(f"the {name} answer is empty")
    return chosen[:stop], chosen[stop:], rejected[stop:]


def _transcript_stop(chosen: str, rejected: str, common: int) -> int | None:
    """Returns the end of the last common marker of an assistant; None if the texts are no transcripts."""
    for pattern in _MARKERS:
        sides = [_markers(pattern, text) for text in (chosen, rejected)]
        if not all(_is_transcript(side) for side in sides):
            continue
        if any(a.role == b.role for side in sides for a, b in itertools.pairwise(side)):
            raise UserError("the transcript repeats a role")
        shared = [marker for marker in sides[0] if marker.stop <= common]
        if not shared or shared[-1].role == "user" or any(len(side) > len(shared) for side in sides):
            raise UserError("the transcripts differ before the last answer, or an answer holds another turn")
        return shared[-1].stop
    return None


def _markers(pattern: re.Pattern, text: str) -> list[_Marker]:
    return [_Marker(match.lastgroup or "", match.start(), match.end()) for match in pattern.finditer(text)]


def _is_transcript(markers: Sequence[_Marker]) -> bool:
    """Returns whether a user's turn comes first, and an assistant's later."""
    return bool(markers) and markers[0].role == "user" and any(marker.role == "assistant" for marker in markers)


def split_conversations(chosen: Sequence[Message], rejected: Sequence[Message]
                        ) -> tuple[list[Message], list[Message], list[Message]]:
    """Splits two conversations into their common prompt and the turns after it.

    The prompt is all leading turns that both have in common, without the last turn of either side.

    Raises:
        UserError: the conversations are equal, a side does not end with the assistant's turn, or they differ before
            the answer.
    """
    if list(chosen) == list(rejected):
        raise UserError("chosen equals rejected")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if side[-1]["role"] != "assistant":
            raise UserError(f"the last turn of {name} is not the assistant's, so its answer is empty")
    most = min(len(chosen), len(rejected)) - 1
    shared = next((i for i in range(most) if chosen[i] != rejected[i]), most)
    while shared and chosen[shared - 1]["role"] == "assistant":
        shared -= 1
    answers = list(chosen[shared:]), list(rejected[shared:])
    if any(turn["role"] not in ("assistant", "tool") for answer in answers for turn in answer):
        raise UserError("the conversations differ before the last answer")
    if not shared:
        raise UserError("the conversations have no turn in common")
    return list(chosen[:shared]), *answers
