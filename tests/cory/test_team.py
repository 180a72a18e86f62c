"""Two agents: roles, collective rewards, the observer's prompts, exchange, and dynamic sampling."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxllm.cory import Config, CoryConfig, Team, Trainer, collective_rewards, exchange
from jaxllm.cory.config import QueryConfig
from jaxllm.cory.prompts import encode_query, observer_prompt
from jaxllm.devices import make_mesh
from jaxllm.errors import UserError
from jaxllm.generate import Generator
from jaxllm.model import load
from jaxllm.parsing import parse
from jaxllm.rl.rewards import Reward
from jaxllm.text.templates import fill

THINGS = ("soup", "lamp", "boat", "bed", "song", "coat", "room", "bread")
ROWS = [{"prompt": f"Review: The {thing} in"} for thing in THINGS]


@pytest.fixture(scope="module")
def model():
    return load("tiny")


def even(prompts, responses, rows):
    """Rewards short words, for a number that differs from response to response."""
    return [float(len(text.split())) for text in responses]


def make(model, *arguments, reward=even, rows=ROWS):
    config = parse(Config, ["--data.path=x", "--out=y", "--reward=words", "--rewards.words={a: 1}", "--agents=2",
                            "--sampling.max_tokens=6", "--train.batch_size=4", "--train.passes=1", "--train.lr=1e-3",
                            "--lora.rank=4", "--held_back.rows=2", *arguments])
    return Trainer.make(config, Generator(model), rows, rows[:2], Reward([(reward, 1.0)]), make_mesh(1))


def test_both_agents_get_the_sum():
    pioneer, observer = np.float32([1.2, -.4]), np.float32([.5, 2.0])
    for mode, expected in (("sum", [1.7, 1.6]), ("mean", [.85, .8])):
        one, two = collective_rewards(pioneer, observer, mode)
        np.testing.assert_allclose(one, expected, rtol=1e-6)
        np.testing.assert_array_equal(one, two)
    own = collective_rewards(pioneer, observer, "own")
    assert own[0] is pioneer and own[1] is observer


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
    assert Team(("a", "b"), pioneer=1).role(0) == "observer"


def test_the_observer_reads_query_and_response(model):
    query = encode_query(model, QueryConfig(), {"prompt": "A {response} {query}"}, 100)
    config = CoryConfig(observer_template="{query} then {response}\n{query}")
    ids = observer_prompt(model, config, query, "{query}!", 100)
    assert model.tokenizer.decode(ids) == "A {response} {query} then {query}!\nA {response} {query}"
    bare = observer_prompt(model, CoryConfig(transfer=False), query, "anything", 100)
    np.testing.assert_array_equal(bare, query.ids)


def test_a_long_response_is_cut_to_fit(model):
    query = encode_query(model, QueryConfig(), {"prompt": "Review: The soup"}, 100)
    config = CoryConfig(observer_template="{query}{response}\n{query}")
    response = " was good and the lamp was good and the bed was good" * 3
    whole = observer_prompt(model, config, query, response, 500)
    cut = observer_prompt(model, config, query, response, 30)
    assert len(whole) > len(cut) and len(cut) <= 30
    text = model.tokenizer.decode(cut)
    assert text.startswith("Review: The soup was good") and text.endswith("\nReview: The soup")
    with pytest.raises(UserError, match="observer's prompt"):
        observer_prompt(model, config, query, response, 5)


def test_messages_keep_their_earlier_turns(model):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    query = encode_query(model, QueryConfig(), {"messages": turns}, 100)
    ids = observer_prompt(model, CoryConfig(observer_template="{query} / {response}"), query, "Hi", 100)
    expected = model.tokenizer.chat_prompt([turns[0], {"role": "user", "content": "Hello / Hi"}])
    np.testing.assert_array_equal(ids, expected)


def test_queries_are_cut_to_a_drawn_number_of_tokens(model):
    config, row = QueryConfig(tokens=[2, 5]), {"text": "Review: The soup in Velmar was superb and more"}
    whole = model.prompt_ids(row["text"])
    draws = np.random.default_rng(0)
    lengths = set()
    for _ in range(40):
        query = encode_query(model, config, row, 100, draws)
        np.testing.assert_array_equal(query.ids, whole[:len(query.ids)])
        assert query.text == model.tokenizer.decode(query.ids)
        lengths.add(len(query.ids) - (len(whole) - len(model.tokenizer.encode(row["text"]))))
    assert lengths == {2, 3, 4, 5}
    assert len(encode_query(model, config, {"text": "Re"}, 100).ids) < 4
    filled = encode_query(model, QueryConfig(template="Q: {question} A:"), {"question": "2 {x}?"}, 100)
    assert filled.text == "Q: 2 {x}? A:"


def test_templates():
    assert fill("{a} {b} {a}", {"a": "{b}", "b": 1}) == "{b} 1 {b}"
    with pytest.raises(UserError, match="'c'"):
        fill("{c}", {"a": 1})


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


def test_one_agent_learns_alone(model):
    """The other agent's update cannot touch this one's: it is not among the arguments of its program."""
    trainer, alone = make(model), make(model, "--agents=1")
    both, single = trainer.start(), alone.start()
    both, *_ = trainer.iterate(both, 0)
    single, metrics, turns = alone.iterate(single, 0)
    assert list(metrics["agents"]) == ["llm1"] and len(turns) == 1 and not metrics["exchanged"]
    assert len(single.agents) == 1


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
def test_what_an_exchange_resets(model, resets, optimizer, coefficient):
    trainer = make(model, "--exchange_every=1", f"--cory.exchange_resets={resets}", "--kl.adaptive=true",
                   "--kl.coef=0.4")
    team, *_ = trainer.iterate(trainer.start(), 0)
    for state in team.agents:
        assert any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state)) == optimizer
        assert (float(state.extra["kl_coef"]) != np.float32(0.4)) == coefficient
        assert (float(state.extra["moments"]["count"]) > 0) == coefficient
    trainer.iterate(team, 1)  # states fit the compiled programs


def test_groups_pair_every_pioneer_with_an_observer(model):
    trainer = make(model, "--algorithm=rloo", "--policy.group_size=3", "--train.batch_size=2")
    _, metrics, turns = trainer.iterate(trainer.start(), 0)
    assert [len(turn.scores) for turn in turns] == [6, 6]
    assert len({query.text for query in turns[0].queries}) == 2
    assert metrics["agents"]["llm1"]["shaped_score"] == pytest.approx(
        metrics["agents"]["llm1"]["task_reward"] + metrics["agents"]["llm2"]["task_reward"], rel=1e-5)


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


def test_dynamic_sampling_ends_where_all_rewards_are_equal(model):
    trainer = make(model, "--agents=1", "--algorithm=dapo", "--policy.group_size=2", "--train.batch_size=2",
                   "--policy.resample=2", reward=lambda prompts, responses, rows: [1.0] * len(responses))
    with pytest.raises(UserError, match=r"policy\.resample"):
        trainer.iterate(trainer.start(), 0)


def test_a_constant_reward_is_noted(model, capsys):
    trainer = make(model, "--agents=1", reward=lambda prompts, responses, rows: [0.25] * len(responses))
    team, metrics, _ = trainer.iterate(trainer.start(), 0)
    assert "have the reward 0.25" in capsys.readouterr().err
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(team.agents[0].params))


def test_agents_are_evaluated_alone_on_bare_queries(model):
    trainer = make(model)
    found = trainer.evaluate(trainer.start())
    assert found["llm1"] == found["llm2"], "equal agents get equal numbers"
    assert found["llm1"]["task_reward"]["n"] == 2 and found["llm1"]["kl"]["mean"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--agents=3"], "agents"), (["--cory.observer_template=no field"], "{query}"),
    (["--cory.observer_template={query} {other}"], "{other}"), (["--algorithm=a2c"], "no algorithm"),
    (["--algorithm=grpo", "--policy.group_size=1"], "policy.group_size"), (["--policy.group_size=2"], "group_size"),
    (["--sampling.temperature=0"], "temperature"), (["--lora.dropout=0.1"], "lora.dropout"),
    (["--train.minibatch_size=3"], "minibatch_size"), (["--kl.place=loss", "--kl.kind=k1"], "kl.kind"),
    (["--exchange_every=0"], "exchange_every"), (["--response_tokens=[5, 2]"], "response_tokens"),
    (["--scores.center=true"], "scores.scale"), (["--device.quantize=int4", "--lora=null"], "quantize"),
    (["--query.tokens=[3]"], "query.tokens"), (["--query.template=fixed"], "query.template")])
def test_settings_that_do_not_fit(arguments, message):
    with pytest.raises(UserError) as caught:
        parse(Config, ["--data.path=x", "--out=y", *arguments])
    assert message in str(caught.value)


def test_a_prompt_longer_than_the_window_names_its_row(model):
    long = {"prompt": "soup " * 600, "id": "x9"}
    with pytest.raises(UserError, match="id x9"):
        make(model, rows=[*ROWS, long])
    with pytest.raises(UserError, match="no prompt"):
        make(model, rows=[])


def test_memory_of_a_second_agent(model):
    """Both agents and the reference share the base: a second agent adds its adapter and optimizer only."""
    trainer = make(model)
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    one, two = (size((trainer.base.params, team.agents)) for team in (
        dataclasses.replace(trainer.start(), agents=trainer.start().agents[:1]), trainer.start()))
    assert two - one == size(trainer.start().agents[0])
