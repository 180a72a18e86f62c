"""The calibrated committee: gradient, what it recovers, what must not change it, and a real committee with noise."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from jaxllm.feedback import calibration
from jaxllm.feedback.calibration import Known, cross_fit, evidence, fit, folds_of, log_odds, weighted_votes
from jaxllm.feedback.votes import ABSTAIN
from tests.feedback.rows import C8, audit, clean, llmbar


def committee(n, accuracies, noise, seed=0):
    """Votes of independent members about labels of which a share is wrong; returns votes and what is wrong."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < noise
    right = rng.random((n, len(accuracies))) < np.array(accuracies)
    return np.where(right != wrong[:, None], 1, -1), wrong


def test_probabilities_are_those_of_the_model_that_made_the_votes():
    accuracies, noise = [0.9, 0.7, 0.5, 0.3], 0.2
    votes, wrong = committee(40_000, accuracies, noise)
    model = fit(votes, noise)
    odds = np.log(np.array(accuracies) / (1 - np.array(accuracies)))
    np.testing.assert_allclose(model.weights, odds, atol=0.1)
    right = cross_fit(votes, np.arange(len(votes)), noise)
    for low in np.arange(0, 1, 0.25):
        own = (right >= low) & (right < low + 0.25)
        if own.sum() > 500:
            assert (~wrong[own]).mean() == pytest.approx(right[own].mean(), abs=0.03)


def test_the_gradient_is_that_of_the_loss(monkeypatch):
    votes, _ = committee(200, [0.8, 0.6, 0.4], 0.2)
    known = Known(np.arange(200) < 20, np.arange(200) % 3 > 0)
    seen = []
    monkeypatch.setattr("scipy.optimize.minimize", lambda loss, start, **_: seen.append((loss, start)) or
                        type("Result", (), {"x": start}))
    fit(votes, 0.2, known)
    loss, start = seen[0]
    for at in (start, start * 0 + [1.0, -2.0, 0.3]):
        assert check_grad(lambda w: loss(w)[0], lambda w: loss(w)[1], at) < 1e-4


def test_exchanged_answers_mirror_the_probabilities():
    votes, _ = committee(500, [0.8, 0.7, 0.6], 0.1)
    model = fit(votes, 0.1)
    np.testing.assert_allclose(model.better(votes) + model.better(-votes), 1)
    odds = lambda p: np.log(p / (1 - p))
    np.testing.assert_allclose(odds(model.right(votes)), odds(model.better(votes)) + np.log(0.9 / 0.1))


def test_scores_count_by_their_margin_up_to_a_limit():
    x = evidence([[1, -1, 1, ABSTAIN]], [[0.4, -9.0, np.nan, np.nan]])
    np.testing.assert_allclose(x, [[0.4, -calibration.LIMIT, 1, 0]])


def test_people_correct_the_expected_noise():
    none = Known(np.zeros(10, bool), np.zeros(10, bool))
    assert none.noise(0.2) == pytest.approx(0.2)
    half = Known(np.ones(1000, bool), np.arange(1000) % 4 > 0)
    assert half.noise(0.05) == pytest.approx(0.25, abs=0.002)
    votes, wrong = committee(3000, [0.75, 0.7, 0.65, 0.6], 0.3)
    judged = np.arange(3000) < 1500
    known = Known(judged, ~wrong)
    alone, helped = (cross_fit(votes, np.arange(3000), noise, own) for noise, own in ((0.05, None), (known.noise(0.05),
                                                                                                     known)))
    brier = lambda right: np.square(right - ~wrong)[~judged].mean()
    assert brier(helped) < brier(alone)


@pytest.mark.parametrize(("accuracies", "noise", "low", "high"), [
    ([0.8] * 5, 0.02, 0.02, 0.06), ([0.8] * 5, 0.1, 0.09, 0.13), ([0.8] * 5, 0.3, 0.25, 0.31),
    ([0.55] * 2, 0.02, 0.15, 0.21), ([0.55] * 2, 0.35, 0.19, 0.25)])
def test_the_likelihood_moves_the_noise_where_the_members_are_sure(accuracies, noise, low, high):
    votes, _ = committee(5000, accuracies, noise)
    assert low <= calibration.fit_noise(votes, 0.2, np.arange(5000)) <= high


def test_very_many_pairs_are_sampled_by_their_prompts(monkeypatch):
    votes, _ = committee(4000, [0.8] * 5, 0.1)
    whole = calibration.fit_noise(votes, 0.2, np.arange(4000))
    monkeypatch.setattr(calibration, "NOISE_ROWS", 1000)
    clusters, order = np.arange(4000), np.random.default_rng(0).permutation(4000)
    part = calibration.fit_noise(votes, 0.2, clusters)
    assert part == pytest.approx(whole, abs=0.05) and part != whole
    assert calibration.fit_noise(votes[order], 0.2, clusters[order]) == pytest.approx(part, abs=1e-6)


def test_a_label_has_no_part_in_its_own_probability():
    """Members of no worth: with their labels in the fit, the probabilities would lean to right."""
    rng = np.random.default_rng(3)
    votes = rng.choice([-1, 1], (60, 30))
    right = cross_fit(votes, np.arange(60), 0.2)
    own = fit(votes, 0.2).right(votes)
    assert right.mean() < own.mean()
    fold = folds_of(np.arange(60) // 3, 5, 0)
    assert all(len(set(fold[start:start + 3])) == 1 for start in range(0, 60, 3))


def test_people_have_more_weight_than_members():
    decisions = np.array(["", "chosen", "rejected", "tie"])
    found = calibration.with_people(np.array([0.8, 0.5, 0.5, 0.9]), decisions)
    np.testing.assert_allclose(found, [0.8, 0.9, 0.1, 0.5])


def test_weights_are_log_odds():
    votes = np.array([[1, -1], [1, -1], [1, 0], [-1, ABSTAIN]])
    np.testing.assert_allclose(log_odds(votes), np.log([4 / 2, 1 / 3]))
    total = weighted_votes(np.tile(votes, (50, 1)), np.arange(200))
    assert (np.sign(total[:2]) == 1).all() and total[3] < 0


def test_deciding_by_weights_beats_the_majority_on_a_real_committee(shared, tmp_path):
    rows, votes, truth = llmbar(shared, C8, noise=True)
    audit(tmp_path, rows, votes)
    (tmp_path / "truth.jsonl").write_text("".join(f'{{"id": "{row["id"]}", "flipped": {str(row["flipped"]).lower()}}}\n'
                                                  for row in truth))
    plain = clean(tmp_path, "vote_maj_r", truth=tmp_path / "truth.jsonl")
    assert plain["detection"] == {"true_positives": 35, "false_positives": 94, "false_negatives": 33, "flipped": 68,
                                  "detected": 129}
    none = clean(tmp_path, "vote_all_r", truth=tmp_path / "truth.jsonl")
    assert list(none["detection"].values())[:3] == [13, 12, 55]
    for method, counts in (("weighted_f", [59, 33, 9]), ("calibrated_f", [33, 8, 35])):
        better = clean(tmp_path, method, truth=tmp_path / "truth.jsonl")
        assert list(better["detection"].values())[:3] == counts
        assert better["f1"]["ci_low"] > plain["f1"]["ci_high"] and not better["gate"]["refused"]
        assert better["precision"]["mean"] > 0.5
    refused = clean(tmp_path, "vote_maj_f", truth=tmp_path / "truth.jsonl")
    assert refused["gate"]["refused"] and refused["actions"]["flip"] == 0
    assert refused["gate"]["estimated_precision"] == pytest.approx(35 / 129, abs=0.05)
    estimated = [step["estimated_precision"] for step in refused["flips"]]
    np.testing.assert_allclose(estimated, [0.44, 0.29, 0.25, 0.11], atol=0.01)  # of 0 to 3 votes
    forced = clean(tmp_path, "vote_maj_f", "forced", truth=tmp_path / "truth.jsonl", force="true")
    assert forced["actions"]["flip"] == 129 and not forced["gate"]["refused"]
