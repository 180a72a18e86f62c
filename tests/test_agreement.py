"""Agreement of scores with labels: golden values by hand, scipy's values, and resamples made by repeating rows."""

import itertools
import json
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxllm import agreement
from jaxllm.agreement import (
    TEMPERATURES,
    Rows,
    Table,
    accuracy,
    auroc,
    balanced_accuracy,
    bootstrap,
    brier,
    cluster_weights,
    cohen_kappa,
    f1,
    fit_temperature,
    fit_threshold,
    kendall,
    mcc,
    mean_over_groups,
    pearson,
    precision,
    recall,
    rmse,
    selective,
    spearman,
    within_groups,
)
from jaxllm.statistics import clustered

CORRELATIONS = {"kendall": kendall, "spearman": spearman, "pearson": pearson}
ERRORS = {"auroc": auroc, "brier": brier, "rmse": rmse}
VERDICTS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "precision": precision, "recall": recall,
            "f1": f1, "mcc": mcc, "cohen_kappa": cohen_kappa}
SCIPY = {"kendall": stats.kendalltau, "spearman": stats.spearmanr, "pearson": stats.pearsonr}
exactly = lambda value: pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True)
close = lambda value: pytest.approx(value, abs=5e-7, nan_ok=True)


@pytest.fixture(autouse=True)
def no_warnings():
    """Makes every warning of numpy and scipy an error."""
    with warnings.catch_warnings(), np.errstate(divide="raise", over="raise", invalid="raise"):
        warnings.simplefilter("error")
        yield


def compute(scores, labels, statistics):
    """Values of the statistics for the rows themselves."""
    values = Rows(scores, labels, range(len(scores))).compute(statistics)
    assert all(value.shape == (1,) for value in values.values())
    return {name: float(value[0]) for name, value in values.items()}


def expected(scores, labels):
    """Scipy's correlations; NaN for constant columns, of which it warns."""
    if np.ptp(scores) == 0 or np.ptp(labels) == 0:
        return dict.fromkeys(SCIPY, math.nan)
    return {name: function(scores, labels).statistic for name, function in SCIPY.items()}


def verdict_rows(tp, fp, fn, tn):
    return [1] * (tp + fp) + [0] * (fn + tn), [1] * tp + [0] * fp + [1] * fn + [0] * tn


def judged(n, clusters, seed, noise=1.0):
    """Random scores within 0 and 1, with ties, binary labels, and clusters in ascending order of their names."""
    rng = np.random.default_rng(seed)
    cluster = np.sort(rng.integers(clusters, size=n))
    merit = rng.normal(size=n) + rng.normal(size=clusters)[cluster]
    scores = np.round(1 / (1 + np.exp(-merit - noise * rng.normal(size=n))), 2)
    return Rows(scores, merit > 0, [f"{name:04}" for name in cluster])


# ---- statistics --------------------------------------------------------------------------------------------

def test_correlations_by_hand():
    """Scores 1 2 2 3, labels 1 3 2 2: of 5 pairs with different scores, 3 agree, 1 does not, and 1 has equal labels."""
    values = compute([1, 2, 2, 3], [1, 3, 2, 2], CORRELATIONS)
    assert values["kendall"] == exactly(2 / 5)
    # Ranks 1 2.5 2.5 4 and 1 4 2.5 2.5: products of deviations 2.25 + 0 + 0 + 0, squares 4.5 and 4.5.
    assert values["spearman"] == exactly(0.5)
    assert values["pearson"] == exactly(0.5)  # deviations -1 0 0 1 and -1 1 0 0
    assert compute([6, 5, 4, 3, 2, 1], [3, 3, 2, 1, 1, 1], CORRELATIONS)["spearman"] == close(0.925820)


def test_errors_and_area_by_hand():
    values = compute([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1], ERRORS)
    assert values["auroc"] == exactly(3.5 / 4)
    assert values["brier"] == exactly((0.01 + 0.16 + 0.36 + 0.04) / 4)
    assert values["rmse"] == exactly(math.sqrt(0.57 / 4))
    assert compute([3, 5], [1, 2], {"rmse": rmse})["rmse"] == exactly(math.sqrt(13 / 2))
    with pytest.raises(ValueError, match="from 0 to 1"):
        compute([0.5, 1.5], [0, 1], {"brier": brier})
    # Three labels: the pairs 1-2, 1-3, and 2-3 are right, wrong and wrong.
    assert compute([2, 3, 1], [1, 2, 3], {"auroc": auroc})["auroc"] == exactly(1 / 3)


def test_verdicts_by_hand():
    values = compute(*verdict_rows(4, 2, 1, 3), VERDICTS)
    assert values == exactly({
        "accuracy": 0.7, "balanced_accuracy": (4 / 5 + 3 / 5) / 2, "precision": 4 / 6, "recall": 4 / 5, "f1": 8 / 11,
        "mcc": (4 * 3 - 2 * 1) / math.sqrt(6 * 5 * 5 * 4), "cohen_kappa": (0.7 - 0.5) / (1 - 0.5)})
    scores, labels = verdict_rows(4, 2, 1, 3)
    assert compute(np.bool_(scores), np.bool_(labels), VERDICTS) == values
    with pytest.raises(ValueError, match="0 or 1"):
        compute([0, 0.5], [0, 1], VERDICTS)


@pytest.mark.parametrize(("cells", "values"), [
    ((2, 0, 3, 0), {"accuracy": 0.4, "precision": 1.0, "recall": 0.4, "f1": 4 / 7, "cohen_kappa": 0.0}),
    ((0, 0, 2, 3), {"accuracy": 0.6, "balanced_accuracy": 0.5, "recall": 0.0, "f1": 0.0, "cohen_kappa": 0.0}),
    ((2, 3, 0, 0), {"accuracy": 0.4, "balanced_accuracy": 0.5, "precision": 0.4, "recall": 1.0, "f1": 4 / 7,
                    "cohen_kappa": 0.0}),
    ((3, 0, 0, 0), {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0}),
    ((0, 0, 0, 3), {"accuracy": 1.0}), ((0, 0, 0, 0), {})], ids=str)
def test_absent_verdicts_and_labels(cells, values):
    """What is not named has a denominator of 0."""
    assert compute(*verdict_rows(*cells), VERDICTS) == exactly(dict.fromkeys(VERDICTS, math.nan) | values)


@pytest.mark.parametrize(("n", "scores", "labels"), [(5, 3, 2), (30, 4, 4), (200, 50, 2), (300, 1000, 5),
                                                     (400, 10**6, 10**6), (1000, 7, 2)])
def test_correlations_are_those_of_scipy(n, scores, labels):
    rng = np.random.default_rng(n)
    for _ in range(5):
        x = rng.integers(scores, size=n) / 7
        y = np.floor(labels * np.clip(0.3 * x * 7 / scores + 0.7 * rng.uniform(size=n), 0, 1))
        assert compute(x, y, CORRELATIONS) == exactly(expected(x, y))
        if len(np.unique(y)) == 2:
            high = y == y.max()
            area = stats.mannwhitneyu(x[high], x[~high]).statistic / (high.sum() * (~high).sum())
            assert compute(x, y, ERRORS | {"brier": rmse})["auroc"] == exactly(area)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=15))
def test_integer_weights_are_repeated_rows(rows):
    scores, labels, counts = np.array(rows).T
    repeated = np.repeat(np.arange(len(rows)), counts)
    statistics = CORRELATIONS | {"auroc": auroc, "rmse": rmse}
    weighted = Rows(scores, labels, range(len(rows))).compute(statistics, counts[None])
    values = {name: float(value[0]) for name, value in weighted.items()}
    assert values == exactly(compute(scores[repeated], labels[repeated], statistics))
    if len(repeated) > 1:
        own = expected(scores[repeated], labels[repeated])
        assert {name: values[name] for name in own} == exactly(own)


def test_correlations_of_two_binary_columns_are_the_same():
    rng = np.random.default_rng(0)
    for n in (10, 100, 1000):
        labels = rng.integers(2, size=n)
        scores = np.where(rng.uniform(size=n) < 0.7, labels, 1 - labels)
        values = compute(scores, labels, CORRELATIONS | {"mcc": mcc, "auroc": auroc, "balanced": balanced_accuracy})
        assert [values[name] for name in CORRELATIONS] == exactly([values["mcc"]] * 3)
        assert values["auroc"] == exactly(values["balanced"]) and 0.1 < abs(values["mcc"]) < 0.9


def test_rho_exceeds_tau_by_a_constant_for_binary_labels_and_no_equal_scores():
    rng = np.random.default_rng(0)
    scores = rng.permutation(2000)
    values = compute(scores, scores + 1000 * rng.normal(size=2000) > 1000, CORRELATIONS)
    assert values["kendall"] > 0.3
    assert values["spearman"] / values["kendall"] == pytest.approx(math.sqrt(1.5), abs=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_agreement_is_exactly_one(sign):
    scores = np.array([0.1, 0.7, 0.2, 0.2, 0.9])
    assert compute(sign * scores, scores, CORRELATIONS) == exactly(dict.fromkeys(CORRELATIONS, sign))
    assert abs(compute(sign * scores, scores, CORRELATIONS)["pearson"]) <= 1
    assert compute(sign * scores, scores > 0.5, {"auroc": auroc})["auroc"] == (1 + sign) / 2


@pytest.mark.parametrize(("scores", "labels"), [([0.1] * 7, [0, 1, 1, 0, 1, 1, 1]), ([.3, .2, .1, .4], [1, 1, 1, 1]),
                                                ([0.5], [1]), ([], [])], ids=["scores", "labels", "one row", "no row"])
def test_constant_columns_have_no_correlation(scores, labels):
    assert all(math.isnan(value) for value in compute(scores, labels, CORRELATIONS).values())
    assert math.isnan(compute(scores, labels, {"auroc": auroc})["auroc"]) == (len(set(labels)) < 2)
    assert math.isnan(compute(scores, labels, {"brier": brier})["brier"]) == (not scores)


def test_levels_of_weight_zero_change_nothing():
    """0.1 is the only score that is left, and its weighted mean is not 0.1 in float64."""
    table = Table(np.array([[1.0, 2.0], [0, 0]]), np.array([0.1, 0.3]), np.array([0.0, 1.0]))
    assert all(np.isnan(statistic(table)) for statistic in CORRELATIONS.values())
    table = Table(np.array([[1.0, 0, 2], [0, 0, 0], [3, 0, 1]]), np.array([0, 0.5, 1]), np.array([0.0, 1, 1]))
    rows = [0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0, 1]
    for name, statistic in (CORRELATIONS | ERRORS).items():
        assert float(statistic(table)) == exactly(compute(*rows, {name: statistic})[name])


def test_rows_are_checked():
    for scores, labels, clusters, message in [([math.nan], [1], "a", "finite"), ([1, 2], [1], "ab", "shapes"),
                                              ([[1]], [[1]], "a", "shapes"), ([1, 2], [1, 0], "a", "clusters")]:
        with pytest.raises(ValueError, match=message):
            Rows(scores, labels, list(clusters))


# ---- resampling --------------------------------------------------------------------------------------------

def test_intervals_of_the_accuracy_are_those_of_clustered_means():
    rows = judged(500, 80, seed=0)
    verdicts = Rows(rows.scores > 0.5, rows.labels, rows.clusters)
    for seed in (0, 7):
        ours = bootstrap(verdicts, VERDICTS, seed=seed)["accuracy"]
        theirs = clustered(verdicts.scores == verdicts.labels, rows.clusters.tolist(), seed=seed)
        assert ours == pytest.approx(theirs | {"undefined": 0}, rel=1e-12)
    ours = bootstrap(verdicts, {"accuracy": accuracy}, draws=10_000, seed=1)["accuracy"]
    other = clustered(verdicts.scores == verdicts.labels, rows.clusters.tolist(), seed=2, draws=10_000)
    assert ours["ci_high"] - ours["ci_low"] == pytest.approx(other["ci_high"] - other["ci_low"], rel=0.05)


def test_resamples_are_rows_of_clusters_that_are_drawn():
    """Three slices with clusters in common: scipy's values for rows that are repeated as often as their cluster."""
    slices = {"a": judged(60, 15, seed=1), "b": judged(40, 15, seed=2, noise=9.0), "c": judged(30, 5, seed=3)}
    names = sorted({name for own in slices.values() for name in own.clusters.tolist()})
    weights = cluster_weights(len(names), 40, seed=3)
    assert weights.shape == (40, len(names)) and (weights.sum(1) == len(names)).all() and weights.max() > 2
    samples = []
    for counts in weights:
        repeated = {key: np.repeat(np.arange(len(own.scores)), [counts[names.index(name)] for name in own.clusters])
                    for key, own in slices.items()}
        samples.append({key: expected(own.scores[repeated[key]], own.labels[repeated[key]])
                        for key, own in slices.items()})
    measured = bootstrap(slices, CORRELATIONS, draws=40, seed=3)
    for name in CORRELATIONS:
        low, high = np.quantile([np.mean([own[name] for own in sample.values()]) for sample in samples], [.025, .975])
        mean = np.mean([expected(own.scores, own.labels)[name] for own in slices.values()])
        assert measured[name] == exactly({"mean": mean, "ci_low": low, "ci_high": high, "n": 130, "undefined": 0})


def test_a_seed_and_the_block_size_determine_the_digits(monkeypatch):
    rows = judged(100, 30, seed=4)
    first = bootstrap(rows, CORRELATIONS | ERRORS, draws=300, seed=5)
    assert first["kendall"] != bootstrap(rows, CORRELATIONS, draws=300, seed=6)["kendall"]
    wide = bootstrap(rows, CORRELATIONS, draws=300, seed=5, level=0.99)["kendall"]
    assert wide["ci_low"] < first["kendall"]["ci_low"] < first["kendall"]["ci_high"] < wide["ci_high"]
    monkeypatch.setattr(agreement, "CELLS_PER_BLOCK", 2**12)
    assert bootstrap(rows, CORRELATIONS | ERRORS, draws=300, seed=5) == first


def test_resamples_without_a_value_are_counted():
    """Two clusters, each with one label: a resample of one of them twice has no correlation."""
    measured = bootstrap(Rows([.1, .2, .8, .9], [0, 0, 1, 1], "aabb"), CORRELATIONS | ERRORS, draws=100, seed=1)
    same = int((cluster_weights(2, 100, seed=1) == 0).any(1).sum())
    assert 20 < same < 80
    assert measured["kendall"]["undefined"] == measured["auroc"]["undefined"] == same
    assert measured["auroc"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0, "n": 4, "undefined": same}
    assert measured["brier"]["undefined"] == 0
    assert measured["brier"]["mean"] == exactly((0.01 + 0.04 + 0.04 + 0.01) / 4)


def test_values_that_do_not_exist_have_a_reason():
    constant, fine = Rows([.5, .5], [0, 1], "ab"), judged(30, 10, seed=0)
    measured = bootstrap(constant, {"kendall": kendall, "auroc": auroc}, draws=50)
    assert measured["kendall"] == {"mean": None, "ci_low": None, "ci_high": None, "n": 2, "undefined": 50,
                                   "reason": "all scores are equal"}
    assert measured["auroc"]["mean"] == measured["auroc"]["ci_low"] == 0.5
    slices = {"c": fine, "java": Rows([], [], []), "go": Rows([0, 0], [1, 1], "xy")}
    reason = bootstrap(slices, CORRELATIONS, draws=50)["pearson"]["reason"]
    assert reason == "java: there are no rows; go: all scores are equal and all labels are equal"
    assert bootstrap(Rows([], [], []), CORRELATIONS, draws=50)["kendall"]["reason"] == "there are no rows"
    other = bootstrap(Rows([.1, .2], [0, 1], "ab"), {"kendall": kendall}, constant, draws=50)["kendall"]
    assert other["mean"] is None and other["p"] is None and other["reason"] == "all scores are equal"
    json.dumps([measured, other], allow_nan=False)
    with pytest.raises(ValueError, match="no slices"):
        bootstrap({}, CORRELATIONS)


def test_a_judge_does_not_differ_from_itself():
    rows = judged(80, 20, seed=3)
    for ours in (rows, {"a": rows, "b": judged(50, 20, seed=4)}):
        for measured in bootstrap(ours, CORRELATIONS | ERRORS, ours, draws=200).values():
            n = 80 if ours is rows else 130
            assert measured == {"mean": 0, "ci_low": 0, "ci_high": 0, "n": n, "undefined": 0, "p": 1}


def test_judges_are_compared_on_the_same_draws():
    good, bad = judged(300, 100, seed=5, noise=0.3), judged(300, 100, seed=5, noise=4.0)
    measured = bootstrap(good, CORRELATIONS, bad)["kendall"]
    alone = [bootstrap(rows, CORRELATIONS)["kendall"] for rows in (good, bad)]
    assert measured["mean"] == exactly(alone[0]["mean"] - alone[1]["mean"]) and measured["ci_low"] > 0
    assert measured["p"] == 2 / 2001
    reverse = bootstrap(bad, CORRELATIONS, good)["kendall"]
    assert (reverse["mean"], reverse["ci_low"], reverse["p"]) == exactly(
        (-measured["mean"], -measured["ci_high"], measured["p"]))
    with pytest.raises(ValueError, match="same slices, labels and clusters"):
        bootstrap(good, CORRELATIONS, judged(300, 100, seed=6))
    with pytest.raises(ValueError, match="same slices, labels and clusters"):
        bootstrap({"a": good}, CORRELATIONS, {"b": bad})


def test_the_p_value_counts_differences_on_both_sides_of_zero():
    """Differences of the accuracy by cluster: 1 0 0 -1 1, so that the sign of a mean is that of the sum of draws."""
    ours, theirs = [1, 1, 0, 0, 1], [0, 1, 0, 1, 0]
    measured = bootstrap(Rows(ours, [1] * 5, range(5)), VERDICTS, Rows(theirs, [1] * 5, range(5)), draws=999, seed=2)
    sums = cluster_weights(5, 999, seed=2) @ np.subtract(ours, theirs)
    assert (sums <= 0).sum() < (sums >= 0).sum()
    assert measured["accuracy"]["p"] == exactly(2 * ((sums <= 0).sum() + 1) / 1000)
    assert measured["accuracy"]["mean"] == exactly(0.2) and 0.2 < measured["accuracy"]["p"] < 1


def test_many_distinct_scores_need_little_memory():
    """All tables together have 320 MB."""
    rng = np.random.default_rng(0)
    rows = Rows(rng.uniform(size=1000), rng.integers(20, size=1000), rng.integers(100, size=1000))
    tracemalloc.start()
    try:
        measured = bootstrap(rows, {"kendall": kendall}, draws=2000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150e6 and measured["kendall"]["undefined"] == 0


# ---- groups ------------------------------------------------------------------------------------------------

def test_groups_by_hand():
    """The second group has constant labels, and the third one row."""
    scores, labels = [6, 5, 4, 3, 2, 1, .1, .2, .3, 7], [3, 3, 2, 1, 1, 1, 2, 2, 2, 1]
    groups = [2] * 6 + [10] * 3 + [3]
    order = np.random.default_rng(0).permutation(10)
    arrays = [np.asarray(column)[order] for column in (scores, labels, groups)]
    for statistic, value in ((spearman, 0.925820), (kendall, 0.856349)):
        assert within_groups(*arrays, statistic).tolist() == close([math.nan, value, math.nan])
    squares = [(9 + 4 + 4 + 4 + 1) / 6, (1.9**2 + 1.8**2 + 1.7**2) / 3, 36]
    assert within_groups(*arrays, rmse)**2 == exactly(np.array([squares[1], squares[0], squares[2]]))
    assert within_groups([], [], [], kendall).shape == (0,)


def test_groups_are_those_of_scipy():
    rng = np.random.default_rng(1)
    groups, scores, labels = rng.integers(40, size=200), rng.integers(6, size=200) / 5, rng.integers(4, size=200)
    names = sorted({*groups.tolist()}, key=str)
    wanted = [expected(scores[groups == name], labels[groups == name]) for name in names]
    assert 5 < len(names) and any(math.isnan(own["kendall"]) for own in wanted)
    for name, statistic in CORRELATIONS.items():
        assert within_groups(scores, labels, groups, statistic) == exactly(np.array([own[name] for own in wanted]))
    right = within_groups(scores > 0.5, labels > 1, groups, accuracy)
    assert right == exactly(np.array([np.mean((scores > .5)[groups == x] == (labels > 1)[groups == x]) for x in names]))


def test_the_mean_over_groups_leaves_out_groups_without_a_value():
    values = np.array([0.5, math.nan, 1.0, -0.25, math.nan])
    measured = mean_over_groups(values, draws=500, seed=3)
    assert (measured["mean"], measured["n"], measured["valid"], measured["mean_with_zeros"]) == exactly(
        (1.25 / 3, 5, 3, 0.25))
    drawn = [np.repeat(values, counts) for counts in cluster_weights(5, 500, seed=3)]
    means = [np.nanmean(own) for own in drawn if not np.isnan(own).all()]
    assert measured["undefined"] == 500 - len(means) > 0
    assert [measured["ci_low"], measured["ci_high"]] == exactly(np.quantile(means, [0.025, 0.975]).tolist())
    complete = mean_over_groups([0.5, 1.0, -0.25], seed=4)
    assert {**clustered([0.5, 1.0, -0.25], "abc", seed=4), "undefined": 0, "valid": 3,
            "mean_with_zeros": complete["mean"]} == exactly(complete)
    nothing = mean_over_groups([math.nan, math.nan], draws=10)
    assert nothing == {"mean": None, "ci_low": None, "ci_high": None, "n": 2, "undefined": 10, "valid": 0,
                       "mean_with_zeros": 0.0, "reason": "no group has a value"}
    assert mean_over_groups([])["mean"] is mean_over_groups([])["mean_with_zeros"] is None
    runs = mean_over_groups([[1.0, math.nan], [1.0, math.nan], [1.0, -1.0], [math.nan, math.nan]], draws=10)
    assert (runs["mean"], runs["mean_with_zeros"], runs["n"], runs["valid"]) == exactly((2 / 3, 2 / 8, 2, 2))


# ---- probabilities and decisions ---------------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.5])
def test_a_temperature_is_recovered(temperature):
    """With the probabilities as labels the likelihood is largest at their temperature."""
    logits = np.random.default_rng(0).normal(0, 3, 200)
    assert fit_temperature(logits, 1 / (1 + np.exp(-logits / temperature))) == pytest.approx(temperature, rel=1e-6)


def test_temperatures_have_bounds():
    """One of four rows is wrong, so that sigmoid(3 / T) = 3 / 4; without errors T has no lower bound."""
    assert fit_temperature([3, 3, -3, -3], [1, 1, 0, 1]) == pytest.approx(3 / math.log(3), rel=1e-6)
    assert fit_temperature([0.1, -0.2], [1, 0]) == pytest.approx(TEMPERATURES[0], rel=1e-5)
    assert fit_temperature([1e4, -1e4], [0, 1]) == pytest.approx(TEMPERATURES[1], rel=1e-5)
    for logits, labels in (([], []), ([math.inf], [1])):
        with pytest.raises(ValueError):
            fit_temperature(logits, labels)


def test_a_threshold_by_hand():
    assert fit_threshold([0.2, 0.6, 0.7, 0.9], [0, 0, 1, 1]) == exactly(0.65)
    # Accuracy 3/4 at 0.15 and at 0.95, which are as good: 0.15 is nearer to 0.5.
    assert fit_threshold([0.1, 0.2, 0.9, 1.0], [0, 1, 0, 1], accuracy) == exactly(0.15)
    # Also at 0.25 and 0.75, as near: the lower one.
    assert fit_threshold([0.0, 0.5, 0.5, 1.0], [0, 1, 0, 1]) == exactly(0.25)
    above = np.nextafter(0.5, 1)
    assert fit_threshold([0.5, above, np.nextafter(above, 1)], [0, 1, 1]) == above
    for scores, labels in (([0.5, 0.5], [0, 1]), ([0.1, 0.5], [1, 1]), ([], [])):
        with pytest.raises(ValueError, match="no threshold"):
            fit_threshold(scores, labels)
    with pytest.raises(ValueError, match="0 or 1"):
        fit_threshold([0.1, 0.5], [1, 2])


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "mcc"])
def test_no_threshold_is_better(name):
    for seed in range(10):
        rows = judged(40, 10, seed)
        measure = lambda t, rows=rows: compute(rows.scores >= t, rows.labels, {name: VERDICTS[name]})[name]
        levels = np.unique(rows.scores)
        candidates = (levels[:-1] + levels[1:]) / 2
        values = np.array([measure(t) for t in candidates])
        best = candidates[values >= np.nanmax(values) - 1e-9]
        fitted = fit_threshold(rows.scores, rows.labels, VERDICTS[name])
        assert measure(fitted) == exactly(np.nanmax(values))
        assert abs(fitted - 0.5) == exactly(np.abs(best - 0.5).min())


def test_selective_accuracy_by_hand():
    """Ten rows, right 1 1 0 1 1 0 1 0 0 0 by falling confidence."""
    right = [1, 1, 0, 1, 1, 0, 1, 0, 0, 0]
    measured = selective(np.linspace(1, 0.1, 10), right)
    wanted = [1, 1, 2 / 3, 3 / 4, 4 / 5, 4 / 6, 5 / 7, 5 / 8, 5 / 9, 5 / 10]
    assert [own["accuracy"] for own in measured["curve"]] == exactly(wanted)
    assert [own["n"] for own in measured["curve"]] == list(range(1, 11))
    assert measured["aurc"] == exactly(1 - sum(wanted) / 10)
    assert [own["n"] for own in selective([.1, .2, .3], [1, 0, 1])["curve"]] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [own["n"] for own in selective(np.arange(1000), np.ones(1000))["curve"]] == list(range(100, 1001, 100))
    assert {own["accuracy"] for own in selective([0.5] * 8, [1, 0] * 4)["curve"]} == {0.5}
    with pytest.raises(ValueError, match="shapes"):
        selective([], [])


def test_equal_confidences_count_as_all_their_orders_do():
    confidence, right = np.array([.9, .5, .5, .5, .2]), np.array([0, 1, 1, 0, 1])
    orders = [[0, *order, 4] for order in itertools.permutations([1, 2, 3])]
    curves = np.mean([np.cumsum(right[order]) / np.arange(1, 6) for order in orders], 0)
    for order in orders:
        measured = selective(confidence[order], right[order])
        assert [own["accuracy"] for own in measured["curve"]][1::2] == exactly(curves.tolist())
        assert measured["aurc"] == exactly(float(np.mean(1 - curves)))
