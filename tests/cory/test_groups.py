"""Group algorithms with two agents: groups of responses, and dynamic sampling."""

from dataclasses import replace

import numpy as np
import pytest

from jaxllm.cory.prompts import observer_prompt
from jaxllm.cory.team import Clock, differ
from jaxllm.errors import UserError
from jaxllm.generate import Completion
from jaxllm.ops import group_advantages
from jaxllm.rl import Learner, make_rollout
from jaxllm.rl.rewards import gsm8k_reward
from tests.cory.teams import ROWS, even, make


@pytest.mark.slow
def test_groups_pair_every_pioneer_with_an_observer(model):
    trainer = make(model, "--algorithm=rloo", "--policy.group_size=3", "--train.batch_size=2")
    _, metrics, turns = trainer.iterate(trainer.start(), 0)
    assert [len(turn.scores) for turn in turns] == [6, 6]
    assert len({query.text for query in turns[0].queries}) == 2
    assert metrics["agents"]["llm1"]["shaped_score"] == pytest.approx(
        metrics["agents"]["llm1"]["task_reward"] + metrics["agents"]["llm2"]["task_reward"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("minibatch", [None, 4])
def test_a_response_of_the_pioneer_is_shared_by_the_observers_of_a_group(model, minibatch):
    trainer = make(model, "--algorithm=grpo", "--policy.group_size=3", "--train.batch_size=4",
                   "--cory.shared_response=true", "--exchange_every=1",
                   *([] if minibatch is None else [f"--train.minibatch_size={minibatch}"]))
    team = trainer.start()
    turns, groups, _ = trainer._collect(team, 0, Clock())
    assert [len(turn.scores) for turn in turns] == [4, 12] and [len(own) for own in groups] == [4, 12]
    assert not groups[0].any() and groups[1].tolist() == np.repeat(range(4), 3).tolist()
    for number, prompt in enumerate(turns[1].rollout.prompts):
        pioneer = number // 3
        assert list(prompt) == list(observer_prompt(model, trainer.config.cory, turns[0].queries[pioneer],
                                                    turns[0].rollout.texts[pioneer], trainer.observer_length)[0])
    for iteration in range(2):  # either agent is the pioneer once
        team, metrics, turns = trainer.iterate(team, iteration)
        both = turns[0].scores.mean() + turns[1].scores.mean()
        for numbers in metrics["agents"].values():
            assert numbers["shaped_score"] == pytest.approx(both, rel=1e-5)
            assert numbers["first_ratio_error"] < 1e-5 and numbers["skipped"] < numbers["updates"]


@pytest.mark.slow
def test_dynamic_sampling_drops_groups_of_equal_rewards(model):
    """Rows of one kind always get the same reward; their groups are replaced by those of other prompts."""
    rows = [row | {"useful": i % 4 == 0} for i, row in enumerate(ROWS)]
    mixed = lambda prompts, responses, given: [
        even(None, [text], None)[0] if row["useful"] else 0.7 for text, row in zip(responses, given, strict=True)]
    trainer = make(model, "--agents=1", "--algorithm=dapo", "--policy.group_size=4", "--train.batch_size=2",
                   reward=mixed, rows=rows)
    team, metrics, turns = trainer.iterate(trainer.start(), 0)
    assert all(query.row["useful"] for query in turns[0].queries)
    assert len(turns[0].scores) == 8 and team.drawn > 1


def test_rows_are_repeated_for_the_responses_of_a_group(model, monkeypatch):
    """Answers of 3 and 4 to a problem with 3, and of 5 and 6 to one with 5, rewarded as such."""
    rows = [{"prompt": f"Question: What is {number}?", "answer": f"#### {number}"} for number in (3, 5)]
    trainer = make(model, "--agents=1", "--algorithm=rloo", "--policy.group_size=2", "--train.batch_size=2",
                   reward=gsm8k_reward, rows=rows)

    def sample(self, base, state, prompts, limit, seed):
        numbers = [int(model.tokenizer.decode(ids).rstrip("?")[-1]) + i % 2 for i, ids in enumerate(prompts)]
        return make_rollout(prompts, [Completion(f" {number}", [5], 0.0, "stop", np.zeros(1)) for number in numbers],
                            self.config.limit)

    monkeypatch.setattr(Learner, "sample", sample)
    [turn], [groups], _ = trainer._collect(trainer.start(), 0, Clock())
    assert turn.scores.tolist() == [1, 0, 1, 0] and groups.tolist() == [0, 0, 1, 1]
    assert sorted({query.row["answer"] for query in turn.queries}) == ["#### 3", "#### 5"]


def test_rewards_that_differ_by_rounding_are_equal():
    """As the advantages of groups have it: 0 + 0.7 and 0.1 + 0.6, two rewards that are added up, in float32."""
    added = np.float32([0.0, 0.1]) + np.float32([0.7, 0.6])
    assert np.ptp(added) > 0
    assert differ(np.stack([added, np.float32([0.7, 0.71]), np.float32([1, 1]), np.float32([0, 1e-3])])).tolist() == [
        False, True, False, True]
    for values in (added, np.float32([0.7, 0.71])):
        advantages = group_advantages(values, np.int32([0, 0]), 1)
        assert np.any(advantages) == differ(values)


@pytest.mark.slow
def test_groups_of_equal_scores_that_fill_up_are_left_out_of_the_loss(model):
    """Also where the penalty of long responses would give them advantages."""
    rows = [row | {"useful": i == 0} for i, row in enumerate(ROWS[:4])]
    mixed = lambda prompts, responses, given: [
        even(None, [text], None)[0] if row["useful"] else 0.7 for text, row in zip(responses, given, strict=True)]
    trainer = make(model, "--agents=1", "--algorithm=dapo", "--policy.group_size=4", "--train.batch_size=4",
                   "--policy.resample=1", "--scores.overlong_tokens=4", reward=mixed, rows=rows)
    turns, [groups], _ = trainer._collect(trainer.start(), 0, Clock())
    useful = np.repeat([query.row["useful"] for query in turns[0].queries[::4]], 4)
    assert (groups >= 0).tolist() == useful.tolist() and useful.sum() == 4
    _, metrics, turns = trainer.iterate(trainer.start(), 0)
    assert metrics["agents"]["llm1"]["weight"] == turns[0].rollout.lengths[useful].sum()


@pytest.mark.slow
def test_own_rewards_filter_by_either_agent(model):
    """The pioneer's rewards are equal and the observer's are not: the groups count, for the observer.

    That the pioneer has nothing to learn then does not end the run.
    """
    calls = []

    def alternating(prompts, responses, rows):
        calls.append(len(responses))
        return [1.0] * len(responses) if len(calls) % 2 else even(None, responses, None)

    trainer = make(model, "--algorithm=dapo", "--policy.group_size=4", "--train.batch_size=2", "--cory.reward=own",
                   reward=alternating)
    team = replace(trainer.start(), idle=(2, 2))
    _, groups, _ = trainer._collect(team, 0, Clock())
    assert (groups[0] == -1).all() and (groups[1] >= 0).any()
    team, metrics, _ = trainer.iterate(team, 0)
    assert metrics["agents"]["llm1"]["weight"] == 0 < metrics["agents"]["llm2"]["weight"] and team.idle == (2, 0)


def test_dynamic_sampling_ends_where_all_rewards_are_equal(model):
    trainer = make(model, "--agents=1", "--algorithm=dapo", "--policy.group_size=2", "--train.batch_size=2",
                   "--policy.resample=2", reward=lambda prompts, responses, rows: [1.0] * len(responses))
    with pytest.raises(UserError, match=r"policy\.resample"):
        trainer.iterate(trainer.start(), 0)
