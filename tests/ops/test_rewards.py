"""Losses of reward models and classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.ops import class_cross_entropy, reward_loss

ONE = jnp.ones(1)
CHOSEN, REJECTED = jnp.array([1.2]), jnp.array([-0.3])


def test_bradley_terry_golden():
    plain = reward_loss(CHOSEN, REJECTED, ONE)[0][0]
    assert_allclose(plain, 0.2014132780, rtol=1e-6)
    assert_allclose(reward_loss(CHOSEN, REJECTED, ONE, margin=jnp.array([0.5]))[0][0], 0.3132616875, rtol=1e-6)
    assert_allclose(reward_loss(CHOSEN, REJECTED, ONE, centering=0.01)[0][0], plain + 0.0081, rtol=1e-6)


def test_soft_labels_mix_the_pair_and_the_swapped_pair():
    margin = jnp.array([0.5])
    loss = lambda chosen, rejected, **more: reward_loss(chosen, rejected, ONE, margin=margin, **more)[0][0]
    own, swapped = loss(CHOSEN, REJECTED), loss(REJECTED, CHOSEN)
    for right in (0.0, 0.3, 1.0):
        assert_allclose(loss(CHOSEN, REJECTED, label_probability=jnp.array([right])),
                        right * own + (1 - right) * swapped, rtol=1e-6)


def test_metrics_and_padding():
    draw = np.random.default_rng(0)
    chosen, rejected = draw.normal(size=4).astype("f"), draw.normal(size=4).astype("f")
    rejected[1] = chosen[1]  # a tie
    (total, weight), metrics = reward_loss(jnp.asarray(chosen), jnp.asarray(rejected), jnp.ones(4))
    assert weight == 4
    assert_allclose(total, np.log1p(np.exp(rejected - chosen)).sum(), rtol=1e-6)
    every = np.concatenate([chosen, rejected])
    expected = {"accuracy": (np.sum(chosen > rejected), 4), "margin": ((chosen - rejected).sum(), 4),
                "mean_reward": (every.sum() / 2, 4), "min_reward": (every.min(), 1), "max_reward": (every.max(), 1)}
    assert metrics.keys() == expected.keys()
    padded = lambda values, more: jnp.asarray(np.insert(values, 2, more))
    one, other, weights = padded(chosen, np.nan), padded(rejected, -9e9), padded(np.ones(4, "f"), 0)
    loss = lambda one, other: reward_loss(one, other, weights, centering=0.0)
    for name, values in expected.items():
        assert_allclose(metrics[name], values, rtol=1e-6)
        assert_allclose(loss(one, other)[1][name], values, rtol=1e-6)
    gradients = jax.grad(lambda *scores: loss(*scores)[0][0], (0, 1))(one, other)
    assert all(np.isfinite(own).all() and own[2] == 0 for own in gradients)


def test_nothing_but_padding():
    (total, weight), metrics = reward_loss(CHOSEN, REJECTED, jnp.zeros(1))
    assert total == weight == 0 and all(np.all(np.array(own) == 0) for own in metrics.values())


def test_scores_are_compared_in_float32():
    metrics = reward_loss(jnp.array([18.02]), jnp.array([18.05]), ONE)[1]
    assert metrics["accuracy"][0] == 0 and metrics["margin"][0] < 0


def test_large_differences_are_finite():
    for sign in (1, -1):
        value, gradient = jax.value_and_grad(lambda x: reward_loss(x, -x, ONE)[0][0])(sign * jnp.array([1e4]))
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_negative_centering_is_refused():
    with pytest.raises(ValueError, match="centering must be 0 or more, got -1"):
        reward_loss(CHOSEN, REJECTED, ONE, centering=-1)


LOGITS = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0], [-1.0, 0.5, 0.2]])


def test_class_cross_entropy_golden():
    log_probs = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    labels = np.array([1, 0, 1])
    right = log_probs[np.arange(3), labels]
    (total, weight), metrics = class_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels), jnp.ones(3))
    assert_allclose(total, -right.sum(), rtol=1e-6)
    assert weight == 3 and metrics["accuracy"] == (2.0, 3.0)
    (smooth, _), _ = class_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels), jnp.ones(3), label_smoothing=0.1)
    assert_allclose(smooth, -(0.9 * right + 0.1 * log_probs.mean(1)).sum(), rtol=1e-6)


def test_padding_of_a_classifier():
    logits, labels = jnp.asarray(LOGITS).at[1].set(jnp.nan), jnp.array([1, -100, 1])
    weight = jnp.array([1.0, 0.0, 2.0])
    loss = lambda logits: class_cross_entropy(logits, labels, weight)
    expected = [class_cross_entropy(jnp.asarray(LOGITS[row:row + 1]), labels[row:row + 1], jnp.ones(1))[0][0]
                for row in (0, 2)]
    (total, total_weight), metrics = loss(logits)
    assert_allclose(total, expected[0] + 2 * expected[1], rtol=1e-6)
    assert total_weight == 3 and metrics["accuracy"] == (3.0, 3.0)
    gradient = jax.grad(lambda own: loss(own)[0][0])(logits)
    assert np.isfinite(gradient).all() and not np.any(gradient[1])


def test_a_single_class_and_bad_smoothing_are_refused():
    with pytest.raises(ValueError, match="a classifier needs two classes or more"):
        class_cross_entropy(jnp.ones((2, 1)), jnp.zeros(2, int), jnp.ones(2))
    with pytest.raises(ValueError, match="label_smoothing must be at least 0 and below 1, got 1"):
        class_cross_entropy(jnp.ones((2, 2)), jnp.zeros(2, int), jnp.ones(2), label_smoothing=1.0)
