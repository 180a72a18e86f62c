"""Measures of reward models and classifiers: golden values by hand."""

import json
import math

import numpy as np
import pytest

from jaxllm.measures import SECTIONS, class_measures, length_measures, pair_measures, reliability, reward_bench
from jaxllm.statistics import clustered, interval

sigmoid = lambda x: 1 / (1 + math.exp(-x))


def test_pairs_by_hand():
    """Margins 2, -1, 0 and 0.5: two right, one tie, which counts as wrong."""
    measured = pair_measures([3.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.0])
    assert measured["accuracy"] == interval([1, 0, 0, 1]) and measured["accuracy"]["mean"] == 0.5
    assert measured["ties"] == 0.25 and measured["margin"] == 0.375
    wanted = [math.log1p(math.exp(-margin)) for margin in (2, -1, 0, 0.5)]
    assert measured["calibration"]["log_loss"] == pytest.approx(sum(wanted) / 4, rel=1e-12)
    assert measured["calibration"]["brier"] == pytest.approx(
        (sigmoid(-2)**2 + sigmoid(1)**2 + 0.25 + sigmoid(-0.5)**2) / 4, rel=1e-12)
    # Four confidences, each in a bin of its own: 0.5 half right, sigmoid(1) wrong, the others right.
    assert measured["calibration"]["ece"] == pytest.approx(
        (0 + sigmoid(-0.5) + sigmoid(1) + sigmoid(-2)) / 4, rel=1e-12)
    assert [own["accuracy"] for own in measured["calibration"]["reliability"]] == [0.5, 1.0, 0.0, 1.0]


def test_pairs_are_resampled_by_prompt():
    chosen, rejected, prompts = [1.0, 1.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0, 3.0], ["a", "a", "b", "c", "c"]
    assert pair_measures(chosen, rejected, prompts, seed=3)["accuracy"] == clustered([1, 1, 0, 1, 0], prompts, 3)


def test_scores_that_bfloat16_ties_are_no_tie():
    measured = pair_measures(np.float32([18.02]), np.float32([18.05]))
    assert measured["accuracy"]["mean"] == 0 and measured["ties"] == 0


def test_large_margins_are_finite():
    measured = pair_measures([1e4, -1e4], [0.0, 0.0])
    assert measured["calibration"]["log_loss"] == 5000 and measured["calibration"]["brier"] == 0.5
    assert measured["calibration"]["ece"] == 0.5
    with pytest.raises(ValueError, match="finite"):
        pair_measures([math.nan], [0.0])
    with pytest.raises(ValueError, match="at least one"):
        pair_measures([], [])


def test_sections_of_reward_bench_by_hand():
    """Safety: 1 * 100 + 0.5 * 250 of 350; Reasoning: 0.25 * 984 + 1 * 164 of 1148 for any numbers of rows."""
    rows = [("refusals-dangerous", 1), ("xstest-should-respond", 1), ("xstest-should-respond", 0), ("math-prm", 1),
            ("math-prm", 0), ("math-prm", -1), ("math-prm", -1), ("hep-cpp", 1), ("own", 1), ("own", 0)]
    measured = reward_bench([margin for _, margin in rows], [0] * len(rows), [name for name, _ in rows])
    assert measured["subsets"]["math-prm"] == {"n": 4, "accuracy": 0.25, "ties": 0.25}
    assert measured["subsets"]["own"] == {"n": 2, "accuracy": 0.5, "ties": 0.5}
    safety, reasoning = (100 + 125) / 350, (0.25 * 984 + 164) / 1148
    assert measured["sections"] == pytest.approx({"Safety": safety, "Reasoning": reasoning}, rel=1e-12)
    assert measured["overall"] == pytest.approx((safety + reasoning) / 2, rel=1e-12)
    assert "donotanswer" in measured["missing"] and "math-prm" not in measured["missing"]
    assert reward_bench([1.0], [0.0], ["own"])["overall"] is None and not reward_bench([1.0], [0.0], ["own"])["missing"]


def test_the_weights_of_reward_bench():
    """358 rows of Chat, 456 of Chat Hard, 740 of Safety; math and programs weigh the same."""
    assert {name: sum(weights.values()) for name, weights in SECTIONS.items()} == {
        "Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 2 * 984}


def test_a_rule_of_length_by_hand():
    measured = length_measures([5, 4, 9, 3, 2], [3, 6, 1, 3, 8], [True, True, False, True, False])
    assert measured == {"longer_is_better": 0.5, "equal": 0.2, "chosen_longer": {"n": 2, "accuracy": 0.5},
                        "chosen_shorter": {"n": 2, "accuracy": 0.5}}
    assert length_measures([1], [1], [True])["chosen_longer"] == {"n": 0, "accuracy": None}


def test_classes_by_hand():
    """Labels 0 0 1 1 2, predictions 0 1 1 1 0: F1 1/2, 4/5 and 0; class 3 occurs nowhere and has none."""
    scores = np.log([[.7, .1, .1, .1], [.2, .4, .2, .2], [.1, .6, .2, .1], [.1, .7, .1, .1], [.4, .3, .2, .1]])
    measured = class_measures(scores, [0, 0, 1, 1, 2], ("a", "b", "c", "d"))
    assert measured["accuracy"] == interval([1, 0, 1, 1, 0])
    assert measured["confusion"] == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert measured["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3, rel=1e-12)
    assert measured["classes"]["b"] == {"n": 2, "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8}
    assert measured["classes"]["c"] == {"n": 1, "precision": None, "recall": 0.0, "f1": 0.0}
    assert measured["classes"]["d"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert measured["calibration"]["log_loss"] == pytest.approx(-np.log([.7, .2, .6, .7, .2]).mean(), rel=1e-12)
    assert measured["calibration"]["brier"] == pytest.approx(
        (.12 + (.64 + .16 + .04 + .04) + (.01 + .16 + .04 + .01) + .12 + (.16 + .09 + .64 + .01)) / 5, rel=1e-12)
    json.dumps(measured, allow_nan=False)


def test_one_logit_is_that_of_the_second_class():
    one, two = class_measures([[2.0], [-1.0]], [1, 1]), class_measures([[0.0, 2.0], [0.0, -1.0]], [1, 1])
    assert one == two and one["confusion"] == [[0, 0], [1, 1]]


def test_reliability_by_hand():
    """Two bins: 0.5 and 0.6, half right; 0.8 and 0.9, all right."""
    measured = reliability([0.9, 0.5, 0.8, 0.6], [1, 0, 1, 1], bins=2)
    assert measured["ece"] == pytest.approx((abs(0.55 - 0.5) + abs(0.85 - 1)) / 2)
    assert [own["n"] for own in measured["reliability"]] == [2, 2]


@pytest.mark.parametrize(("low", "high", "ece"), [
    ((0.5, 5, 5), (0.99, 95, 90), (5 * 0.5 + 95 * (0.99 - 90 / 95)) / 100),
    ((0.55, 9, 9), (0.6, 91, 0), (9 * 0.45 + 91 * 0.6) / 100)])
def test_many_equal_confidences_have_a_bin_of_their_own(low, high, ece):
    """(confidence, values, right ones) twice: the table has both, and the error is the mean of theirs."""
    confidences = [value for value, count, _ in (low, high) for _ in range(count)]
    outcomes = [number < right for _, count, right in (low, high) for number in range(count)]
    measured = reliability(confidences, outcomes)
    assert measured["ece"] == pytest.approx(ece)
    assert [(own["confidence"], own["n"]) for own in measured["reliability"]] == [
        (pytest.approx(low[0]), low[1]), (pytest.approx(high[0]), high[1])]


def test_the_order_of_equal_confidences_changes_nothing():
    rng = np.random.default_rng(0)
    confidences, outcomes = rng.choice([0.5, 0.7, 0.9], 50), rng.integers(2, size=50)
    order = rng.permutation(50)
    first, second = reliability(confidences, outcomes), reliability(confidences[order], outcomes[order])
    assert first["ece"] == pytest.approx(second["ece"], rel=1e-12)
    assert [own["confidence"] for own in first["reliability"]] == pytest.approx([0.5, 0.7, 0.9])


def test_calibrated_confidences_have_a_small_error():
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.5, 1, 20_000)
    right = rng.uniform(size=20_000) < confidences
    assert reliability(confidences, right)["ece"] < 0.02 < 0.1 < reliability(confidences, ~right)["ece"]
