"""What each method flags, on pairs small enough to count."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.feedback.cleaning_config import Config, Method
from jaxllm.feedback.gate import count_of_cleaning
from jaxllm.feedback.ledger import ACTIONS, FLIP, KEEP, REMOVE, SOFT
from jaxllm.feedback.methods import METHODS, NAMES, Inputs, decide
from jaxllm.feedback.votes import votes_of_scores

SCORES = np.array([[[3.0, 1.0], [1.0, 0.0]], [[1.0, 3.0], [0.0, 1.0]], [[2.0, 2.5], [1.0, 0.0]],
                   [[0.0, 5.0], [2.0, 1.0]], [[1.0, 1.0], [0.0, 4.0]]])


def inputs(scores=SCORES, **more):
    n = len(scores)
    own = {"scores": scores, "votes": votes_of_scores(scores), "margin": np.zeros(n), "right": np.linspace(0.1, 0.9, n),
           "by_members": np.linspace(0.1, 0.9, n), "weighted": np.linspace(-1, 1, n), "source": np.zeros(n, int),
           "rule": np.zeros(n, int), "first": np.arange(n) % 2 > 0, "clusters": np.arange(n)}
    return Inputs(n, audit=own, about={"members": [f"m{i}" for i in range(scores.shape[1])], "noise": 0.2}, **more)


def decided(method, given=None, **keys):
    return decide(Config(DataConfig("rows.jsonl"), "out", method, **keys), given or inputs())


def flagged(method, given=None, **keys):
    return np.flatnonzero(decided(method, given, **keys).action != KEEP).tolist()


def test_all_methods_are_keys_of_the_config():
    assert set(Method.__args__) == set(NAMES)
    for name, entry in METHODS.items():
        assert name.endswith("_r") <= (entry.action == REMOVE) and name.endswith("_f") <= (entry.action == FLIP)


def test_votes():
    assert flagged("vote_all_r") == [1, 4]  # a tie is no vote
    assert flagged("vote_maj_r") == [1, 4]  # an exact half is enough
    three = inputs(np.concatenate([SCORES, SCORES[:, :1]], 1))
    assert flagged("vote_maj_f", three) == [1, 2, 3, 4]
    assert flagged("vote_full") == [1, 2, 3, 4]
    assert flagged("weighted_r") == [0, 1] and flagged("calibrated_f") == [0, 1]


def test_the_lowest_fraction_by_the_mean_margin(capsys):
    """Means: 1.5, -1.5, 0.25, -2, -2."""
    assert flagged("rwgap_r", fraction=0.2) == [3] and flagged("rwgap_f", fraction=0.4) == [3, 4]
    assert flagged("rwgap_r", fraction=0.0) == [] and flagged("rwgap_r", fraction=1.0) == [0, 1, 2, 3, 4]
    assert flagged("rwgap_r", fraction=0.39) == [3]  # never more than the fraction
    assert "times as much" not in capsys.readouterr().err
    large = inputs(SCORES * np.array([1.0, 1000.0])[:, None])
    assert flagged("rwgap_r", large, fraction=0.2) == [4]  # raw rewards of unlike scales are one member's
    assert "times as much" in capsys.readouterr().err
    assert flagged("rwgap_r", large, fraction=0.2, margins="standardized") == \
        flagged("rwgap_r", inputs(), fraction=0.2, margins="standardized")


def test_a_tenth_of_ten_is_one():
    scores = np.stack([np.arange(10.0), np.zeros(10)], 1)[:, None]
    for tenths in range(1, 10):
        assert flagged("rwgap_r", inputs(scores), fraction=tenths / 10) == list(range(tenths))


def test_a_judge_that_ties_keeps():
    assert flagged("llm_judge_r", member="m0") == [1, 2, 3]
    with pytest.raises(UserError, match="several members"):
        decided("llm_judge_r")
    with pytest.raises(UserError, match="no member 'other'"):
        decided("llm_judge_f", member="other")


def test_tags_cover_all_and_fill_up_without_repetition():
    tags = [("a",), ("a", "b", "c"), ("b",), ("d",), (), ("a", "d")]
    given = Inputs(6, tags)
    keeps = lambda method, keep, seed=0: sorted(set(range(6)) - set(flagged(method, given, keep=keep, seed=seed)))
    assert keeps("tag_cmp", 1) == [1]
    assert keeps("tag_cmp", 2) == [1, 5]  # most tags first; then the one that adds d
    for seed in range(5):
        assert len(keeps("tag_div", 4, seed)) == 4
        covered = {tag for number in keeps("tag_div", 4, seed) for tag in tags[number]}
        assert covered == {"a", "b", "c", "d"}
    assert keeps("tag_cmp", 100) == list(range(6))
    assert len({tuple(keeps("tag_div", 3, seed)) for seed in range(8)}) > 1


def test_difficulty_keeps_the_numbers_of_the_rows():
    """The pair above 1 is not ranked, and does not shift the following ones."""
    ifd = np.array([[1.5, 0.2], [0.9, 0.9], [0.3, 0.8], [np.nan, 0.5], [0.5, 0.1]])
    given = Inputs(5, ifd=ifd)
    assert flagged("ifd_r", given, fraction=0.4) == [2]  # a third of three ranked ones
    assert flagged("ifd_r", given, fraction=0.7) == [2, 4]
    assert flagged("ifd_gap_r", given, fraction=0.25) == [2] and flagged("ifd_gap_f", given, fraction=0.5) == [1, 2]


def test_baselines_of_the_same_size():
    given = inputs()
    given.audit["source"][[0, 3]] = 1
    given.audit["source"][1] = 2  # no action
    config = Config(DataConfig("rows.jsonl"), "out", "random_r")
    assert count_of_cleaning(replace(config, force=True), given) == 2
    assert count_of_cleaning(config, given) == 1  # the flip of the other one is refused
    assert len(flagged("random_r", given, count=2)) == 2 and len(flagged("random_f", given, count=4)) == 4
    assert flagged("random_r", given, count=2, seed=1) == flagged("random_f", given, count=2, seed=1)
    assert flagged("none", given) == []
    assert len(flagged("random_r", Inputs(50), fraction=0.1)) == 5


def test_whole_data_sets_are_softened_and_weighed():
    soft = decided("soft_votes")
    assert (soft.action == SOFT).all() and soft.value.tolist() == [1, 0, 0.5, 0.5, 0]
    np.testing.assert_allclose(decided("soft_calibrated").value, np.linspace(0.1, 0.9, 5))
    assert decided("weight_votes").value.min() > 0
    assert (decided("smooth", epsilon=0.2).value == 0.8).all()


def test_an_action_in_place_of_the_method_s():
    decision = decided("calibrated_r", action="soft")
    assert [ACTIONS[number] for number in decision.action] == ["soft", "soft", "keep", "keep", "keep"]
    np.testing.assert_allclose(decision.value[:2], [0.1, 0.3])
    assert decided("vote_maj_r", action="unpaired").action.tolist().count(ACTIONS.index("unpaired")) == 2


def test_confident_learning_of_two_classes():
    """Thresholds are the mean probabilities of the labels of each class; see the definition in the paper."""
    right = np.array([0.99, 0.95, 0.2, 0.9, 0.97, 0.4])
    given = inputs(np.concatenate([SCORES, SCORES[:1]]))
    given.audit["by_members"] = right
    better = right / (right + (1 - right) * (1 - 0.2) / 0.2)
    given.audit["first"] = np.arange(6) >= 3
    first, second = better[:3].mean(), better[3:].mean()
    expected = [i for i in range(6) if 1 - better[i] >= (second if i < 3 else first)
                and (better[i] < (first if i < 3 else second) or better[i] < 0.5)]
    assert flagged("confident_r", given) == expected and 2 in expected and 0 not in expected


def test_a_class_without_pairs_is_no_guess():
    """The chosen answer is first in all pairs: nothing is known of pairs in which it is second."""
    given = inputs()
    given.audit["first"] = np.ones(5, bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the mean of no values
        assert flagged("confident_r", given) == []


def test_people_who_find_neither_answer_better_are_no_prediction():
    """As predictions, their one half without the label as evidence would be odds of four to one against it."""
    given = inputs()
    given.audit.update(by_members=np.full(5, 0.9), right=np.array([0.5, 0.5, 0.9, 0.9, 0.9]))
    assert flagged("confident_r", given) == []


@pytest.mark.parametrize(("method", "rule"), [("soft_votes", "no member voted"), ("weight_votes", "no member voted"),
                                              ("margins", "no member scored")])
def test_a_pair_that_no_member_knows_has_its_own_numbers(method, rule):
    given = inputs(np.where(np.arange(5)[:, None, None] == 2, np.nan, SCORES))
    given.audit["margin"][2] = np.nan
    decision = decided(method, given)
    assert np.flatnonzero(decision.action == KEEP).tolist() == [2] and decision.rules[decision.rule[2]] == rule


def test_fewer_pairs_than_the_tags_are_to_leave(capsys):
    assert flagged("tag_cmp", Inputs(2, [("a",), ("b",)]), keep=3) == []
    assert "there are 2: nothing is removed" in capsys.readouterr().err


def test_the_small_losses_are_kept():
    assert flagged("small_loss_r", fraction=0.2) == [4]


@pytest.mark.parametrize(("method", "match"), [("vote_maj_r", "a committee"), ("rwgap_r", "a committee"),
                                               ("tag_cmp", "column tags"), ("ifd_r", "difficulty"),
                                               ("sac", "a committee")])
def test_what_a_method_needs_is_named(method, match):
    with pytest.raises(UserError, match=match):
        decided(method, Inputs(3, [()] * 3))


def test_votes_alone_have_no_gaps():
    given = inputs()
    given.audit["scores"] = np.full_like(SCORES, np.nan)
    with pytest.raises(UserError, match="votes alone"):
        decided("rwgap_r", given)
