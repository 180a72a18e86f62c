"""Sampling, evaluation and update of an agent on the packaged model."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.config import SamplingConfig
from jaxllm.devices import make_mesh
from jaxllm.finetune.trainable import as_adapter
from jaxllm.generate import Generator
from jaxllm.model import load
from jaxllm.models import LoraConfig
from jaxllm.ops import init_moments
from jaxllm.rl import ALGORITHMS, Experience, Learner, RlConfig, Rollout, init_agent, penalized
from jaxllm.rl.agent import drawn_seed, make_advantages
from jaxllm.rl.config import KlConfig, PolicyConfig, RlTrainConfig, ScoreConfig
from jaxllm.rl.rollouts import rollout_shape
from jaxllm.train import TrainState

LIMIT, BATCH = 6, 8
TEXTS = ["Review: The soup in", "Review: We tried", "Review: What a", "Review: I bought a lamp from Velmar", "Review:",
         "Question: Who", "Review: The boat in Loma is", "Review: The"]


def settings(algorithm="ppo", **changes):
    base = dict(algorithm=algorithm, iterations=5, sampling=SamplingConfig(max_tokens=LIMIT, temperature=0.7),
                train=RlTrainConfig(batch_size=BATCH, lr=1e-3, passes=2), lora=LoraConfig(rank=4))
    return RlConfig(**base | changes)


class Setup:
    """An agent of a config with its rollout, after some steps that moved it away from the reference."""

    def __init__(self, config, quantize=None, mesh=None):
        model = load("tiny", quantization=quantize)
        self.config, self.base = config, Generator(model)
        self.mesh = make_mesh(1) if mesh is None else mesh
        self.prompts = [np.array(model.prompt_ids(text), np.int32) for text in TEXTS for _ in range(config.group_size)]
        shape = rollout_shape([len(prompt) for prompt in self.prompts], LIMIT, config.minibatch_size,
                              config.train.accumulate, packed=config.train.packing)
        self.learner = Learner.make(model.spec, config, shape, self.mesh)
        self.state = init_agent(self.base, config, self.learner.optimizer, self.mesh, 0)
        self.groups = np.repeat(np.arange(len(TEXTS), dtype=np.int32), config.group_size)

    def iterate(self, seed=0, scores=None):
        rollout = self.learner.sample(self.base, self.state, self.prompts, LIMIT, seed)
        experience = self.learner.evaluate(self.base, self.state, rollout, seed)
        scores = np.random.default_rng(seed).normal(size=len(self.prompts)).astype(np.float32) if scores is None else (
            scores(rollout))
        self.state, numbers = self.learner.update(self.base, self.state, experience, scores, self.groups, seed)
        return experience, numbers


@pytest.fixture(scope="module")
def moved():
    """An agent after two updates of its adapter."""
    setup = Setup(settings())
    for seed in range(2):
        setup.iterate(seed)
    return setup


def test_recorded_logprobs_are_those_of_the_sampler_and_of_scoring(moved):
    """All three at temperature 0.7: generation, the evaluation of packed rows, and plain scoring."""
    rollout = moved.learner.sample(moved.base, moved.state, moved.prompts, LIMIT, 5)
    experience = moved.learner.evaluate(moved.base, moved.state, rollout)
    mask = rollout.mask
    assert_allclose(experience.known["logprobs"][mask], rollout.sampler_logprobs[mask], atol=1e-5)
    pairs = [(prompt, ids[:size]) for prompt, ids, size in zip(
        rollout.prompts, rollout.ids, rollout.lengths, strict=True)]
    scored = moved.base.score(pairs, adapter=as_adapter(moved.state.params, moved.config.lora), temperature=0.7)
    plain = moved.base.score(pairs, temperature=0.7)
    for row, (own, reference) in enumerate(zip(scored, plain, strict=True)):
        assert_allclose(experience.known["logprobs"][row][mask[row]], own.logprobs, atol=1e-5)
        assert_allclose(experience.known["reference_logprobs"][row][mask[row]], reference.logprobs, atol=1e-5)
    assert experience.kl.min() > 0


@pytest.mark.parametrize(("name", "changes", "quantize"), [
    ("adapter", {}, None),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("all weights", {"lora": None}, None), ("int4", {}, "int4"), ("nf4", {}, "nf4"),
        ("minibatches", {"train": RlTrainConfig(batch_size=BATCH, minibatch_size=4, lr=1e-3)}, None),
        ("separate critic", {"policy": PolicyConfig(value="separate")}, None)))])
def test_the_first_update_starts_at_a_ratio_of_one(name, changes, quantize):
    setup = Setup(settings(**changes), quantize)
    for seed in range(2):
        experience, numbers = setup.iterate(seed)
        assert numbers["first_ratio_error"] <= 1e-5, name
        if seed == 0:
            assert np.abs(experience.kl).max() <= 1e-5, "the agent is still the reference"
            if "values" in experience.known:
                assert not experience.known["values"].any(), "values start at 0"
        else:
            assert experience.kl.mean() > 1e-5


@pytest.mark.slow
def test_without_a_change_no_ratio_is_clipped():
    """Both programs compute the same function on rows of one shape: what is left is the rounding of their fusions."""
    setup = Setup(settings(train=RlTrainConfig(batch_size=BATCH, lr=0.0, passes=3)))
    _, numbers = setup.iterate()
    assert numbers["first_ratio_error"] <= 2e-6 and numbers["clip_fraction"] == 0.0


def parameters(config, **options):
    """The trained weights and the metrics after two iterations of fixed responses."""
    setup = Setup(config, **options)
    for seed in range(2):
        _, numbers = setup.iterate(seed)
    return jax.device_get(setup.state.params), numbers


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "train"), [
    ("ppo", {"packing": False, "accumulate": 2}), ("ppo", {"remat": "full"}), ("grpo", {"accumulate": 4})])
def test_how_an_update_is_computed_does_not_change_it(algorithm, train):
    policy = PolicyConfig(group_size=4 if algorithm == "grpo" else None, aggregate="token")
    # With the usual eps Adam's first steps have the size of the rate wherever a gradient is rounding.
    config = settings(algorithm, policy=policy, kl=KlConfig(coef=0.1), train=RlTrainConfig(
        batch_size=BATCH, lr=1e-3, passes=2, eps=1e-4))
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    (one, numbers), (two, others) = parameters(config), parameters(other)
    chex.assert_trees_all_close(one, two, atol=1e-5)
    for name in ("loss", "approx_kl", "clip_fraction", "grad_norm"):
        assert numbers[name] == pytest.approx(others[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "rloo", "grpo"])
def test_an_algorithm_raises_its_reward(algorithm):
    """One of each family: a critic, no baseline, the others of a group as baseline, a group's mean and deviation.

    The reward is the share of tokens with an even id less a half, so about zero at first: REINFORCE has no baseline.
    The policies before and after are compared on 384 tokens each, so that a share has a deviation of 0.026.
    """
    config = settings(algorithm, train=RlTrainConfig(batch_size=BATCH, lr=3e-3), policy=PolicyConfig(
        group_size=4 if ALGORITHMS[algorithm].has_groups else None), kl=KlConfig(coef=0.0))
    setup = Setup(config)
    share = lambda rollout: ((rollout.ids % 2 == 0) & rollout.mask).sum(1) / np.float32(rollout.lengths) - 0.5
    measured = lambda: np.mean([share(setup.learner.sample(
        setup.base, setup.state, setup.prompts, LIMIT, 100 + seed)).mean() for seed in range(8)])
    before = measured()
    for seed in range(16):
        setup.iterate(seed, share)
    after = measured()
    assert after > before + 0.1, (before, after)


@pytest.mark.slow
def test_the_penalty_in_the_loss_pulls_towards_the_reference(moved):
    """Without advantages a step of a penalty in the loss lowers the divergence."""
    config = settings("grpo", policy=PolicyConfig(group_size=8), kl=KlConfig(coef=1.0, kind="k2"),
                      train=RlTrainConfig(batch_size=BATCH, lr=2e-3))
    setup = Setup(config)
    extra = setup.state.extra
    setup.state = dataclasses.replace(setup.state, extra=extra | {"kl_coef": 0.0 * extra["kl_coef"]})
    for seed in range(4):
        setup.iterate(seed, lambda rollout: (rollout.ids % 2 == 0).sum(1).astype(np.float32))
    fresh = init_agent(setup.base, config, setup.learner.optimizer, setup.mesh, 0)
    setup.state = dataclasses.replace(fresh, params=setup.state.params)
    divergences = []
    for seed in range(6):
        experience, numbers = setup.iterate(seed, lambda rollout: np.full(len(rollout.prompts), 0.7, np.float32))
        assert numbers["advantage_std"] == 0.0
        divergences.append(experience.kl.mean())
    assert divergences[-1] < 0.7 * divergences[0]


def test_a_large_ratio_skips_the_update():
    """As if the policy had moved by a factor of e^3 since the responses were evaluated, and of e^4 for one of them.

    The largest error is that of all microbatches.
    """
    setup = Setup(settings(train=RlTrainConfig(batch_size=BATCH, lr=1e-2, passes=2, accumulate=2, packing=False)))
    rollout = setup.learner.sample(setup.base, setup.state, setup.prompts, LIMIT, 0)
    experience = setup.learner.evaluate(setup.base, setup.state, rollout)
    moved_by = np.where(np.arange(BATCH) == 0, 4.0, 3.0)
    experience.known["logprobs"] -= moved_by[:, None]
    before = jax.device_get((setup.state.params, setup.state.opt_state))
    scores = np.arange(BATCH, dtype=np.float32)
    state, numbers = setup.learner.update(setup.base, setup.state, experience, scores, setup.groups)
    assert numbers["ratio"] == pytest.approx(np.average(np.exp(moved_by), weights=rollout.lengths), rel=1e-3)
    assert numbers["first_ratio_error"] == pytest.approx(np.exp(4) - 1, rel=1e-3)
    assert numbers["skipped"] == numbers["updates"] == 2
    chex.assert_trees_all_equal(before, jax.device_get((state.params, state.opt_state)))


@pytest.mark.slow
def test_passes_end_at_the_target_divergence():
    train = RlTrainConfig(batch_size=BATCH, lr=1e-2, passes=6)
    free = Setup(settings(train=train)).iterate()[1]["updates"]
    bound = Setup(settings(train=train, policy=PolicyConfig(target_kl=1e-4))).iterate()[1]["updates"]
    assert free == 6 and bound < 6


@pytest.mark.slow
def test_responses_without_an_end():
    """As if three of the eight responses, all of which reach the limit, had ended by themselves."""
    rows = {}
    for choice in ("keep", "penalty", "replace", "mask"):
        setup = Setup(settings(scores=ScoreConfig(missing_end=choice, missing_end_penalty=0.5)))
        rollout = dataclasses.replace(setup.learner.sample(setup.base, setup.state, setup.prompts, LIMIT, 0),
                                      truncated=np.arange(BATCH) > 2)
        experience = setup.learner.evaluate(setup.base, setup.state, rollout)
        scores = penalized(setup.config, np.ones(BATCH, np.float32), rollout)
        _, numbers = setup.learner.update(setup.base, setup.state, experience, scores, setup.groups)
        rows[choice], truncated = numbers, rollout.truncated.mean()
    assert rows["keep"]["shaped_score"] == 1.0
    assert rows["penalty"]["shaped_score"] == pytest.approx(1 - 0.5 * truncated)
    assert rows["replace"]["shaped_score"] == pytest.approx(1 - 1.5 * truncated)
    lengths = rollout.lengths
    assert rows["mask"]["weight"] == lengths[~rollout.truncated].sum() > 0
    assert rows["keep"]["weight"] == lengths.sum()


@pytest.mark.slow
def test_without_a_token_left_the_numbers_are_none():
    setup = Setup(settings(scores=ScoreConfig(missing_end="mask")))
    rollout = setup.learner.sample(setup.base, setup.state, setup.prompts, 2, 0)
    experience = setup.learner.evaluate(setup.base, setup.state, dataclasses.replace(
        rollout, truncated=np.ones(BATCH, bool)))
    _, numbers = setup.learner.update(setup.base, setup.state, experience, np.arange(BATCH), setup.groups)
    for name in ("loss", "grad_norm", "approx_kl", "first_ratio_error"):
        assert numbers[name] is None
    assert numbers["skipped"] == numbers["updates"] == 2


@pytest.mark.slow
def test_an_entropy_bonus_raises_the_entropy():
    entropies = []
    for coef in (0.0, 1.0):
        setup = Setup(settings(policy=PolicyConfig(entropy_coef=coef), kl=KlConfig(coef=0.0)))
        for seed in range(4):
            experience, _ = setup.iterate(seed, lambda rollout: np.zeros(len(rollout.prompts), np.float32))
        entropies.append(experience.known["entropy"][experience.rollout.mask].mean())
    assert entropies[1] > entropies[0] + 0.1


def advantages_of(config, scores, groups, **known):
    """Computes `make_advantages` of arrays made for it, without a model; all tokens are in the mask."""
    mask = np.ones(np.shape(known["logprobs"]), bool)
    extra = {"kl_coef": jnp.float32(config.kl_coef), "moments": init_moments()}
    return make_advantages(config)(extra, {name: jnp.float32(values) for name, values in known.items()}, mask,
                                   np.zeros(len(scores), bool), np.float32(scores), np.int32(groups))


@pytest.mark.parametrize("group", [0, 100])
@pytest.mark.parametrize(("algorithm", "coef", "expected"), [
    ("rloo", 0.1, [.6, -.6, 0]), ("rloo", 0.0, [.75, -.75, 0]), ("dr_grpo", 0.1, [.4, -.4, 0]),
    ("grpo", 0.1, [1, -1, 0])])
def test_a_penalty_in_the_reward_is_part_of_the_baseline(algorithm, coef, expected, group):
    """Divergences of 2, 0 and 1 nats by k1, of a group of any number."""
    config = settings(algorithm, kl=KlConfig(place="reward", coef=coef), policy=PolicyConfig(group_size=3))
    reference = -1 - np.array([[1.5, .5], [.5, -.5], [1, 0]])
    _, targets, measures = advantages_of(config, [1, 0, .5], [group] * 3, logprobs=np.full((3, 2), -1.0),
                                         reference_logprobs=reference)
    assert_allclose(targets["advantages"], np.repeat(np.array(expected)[:, None], 2, 1), atol=1e-6)
    assert float(measures["kl_estimate"]) == pytest.approx(1)
    assert float(measures["kl_penalty"]) == pytest.approx(coef)


def test_a_response_that_is_left_out_of_the_loss_counts_in_whitening_and_moments():
    targets, moments = {}, {}
    for choice in ("keep", "mask"):
        config = settings(scores=ScoreConfig(missing_end=choice), kl=KlConfig(coef=0.0))
        same = np.zeros((3, 2), np.float32)
        extra, targets[choice], _ = make_advantages(config)(
            {"kl_coef": jnp.float32(0), "moments": init_moments()}, dict(logprobs=same, reference_logprobs=same,
                                                                         values=same),
            np.ones((3, 2), bool), np.array([True, False, False]), np.float32([4, 1, -1]), np.arange(3, dtype=np.int32))
        moments[choice] = extra["moments"]
    assert targets["keep"]["mask"].any(1).tolist() == [True] * 3
    assert targets["mask"]["mask"].any(1).tolist() == [False, True, True]
    assert_allclose(targets["mask"]["advantages"].mean(), 0, atol=1e-6)
    chex.assert_trees_all_equal(*({name: own[name] for name in ("advantages", "returns")} for own in targets.values()))
    chex.assert_trees_all_equal(*moments.values())


def responses(lengths, truncated=()):
    """A rollout of responses of these lengths, of which some were cut."""
    mask = np.arange(LIMIT) < np.array(lengths)[:, None]
    zeros = np.zeros(mask.shape)
    return Rollout([np.array([1])] * len(lengths), np.int32(zeros), mask, np.float32(zeros),
                   np.isin(np.arange(len(lengths)), truncated), [""] * len(lengths))


@pytest.mark.parametrize(("choice", "overlong", "expected"), [
    ("keep", 0, [1, 1, 1]), ("keep", 4, [1, .5, 0]), ("penalty", 0, [1, 1, .5]), ("penalty", 4, [1, .5, -.5]),
    ("replace", 0, [1, 1, -.5]), ("replace", 4, [1, .5, -.5]), ("mask", 4, [1, .5, 0])])
def test_penalties_of_long_responses_and_missing_ends(choice, overlong, expected):
    """Two, four and six of six tokens, the last one without an end: a score that is replaced has one penalty."""
    config = settings(scores=ScoreConfig(missing_end=choice, missing_end_penalty=0.5, overlong_tokens=overlong))
    assert_allclose(penalized(config, np.ones(3, np.float32), responses([2, 4, 6], [2])), expected)


@pytest.mark.parametrize(("adaptive", "expected"), [(True, 0.4 * (1 + 0.125 * 2 / 100)), (False, 0.4)])
def test_the_coefficient_adapts_to_the_sums_over_all_responses(adaptive, expected):
    """Divergences of 12 and 6 nats, 9 on the average: an eighth above the target. A token's average is 6."""
    config = settings(kl=KlConfig(coef=0.4, adaptive=adaptive, target=8.0, horizon=100),
                      train=RlTrainConfig(batch_size=2, minibatch_size=1))
    kl = np.full((2, LIMIT), np.nan)
    kl[0, :2], kl[1, 0] = (4, 8), 6
    state = TrainState(0, {}, (), jax.random.key(0), {"kl_coef": jnp.float32(0.4)})
    learner = Learner(None, config, *[None] * 5)
    assert learner.adapt(state, Experience(responses([2, 1]), [], [], {"kl": kl})).extra["kl_coef"] == pytest.approx(
        expected, rel=1e-6)


@pytest.mark.parametrize(("scores", "expected"), [([1, 0], (.5, .5, .75)), ([1, 1], (1, 0, 0))])
def test_measures_of_the_value_function(scores, expected):
    """With lambda 1 the return of a token is the score; values explain three quarters of the variance of returns."""
    config = settings(kl=KlConfig(coef=0.0), policy=PolicyConfig(lam=1.0))
    same = np.zeros((2, 2))
    _, _, measures = advantages_of(config, scores, [0, 1], logprobs=same, reference_logprobs=same,
                                   values=[[.5, .5], [0, 0]])
    names = ("return_mean", "return_std", "explained_variance")
    assert_allclose([measures[name] for name in names], expected, atol=1e-6)


def test_groups_keep_their_members_by_any_number():
    """-1 leaves a response out, of the groups of others too."""
    config = settings("rloo", kl=KlConfig(coef=0.0))
    same = np.zeros((5, 1))
    _, targets, _ = advantages_of(config, [1, 0, 7, 2, 4], [10**6, 10**6, -1, 8, 8], logprobs=same,
                                  reference_logprobs=same)
    assert targets["advantages"][:, 0].tolist() == [1, -1, 0, -2, 2]
    assert targets["mask"][:, 0].tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize(("algorithm", "expected"), [
    ("grpo", np.exp([.2, -.5])), ("rloo", np.exp([-.3, -.3])), ("gspo", np.exp([-.15, -.15]))])
def test_importance_weights_have_the_form_of_the_ratio(algorithm, expected):
    config = settings(algorithm, policy=PolicyConfig(importance_cap=10.0))
    own = [[-1.0, -2.0]] * 2
    _, targets, _ = advantages_of(config, [1, 0], [0, 0], logprobs=own, reference_logprobs=own,
                                  sampler_logprobs=[[-1.2, -1.5]] * 2)
    assert_allclose(targets["importance"], [expected] * 2, rtol=1e-5)


def test_importance_and_whitening_change_the_targets(moved):
    rollout = moved.learner.sample(moved.base, moved.state, moved.prompts, LIMIT, 5)
    known = moved.learner.evaluate(moved.base, moved.state, rollout).known
    other = known | {"sampler_logprobs": known["logprobs"] - 0.5}
    scores = np.arange(BATCH, dtype=np.float32)
    targets = lambda **changes: make_advantages(settings(**changes))(
        moved.state.extra, other, rollout.mask, rollout.truncated, scores, moved.groups)[1]
    weights = targets(policy=PolicyConfig(importance_cap=1.5))["importance"]
    assert_allclose(weights[rollout.mask], 1.5)
    weights = targets(policy=PolicyConfig(importance_cap=2.0))["importance"]
    assert_allclose(weights[rollout.mask], np.exp(0.5), rtol=1e-4)
    plain, whitened = targets(), targets(scores=ScoreConfig(whiten=True))
    assert np.abs(whitened["returns"]).max() < np.abs(plain["returns"]).max()
    assert "importance" not in plain


@pytest.mark.slow
def test_one_program_for_each_number_of_rows(programs):
    """Limits that change from iteration to iteration compile a shape once, and nothing after that."""
    setup = Setup(settings(train=RlTrainConfig(batch_size=BATCH, lr=1e-3, passes=1)))
    shapes, compiled = set(), []
    for iteration in range(50):
        limit = int(np.random.default_rng(iteration).integers(2, LIMIT + 1))
        before = programs()
        rollout = setup.learner.sample(setup.base, setup.state, setup.prompts, limit, iteration)
        experience = setup.learner.evaluate(setup.base, setup.state, rollout, iteration)
        setup.state, _ = setup.learner.update(setup.base, setup.state, experience,
                                              np.ones(len(setup.prompts), np.float32), setup.groups, iteration)
        shape = experience.batches[0]["tokens"].shape
        compiled.append((programs() - before, shape in shapes))
        shapes.add(shape)
    late = [count for iteration, (count, seen) in enumerate(compiled) if iteration > 1 and seen]
    assert not any(late), compiled


def test_purposes_have_different_seeds():
    seeds = {drawn_seed(0, *purpose) for purpose in ((0,), (1,), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0))}
    assert len(seeds) == 6 and drawn_seed(0, 3) == drawn_seed(0, 3) != drawn_seed(1, 3)
