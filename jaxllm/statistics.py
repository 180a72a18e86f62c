"""Means with bootstrap confidence intervals, and paired permutation tests, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 9999
# Above this many values resampling takes minutes: LARGE_RESAMPLES are drawn, and equal values are counted together.
LARGE = 10_000
LARGE_RESAMPLES = 2000
# Values drawn at a time; bounds memory (about 20 bytes each), and changes no digit.
VALUES_PER_BLOCK = 2**22
# Samples with at most this many distinct values (grades, 0 and 1) are resampled by their counts.
MOST_DISTINCT = 256


def interval(values: ArrayLike, seed: int = 0, level: float = 0.95) -> dict[str, float | int]:
    """Computes the mean of independent `values` with a percentile bootstrap interval.

    Args:
        values: one per independent unit (a document, not one of its questions); at least one.
        seed: seed of the resampling.
        level: coverage of the interval.

    Returns:
        `{mean, ci_low, ci_high, n}`; the interval is the mean itself for a single value.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, np.float64)
    if not sample.size:
        raise ValueError("the mean of no values")
    mean = float(sample.mean())
    low = high = mean
    if sample.size > LARGE:
        low, high = _quantiles(_resampled_means(sample, np.random.default_rng(seed)), level)
    elif sample.size > 1:
        from scipy import stats  # takes half a second to import, and only results need it

        ci = stats.bootstrap((sample,), np.mean, confidence_level=level, method="percentile", n_resamples=RESAMPLES,
                             batch=_rows_per_block(sample.size), rng=np.random.default_rng(seed)).confidence_interval
        low, high = float(ci.low), float(ci.high)
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": int(sample.size)}


def paired(ours: ArrayLike, theirs: ArrayLike, seed: int = 0) -> dict[str, float | int]:
    """Compares two methods on the same units.

    Args:
        ours, theirs: one value each per independent unit, in the same order.
        seed: seed of the resampling.

    Returns:
        `interval` of the differences, and `p`, the two-sided p-value of a permutation test that flips the signs of the
        differences; 1 where all differences are 0.
    """
    differences = np.subtract(ours, theirs)
    p = 1.0
    if np.any(differences) and differences.size > LARGE:
        p = _sign_flip_test(differences, np.random.default_rng(seed))
    elif np.any(differences) and differences.size > 1:  # for a single difference both signs are as far from 0
        from scipy import stats

        p = float(stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES,
                                         batch=_rows_per_block(2 * differences.size),
                                         rng=np.random.default_rng(seed)).pvalue)
    return interval(differences, seed) | {"p": p}


def distinct_rows(rows: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups equal rows of `[N, K]`: returns the distinct ones, ascending, the first index of each, and the group of
    every row. As `np.unique(rows, axis=0)`, in a fraction of its time."""
    rows = np.asarray(rows)
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    new = np.ones(len(rows), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    group = np.empty(len(rows), np.int64)
    group[order] = np.cumsum(new) - 1
    return ordered[new], order[new], group


def resampled_units(clusters: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Numbers the clusters that an interval resamples, `[N]`: where all values are of one, each value is a unit."""
    names = clusters if isinstance(clusters, np.ndarray) else np.asarray([str(name) for name in clusters], object)
    _, units = np.unique(names, return_inverse=True)
    return units if units.any() else np.arange(len(units))


def clustered(values: ArrayLike, clusters: Sequence[Hashable] | np.ndarray, seed: int = 0, level: float = 0.95,
              draws: int = 2000, weights: ArrayLike | None = None) -> dict[str, float | int]:
    """Computes the mean of values that are dependent within clusters, with a cluster bootstrap interval.

    Args:
        values: at least one.
        clusters: the cluster of every value, in the same order.
        seed: seed of the resampling.
        level: coverage of the interval.
        draws: number of resamples.
        weights: weight of every value in the mean, above 0; equal by default.

    Returns:
        As `interval`; `n` counts the values.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, np.float64)
    if not sample.size:
        raise ValueError("the mean of no values")
    names = clusters if isinstance(clusters, np.ndarray) else np.asarray([str(name) for name in clusters])
    _, cluster = np.unique(names, return_inverse=True)
    weight = np.ones_like(sample) if weights is None else np.asarray(weights, np.float64)
    sums = np.stack([np.bincount(cluster, sample * weight), np.bincount(cluster, weight)], 1)
    resampled = _resampled_sums(sums, np.random.default_rng(seed), draws)
    low, high = _quantiles(resampled[:, 0] / resampled[:, 1], level)
    return {"mean": float(np.average(sample, weights=weight)), "ci_low": low, "ci_high": high, "n": int(sample.size)}


def crossed(values: ArrayLike, seed: int = 0, level: float = 0.95, draws: int = 2000) -> dict[str, float | int]:
    """Computes the mean of values that runs have on the same units, with a bootstrap interval over both.

    Runs (training seeds) and units (held-back instances) are each resampled as a whole, so that the interval has the
    spread of both (the pigeonhole bootstrap of Owen, 2007); with few runs it is rather too wide.

    Args:
        values: `[R, U]` of R runs and U units; NaN where a run has no value. At least one is not.
        seed: seed of the resampling.
        level: coverage of the interval.
        draws: number of resamples.

    Returns:
        As `interval`; `n` counts the values.

    Raises:
        ValueError: there are no values.
    """
    table = np.asarray(values, np.float64)
    known = ~np.isnan(table)
    if not known.any():
        raise ValueError("the mean of no values")
    rng, (runs, units) = np.random.default_rng(seed), table.shape
    times = lambda size: rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)
    run_times, unit_times = times(runs), times(units)
    total = np.einsum("dr,ru,du->d", run_times, np.where(known, table, 0.0), unit_times, optimize=True)
    weight = np.einsum("dr,ru,du->d", run_times, known.astype(np.float64), unit_times, optimize=True)
    low, high = _quantiles(total[weight > 0] / weight[weight > 0], level)
    return {"mean": float(table[known].mean()), "ci_low": low, "ci_high": high, "n": int(known.sum())}


def rate(values: ArrayLike, clusters: Sequence[Hashable] | np.ndarray | None = None, seed: int = 0, lowest: float = 0.0,
         weights: ArrayLike | None = None) -> dict[str, float | int]:
    """Computes a mean of values from `lowest` to 1 with an interval that has a width also where all values are equal.

    Resampling gives such an interval no width. It is by the most units that may differ (Clopper and Pearson, exact for
    values that are 0 or 1): n of n successes have a rate of 0.025^(1/n) at least.

    Args:
        values: at least one.
        clusters: the cluster of every value, as in `clustered`; None takes the values as independent.
        seed: seed of the resampling.
        lowest: the least possible value.
        weights: weight of every value in the mean, for values in clusters; equal by default.

    Returns:
        As `interval`.

    Raises:
        ValueError: there are no values.
    """
    own = interval(values, seed) if clusters is None else clustered(values, clusters, seed, weights=weights)
    if own["ci_low"] < own["ci_high"]:
        return own
    units = int(own["n"]) if clusters is None else len(set(map(str, clusters)))
    equal = 0.025 ** (1 / units)
    return own | {"ci_low": lowest + equal * (own["mean"] - lowest), "ci_high": 1 - equal * (1 - own["mean"])}


def clustered_sums(rows: ArrayLike, ratio: Callable[[np.ndarray], np.ndarray],
                   clusters: Sequence[Hashable] | np.ndarray, seed: int = 0, level: float = 0.95, draws: int = 2000
                   ) -> dict[str, float | int | None]:
    """Computes a function of sums over rows, such as a ratio of two, with a cluster bootstrap interval.

    Args:
        rows: `[N, S]`, what every row adds to the sums; at least one row.
        ratio: maps sums `[..., S]` to values `[...]`, NaN where they have none.
        clusters: the cluster of every row.
        seed: seed of the resampling.
        level: coverage of the interval.
        draws: number of resamples.

    Returns:
        As `interval`; `n` counts the rows, and `undefined` the resamples without a value, which the interval leaves
        out. Mean and interval are None where the rows themselves have no value.
    """
    columns = np.asarray(rows, np.float64)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.stack([np.bincount(cluster, column) for column in columns.T], 1)
    value = float(ratio(sums.sum(0)))
    if np.isnan(value):
        return {"mean": None, "ci_low": None, "ci_high": None, "n": len(columns), "undefined": draws}
    resampled = ratio(_resampled_sums(sums, np.random.default_rng(seed), draws))
    missing = np.isnan(resampled)
    low, high = _quantiles(resampled[~missing], level)
    return {"mean": value, "ci_low": low, "ci_high": high, "n": len(columns), "undefined": int(missing.sum())}


def _resampled_sums(sums: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Adds up the rows `[C, S]` of as many clusters as there are, drawn with replacement, `[draws, S]`."""
    total = len(sums)
    if total > LARGE:  # equal clusters are counted together
        distinct, _, group = distinct_rows(sums)
        if len(distinct) <= MOST_DISTINCT:
            return rng.multinomial(total, np.bincount(group) / total, size=draws) @ distinct

    def block(rows: int) -> np.ndarray:
        chosen = rng.integers(total, size=(rows, total))
        return np.stack([column[chosen].sum(1) for column in sums.T], 1)

    return np.concatenate(list(_blocks(block, draws, total)))


def _rows_per_block(size: int) -> int:
    return max(1, VALUES_PER_BLOCK // size)


def _blocks(block: Callable[[int], np.ndarray], resamples: int, size: int) -> Iterator[np.ndarray]:
    """Calls `block` with a number of resamples that fits the memory bound until `resamples` are made."""
    step = _rows_per_block(size)
    for start in range(0, resamples, step):
        yield block(min(step, resamples - start))


def _quantiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws bootstrap means of a large sample."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= MOST_DISTINCT:  # the same distribution, from the number of times each value is drawn
        return rng.multinomial(values.size, counts / values.size, size=RESAMPLES) @ distinct / values.size

    def block(rows: int) -> np.ndarray:
        return values[rng.integers(values.size, size=(rows, values.size), dtype=np.int32)].mean(1)

    return np.concatenate(list(_blocks(block, LARGE_RESAMPLES, values.size)))


def _sign_flip_test(differences: np.ndarray, rng: np.random.Generator) -> float:
    """Computes the two-sided p-value of a large sample's mean under random signs."""
    padded = -(-differences.size // 8) * 8

    def block(rows: int) -> np.ndarray:
        bits = np.unpackbits(rng.integers(256, size=(rows, padded // 8), dtype=np.uint8), axis=1)
        return bits[:, :differences.size].astype(np.float64) @ differences

    total = differences.sum()
    # A sum under signs s in {-1, 1} is twice the sum under bits (s + 1) / 2, less the total.
    flipped = 2 * np.concatenate(list(_blocks(block, LARGE_RESAMPLES, padded))) - total
    slack = 1e-12 * np.abs(differences).sum()
    as_low, as_high = (flipped <= total + slack).sum() + 1, (flipped >= total - slack).sum() + 1
    return float(min(1.0, 2 * min(as_low, as_high) / (LARGE_RESAMPLES + 1)))
