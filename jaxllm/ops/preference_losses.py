"""The table of preference losses: formula, default settings and paper of each.

A loss is a function of the log-probabilities of whole completions. With

    h = log p(y | x) - log p_reference(y | x)      of a completion y of the prompt x
    delta = h_chosen - h_rejected

`beta h` is the reward that the policy implies (DPO, 2305.18290), and `beta delta` its margin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import lax
from jax.nn import log_sigmoid, relu, sigmoid

FDivergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
DIVERGENCES: tuple[FDivergence, ...] = get_args(FDivergence)
# exp(80) is finite in float32, and so is the square of 1e18.
MAX_EXPONENT = 80.0
MAX_SQUARED = 1e18
# Mean log-probabilities are at most minus this where log(1 - p) is computed.
MIN_NLL = 1e-6


@dataclasses.dataclass(frozen=True)
class PreferenceSettings:
    """Settings of preference losses; null is the default of the loss, see `defaults`.

    Args:
        beta: scale of the rewards; a larger one keeps the policy closer to the reference model. Losses of a mixture
            that have a reference model share one, by default that of the first of them.
        label_smoothing: probability that a label is wrong, at most 0.5, for cdpo, robust, exo_pair and some others.
        gamma: margin between the rewards of simpo and alphapo.
        alpha: shape of the rewards of alphapo; 0 is the mean log-probability.
        tau: temperature of the mixing weight of discopop.
        margin: margin between the summed log-probabilities of slic_hf.
        nll_weight: weight of the mean negative log-likelihood of the chosen completion's tokens, for cpo, simpo,
            alphapo and slic_hf.
        length_normalized: whether ipo takes means over tokens; false takes sums.
        divergence: from the reference model (f-DPO, 2309.16240): reverse_kl, forward_kl, js_divergence or
            alpha_divergence.
        divergence_alpha: order of alpha_divergence; at 1 it is reverse_kl.
        desirable_weight: factor of the loss of desirable unpaired rows.
        undesirable_weight: factor of the loss of undesirable unpaired rows.
    """

    beta: float | None = None
    label_smoothing: float | None = None
    gamma: float | None = None
    alpha: float | None = None
    tau: float | None = None
    margin: float | None = None
    nll_weight: float | None = None
    length_normalized: bool | None = None
    divergence: FDivergence | None = None
    divergence_alpha: float | None = None
    desirable_weight: float | None = None
    undesirable_weight: float | None = None

    def given(self) -> dict[str, Any]:
        """Returns the settings that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Loss(NamedTuple):
    """One loss.

    Attributes:
        rows: computes the losses of all rows, `(rows, settings) -> [P]`.
        rewards: computes the rewards for the metrics, `(rows, settings) -> ([P], [P])`, chosen and rejected.
        defaults: a value for every setting that the loss has; a setting that is None here is refused.
        source: paper of the formula.
    """

    rows: Callable
    rewards: Callable
    defaults: PreferenceSettings
    source: str


def _log_ratios(pairs):
    return pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected


def _score(log_ratio, settings):
    """Computes f'(exp(log_ratio)) of the divergence, the reward without its scale; 0 at a log-ratio of 0."""
    order = settings.divergence_alpha
    if settings.divergence == "forward_kl":
        return -jnp.expm1(jnp.minimum(-log_ratio, MAX_EXPONENT))
    if settings.divergence == "js_divergence":
        return math.log(2.0) + log_sigmoid(log_ratio)
    if settings.divergence == "alpha_divergence" and abs(order - 1.0) > 1e-6:
        return jnp.expm1(jnp.minimum((order - 1.0) * log_ratio, MAX_EXPONENT)) / (order - 1.0)
    return log_ratio


def _margin(pairs, settings, *, mean=False):
    """Computes delta on scores, or on scores divided by the number of tokens."""
    chosen, rejected = (_score(log_ratio, settings) for log_ratio in _log_ratios(pairs))
    return chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens if mean else chosen - rejected


def _means(pairs):
    return pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens


def _smoothed(margin, smoothing):
    """Computes the cross-entropy of a label that is right with probability `1 - smoothing`."""
    return -(1.0 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)


def _nll(pairs):
    """Computes the share of every pair in the mean over the tokens of the better completions."""
    return pairs.chosen_nll_scale * pairs.chosen_nll


def _sigmoid(pairs, settings):
    return -log_sigmoid(settings.beta * _margin(pairs, settings))


def _cdpo(pairs, settings):
    return _smoothed(settings.beta * _margin(pairs, settings), settings.label_smoothing)


def _robust(pairs, settings):
    margin, wrong = settings.beta * _margin(pairs, settings), settings.label_smoothing
    return (-(1.0 - wrong) * log_sigmoid(margin) + wrong * log_sigmoid(-margin)) / (1.0 - 2.0 * wrong)


def _hinge(pairs, settings):
    return relu(1.0 - settings.beta * _margin(pairs, settings))


def _ipo(pairs, settings):
    margin = _margin(pairs, settings, mean=settings.length_normalized)
    return jnp.square(jnp.clip(margin - 0.5 / settings.beta, -MAX_SQUARED, MAX_SQUARED))


def _exo_pair(pairs, settings):
    margin, wrong = settings.beta * _margin(pairs, settings), settings.label_smoothing
    right_term = sigmoid(margin) * (log_sigmoid(margin) - math.log1p(-wrong))
    return right_term + sigmoid(-margin) * (log_sigmoid(-margin) - math.log(wrong))


def _nca_pair(pairs, settings):
    chosen, rejected = _implied_rewards(pairs, settings)
    return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def _bco_pair(pairs, settings):
    chosen, rejected = _implied_rewards(pairs, settings)
    return -log_sigmoid(chosen) - log_sigmoid(-rejected)


def reward_shift(pairs, settings):
    """Returns the given shift, or computes the mean reward of the rows and of those of earlier steps."""
    if pairs.reward_shift is not None:
        return lax.stop_gradient(pairs.reward_shift)
    total = jnp.sum(pairs.weight * sum(_implied_rewards(pairs, settings))) / 2.0
    weight = jnp.sum(pairs.weight)
    if pairs.earlier_rewards is not None:
        mean, earlier = pairs.earlier_rewards
        total, weight = total + mean * earlier, weight + earlier
    return lax.stop_gradient(total / _at_least_tiny(weight))


def _bco(pairs, settings):
    chosen, rejected = _implied_rewards(pairs, settings)
    shift = reward_shift(pairs, settings)
    return -log_sigmoid(chosen - shift) - log_sigmoid(shift - rejected)


def _sppo_hard(pairs, settings):
    chosen, rejected = _log_ratios(pairs)
    return jnp.square(chosen - 0.5 / settings.beta) + jnp.square(rejected + 0.5 / settings.beta)


def _apo_zero(pairs, settings):
    chosen, rejected = _implied_rewards(pairs, settings)
    return sigmoid(-chosen) + sigmoid(rejected)


def _apo_down(pairs, settings):
    chosen, rejected = _implied_rewards(pairs, settings)
    return sigmoid(chosen) + sigmoid(rejected - chosen)


def _discopop(pairs, settings):
    margin = settings.beta * _margin(pairs, settings)
    # exp(-z) sigmoid(z / tau) as one exponential: the first factor alone overflows.
    exponential = jnp.exp(jnp.minimum(log_sigmoid(margin / settings.tau) - margin, MAX_EXPONENT))
    return exponential - sigmoid(-margin / settings.tau) * log_sigmoid(margin)


def _sigmoid_norm(pairs, settings):
    return -log_sigmoid(settings.beta * _margin(pairs, settings, mean=True))


def _sft(pairs, settings):
    return _nll(pairs)


def _sorted_losses(left, right, pairs, settings):
    """Compares the sorted values of both arguments: the k-th smallest with the k-th smallest.

    The order is that of all rows, on all devices. Rows of weight 0 are left out; other weights have no effect on it.

    Returns:
        `[P]`, the mean loss in every row.
    """
    present = pairs.weight > 0
    count = jnp.sum(present)
    ranks = jnp.arange(present.size) < count
    order = lambda values: jnp.where(ranks, jnp.sort(jnp.where(present, values, jnp.inf)), 0.0)
    losses = _smoothed(settings.beta * (order(left) - order(right)), settings.label_smoothing)
    mean = jnp.sum(jnp.where(ranks, losses, 0.0)) / jnp.maximum(count, 1)
    return jnp.broadcast_to(mean, present.shape)


def _aot(pairs, settings):
    return _sorted_losses(pairs.chosen - pairs.rejected, pairs.reference_chosen - pairs.reference_rejected,
                          pairs, settings)


def _aot_unpaired(pairs, settings):
    chosen, rejected = _log_ratios(pairs)
    return _sorted_losses(chosen, rejected, pairs, settings)


def _slic_hf(pairs, settings):
    return relu(settings.margin - (pairs.chosen - pairs.rejected)) + settings.nll_weight * _nll(pairs)


def _with_nll(losses, pairs, settings):
    """Adds the weighted negative log-likelihood."""
    return losses + settings.nll_weight * _nll(pairs) if settings.nll_weight else losses


def _reward_margin(rewards, pairs, settings):
    """Computes the loss of SimPO and AlphaPO, which differ in the rewards."""
    chosen, rejected = rewards(pairs, settings)
    return _with_nll(_smoothed(chosen - rejected - settings.gamma, settings.label_smoothing), pairs, settings)


def _simpo(pairs, settings):
    return _reward_margin(_averaged_rewards, pairs, settings)


def _alphapo(pairs, settings):
    return _reward_margin(_shaped_rewards, pairs, settings)


def log_odds(pairs):
    """Computes the log of the ratio of odds p / (1 - p), where p is the geometric mean of token probabilities."""
    chosen, rejected = (jnp.minimum(mean, -MIN_NLL) for mean in _means(pairs))
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def _log1mexp(x):
    """Computes `log(1 - exp(x))` for x < 0, each half of the range by the formula that is exact there."""
    near = x > -math.log(2.0)
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


def _orpo(pairs, settings):
    return _nll(pairs) - settings.beta * log_sigmoid(log_odds(pairs))


def _cpo(pairs, settings):
    losses = _smoothed(settings.beta * (pairs.chosen - pairs.rejected), settings.label_smoothing)
    return _with_nll(losses, pairs, settings)


def _implied_rewards(pairs, settings):
    chosen, rejected = _log_ratios(pairs)
    return settings.beta * chosen, settings.beta * rejected


def _summed_rewards(pairs, settings):
    beta = 1.0 if settings.beta is None else settings.beta
    return beta * pairs.chosen, beta * pairs.rejected


def _averaged_rewards(pairs, settings):
    chosen, rejected = _means(pairs)
    return settings.beta * chosen, settings.beta * rejected


def _shaped_rewards(pairs, settings):
    """Computes `beta (1 - p^-alpha) / alpha`, with p the geometric mean of the completion's token probabilities."""
    alpha = settings.alpha
    if abs(alpha) < 1e-6:
        return _averaged_rewards(pairs, settings)
    shape = lambda mean: settings.beta * -jnp.expm1(jnp.minimum(-alpha * mean, MAX_EXPONENT)) / alpha
    chosen, rejected = _means(pairs)
    return shape(chosen), shape(rejected)


def _unpaired_rewards(rows, settings):
    return settings.beta * (rows.policy - rows.reference)


def _by_label(rows, settings, desirable, undesirable):
    return (rows.desirable * settings.desirable_weight * desirable
            + (1.0 - rows.desirable) * settings.undesirable_weight * undesirable)


def _kto(rows, settings):
    margin = _unpaired_rewards(rows, settings) - settings.beta * reference_point(rows)
    return _by_label(rows, settings, sigmoid(-margin), sigmoid(margin))


def _apo_zero_unpaired(rows, settings):
    rewards = _unpaired_rewards(rows, settings)
    return _by_label(rows, settings, sigmoid(-rewards), sigmoid(rewards))


def reference_point(rows):
    """Computes z0, the estimate of the KL divergence: the mean log-ratio of all mismatched rows, at least 0."""
    mean = jnp.sum(rows.kl_weight * rows.kl) / _at_least_tiny(jnp.sum(rows.kl_weight))
    return lax.stop_gradient(jnp.maximum(mean, 0.0))


def _at_least_tiny(weight):
    return jnp.where(weight > 0, weight, 1.0)


def _implied(rows, source, beta, **more):
    return Loss(rows, _implied_rewards, PreferenceSettings(beta=beta, **more), source)


DPO: dict[str, Any] = {"divergence": "reverse_kl", "divergence_alpha": 0.5}
LABELED: dict[str, Any] = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
LOSSES = {
    "sigmoid": _implied(_sigmoid, "DPO, 2305.18290", 0.1, **DPO),
    "cdpo": _implied(_cdpo, "conservative DPO, ericmitchell.ai/cdpo.pdf", 0.1, label_smoothing=0.1, **DPO),
    "robust": _implied(_robust, "robust DPO, 2403.00409", 0.1, label_smoothing=0.1, **DPO),
    "hinge": _implied(_hinge, "RSO, 2309.06657", 0.05, **DPO),
    "ipo": _implied(_ipo, "IPO, 2310.12036", 0.1, length_normalized=True, **DPO),
    "exo_pair": _implied(_exo_pair, "EXO, 2402.00856", 0.1, label_smoothing=1e-3, **DPO),
    "nca_pair": _implied(_nca_pair, "NCA, 2402.05369", 0.01),
    "bco_pair": _implied(_bco_pair, "BCO without shift, 2404.04656", 0.01),
    "bco": _implied(_bco, "BCO, 2404.04656", 0.01),
    "sppo_hard": _implied(_sppo_hard, "SPPO, 2405.00675", 0.001),
    "aot": _implied(_aot, "AOT, 2406.05882", 0.01, label_smoothing=0.0),
    "aot_unpaired": _implied(_aot_unpaired, "AOT, 2406.05882", 0.01, label_smoothing=0.0),
    "apo_zero": _implied(_apo_zero, "APO, 2408.06266", 0.1),
    "apo_down": _implied(_apo_down, "APO, 2408.06266", 0.1),
    "discopop": _implied(_discopop, "DiscoPOP, 2406.08414", 0.05, tau=0.05, **DPO),
    "sigmoid_norm": _implied(_sigmoid_norm, "Tulu 3, 2411.15124", 5.0, **DPO),
    "sft": Loss(_sft, _summed_rewards, PreferenceSettings(), "cross-entropy of the chosen completions"),
    # Margin and weight are not the paper's.
    "slic_hf": Loss(_slic_hf, _summed_rewards, PreferenceSettings(margin=1.0, nll_weight=1.0), "SLiC-HF, 2305.10425"),
    "simpo": Loss(_simpo, _averaged_rewards,
                  PreferenceSettings(beta=2.0, gamma=0.5, label_smoothing=0.0, nll_weight=0.0), "SimPO, 2405.14734"),
    "alphapo": Loss(_alphapo, _shaped_rewards,
                    PreferenceSettings(beta=2.5, gamma=0.1, alpha=0.25, label_smoothing=0.0, nll_weight=0.0),
                    "AlphaPO, 2501.03884"),
    "orpo": Loss(_orpo, _averaged_rewards, PreferenceSettings(beta=0.1), "ORPO, 2403.07691"),
    "cpo": Loss(_cpo, _summed_rewards, PreferenceSettings(beta=0.1, label_smoothing=0.0, nll_weight=1.0),
                "CPO, 2401.08417"),
    "kto": Loss(_kto, _unpaired_rewards, PreferenceSettings(beta=0.1, **LABELED), "KTO, 2402.01306"),
    "apo_zero_unpaired": Loss(_apo_zero_unpaired, _unpaired_rewards, PreferenceSettings(beta=0.1, **LABELED),
                              "APO, 2408.06266"),
}
MIXTURES: dict[str, dict[str, float]] = {
    "mpo": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0},  # 2411.10442
    "rpo": {"sigmoid": 1.0, "sft": 0.005},  # 2405.16436
}
# On `Unpaired` rows; all others are on `Pairs`.
UNPAIRED = frozenset({"kto", "apo_zero_unpaired"})
# Without a reference model.
REFERENCE_FREE = frozenset({"sft", "slic_hf", "simpo", "alphapo", "orpo", "cpo"})
# A row's loss depends on the other rows, so a step's rows cannot be split into microbatches.
COUPLED = frozenset({"aot", "aot_unpaired", "bco", "kto"})
# On sorted values, which belong to no single pair: without soft labels and without weights by `importance`.
SORTED = frozenset({"aot", "aot_unpaired"})
