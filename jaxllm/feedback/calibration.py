"""Probability that a label is right, from a committee with members weighted by what they have got right.

Let x hold the evidence of M members on a pair, positive for the chosen answer. The chosen answer is the better one with
probability sigmoid(w x), and the label names the other one with probability rho, the noise:

    P(label) = (1 - rho) sigmoid(w x) + rho sigmoid(-w x)
    P(label is right) = (1 - rho) sigmoid(w x) / P(label)

w maximizes the likelihood of the labels, with an L2 penalty. Labels alone hardly separate noise from members that err:
the expected rho is given, or counted on pairs that people have judged, with labels that are then known to be right or
wrong. The likelihood moves it where the members are sure enough, such as down where they agree with nearly all labels.
The label's answer comes first in x, so that nothing changes where the answers and the label are exchanged. A member
that is wrong more often than right gets a negative weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.feedback.votes import ABSTAIN

# Share of wrong labels where nothing is known: people agree with labels of preference data in 63 to 75 % (2401.06080),
# which includes pairs without a better answer.
NOISE = 0.2
NOISE_STRENGTH = 5.0  # of that share, in pairs, against those that people have judged
# Strength of the expected share, in pairs, against the likelihood of the labels.
PRIOR_STRENGTH = 300.0
# Pairs at most by which the share is fitted.
NOISE_ROWS = 20_000
PENALTY = 1.0
FOLDS = 5
PEOPLE_ODDS = 9.0  # that a majority of people is right
LIMIT = 3.0  # of a member's standardized margin: no pair is decided by a single extreme score


@dataclass(frozen=True)
class Model:
    """A calibrated committee.

    Attributes:
        weights: weight of each member, `[M]`.
        noise: probability that a label is wrong, before any member is heard.
    """

    weights: np.ndarray
    noise: float

    def better(self, x: ArrayLike) -> np.ndarray:
        """Computes the probability that the chosen answer is the better one by the members alone, `[N]`."""
        return _sigmoid(np.asarray(x) @ self.weights)

    def right(self, x: ArrayLike) -> np.ndarray:
        """Computes the probability that the label is right, `[N]`: the label is one more piece of evidence."""
        return _sigmoid(np.asarray(x) @ self.weights + np.log1p(-self.noise) - np.log(self.noise))


@dataclass(frozen=True)
class Known:
    """Labels that people have judged.

    Attributes:
        judged: `[N]` bool.
        right: `[N]` bool, whether the label is right; read where `judged`.
    """

    judged: np.ndarray
    right: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Known:
        """Selects rows."""
        return Known(self.judged[rows], self.right[rows])

    def noise(self, prior: float) -> float:
        """Estimates the share of wrong labels, with a prior worth a few pairs."""
        wrong = float((self.judged & ~self.right).sum())
        share = (wrong + NOISE_STRENGTH * prior) / (float(self.judged.sum()) + NOISE_STRENGTH)
        return float(np.clip(share, 1e-3, 0.499))


def evidence(votes: ArrayLike, margins: ArrayLike) -> np.ndarray:
    """Returns the evidence of members on each pair, `[N, M]`: the standardized margin of a member with scores, limited
    to +-3, else its vote; 0 where it abstains.

    Args:
        votes: `[N, M]`.
        margins: standardized margins `[N, M]`; NaN for members without scores.
    """
    votes, margins = np.asarray(votes), np.asarray(margins, np.float64)
    return np.where(votes == ABSTAIN, 0.0, np.where(np.isnan(margins), votes, np.clip(margins, -LIMIT, LIMIT)))


def fit(x: ArrayLike, noise: float, known: Known | None = None) -> Model:
    """Fits the weights of a committee to labels.

    Args:
        x: evidence `[N, M]`, at least one pair.
        noise: share of wrong labels, above 0 and below one half.
        known: labels that people have judged.
    """
    from scipy import optimize

    inputs = np.asarray(x, np.float64)
    rate = np.full(len(inputs), noise)
    if known is not None:
        rate = np.where(known.judged, 0.0, noise)
        inputs = np.where(known.judged & ~known.right, -1.0, 1.0)[:, None] * inputs

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        better = _sigmoid(inputs @ weights)
        likelihood = np.maximum(rate + (1 - 2 * rate) * better, 1e-300)
        slope = (1 - 2 * rate) * better * (1 - better) / likelihood
        return (-np.log(likelihood).sum() + 0.5 * PENALTY * weights @ weights, -inputs.T @ slope + PENALTY * weights)

    start = np.full(inputs.shape[1], 0.5)
    return Model(optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x, noise)


def fit_noise(x: ArrayLike, expected: float, clusters: ArrayLike, known: Known | None = None) -> float:
    """Fits the share of wrong labels: the likelihood of the labels, with a beta prior around the expected share.

    Args:
        x, known: as in `fit`.
        expected: expected share, above 0 and below one half.
        clusters: number of each pair's prompt, by which some of very many pairs are taken.
    """
    from scipy import optimize

    inputs, cluster = np.asarray(x, np.float64), np.asarray(clusters)
    used = cluster % -(-len(inputs) // NOISE_ROWS) == 0
    if not used.any():
        return expected
    own = None if known is None else known[used]
    open_ = slice(None) if own is None else ~own.judged

    def loss(logit: float) -> float:
        noise = float(_sigmoid(np.asarray(logit)))
        better = fit(inputs[used], noise, own).better(inputs[used][open_])
        prior = PRIOR_STRENGTH * (expected * np.log(noise) + (1 - expected) * np.log1p(-noise))
        return -np.log(np.maximum(noise + (1 - 2 * noise) * better, 1e-300)).sum() - prior

    bounds = [np.log(share / (1 - share)) for share in (1e-3, 0.499)]
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x
    return float(_sigmoid(np.asarray(found)))


def cross_fit(x: ArrayLike, clusters: Sequence[int] | np.ndarray, noise: float, known: Known | None = None,
              seed: int = 0, folds: int = FOLDS) -> np.ndarray:
    """Computes the probability that each label is right by a committee fitted without it, `[N]`.

    Args:
        x, noise, known: as in `fit`.
        clusters: number of each pair's prompt; pairs of a prompt are in one fold.
        seed: seed of the folds.
        folds: number of folds.
    """
    x, fold = np.asarray(x, np.float64), folds_of(clusters, folds, seed)
    right = np.empty(len(x))
    for own in np.unique(fold):
        held = fold == own
        rest = ~held if (~held).any() else held
        right[held] = fit(x[rest], noise, None if known is None else known[rest]).right(x[held])
    return right


def with_people(right: ArrayLike, decisions: ArrayLike) -> np.ndarray:
    """Adds the answer of people to the probability that a label is right, `[N]`.

    A majority of people is taken to be right in nine of ten cases; where it finds neither answer better, both labels
    are as probable.

    Args:
        right: probability by the members, `[N]`.
        decisions: `[N]` text: chosen, rejected, both_good, both_bad, tie, or "" without one.
    """
    share, decisions = np.clip(np.asarray(right, np.float64), 1e-12, 1 - 1e-12), np.asarray(decisions)
    odds = share / (1 - share) * np.where(decisions == "chosen", PEOPLE_ODDS, 1) / np.where(decisions == "rejected",
                                                                                         PEOPLE_ODDS, 1)
    return np.where(np.isin(decisions, ("both_good", "both_bad", "tie")), 0.5, odds / (1 + odds))


def weighted_votes(votes: ArrayLike, clusters: Sequence[int] | np.ndarray, seed: int = 0, folds: int = FOLDS
                   ) -> np.ndarray:
    """Adds up votes, each weighted by the log-odds that the member agrees with a label of other folds, `[N]`.

    Args:
        votes: `[N, M]`.
        clusters, seed, folds: as in `cross_fit`.
    """
    votes, fold = np.asarray(votes), folds_of(clusters, folds, seed)
    total = np.empty(len(votes))
    for own in np.unique(fold):
        held = fold == own
        weights = log_odds(votes[~held] if (~held).any() else votes)
        total[held] = np.where(votes[held] == ABSTAIN, 0, votes[held]) @ weights
    return total


def log_odds(votes: ArrayLike) -> np.ndarray:
    """Computes the log-odds that each member agrees with a label, `[M]`, smoothed by one vote on either side.

    Args:
        votes: `[N, M]`; ties and abstentions do not count.
    """
    votes = np.asarray(votes)
    return np.log(((votes == 1).sum(0) + 1) / ((votes == -1).sum(0) + 1))


def folds_of(clusters: Sequence[int] | np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Assigns pairs to folds by their clusters, `[N]`."""
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    return (np.random.default_rng(seed).permutation(cluster.max(initial=-1) + 1) % folds)[cluster]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
