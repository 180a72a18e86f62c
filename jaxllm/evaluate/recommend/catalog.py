"""Catalog of items, and matching of written titles to it by edit distance."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.errors import UserError

_PARENTHESES = re.compile(r"\([^()]*\)")
# Rows of the distance matrix that exist at a time.
_TITLES_PER_BLOCK = 2048


def title_name(title: str) -> str:
    """Normalizes a title: NFC, without `_`, `-`, `>` and text in parentheses, such as "(2013 film)"; a title of nothing
    else stays."""
    title = unicodedata.normalize("NFC", title)
    return " ".join(_PARENTHESES.sub("", re.sub(r"[_\->]", " ", title)).split() or title.split())


@dataclass(frozen=True)
class Match:
    """The item name that a written title matches.

    Attributes:
        name: the nearest name of the catalog.
        distance: Levenshtein distance to it, both in lower case.
    """

    name: str
    distance: int


class Catalog:
    """Names of all items; several items may have one name.

    Args:
        items: id -> title.

    Raises:
        UserError: the library for edit distances is not installed, or no title has a name.
    """

    def __init__(self, items: dict[int, str]):
        try:
            import rapidfuzz
        except ImportError:
            raise UserError("the library for edit distances is not installed", "jaxllm recommend",
                            "pip install 'jaxllm[recommend]'") from None
        self._process, self._distance = rapidfuzz.process, rapidfuzz.distance.Levenshtein.distance
        # Sorted by id, so that ties go to the smallest id in every run.
        self.names = list(dict.fromkeys(filter(None, (title_name(items[id]) for id in sorted(items)))))
        if not self.names:
            raise UserError("no item has a title", "items")
        self._lower = [name.lower() for name in self.names]

    def match(self, titles: Sequence[str]) -> list[Match]:
        """Returns the nearest name for every written title."""
        lower = [unicodedata.normalize("NFC", title).lower() for title in titles]
        distinct = list(dict.fromkeys(lower))
        nearest: dict[str, Match] = {}
        for start in range(0, len(distinct), _TITLES_PER_BLOCK):
            some = distinct[start:start + _TITLES_PER_BLOCK]
            table = self._process.cdist(some, self._lower, scorer=self._distance, dtype=np.int32, workers=-1)
            for title, row, index in zip(some, table, table.argmin(axis=1), strict=True):
                nearest[title] = Match(self.names[index], int(row[index]))
        return [nearest[title] for title in lower]
