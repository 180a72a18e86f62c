"""Policy and value losses against values worked out by hand; gradients of KL estimators."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.ops import PolicySettings, aggregate, importance_weights, policy_terms, token_kl, token_mean, value_terms

OLD, NEW = jnp.array([[-1., -2, -.5, -3]]), jnp.array([[-.7, -2.4, -.5, -2.9]])
ADVANTAGES, MASK = jnp.array([[1., -1, .5, -2]]), jnp.array([[1., 1, 1, 0]])
P, Q = jnp.array([.7, .2, .1]), jnp.array([.5, .3, .2])


def mean(pair):
    return float(pair[0] / pair[1])


def test_clipped_loss():
    losses, measures = policy_terms(PolicySettings(), NEW, OLD, ADVANTAGES, MASK)
    np.testing.assert_allclose(measures["ratio"][0, :3], [1.349859, .670320, 1.0], atol=1e-6)
    assert mean(token_mean(losses, MASK)) == pytest.approx(-0.3, abs=1e-6)
    assert mean(token_mean(measures["clipped"], MASK)) == pytest.approx(2 / 3)
    assert mean(token_mean(measures["approx_kl"], MASK)) == pytest.approx(.0416667, abs=1e-6)
    assert mean(token_mean(measures["policy_kl"], MASK)) == pytest.approx(.0333333, abs=1e-6)
    values, measures = value_terms(jnp.array([[.5, .1, .3, 9]]), jnp.array([[.1, .2, .3, 8]]),
                                   jnp.array([[1., 0, .3, 7]]), MASK)
    assert mean(token_mean(measures["clipped"], MASK)) == pytest.approx(1 / 3)
    assert mean(token_mean(values, MASK)) == pytest.approx(.0833333, abs=1e-6)
    assert mean(token_mean(losses + 0.1 * values, MASK)) == pytest.approx(-.2916667, abs=1e-6)


@pytest.mark.parametrize("garbage", [1e6, -1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("ratio", ["token", "sequence", "sequence_mean", "none"])
def test_values_outside_the_mask_change_neither_loss_nor_gradient(garbage, ratio):
    def loss(new, old, advantages, importance):
        losses, _ = policy_terms(PolicySettings(ratio=ratio), new, old, advantages, MASK, importance)
        return token_mean(losses, MASK)[0]

    importance = jnp.ones((1, 4))
    dirty = [jnp.where(MASK > 0, x, garbage) for x in (NEW, OLD, ADVANTAGES, importance)]
    clean = jax.value_and_grad(loss)(NEW, OLD, ADVANTAGES, importance)
    chex.assert_trees_all_equal(clean, jax.value_and_grad(loss)(*dirty))
    assert np.isfinite(clean[1]).all() and clean[1][0, 3] == 0

    value = lambda v, *rest: token_mean(value_terms(v, *rest, MASK)[0], MASK)[0]
    clean = jax.value_and_grad(value)(NEW, OLD, ADVANTAGES)
    chex.assert_trees_all_equal(clean, jax.value_and_grad(value)(*dirty[:3]))


def test_an_unclipped_loss():
    settings = PolicySettings(clip_low=None, clip_high=None)
    losses, measures = policy_terms(settings, NEW, OLD, ADVANTAGES, MASK)
    np.testing.assert_allclose(losses[0, :3], -ADVANTAGES[0, :3] * measures["ratio"][0, :3], rtol=1e-6)
    assert not measures["clipped"].any()


def test_the_upper_clip_is_its_own():
    settings = PolicySettings(clip_low=0.2, clip_high=0.28)
    losses, _ = policy_terms(settings, NEW, OLD, ADVANTAGES, MASK)
    np.testing.assert_allclose(losses[0, :2], [-1.28, .8], rtol=1e-6)


def test_gradient_is_zero_where_the_ratio_is_clipped():
    gradient = jax.grad(lambda new: policy_terms(PolicySettings(), new, OLD, ADVANTAGES, MASK)[0].sum())(NEW)
    np.testing.assert_allclose(gradient, [[0, 0, -.5, 0]], atol=1e-6)


@pytest.mark.parametrize(("advantage", "loss", "moves"), [(1.0, -1.0004, False), (-1.0, 1.0050125, True)])
def test_gspo_means_the_log_ratio_over_the_response(advantage, loss, moves):
    settings = PolicySettings(ratio="sequence_mean", clip_low=3e-4, clip_high=4e-4, aggregate="sequence")
    mask = jnp.array([[1., 1, 0]])

    def total(new):
        # The advantage is that of the response: pad advantages of 10 change nothing.
        losses, _ = policy_terms(settings, new, jnp.zeros((1, 3)), jnp.array([[advantage, advantage, 10.0]]), mask)
        return aggregate("sequence", losses, mask, 3)[0]

    value, gradient = jax.value_and_grad(total)(jnp.array([[.02, -.01, .05]]))
    assert float(value) == pytest.approx(loss, abs=1e-6)
    assert bool(np.any(gradient)) == moves


def test_rloo_multiplies_the_ratios_of_a_response():
    new = jnp.array([[.02, -.01, .05]])
    losses, measures = policy_terms(PolicySettings(ratio="sequence", clip_low=None, clip_high=None), new,
                                    jnp.zeros((1, 3)), jnp.ones(1), jnp.array([[1., 1, 0]]))
    np.testing.assert_allclose(losses, [[-np.exp(.01), -np.exp(.01), 0]], rtol=1e-6)


def test_reinforce_has_the_gradient_of_the_log_probability():
    settings = PolicySettings(ratio="none")
    gradient = jax.grad(lambda new: policy_terms(settings, new, OLD, ADVANTAGES, MASK)[0].sum())(NEW)
    np.testing.assert_allclose(gradient, -ADVANTAGES * MASK, atol=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("sequence", 2.5), ("token", 3.25), ("constant", 1.3)])
def test_means_of_responses_of_different_lengths(kind, expected):
    losses = jnp.array([[1., 1, 0, 0, 0, 0], [4., 4, 4, 4, 4, 4]])
    mask = jnp.array([[1., 1, 0, 0, 0, 0], [1., 1, 1, 1, 1, 1]])
    assert mean(aggregate(kind, losses, mask, 10)) == pytest.approx(expected)
    wide = lambda x: jnp.pad(x, ((0, 1), (0, 3)))
    assert mean(aggregate(kind, wide(losses), wide(mask), 10)) == pytest.approx(expected), "padding counts"
    parts = [aggregate(kind, losses[i:i + 1], mask[i:i + 1], 10) for i in range(2)]
    assert mean([sum(pair) for pair in zip(*parts, strict=True)]) == pytest.approx(expected), "microbatches count"


@pytest.mark.parametrize(("ratio", "cap", "expected"), [
    ("token", 2, [1.221403, .606531, 2]), ("none", 2, [1.221403, .606531, 2]),
    ("sequence", 10, [9.025013] * 3), ("sequence", 2, [2] * 3),
    ("sequence_mean", 10, [2.082009] * 3), ("sequence_mean", 2, [2] * 3)])
def test_importance_weights_are_trainer_over_sampler(ratio, cap, expected):
    """Of tokens, or of the response: the product over its tokens or their geometric mean, and then the cap."""
    trainer, sampler = jnp.array([[-1., -2, -.5, 0]]), jnp.array([[-1.2, -1.5, -3, jnp.nan]])
    weights = importance_weights(trainer, sampler, MASK, cap, ratio)
    np.testing.assert_allclose(weights, [[*expected, 1]], atol=1e-5)
    assert not np.any(jax.grad(lambda x: importance_weights(x, sampler, MASK, cap, ratio).sum())(trainer))
    losses, _ = policy_terms(PolicySettings(ratio=ratio, aggregate="sequence"), trainer, trainer, jnp.ones(1), MASK,
                             weights)
    if ratio.startswith("sequence"):
        assert mean(aggregate("sequence", losses, MASK, 3)) == pytest.approx(-expected[0], rel=1e-5)


def test_a_stale_sample_without_advantage_contributes_nothing():
    mask, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    weights = importance_weights(jnp.array([[0.0]]), jnp.array([[-200.0]]), mask)
    assert float(weights[0, 0]) == 2.0
    losses, _ = policy_terms(PolicySettings(), zero, zero, zero, mask, weights)
    assert float(losses[0, 0]) == 0.0


def test_the_largest_log_ratio_is_finite():
    losses, measures = policy_terms(PolicySettings(), jnp.array([[0.0]]), jnp.array([[-500.0]]), jnp.array([[-1.0]]),
                                    jnp.ones((1, 1)))
    assert np.isfinite(losses).all() and np.isfinite(measures["ratio"]).all()


def test_estimators_of_the_divergence():
    logp, logq = jnp.log(P), jnp.log(Q)
    np.testing.assert_allclose(token_kl("k1", logp, logq), [.336472, -.405465, -.693147], atol=1e-6)
    np.testing.assert_allclose(token_kl("k3", logp, logq), [.050758, .094535, .306853], atol=1e-6)
    expected = {"k1": .0851228, "k2": .0800876, "k3": .0851228}
    for kind, value in expected.items():
        assert float(jnp.sum(P * token_kl(kind, logp, logq))) == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(token_kl("abs", logp, logq), np.abs(logp - logq), rtol=1e-6)
    with pytest.raises(ValueError, match="full"):
        token_kl("full", logp, logq)


@pytest.mark.parametrize(("kind", "expected"), [
    ("k1", [0, 0, 0]), ("k2", [.175945, -.098118, -.077827]), ("k3", [.2, -.1, -.1])])
def test_expected_gradients_of_the_estimators(kind, expected):
    """k2 has the gradient of KL(p || q), k3 that of KL(q || p), and k1 none."""
    def expectation(logits):
        return jnp.sum(P * token_kl(kind, jax.nn.log_softmax(logits), jnp.log(Q)))  # samples of p are fixed

    np.testing.assert_allclose(jax.grad(expectation)(jnp.log(P)), expected, atol=1e-6)


def test_k3_never_pushes_away_from_the_reference():
    """Its gradient is 1 - q / p; where that is cut to stay finite, it is 0 and does not change its sign."""
    gradient = jax.grad(lambda logp: token_kl("k3", logp, jnp.zeros(4)).sum())(jnp.array([-20.5, -19.0, 0.0, 30.0]))
    np.testing.assert_allclose(gradient, [0.0, 1 - np.exp(19.0), 0.0, 1.0], rtol=1e-5, atol=1e-6)


def test_the_full_divergence_in_the_reward_of_one_token_has_no_gradient():
    """It is the same for every token that may be sampled, so that no token is preferred for it."""
    def surrogate(logits):
        logp = jax.nn.log_softmax(logits)
        reward = jax.lax.stop_gradient(jnp.sum(jnp.exp(logp) * (logp - jnp.log(Q))))
        return jnp.sum(P * reward * logp)

    np.testing.assert_allclose(jax.grad(surrogate)(jnp.log(P)), [0, 0, 0], atol=1e-6)


def test_k1_in_the_reward_has_the_gradient_of_the_divergence():
    def surrogate(logits):
        logp = jax.nn.log_softmax(logits)
        reward = jax.lax.stop_gradient(token_kl("k1", logp, jnp.log(Q)))
        return jnp.sum(P * reward * logp)

    np.testing.assert_allclose(jax.grad(surrogate)(jnp.log(P)), [.175945, -.098118, -.077827], atol=1e-6)
