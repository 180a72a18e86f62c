"""Votes of a committee about the label of preference pairs (2410.01957).

A member's vote on a pair is 1 where it prefers the chosen answer, -1 the rejected one, 0 for a tie, and `ABSTAIN`. The
number of votes v of a pair is that of members that agree with the label: a tie counts against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ABSTAIN = -2
# Edges of the paper's committee of eight, as shares of the votes: below half, below seven eighths.
EDGES = (0.5, 0.875)
NAMES = ("low", "mid", "high")


class Count(NamedTuple):
    """Votes of each pair.

    Fields:
        votes: members that agree with the label, `[N]`.
        voters: members that do not abstain, `[N]`.
    """

    votes: np.ndarray
    voters: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """Share of the voters that agree with the label, `[N]`; NaN without voters."""
        return np.divide(self.votes, self.voters, out=np.full(len(self.votes), np.nan), where=self.voters > 0)


def votes_of_scores(scores: ArrayLike, tolerance: float = 0.0) -> np.ndarray:
    """Computes votes from the scores `[..., 2]` of the chosen and the rejected answer; NaN abstains.

    Args:
        scores: chosen, rejected.
        tolerance: scores that differ by no more are a tie.
    """
    scores = np.asarray(scores, np.float64)
    margin = scores[..., 0] - scores[..., 1]
    votes = (margin > tolerance).astype(np.int8) - (margin < -tolerance)
    return np.where(np.isnan(margin), ABSTAIN, votes).astype(np.int8)


def consistent_votes(first: ArrayLike, swapped: ArrayLike) -> np.ndarray:
    """Returns the votes of a judge that are the same in both orders of presentation; it abstains on others.

    Args:
        first, swapped: votes about the label with the chosen answer shown first, and with the rejected one.
    """
    first, swapped = np.asarray(first, np.int8), np.asarray(swapped, np.int8)
    return np.where(first == swapped, first, np.int8(ABSTAIN))


def count_votes(votes: ArrayLike) -> Count:
    """Counts the votes `[N, M]` of M members."""
    votes = np.asarray(votes)
    return Count((votes == 1).sum(1), (votes != ABSTAIN).sum(1))


def histogram(count: Count, members: int) -> list[int]:
    """Counts pairs by their number of votes, from 0 to the number of members; pairs without voters are left out."""
    return np.bincount(count.votes[count.voters > 0], minlength=members + 1).tolist()


def bucket_names(edges: Sequence[float] = EDGES) -> list[str]:
    """Lists the names of the buckets, from no agreement to full agreement."""
    between = list(NAMES) if len(edges) == 2 else [f"below {100 * edge:g} %" for edge in (*edges, 1)]
    return ["none", *between, "full"]


def buckets(count: Count, edges: Sequence[float] = EDGES) -> np.ndarray:
    """Returns the bucket of each pair, `[N]`: a number in `bucket_names`, -1 without voters.

    Args:
        count: votes of each pair.
        edges: shares of the votes at which a bucket ends, ascending, between 0 and 1; a pair at an edge is in the
            bucket above it. No vote, and all votes, are buckets of their own.
    """
    rate = count.rate
    # Shares are ratios of small integers: the comparison must not depend on their rounding.
    inner = 1 + np.searchsorted(np.asarray(edges) * (1 - 1e-12), np.nan_to_num(rate), side="right")
    last = len(edges) + 2
    found = np.where(rate == 0, 0, np.where(rate == 1, last, np.minimum(inner, last - 1)))
    return np.where(np.isnan(rate), -1, found)
