"""Two agents: roles, collective rewards, exchange, evaluation, and settings that do not fit."""

import gc
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from jaxllm.config import SamplingConfig
from jaxllm.cory import (
    Config,
    HeldBackConfig,
    QueryConfig,
    Team,
    TeamConfig,
    collective_rewards,
    exchange,
)
from jaxllm.cory.team import Turn, describe, pass_rates
from jaxllm.cory.training import split, train
from jaxllm.errors import UserError
from jaxllm.generate import Completion
from jaxllm.parsing import parse
from jaxllm.rl import Experience, Learner, make_rollout
from jaxllm.rl.config import RlTrainConfig
from tests.cory.teams import ROWS, THINGS, even, make


def test_both_agents_get_the_sum():
    pioneer, observer = np.float32([1.2, -.4]), np.float32([.5, 2.0])
    for mode, expected in (("sum", [1.7, 1.6]), ("mean", [.85, .8])):
        one, two = collective_rewards(pioneer, observer, mode)
        np.testing.assert_allclose(one, expected, rtol=1e-6)
        np.testing.assert_array_equal(one, two)
    one, two = collective_rewards(pioneer, np.float32([.5, 2.0, -1.0, 1.0]))
    np.testing.assert_allclose(one, [1.2 + 1.25, -.4], rtol=1e-6)
    np.testing.assert_allclose(two, [1.7, 3.2, -1.4, .6], rtol=1e-6)
    own = collective_rewards(pioneer, observer, "own")
    assert own[0] is pioneer and own[1] is observer


def test_measures_are_those_of_the_responses_tokens():
    """Numbers after the end of a response have no effect."""
    ended = [Completion("", [5] * size, 0.0, reason, np.full(size, -1.0, np.float32))
             for size, reason in ((3, "length"), (1, "stop"))]
    rollout = make_rollout([np.array([1])] * 2, ended, 3)
    tokens = lambda first, second: np.float32([first, [second, np.nan, np.inf]])
    known = {"kl": tokens([1, 2, 3], 2), "entropy": tokens([1, 2, 3], 6), "logprobs": tokens([-1, -1.5, -.5], -3)}
    turn = Turn([], rollout, np.float32([1.0, 0.0]), np.array([False, True]))
    found = describe(turn, Experience(rollout, [], [], known), 0.5)
    assert found == pytest.approx({
        "task_reward": .5, "task_reward_std": .5, "kl": 4, "combined_reward": .5 - .5 * 4, "kl_coef": .5, "length": 2,
        "truncated": .5, "response_cut": .5, "entropy": 3, "sampler_difference": .75})


def test_roles_are_exchanged_by_index():
    team = Team(("a", "b"))
    pioneers = []
    for iteration in range(12):
        pioneers.append(team.pioneer)
        team = exchange(team, iteration, 5)
        assert team.agents == ("a", "b"), "states stay with their agent"
    assert pioneers == [0] * 5 + [1] * 5 + [0] * 2
    assert exchange(exchange(Team(("a", "b")), 4, 5), 9, 5) == Team(("a", "b"))
    assert exchange(Team(("a",)), 4, 5).pioneer == 0
    never = parse(Config, ["--data.path=x", "--out=y", "--exchange_every=null"]).exchange_every
    assert all(exchange(Team(("a", "b")), iteration, never).pioneer == 0 for iteration in range(12))
    assert [Team(("a", "b"), pioneer=1).in_role(role) for role in (0, 1)] == [1, 0]


def test_an_iteration_of_two_agents(model):
    trainer = make(model)
    team = trainer.start()
    chex.assert_trees_all_equal(team.agents[0].params, team.agents[1].params)
    before = jax.device_get(team.agents[0].params)
    after, metrics, turns = trainer.iterate(team, 0)
    pioneer, observer = metrics["agents"]["llm1"], metrics["agents"]["llm2"]
    assert (pioneer["role"], observer["role"]) == ("pioneer", "observer")
    assert pioneer["shaped_score"] == observer["shaped_score"], "both get the same collective reward"
    np.testing.assert_allclose(pioneer["shaped_score"], pioneer["task_reward"] + observer["task_reward"], rtol=1e-5)
    for agent, turn in zip((pioneer, observer), turns, strict=True):
        assert agent["kl"] == pytest.approx(0, abs=1e-5), "both are the reference still"
        assert agent["combined_reward"] == pytest.approx(agent["task_reward"] - agent["kl_coef"] * agent["kl"])
        assert agent["task_reward"] == pytest.approx(np.mean(even(None, turn.rollout.texts, None)))
    for query, response, prompt in zip(turns[0].queries, turns[0].rollout.texts, turns[1].rollout.prompts, strict=True):
        assert query.text + response in model.tokenizer.decode(prompt)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(before, jax.device_get(after.agents[0].params), atol=1e-6)


@pytest.mark.slow
def test_with_own_rewards_the_pioneer_learns_as_one_agent_alone(model):
    """Nothing of the observer reaches it: no gradient, no reward, no random number."""
    trainer, alone = make(model, "--cory.reward=own"), make(model, "--agents=1")
    both, single = trainer.start(), alone.start()
    for iteration in range(2):
        both, *_ = trainer.iterate(both, iteration)
        single, metrics, turns = alone.iterate(single, iteration)
    assert list(metrics["agents"]) == ["llm1"] and len(turns) == 1 and not metrics["exchanged"]
    chex.assert_trees_all_equal(jax.device_get(both.agents[0].params), jax.device_get(single.agents[0].params))


@pytest.mark.slow
def test_an_exchange_leaves_the_agents_as_they_are(model):
    trainer = make(model, "--exchange_every=1")
    team, metrics, _ = trainer.iterate(trainer.start(), 0)
    assert metrics["exchanged"] and team.pioneer == 1
    kept = make(model, "--exchange_every=100")
    same, metrics, _ = kept.iterate(kept.start(), 0)
    assert not metrics["exchanged"] and same.pioneer == 0
    chex.assert_trees_all_equal(jax.device_get([one.params for one in team.agents]),
                                jax.device_get([one.params for one in same.agents]))
    chex.assert_trees_all_equal(jax.device_get([one.opt_state for one in team.agents]),
                                jax.device_get([one.opt_state for one in same.agents]))
    _, metrics, _ = trainer.iterate(team, 1)
    assert metrics["agents"]["llm2"]["role"] == "pioneer"


@pytest.mark.parametrize(("resets", "optimizer", "coefficient"), [
    ("none", True, True), ("optimizer", False, True), ("all", False, False)])
@pytest.mark.slow
def test_what_an_exchange_resets(model, resets, optimizer, coefficient):
    trainer = make(model, "--exchange_every=1", f"--cory.exchange_resets={resets}", "--kl.adaptive=true",
                   "--kl.coef=0.4")
    team, *_ = trainer.iterate(trainer.start(), 0)
    for state in team.agents:
        assert any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state)) == optimizer
        assert (float(state.extra["kl_coef"]) != np.float32(0.4)) == coefficient
        assert (float(state.extra["moments"]["count"]) > 0) == coefficient
    trainer.iterate(team, 1)  # states fit the compiled programs


@pytest.mark.slow
def test_each_agents_penalty_is_its_own(model):
    """A response without an end loses its own score, and not that of the partner; both agents get the same sum."""
    trainer = make(model, "--scores.missing_end=replace")
    _, metrics, turns = trainer.iterate(trainer.start(), 0)
    own = [np.where(turn.rollout.truncated, -1.0, turn.scores) for turn in turns]
    for agent in metrics["agents"].values():
        assert agent["shaped_score"] == pytest.approx(np.mean(own[0] + own[1]), rel=1e-5)


@pytest.mark.slow
def test_a_constant_reward_is_noted(model, capsys):
    trainer = make(model, "--agents=1", reward=lambda prompts, responses, rows: [0.25] * len(responses))
    team, metrics, _ = trainer.iterate(trainer.start(), 0)
    assert "reward: all responses of an iteration have the reward 0.25" in capsys.readouterr().err
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(team.agents[0].params))


def test_agents_are_evaluated_alone_on_bare_queries(model):
    trainer = make(model)
    found = trainer.evaluate(trainer.start())
    assert found["llm1"] == found["llm2"], "equal agents get equal numbers"
    assert found["llm1"]["task_reward"]["n"] == 2 and found["llm1"]["kl"]["mean"] == pytest.approx(0, abs=1e-5)


def test_pass_at_k_of_held_back_queries(model):
    """Eight responses each to two queries, of which 2 and 0 are right; means and intervals are those of queries."""
    right = lambda prompts, responses, rows: [float(i % 8 < 2 * (row is ROWS[0])) for i, row in enumerate(rows)]
    trainer = make(model, "--agents=1", "--held_back.samples=8", "--held_back.pass_at=[1, 4, 8]", reward=right)
    found = trainer.evaluate(trainer.start())["llm1"]
    for k, expected in (("1", .25), ("4", .7857143), ("8", 1.0)):
        assert found["pass_at_k"][k]["mean"] == pytest.approx(expected / 2, abs=1e-6)
    assert found["task_reward"]["mean"] == 0.125 and found["task_reward"]["ci_high"] == 0.25
    assert all(found[name]["n"] == 2 for name in ("task_reward", "kl", "length")) and found["pass_at_k"]["1"]["n"] == 2


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0])
def test_pass_at_k_needs_rewards_of_0_or_1(wrong):
    with pytest.raises(UserError, match=r"held_back\.pass_at"):
        pass_rates(np.float32([[0, 1], [1, wrong]]), [1])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--agents=3"], "agents"), (["--cory.observer_template=no field"], "{query}"),
    (["--cory.observer_template={query} {other}"], "{other}"), (["--algorithm=a2c"], "no algorithm"),
    (["--algorithm=grpo", "--policy.group_size=1"], "policy.group_size"), (["--policy.group_size=2"], "group_size"),
    (["--sampling.temperature=0"], "temperature"), (["--lora.dropout=0.1"], "lora.dropout"),
    (["--train.minibatch_size=3"], "minibatch_size"), (["--kl.place=loss", "--kl.kind=k1"], "kl.kind"),
    (["--exchange_every=0"], "exchange_every"), (["--response_tokens=[5, 2]"], "response_tokens"),
    (["--scores.overlong_tokens=2", "--response_tokens=[4, 8]"], "response_tokens"),
    (["--scores.center=true"], "scores.scale"), (["--scores.missing_end_penalty=-1"], "missing_end_penalty"),
    (["--device.quantize=int4", "--lora=null"], "quantize"),
    (["--held_back.samples=0"], "held_back.samples"), (["--held_back.pass_at=[2]"], "held_back.samples"),
    (["--held_back.pass_at=[0]"], "held_back.pass_at"),
    (["--held_back.pass_at=[1]", "--held_back.rows=0"], "held_back.rows"),
    (["--query.tokens=[3]"], "query.tokens"), (["--query.template=fixed"], "query.template"),
    (["--sampling.seed=3"], "sampling.seed"), (["--algorithm=dapo", "--kl.kind=full"], "kl.kind"),
    (["--algorithm=dapo", "--kl.adaptive=true"], "kl.adaptive"),
    (["--algorithm=grpo", "--scores.whiten=true"], "scores.whiten"),
    (["--algorithm=rloo", "--policy.gamma=0.9"], "policy.gamma"),
    (["--algorithm=grpo", "--policy.value=separate"], "policy.value"),
    (["--algorithm=reinforce", "--policy.clip_low=0.1"], "clip_low"),
    (["--policy.importance_cap=2", "--sampling.top_p=0.5"], "importance_cap"),
    (["--device.quantize=nf4", "--save=model"], "save"),
    (["--cory.exchange_resets=all", "--train.schedule=linear"], "exchange_resets"),
    (["--cory.shared_response=true"], "agents to 2"),
    (["--cory.shared_response=true", "--agents=2"], "use rloo"),
    (["--cory.shared_response=true", "--agents=2", "--algorithm=dapo"], "use rloo"),
    (["--cory.shared_response=true", "--agents=2", "--algorithm=grpo", "--train.batch_size=1"], "batch_size"),
    (["--cory.shared_response=true", "--agents=2", "--algorithm=grpo", "--train.schedule=linear"], "constant")])
def test_settings_that_do_not_fit(arguments, message):
    with pytest.raises(UserError) as caught:
        parse(Config, ["--data.path=x", "--out=y", *arguments])
    assert message in str(caught.value)


def test_held_back_prompts_are_unseen(model, capsys):
    """No cut of a held-back prompt starts like one that is trained on; at most half of the prompts are held back."""
    rows = [{"prompt": f"Review: The {thing} {rest}"} for thing in THINGS for rest in ("in Velmar", "is", "was")]
    whole = QueryConfig()
    training, held_back = split(rows, whole, 5, model)
    assert len(held_back) == 5 and len(training) == 19
    training, held_back = split(rows, QueryConfig(tokens=[5, 9]), 64, model)
    starts = lambda own: {tuple(model.tokenizer.encode(row["prompt"])[:5]) for row in own}
    count = len(starts(rows))
    assert 4 <= count < 24 and not starts(training) & starts(held_back)
    assert len(held_back) == count // 2 == len(starts(held_back)) and len(training) < 24 - len(held_back)
    assert f"{count} different prompts, of which {count // 2}" in capsys.readouterr().err
    assert split(rows[:1], whole, 64, model) == (rows[:1], [])


@pytest.mark.slow
def test_training_from_python(model):
    config = TeamConfig(agents=2, iterations=2, sampling=SamplingConfig(max_tokens=6), held_back=HeldBackConfig(rows=2),
                        train=RlTrainConfig(batch_size=4, passes=1))
    trained = train(model, ROWS, even, config=config, progress=False)
    assert len(trained.metrics) == 2 and set(trained.adapters) == {"llm1", "llm2"} and not trained.params
    assert trained.after["llm1"]["task_reward"]["n"] == 2
    with pytest.raises(UserError, match="row 1"):
        train(model, ["text"], even, config=config)
    with pytest.raises(UserError, match=r"held_back\.path"):
        train(model, ROWS, even, config=replace(config, held_back=HeldBackConfig(rows=1, path="x")))


@pytest.mark.slow
def test_a_negative_estimate_is_noted_with_its_key(model, capsys, monkeypatch):
    """As if every token were less probable than under the model before training."""
    config = TeamConfig(iterations=2, sampling=SamplingConfig(max_tokens=6), held_back=HeldBackConfig(rows=0),
                        train=RlTrainConfig(batch_size=4, passes=1))
    evaluate = Learner.evaluate

    def less_probable(*arguments):
        experience = evaluate(*arguments)
        experience.known["reference_logprobs"] += 2.0
        return experience

    monkeypatch.setattr(Learner, "evaluate", less_probable)
    train(model, ROWS, even, config=config, progress=False)
    noted = capsys.readouterr().err
    assert "kl.kind: the mean estimate k1" in noted and noted.count("kl.kind") == 1


@pytest.mark.slow
def test_a_run_without_updates_ends(model):
    """Infinite losses: each update is skipped, and the run ends with the reason."""
    config = TeamConfig(iterations=9, sampling=SamplingConfig(max_tokens=6), held_back=HeldBackConfig(rows=0),
                        train=RlTrainConfig(batch_size=4, passes=1))
    with pytest.raises(UserError, match="no update in 3 iterations"):
        train(model, ROWS, lambda prompts, texts, rows: [1e30 * len(text) for text in texts], config=config,
              progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("resets", ["none", "all"])
def test_two_agents_compile_each_shape_once(model, programs, monkeypatch, resets):
    """Limits, queries and roles change. With a rate of 0 the second round samples the responses of the first again, so
    it meets all of its shapes, with states that have gone through updates, exchanges and an evaluation."""
    trainer = make(model, "--response_tokens=[1, 12]", "--query.tokens=[2, 9]", "--exchange_every=2", "--train.lr=0",
                   "--train.batch_size=12", "--kl.adaptive=true", "--scores.scale=true",
                   f"--cory.exchange_resets={resets}", rows=[{"prompt": f"Review: The {thing} in Velmar was good and"}
                                                             for thing in THINGS])
    shapes, evaluate = [], Learner.evaluate

    def recorded(self, base, state, rollout, seed=0):
        experience = evaluate(self, base, state, rollout, seed)
        shapes.append((trainer.learners.index(self), experience.batches[0]["tokens"].shape))
        return experience

    monkeypatch.setattr(Learner, "evaluate", recorded)
    team, rounds, texts = trainer.start(), [], []
    for _ in range(2):
        before, own = programs(), []
        team = replace(team, drawn=0)
        for iteration in range(8):
            team, _, turns = trainer.iterate(team, iteration)
            own.append([turn.rollout.texts for turn in turns])
        trainer.evaluate(team)
        rounds.append(programs() - before)
        texts.append(own)
    assert team.pioneer == 0 and texts[0] == texts[1]
    assert rounds[0] > 0 and rounds[1] == 0, rounds
    assert all(len({shape for role, shape in shapes if role == own}) > 1 for own in (0, 1)), set(shapes)


@pytest.mark.slow
def test_a_second_agent_adds_its_adapter_and_optimizer_only(model):
    """Live bytes after an iteration: both agents and the reference share the base."""
    live = lambda: sum(array.nbytes for array in jax.live_arrays())

    def grown(*arguments):
        before, trainer = live(), make(model, *arguments)
        team, _, turns = trainer.iterate(trainer.start(), 0)
        del turns
        gc.collect()
        return live() - before, sum(leaf.nbytes for leaf in jax.tree.leaves(team.agents[0]))

    (one, agent), (two, _) = grown("--agents=1"), grown()
    base = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert two - one < 1.05 * agent
    assert agent < 0.5 * base
