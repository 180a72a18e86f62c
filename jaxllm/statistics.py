"""Means with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> dict[str, float | int]:
    """Mean of independent `values` with a percentile bootstrap interval.

    Args:
        values: one per independent unit (a document, not one of its questions); at least one.
        seed: of the resampling.
        level: coverage.

    Returns:
        `{mean, ci_low, ci_high, n}`; the interval is the mean itself for a single value.
    """
    from scipy import stats  # half a second, and only results need it

    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("the mean of no values")
    mean = float(values.mean())
    low = high = mean
    if values.size > 1:
        found = stats.bootstrap((values,), np.mean, confidence_level=level, method="percentile",
                                rng=np.random.default_rng(seed)).confidence_interval
        low, high = float(found.low), float(found.high)
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": int(values.size)}


def paired(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> dict[str, float | int]:
    """How far one method is ahead of another on the same units.

    Args:
        ours, theirs: a value each per independent unit, in the same order.
        seed: of the resampling.

    Returns:
        `interval` of the differences, and `p`: how often signs drawn at random give a mean difference at least as far
        from 0 (two-sided permutation test); 1 where all differences are 0.
    """
    from scipy import stats

    differences = np.subtract(ours, theirs)
    p = 1.0
    if np.any(differences) and differences.size > 1:  # of a single one both signs are as far from 0
        p = float(stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=9999,
                                         rng=np.random.default_rng(seed)).pvalue)
    return interval(differences, seed) | {"p": p}


def clustered(values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0, level: float = 0.95,
              draws: int = 2000) -> dict[str, float | int]:
    """Mean of values that belong together in clusters, with a percentile interval from resampled clusters.

    Args:
        values: at least one.
        clusters: of every value, whose it is.
        seed: of the resampling.
        level: coverage.
        draws: resamples.

    Returns:
        As `interval`; `n` counts the values.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("the mean of no values")
    _, places = np.unique(np.asarray([str(one) for one in clusters]), return_inverse=True)
    sums, counts = np.bincount(places, values), np.bincount(places)
    chosen = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(values.mean()), "ci_low": float(low), "ci_high": float(high), "n": int(values.size)}
