"""The adaptive KL coefficient, running moments of scores, and DAPO's length penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.ops import (
    adapt_kl_coef,
    init_moments,
    overlong_penalty,
    shape_scores,
    standard_deviation,
    update_moments,
)


@pytest.mark.parametrize(("kl", "expected"), [(0, .298464), (6, .3), (6.6, .300768), (12, .301536), (99, .301536)])
def test_the_coefficient_follows_the_divergence(kl, expected):
    assert float(adapt_kl_coef(jnp.float32(.3), jnp.float32(kl), 256)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("kl", "expected"), [(0, .1795524), (99, .4999341)])
def test_the_coefficient_after_100_batches(kl, expected):
    step = lambda _, coef: adapt_kl_coef(coef, jnp.float32(kl), 256)
    assert float(jax.lax.fori_loop(0, 100, step, jnp.float32(.3))) == pytest.approx(expected, rel=1e-5)


def test_moments_of_all_scores_so_far():
    moments = update_moments(init_moments(), jnp.array([1., 2, 3, 4]))
    assert float(moments["mean"]) == pytest.approx(2.5)
    assert float(standard_deviation(moments)) == pytest.approx(1.2909944, abs=1e-6)
    moments = update_moments(moments, jnp.array([0., 10]))
    assert float(moments["mean"]) == pytest.approx(3.3333333, abs=1e-6)
    assert float(standard_deviation(moments)) == pytest.approx(3.5590261, abs=1e-5)


def test_a_single_score_is_finite():
    moments = update_moments(init_moments(), jnp.array([2.0]))
    assert float(standard_deviation(moments)) == 0
    assert np.isfinite(shape_scores(jnp.array([2.0]), moments, scale=True, center=True, clip=1.0)).all()


@pytest.mark.parametrize("value", [-1.0, 0.5, 0.7, 0.0])
def test_equal_scores_are_not_divided_by_rounding(value):
    scores = jnp.full(7, value)
    shaped = shape_scores(scores, update_moments(init_moments(), scores), scale=True, center=False, clip=None)
    np.testing.assert_allclose(shaped, scores, rtol=1e-6)


def test_scores_are_scaled_and_then_clipped():
    scores = jnp.array([1., 2, 3, 4])
    moments = update_moments(init_moments(), scores)
    kwargs = dict(scale=True, clip=None)
    np.testing.assert_allclose(shape_scores(scores, moments, center=False, **kwargs), scores / 1.2909944, rtol=1e-6)
    np.testing.assert_allclose(shape_scores(scores, moments, center=True, **kwargs), (scores - 2.5) / 1.2909944,
                               rtol=1e-5, atol=1e-7)
    clipped = shape_scores(scores, moments, scale=True, center=True, clip=1.0)
    np.testing.assert_allclose(clipped, [-1, -.3872983, .3872983, 1], rtol=1e-5)
    np.testing.assert_allclose(shape_scores(scores, moments, scale=False, center=False, clip=2.5), [1, 2, 2.5, 2.5])


def test_long_responses_are_penalized_before_the_limit():
    penalty = overlong_penalty(jnp.array([14, 15, 16, 18, 19, 20, 30]), 20, 5)
    np.testing.assert_allclose(penalty, [0, 0, -.2, -.6, -.8, -1, -1], atol=1e-6)
