"""Tokens that follow a prompt as text: what they spell, where a stop string ends them, what they are worth."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxllm.errors import UserError
from jaxllm.model import Model

# Tokens of the prompt that are decoded along with its continuation.
CONTEXT_PIECES = 8
# What stands for bytes that are no text, and the most bytes that a character has.
UNREADABLE, LONGEST_CHARACTER = "\ufffd", 4


@dataclasses.dataclass(frozen=True)
class Completion:
    """One continuation of one prompt.

    Attributes:
        text: what follows the prompt's text, without special tokens, cut before a stop string.
        token_ids: all tokens generated, the one that ended the text included.
        logprob: nats, summed over `token_ids`, under the model's own distribution (temperature 1, nothing
            cut off), whatever settings chose the tokens.
        finish_reason: `stop` (end token or stop string) or `length`.
    """

    text: str
    token_ids: list[int]
    logprob: float
    finish_reason: str


def complete(model: Model, prompt: Sequence[int], ids: list[int], logprobs: np.ndarray,
             cut: tuple[int, str] | None) -> Completion:
    """A completion from its tokens.

    Args:
        model: whose tokens they are.
        prompt: what they follow.
        ids: the tokens, up to where generation was ended.
        logprobs: `[N]`, of each of them.
        cut: what `find_stop` found.
    """
    count, text = cut or (len(ids), None)
    ids = ids[:count]
    ended = bool(ids) and ids[-1] in model.stop_ids
    if text is None:
        text = continuation_text(model, prompt, ids[:-1] if ended else ids)
    total = finite(float(np.sum(logprobs[:count], dtype=np.float64)))
    return Completion(text, ids, total, "stop" if ended or cut else "length")


def find_stop(model: Model, prompt: Sequence[int], ids: list[int], stop: Sequence[str]) -> tuple[int, str] | None:
    """After how many tokens behind a prompt a stop string is spelled, and the text before it; None if none is."""
    spelled = lambda count: continuation_text(model, prompt, ids[:count])
    stops = lambda count: any(s in spelled(count) for s in stop)
    if not stop or not stops(len(ids)):
        return None
    # The shortest run of tokens that spells a stop string: what follows was never wanted.
    count = 1 + bisect.bisect_left(range(1, len(ids)), True, key=stops)
    text = spelled(count)
    return count, text[:min(text.find(s) for s in stop if s in text)]


def continuation_text(model: Model, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text that `ids` add to a prompt.

    Decoded behind the end of the prompt, because pieces of some tokenizers lose their leading blank where a
    text starts. Where characters are spelled in bytes, that end is a whole one, and the last character of the
    continuation may be unfinished: bytes that make no text spoil all bytes next to them.
    """
    decode, pieces = model.tokenizer.decode, CONTEXT_PIECES
    before = decode(prompt[-pieces:])
    while UNREADABLE in before and pieces < len(prompt):
        pieces *= 2
        before = decode(prompt[-pieces:])
    found: list[str] = []
    for missing in range(min(LONGEST_CHARACTER, len(ids) + 1)):
        whole = decode([*prompt[-pieces:], *ids[:len(ids) - missing]])
        if whole.startswith(before):
            found.append(whole[len(before):] + UNREADABLE * bool(missing))
            if UNREADABLE not in whole[len(before):]:
                break
    return min(found, key=lambda text: text.count(UNREADABLE)) if found else decode(ids)


def finite(logprob: float) -> float:
    """`logprob`, unless it is what weights that are not numbers lead to."""
    if not np.isfinite(logprob):
        raise UserError("the model gives log-probabilities that are not finite", "model",
                        "look for NaN or infinity in its weights, or for overflow in a shorter format")
    return logprob
