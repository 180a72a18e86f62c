"""Preference losses: golden values, identities of the papers, combinations, metrics, and refused settings."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.ops import (
    nll_scale,
    preference_loss,
)
from jaxllm.ops.preference import add_margin, defaults, resolve
from jaxllm.ops.preference_losses import LOSSES, MIXTURES, REFERENCE_FREE
from tests.preference_rows import FIXTURE, ON_PAIRS, S, draw, loss_of, pairs_of, take, unpaired, value_and_gradient

GOLDEN = [
    ("sigmoid", S(beta=0.1), 0.5981388694), ("cdpo", S(beta=0.1, label_smoothing=0.1), 0.6181388694),
    ("robust", S(beta=0.1, label_smoothing=0.1), 0.5731388694), ("hinge", S(beta=0.1), 0.8),
    ("ipo", S(beta=0.1), 22.4044444444), ("ipo", S(beta=0.1, length_normalized=False), 9.0),
    ("sigmoid_norm", S(beta=0.1), 0.6799027335), ("apo_zero", S(beta=0.1), 0.9500416250),
    ("apo_down", S(beta=0.1), 0.9751451902), ("nca_pair", S(beta=0.1), 1.3387933201),
    ("bco_pair", S(beta=0.1), 1.2887933201), ("bco", S(beta=0.1), 1.2887933201), ("sppo_hard", S(beta=0.1), 32.0),
    ("exo_pair", S(beta=0.1, label_smoothing=1e-3), 2.4220146207),
    ("discopop", S(beta=0.1, tau=0.05), 0.8147631411), ("cpo", S(beta=0.1, nll_weight=0.0), 0.5543552445),
    ("cpo", S(beta=0.1), 2.5543552445), ("simpo", S(beta=2.0, gamma=1.0), 2.1269280110),
    ("orpo", S(beta=0.1), 2.1042057808), ("sft", None, 2.0), ("slic_hf", S(margin=4.0, nll_weight=0.5), 2.0),
    # chosen (1 - e^.5) / .25 = -2.5948850828, rejected (1 - e^.375) / .25 = -1.8199656585
    ("alphapo", S(beta=2.5, gamma=0.1, alpha=0.25), np.log1p(np.exp(0.1 + 2.5 * (2.5948850828 - 1.8199656585)))),
    ("aot", S(beta=0.1, label_smoothing=0.1), 0.6181388694),
    ("aot_unpaired", S(beta=0.1, label_smoothing=0.1), 0.6181388694),
]


@pytest.mark.parametrize(("name", "settings", "expected"), GOLDEN)
def test_golden(name, settings, expected):
    assert_allclose(loss_of(name, pairs_of(**FIXTURE), settings), expected, rtol=1e-6)


def test_every_loss_has_a_golden_value():
    assert {name for name, *_ in GOLDEN} == set(ON_PAIRS)


def test_log_odds_golden():
    _, metrics = preference_loss("orpo", pairs_of(**FIXTURE))
    assert_allclose(metrics["log_odds_chosen"][0], -0.6070690011, rtol=1e-6)
    assert_allclose(metrics["log_odds_ratio"][0], -1.042057808, rtol=1e-6)


@pytest.mark.parametrize("mean", [-1e-5, -0.01, -0.6, -0.8, -5.0, -20.0])
def test_log_odds_are_exact_in_float32(mean):
    """Against float64: probabilities near 1 and near 0."""
    pairs = pairs_of(**FIXTURE | {"chosen": [mean], "chosen_tokens": [1.0], "rejected": [-7.0]})
    odds = preference_loss("orpo", pairs)[1]["log_odds_chosen"][0]
    assert_allclose(odds, (mean - np.log(-np.expm1(mean))) - (-0.7 - np.log(-np.expm1(-0.7))), rtol=2e-6, atol=1e-6)


def test_kto_golden():
    assert_allclose(loss_of("kto", unpaired([1.0], [1], [0.5])), 0.4875025036, rtol=1e-6)
    assert_allclose(loss_of("kto", unpaired([-1.0], [0], [0.5])), 0.4625701547, rtol=1e-6)


def test_the_reference_point_is_clamped_after_the_mean_over_all_rows():
    rows = unpaired([1.0, -0.5], [1, 0], [0.3, -0.5, 0.4, 0.6])
    (total, weight), metrics = preference_loss("kto", rows)
    assert_allclose(metrics["kl"][0], 0.2, rtol=1e-6)  # not .25 (means of two) and not .325 (single rows)
    assert_allclose(total, 0.4800106598 + 0.4825071423, rtol=1e-6)
    assert weight == 2
    padded = dataclasses.replace(rows, kl=jnp.array([0.3, -0.5, 9e9, 0.4, 0.6]),
                                 kl_weight=jnp.array([1.0, 1.0, 0.0, 1.0, 1.0]))
    assert preference_loss("kto", padded)[0][0] == total
    negative = preference_loss("kto", unpaired([1.0], [1], [0.3, -0.5]))[1]
    assert negative["kl"] == (0.0, 1.0)
    alone = preference_loss("kto", unpaired([1.0], [1], [0.3, -0.5], kl_weight=jnp.zeros(2)))[1]
    assert alone["kl"] == (0.0, 0.0)  # no row has a partner: there is no value


def test_unpaired_weights_and_soft_labels():
    settings = S(beta=0.1, desirable_weight=2.0, undesirable_weight=3.0)
    both = loss_of("kto", unpaired([1.0, -1.0], [1, 0], [0.5]), settings)
    assert_allclose(both, (2 * 0.4875025036 + 3 * 0.4625701547) / 2, rtol=1e-6)
    soft = loss_of("kto", unpaired([1.0], [0.25], [0.5]))
    assert_allclose(soft, 0.25 * 0.4875025036 + 0.75 * (1 - 0.4875025036), rtol=1e-6)
    # With as many desirable as undesirable rows, the mean is half of the loss on pairs.
    zero = unpaired([-12.0, -15.0], [1, 0], reference=[-13.0, -14.0])
    assert_allclose(loss_of("apo_zero_unpaired", zero), 0.9500416250 / 2, rtol=1e-6)


INITIAL = {"sigmoid": np.log(2), "cdpo": np.log(2), "robust": np.log(2), "sigmoid_norm": np.log(2), "hinge": 1.0,
           "ipo": 25.0, "apo_zero": 1.0, "apo_down": 1.0, "nca_pair": 2 * np.log(2), "bco_pair": 2 * np.log(2),
           "bco": 2 * np.log(2), "sppo_hard": 2 * 500.0**2, "aot": np.log(2), "aot_unpaired": np.log(2),
           "discopop": 0.5 * np.log(2) + 0.5, "exo_pair": -np.log(2) - 0.5 * np.log(0.999 * 0.001)}


@pytest.mark.parametrize("name", sorted(INITIAL.keys()))
def test_policy_equal_to_the_reference(name):
    fields = draw()
    fields |= dict(reference_chosen=fields["chosen"], reference_rejected=fields["rejected"])
    (total, weight), metrics = preference_loss(name, pairs_of(**fields))
    assert_allclose(total / weight, INITIAL[name], rtol=1e-6)
    for metric in ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"):
        assert metrics[metric] == (0.0, 4.0)


def test_every_loss_with_a_reference_has_an_initial_value():
    assert INITIAL.keys() | REFERENCE_FREE == set(ON_PAIRS)
    assert_allclose(loss_of("kto", unpaired([-3.0, -4.0], [1, 0], [0.0], reference=[-3.0, -4.0])), 0.5)


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_divergences_change_nothing_at_the_reference(divergence):
    fields = draw()
    fields |= dict(reference_chosen=fields["chosen"], reference_rejected=fields["rejected"])
    for name in ("sigmoid", "ipo", "sigmoid_norm"):  # the last two divide scores by different lengths
        assert_allclose(loss_of(name, pairs_of(**fields), S(divergence=divergence)), INITIAL[name], rtol=1e-6)


@pytest.mark.parametrize(("divergence", "score"), [
    ("reverse_kl", lambda h: h), ("forward_kl", lambda h: 1 - np.exp(-h)),
    ("js_divergence", lambda h: np.log(2 * np.exp(h) / (1 + np.exp(h)))),
    ("alpha_divergence", lambda h: (np.exp(-0.7 * h) - 1) / -0.7)])
def test_divergences_by_their_derivatives(divergence, score):
    order = {"divergence_alpha": 0.3} if divergence == "alpha_divergence" else {}
    value = loss_of("sigmoid", pairs_of(**FIXTURE), S(beta=0.1, divergence=divergence, **order))
    assert_allclose(value, np.log1p(np.exp(-0.1 * (score(1.0) - score(-1.0)))), rtol=1e-6)
    normalized = loss_of("sigmoid_norm", pairs_of(**FIXTURE), S(beta=0.1, divergence=divergence, **order))
    assert_allclose(normalized, np.log1p(np.exp(-0.1 * (score(1.0) / 6 - score(-1.0) / 10))), rtol=1e-6)


def test_alpha_divergence_of_order_one_is_the_reverse_kl():
    pairs = pairs_of(**draw())
    limit = loss_of("sigmoid", pairs, S(divergence="alpha_divergence", divergence_alpha=1.0))
    assert limit == loss_of("sigmoid", pairs)
    near = loss_of("sigmoid", pairs, S(divergence="alpha_divergence", divergence_alpha=1.001))
    assert_allclose(near, limit, rtol=1e-2)


def test_gradient_of_dpo():
    gradient = jax.grad(lambda pairs: preference_loss("sigmoid", pairs)[0][0])(pairs_of(**FIXTURE))
    assert_allclose(gradient.chosen, [-0.1 / (1 + np.exp(0.2))], rtol=1e-6)
    assert_allclose(gradient.rejected, -gradient.chosen, rtol=1e-6)
    assert gradient.reference_chosen[0] == gradient.reference_rejected[0] == 0


def test_without_smoothing_the_robust_losses_are_dpo():
    pairs = pairs_of(**draw())
    plain = loss_of("sigmoid", pairs)
    for name in ("cdpo", "robust"):
        assert_allclose(loss_of(name, pairs, S(label_smoothing=0.0)), plain, rtol=1e-6)


def test_the_robust_loss_is_unbiased_under_flipped_labels():
    fields, wrong = draw(3), 0.2
    clean = loss_of("sigmoid", pairs_of(**fields))
    sides = [("chosen", "rejected"), ("chosen_tokens", "rejected_tokens"), ("reference_chosen", "reference_rejected")]
    expectation = 0.0
    for flips in itertools.product([False, True], repeat=3):
        own = dict(fields)
        for one, other in sides:
            own[one] = np.where(flips, fields[other], fields[one])
            own[other] = np.where(flips, fields[one], fields[other])
        probability = np.prod([wrong if flip else 1 - wrong for flip in flips])
        expectation += probability * loss_of("robust", pairs_of(**own), S(label_smoothing=wrong))
    assert_allclose(expectation, clean, rtol=1e-5)


def test_aot_sorts_over_the_batch_and_leaves_padding_out():
    fields = draw()
    by_hand = lambda left, right: np.log1p(np.exp(-0.5 * (np.sort(left) - np.sort(right)))).mean()
    expected = {"aot": by_hand(fields["chosen"] - fields["rejected"],
                               fields["reference_chosen"] - fields["reference_rejected"]),
                "aot_unpaired": by_hand(fields["chosen"] - fields["reference_chosen"],
                                        fields["rejected"] - fields["reference_rejected"])}
    padded = {name: np.insert(values, 1, np.nan) for name, values in fields.items()} \
        | {"weight": np.array([1.0, 0, 1, 1, 1])}
    for name, value in expected.items():
        assert_allclose(loss_of(name, pairs_of(**fields), S(beta=0.5)), value, rtol=1e-5)
        assert_allclose(loss_of(name, pairs_of(**padded), S(beta=0.5)), value, rtol=1e-5)
        single = pairs_of(**take(fields, slice(1)))
        assert_allclose(loss_of(name, single, S(beta=0.5)), loss_of("cdpo", single, S(beta=0.5, label_smoothing=0.0)),
                        rtol=1e-6)


def test_simpo_without_margin_is_normalized_dpo_without_reference():
    fields = draw()
    free = fields | dict.fromkeys(("reference_chosen", "reference_rejected"), np.zeros(4))
    assert_allclose(loss_of("simpo", pairs_of(**fields), S(beta=2.0, gamma=0.0)),
                    loss_of("sigmoid_norm", pairs_of(**free), S(beta=2.0)), rtol=1e-6)
    for shape in (0.0, 1e-7):
        assert_allclose(loss_of("alphapo", pairs_of(**fields), S(alpha=shape, beta=2.0, gamma=0.3)),
                        loss_of("simpo", pairs_of(**fields), S(beta=2.0, gamma=0.3)), rtol=1e-6)


def test_bco_subtracts_the_mean_reward_or_a_running_mean():
    fields = draw()
    chosen, rejected = (0.01 * (fields[side] - fields[f"reference_{side}"]) for side in ("chosen", "rejected"))
    shift = np.concatenate([chosen, rejected]).mean()
    by_hand = lambda shift: np.log1p(np.exp(shift - chosen)).mean() + np.log1p(np.exp(rejected - shift)).mean()
    assert_allclose(loss_of("bco", pairs_of(**fields)), by_hand(shift), rtol=1e-6)
    assert_allclose(loss_of("bco", pairs_of(**fields, reward_shift=0.7)), by_hand(0.7), rtol=1e-6)
    earlier = pairs_of(**fields, earlier_rewards=[0.7, 12.0])  # of three steps like this one
    assert_allclose(loss_of("bco", earlier), by_hand((0.7 * 12 + shift * 4) / 16), rtol=1e-6)
    (total, weight) = preference_loss("bco", pairs_of(**fields))[1]["reward_shift"]
    assert_allclose(total / weight, shift, rtol=1e-5)
    for own, detached in zip(value_and_gradient("bco", pairs_of(**fields))[1],
                             value_and_gradient("bco", pairs_of(**fields, reward_shift=shift))[1], strict=True):
        assert_allclose(own, detached, rtol=1e-6)


# Combinations


def test_a_mixture_normalizes_by_length_only_where_a_loss_does():
    (total, _), metrics = preference_loss({"sigmoid": 1.0, "ipo": 1.0}, pairs_of(**FIXTURE), S(beta=0.1))
    assert_allclose(total, 23.0025833138, rtol=1e-6)
    assert_allclose(metrics["logps/chosen"], (-12.0, 1.0))
    assert_allclose([metrics["rewards/chosen"][0], metrics["rewards/rejected"][0]], [0.1, -0.1], rtol=1e-6)


def test_mixtures():
    pairs = pairs_of(**draw())
    for name, weights in MIXTURES.items():
        expected = sum(weight * loss_of(own, pairs, S(beta=0.1) if own != "sft" else None)
                       for own, weight in weights.items())
        assert_allclose(loss_of(name, pairs, S(beta=0.1)), expected, rtol=1e-6)


@pytest.mark.parametrize(("losses", "given", "betas"), [
    ("mpo", None, {"sigmoid": 0.1, "bco_pair": 0.1, "sft": None}),  # 2411.10442
    ({"sft": 1.0, "bco_pair": 1.0, "sigmoid": 1.0}, None, {"sft": None, "bco_pair": 0.01, "sigmoid": 0.01}),
    ("mpo", 0.3, {"sigmoid": 0.3, "bco_pair": 0.3, "sft": None}), ("bco_pair", None, {"bco_pair": 0.01}),
    ({"cpo": 1.0, "simpo": 1.0}, None, {"cpo": 0.1, "simpo": 2.0})])  # scales of sums, and of means
def test_losses_with_a_reference_model_share_one_beta(losses, given, betas):
    assert {name: own.beta for name, (_, own) in resolve(losses, S(beta=given)).items()} == betas


def test_rewards_of_a_mixture_are_those_of_its_first_loss_on_pairs():
    metrics = preference_loss({"sft": 1.0, "nca_pair": 1.0}, pairs_of(**FIXTURE))[1]
    assert_allclose(metrics["rewards/chosen"][0], 0.01, rtol=1e-6)
    assert_allclose(metrics["nll_loss"], (12.0, 6.0))


def test_the_mean_over_tokens_survives_the_split_into_microbatches():
    fields = draw(6) | {"weight": np.array([1.0, 1, 0.5, 1, 0, 1])}
    nll = -(fields["weight"] * fields["chosen"]).sum() / (fields["weight"] * fields["chosen_tokens"]).sum()
    assert_allclose(loss_of("sft", pairs_of(**fields)), nll, rtol=1e-6)
    scale = np.full(6, nll_scale(jnp.asarray(fields["weight"]), jnp.asarray(fields["chosen_tokens"])))
    parts = [preference_loss("sft", pairs_of(**take(fields | {"chosen_nll_scale": scale}, rows)))[0]
             for rows in (slice(0, 2), slice(2, 6))]
    total, weight = np.sum(parts, axis=0)
    assert_allclose(total / weight, nll, rtol=1e-6)
    assert nll_scale(jnp.zeros(3), jnp.ones(3)) == 0


def test_nll_on_other_tokens():
    """ORPO with a loss on the prompt too."""
    fields = draw(3)
    own = dict(chosen_nll=[20.0, 30.0, 40.0], chosen_nll_tokens=[10.0, 10.0, 12.0])
    difference = loss_of("orpo", pairs_of(**fields, **own)) - loss_of("orpo", pairs_of(**fields))
    assert_allclose(difference, 90 / 32 + fields["chosen"].sum() / fields["chosen_tokens"].sum(), rtol=1e-5)


# Metrics


def test_metrics_of_pairs():
    fields = draw() | {"weight": np.array([1.0, 2.0, 1.0, 0.0])}
    fields["reference_chosen"][2] = fields["chosen"][2] - 1.0
    fields["reference_rejected"][2] = fields["rejected"][2] - 1.0  # a tie
    metrics = preference_loss("sigmoid", pairs_of(**fields))[1]
    chosen, rejected = (0.1 * (fields[side] - fields[f"reference_{side}"]) for side in ("chosen", "rejected"))
    weight = fields["weight"]
    expected = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected,
                "rewards/accuracies": np.where(np.arange(4) == 2, 0.0, chosen > rejected),
                "logps/chosen": fields["chosen"], "logps/rejected": fields["rejected"]}
    assert metrics.keys() == expected.keys()
    for name, values in expected.items():
        assert_allclose(metrics[name], (weight @ values, 4.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "rewards"), [("simpo", (-4.0, -3.0)), ("orpo", (-0.2, -0.15)), ("cpo", (-1.2, -1.5)),
                                               ("slic_hf", (-12.0, -15.0)), ("sft", (-12.0, -15.0))])
def test_rewards_without_a_reference(name, rewards):
    metrics = preference_loss(name, pairs_of(**FIXTURE))[1]
    assert_allclose([metrics[f"rewards/{side}"][0] for side in ("chosen", "rejected")], rewards, rtol=1e-6)
    assert_allclose(metrics["logps/chosen"][0], -12.0)


def test_metrics_of_a_window_in_which_a_microbatch_has_no_rejected_row():
    reward = lambda *values: [10 * value for value in values]
    first = unpaired(reward(0.4, 0.2), [1, 1])
    second = unpaired(reward(0.6, -0.2, -0.4, 0.0), [1, 0, 0, 0])
    reduce = lambda *parts: {name: np.sum([own[name] for own in parts], axis=0) for name in parts[0]}
    means = lambda sums: add_margin({name: total / weight for name, (total, weight) in sums.items() if weight})
    both = [preference_loss("apo_zero_unpaired", own)[1] for own in (first, second)]
    window = means(reduce(*both))
    assert_allclose([window[f"rewards/{name}"] for name in ("chosen", "rejected", "margins")], [0.4, -0.2, 0.6],
                    atol=1e-6)
    alone = means(both[0])
    assert "rewards/rejected" not in alone and "rewards/margins" not in alone and "logps/rejected" not in alone


def test_metrics_have_no_gradient():
    gradient = jax.grad(lambda pairs: sum(total for total, _ in preference_loss("orpo", pairs)[1].values()))
    assert not np.any(gradient(pairs_of(**FIXTURE)).chosen)


# Refused settings


@pytest.mark.parametrize(("losses", "settings", "message"), [
    ("cdpo", S(label_smoothing=0.6), "label_smoothing must be between 0 and 0.5, got 0.6"),
    ("cdpo", S(label_smoothing=float("nan")), "label_smoothing must be between 0 and 0.5, got nan"),
    ("robust", S(label_smoothing=0.5), "label_smoothing of robust must be below 0.5, got 0.5"),
    ("exo_pair", S(label_smoothing=0.0), "label_smoothing of exo_pair must be above 0, got 0.0"),
    ("sigmoid", S(label_smoothing=0.1), "sigmoid has no setting label_smoothing"),
    ("sft", S(beta=0.1), "sft has no setting beta"),
    ("dpo", None, "no loss is called 'dpo'; there are alphapo, aot, .*, sppo_hard"),
    ("sigmoid", S(beta=0.0), "beta must be above 0, got 0.0"),
    ("simpo", S(gamma=-1.0), "gamma must be 0 or more, got -1.0"),
    ("alphapo", S(alpha=float("inf")), "alpha must be finite, got inf"),
    ("sigmoid", S(divergence="kl"), "divergence must be one of reverse_kl, .*, got 'kl'"),
    ("simpo", S(divergence="forward_kl"), "simpo has no setting divergence"),
    ({"sigmoid": 1.0, "nca_pair": 1.0, "aot": 1.0}, S(divergence="forward_kl"),
     "aot, nca_pair has no divergence other than reverse_kl, got forward_kl"),
    ("sigmoid", S(divergence_alpha=0.3), "divergence_alpha is a setting of the divergence alpha_divergence"),
    ({"sigmoid": -1.0}, None, "the weight of sigmoid must be 0 or more, got -1.0"),
    ({"sigmoid": 0.0}, None, "a mixture needs a loss with a weight above 0"), ({}, None, "a mixture needs a loss"),
    ({"kto": 1.0, "sigmoid": 1.0}, None, "kto cannot be mixed with losses on pairs"),
    ({"orpo": 1.0, "sft": 1.0, "cpo": 1.0}, None, "orpo imitates prompts too, and cpo, sft completions only"),
])
def test_refused(losses, settings, message):
    with pytest.raises(ValueError, match=message):
        resolve(losses, settings)


def test_orpo_with_losses_that_imitate_nothing():
    assert set(resolve({"orpo": 1.0, "simpo": 1.0})) == {"orpo", "simpo"}
    resolve({"orpo": 1.0, "cpo": 1.0}, S(nll_weight=0.0))


def test_a_divergence_applies_to_the_preference_loss_of_a_mixture_with_cross_entropy():
    settings, pairs = S(divergence="js_divergence"), pairs_of(**FIXTURE)
    alone, cross_entropy = loss_of("sigmoid", pairs, settings), loss_of("sft", pairs)
    assert loss_of({"sigmoid": 1.0, "sft": 0.1}, pairs, settings) == pytest.approx(alone + 0.1 * cross_entropy)
    assert alone != pytest.approx(loss_of("sigmoid", pairs))


def test_rows_that_do_not_suit_the_loss_are_refused():
    pairs = pairs_of(**FIXTURE)
    with pytest.raises(ValueError, match="kto needs unpaired rows"):
        preference_loss("kto", pairs)
    with pytest.raises(ValueError, match="sigmoid needs pairs"):
        preference_loss("sigmoid", unpaired([1.0], [1]))
    with pytest.raises(ValueError, match=r"kto needs log-ratios of mismatched rows \(kl\)"):
        preference_loss("kto", dataclasses.replace(unpaired([1.0], [1]), kl=None))
    for field in ("label_probability", "importance"):
        with pytest.raises(ValueError, match=f"aot sorts all pairs and takes no {field}"):
            preference_loss({"sigmoid": 1.0, "aot": 1.0}, dataclasses.replace(pairs, **{field: jnp.ones(1)}))
    for field in ("reference_chosen", "reference_rejected"):
        without = dataclasses.replace(pairs, **{field: None})
        with pytest.raises(ValueError, match=rf"ipo, sigmoid needs .* of the reference model \({field}\)"):
            preference_loss({"sigmoid": 1.0, "sft": 1.0, "ipo": 1.0}, without)
        assert preference_loss("cpo", without)[0] == preference_loss("cpo", pairs)[0]
    with pytest.raises(AssertionError):
        preference_loss("sigmoid", dataclasses.replace(pairs, rejected=jnp.ones(2)))


def test_defaults():
    assert defaults("robust").given() == {"beta": 0.1, "label_smoothing": 0.1, "divergence": "reverse_kl",
                                          "divergence_alpha": 0.5}
    with pytest.raises(ValueError, match="no loss is called 'ppo'"):
        defaults("ppo")
    for name in LOSSES:
        resolve(name)  # every default passes the checks


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_converted_first(dtype):
    fields = jax.tree.map(lambda values: values.astype(dtype), pairs_of(**FIXTURE))
    (total, _), _ = preference_loss("sigmoid", fields)
    assert total.dtype == jnp.float32
    assert_allclose(total, 0.5981388694, rtol=1e-6)  # the fixture's numbers are exact in both
