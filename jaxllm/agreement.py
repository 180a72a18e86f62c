"""Agreement of scores with labels: rank correlations, errors, measures of verdicts, with cluster bootstrap intervals.

Statistics are functions of contingency tables: a resample changes the weights of the table's cells and none of its
levels, so that all resamples are computed at once, and exactly. A statistic without a value (constant scores, a
denominator of 0) is NaN, without a warning. Scores are equal where their float64 are. All functions that take columns
`[N]` raise a `ValueError` where a number is not finite or lengths differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Cells of tables computed at a time; bounds memory (about 50 bytes each), and changes no digit.
CELLS_PER_BLOCK = 2**18
# Bounds of a fitted temperature: logits that separate the labels have the lower one, misleading logits the upper one.
TEMPERATURES = (0.01, 100.0)
# Values that differ by less are equal: rounding must not decide which threshold is best, or the sign of a difference.
SLACK = 1e-12


@dataclass(frozen=True)
class Table:
    """Contingency tables of scores and labels, any number at once.

    Attributes:
        weights: `[..., S, L]`, number (or total weight) of the rows with each score and label.
        scores: levels of the scores, ascending, `[S]`; `[..., S]` where every table has its own.
        labels: levels of the labels, `[L]` or `[..., L]`.

    A level of weight 0 changes no statistic, and may repeat another one.
    """

    weights: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def by_score(self) -> np.ndarray:
        """Computes the weights of the scores, `[..., S]`."""
        return self.weights @ np.ones(self.weights.shape[-1])  # several times as fast as a sum of few labels

    @functools.cached_property
    def by_label(self) -> np.ndarray:
        """Computes the weights of the labels, `[..., L]`."""
        return self.weights.sum(-2)

    @functools.cached_property
    def surplus(self) -> np.ndarray:
        """Computes the number of concordant less discordant pairs of rows, `[...]`."""
        below = np.cumsum(self.weights, -2) - self.weights  # rows with a lower score, and the same label
        lower = np.cumsum(below, -1)                        # rows with a lower score, and the same or a lower label
        return (self.weights * (2 * lower - below - lower[..., -1:])).sum((-2, -1))


Statistic = Callable[[Table], np.ndarray]
"""Computes a value per table, `[...]`, NaN where it has none."""


def kendall(table: Table) -> np.ndarray:
    """Computes Kendall's tau-b, as `scipy.stats.kendalltau`; NaN where scores or labels are constant."""
    return _ratio(table.surplus, np.sqrt(_different(table.by_score) * _different(table.by_label)))


def spearman(table: Table) -> np.ndarray:
    """Computes Spearman's rho with average ranks, as `scipy.stats.spearmanr`; NaN as `kendall`."""
    # Average ranks, less the mean rank of the rows.
    ranks = lambda margin: np.cumsum(margin, -1) - margin / 2 - margin.sum(-1, keepdims=True) / 2
    return _correlation(table, ranks(table.by_score), ranks(table.by_label))


def pearson(table: Table) -> np.ndarray:
    """Computes Pearson's correlation, as `scipy.stats.pearsonr`; NaN as `kendall`."""
    centered = lambda margin, levels: levels - _ratio((margin * levels).sum(-1), margin.sum(-1))[..., None]
    return _correlation(table, centered(table.by_score, table.scores), centered(table.by_label, table.labels))


def auroc(table: Table) -> np.ndarray:
    """Computes the probability that of two rows with different labels the higher label has the higher score.

    Equal scores count one half. For two labels this is the area under the ROC curve. NaN where labels are constant.
    """
    return 0.5 + _ratio(table.surplus, _different(table.by_label)) / 2


def brier(table: Table) -> np.ndarray:
    """Computes the mean squared difference of scores and labels; a `ValueError` where they are not within 0 and 1."""
    for levels in (table.scores, table.labels):
        if np.any((levels < 0) | (levels > 1)):
            raise ValueError("the Brier score needs scores and labels from 0 to 1")
    return _mean_square(table)


def rmse(table: Table) -> np.ndarray:
    """Computes the root of the mean squared difference of scores and labels, NaN where there are no rows."""
    return np.sqrt(_mean_square(table))


# Measures of verdicts: scores and labels are 0 or 1, any of which may be absent; other ones are a `ValueError`.

def accuracy(table: Table) -> np.ndarray:
    """Computes the share of verdicts that are the label."""
    tp, fp, fn, tn = _cells(table)
    return _ratio(tp + tn, tp + fp + fn + tn)


def balanced_accuracy(table: Table) -> np.ndarray:
    """Computes the mean of the recalls of label 1 and of label 0; NaN where a label is absent."""
    tp, fp, fn, tn = _cells(table)
    return (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2


def precision(table: Table) -> np.ndarray:
    """Computes the share of label 1 among verdicts of 1; NaN without such verdicts."""
    tp, fp, _, _ = _cells(table)
    return _ratio(tp, tp + fp)


def recall(table: Table) -> np.ndarray:
    """Computes the share of verdicts of 1 among label 1; NaN without such labels."""
    tp, _, fn, _ = _cells(table)
    return _ratio(tp, tp + fn)


def f1(table: Table) -> np.ndarray:
    """Computes 2 tp / (2 tp + fp + fn); NaN, and not 0, where all verdicts and labels are 0."""
    tp, fp, fn, _ = _cells(table)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def mcc(table: Table) -> np.ndarray:
    """Computes Matthews' correlation coefficient; NaN where verdicts or labels are constant."""
    tp, fp, fn, tn = _cells(table)
    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (fn + tn)) * np.sqrt((tp + fn) * (fp + tn)))


def cohen_kappa(table: Table) -> np.ndarray:
    """Computes Cohen's kappa; NaN where all verdicts and labels are the same."""
    tp, fp, fn, tn = _cells(table)
    total, chance = tp + fp + fn + tn, (tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)
    return _ratio(total * (tp + tn) - chance, total**2 - chance)


@dataclass(frozen=True)
class Rows:
    """Scores of one judge, with labels.

    Attributes:
        scores, labels: finite numbers or booleans, `[N]`.
        clusters: names of the clusters, `[N]`, compared as strings. Rows of one cluster are dependent, and resampled
            together, across slices and judges too: independent rows need names that differ between slices.
    """

    scores: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray

    def __init__(self, scores: ArrayLike, labels: ArrayLike, clusters: Sequence[Hashable] | np.ndarray) -> None:
        names = np.asarray([str(name) for name in clusters], np.str_)
        for name, values in zip(("scores", "labels", "clusters"), [*_columns(scores, labels), names], strict=True):
            object.__setattr__(self, name, values)
        if len(names) != len(self.scores):
            raise ValueError(f"{len(self.scores)} scores have {len(names)} clusters")

    def tables(self, weights: np.ndarray) -> Iterator[Table]:
        """Yields tables of consecutive resamples in blocks; `weights` `[R, N]` are those of each resample's rows."""
        scores, score = np.unique(self.scores, return_inverse=True)
        labels, label = np.unique(self.labels, return_inverse=True)
        cell = score * len(labels) + label
        order = np.argsort(cell, kind="stable")
        used, starts = np.unique(cell[order], return_index=True)
        size = len(scores) * len(labels)
        step = max(1, CELLS_PER_BLOCK // max(1, size, len(cell)))
        for start in range(0, len(weights), step):
            block = weights[start:start + step]
            cells = np.zeros((len(block), size))
            cells[:, used] = np.add.reduceat(block[:, order], starts, axis=1)
            yield Table(cells.reshape(len(block), len(scores), len(labels)), scores, labels)

    def compute(self, statistics: Mapping[str, Statistic], weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Computes statistics `[R]` of resamples with `weights` `[R, N]`; by default `[1]`, of the rows themselves."""
        weights = np.ones((1, len(self.scores))) if weights is None else weights
        values = [[statistic(table) for statistic in statistics.values()] for table in self.tables(weights)]
        return dict(zip(statistics, map(np.concatenate, zip(*values, strict=True)), strict=True))


def cluster_weights(count: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Draws as many clusters as there are, with replacement; the draws of `statistics.clustered` with the same seed.

    Returns:
        `[draws, count]`, number of times that each cluster is drawn.
    """
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(max(count, 1), size=count), minlength=count) for _ in range(draws)])


def bootstrap(rows: Rows | Mapping[str, Rows], statistics: Mapping[str, Statistic],
              theirs: Rows | Mapping[str, Rows] | None = None, draws: int = 2000, seed: int = 0, level: float = 0.95
              ) -> dict[str, dict[str, Any]]:
    """Computes statistics with percentile intervals of a cluster bootstrap.

    Args:
        rows: pooled rows; or slices by name, for the unweighted mean over slices. The clusters of all slices are
            resampled together.
        statistics: statistics by name.
        theirs: rows of another judge with the same labels and clusters in the same order: the values are differences,
            `rows` less `theirs`, of the same draws.
        draws, seed, level: number of resamples, their seed, and the coverage of the intervals.

    Returns:
        Per statistic `mean`, the value for the rows themselves, `ci_low`, `ci_high`, `n` (rows), and `undefined`, the
        number of resamples without a value, which the interval leaves out. What has no value is None, with a `reason`.
        With `theirs` also `p` for a difference of 0, two-sided: twice the share of resamples on the rarer side of 0,
        where those at 0 and one more count for both sides; at most 1. It inverts the interval.

    Raises:
        ValueError: there are no slices, or the judges' rows differ.
    """
    judges = [{"": own} if isinstance(own, Rows) else dict(own) for own in (rows, theirs) if own is not None]
    ours = judges[0]
    if not ours:
        raise ValueError("the mean over no slices")
    for own in judges:
        if own.keys() != ours.keys() or not all(np.array_equal(getattr(own[name], column), getattr(ours[name], column))
                                                for name in ours for column in ("labels", "clusters")):
            raise ValueError("a paired comparison needs the same slices, labels and clusters of both judges")
    names = np.unique(np.concatenate([own.clusters for own in ours.values()]))
    # The first resample is the sample itself.
    weights = np.concatenate([np.ones((1, len(names)), np.int64), cluster_weights(len(names), draws, seed)])
    values = [{name: _resampled(own, statistics, weights, np.searchsorted(names, own.clusters))
               for name, own in judge.items()} for judge in judges]
    n, results = sum(len(own.scores) for own in ours.values()), {}
    for statistic in statistics:
        means = [np.mean([own[statistic] for own in judge.values()], 0) for judge in values]
        samples = means[0] if theirs is None else means[0] - means[1]
        reasons = [_reason(own, name) for judge, found in zip(judges, values, strict=True)
                   for name, own in judge.items() if np.isnan(found[name][statistic][0])]
        results[statistic] = _summary(samples[0], samples[1:], n, level, "; ".join(dict.fromkeys(reasons)))
        if theirs is not None:
            results[statistic]["p"] = None if reasons else _p_value(samples[1:])
    return results


def _resampled(rows: Rows, statistics: Mapping[str, Statistic], weights: np.ndarray, cluster: np.ndarray
               ) -> dict[str, np.ndarray]:
    """Computes statistics of resamples of clusters, in blocks of bounded memory."""
    step = max(1, 4 * CELLS_PER_BLOCK // max(len(cluster), 1))
    blocks = [rows.compute(statistics, weights[start:start + step, cluster]) for start in range(0, len(weights), step)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in statistics}


def within_groups(scores: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable] | np.ndarray, statistic: Statistic
                  ) -> np.ndarray:
    """Computes a statistic within every group, such as the candidates of one question.

    Args:
        scores, labels: `[N]`.
        groups: name of every row's group, `[N]`.
        statistic: statistic of a group's rows.

    Returns:
        `[G]`, in ascending order of the groups' names as strings.
    """
    rows = Rows(scores, labels, groups)
    names, group = np.unique(rows.clusters, return_inverse=True)
    (score, score_levels), (label, label_levels) = _levels(rows.scores, group), _levels(rows.labels, group)
    weights = np.zeros((len(names), score_levels.shape[1], label_levels.shape[1]))
    np.add.at(weights, (group, score, label), 1)
    return statistic(Table(weights, score_levels, label_levels))


def mean_over_groups(values: ArrayLike, draws: int = 2000, seed: int = 0, level: float = 0.95) -> dict[str, Any]:
    """Computes the mean of independent groups' values, NaN left out, with a bootstrap interval over groups.

    Args:
        values: `[G]`; `[R, G]` for several runs: the mean over the runs with a value of their means.
        draws, seed, level: as in `bootstrap`.

    Returns:
        As `bootstrap`, where `n` counts all groups; `valid`, the number of groups with a value in some run; and
        `mean_with_zeros`, the mean over all groups and runs where NaN counts as 0.
    """
    sample = np.atleast_2d(np.asarray(values, np.float64))
    groups, valid = sample.shape[1], ~np.isnan(sample)
    filled = np.where(valid, sample, 0.0)

    def mean(weights: np.ndarray) -> np.ndarray:
        means = _ratio(weights @ filled.T, weights @ valid.T)
        return _ratio(np.nansum(means, -1), (~np.isnan(means)).sum(-1))

    summary = _summary(mean(np.ones(groups)), mean(cluster_weights(groups, draws, seed)), groups, level,
                       "no group has a value")
    return summary | {"valid": int(valid.any(0).sum()), "mean_with_zeros": float(filled.mean()) if groups else None}


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Fits the temperature T that minimizes the negative log-likelihood of sigmoid(logit / T) (1706.04599).

    Args:
        logits: `[N]`, at least one.
        labels: `[N]`, 0 or 1, or probabilities.

    Returns:
        T within `TEMPERATURES`; close to a bound where the minimum is there or beyond.
    """
    from scipy import optimize  # takes a while to import, and only fits need it

    logits, labels = _columns(logits, labels, empty=False)
    # Convex in 1 / T, so that a bounded search over log T finds the only minimum.
    loss = lambda scaled: np.mean(np.logaddexp(0, scaled) - labels * scaled)
    fitted = optimize.minimize_scalar(lambda log_temperature: loss(logits * np.exp(-log_temperature)),
                                      bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(fitted.x))


def fit_threshold(scores: ArrayLike, labels: ArrayLike, measure: Statistic = balanced_accuracy) -> float:
    """Fits the threshold t for which the verdicts "score >= t" are best.

    Args:
        scores: `[N]`.
        labels: `[N]`, 0 or 1.
        measure: measure of verdicts to maximize.

    Returns:
        A midpoint between neighbouring scores; of equally good ones that nearest to 0.5, then the lower one.

    Raises:
        ValueError: the measure has no value at any midpoint (constant scores or labels).
    """
    table = next(Rows(scores, labels, range(np.size(scores))).tables(np.ones((1, np.size(scores)))))
    low, high, below = table.scores[:-1], table.scores[1:], table.weights[0].cumsum(0)
    verdicts = np.stack([below[:-1], below[-1:] - below[:-1]], 1)
    values = measure(Table(verdicts, np.array([0.0, 1.0]), table.labels))
    if np.isnan(values).all():
        raise ValueError("no threshold between the scores has a value of the measure")
    middle = low + (high - low) / 2
    thresholds = np.where(middle > low, middle, high)  # adjacent floats have none between them
    best = thresholds[values >= np.nanmax(values) - SLACK]
    distances = np.abs(best - 0.5)
    return float(best[distances <= distances.min() + SLACK][0])


def selective(confidence: ArrayLike, right: ArrayLike) -> dict[str, Any]:
    """Measures predictions of which only the most confident ones are used.

    Rows of equal confidence have a random order: accuracies are exact means over all orders.

    Args:
        confidence: `[N]`, at least one.
        right: `[N]`, 1 where the prediction is right, 0 where it is wrong.

    Returns:
        `curve`: `coverage` 0.1, 0.2, .. 1, `n`, that share of N rounded up, and the `accuracy` of the n rows; `aurc`,
        the area under the risk-coverage curve: the mean over n = 1 .. N of 1 - accuracy (1805.08206).
    """
    confidence, right = _columns(confidence, right, empty=False)
    total = confidence.size
    _, rank = np.unique(-confidence, return_inverse=True)
    # Within a tie every row adds the tie's mean, so that the expected number of right rows is linear there.
    ends, sums = (np.append(0, np.cumsum(np.bincount(rank, weights))) for weights in (None, right))
    accuracies = np.interp(np.arange(1, total + 1), ends, sums) / np.arange(1, total + 1)
    counts = [-(-tenths * total // 10) for tenths in range(1, 11)]
    return {"curve": [{"coverage": tenths / 10, "n": n, "accuracy": float(accuracies[n - 1])}
                      for tenths, n in enumerate(counts, 1)],
            "aurc": float(np.mean(1 - accuracies))}


def _columns(*columns: ArrayLike, empty: bool = True) -> list[np.ndarray]:
    arrays = [np.asarray(column, np.float64) for column in columns]
    if any(array.ndim != 1 or len(array) != len(arrays[0]) or not empty and not len(array) for array in arrays):
        raise ValueError(f"columns have the shapes {[array.shape for array in arrays]}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("agreement needs finite numbers")
    return arrays


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides; NaN where the denominator is not above 0."""
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan),
                     where=whole > 0)


def _different(margin: np.ndarray) -> np.ndarray:
    """Counts pairs of rows that have different levels, from the weights of the levels."""
    return (margin.sum(-1)**2 - (margin**2).sum(-1)) / 2


def _correlation(table: Table, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the correlation of scores and labels that have a weighted mean of 0."""
    covariance = ((table.weights @ labels[..., None])[..., 0] * scores).sum(-1)
    # The mean of a single level may differ from the level by rounding.
    norm, other = (np.where((margin > 0).sum(-1) > 1, np.sqrt((margin * levels**2).sum(-1)), 0.0)
                   for margin, levels in ((table.by_score, scores), (table.by_label, labels)))
    return np.clip(_ratio(covariance, norm * other), -1, 1)


def _mean_square(table: Table) -> np.ndarray:
    squares = (table.scores[..., :, None] - table.labels[..., None, :])**2
    return _ratio((table.weights * squares).sum((-2, -1)), table.by_label.sum(-1))


def _cells(table: Table) -> list[np.ndarray]:
    """Counts true positives, false positives, false negatives and true negatives."""
    if not all(np.isin(levels, (0, 1)).all() for levels in (table.scores, table.labels)):
        raise ValueError("measures of verdicts need scores and labels that are 0 or 1")
    return [np.einsum("...sl,...s,...l->...", table.weights, table.scores == score, table.labels == label)
            for score, label in ((1, 1), (1, 0), (0, 1), (0, 0))]


def _levels(values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks values `[N]` among the distinct ones of their group, `[G, S]`, where rows repeat their last one."""
    pairs, index = np.unique(np.stack([group, values]), axis=1, return_inverse=True)
    own = pairs[0].astype(np.int64)
    counts = np.bincount(own)
    starts = np.cumsum(counts) - counts
    columns = np.minimum(np.arange(counts.max(initial=0)), counts[:, None] - 1)
    return (np.arange(len(own)) - starts[own])[index.ravel()], pairs[1][starts[:, None] + columns]


def _reason(rows: Rows, name: str) -> str:
    """Describes why a statistic of the rows has no value."""
    constant = [f"all {column} are equal" for column in ("scores", "labels") if np.ptp(getattr(rows, column)) == 0] \
        if len(rows.scores) else ["there are no rows"]
    return (f"{name}: " if name else "") + (" and ".join(constant) or "a denominator is 0")


def _summary(value: np.ndarray, samples: np.ndarray, n: int, level: float, reason: str) -> dict[str, Any]:
    missing = np.isnan(samples)
    summary: dict[str, Any] = {"mean": None if np.isnan(value) else float(value), "ci_low": None, "ci_high": None,
                               "n": n, "undefined": int(missing.sum())}
    if np.isnan(value) or missing.all():
        return summary | {"reason": reason or "no resample has a value"}
    low, high = np.quantile(samples[~missing], [(1 - level) / 2, (1 + level) / 2])
    return summary | {"ci_low": float(low), "ci_high": float(high)}


def _p_value(samples: np.ndarray) -> float | None:
    defined = samples[~np.isnan(samples)]
    low, high = (defined <= SLACK).sum() + 1, (defined >= -SLACK).sum() + 1
    return float(min(1.0, 2 * min(low, high) / (defined.size + 1))) if defined.size else None
