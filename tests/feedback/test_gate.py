"""The gate in front of flips: steps of a rule, their estimated precision, and which flips are done."""

import numpy as np
import pytest

from jaxllm.config import DataConfig
from jaxllm.feedback.calibration import cross_fit
from jaxllm.feedback.cleaning_config import Config
from jaxllm.feedback.gate import limit_soft_labels, pass_flips
from jaxllm.feedback.ledger import FLIP, KEEP, REMOVE, SOFT
from jaxllm.feedback.methods import Inputs, decide
from jaxllm.feedback.sources import CODES, RULES
from jaxllm.feedback.votes import ABSTAIN
from tests.feedback.rows import audit, clean, pairs, read
from tests.feedback.test_calibration import committee

# Three members; 0, 0, 1, 1, 2, 3 votes, and 1 of 2.
VOTES = np.array([[-1, -1, -1], [-1, 0, -1], [1, -1, -1], [-1, -1, 1], [1, 1, -1], [1, 1, 1], [1, -1, ABSTAIN]])
RIGHT = np.array([0.1, 0.3, 0.9, 0.8, 0.9, 0.99, 0.5])


def inputs(**more):
    n = len(VOTES)
    own = {"votes": VOTES, "scores": np.full((n, 3, 2), np.nan), "right": RIGHT, "weighted": np.arange(n) - 4.5,
           "source": np.zeros(n, int), "rule": np.zeros(n, int), "margin": np.zeros(n)}
    return Inputs(n, audit=own | more, about={"members": ["a", "b", "c"], "noise": 0.2})


def passed(method, given=None, **keys):
    config, given = Config(DataConfig("rows.jsonl"), "out", method, **keys), given or inputs()
    decision = decide(config, given)
    total, steps = pass_flips(config, decision, given)
    return decision, total, steps


def test_reliable_steps_flip_and_others_are_refused(capsys):
    decision, total, steps = passed("vote_maj_f")
    assert np.flatnonzero(decision.action == FLIP).tolist() == [0, 1]
    assert [(own["step"], own["flips"], own["doubtful"], own["refused"]) for own in steps] == [
        ("0 of 3 votes", 2, 0, False), ("1 of 3 votes", 2, 2, True)]
    assert [own["estimated_precision"] for own in steps] == pytest.approx([0.8, 0.15])
    assert total == {"flips": 4, "estimated_precision": pytest.approx(1.9 / 4), "doubtful": 2, "refused": False}
    assert decision.rules[decision.rule[2]] == ("a minority of votes; the flip is refused: its estimated precision is "
                                               "0.15 (1 of 3 votes)")
    assert "2 of 4 flips are refused (a minority of votes)" in capsys.readouterr().err


def test_a_method_with_doubtful_flips_alone_is_refused():
    decision, total, steps = passed("vote_maj_f", inputs(right=np.full(7, 0.6)))
    assert (decision.action == KEEP).all() and total["refused"] and all(own["refused"] for own in steps)
    forced, total, steps = passed("vote_maj_f", inputs(right=np.full(7, 0.6)), force=True)
    assert (forced.action == FLIP).sum() == 4 and not total["refused"] and not any(own["refused"] for own in steps)


def test_each_source_rule_has_an_estimate_of_its_own():
    source, rule = np.zeros(7, int), np.zeros(7, int)
    source[[0, 1, 2, 3]], rule[[0, 2]], rule[[1, 3]] = CODES.index("1"), 5, 6
    source[4], rule[4] = CODES.index("6"), 2
    decision, _, steps = passed("sac", inputs(source=source, rule=rule))
    assert [(own["rule"], own["step"], own["refused"]) for own in steps] == [
        (f"source 1: {RULES[5]}", "0 of 3 votes", False), (f"source 1: {RULES[5]}", "1 of 3 votes", True),
        (f"source 1: {RULES[6]}", "0 of 3 votes", False), (f"source 1: {RULES[6]}", "1 of 3 votes", True)]
    assert decision.action.tolist() == [FLIP, FLIP, KEEP, KEEP, REMOVE, KEEP, KEEP]


@pytest.mark.parametrize("force", [False, True])
def test_soft_labels_turn_around_where_a_flip_would_be_done(force, capsys):
    config, given = Config(DataConfig("rows.jsonl"), "out", "soft_votes", force=force), inputs()
    decision = decide(config, given)
    steps = limit_soft_labels(config, decision, given)
    assert (decision.action == SOFT).all()
    third = 1 / 3 if force else 0.5
    np.testing.assert_allclose(decision.value, [0, 0, third, third, 2 / 3, 1, 0.5])
    assert [(own["step"], own["labels"], own["refused"]) for own in steps] == [("0 of 3 votes", 2, False),
                                                                              ("1 of 3 votes", 2, not force)]
    assert ("set to one half" in decision.rules[decision.rule[2]]) != force
    assert "2 labels have a share of votes below one half" in capsys.readouterr().err


def test_calibrated_probabilities_below_one_half_are_never_limited(capsys):
    for method, keys in (("soft_calibrated", {}), ("calibrated_r", {"action": "soft"})):
        config, given = Config(DataConfig("rows.jsonl"), "out", method, **keys), inputs()
        decision = decide(config, given)
        assert not any(own["refused"] for own in limit_soft_labels(config, decision, given))
        assert decision.value[decision.action == SOFT].min() == 0.1
    assert not capsys.readouterr().err


def test_a_rule_without_votes_is_one_step():
    n = 25
    config, right = Config(DataConfig("rows.jsonl"), "out", "weighted_f"), np.linspace(0.0, 0.98, n)
    given = Inputs(n, audit={"votes": -np.ones((n, 1), int), "right": right, "weighted": np.arange(n) - 30.0})
    decision = decide(config, given)
    _, [own] = pass_flips(config, decision, given)
    assert (own["step"], own["flips"], own["doubtful"], own["refused"]) == (None, n, 12, False)
    assert own["estimated_precision"] == pytest.approx(0.51) and (decision.action == FLIP).all()


def test_estimates_are_the_precision_of_a_committee_that_is_known():
    """Five members that are right in 70 %, a fifth of the labels wrong: with v votes the share of wrong labels is
    0.2 a / (0.2 a + 0.8 b), a = 0.7^(5 - v) 0.3^v, b = 0.3^(5 - v) 0.7^v."""
    n, accuracy, noise = 6000, 0.7, 0.2
    votes, wrong = committee(n, [accuracy] * 5, noise, seed=1)
    right, count = cross_fit(votes, np.arange(n), noise), (votes == 1).sum(1)
    decision, total, steps = passed("vote_maj_f", Inputs(n, audit={"votes": votes, "right": right}))
    assert [own["step"] for own in steps] == [f"{v} of 5 votes" for v in range(3)]
    for v, own in enumerate(steps):
        a, b = (p ** (5 - v) * (1 - p) ** v for p in (accuracy, 1 - accuracy))
        exact, these = noise * a / (noise * a + (1 - noise) * b), count == v
        assert own["flips"] == these.sum() and own["refused"] == (exact < 0.5)
        assert own["estimated_precision"] == pytest.approx(exact, abs=0.05)
        assert wrong[these].mean() == pytest.approx(exact, abs=0.05)
    assert ((decision.action == FLIP) == (count <= 1)).all() and not total["refused"]


def test_the_result_the_report_and_the_ledger_have_the_steps(tmp_path):
    votes, _ = committee(400, [0.7] * 3, 0.2, seed=3)
    audit(tmp_path, pairs(400), [{"id": f"r{row}", "member": f"m{member}", "vote": int(vote)}
                                 for row, own in enumerate(votes) for member, vote in enumerate(own)])
    result = clean(tmp_path, "vote_maj_f")
    none, one = result["flips"]
    assert (none["step"], none["refused"], one["step"], one["refused"]) == ("0 of 3 votes", False, "1 of 3 votes", True)
    assert result["actions"]["flip"] == none["flips"] and result["gate"]["flips"] == none["flips"] + one["flips"]
    lines = read(tmp_path / "vote_maj_f" / "ledger.jsonl")
    assert {line["votes"] for line in lines if line["action"] == "flip"} == {0}
    assert sum("refused" in line["rule"] for line in lines) == one["flips"]
    assert "0 of 3 votes" in (tmp_path / "vote_maj_f" / "report.html").read_text()
