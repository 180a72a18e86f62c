"""Losses of models with scores: reward models on pairs, and classifiers."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import log_sigmoid, log_softmax

from jaxllm.ops.losses import SumAndWeight
from jaxllm.ops.pairs import floating

EXTREMES = {"min_reward": jnp.minimum, "max_reward": jnp.maximum}
"""How metrics of a part of a batch are combined that are no sums; see `make_train_step`."""


def reward_loss(chosen: jax.Array, rejected: jax.Array, weight: jax.Array, *, margin: jax.Array | None = None,
                label_probability: jax.Array | None = None,
                centering: float = 0.0) -> tuple[SumAndWeight, dict[str, SumAndWeight]]:
    """Computes the Bradley-Terry loss of a reward model, `-log sigmoid(chosen - rejected - margin)`.

    A margin demands a larger difference where the preference is stronger (Llama 2, 2307.09288). Centering adds
    `centering (chosen + rejected)^2`, because the loss alone leaves the mean score open (2312.09244). Soft labels mix
    the loss of the pair and of the swapped pair.

    Args:
        chosen, rejected: `[P]` scores of the completions; converted to float32.
        weight: `[P]` weight of the pair in the mean; 0 for padding, which may hold any value.
        margin: `[P]`; None is 0.
        label_probability: `[P]` probability that `chosen` is the better completion; None is 1.
        centering: coefficient, 0 or more; 0.01 is the paper's.

    Returns:
        `((sum, weight), metrics)`: float32 scalars. Metrics are (sum, weight), detached: `accuracy` (share of pairs
        with a strictly higher score of the chosen completion), `margin` (difference of the scores), `mean_reward`, and
        `min_reward`, `max_reward` of these rows, with the weight 1; see `EXTREMES`.

    Raises:
        ValueError: centering is negative.
    """
    if not 0.0 <= centering < float("inf"):
        raise ValueError(f"centering must be 0 or more, got {centering}")
    given = [values for values in (chosen, rejected, weight, margin, label_probability) if values is not None]
    chex.assert_rank(given, 1)
    chex.assert_equal_shape(given)
    chex.assert_type(given, float)
    weight = floating(weight)
    present = weight > 0
    clean = lambda values: jnp.where(present, floating(values), 0.0)
    chosen, rejected = clean(chosen), clean(rejected)
    least = 0.0 if margin is None else clean(margin)
    losses = -log_sigmoid(chosen - rejected - least)
    if label_probability is not None:
        right = clean(label_probability)
        losses = right * losses - (1.0 - right) * log_sigmoid(rejected - chosen - least)
    losses += centering * jnp.square(chosen + rejected)
    total = jnp.sum(weight)
    mean = lambda values: (jnp.sum(weight * values), total)
    some = jnp.any(present).astype(total.dtype)
    lowest = jnp.min(jnp.where(present, jnp.minimum(chosen, rejected), jnp.inf))
    highest = jnp.max(jnp.where(present, jnp.maximum(chosen, rejected), -jnp.inf))
    metrics = {"accuracy": mean((chosen > rejected).astype(total.dtype)), "margin": mean(chosen - rejected),
               "mean_reward": mean((chosen + rejected) / 2.0),
               "min_reward": (jnp.where(some > 0, lowest, 0.0), some),
               "max_reward": (jnp.where(some > 0, highest, 0.0), some)}
    return mean(losses), lax.stop_gradient(metrics)


def class_cross_entropy(logits: jax.Array, labels: jax.Array, weight: jax.Array, *,
                        label_smoothing: float = 0.0) -> tuple[SumAndWeight, dict[str, SumAndWeight]]:
    """Computes the cross-entropy of a classifier, with label smoothing.

    Args:
        logits: `[B, C]`, C at least 2; converted to float32.
        labels: `[B]` int32 class ids.
        weight: `[B]` weight of the row in the mean; 0 for padding, which may hold any value.
        label_smoothing: probability mass of each label that is spread evenly over all classes, in [0, 1).

    Returns:
        `((sum, weight), metrics)`: float32 scalars. `accuracy` is (sum, weight), detached.

    Raises:
        ValueError: there are fewer than two classes, or the share is outside its range.
    """
    chex.assert_rank([logits, labels, weight], [2, 1, 1])
    chex.assert_equal_shape_prefix([logits, labels, weight], 1)
    chex.assert_type([logits, labels, weight], [float, int, float])
    if logits.shape[1] < 2:
        raise ValueError("a classifier needs two classes or more: the cross-entropy of a single one is always 0")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    weight = floating(weight)
    present = weight > 0
    log_probs = log_softmax(jnp.where(present[:, None], floating(logits), 0.0))
    labels = jnp.where(present, labels, 0)
    right = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    losses = -(1.0 - label_smoothing) * right - label_smoothing * log_probs.mean(1)
    hits = (jnp.argmax(log_probs, axis=1) == labels).astype(weight.dtype)
    total = jnp.sum(weight)
    return (jnp.sum(weight * losses), total), lax.stop_gradient({"accuracy": (jnp.sum(weight * hits), total)})
