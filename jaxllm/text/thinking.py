"""The thinking with which a reasoning model begins its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxllm.text.tokenizer import Tokenizer

_OPEN = re.compile(r"\s*<(think|thinking|reasoning|reason)>", re.IGNORECASE)
_CLOSING_LINE = re.compile(r"[ \t]*</(?:think|thinking|reasoning|reason)>[ \t\r]*", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")

# Tokens at the end of a prompt in which an opening tag is looked for.
_TAG_TOKENS = 16


def without_thinking(text: str) -> str | None:
    """Removes the thinking at the start of an answer; returns None for one that ends within it.

    Where the chat template writes the opening tag, the answer of a local judge has it as well, and that of a server
    only the closing one. Judged texts may spell the tag, and answers quote them: the thinking ends with the last
    closing tag that is alone on its line and in no fence of code. Without one it ends with the first closing tag after
    an opening one; an answer without an opening tag is no thinking then.
    """
    opened = _OPEN.match(text)
    rest = text[opened.end():] if opened else text
    own = _after_closing_line(rest)
    if opened is None or own != rest:
        return own
    closed = re.compile(f"</{opened[1]}>", re.IGNORECASE).search(rest)
    return None if closed is None else rest[closed.end():]


def opening_tag(prompt: str) -> str:
    """Returns the opening tag with which a prompt ends; empty without one."""
    opened = re.search(r"<(?:think|thinking|reasoning|reason)>\s*\Z", prompt, re.IGNORECASE)
    return opened[0] if opened else ""


def opening_tag_of(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the opening tag with which an encoded prompt ends, such as one that the chat template writes.

    Args:
        tokenizer: tokenizer of the prompt.
        ids: its ids.
    """
    return opening_tag(tokenizer.decode(ids[-_TAG_TOKENS:], special=True))


def _after_closing_line(text: str) -> str:
    """Returns the text after the last line that is a closing tag, in no fence; all of it without such a line."""
    start, end, in_fence = 0, 0, False
    for line in text.split("\n"):
        end += len(line) + 1
        if _FENCE.match(line):
            in_fence = not in_fence
        elif not in_fence and _CLOSING_LINE.fullmatch(line):
            start = end
    return text[start:]
