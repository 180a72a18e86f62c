"""What can be recommended, and which of it a written title means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.errors import UserError

_PARENTHESES = re.compile(r"\([^()]*\)")
# Written titles compared with the catalog at a time: a matrix of so many rows.
_TOGETHER = 2048


def title_name(title: str) -> str:
    """A title's words: without `_`, `-`, `>` and what stands in parentheses, such as "(2013 film)"."""
    return " ".join(_PARENTHESES.sub("", re.sub(r"[_\->]", " ", title)).split())


@dataclass(frozen=True)
class Match:
    """What a written title means.

    Attributes:
        name: the nearest name of the catalog.
        distance: letters to change, add or remove to get there, of all in lower case (Levenshtein).
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
        # In the order of ids: of equally near names the one with the smallest id is taken, in every run.
        self.names = list(dict.fromkeys(filter(None, (title_name(items[id]) for id in sorted(items)))))
        if not self.names:
            raise UserError("no item has a title", "items")
        self._lower = [name.lower() for name in self.names]

    def match(self, titles: Sequence[str]) -> list[Match]:
        """The nearest name for every written title."""
        distinct = list(dict.fromkeys(title.lower() for title in titles))
        nearest: dict[str, Match] = {}
        for start in range(0, len(distinct), _TOGETHER):
            some = distinct[start:start + _TOGETHER]
            table = self._process.cdist(some, self._lower, scorer=self._distance, dtype=np.int32, workers=-1)
            places = table.argmin(axis=1)
            for title, row, place in zip(some, table, places, strict=True):
                nearest[title] = Match(self.names[place], int(row[place]))
        return [nearest[title.lower()] for title in titles]
