"""Preference losses: weights of rows and tokens, padding, parts of a batch, gradients, and extreme values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.ops import (
    Unembedding,
    ld_token_weights,
    preference_loss,
    token_aligned_logprobs,
    wpo_weights,
)
from jaxllm.ops.pairs import swap
from jaxllm.ops.preference import defaults
from jaxllm.ops.preference_losses import COUPLED, REFERENCE_FREE, SORTED, UNPAIRED
from tests.preference_rows import FIXTURE, ON_PAIRS, S, draw, loss_of, pairs_of, take, unpaired, value_and_gradient

# Weights of rows and tokens


@pytest.mark.parametrize("name", sorted(set(ON_PAIRS) - SORTED))
def test_soft_labels(name):
    fields = draw()
    pairs = pairs_of(**fields)
    soft = lambda p: pairs_of(**fields, label_probability=np.full(4, p))
    swapped = loss_of(name, swap(pairs))
    assert_allclose(loss_of(name, soft(1.0)), loss_of(name, pairs), rtol=1e-6)
    assert_allclose(loss_of(name, soft(0.0)), swapped, rtol=1e-6)
    if not {"sft", "orpo"} & {name} and not defaults(name).nll_weight:  # token means have no common denominator
        assert_allclose(loss_of(name, soft(0.3)), 0.3 * loss_of(name, pairs) + 0.7 * swapped, rtol=1e-5)


def test_soft_labels_imitate_both_completions_in_proportion():
    fields, right = draw(3), np.array([0.9, 0.5, 0.2])
    nll = -(right * fields["chosen"] + (1 - right) * fields["rejected"]).sum()
    tokens = (right * fields["chosen_tokens"] + (1 - right) * fields["rejected_tokens"]).sum()
    assert_allclose(loss_of("sft", pairs_of(**fields, label_probability=right)), nll / tokens, rtol=1e-6)


def test_importance_scales_the_loss_and_not_the_weight():
    fields, importance = draw(3), np.array([0.5, 2.0, 0.0])
    single = [loss_of("sigmoid", pairs_of(**take(fields, slice(row, row + 1)))) for row in range(3)]
    (total, weight), _ = preference_loss("sigmoid", pairs_of(**fields, importance=importance))
    assert_allclose(total, np.dot(single, importance), rtol=1e-6)
    assert weight == 3


def test_wpo_golden():
    hidden = jnp.log(jnp.array([0.7, 0.2, 0.1]))
    aligned = lambda *ids: token_aligned_logprobs(jnp.tile(hidden, (len(ids), 1)), Unembedding(jnp.eye(3)),
                                                  jnp.array(ids))
    assert_allclose(aligned(0, 1, 2), [0.2595112, -0.9932518, -1.6863990], rtol=1e-6)
    mean = lambda *ids: aligned(*ids).mean()[None]
    assert_allclose(wpo_weights(mean(0, 1), mean(2, 0, 1)), [0.3092567423], rtol=1e-6)
    assert_allclose(wpo_weights(mean(0, 0), mean(0, 0)), [1.6803840878], rtol=1e-6)
    assert jax.grad(lambda x: wpo_weights(x, x).sum())(jnp.ones(1)) == 0


def test_ld_golden():
    values = [[-1, -0.5, -0.2], [-1.2, -0.6, -0.3], [-0.8, -1, -0.4, -0.9, -0.6], [-0.7, -0.9, -0.5, -0.4, -0.3]]

    def loss(alpha):
        sums = []
        for own, other in zip(values, (5, 5, 3, 3), strict=True):
            factors = ld_token_weights(jnp.arange(len(own)), jnp.array(len(own)), jnp.array(other), alpha)
            sums.append([jnp.dot(factors, jnp.array(own))])
        return loss_of("sigmoid", pairs_of(**FIXTURE | dict(zip(
            ("chosen", "reference_chosen", "rejected", "reference_rejected"), sums, strict=True))))

    assert_allclose(loss(0.5), 0.6491593390, rtol=1e-6)
    assert_allclose(loss(1.0), 0.6302581947, rtol=1e-6)
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            ld_token_weights(jnp.arange(2), jnp.array(2), jnp.array(1), alpha)


@jax.jit
def all_losses(pairs):
    """Values and gradients of all losses on pairs, as one program."""
    return {name: value_and_gradient(name, pairs) for name in ON_PAIRS}


@pytest.fixture(scope="module")
def padded():
    """All losses of two pairs, of these with padding, and the positions of the two."""
    fields = draw(2)
    padding = draw(2, seed=1) | {"weight": np.zeros(2)} | dict(chosen=[np.nan, 1e30], rejected_tokens=[0.0, np.inf])
    order = np.array([2, 0, 3, 1])
    both = {key: np.concatenate([values, padding[key]])[order] for key, values in fields.items()}
    return all_losses(pairs_of(**fields)), all_losses(pairs_of(**both)), order < 2


@pytest.mark.parametrize("name", ON_PAIRS)
def test_padding_contributes_nothing(name, padded):
    plain, both, present = padded
    assert_allclose(both[name][0], plain[name][0], rtol=1e-6)
    for own, other in zip(plain[name][1], both[name][1], strict=True):
        assert_allclose(other[present], own, rtol=1e-6)
        assert not np.any(other[~present])


@pytest.mark.parametrize("name", ON_PAIRS)
def test_sums_of_parts_are_the_whole_except_for_coupled_losses(name):
    fields = draw(seed=3) | {"chosen_nll_scale": np.full(4, 0.25)}
    settings = S(beta=0.5) if defaults(name).beta else None  # with a small beta sorted losses are almost linear
    whole = preference_loss(name, pairs_of(**fields), settings)
    parts = [preference_loss(name, pairs_of(**take(fields, rows)), settings) for rows in (slice(0, 2), slice(2, 4))]
    equal = np.allclose(np.sum([loss for loss, _ in parts], axis=0), whole[0], rtol=1e-5)
    assert equal == (name not in COUPLED)
    for metric in whole[1].keys() - {"reward_shift"}:
        assert_allclose(np.sum([own[metric] for _, own in parts], axis=0), whole[1][metric], rtol=1e-5)


def test_unpaired_padding_and_parts():
    random = np.random.default_rng(0)
    policy, reference, desirable = random.normal(size=6) - 9, random.normal(size=6) - 9, np.array([1, 0, 1, 1, 0, 0])
    for name in sorted(UNPAIRED):
        whole = preference_loss(name, unpaired(policy, desirable, [0.1, 0.4], reference))
        padded = unpaired(np.append(policy, np.nan), np.append(desirable, 5), [0.1, 0.4], np.append(reference, np.inf),
                          np.append(np.ones(6), 0))
        assert_allclose(preference_loss(name, padded)[0], whole[0], rtol=1e-6)
        gradient = jax.grad(lambda rows, name=name: preference_loss(name, rows)[0][0])(padded)
        assert np.isfinite(gradient.policy).all() and gradient.policy[6] == 0 and not np.any(gradient.kl)
        parts = [preference_loss(name, unpaired(policy[rows], desirable[rows], [0.1, 0.4], reference[rows]))
                 for rows in (slice(0, 2), slice(2, 6))]
        assert_allclose(np.sum([loss for loss, _ in parts], axis=0), whole[0], rtol=1e-5)  # with a given KL


def test_reference_free_losses_do_not_depend_on_the_reference():
    fields = draw()
    other = fields | {"reference_chosen": fields["reference_chosen"] - 1.0}
    free = {name for name in ON_PAIRS if loss_of(name, pairs_of(**fields)) == loss_of(name, pairs_of(**other))}
    assert free == REFERENCE_FREE


# Gradients and extreme values

DIVERGENT = [(name, None) for name in ON_PAIRS] + [
    (name, S(divergence=divergence)) for name in ("sigmoid", "ipo") for divergence in
    ("forward_kl", "js_divergence", "alpha_divergence")]


@pytest.mark.parametrize(("name", "settings"), DIVERGENT)
def test_gradients_equal_finite_differences(name, settings):
    """In a random direction, in float64."""
    with jax.enable_x64(True):
        pairs = pairs_of(**draw(spread=1.0))
        assert pairs.chosen.dtype == jnp.float64
        # Differences leave the shift of the rewards of `bco` unchanged, which is detached.
        shift = preference_loss("bco", pairs)[1]["reward_shift"]
        pairs = dataclasses.replace(pairs, reward_shift=shift[0] / shift[1])
        _, (chosen, rejected) = value_and_gradient(name, pairs, settings)
        direction = jnp.asarray(np.random.default_rng(7).normal(size=(2, 4)))
        up, down = (preference_loss(name, dataclasses.replace(
            pairs, chosen=pairs.chosen + step * direction[0], rejected=pairs.rejected + step * direction[1]),
            settings)[0][0] for step in (1e-6, -1e-6))
        assert_allclose(jnp.sum(chosen * direction[0] + rejected * direction[1]), (up - down) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(UNPAIRED))
def test_gradients_of_unpaired_losses_equal_finite_differences(name):
    with jax.enable_x64(True):
        rows = unpaired([-3.0, -5.0, -4.0], [1, 0, 0.3], [0.7], reference=[-4.0, -4.5, -2.0])
        total = lambda policy: preference_loss(name, dataclasses.replace(rows, policy=policy))[0][0]
        gradient = jax.grad(total)(rows.policy)
        for row in range(3):
            step = 1e-6 * jnp.eye(3)[row]
            assert_allclose(gradient[row], (total(rows.policy + step) - total(rows.policy - step)) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "settings"), DIVERGENT)
def test_extreme_margins_are_finite(name, settings):
    far = 1e4 / (defaults(name).beta or 1.0)
    chosen, rejected = np.array([far, -far, 0.0, -far]), np.array([-far, far, 0.0, -1.0])
    zero = np.zeros(4)
    fields = dict(chosen=chosen - far, rejected=rejected - far, reference_chosen=zero - far,
                  reference_rejected=zero - far, chosen_tokens=[1.0, 1.0, 0.0, 3.0],
                  rejected_tokens=[1.0, 0.0, 0.0, 0.0], weight=zero + 1)
    if name in REFERENCE_FREE:  # log-probabilities from 0 down
        fields |= dict(chosen=np.minimum(chosen, 0.0), rejected=np.minimum(rejected, 0.0))
    value, gradients = value_and_gradient(name, pairs_of(**fields), settings)
    assert np.isfinite(value) and np.isfinite(np.asarray(gradients)).all()


def test_extreme_margins_of_unpaired_rows_are_finite():
    for name in sorted(UNPAIRED):
        rows = unpaired([1e5, -1e5, 1e5, -1e5], [1, 1, 0, 0], [1e5, 0.0])
        value, gradient = jax.value_and_grad(lambda own, name=name: preference_loss(name, own)[0][0])(rows)
        assert np.isfinite(value) and np.isfinite(gradient.policy).all()


def test_hinges_at_rest_have_no_gradient():
    far = pairs_of(**FIXTURE | {"chosen": [0.0], "rejected": [-500.0]})
    for name, settings in (("hinge", None), ("slic_hf", S(nll_weight=0.0))):
        value, gradients = value_and_gradient(name, far, settings)
        assert value == 0 and not np.any(gradients)


def test_compiled_losses():
    pairs = pairs_of(**draw())
    for name, (value, _) in all_losses(pairs).items():
        assert_allclose(value, preference_loss(name, pairs)[0][0], rtol=1e-6)
