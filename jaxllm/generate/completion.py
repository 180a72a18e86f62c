"""Generated tokens as text: decoding next to a prompt, stop strings, log-probabilities."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from jaxllm.errors import UserError
from jaxllm.model import Model

# The replacement character for bytes that are not valid UTF-8, and the bytes of the longest character.
REPLACEMENT, LONGEST_CHARACTER_BYTES = "\ufffd", 4
# Tokens of the prompt that are decoded along with its continuation; the most, where they would begin in a character.
CONTEXT_TOKENS = 8
MOST_CONTEXT_TOKENS = CONTEXT_TOKENS + LONGEST_CHARACTER_BYTES - 1


@dataclasses.dataclass(frozen=True)
class Completion:
    """One continuation of one prompt.

    Attributes:
        text: the text after the prompt, without special tokens, cut before a stop string.
        token_ids: all generated tokens, the final end token included.
        logprob: sum of `logprobs`, in nats.
        finish_reason: `stop` (end token or stop string) or `length`.
        logprobs: `[N]` float32 log-probability of each of `token_ids` under the model's own distribution,
            softmax(logits / logprob_temperature) with temperature 1 by default, before truncation, bias and penalty.
    """

    text: str
    token_ids: list[int]
    logprob: float
    finish_reason: str
    logprobs: np.ndarray = dataclasses.field(compare=False, repr=False)


def complete(model: Model, prompt: np.ndarray, ids: np.ndarray, logprobs: np.ndarray,
             cut: tuple[int, str] | None, stop_ids: Sequence[int]) -> Completion:
    """Builds a completion from its tokens.

    Args:
        model: the model that generated them.
        prompt: `[T]` int32, the prompt.
        ids: `[N]` int32, the generated tokens.
        logprobs: `[N]` float32, their log-probabilities.
        cut: result of `find_stop`.
        stop_ids: tokens that end a text.
    """
    count, text = cut or (len(ids), None)
    ids, logprobs = ids[:count], np.array(logprobs[:count], np.float32)
    ended = bool(len(ids)) and int(ids[-1]) in stop_ids
    if text is None:
        text = continuation_text(model, prompt, ids[:-1] if ended else ids)
    total = check_finite(float(np.sum(logprobs, dtype=np.float64)))
    return Completion(text, ids.tolist(), total, "stop" if ended or cut else "length", logprobs)


def find_stop(model: Model, prompt: np.ndarray, ids: np.ndarray, stop: Sequence[str],
              checked: int = 0) -> tuple[int, str] | None:
    """Finds the first stop string in a continuation.

    A stop string that spells a special token, perhaps with other text ("\\n<|user|>"), is searched for in the text with
    special tokens.

    Args:
        model: for its tokenizer.
        prompt: `[T]` int32, the prompt.
        ids: `[N]` int32, the tokens after it.
        stop: stop strings.
        checked: number of leading tokens known to contain no stop string. Only the text from shortly before them on is
            decoded, so that checking a text while it grows takes linear time.

    Returns:
        Number of tokens up to and including the stop string, and the text before it; None without a stop string.
    """
    if not stop:
        return None
    tokens = model.tokenizer.special_tokens
    special = [text for text in stop if any(token in text for token in tokens)]
    cuts = [_find(model, prompt, ids, special, checked, True),
            _find(model, prompt, ids, [text for text in stop if text not in special], checked, False)]
    return min((cut for cut in cuts if cut is not None), key=lambda cut: (cut[0], len(cut[1])), default=None)


def _find(model: Model, prompt: np.ndarray, ids: np.ndarray, stop: Sequence[str], checked: int,
          shown: bool) -> tuple[int, str] | None:
    """Finds the first of some stop strings, in the text with special tokens where `shown` is set; see `find_stop`."""
    if not stop or not any(s in _recent_text(model, prompt, ids, checked, max(map(len, stop)), shown) for s in stop):
        return None
    spelled = lambda count: continuation_text(model, prompt, ids[:count], shown)
    stops = lambda count: any(s in spelled(count) for s in stop)
    if not stops(len(ids)):
        return None
    # The shortest run of tokens that spells a stop string.
    count = 1 + bisect.bisect_left(range(1, len(ids)), True, key=stops)
    text = spelled(count)
    start = min(text.find(s) for s in stop if s in text)
    if shown:  # without the special tokens in front of the stop string, which may start within a token
        before = bisect.bisect_right(range(1, count + 1), start, key=lambda number: len(spelled(number)))
        return count, continuation_text(model, prompt, ids[:before]) + text[len(spelled(before)):start]
    return count, text[:start]


def _recent_text(model: Model, prompt: np.ndarray, ids: np.ndarray, checked: int, longest: int, special: bool) -> str:
    """Text of the tokens after the first `checked`, and of enough tokens before to hold a string that began earlier."""
    back, start = longest + LONGEST_CHARACTER_BYTES, 0
    while back < checked:
        before = _decoder(model, special)(ids[checked - back:checked].tolist())
        if len(before.strip(REPLACEMENT)) > longest:
            start = checked - back
            break
        back *= 2
    context = np.concatenate([prompt[-MOST_CONTEXT_TOKENS:], ids[max(start - MOST_CONTEXT_TOKENS, 0):start]])
    return continuation_text(model, context, ids[start:], special)


def continuation_text(model: Model, prompt: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray,
                      special: bool = False) -> str:
    """Decodes the text that `ids` add to a prompt; see `Tokenizer.decode`.

    The end of the prompt is decoded along with them, because tokens of some tokenizers lose their leading blank at the
    start of a text. Where characters are spelled in bytes, that end is extended to begin with a whole character, and
    the last character of the continuation may be unfinished, since invalid bytes make all adjacent bytes invalid.
    """
    decode = _decoder(model, special)
    prompt, ids = [int(token) for token in prompt[-MOST_CONTEXT_TOKENS:]], [int(token) for token in ids]
    context = prompt[-CONTEXT_TOKENS:]
    if decode(context).startswith(REPLACEMENT):  # within a character, or after one that is spelled so
        context = min((prompt[-size:] for size in range(CONTEXT_TOKENS, MOST_CONTEXT_TOKENS + 1)),
                      key=lambda part: decode(part).count(REPLACEMENT))
    before = decode(context)
    candidates: list[str] = []
    for missing in range(min(LONGEST_CHARACTER_BYTES, len(ids) + 1)):
        whole = decode([*context, *ids[:len(ids) - missing]])
        if whole.startswith(before):
            candidates.append(whole[len(before):] + REPLACEMENT * bool(missing))
            if REPLACEMENT not in whole[len(before):]:
                break
    return min(candidates, key=lambda text: text.count(REPLACEMENT)) if candidates else decode(ids)


def _decoder(model: Model, special: bool) -> Callable[[list[int]], str]:
    """Returns the decoding of ids, with special tokens if `special` is set."""
    return partial(model.tokenizer.decode, special=True) if special else model.tokenizer.decode


def check_finite(logprob: float) -> float:
    """Returns `logprob`, or raises a `UserError` where it is NaN or infinite."""
    if not np.isfinite(logprob):
        raise UserError("the model gives log-probabilities that are not finite", "model",
                        "look for NaN or infinity in its weights, or for overflow in a shorter format")
    return logprob
