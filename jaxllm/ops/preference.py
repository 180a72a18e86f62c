"""Preference losses on pairs of completions, or on single completions that are desirable or not.

`preference_losses` has the formulas; here settings are checked, losses are mixed and summed, and metrics are computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import chex
import jax.numpy as jnp
from jax import lax
from jax.nn import log_sigmoid

from jaxllm.ops.losses import SumAndWeight
from jaxllm.ops.pairs import Pairs, Unpaired, fill, floating, swap
from jaxllm.ops.preference_losses import (
    DIVERGENCES,
    LOSSES,
    MIXTURES,
    REFERENCE_FREE,
    SORTED,
    UNPAIRED,
    PreferenceSettings,
    log_odds,
    reference_point,
    reward_shift,
)


def defaults(name: str) -> PreferenceSettings:
    """Returns the default of every setting that a loss has; the others are None.

    Raises:
        ValueError: no loss has this name.
    """
    if name not in LOSSES:
        raise ValueError(f"no loss is called {name!r}; there are {', '.join(sorted(LOSSES))}")
    return LOSSES[name].defaults


def mixture(losses: str | Mapping[str, float]) -> dict[str, float]:
    """Returns the weights of losses by name: of a single loss, of a mixture of `MIXTURES`, or of a mapping itself."""
    if isinstance(losses, str):
        return dict(MIXTURES.get(losses, {losses: 1.0}))
    return dict(losses)


def resolve(losses: str | Mapping[str, float],
            settings: PreferenceSettings | None = None) -> dict[str, tuple[float, PreferenceSettings]]:
    """Returns the weight and the complete settings of every loss of a mixture.

    Losses with a reference model share one beta, so that they have one scale of rewards: by default that of the first.

    Args:
        losses: name of a loss or of a mixture, or weights of losses by name.
        settings: values that replace the defaults of all losses that have the setting.

    Returns:
        `{name: (weight, settings)}`.

    Raises:
        ValueError: a name is unknown, no loss has a setting, a value is outside its range, the losses cannot be
            combined, or the divergence does not suit a loss.
    """
    settings = PreferenceSettings() if settings is None else settings
    weights = mixture(losses)
    referring = [name for name in weights if name not in REFERENCE_FREE]
    resolved = {}
    for name, weight in weights.items():
        own = defaults(name)
        if name in referring:
            own = dataclasses.replace(own, beta=defaults(referring[0]).beta)
        given = {key: value for key, value in settings.given().items() if key in own.given()}
        resolved[name] = (weight, dataclasses.replace(own, **given))
        _check_values(name, resolved[name][1])
        _check(0.0 <= weight < math.inf, f"the weight of {name} must be 0 or more, got {weight}")
    _check(any(weight > 0 for weight in weights.values()), "a mixture needs a loss with a weight above 0")
    _check(not UNPAIRED & weights.keys() or weights.keys() <= UNPAIRED,
           f"{_names(UNPAIRED & weights.keys())} cannot be mixed with losses on pairs")
    imitating = [name for name, (_, own) in resolved.items() if name == "sft" or own.nll_weight]
    _check("orpo" not in weights or not imitating,
           f"orpo imitates prompts too, and {_names(imitating)} completions only, so that they cannot be mixed")
    for key in settings.given():
        _check(any(getattr(own, key) is not None for _, own in resolved.values()),
               f"{_names(weights)} has no setting {key}")
    if settings.divergence not in (None, "reverse_kl"):
        refused = [name for name, (_, own) in resolved.items() if own.divergence is None and name != "sft"]
        _check(not refused, f"{_names(refused)} has no divergence other than reverse_kl, got {settings.divergence}")
    _check(settings.divergence_alpha is None or settings.divergence == "alpha_divergence",
           "divergence_alpha is a setting of the divergence alpha_divergence")
    return resolved


def _names(names) -> str:
    return ", ".join(sorted(names))


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_values(name: str, own: PreferenceSettings) -> None:
    """Checks every value that the loss has."""
    positive = ("beta", "tau", "desirable_weight", "undesirable_weight")
    for key, value in own.given().items():
        if key in positive:
            _check(0.0 < value < math.inf, f"{key} must be above 0, got {value}")
        elif key in ("gamma", "margin", "nll_weight"):
            _check(0.0 <= value < math.inf, f"{key} must be 0 or more, got {value}")
        elif key in ("alpha", "divergence_alpha"):
            _check(math.isfinite(value), f"{key} must be finite, got {value}")
    wrong = own.label_smoothing
    if wrong is not None:
        _check(0.0 <= wrong <= 0.5, f"label_smoothing must be between 0 and 0.5, got {wrong}")
        _check(name != "robust" or wrong < 0.5, f"label_smoothing of robust must be below 0.5, got {wrong}")
        _check(name != "exo_pair" or wrong > 0.0, f"label_smoothing of exo_pair must be above 0, got {wrong}")
    _check(own.divergence in (None, *DIVERGENCES),
           f"divergence must be one of {', '.join(DIVERGENCES)}, got {own.divergence!r}")


def preference_loss(losses: str | Mapping[str, float], rows: Pairs | Unpaired,
                    settings: PreferenceSettings | None = None) -> tuple[SumAndWeight, dict[str, SumAndWeight]]:
    """Computes a loss, or a weighted sum of losses, over pairs or unpaired rows.

    Soft labels mix the loss of a pair and of the swapped pair: `p loss(pair) + (1 - p) loss(swapped pair)`.

    Args:
        losses: name of a loss or of a mixture, or weights of losses by name.
        rows: `Unpaired` for the losses of `UNPAIRED`, `Pairs` for all others. Losses of `COUPLED` need all rows of the
            step at once.
        settings: values that replace the losses' defaults.

    Returns:
        `((sum, weight), metrics)`. `sum / weight` is the mean over rows. Metrics are (sum, weight) too, detached:
        `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies` (share of pairs with a strictly
        larger reward of the chosen completion), `logps/chosen`, `logps/rejected` (summed log-probabilities of the
        policy), and for some losses `nll_loss`, `log_odds_chosen`, `log_odds_ratio`, `reward_shift`, `kl`. Rewards of
        a mixture are those of its first loss other than `sft`. Metrics of unpaired rows are without
        `rewards/accuracies` and `rewards/margins`, see `add_margin`; a metric has weight 0 where no row has the label,
        and `kl` where no row has a mismatched one.

    Raises:
        ValueError: see `resolve`; or the rows do not suit the loss.
    """
    parts = resolve(losses, settings)
    unpaired = bool(UNPAIRED & parts.keys())
    _check(isinstance(rows, Unpaired) == unpaired,
           f"{_names(parts)} needs {'unpaired rows' if unpaired else 'pairs'}")
    if isinstance(rows, Unpaired):
        return _unpaired_loss(parts, rows)
    for field in ("label_probability", "importance"):
        _check(getattr(rows, field) is None or not SORTED & parts.keys(),
               f"{_names(SORTED & parts.keys())} sorts all pairs and takes no {field}")
    referring = parts.keys() - REFERENCE_FREE
    for field in ("reference_chosen", "reference_rejected"):
        _check(getattr(rows, field) is not None or not referring,
               f"{_names(referring)} needs the log-probabilities of the reference model ({field})")
    pairs = fill(rows)
    total = lambda own: sum(weight * LOSSES[name].rows(own, settings) for name, (weight, settings) in parts.items())
    losses_of_rows = total(pairs)
    if pairs.label_probability is not None:
        right = pairs.label_probability
        losses_of_rows = right * losses_of_rows + (1.0 - right) * total(swap(pairs))
    value = jnp.sum(pairs.weight * pairs.importance * losses_of_rows)
    return (value, jnp.sum(pairs.weight)), lax.stop_gradient(_pair_metrics(parts, pairs))


def _pair_metrics(parts, pairs: Pairs) -> dict[str, SumAndWeight]:
    first = next((name for name in parts if name != "sft"), "sft")
    settings = parts[first][1]
    chosen, rejected = LOSSES[first].rewards(pairs, settings)
    values = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected,
              "rewards/accuracies": (chosen > rejected).astype(chosen.dtype),
              "logps/chosen": pairs.chosen, "logps/rejected": pairs.rejected}
    if "orpo" in parts:
        odds = log_odds(pairs)
        values |= {"log_odds_chosen": odds, "log_odds_ratio": log_sigmoid(odds)}
    if "bco" in parts:
        values["reward_shift"] = jnp.broadcast_to(reward_shift(pairs, parts["bco"][1]), chosen.shape)
    weight = jnp.sum(pairs.weight)
    metrics = {name: (jnp.sum(pairs.weight * own), weight) for name, own in values.items()}
    if {"sft", "orpo"} & parts.keys() or any(own.nll_weight for _, own in parts.values()):
        metrics["nll_loss"] = (jnp.sum(pairs.weight * pairs.chosen_nll),
                               jnp.sum(pairs.weight * pairs.chosen_nll_tokens))
    return metrics


def _unpaired_loss(parts, rows: Unpaired):
    chex.assert_rank(rows.weight, 1)
    arrays = [rows.policy, rows.reference, rows.weight, rows.desirable]
    chex.assert_equal_shape(arrays)
    chex.assert_type(arrays, float)
    _check("kto" not in parts or rows.kl is not None, "kto needs log-ratios of mismatched rows (kl)")
    weight = floating(rows.weight)
    clean = lambda values: jnp.where(weight > 0, floating(values), 0.0)
    rows = dataclasses.replace(rows, policy=clean(rows.policy), reference=lax.stop_gradient(clean(rows.reference)),
                               weight=weight, desirable=clean(rows.desirable))
    metrics: dict[str, SumAndWeight] = {}
    if rows.kl is not None:
        kl_weight = jnp.ones_like(rows.kl) if rows.kl_weight is None else rows.kl_weight
        chex.assert_equal_shape([rows.kl, kl_weight])
        rows = dataclasses.replace(rows, kl=jnp.where(kl_weight > 0, floating(rows.kl), 0.0), kl_weight=kl_weight)
        metrics["kl"] = (reference_point(rows), jnp.any(kl_weight > 0).astype(weight.dtype))
    losses = sum(part * LOSSES[name].rows(rows, settings) for name, (part, settings) in parts.items())
    name = next(iter(parts))
    rewards = LOSSES[name].rewards(rows, parts[name][1])
    for side, share in (("chosen", weight * rows.desirable), ("rejected", weight * (1.0 - rows.desirable))):
        metrics[f"rewards/{side}"] = (jnp.sum(share * rewards), jnp.sum(share))
        metrics[f"logps/{side}"] = (jnp.sum(share * rows.policy), jnp.sum(share))
    return (jnp.sum(weight * losses), jnp.sum(weight)), lax.stop_gradient(metrics)


def add_margin(means: Mapping[str, float]) -> dict[str, float]:
    """Adds `rewards/margins` to means over any number of unpaired rows, if desirable and undesirable ones occur."""
    chosen, rejected = means.get("rewards/chosen"), means.get("rewards/rejected")
    if "rewards/margins" in means or chosen is None or rejected is None:
        return dict(means)
    return {**means, "rewards/margins": chosen - rejected}
