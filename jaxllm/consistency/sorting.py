"""PairS (2403.16950): merge sort of items by a judge that compares two at a time.

Sorts are generators, so that many of them, and both halves of each, share the calls of the judge: each yields the pairs
that it needs next, and receives {pair: probability that the pair's first item is better}. Sorts of the same items share
their answers too: none waits for a pair that another one has compared.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

Pair = tuple[int, int]
Key = Any  # a pair, or a pair with the number of its instance
T = TypeVar("T")
Steps = Generator[list[Key], Mapping[Key, float], T]
"""Yields pairs (the first item is shown first), receives their probabilities, and returns a result."""

# A beam's probabilities are at least this: its mean of logarithms stays finite.
LEAST = 1e-6
# Slack of the margin: 0.6 is further from 0.5 than 0.1, and 0.4 is not.
SLACK = 1e-9


def most_comparisons(count: int) -> int:
    """Computes the largest number of comparisons of a greedy merge sort of `count` items: N k - 2^k + 1, k = log2 N."""
    k = math.ceil(math.log2(count)) if count > 1 else 0
    return count * k - 2**k + 1


def merge_sort(items: Sequence[int], beam: int = 1, tie_margin: float = 0.1, known: dict[Pair, float] | None = None
               ) -> Steps[list[int]]:
    """Sorts items, the worst one first.

    Args:
        items: numbers of the items, in the order to begin with.
        beam: number of partial orders that a merge follows; 1 takes the likelier one of each comparison.
        tie_margin: with a beam above 1 both outcomes are followed where the probability is this close to 0.5.
        known: answers so far, to which those that the sort receives are added.
    """
    known = {} if known is None else known
    if len(items) <= 1:
        return list(items)
    middle = len(items) // 2
    left, right = yield from together(*(merge_sort(half, beam, tie_margin, known)
                                        for half in (items[:middle], items[middle:])))
    return (yield from _merge(left, right, known) if beam == 1 else
            _beam_merge(left, right, beam, tie_margin, known))


def together(*sorts: Steps[T]) -> Steps[list[T]]:
    """Runs several sorts that do not depend on one another, and needs the pairs of all of them at once."""
    results: dict[int, T] = {}
    wanted: dict[int, list[Key]] = {}

    def advance(number: int, answers: Mapping[Key, float] | None) -> None:
        sort = sorts[number]
        try:
            wanted[number] = next(sort) if answers is None else sort.send(answers)
        except StopIteration as stop:
            results[number] = stop.value
            wanted.pop(number, None)

    for number in range(len(sorts)):
        advance(number, None)
    while wanted:
        answers = yield list(dict.fromkeys(pair for pairs in wanted.values() for pair in pairs))
        for number in list(wanted):
            advance(number, answers)
    return [results[number] for number in range(len(sorts))]


def _merge(left: Sequence[int], right: Sequence[int], known: dict[Pair, float]) -> Steps[list[int]]:
    """Merges two sorted lists; where neither item is better, that of the left list comes first (is the worse one)."""
    merged: list[int] = []
    i = j = 0
    while i < len(left) and j < len(right):
        pair = left[i], right[j]
        if pair not in known:
            known.update((yield [pair]))
        if known[pair] > 0.5:
            merged.append(right[j])
            j += 1
        else:
            merged.append(left[i])
            i += 1
    return [*merged, *left[i:], *right[j:]]


def _beam_merge(left: Sequence[int], right: Sequence[int], beam: int, tie_margin: float, known: dict[Pair, float]
                ) -> Steps[list[int]]:
    """Merges two sorted lists along the interleavings with the largest mean log-probability of their comparisons."""
    # (log-probability, comparisons, items of the left list so far, merged items)
    states: list[tuple[float, int, int, tuple[int, ...]]] = [(0.0, 0, 0, ())]
    mean = lambda state: state[0] / max(state[1], 1)
    for step in range(len(left) + len(right)):
        open_pairs = [(left[i], right[step - i]) for _, _, i, _ in states if i < len(left) and step - i < len(right)]
        if needed := [pair for pair in dict.fromkeys(open_pairs) if pair not in known]:
            known.update((yield needed))
        following = []
        for logprob, count, i, merged in states:
            j = step - i
            if i == len(left) or j == len(right):
                following.append((logprob, count, i + (i < len(left)), (*merged, (left[i] if i < len(left) else
                                                                                 right[j]))))
                continue
            p = min(max(known[left[i], right[j]], LEAST), 1 - LEAST)
            if p <= 0.5 + tie_margin + SLACK:
                following.append((logprob + math.log1p(-p), count + 1, i + 1, (*merged, left[i])))
            if p > 0.5 - tie_margin - SLACK:
                following.append((logprob + math.log(p), count + 1, i, (*merged, right[j])))
        states = sorted(following, key=mean, reverse=True)[:beam]
    return list(states[0][3])
