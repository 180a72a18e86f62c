"""Rewards, whitening, GAE and group baselines against values worked out by hand or in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.ops import combined_reward, gae, group_advantages, token_rewards, whiten

ROWS = dict(mask=[[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]],
            rewards=[[0, 0, -.1, .2, -.3, 1, 0], [0, .05, -.05, .5, 0, 0, 0]],
            values=[[9, 9, .1, .2, .3, .4, 7], [9, 0, .5, -.5, 7, 7, 7]])
ADVANTAGES = [[0, 0, .618925, .6515, .37, .6, 0], [0, .455, -.1, 1.0, 0, 0, 0]]
RETURNS = [[0, 0, .718925, .8515, .67, 1.0, 0], [0, .455, .4, .5, 0, 0, 0]]


def arrays(**columns):
    return {name: jnp.array(values, jnp.float32) for name, values in columns.items()}


def test_gae_and_whitening():
    rows = arrays(**ROWS)
    advantages, returns = gae(rows["rewards"], rows["values"], rows["mask"])
    np.testing.assert_allclose(advantages, ADVANTAGES, atol=1e-6)
    np.testing.assert_allclose(returns, RETURNS, atol=1e-6)
    np.testing.assert_allclose(whiten(advantages, rows["mask"]), [
        [0, 0, .31398787, .41112793, -.42831728, .2575527, 0],
        [0, -.17484359, -1.82987767, 1.45037005, 0, 0, 0]], atol=1e-5)


def test_gae_skips_holes():
    rows = arrays(mask=[[1, 0, 1, 1]], rewards=[[0, 0, 0, 1]], values=[[.5, .9, .4, .2]])
    advantages, returns = gae(**rows)
    np.testing.assert_allclose(advantages, [[.432, 0, .56, .8]], atol=1e-6)
    np.testing.assert_allclose(returns, [[.932, 0, .96, 1.0]], atol=1e-6)


def test_gae_discounts():
    """Without values and with lambda 1 an advantage is the discounted sum of the rewards from its token on."""
    rewards, mask = jnp.array([[1.0, 2.0, 4.0]]), jnp.ones((1, 3))
    advantages, _ = gae(rewards, jnp.zeros((1, 3)), mask, gamma=0.5, lam=1.0)
    np.testing.assert_allclose(advantages, [[3.0, 4.0, 4.0]], atol=1e-6)


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_values_outside_the_mask_have_no_effect(garbage):
    rows = arrays(**ROWS)
    dirty = {name: jnp.where(rows["mask"] > 0, rows[name], garbage) for name in ("rewards", "values")}
    for clean, other in zip(gae(**rows), gae(**dirty, mask=rows["mask"]), strict=True):
        chex.assert_trees_all_equal(clean, other)
    chex.assert_trees_all_equal(whiten(rows["rewards"], rows["mask"]), whiten(dirty["rewards"], rows["mask"]))
    kl = jnp.where(rows["mask"] > 0, 0.1, garbage)
    scores = jnp.array([1.0, 2.0])
    assert np.isfinite(token_rewards(scores, kl, rows["mask"], 0.3)).all()
    assert np.isfinite(combined_reward(scores, kl, rows["mask"], 0.3)).all()


def test_whitening_of_rewards_keeps_their_mean():
    values = jnp.linspace(1.2, 2.0, 9).reshape(3, 3)
    np.testing.assert_allclose(whiten(values, jnp.ones((3, 3)), shift_mean=False)[0], [.1394, .5046, .8697], atol=5e-5)


@pytest.mark.parametrize("value", [0.7, 0.1, 0.3, 3.0])
def test_equal_values_whiten_to_zero(value):
    """Their mean is rounded, and what is left must not be divided by a deviation that is rounding too."""
    whitened = whiten(jnp.full((7, 3), value), jnp.ones((7, 3)))
    assert not np.any(whitened)
    np.testing.assert_allclose(whiten(jnp.full((7, 3), value), jnp.ones((7, 3)), shift_mean=False), value, rtol=1e-6)


def test_a_single_token_whitens_to_a_finite_value():
    mask = jnp.array([[1.0, 0.0]])
    assert whiten(jnp.array([[5.0, 9.0]]), mask).tolist() == [[0.0, 0.0]]
    assert np.isfinite(whiten(jnp.zeros((1, 2)), jnp.zeros((1, 2)))).all()


def test_the_score_lands_on_the_last_token():
    kl = jnp.array([[.10, .20, .30], [.05, .10, 9.0]])
    mask = jnp.array([[1, 1, 1], [1, 1, 0]])
    rewards = token_rewards(jnp.array([1.7, 1.6]), kl, mask, 0.3)
    np.testing.assert_allclose(rewards, [[-.03, -.06, 1.61], [-.015, 1.57, 0]], atol=1e-6)
    np.testing.assert_allclose(combined_reward(jnp.array([1.2, -.4]), kl, mask, 0.3), [1.02, -.445], atol=1e-6)


def test_the_last_token_after_a_hole():
    rewards = token_rewards(jnp.array([1.0, 2.0]), jnp.zeros((2, 4)), jnp.array([[1, 0, 1, 0], [0, 0, 0, 0]]), 0.3)
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_scores_of_integers_are_refused():
    """Rewards in the dtype of token ids would turn 0.9 into 0."""
    with pytest.raises(AssertionError):
        token_rewards(jnp.array([1, 2]), jnp.zeros((2, 2)), jnp.ones((2, 2)), 0.1)


@pytest.mark.parametrize(("baseline", "expected"), [
    ("rloo", [2 / 3, -2 / 3, -2 / 3, 2 / 3, -1 / 3, -1 / 3, -1 / 3, 1]),
    ("dr_grpo", [.5, -.5, -.5, .5, -.25, -.25, -.25, .75]),
    ("grpo", [.8660254, -.8660254, -.8660254, .8660254, -.5, -.5, -.5, 1.5])])
def test_group_baselines(baseline, expected):
    scores, groups = jnp.array([1., 0, 0, 1, 0, 0, 0, 1]), jnp.array([0] * 4 + [1] * 4)
    np.testing.assert_allclose(group_advantages(scores, groups, 2, baseline=baseline), expected, atol=1e-6)


@pytest.mark.parametrize(("baseline", "expected"), [
    ("dr_grpo", [.5, -.5, 1 / 3, 1 / 3, -2 / 3]), ("rloo", [1, -1, .5, .5, -1]),
    ("grpo", [.70710678, -.70710678, .57735027, .57735027, -1.15470054])])
def test_groups_of_different_sizes_stay_apart(baseline, expected):
    """One prompt lost a sample; a stride of three would mix both prompts."""
    scores, groups = jnp.array([1., 0, 1, 1, 0]), jnp.array([0, 0, 1, 1, 1])
    np.testing.assert_allclose(group_advantages(scores, groups, 2, baseline=baseline), expected, atol=1e-6)


@pytest.mark.parametrize("baseline", ["rloo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("value", [0.1, 0.3, 0.35, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_scores_have_no_advantage(baseline, value, size):
    scores = jnp.full(size, value)
    assert not np.any(group_advantages(scores, jnp.zeros(size, jnp.int32), 1, baseline=baseline))


@pytest.mark.parametrize("scores", [[0.1 + 0.2, 0.3, 0.3], [1e-8, 0.0, -1e-8], [7.0, 7.000001, 7.0]])
def test_rounding_has_no_advantage(scores):
    """Rewards that are added up in another order, and a KL penalty before the first update."""
    groups = jnp.array([0, 0, 0, 1, 1, 1])
    got = group_advantages(jnp.array([*scores, 0.3, 0.3, 0.3001]), groups, 2)
    assert not np.any(got[:3]) and got[5] == pytest.approx(1.1547005, rel=1e-3)


def test_the_penalty_is_part_of_the_baseline():
    scores = jnp.array([1., 0, .5]) - 0.1 * jnp.array([2., 0, 1])
    one = jnp.zeros(3, jnp.int32)
    np.testing.assert_allclose(group_advantages(scores, one, 1, baseline="rloo"), [.6, -.6, 0], atol=1e-6)
    np.testing.assert_allclose(group_advantages(scores, one, 1, baseline="dr_grpo"), [.4, -.4, 0], atol=1e-6)
    np.testing.assert_allclose(group_advantages(scores, one, 1, baseline="grpo"), [1, -1, 0], atol=1e-6)


def test_padding_rows_belong_to_no_group():
    scores, groups = jnp.array([1., 0, float("nan")]), jnp.array([0, 0, -1])
    np.testing.assert_allclose(group_advantages(scores, groups, 1, baseline="rloo"), [1, -1, 0], atol=1e-6)


def test_memory_of_groups_grows_with_the_responses():
    """Not with the responses of all groups times the groups: 40 bytes each for 4,096 of them, in groups of 8."""
    count = 4096
    program = jax.jit(lambda *arrays: group_advantages(*arrays, count)).lower(
        jnp.zeros(count), jnp.arange(count) // 8).compile()
    assert program.memory_analysis().temp_size_in_bytes < 40 * count


def test_group_advantages_sum_to_zero():
    scores = jax.random.normal(jax.random.key(0), (60,))
    groups = jax.random.randint(jax.random.key(1), (60,), 0, 7)
    for baseline in ("rloo", "grpo", "dr_grpo"):
        advantages = group_advantages(scores, groups, 7, baseline=baseline)
        np.testing.assert_allclose(jax.ops.segment_sum(advantages, groups, 7), 0, atol=1e-5)
