"""Documents that are longer than the model's context window, cut into windows that overlap."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable

from jaxllm.config import check

SPACES = (" ", "\n", "\t")


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How a document is cut that does not fit the model's context window with its questions.

    Args:
        tokens: at most so many tokens are read at once; null takes what the context window leaves room for.
        overlap: share of a window that the next one has as well.
    """

    tokens: int | None = None
    overlap: float = 0.25

    def __post_init__(self):
        check(self.tokens is None or self.tokens >= 8, "tokens", f"must be 8 or more, got {self.tokens}")
        check(0 <= self.overlap <= 0.5, "overlap", f"must be between 0 and 0.5, got {self.overlap:g}")


def cut(text: str, limit: int, overlap: int, tokens: Callable[[str], int]) -> list[str]:
    """Parts of a text that together are all of it, each at most `limit` tokens long.

    Parts begin and end between words where there is white space in the second half of what would fit.

    Args:
        text: to be cut.
        limit: tokens of a part.
        overlap: tokens, at most, that a part shares with the one before; fewer than `limit`.
        tokens: counts those of a text.
    """
    fits = lambda start, end, most: tokens(text[start:end]) <= most
    parts, start, last = [], 0, 0
    while True:
        size = limit
        while start + size < len(text) and fits(start, start + size, limit):
            size *= 2
        if start + size >= len(text) and fits(start, len(text), limit):
            return [*parts, text[start:]]
        # Longer texts have more tokens, but for one or two where a word is torn.
        size = max(1, bisect.bisect_right(range(1, size), limit, key=lambda n: tokens(text[start:start + n])))
        while size > 1 and not fits(start, start + size, limit):
            size -= 1
        end = 1 + max(text.rfind(space, max(start + size // 2, last), start + size) for space in SPACES) or start + size
        back = bisect.bisect_right(range(1, end - start), overlap, key=lambda n: tokens(text[end - n:end]))
        parts.append(text[start:end])
        places = [place for space in SPACES if (place := text.find(space, end - back, end - 1)) >= 0]
        start, last = min(places) + 1 if places else end - back, end
