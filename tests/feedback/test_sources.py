"""Sources of unreliability: each rule, their order, and properties of the whole."""

import numpy as np
import pytest

from jaxllm.feedback.sources import (
    CODES,
    Committee,
    SourceConfig,
    assign,
    quantiles,
    standardized_margins,
)
from jaxllm.feedback.votes import count_votes, votes_of_scores
from tests.feedback.rows import audit, clean, pair, pairs, read, wide


def committee(scores, domains=None):
    """A committee of scores `[N, M, 2]`."""
    groups = None if domains is None else np.unique(domains, return_inverse=True)[1]
    return Committee(np.stack([quantiles(own, groups) for own in np.moveaxis(scores, 1, 0)], 1),
                     np.stack([standardized_margins(own) for own in np.moveaxis(scores, 1, 0)], 1))


def sources(scores, by_criterion=None, domains=None, decisions=None, **config):
    votes, n = votes_of_scores(scores), len(scores)
    count = count_votes(votes)
    source, _ = assign(count.votes, (votes == -1).sum(1), count.voters, committee(scores, domains), by_criterion or {},
                       domains or ["mixed"] * n, decisions or [""] * n, SourceConfig(**config))
    return [CODES[number] for number in source]


def test_quantiles_rank_all_answers_of_a_domain():
    scores = np.array([[1.0, 4.0], [2.0, 2.0], [np.nan, 10.0]])
    np.testing.assert_allclose(quantiles(scores), [[0, 0.75], [0.375, 0.375], [np.nan, 1]])
    np.testing.assert_allclose(quantiles(scores, [0, 1, 1]), [[0, 1], [0.25, 0.25], [np.nan, 1]])
    assert (quantiles(np.full((3, 2), 7.0)) == 0.5).all()


def test_margins_are_in_deviations_of_the_scores_for_any_labels():
    scores = np.random.default_rng(0).normal(3, 5, (50, 2))
    gaps = standardized_margins(scores)
    np.testing.assert_allclose(gaps, (scores[:, 0] - scores[:, 1]) / scores.std())
    half = np.where(np.arange(50)[:, None] % 2, scores, scores[:, ::-1])
    np.testing.assert_allclose(np.abs(standardized_margins(half)), np.abs(gaps))
    assert (standardized_margins(np.full((3, 2), 7.0)) == 0).all()


def spread(rng, n=200, members=3, quality=1.0):
    base = rng.normal(0, 1, (n, 1, 2))
    return base * quality + rng.normal(0, 0.3, (n, members, 2))


def test_a_pair_at_a_threshold_is_within_it():
    """Ranks of 16 answers: 1.5 of 15 is 0.1, and the mean of three such quantiles is more in float64; 9 of 15 is 0.6,
    which in float64 is less than 0.1 from the middle."""
    own = np.array([[1, 1], [0, 3], [15, 4], [14, 5], [13, 6], [12, 7], [9, 10], [11, 8]], float)
    scores = np.repeat(own[:, None], 3, 1)
    assert quantiles(own)[0].tolist() == [0.1, 0.1] and quantiles(own)[6, 0] == 0.6
    assert sources(scores)[0] == "5|6" and sources(scores)[6] == "4"
    halves = np.repeat(np.array([[1.1, 1.3], [1.0, 1.2], [1.3, 1.1], [1.2, 1.0]])[:, None], 3, 1)
    margin = -float(standardized_margins(halves[:, 0])[0])
    for factor in (1.0, 0.1, 0.3, 7.0):
        assert sources(halves * factor, margin=margin, bad_quantile=0.0)[0] == "1"


def test_each_source():
    """Rows: 0 clearly wrong, 1 both bad, 2 against the label by a little, 3 fine; others set the scale."""
    scores = spread(np.random.default_rng(0))
    scores[0] = [[-1.0, 1.0]] * 3
    scores[1] = [[-4.0, -4.1]] * 3
    scores[2] = [[1.0, 1.05]] * 3
    scores[3] = [[1.0, -1.0]] * 3
    found = sources(scores)
    assert found[:4] == ["1", "5|6", "4", None]
    assert sources(scores, margin=5.0)[0] == "2"
    people = ["chosen", "", "", "both_bad", *[""] * 196]
    assert sources(scores, decisions=people)[:4] == ["2", "5|6", "4", "5|6"]
    assert sources(scores, decisions=["tie", *people[1:]])[0] == "2"
    assert sources(scores, decisions=["rejected", *people[1:]])[0] == "1"


def test_ties_are_no_evidence_against_a_label():
    scores = spread(np.random.default_rng(8))
    scores[0], scores[1] = [[1.0, 1.0]] * 3, [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert sources(scores, margin=0.0)[0] != "1" and sources(scores, margin=0.0)[1] != "1"
    scores[1] = [[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]
    assert sources(scores)[1] == "1"


def test_criteria_tell_harmful_from_wrong_and_different_criteria():
    scores = spread(np.random.default_rng(1))
    helpful, harmless = spread(np.random.default_rng(2)), spread(np.random.default_rng(3))
    harmless[0] = [[-5.0, -5.1]] * 3
    helpful[1] = [[-5.0, -5.1]] * 3
    scores[2], helpful[2], harmless[2] = [[0.05, 0.3]] * 3, [[-0.4, 0.9]] * 3, [[0.9, -0.4]] * 3
    both = {"helpfulness": committee(helpful), "harmlessness": committee(harmless)}
    assert sources(scores, both)[:3] == ["5", "6", "3"]
    domains = ["helpful", "harmless", *["mixed"] * 198]
    found = sources(scores, both, domains)  # a helpful pair is not judged by harmlessness, or reversed
    assert found[0] != "5" and found[1] != "6"


def test_a_domain_that_no_criterion_judges_is_left_to_the_whole_committee():
    scores, helpful = spread(np.random.default_rng(1)), spread(np.random.default_rng(2))
    scores[:3] = [[-5.0, -5.1]] * 3
    domains = [("harmless", "helpful", "mixed")[n % 3] for n in range(200)]
    assert sources(scores, None, domains)[:3] == ["5|6"] * 3
    found = sources(scores, {"helpfulness": committee(helpful, domains)}, domains)
    assert found[0] == found[2] == "5|6" != found[1]


def test_all_members_but_one_must_find_both_answers_bad():
    scores = spread(np.random.default_rng(4))
    scores[0] = [[-5.0, -5.1], [-5.0, -5.1], [3.0, 3.1]]
    assert sources(scores)[0] != "5|6"  # the mean quantile is too high
    assert sources(scores, bad_quantile=0.4)[0] == "5|6"
    assert sources(scores, bad_quantile=0.4, bad_members=3)[0] != "5|6"


def test_affine_scores_and_other_orders_change_nothing():
    rng = np.random.default_rng(5)
    scores = spread(rng)
    before = sources(scores)
    assert sources(scores * np.array([2.0, 10.0, 0.1])[:, None] + np.array([5.0, -3.0, 0.0])[:, None]) == before
    assert sources(scores[:, [2, 0, 1]]) == before
    order = rng.permutation(len(scores))
    assert sources(scores[order]) == [before[number] for number in order]


@pytest.mark.parametrize("seed", range(5))
def test_sets_grow_with_their_thresholds(seed):
    scores = spread(np.random.default_rng(seed), quality=0.5)
    where = lambda name, **config: {number for number, own in enumerate(sources(scores, **config)) if own == name}
    for low, high in ((0.05, 0.1), (0.1, 0.3), (0.3, 1.0)):
        assert where("5|6", bad_quantile=low) <= where("5|6", bad_quantile=high)
    for fewer, more in ((0, 1), (1, 2)):
        assert where("1", most_votes=fewer) <= where("1", most_votes=more)
    assert where("5|6", bad_quantile=1.0) == set(range(len(scores)))


def test_a_second_pass_with_the_same_quantiles_does_nothing_new():
    scores = spread(np.random.default_rng(6))
    first = sources(scores)
    flipped = np.array([own == "1" for own in first])
    assert flipped.any()
    second = sources(np.where(flipped[:, None, None], scores[:, :, ::-1], scores))
    rest = [own for own, bad in zip(second, first, strict=True) if bad != "5|6"]
    assert "1" not in rest and "5|6" not in rest


def test_votes_alone_have_no_bad_answers_and_no_margin(tmp_path):
    votes = [{"id": f"r{number}", "member": f"m{member}", "vote": {0: -1, 1: 0}.get(number, 1)}
             for number in range(30) for member in range(3)]
    result = audit(tmp_path, pairs(30), votes)
    assert result["sources"]["1"] == 1 and result["sources"]["5|6"] == 0
    assert any("votes alone" in note for note in result["notes"])
    assert read(tmp_path / "audit" / "rows.jsonl")[0]["rule"] == "too few votes"


def test_votes_with_scores_by_a_criterion(tmp_path):
    votes = [{"id": f"r{number}", "member": f"m{member}", "vote": -1 if number == 0 else 1}
             for number in range(30) for member in range(3)]
    scores = [{"id": f"r{number}", "member": "h", "criterion": "harmlessness", "chosen": number,
               "rejected": number + 0.5} for number in range(30)]
    result = audit(tmp_path, pairs(30), [*votes, *scores])
    assert any("source 1 needs no margin, and sources 5 and 6 are those" in note for note in result["notes"])
    assert not any("the whole committee does" in note for note in result["notes"])
    assert [row["source"] for row in read(tmp_path / "audit" / "rows.jsonl")[:4]] == ["5", "5", "5", None]


def test_sources_lead_to_actions(tmp_path):
    """Bad pairs go before wrong labels are flipped, the rest stays as it was, and every row has one action."""
    scores = spread(np.random.default_rng(7), n=300)
    chosen, rejected = np.moveaxis(scores.mean(1), 1, 0)
    scores[chosen < rejected] = scores[chosen < rejected][..., ::-1]  # labels that the members find right
    scores[0], scores[1], scores[2] = [[-1.0, 1.0]] * 3, [[-4.0, -4.1]] * 3, [[1.0, 1.05]] * 3
    rows = [pair(number, note=number) for number in range(300)]
    audit(tmp_path, rows, wide(scores))
    found = [row["source"] for row in read(tmp_path / "audit" / "rows.jsonl")]
    assert found[:3] == ["1", "5|6", "4"]
    result = clean(tmp_path, "sac")
    ledger, cleaned = read(tmp_path / "sac" / "ledger.jsonl"), read(tmp_path / "sac" / "cleaned.jsonl")
    assert [line["action"] for line in ledger[:3]] == ["flip", "remove", "keep"]
    assert len(ledger) == 300 and sum(result["actions"].values()) == 300
    assert {line["id"] for line in ledger if line["action"] != "remove"} == {row["id"] for row in cleaned}
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    assert cleaned[0] == swapped and cleaned[1] == rows[2]
    clean(tmp_path, "sac", "kto", actions__bad="unpaired", actions__disagreement="soft")
    both = read(tmp_path / "kto" / "cleaned_unpaired.jsonl")
    assert [(row["completion"], row["label"]) for row in both[:2]] == [(rows[1]["chosen"], False),
                                                                       (rows[1]["rejected"], False)]
    probability = lambda name: next(row for row in read(tmp_path / name / "cleaned.jsonl")
                                    if row["id"] == "r2")["label_probability"]
    assert probability("kto") == 0.5  # it is more likely right than wrong
    clean(tmp_path, "sac", "forced", actions__disagreement="soft", force="true")
    assert probability("forced") == 0
