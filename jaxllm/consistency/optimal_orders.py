"""Kemeny's orders: those that contradict as few comparisons as possible, exactly."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from jaxllm.consistency.comparisons import components_of, groups_of
from jaxllm.errors import UserError

# Up to this number of items all subsets are enumerated for Kemeny's orders (100 MB, seconds); beyond that, integer
# programming is used, for which some noisy comparisons are hard.
MOST_ENUMERATED = 20


def optimal_orders(margins: np.ndarray, time_limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Searches for the orders that reverse as little margin as possible.

    Args:
        margins: wins less losses, whole numbers, `[N, N]`.
        time_limit: seconds for an integer program.

    Returns:
        An optimal order, best first, `[N]`, and the order that is common to all optimal orders, `[N, N]`.
    """
    parts, is_chain = list(groups_of(components_of(margins != 0))), False
    if len(parts) == 1:
        parts, is_chain = _cuts(margins), True
    if len(parts) > 1:  # parts that are independent; or each of which beats all later ones, in every optimal order
        common, order = np.zeros(margins.shape, bool), []
        for number, part in enumerate(parts):
            own, below = optimal_orders(margins[np.ix_(part, part)], time_limit)
            common[np.ix_(part, part)] = below
            order.append(part[own])
            if is_chain and number + 1 < len(parts):
                common[np.ix_(part, np.concatenate(parts[number + 1:]))] = True
        return np.concatenate(order), common
    reached = _closure(margins > 0)
    if not reached.diagonal().any():  # no cycles: nothing has to be reversed
        return np.argsort(reached.sum(0), kind="stable"), reached
    if len(margins) <= MOST_ENUMERATED:
        return _enumerated(margins)
    return _programmed(margins, time_limit)


def _cuts(margins: np.ndarray) -> list[np.ndarray]:
    """Splits items into consecutive parts of which each item beats all items of later parts."""
    positive = margins > 0
    order = np.argsort(-np.sign(margins).sum(1), kind="stable")  # such parts differ in the number of items they beat
    ends = [end for end in range(1, len(order)) if positive[np.ix_(order[:end], order[end:])].all()]
    return [np.sort(part) for part in np.split(order, ends) if len(part)]


def _enumerated(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solves `optimal_orders` by dynamic programming over subsets of the items on top, 2^N of them."""
    count = len(margins)
    half = count // 2
    subsets, bits = np.arange(2**count), 1 << np.arange(count)
    reversed_by = np.maximum(margins, 0)  # [i, j]: cost of j above i
    # Cost of an item next after a subset, as a sum of two tables by the lower and the upper bits of the subset.
    low, high = (-(np.arange(2**len(part))[:, None] >> np.arange(len(part)) & 1) @ part
                 for part in (reversed_by[:half], reversed_by[half:]))
    low += reversed_by.sum(0)
    cost = lambda item, subset: low[subset & (1 << half) - 1, item] + high[subset >> half, item]
    size = np.bitwise_count(subsets)
    layers = [subsets[size == layer] for layer in range(count)]
    unreached = int(reversed_by.sum()) + 1
    top, rest = np.full(len(subsets), unreached), np.full(len(subsets), unreached)  # least cost before, and after
    top[0] = rest[-1] = 0
    for layer, (item, bit) in itertools.product(layers, enumerate(bits)):
        own = layer[(layer & bit) == 0]
        top[own | bit] = np.minimum(top[own | bit], top[own] + cost(item, own))
    for layer, (item, bit) in itertools.product(reversed(layers), enumerate(bits)):
        own = layer[(layer & bit) == 0]
        rest[own] = np.minimum(rest[own], cost(item, own) + rest[own | bit])
    optimal = np.stack([((subsets & bit) == 0) & (top + cost(item, subsets) + rest[subsets | bit] == rest[0])
                        for item, bit in enumerate(bits)])
    # Items (rows, as bits) that are above an item (columns) in some optimal order.
    above = (np.array([np.bitwise_or.reduce(subsets[own]) for own in optimal]) & bits[:, None]) > 0
    order, subset = [], 0
    while len(order) < count:
        order.append(int(np.argmax(optimal[:, subset])))
        subset |= int(bits[order[-1]])
    return np.array(order), above & ~above.T


def _programmed(margins: np.ndarray, time_limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Solves `optimal_orders` by integer programs: one for an optimal order, and then, as long as there is one, for an
    optimal order that reverses as many of the pairs as possible that no order has reversed yet.
    """
    from scipy import optimize, sparse

    count = len(margins)
    upper, lower = np.triu_indices(count, 1)  # variables: 1 where the item with the lower number is above
    variable = np.zeros((count, count), np.int64)
    variable[upper, lower] = np.arange(len(upper))
    a, b, c = np.array(list(itertools.combinations(range(count), 3))).T
    columns = np.stack([variable[a, b], variable[b, c], variable[a, c]], 1)
    triangles = optimize.LinearConstraint(sparse.csr_array(
        (np.tile([1.0, 1.0, -1.0], len(a)), columns.ravel(), np.arange(0, 3 * len(a) + 1, 3)),
        (len(a), len(upper))), 0, 1)
    weights = margins[upper, lower]
    # A majority between items that no cycle connects is never reversed.
    strong = components_of(margins > 0, "strong")
    fixed = (strong[upper] != strong[lower]) & (weights != 0)
    bounds = optimize.Bounds(np.where(fixed & (weights > 0), 1.0, 0.0), np.where(fixed & (weights < 0), 0.0, 1.0))

    def solve(objective: np.ndarray, *further: Any) -> np.ndarray:
        solved = optimize.milp(objective, integrality=np.ones(len(upper)), bounds=bounds,
                               constraints=[triangles, *further],
                               options={"mip_rel_gap": 0.0, "time_limit": time_limit})
        if solved.status != 0:
            raise UserError(f"no optimal order of {count} items in {time_limit:g} seconds", "kemeny",
                            "use another estimator, such as schulze")
        return solved.x > 0.5

    best = solve(-weights)
    optimal = optimize.LinearConstraint(weights[None].astype(float), weights[best].sum() - 0.5, np.inf)
    common, changed = ~fixed, np.ones(1, bool)
    while changed.any() and common.any():
        other = solve(np.where(common, np.where(best, 1.0, -1.0), 0.0), optimal)
        changed = common & (other != best)
        common &= ~changed
    common |= fixed
    above = np.zeros((count, count), bool)
    above[upper, lower], above[lower, upper] = best, ~best
    agreed = np.zeros((count, count), bool)
    agreed[upper, lower] = agreed[lower, upper] = common
    return np.argsort(above.sum(0)), above & agreed


def _closure(edges: np.ndarray) -> np.ndarray:
    """Computes the transitive closure of a digraph, `[N, N]`."""
    reached = edges.copy()
    for middle in range(len(edges)):
        reached |= reached[:, middle, None] & reached[middle]
    return reached
