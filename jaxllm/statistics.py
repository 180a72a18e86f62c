"""Means with intervals."""

from __future__ import annotations

from collections.abc import Sequence

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
