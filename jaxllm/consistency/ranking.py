"""Rank aggregation: scores of items from pairwise comparisons that may contradict each other.

Shapes: N items of one instance, C comparisons. A tie is half a win of each item, except where a method is defined by
strict preferences only (Schulze, Kemeny). Scores are higher for better items, and NaN for an item without comparisons.
Methods differ in what they decide: `Ranking.decided` is the strict partial order to use, and scores agree with it.
Items that no chain of comparisons connects are ordered by the methods that score items on a common scale (`win_loss`,
`borda`, `copeland`, `elo`, `bradley_terry` with a prior on all pairs), and by no other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.consistency.comparisons import Comparisons, components_of, groups_of
from jaxllm.consistency.optimal_orders import optimal_orders
from jaxllm.errors import UserError

# Wins that are added to both items of every pair that was compared, for estimates that need them to be finite.
PRIOR = 0.1
# Scores that differ by less are equal: those of a counting method, up to rounding, and those of an iterative one.
SLACK, TOLERANCE = 1e-12, 1e-6
# Steps of the maximum-likelihood fit: minorization-maximization, which is slow on sparse graphs, then Newton's method.
MM_STEPS, NEWTON_STEPS = 20, 1000


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
    order, common = optimal_orders(comparisons.margins[inside], time_limit)
    decided = np.zeros_like(comparisons.wins, bool)
    decided[inside] = common if keep_ties else _above(order)
    return _by_order(comparisons, decided, contradicted(comparisons, items[order]))


ESTIMATORS: Mapping[str, Callable[..., Ranking]] = MappingProxyType({
    "win_loss": win_loss, "borda": borda, "elo": elo, "bradley_terry": bradley_terry, "copeland": copeland,
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
    return components_of(comparisons.votes > 0, "strong").max(initial=-1) == comparisons.components.max(initial=-1)


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
    if components_of(wins > 0, "strong").any():
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
    for items in groups_of(components):
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
