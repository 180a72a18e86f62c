"""Metrics of held-back rows, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.finetune.objectives import Objective, objective_loss
from jaxllm.finetune.tune.groups import Values
from jaxllm.ops.preference import add_margin
from jaxllm.statistics import clustered, clustered_sums, rate, resampled_units

# Metrics of a whole batch, which are no means over its rows; and those that are shares of rows or tokens.
_OF_ALL_ROWS = ("kl", "reward_shift", "min_reward", "max_reward")
_SHARES = ("accuracy", "rewards/accuracies", "mean_token_accuracy")


def measure(objective: Objective, outputs: Mapping[str, np.ndarray], values: Values, clusters: Sequence[Any],
            seed: int = 0) -> tuple[dict[str, dict[str, float | int | None]], dict[str, np.ndarray]]:
    """Computes the loss and the metrics over all rows of a data set, with intervals.

    Args:
        objective: the loss.
        outputs, values: from `Runner.outputs`.
        clusters: the prompt of every row; an interval resamples these.
        seed: seed of the intervals.

    Returns:
        `{mean, ci_low, ci_high, n}` by metric, the interval None for `reward_shift`, extremes, and losses on sorted
        values; and the metrics of every row `[n]`, NaN where a row has none. The loss of a row of KTO is that at the
        reference point of all rows.
    """
    totals = means(objective, outputs, values)
    groups = resampled_units(clusters)  # of one prompt for all, the answers are what varies
    outputs = dict(outputs)
    reference = outputs.pop("reference", None)
    result: dict[str, dict[str, float | int | None]] = {
        name: {"mean": mean, "ci_low": None, "ci_high": None, "n": len(groups)} for name, mean in totals.items()}
    if objective.mismatched:
        assert reference is not None
        counted, ratios = values["mismatched"], outputs["logprobs"][:, 1] - reference[:, 1]
        point = totals.get("kl", 0.0)
        if "kl" in totals:
            result["kl"] |= _of_sums([counted * ratios, counted], lambda s: np.maximum(s[..., 0] / s[..., 1], 0.0),
                                     groups, seed)
        outputs["logprobs"] = np.stack([outputs["logprobs"][:, 0], np.full_like(ratios, point)], 1)
        reference, values = reference * np.array([1, 0], np.float32), values | {"mismatched": np.ones_like(counted)}
    each = lambda x: objective_loss(objective, *jax.tree.map(lambda leaf: leaf[None], x))
    loss, metrics = jax.vmap(each)((outputs, values, reference))
    by_row: dict[str, np.ndarray] = {}
    for name, (sums, weights) in {"loss": loss, **metrics}.items():
        sums, weights = np.asarray(sums, np.float64), np.asarray(weights, np.float64)
        counted = weights > 0
        if name in totals and name not in _OF_ALL_ROWS and not (name == "loss" and objective.sorts):
            by_row[name] = np.where(counted, sums / np.where(counted, weights, 1.0), np.nan)
            given, weights = (by_row[name][counted], groups[counted], seed), weights[counted]
            result[name] |= rate(*given, weights=weights) if name in _SHARES else clustered(*given, weights=weights)
    if "rewards/margins" in totals.keys() - metrics.keys():  # of unpaired rows: a difference of two means
        result["rewards/margins"] |= _of_sums(
            [np.asarray(sums) for side in ("chosen", "rejected") for sums in metrics[f"rewards/{side}"]],
            lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3], groups, seed)
    return result, by_row


def _of_sums(columns: Sequence[np.ndarray], ratio: Callable[[np.ndarray], np.ndarray], groups: np.ndarray, seed: int
             ) -> dict[str, float | int | None]:
    """Computes a function of sums over rows with an interval, as `clustered_sums` of columns `[n]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = clustered_sums(np.stack(columns, 1), ratio, groups, seed)
    return {name: found[name] for name in ("mean", "ci_low", "ci_high", "n")}


def means(objective: Objective, outputs: Mapping[str, np.ndarray], values: Values) -> dict[str, float]:
    """Computes the loss and the metrics over all rows of a data set; the arguments are those of `measure`."""
    outputs = dict(outputs)
    reference = outputs.pop("reference", None)
    loss, metrics = objective_loss(objective, outputs, values, reference)
    return add_margin({name: float(total) / float(weight) for name, (total, weight) in {"loss": loss, **metrics}.items()
                       if float(weight) > 0})
