"""Agreement of raters: values from the literature, degenerate tables, consensus."""

import json

import numpy as np
import pytest

from jaxllm import raters
from jaxllm.raters import (
    MISSING,
    cohen_kappa,
    counts_of,
    dawid_skene,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
)

# Fleiss (1971), as in the worked example of many textbooks: 10 items, 14 raters, 5 categories.
FLEISS = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
          [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
# Krippendorff (2011): 4 observers, 12 units, 5 categories, nominal alpha 0.743.
UNITS = [[1, 1, None, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4],
         [1, 1, 2, 1], [2, 2, 2, 2], [None, 5, 5, 5], [None, None, 1, 1], [None, None, 3, None]]


def coded(rows):
    return np.array([[MISSING if value is None else value - 1 for value in row] for row in rows])


def test_published_values():
    assert fleiss_kappa(FLEISS) == pytest.approx(0.20993, abs=5e-6)
    assert percent_agreement(FLEISS) == pytest.approx(0.378, abs=5e-4)
    assert krippendorff_alpha(counts_of(coded(UNITS), 5)) == pytest.approx(0.743421, abs=5e-7)


def test_categories_are_those_of_the_scale_and_not_those_that_were_used():
    first, second = [0, 1, 3, 3, 0, 1, 0, 3], [0, 3, 3, 1, 0, 1, 1, 0]
    assert cohen_kappa(first, second, 4) == pytest.approx(0.2558139535)
    assert cohen_kappa(first, second, 4, "linear") == pytest.approx(0.2558139535)
    assert cohen_kappa(first, second, 4, "quadratic") == pytest.approx(0.2871287129)
    assert cohen_kappa(first, second, 7) == cohen_kappa(first, second, 4)
    wide = np.pad(np.array(FLEISS), ((0, 0), (0, 3)))
    assert fleiss_kappa(wide) == pytest.approx(fleiss_kappa(FLEISS))


def test_tables_that_are_no_counts_are_refused():
    assert fleiss_kappa([[0, 3], [1, 2], [3, 0], [2, 1]]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="same number of ratings"):
        fleiss_kappa([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(ValueError, match="numbers from -1 to 1"):
        counts_of([[0, 2]], 2)


def test_one_category_has_no_kappa():
    ratings = np.ones((5, 3), int)
    found = raters.agreement(ratings, 2, range(5))
    assert found["percent"]["mean"] == 1
    for name in ("fleiss", "krippendorff"):
        assert found[name]["mean"] is None and found[name]["reason"] == "all ratings are in one category"
    assert np.isnan(fleiss_kappa(counts_of(ratings, 2))) and np.isnan(krippendorff_alpha(counts_of(ratings, 2)))
    assert np.isnan(cohen_kappa([1, 1], [1, 1], 2))
    assert raters.agreement([[1, MISSING]], 2, [0])["percent"]["reason"] == "no item has two ratings"


def test_intervals_come_from_clusters():
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 3, (40, 4))
    alone = raters.agreement(ratings, 3, np.arange(40))
    repeated = raters.agreement(np.repeat(ratings, 5, 0), 3, np.repeat(np.arange(40), 5))
    for name in ("percent", "fleiss"):  # copies of an item add nothing
        assert alone[name]["mean"] == pytest.approx(repeated[name]["mean"])
        assert alone[name]["ci_low"] == pytest.approx(repeated[name]["ci_low"])
    assert alone["fleiss"]["ci_low"] < alone["fleiss"]["mean"] < alone["fleiss"]["ci_high"]


def test_resamples_of_one_category_are_counted():
    """One item of 30 has another category: (29/30)^30 = 36 % of the resamples have none, and no kappa."""
    found = raters.agreement([[0, 0, 0]] * 29 + [[0, 0, 1]], 2, range(30))
    assert found["percent"]["undefined"] == 0
    for name in ("fleiss", "krippendorff"):
        assert found[name]["undefined"] == pytest.approx(2000 * 0.362, abs=120)


def test_missing_ratings():
    ratings = np.array([[0, 0, 1], [1, 1, MISSING], [0, MISSING, MISSING], [1, 1, 1], [MISSING] * 3])
    found = raters.agreement(ratings, 2, range(5))
    assert found["percent"] == pytest.approx(found["percent"] | {"mean": (1 / 3 + 1 + 1) / 3}) \
        and found["percent"]["n"] == 3
    assert found["fleiss"]["n"] == 2 and found["krippendorff"]["n"] == 3
    assert raters.majority(counts_of(ratings, 2)).tolist() == [0, 1, 0, 1, MISSING]
    assert raters.majority([[2, 2]]).tolist() == [MISSING]
    entropy = raters.entropy(counts_of(ratings, 2))
    assert entropy[1] == 0 and np.isnan(entropy[4]) and entropy[0] == pytest.approx(-np.log(2 / 3) * 2 / 3
                                                                                    - np.log(1 / 3) / 3)


def test_consensus_finds_the_rater_who_is_right():
    """Four raters guess at random, three are right in 90 %: a majority is worse than the estimated consensus."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 2000)
    rated = lambda accuracy: np.where(rng.random(2000) < accuracy, truth, 1 - truth)
    ratings = np.stack([rated(0.9), rated(0.9), rated(0.9), rated(0.5), rated(0.5), rated(0.5), rated(0.5)], 1)
    found = dawid_skene(ratings, 2)
    right = np.mean(found.posterior.argmax(1) == truth)
    assert right > np.mean(raters.majority(counts_of(ratings, 2)) == truth) + 0.04
    assert found.confusion[0, 0, 0] == pytest.approx(0.9, abs=0.04)
    assert found.confusion[4, 0, 0] == pytest.approx(0.5, abs=0.06)
    np.testing.assert_allclose(found.posterior.sum(1), 1)


def test_a_category_that_a_rater_never_used_is_not_ruled_out():
    ratings = np.array([[0, 0, 0]] * 5 + [[1, 1, 0]] * 2)
    assert dawid_skene(ratings, 2).posterior[-1, 1] > 0.4


def test_votes_of_people_as_published(shared):
    rows = [json.loads(line) for line in (shared / "preferences" / "pandalm_human.jsonl").read_text().splitlines()]
    votes = np.array([row["annotators"] for row in rows])
    assert fleiss_kappa(counts_of(votes, 3)) == pytest.approx(0.875614, abs=5e-7)
    assert (votes == votes[:, :1]).all(1).sum() == 689
    most = raters.majority(counts_of(votes, 3))
    assert np.bincount(most[most >= 0], minlength=3).tolist() == [91, 310, 374]
    for (i, j), kappa in {(0, 1): 0.865523, (0, 2): 0.886619, (1, 2): 0.874805}.items():
        assert cohen_kappa(votes[:, i], votes[:, j], 3) == pytest.approx(kappa, abs=5e-7)
    for judge, equal, missing in (("pandalm-7b", 507, 0), ("gpt-3.5-turbo", 525, 18)):
        given = [row["judges"][judge] for row in rows]
        assert sum(vote == own for vote, own in zip(given, most, strict=True)) == equal
        assert given.count(None) == missing


def test_votes_of_models_as_published(shared):
    rows = [json.loads(line) for line in (shared / "preferences" / "llmbar_committee.jsonl").read_text().splitlines()]
    names = [f"{name}/Vanilla" for name in ("GPT-4", "ChatGPT", "ChatGPT-0301", "LLaMA2", "PaLM2", "Falcon")]
    votes = np.array([[row["votes"][name][0] for name in names] for row in rows])
    assert fleiss_kappa(counts_of(votes, 3)) == pytest.approx(0.282906, abs=5e-7)
