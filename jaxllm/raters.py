"""Agreement among raters who sort items into categories: kappas, Krippendorff's alpha, consensus by Dawid and Skene.

Ratings are `[N, M]`, item by rater: numbers of categories from 0, and `MISSING` where a rater gave none. Coefficients
are ratios of sums over items, so that intervals come from resampled sums. A coefficient without a value (no item with
two ratings, all ratings in one category) is NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.statistics import clustered_sums

MISSING = -1
Weights = Literal["linear", "quadratic"]


def counts_of(ratings: ArrayLike, categories: int) -> np.ndarray:
    """Counts the ratings of each item in each category, `[N, K]`.

    Raises:
        ValueError: a rating is neither a category nor `MISSING`.
    """
    ratings = np.asarray(ratings)
    if ratings.ndim != 2 or ratings.size and not (ratings.min() >= MISSING and ratings.max() < categories):
        raise ValueError(f"ratings must be [items, raters] with numbers from {MISSING} to {categories - 1}")
    return np.stack([(ratings == category).sum(1) for category in range(categories)], 1)


def percent_agreement(counts: ArrayLike) -> float:
    """Computes the mean over items of the share of pairs of raters that agree; items with one rating are left out.

    Args:
        counts: `[N, K]`, see `counts_of`.
    """
    return float(_percent(_agreement_sums(np.asarray(counts)).sum(0)))


def fleiss_kappa(counts: ArrayLike) -> float:
    """Computes Fleiss' kappa.

    Args:
        counts: `[N, K]`, ratings of each item in each category; every item has the same number of ratings.

    Raises:
        ValueError: the items have different numbers of ratings, or less than two: use `krippendorff_alpha`.
    """
    return float(_fleiss(_fleiss_sums(counts).sum(0)))


def krippendorff_alpha(counts: ArrayLike) -> float:
    """Computes Krippendorff's alpha for nominal categories; items with one rating are left out.

    Args:
        counts: `[N, K]`, see `counts_of`.
    """
    return float(_alpha(_alpha_sums(np.asarray(counts)).sum(0)))


def cohen_kappa(first: ArrayLike, second: ArrayLike, categories: int, weights: Weights | None = None) -> float:
    """Computes Cohen's kappa of two raters over the items that both rated.

    Args:
        first, second: ratings `[N]`.
        categories: number of categories of the scale, whether used or not.
        weights: weigh a disagreement by the distance of the categories on the scale, or by its square.
    """
    pairs = np.stack([np.asarray(first), np.asarray(second)], 1)
    counts_of(pairs, categories)
    pairs = pairs[(pairs != MISSING).all(1)]
    table = np.zeros((categories, categories))
    np.add.at(table, (pairs[:, 0], pairs[:, 1]), 1)
    distance = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories))).astype(float)
    cost = {None: distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    expected = (np.outer(table.sum(1), table.sum(0)) * cost).sum()
    return float(1 - (table * cost).sum() * table.sum() / expected) if expected else float("nan")


def agreement(ratings: ArrayLike, categories: int, clusters: Sequence[Hashable] | np.ndarray, seed: int = 0
              ) -> dict[str, Any]:
    """Computes percent agreement, Fleiss' kappa and Krippendorff's alpha with intervals from resampled clusters.

    Args:
        ratings: `[N, M]`.
        categories: number of categories K.
        clusters: cluster of every item, such as its prompt.
        seed: seed of the resampling.

    Returns:
        `percent`, `fleiss` and `krippendorff`, each `{mean, ci_low, ci_high, n, undefined}` with the number n of items
        and the number of resamples without a value, such as those with one category; what has no value is None, with a
        `reason` in place of `undefined`. Fleiss' kappa uses the items that all rated.
    """
    counts = counts_of(ratings, categories)
    raters, clusters = np.asarray(ratings).shape[1], np.asarray(clusters)
    complete, rated = counts.sum(1) == raters, counts.sum(1) >= 2
    found: dict[str, Any] = {}
    for name, sums, ratio, used in (("percent", _agreement_sums, _percent, rated), ("fleiss", _fleiss_sums, _fleiss,
                                    complete if raters >= 2 else rated), ("krippendorff", _alpha_sums, _alpha, rated)):
        own = counts[used]
        if not len(own):
            found[name] = _none("no item has two ratings" if name != "fleiss" else "no item has a rating of all")
        elif name != "percent" and (own.sum(0) > 0).sum() < 2:
            found[name] = _none("all ratings are in one category") | {"n": len(own)}
        else:
            found[name] = clustered_sums(sums(own), ratio, clusters[used], seed) | {"n": len(own)}
    return found


def entropy(counts: ArrayLike) -> np.ndarray:
    """Computes the entropy of each item's ratings in nats, `[N]`; NaN without a rating."""
    counts = np.asarray(counts, float)
    shares = _divide(counts, counts.sum(1, keepdims=True))
    return np.where(np.isnan(shares).all(1), np.nan, -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), 1))


def majority(counts: ArrayLike) -> np.ndarray:
    """Returns the category with most ratings of each item, `[N]`; `MISSING` without ratings, or if several have most.
    """
    counts = np.asarray(counts)
    most = counts.max(1, keepdims=True)
    return np.where((most[:, 0] > 0) & ((counts == most).sum(1) == 1), counts.argmax(1), MISSING)


@dataclass(frozen=True)
class Consensus:
    """Consensus of raters with estimated errors.

    Attributes:
        posterior: probability of each category, `[N, K]`.
        prior: share of each category, `[K]`.
        confusion: `[M, K, K]`, probability that a rater gives the second category where the first one is true.
        log_likelihood: log-likelihood of the ratings, with the priors of the parameters.
        steps: number of steps.
    """

    posterior: np.ndarray
    prior: np.ndarray
    confusion: np.ndarray
    log_likelihood: float
    steps: int


def dawid_skene(ratings: ArrayLike, categories: int, tolerance: float = 1e-8, steps: int = 500, smoothing: float = 0.5,
                weights: ArrayLike | None = None) -> Consensus:
    """Estimates true categories and the raters' confusion matrices by expectation maximization (Dawid & Skene 1979).

    Starts from the shares of the ratings of each item, and ends when the log-likelihood per rating grows by less than
    the tolerance.

    Args:
        ratings: `[N, M]`.
        categories: number of categories K.
        tolerance, steps: end of the iteration.
        smoothing: pseudo-count of every cell of a confusion matrix and of the prior, without which a rater who never
            used a category rules it out.
        weights: number of items with each row of ratings, `[N]`; by default one.
    """
    ratings = np.asarray(ratings)
    weight = np.ones(len(ratings)) if weights is None else np.asarray(weights, float)
    counts = counts_of(ratings, categories)
    given = ratings[:, :, None] == np.arange(categories)  # [N, M, K]
    posterior = np.where(counts.sum(1, keepdims=True) > 0, counts, 1.0) + 1e-9
    posterior /= posterior.sum(1, keepdims=True)
    before, done = -np.inf, 0
    while done < steps:
        done += 1
        prior = weight @ posterior + smoothing
        prior /= prior.sum()
        confusion = np.einsum("nj,nmk->mjk", posterior * weight[:, None], given) + smoothing
        confusion /= confusion.sum(2, keepdims=True)
        joint = np.log(prior) + np.einsum("nmk,mjk->nj", given, np.log(confusion))
        total = np.logaddexp.reduce(joint, 1)
        posterior = np.exp(joint - total[:, None])
        now = float(weight @ total + smoothing * (np.log(confusion).sum() + np.log(prior).sum()))
        if now - before < tolerance * max(weight @ given.sum((1, 2)), 1):
            break
        before = now
    return Consensus(posterior, prior, confusion, now, done)


def _agreement_sums(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(1)
    share = _divide((counts * (counts - 1)).sum(1), total * (total - 1))
    return np.stack([np.nan_to_num(share), ~np.isnan(share)], 1)


def _percent(sums: np.ndarray) -> np.ndarray:
    return _divide(sums[..., 0], sums[..., 1])


def _fleiss_sums(counts: ArrayLike) -> np.ndarray:
    counts = np.asarray(counts)
    totals = np.unique(counts.sum(1))
    if len(totals) != 1 or totals[0] < 2:
        raise ValueError(f"Fleiss' kappa needs the same number of ratings, two or more, of every item, got "
                         f"{totals.tolist()[:5]}; is the table [items, categories]?")
    return np.concatenate([_agreement_sums(counts), counts / totals[0]], 1)


def _fleiss(sums: np.ndarray) -> np.ndarray:
    expected = np.square(sums[..., 2:] / sums[..., 1:2]).sum(-1)
    return _divide(_percent(sums) - expected, 1 - expected)


def _alpha_sums(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(1)
    used = total >= 2
    equal = _divide((counts * (counts - 1)).sum(1), total - 1)  # agreeing pairs of ratings, by rating
    return np.concatenate([np.where(used, equal, 0)[:, None], np.where(used[:, None], counts, 0)], 1)


def _alpha(sums: np.ndarray) -> np.ndarray:
    each = sums[..., 1:]
    total = each.sum(-1)
    observed = total - sums[..., 0]
    expected = _divide(total**2 - (each**2).sum(-1), total - 1)
    return 1 - _divide(observed, expected)


def _divide(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 1e-12)


def _none(reason: str) -> dict[str, Any]:
    return {"mean": None, "ci_low": None, "ci_high": None, "n": 0, "reason": reason}
