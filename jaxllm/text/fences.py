"""Fences of backticks around untrusted text in a prompt, which the text cannot close."""

from __future__ import annotations

import re

_RUN = re.compile(r"`{3,}")


def fence_for(*texts: str) -> str:
    """Returns a fence of backticks that none of the texts has."""
    return "`" * max(3, *(len(run) + 1 for text in texts for run in _RUN.findall(text)), 3)


def fenced(text: str, fence: str, tag: str = "") -> str:
    """Puts a text between fences.

    Args:
        text: the text.
        fence: result of `fence_for` for all texts of the prompt.
        tag: language, written after the opening fence.
    """
    return f"{fence}{tag}\n{text}\n{fence}"
