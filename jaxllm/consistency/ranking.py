"""Rank aggregation: scores of items from pairwise comparisons that may contradict each other.

Shapes: N items of one instance, C comparisons. A tie is half a win of each item, except where a method is defined by
strict preferences only (Schulze, Kemeny). Scores are higher for better items, and NaN for an item without comparisons.
Methods differ in what they decide: `Ranking.decided` is the strict partial order to use, and scores agree with it.
Items that no chain of comparisons connects are ordered by the methods that score items on a common scale (`win_loss`,
`borda`, `copeland`, `elo`, `bradley_terry` with a prior on all pairs), and by no other one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.errors import UserError

WINNERS = ("first", "second", "tie")
# Wins that are added to both items of every pair that was compared, for estimates that need them to be finite.
PRIOR = 0.1
# Scores that differ by less are equal: those of a counting method, up to rounding, and those of an iterative one.
SLACK, TOLERANCE = 1e-12, 1e-6
# Steps of the maximum-likelihood fit: minorization-maximization, which is slow on sparse graphs, then Newton's method.
MM_STEPS, NEWTON_STEPS = 20, 1000
# Up to this number of items all subsets are enumerated for Kemeny's orders (100 MB, seconds); beyond that, integer
# programming is used, for which some noisy comparisons are hard.
MOST_ENUMERATED = 20


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
        return _components(self.played > 0)


@dataclass(frozen=True)
class Ranking:
    """Order of the items of one instance.

    Attributes:
        scores: `[N]`, higher is better; NaN for items without comparisons.
        decided: `[N, N]`, whether the method ranks the item of the row above that of the column: a strict partial
            order, and so without cycles. Where it holds, the score of the row is higher. A higher score alone
            decides nothing: Schulze and Kemeny leave pairs open, and other methods pairs that nothing connects.
        distance: for Kemeny, number of comparisons that an optimal order contradicts.
    """

    scores: np.ndarray
    decided: np.ndarray
    distance: int | None = None


Estimator = Callable[[Comparisons], Ranking]
"""Ranks the items of one instance."""


def win_loss(comparisons: Comparisons) -> Ranking:
    """Computes the win-loss rate: wins less losses, over the number of comparisons, ties included (2410.02205).

    It does not depend on the order of comparisons, and uses no indirect evidence: in the chain A > B > C > D, B and C
    are equal, and a win over a strong item counts as much as one over a weak item.
    """
    played = comparisons.played.sum(1)
    rates = np.full(comparisons.count, np.nan)
    np.divide(comparisons.margins.sum(1), played, out=rates, where=played > 0)
    return _by_scores(rates, SLACK)


def borda(comparisons: Comparisons) -> Ranking:
    """Computes wins less losses: Copeland's score by counted wins, and for complete comparisons the order of Borda."""
    return _by_scores(_known(comparisons.margins.sum(1), comparisons), SLACK)


def copeland(comparisons: Comparisons) -> Ranking:
    """Computes Copeland's score by majorities: number of items that the item beats in most of the comparisons with
    them, less the number of those that beat it. A pair with as many wins of both items counts for neither.
    """
    return _by_scores(_known(np.sign(comparisons.margins).sum(1), comparisons), SLACK)


def elo(comparisons: Comparisons, k: float = 32.0, start: ArrayLike = 1500.0, permutations: int = 0, seed: int = 0
        ) -> Ranking:
    """Computes Elo ratings with one pass: R += k (S - E), E = 1 / (1 + 10^((R_other - R) / 400)), S = 1, 0.5 or 0.

    Args:
        comparisons: later comparisons weigh more; ratings depend on their order.
        k: largest change of a rating.
        start: rating of all items before the pass, or of each one, `[N]`.
        permutations: number of random orders; ratings are means over them. 0 is the order of the comparisons.
        seed: seed of the random orders.
    """
    rng = np.random.default_rng(seed)
    total = len(comparisons.first)
    orders = np.stack([rng.permutation(total) for _ in range(permutations)] if permutations else [np.arange(total)])
    ratings = np.tile(np.broadcast_to(np.asarray(start, np.float64), comparisons.count), (len(orders), 1))
    every = np.arange(len(orders))
    for step in orders.T:
        first, second = (every, comparisons.first[step]), (every, comparisons.second[step])
        expected = 1 / (1 + 10**((ratings[second] - ratings[first]) / 400))
        change = k * (comparisons.points[step] - expected)
        ratings[first] += change
        ratings[second] -= change
    return _by_scores(_known(ratings.mean(0), comparisons), TOLERANCE)


def bradley_terry(comparisons: Comparisons, prior: float = PRIOR, everywhere: bool = False) -> Ranking:
    """Fits log-strengths s of the Bradley-Terry model, P(i beats j) = sigmoid(s_i - s_j), by maximum likelihood.

    Strengths have a mean of 0 over each connected component of the comparison graph. Items of different components
    are not ordered: the likelihood does not depend on the difference. With a prior on all pairs there is one component.

    Args:
        comparisons: a tie is half a win of each.
        prior: wins that are added to both items of each compared pair, in the units of comparisons. Pairs that were
            not compared have none, so that other items do not change the contrast of two. 0 is the plain likelihood.
        everywhere: add the prior to all pairs of items that have comparisons, as pseudo-counts on a complete graph do:
            strengths of items with few comparisons shrink to those of the others. More accurate on sparse noisy data.

    Raises:
        UserError: the likelihood has no maximum: `prior` is 0, and some items never lost to the other ones of their
            component.
    """
    votes, components = _votes(comparisons, prior, "bradley_terry"), comparisons.components
    if everywhere and prior:
        votes = np.maximum(votes, prior * ~np.eye(comparisons.count, dtype=bool))
        components = (~comparisons.compared).astype(np.int64)
    return _by_scores(_fitted(comparisons, components, lambda items: log_strengths(votes[np.ix_(items, items)])),
                      TOLERANCE, components)


def rank_centrality(comparisons: Comparisons, prior: float = PRIOR) -> Ranking:
    """Computes the logarithm of the stationary distribution of Rank Centrality (1209.1688).

    The random walk moves from i to j with probability (share of the comparisons of i and j that j won) / d, d the
    largest number of opponents of an item, and otherwise stays; the distribution does not depend on d. It is computed
    without subtractions (Grassmann, Taksar and Heyman 1985), so that small probabilities are as precise as large ones.
    With exact shares these are the log-strengths of Bradley and Terry.

    Args:
        comparisons: a tie is half a win of each.
        prior: as for `bradley_terry`.

    Raises:
        UserError: `prior` is 0, and the walk never leaves some items of a component.
    """
    votes = _votes(comparisons, prior, "rank_centrality")
    played = votes + votes.T
    shares = np.divide(votes.T, played, out=np.zeros_like(votes), where=played > 0)
    scores = _fitted(comparisons, comparisons.components, lambda items: _log_stationary(shares[np.ix_(items, items)]))
    return _by_scores(scores, TOLERANCE, comparisons.components)


def schulze(comparisons: Comparisons, strength: str = "winning") -> Ranking:
    """Ranks by strongest paths (Schulze 2011): i is above j where the strongest path from i to j is stronger than that
    from j to i. A path has the strength of its weakest majority. With one comparison of each pair, all majorities are
    as strong, and items of the same cycle stay undecided.

    Args:
        comparisons: majorities are of strict preferences; ties count for neither item.
        strength: strength of a majority, "winning" for its wins, or "margins" for its wins less its losses. By
            margins more pairs stay undecided.

    Returns:
        Scores are the number of items that are below less the number of those that are above. Two items without an
        order may have different scores: use `decided`.

    Raises:
        UserError: `strength` is neither of the two words.
    """
    if strength not in ("winning", "margins"):
        raise UserError(f"no strength of majorities {strength!r}", "schulze", "use winning or margins")
    margins = comparisons.margins
    paths = np.where(margins > 0, comparisons.wins if strength == "winning" else margins, 0)
    for middle in range(comparisons.count):
        paths = np.maximum(paths, np.minimum(paths[:, middle, None], paths[middle]))
    return _by_order(comparisons, paths > paths.T)


def kemeny(comparisons: Comparisons, keep_ties: bool = True, time_limit: float = 600.0) -> Ranking:
    """Computes the exact Kemeny orders: those that contradict as few comparisons as possible.

    The problem is split where all orders of an optimum agree; parts of at most `MOST_ENUMERATED` items are solved by
    dynamic programming over subsets, larger ones by integer programming (mostly seconds for 30 items in the same
    cycle, minutes for 40).

    Args:
        comparisons: ties contradict no order.
        keep_ties: decide only what all optimal orders agree on. False decides all pairs by one of them, which depends
            on the numbers of the items.
        time_limit: seconds for an integer program.

    Returns:
        Scores are the number of items that are below less the number of those that are above, in the order that is
        decided; `distance` is the number of comparisons that every optimal order contradicts.

    Raises:
        UserError: an integer program takes longer than `time_limit`.
    """
    items = np.flatnonzero(comparisons.compared)
    inside = np.ix_(items, items)
    order, common = _optimal_orders(comparisons.margins[inside], time_limit)
    decided = np.zeros_like(comparisons.wins, bool)
    decided[inside] = common if keep_ties else _above(order)
    return _by_order(comparisons, decided, contradicted(comparisons, items[order]))


ESTIMATORS: Mapping[str, Callable[..., Ranking]] = MappingProxyType({
    "win_loss": win_loss, "elo": elo, "bradley_terry": bradley_terry, "copeland": copeland,
    "rank_centrality": rank_centrality, "schulze": schulze, "kemeny": kemeny})
"""Name -> estimator, with its options as further arguments."""


def contradicted(comparisons: Comparisons, order: Sequence[int] | np.ndarray) -> int:
    """Counts the comparisons that an order of items, best first, contradicts; ties contradict none."""
    ranked = np.asarray(order, np.int64)
    return int(np.tril(comparisons.wins[np.ix_(ranked, ranked)]).sum())


def has_maximum_likelihood(comparisons: Comparisons) -> bool:
    """Checks whether the plain Bradley-Terry likelihood has a maximum (Ford 1957): the digraph of wins is strongly
    connected within each component of the comparison graph. A tie is an edge in both directions.
    """
    return _components(comparisons.votes > 0, "strong").max(initial=-1) == comparisons.components.max(initial=-1)


def log_strengths(votes: ArrayLike) -> np.ndarray:
    """Maximizes sum_ij votes_ij log sigmoid(s_i - s_j), the likelihood of the Bradley-Terry model.

    A few steps of minorization-maximization (Hunter 2004) are followed by damped Newton steps until these are smaller
    than 1e-10, so that long sparse graphs converge too (minorization-maximization alone stops far from the maximum).

    Args:
        votes: wins of each item over each other one, `[N, N]`, with a strongly connected digraph.

    Returns:
        `[N]`, with a mean of 0.

    Raises:
        UserError: there is no maximum, or float64 cannot resolve it.
    """
    from scipy.special import expit, log_expit

    wins = np.array(votes, np.float64)
    played = wins + wins.T
    scores = np.zeros(len(wins))
    if len(wins) < 2:
        return scores
    if _components(wins > 0, "strong").any():
        raise _without_maximum("log_strengths")
    for _ in range(MM_STEPS):
        strengths = np.exp(scores)
        scores = np.log(wins.sum(1)) - np.log((played / (strengths[:, None] + strengths)).sum(1))
        scores -= scores.mean()
    likelihood = lambda values: (wins * log_expit(values[:, None] - values)).sum()
    length = np.inf
    for _ in range(NEWTON_STEPS):
        share = expit(scores[:, None] - scores)
        gradient = (wins * share.T - wins.T * share).sum(1)  # without cancellation between wins and expected wins
        curvature = played * share * share.T
        np.fill_diagonal(curvature, 0)
        laplacian = np.diag(curvature.sum(1)) - curvature
        try:
            step = np.append(0, np.linalg.solve(laplacian[1:, 1:], gradient[1:]))  # the first item stays where it is
        except np.linalg.LinAlgError:
            break
        step -= step.mean()
        previous, length = length, np.abs(step).max()
        # Steps of the size of rounding errors no longer shrink.
        if length <= 1e-10 or length <= TOLERANCE and length >= previous / 2:
            return scores + step
        enough = likelihood(scores) * (1 + 1e-12)  # likelihoods are negative; rounding must not stop a right step
        size = next((size for size in 0.5**np.arange(40) if likelihood(scores + size * step) >= enough), 0.0)
        if size == 0:
            break
        scores = scores + size * step
    raise UserError("float64 does not resolve the maximum of the likelihood", "log_strengths", "increase the prior")


def _by_scores(scores: np.ndarray, slack: float, components: np.ndarray | None = None) -> Ranking:
    """Ranks by scores that differ by more than `slack`, within components only where these are given."""
    decided = scores[:, None] - scores > slack
    return Ranking(scores, decided if components is None else decided & (components[:, None] == components))


def _by_order(comparisons: Comparisons, decided: np.ndarray, distance: int | None = None) -> Ranking:
    """Scores the items of a strict partial order by the items below less the items above."""
    return Ranking(_known(decided.sum(1) - decided.sum(0), comparisons), decided, distance)


def _known(scores: np.ndarray, comparisons: Comparisons) -> np.ndarray:
    """Replaces the scores of items without comparisons by NaN."""
    return np.where(comparisons.compared, scores, np.nan)


def _components(adjacency: np.ndarray, connection: str = "weak") -> np.ndarray:
    """Numbers the components of a digraph `[N, N]` from 0, `[N]`."""
    from scipy.sparse import csgraph, csr_array

    if not len(adjacency):
        return np.zeros(0, np.int64)
    return csgraph.connected_components(csr_array(adjacency), directed=True, connection=connection)[1]


def _groups(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the positions of each label, `[G]`, in ascending order of their first positions."""
    for label in dict.fromkeys(labels.tolist()):
        yield np.flatnonzero(labels == label)


def _votes(comparisons: Comparisons, prior: float, method: str) -> np.ndarray:
    """Adds a prior to the votes of compared pairs, `[N, N]`; refuses votes without a finite estimate."""
    if not 0 <= prior < np.inf:
        raise UserError(f"the prior is {prior}", method, "use 0 or a positive number")
    if prior == 0 and not has_maximum_likelihood(comparisons):
        raise _without_maximum(method)
    return comparisons.votes + prior * (comparisons.played > 0)


def _without_maximum(method: str) -> UserError:
    return UserError("there is no finite estimate: some items never lost to the other ones they are connected with",
                     method, "use a prior above 0, or add comparisons that they lose")


def _fitted(comparisons: Comparisons, components: np.ndarray, fit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Fits each component of compared items for itself, `[N]`; the mean of a component is 0."""
    scores = np.full(comparisons.count, np.nan)
    for items in _groups(components):
        if comparisons.compared[items[0]]:
            scores[items] = fit(items)
    return scores


def _log_stationary(shares: np.ndarray) -> np.ndarray:
    """Computes log probabilities of the stationary distribution of a walk with rates `[N, N]`, less their mean."""
    rates = shares.copy()
    last = len(rates) - 1
    for item in range(last, 0, -1):
        rates[:item, item] /= rates[item, :item].sum()
        rates[:item, :item] += np.outer(rates[:item, item], rates[item, :item])
    with np.errstate(divide="ignore"):  # the logarithm of a rate of 0
        logs = np.log(rates)
    probabilities = np.zeros(len(rates))
    for item in range(1, last + 1):
        probabilities[item] = np.logaddexp.reduce(probabilities[:item] + logs[:item, item])
    return probabilities - probabilities.mean()


def _above(order: np.ndarray) -> np.ndarray:
    """Computes the matrix "row is above column" of an order of N items, best first."""
    position = np.argsort(order)
    return position[:, None] < position


def _closure(edges: np.ndarray) -> np.ndarray:
    """Computes the transitive closure of a digraph, `[N, N]`."""
    reached = edges.copy()
    for middle in range(len(edges)):
        reached |= reached[:, middle, None] & reached[middle]
    return reached


def _optimal_orders(margins: np.ndarray, time_limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Searches for the orders that reverse as little margin as possible.

    Args:
        margins: wins less losses, whole numbers, `[N, N]`.
        time_limit: seconds for an integer program.

    Returns:
        An optimal order, best first, `[N]`, and the order that is common to all optimal orders, `[N, N]`.
    """
    parts, is_chain = list(_groups(_components(margins != 0))), False
    if len(parts) == 1:
        parts, is_chain = _cuts(margins), True
    if len(parts) > 1:  # parts that are independent; or each of which beats all later ones, in every optimal order
        common, order = np.zeros(margins.shape, bool), []
        for number, part in enumerate(parts):
            own, below = _optimal_orders(margins[np.ix_(part, part)], time_limit)
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
    """Solves `_optimal_orders` by dynamic programming over subsets of the items on top, 2^N of them."""
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
    """Solves `_optimal_orders` by integer programs: one for an optimal order, and then, as long as there is one, for an
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
    strong = _components(margins > 0, "strong")
    fixed = (strong[upper] != strong[lower]) & (weights != 0)
    bounds = optimize.Bounds(np.where(fixed & (weights > 0), 1.0, 0.0), np.where(fixed & (weights < 0), 0.0, 1.0))

    def solve(objective: np.ndarray, *further: Any) -> np.ndarray:
        solved = optimize.milp(objective, integrality=np.ones(len(upper)), bounds=bounds,
                               constraints=[triangles, *further],
                               options={"mip_rel_gap": 0.0, "time_limit": time_limit})
        if solved.status != 0:
            raise UserError(f"no optimal order of {count} items in {time_limit:g} seconds", "kemeny",
                            "use another estimator (schulze), or increase the time limit")
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
