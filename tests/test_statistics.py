"""Intervals and p-values: golden values, and the same digits in any block size; large samples in bounded memory."""

import math
import tracemalloc

import numpy as np
import pytest

from jaxllm import statistics
from jaxllm.statistics import clustered, crossed, distinct_rows, interval, paired, rate, resampled_units

VALUES = [0.1, 0.4, 0.35, 0.8, 0.0, 1.0, 0.25]
OTHERS = [0.0, 0.5, 0.3, 0.6, 0.1, 0.7, 0.2]
CLUSTERS = ["a", "a", "b", "c", "c", "c", "d"]


def test_small_samples_match_golden_values():
    """As scipy 1.17 gives without `batch`."""
    assert interval(VALUES, 3) == pytest.approx({'mean': 0.41428571428571426, 'ci_low': 0.17857142857142858,
        'ci_high': 0.6785714285714286, 'n': 7})
    assert paired(VALUES, OTHERS, 2) == pytest.approx({'mean': 0.07142857142857147, 'ci_low': -0.02857142857142856,
        'ci_high': 0.17857142857142858, 'n': 7, 'p': 0.3125})
    assert clustered(VALUES, CLUSTERS, 5) == pytest.approx({'mean': 0.41428571428571426, 'ci_low': 0.25,
        'ci_high': 0.565, 'n': 7})
    assert interval([0.5]) == {"mean": 0.5, "ci_low": 0.5, "ci_high": 0.5, "n": 1}
    assert paired([1.0, 2.0], [1.0, 2.0])["p"] == 1.0


def test_rates_of_equal_values_have_exact_intervals():
    """Clopper and Pearson: 20 of 20 successes have a rate of 0.025^(1/20) = 0.8316 at least."""
    assert rate([1] * 20) == pytest.approx({"mean": 1.0, "ci_low": 0.831567, "ci_high": 1.0, "n": 20}, abs=1e-6)
    assert rate([0] * 20) == pytest.approx({"mean": 0.0, "ci_low": 0.0, "ci_high": 0.168433, "n": 20}, abs=1e-6)
    assert rate([1] * 20, [0, 1] * 10)["ci_low"] == pytest.approx(0.025 ** 0.5)
    assert rate([1] * 3, [0, 1, 1], weights=[1, 2, 3])["ci_low"] == pytest.approx(0.025 ** 0.5)
    assert rate([1, 0, 1], seed=3) == interval([1, 0, 1], 3)
    assert rate(VALUES, CLUSTERS, 5) == clustered(VALUES, CLUSTERS, 5)
    weights = [1, 2, 3, 1, 2, 3, 1]
    assert rate(VALUES, CLUSTERS, 5, weights=weights) == clustered(VALUES, CLUSTERS, 5, weights=weights)


def test_an_interval_over_runs_and_units_has_the_spread_of_both():
    rng = np.random.default_rng(0)
    runs, units = rng.normal(size=(40, 1)), rng.normal(size=(1, 90))
    found = crossed(runs + units)
    deviation = math.sqrt(runs.var() / 40 + units.var() / 90)
    assert found["mean"] == pytest.approx((runs + units).mean()) and found["n"] == 3600
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert crossed([[0.0] * 5, [1.0] * 5]) == {"mean": 0.5, "ci_low": 0.0, "ci_high": 1.0, "n": 10}
    one = crossed([VALUES])
    assert one["mean"] == pytest.approx(interval(VALUES)["mean"])
    assert one["ci_low"] == pytest.approx(interval(VALUES)["ci_low"], abs=0.03)


def test_an_interval_over_runs_and_units_leaves_out_what_has_no_value():
    assert crossed([[0.5, np.nan], [np.nan, 0.5]]) == {"mean": 0.5, "ci_low": 0.5, "ci_high": 0.5, "n": 2}
    assert crossed([[1.0, np.nan, 0.0], [1.0, 0.0, 0.0]])["mean"] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no values"):
        crossed([[np.nan]])


@pytest.mark.parametrize("size", [7, 100])
def test_the_block_size_changes_no_digit(monkeypatch, size):
    rng = np.random.default_rng(0)
    values, others, clusters = rng.normal(size=size), rng.normal(size=size), rng.integers(20, size=size)
    results = []
    for block in (2**22, 2**15):
        monkeypatch.setattr(statistics, "VALUES_PER_BLOCK", block)
        results.append((interval(values), paired(values, others), clustered(values, clusters)))
    assert results[0] == results[1]


def test_large_samples_agree_with_the_normal_interval_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(statistics, "LARGE_RESAMPLES", 200)
    rng, n = np.random.default_rng(0), 200_000
    values = rng.exponential(size=n)
    grades = np.floor(4 * rng.random(n))
    tracemalloc.start()
    try:
        results = interval(values), interval(grades), clustered(values, np.arange(n) // 2, draws=400)
        p_equal, p_other = paired(values, values[::-1])["p"], paired(values, values + 0.01 * rng.normal(1, 1, n))["p"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300e6
    for result, sample in zip(results, (values, grades, values), strict=True):
        half = 1.96 * sample.std() / math.sqrt(n)
        assert result["n"] == n and result["mean"] == pytest.approx(sample.mean())
        assert result["ci_high"] - result["mean"] == pytest.approx(half, rel=0.2)
        assert result["mean"] - result["ci_low"] == pytest.approx(half, rel=0.2)
    assert p_equal > 0.8 and p_other == pytest.approx(2 / 201)


def test_the_large_sign_flip_test_agrees_with_the_exact_one(monkeypatch):
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.1, 1, 301), rng.normal(size=301)
    exact = paired(ours, theirs)["p"]
    monkeypatch.setattr(statistics, "LARGE", 100)
    monkeypatch.setattr(statistics, "LARGE_RESAMPLES", 20_000)
    assert paired(ours, theirs)["p"] == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("clusters", "units"), [
    (["b", "a", "b"], [1, 0, 1]), (["a", "a", "a"], [0, 1, 2]), (np.array([10, 2, 10]), [1, 0, 1]),
    (np.array([3, 3]), [0, 1]), ([], [])])
def test_of_a_single_cluster_each_value_is_a_unit(clusters, units):
    assert resampled_units(clusters).tolist() == units


@pytest.mark.parametrize("rows", [
    np.random.default_rng(0).integers(-1, 3, (200, 4)), np.random.default_rng(1).integers(0, 9, (50, 2)) / 7,
    np.random.default_rng(2).integers(2**63, 2**63 + 3, (50, 2), dtype=np.uint64), np.zeros((0, 3))])
def test_equal_rows_have_a_group(rows):
    distinct, starts, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    for own, expected in zip(distinct_rows(rows), (distinct, starts, group), strict=True):
        assert np.array_equal(own, expected.reshape(own.shape))
