"""Pairwise comparisons of the items of one instance, and the components of their graph."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

WINNERS = ("first", "second", "tie")


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of the items of one instance, in the order in which they were made.

    Attributes:
        first, second: numbers of the items that were shown first and second, `[C]`, from 0 to N - 1.
        winner: "first", "second" or "tie", `[C]`.
        count: N, the number of items, with those that were never compared.
    """

    first: np.ndarray
    second: np.ndarray
    winner: np.ndarray
    count: int

    def __init__(self, first: ArrayLike, second: ArrayLike, winner: Sequence[str] | np.ndarray, count: int) -> None:
        """Checks the columns; a `ValueError` where one is invalid."""
        columns = [np.asarray(column, np.int64) for column in (first, second)]
        words = np.asarray(winner, np.str_)
        if any(column.shape != (words.size,) for column in columns) or words.ndim != 1:
            raise ValueError(f"columns have the shapes {[column.shape for column in (*columns, words)]}")
        if any(np.any((column < 0) | (column >= count)) for column in columns):
            raise ValueError(f"an item's number is not in 0..{count - 1}")
        if np.any(columns[0] == columns[1]):
            raise ValueError("an item is compared with itself")
        if not np.isin(words, WINNERS).all():
            word = next(str(word) for word in words if word not in WINNERS)
            raise ValueError(f"a winner is {word!r}, not first, second or tie")
        for name, value in zip(("first", "second", "winner", "count"), (*columns, words, int(count)), strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def from_counts(cls, wins: ArrayLike, ties: ArrayLike | None = None) -> Comparisons:
        """Builds comparisons from counts, pair by pair.

        Args:
            wins: number of wins of each item (row) over each other one (column), `[N, N]`, 0 on the diagonal.
            ties: number of ties, `[N, N]`, symmetric.

        Raises:
            ValueError: a matrix has another shape, or a number is negative, no whole number, or on the diagonal.
        """
        won = np.asarray(wins)
        tied = np.zeros_like(won) if ties is None else np.asarray(ties)
        for counts in (won, tied):
            if counts.ndim != 2 or counts.shape != (len(won), len(won)):
                raise ValueError(f"counts of wins and ties have the shapes {won.shape} and {tied.shape}")
            if np.any((counts < 0) | (counts != np.floor(counts))) or np.any(np.diagonal(counts)):
                raise ValueError("counts are whole numbers from 0, and 0 on the diagonal")
        if not np.array_equal(tied, tied.T):
            raise ValueError("the counts of ties are not symmetric")
        upper, lower = np.triu_indices(len(won), 1)
        counts = np.stack([won[upper, lower], won[lower, upper], tied[upper, lower]], 1).astype(np.int64).ravel()
        pair = np.repeat(np.arange(len(upper)), 3).repeat(counts)
        return cls(upper[pair], lower[pair], np.tile(WINNERS, len(upper)).repeat(counts), len(won))

    @functools.cached_property
    def points(self) -> np.ndarray:
        """Computes the share of the win that the first item has: 1, 0, or 0.5 for a tie, `[C]`."""
        return np.select([self.winner == "first", self.winner == "second"], [1.0, 0.0], 0.5)

    @functools.cached_property
    def wins(self) -> np.ndarray:
        """Counts the wins of each item over each other one, `[N, N]`."""
        wins = np.zeros((self.count, self.count), np.int64)
        won = self.winner == "first"
        np.add.at(wins, (self.first[won], self.second[won]), 1)
        lost = self.winner == "second"
        np.add.at(wins, (self.second[lost], self.first[lost]), 1)
        return wins

    @functools.cached_property
    def ties(self) -> np.ndarray:
        """Counts the ties of each pair, `[N, N]`, symmetric."""
        ties = np.zeros((self.count, self.count), np.int64)
        tied = self.winner == "tie"
        np.add.at(ties, (self.first[tied], self.second[tied]), 1)
        return ties + ties.T

    @property
    def votes(self) -> np.ndarray:
        """Computes wins with half of the ties, `[N, N]`."""
        return self.wins + self.ties / 2

    @property
    def played(self) -> np.ndarray:
        """Counts the comparisons of each pair, ties included, `[N, N]`, symmetric."""
        return self.wins + self.wins.T + self.ties

    @property
    def margins(self) -> np.ndarray:
        """Computes wins less losses of each item against each other one, `[N, N]`, antisymmetric."""
        return self.wins - self.wins.T

    @functools.cached_property
    def compared(self) -> np.ndarray:
        """Marks the items that have comparisons, `[N]`."""
        return self.played.sum(1) > 0

    @functools.cached_property
    def components(self) -> np.ndarray:
        """Numbers the connected components of the comparison graph, `[N]`, without regard to who won."""
        return components_of(self.played > 0)


def key_of(name: str | int | float) -> int:
    """Computes a number for seeds from the name of an instance, so that its draws do not depend on other instances."""
    return int.from_bytes(hashlib.sha256(str(name).encode("utf-8", "surrogatepass")).digest()[:4], "big")


def components_of(adjacency: np.ndarray, connection: str = "weak") -> np.ndarray:
    """Numbers the components of a digraph `[N, N]` from 0, `[N]`."""
    from scipy.sparse import csgraph, csr_array

    if not len(adjacency):
        return np.zeros(0, np.int64)
    return csgraph.connected_components(csr_array(adjacency), directed=True, connection=connection)[1]


def groups_of(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the positions of each label, `[G]`, in ascending order of their first positions."""
    for label in dict.fromkeys(labels.tolist()):
        yield np.flatnonzero(labels == label)
