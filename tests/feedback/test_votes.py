"""Votes, buckets, and the published figures of a real committee."""

import numpy as np
import pytest

from jaxllm.feedback.votes import (
    ABSTAIN,
    bucket_names,
    buckets,
    consistent_votes,
    count_votes,
    histogram,
    votes_of_scores,
)
from tests.feedback.rows import C6, C8, audit, llmbar, read


def test_votes_of_scores():
    scores = [[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [1.0, np.nan], [1.2, 1.0]]
    assert votes_of_scores(scores).tolist() == [1, -1, 0, ABSTAIN, 1]
    assert votes_of_scores(scores, tolerance=0.3).tolist() == [1, -1, 0, ABSTAIN, 0]


def test_a_tie_counts_against_the_label_and_an_abstention_does_not():
    count = count_votes([[1, 0, -1], [1, ABSTAIN, ABSTAIN], [ABSTAIN] * 3])
    assert count.votes.tolist() == [1, 1, 0] and count.voters.tolist() == [3, 1, 0]
    assert buckets(count).tolist() == [1, 4, -1]
    assert histogram(count, 3) == [0, 2, 0, 0]


def test_buckets_of_eight():
    votes = np.array([[1] * v + [-1] * (8 - v) for v in range(9)])
    names = bucket_names()
    assert [names[number] for number in buckets(count_votes(votes))] == [
        "none", "low", "low", "low", "mid", "mid", "mid", "high", "full"]


@pytest.mark.parametrize("members", [1, 2, 3, 5, 6, 7, 20])
def test_an_exact_half_is_not_low(members):
    votes = np.array([[1] * v + [-1] * (members - v) for v in range(members + 1)])
    for v, number in enumerate(buckets(count_votes(votes))):
        name = bucket_names()[number]
        assert name == ("none" if v == 0 else "full" if v == members else "low" if 2 * v < members else
                        "mid" if 8 * v < 7 * members else "high")


def test_edges_of_ones_own():
    assert bucket_names([0.25, 0.5, 0.75]) == ["none", "below 25 %", "below 50 %", "below 75 %", "below 100 %", "full"]
    votes = np.array([[1] * v + [-1] * (4 - v) for v in range(5)])
    assert buckets(count_votes(votes), [0.25, 0.5, 0.75]).tolist() == [0, 2, 3, 4, 5]


def test_flipped_labels_mirror_the_votes():
    votes = np.random.default_rng(0).choice([-1, 1], (200, 7))
    assert (count_votes(-votes).votes == 7 - count_votes(votes).votes).all()
    assert histogram(count_votes(-votes), 7) == histogram(count_votes(votes), 7)[::-1]
    before, after = buckets(count_votes(votes)), buckets(count_votes(-votes))
    none, full = 0, len(bucket_names()) - 1
    assert (before == none).any() and ((before == none) == (after == full)).all()


def test_a_copy_of_a_member_leaves_none_and_full_as_they_are():
    votes = np.random.default_rng(1).choice([-1, 0, 1], (500, 4), p=[0.3, 0.1, 0.6])
    before, after = buckets(count_votes(votes)), buckets(count_votes(votes[:, [0, 1, 2, 3, 3]]))
    for number in (0, len(bucket_names()) - 1):
        assert ((before == number) == (after == number)).all()


def test_votes_in_both_orders():
    assert consistent_votes([1, 1, 0, -1, ABSTAIN], [1, -1, 0, -1, ABSTAIN]).tolist() == [1, ABSTAIN, 0, -1, ABSTAIN]


HISTOGRAMS = {None: [14, 24, 32, 49, 38, 31, 35, 34, 61], "natural": [0, 1, 4, 1, 2, 6, 10, 10, 33],
              "adv_neighbor": [7, 9, 6, 20, 18, 13, 15, 10, 6], "adv_gptinst": [1, 7, 11, 16, 10, 7, 5, 8, 8],
              "adv_gptout": [3, 4, 6, 6, 3, 4, 4, 3, 5], "adv_manual": [3, 3, 5, 6, 5, 1, 1, 3, 9]}


@pytest.mark.parametrize("subset", HISTOGRAMS)
def test_votes_of_eight_language_models(shared, tmp_path, subset):
    rows, votes, _ = llmbar(shared, C8, subset=subset)
    result = audit(tmp_path, rows, votes)
    counts = HISTOGRAMS[subset]
    assert result["vote_histogram"] == counts
    np.testing.assert_allclose([own["mean"] for own in result["vote_shares"]], np.array(counts) / sum(counts))
    assert result["buckets"] == {"none": counts[0], "low": sum(counts[1:4]), "mid": sum(counts[4:7]),
                                 "high": counts[7], "full": counts[8]}


@pytest.mark.parametrize(("members", "counts"), [(C8, [25, 25, 35, 44, 38, 36, 32, 33, 50]),
                                                 (C6, [36, 39, 59, 43, 48, 40, 53])])
def test_votes_on_labels_with_noise(shared, tmp_path, members, counts):
    rows, votes, truth = llmbar(shared, members, noise=True)
    assert sum(row["flipped"] for row in truth) == 68
    assert audit(tmp_path, rows, votes)["vote_histogram"] == counts


@pytest.mark.parametrize(("member", "counts"), [("GPT-4/Rating", (236, 52, 28, 2)),
                                                ("ChatGPT/Rating", (73, 154, 91, 0))])
def test_votes_of_ratings(shared, member, counts):
    """Right, tied, wrong and unparsable."""
    ratings = [[np.nan] * 2 if None in (own := row["scores"][member]) else own[::3 - 2 * row["label"]]
               for row in read(shared / "preferences" / "llmbar_committee.jsonl")]
    votes = votes_of_scores(ratings)
    assert tuple((votes == vote).sum() for vote in (1, 0, -1, ABSTAIN)) == counts


@pytest.mark.parametrize(("members", "most", "counts"), [(C6, 2, (34, 100, 34)), (C6, 0, (14, 22, 54)),
                                                         (C8, 3, (35, 94, 33)), (C8, 0, (13, 12, 55))])
def test_wrong_labels_by_few_votes(shared, members, most, counts):
    """True positives, false positives, false negatives."""
    rows, lines, truth = llmbar(shared, members, noise=True)
    votes = np.array([line["vote"] for line in lines]).reshape(len(rows), -1)
    few, wrong = count_votes(votes).votes <= most, np.array([row["flipped"] for row in truth])
    assert ((few & wrong).sum(), (few & ~wrong).sum(), (~few & wrong).sum()) == counts


def test_votes_that_are_the_same_in_both_orders(shared, tmp_path):
    rows, votes, _ = llmbar(shared, C8, both_orders=True)
    result = audit(tmp_path, rows, votes)
    lines = read(tmp_path / "audit" / "rows.jsonl")
    against = [sum(vote == -1 for vote in line["by_member"].values()) for line in lines]
    verdicts = np.sign([line["votes"] - other for line, other in zip(lines, against, strict=True)])
    assert [(verdicts == sign).sum() for sign in (1, -1, 0)] == [191, 99, 28]
    published = {"GPT-4": (0.8349, 0.9151), "PaLM2": (0.6997, 0.7516), "Falcon": (0.5456, 0.4182),
                 "ChatGPT-0301": (0.4796, 0.5692), "LLaMA2": (0.4245, 0.7704), "ChatGPT": (0.3884, 0.6635)}
    for name, (accuracy, same) in published.items():
        own = result["members"][f"{name}/Vanilla"]
        mean = (own["first_order_agreement"] + own["swapped_order_agreement"]) / 2
        assert mean == pytest.approx(accuracy, abs=5e-5)
        assert own["same_in_both_orders"]["mean"] == pytest.approx(same, abs=5e-5)
