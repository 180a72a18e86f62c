"""Comparisons for the tests of rank aggregation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import strategies as st

from jaxllm.consistency.ranking import (
    ESTIMATORS,
    Comparisons,
)

exactly = lambda value: pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True)
close = lambda value: pytest.approx(value, abs=5e-7)
LOG3 = math.log(3)
every = pytest.mark.parametrize("name", ESTIMATORS)
# 3 of A over B, 2 of B over A and 2 ties; 5 of B over C, 2 of C over B; 3 of A over C, 4 of C over A.
CYCLE = Comparisons.from_counts([[0, 3, 3], [2, 0, 5], [4, 2, 0]], [[0, 2, 0], [2, 0, 0], [0, 0, 0]])


def records(text, count=None):
    """Comparisons from `A>B A=C`; the item shown first is the left one."""
    first, sign, second = zip(*text.split(), strict=True) if text else ((), (), ())
    numbers = [[ord(letter) - ord("A") for letter in letters] for letters in (first, second)]
    words = [{">": "first", "<": "second", "=": "tie"}[own] for own in sign]
    return Comparisons(*numbers, words, max(sum(numbers, [-1])) + 1 if count is None else count)


def pairs(decided):
    """Pairs of a matrix, as `BC` for B above C."""
    return {f"{chr(65 + i)}{chr(65 + j)}" for i, j in np.argwhere(decided)}


def chain(count, wins=3, losses=1):
    """Neighbours only, each of which wins `wins` : `losses` against the next one."""
    return Comparisons.from_counts(np.diag([wins] * (count - 1), 1) + np.diag([losses] * (count - 1), -1))


def random_counts(count, seed, most=3, share=0.7, ties=True):
    rng = np.random.default_rng(seed)
    compared = np.triu(rng.random((count, count)) < share, 1)
    wins = rng.integers(most + 1, size=(count, count)) * (compared | compared.T)
    tied = rng.integers(2, size=(count, count)) * compared * ties
    return Comparisons.from_counts(wins, tied + tied.T)


def complete(order):
    """One comparison of each pair, won by the item that comes first in an order."""
    numbers = np.array(list(itertools.combinations(order, 2)), int).reshape(-1, 2).T
    return Comparisons(*numbers, ["first"] * numbers.shape[1], len(order))


def counts(count):
    """A strategy for comparisons of some of the pairs, with ties."""
    word = st.sampled_from(["first", "second", "tie"])
    pair = st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True)
    return st.lists(st.tuples(pair, word), max_size=3 * count).map(
        lambda rows: Comparisons([row[0][0] for row in rows], [row[0][1] for row in rows], [row[1] for row in rows],
                                 count))


def mm(votes, steps=None, change=0.0):
    """Minorization-maximization on strengths with a sum of 1, until none moves by `change`; `(log, steps)`."""
    strengths = np.full(len(votes), 1 / len(votes))
    for step in itertools.count(1):
        new = votes.sum(1) / ((votes + votes.T) / (strengths[:, None] + strengths)).sum(1)
        new /= new.sum()
        moved, strengths = np.abs(new - strengths).max(), new
        if step == steps or moved < change:
            return np.log(strengths), step
