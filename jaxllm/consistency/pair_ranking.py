"""Ranks of items by PairS: all instances and orders to begin with share the calls of the judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.consistency.data import Instance
from jaxllm.consistency.sorting import Key, Pair, Steps, merge_sort, together

Source = Callable[[Sequence[tuple[int, Pair]]], list[float | None]]
"""Returns the probability that the first slot is picked, for pairs of items of instances; None without an answer."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of the items of one instance.

    Attributes:
        ranks: position of every item in the result of each order to begin with, 0 for the worst one, `[O, N]`.
        answers: pair -> probability that its first item is better, as the sort used it: calibrated if it was.
        comparisons: number of comparisons that were made, each once.
    """

    ranks: np.ndarray
    answers: Mapping[Pair, float]
    comparisons: int

    @property
    def scores(self) -> np.ndarray:
        """Mean ranks, `[N]`, higher for better items."""
        return self.ranks.mean(0)

    @property
    def order(self) -> np.ndarray:
        """Items from the best one to the worst, `[N]`; of equal scores as the first sort has them."""
        return np.lexsort((-self.ranks[0], -self.scores))

    @property
    def uncertainty(self) -> np.ndarray:
        """Mean entropy of the comparisons of every item, in bits, `[N]`."""
        total, count = np.zeros(self.ranks.shape[1]), np.zeros(self.ranks.shape[1])
        for pair, p in self.answers.items():
            own = -sum(share * math.log2(share) for share in (p, 1 - p) if share > 0)
            for item in pair:
                total[item] += own
                count[item] += 1
        return total / np.maximum(count, 1)


def rank(sizes: Sequence[int], source: Source, *, beam: int = 1, tie_margin: float = 0.1, calibrated: bool = False,
         orders: int = 1, seed: int = 0, keys: Sequence[int] | None = None,
         progress: Callable[[int], None] = lambda answers: None) -> list[Ranks]:
    """Ranks the items of instances by merge sorts from random orders.

    Args:
        sizes: number of items of each instance.
        source: answers pairs, each once. Without an answer, or one of both where `calibrated`, both items are equal.
        beam, tie_margin: see `sorting.merge_sort`.
        calibrated: compare in both orders, and use the mean.
        orders: number of orders to begin with.
        seed, keys: seed of these orders, and a number of each instance for its own; by default its position.
        progress: called with the number of answers so far.
    """
    keys, count = range(len(sizes)) if keys is None else keys, 0
    starts = lambda number, size: [np.random.default_rng((seed, keys[number], order)).permutation(size).tolist()
                                   for order in range(orders)]
    known: list[dict[Pair, float]] = [{} for _ in sizes]
    all_orders = lambda number, size: together(*(merge_sort(start, beam, tie_margin, known[number])
                                                 for start in starts(number, size)))
    sorts = together(*(_of_instance(number, all_orders(number, size)) for number, size in enumerate(sizes)))
    try:
        wanted = next(sorts)
        while True:
            if calibrated:
                wanted = list(dict.fromkeys(one for number, pair in wanted
                                            for one in ((number, pair), (number, pair[::-1]))))
            picked = dict(zip(wanted, source(wanted), strict=True))
            if calibrated:
                picked = {(number, pair): _mean(p, picked[number, pair[::-1]]) for (number, pair), p in picked.items()}
            answers = {one: 0.5 if p is None else p for one, p in picked.items()}
            count += len(answers)
            progress(count)
            wanted = sorts.send(answers)
    except StopIteration as stop:
        sorted_items: list[list[list[int]]] = stop.value
    return [Ranks(np.argsort(np.array(own).reshape(orders, size), -1), known[number], len(known[number]))
            for number, (own, size) in enumerate(zip(sorted_items, sizes, strict=True))]


def agreement(ranks: np.ndarray, instance: Instance) -> dict[str, float | None]:
    """Compares ranks with people.

    Args:
        ranks: `[N]`, higher for better items, none equal; or `[O, N]` of several orders.
        instance: the instance, with what people prefer.

    Returns:
        `{spearman, kendall, accuracy}`, the means over the orders of: Spearman's rho and Kendall's tau-b with their
        scores, and the share of the pairs on which people decide that are in their order; None where it is not defined.
    """
    found: dict[str, float | None] = dict.fromkeys(("spearman", "kendall", "accuracy"))
    order, ranks = instance.order, np.atleast_2d(ranks)
    if order is None:
        return found
    better, worse = np.nonzero(order > 0)
    if not better.size:
        return found
    right = np.array([np.count_nonzero(own[better] > own[worse]) for own in ranks])
    found["accuracy"] = float(np.mean(right / better.size))
    if not isinstance(instance.human[0], list):
        from scipy.stats import rankdata

        scores = np.array([np.nan if one is None else one for one in instance.human], float)
        own = ~np.isnan(scores)
        centered = rankdata(scores[own]) - (own.sum() + 1) / 2
        places = rankdata(ranks[:, own], axis=1) - (own.sum() + 1) / 2
        found["spearman"] = float(np.mean(places @ centered / np.sqrt((places**2).sum(1) * (centered**2).sum())))
        found["kendall"] = float(np.mean((2 * right - better.size) / math.sqrt(better.size * math.comb(own.sum(), 2))))
    return found


def _mean(p: float | None, other: float | None) -> float | None:
    """Averages the answers in both orders; None where one is missing."""
    return None if p is None or other is None else (p + 1 - other) / 2


def _of_instance(number: int, sort: Steps[list[list[int]]]) -> Steps[list[list[int]]]:
    """Adds the number of the instance to the pairs that a sort needs."""
    try:
        pairs: list[Key] = next(sort)
        while True:
            answers = yield [(number, pair) for pair in pairs]
            pairs = sort.send({pair: answers[number, pair] for own in pairs
                               for pair in (own, own[::-1]) if (number, pair) in answers})
    except StopIteration as stop:
        return stop.value
