"""Preference pairs and unpaired rows as arrays of log-probabilities, and the weights of their rows and tokens."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Preference pairs. Arrays are float32 `[P]` where nothing else is given.

    Rows with weight 0 are padding and may hold any value. A pair with an empty completion is dropped by weight 0.

    Attributes:
        chosen, rejected: log-probability of the completion under the policy, summed over its tokens, nats.
        chosen_tokens, rejected_tokens: number of tokens in these sums.
        weight: weight of the pair in the mean.
        reference_chosen, reference_rejected: the sums under the reference model; None for losses that have none.
        label_probability: probability that `chosen` is the better completion; None is 1.
        chosen_nll_scale: `[P]` or scalar; factor of the pair's negative log-likelihood that turns the step's mean over
            pairs into the mean over tokens, see `nll_scale`; None computes it from these rows.
        importance: factor of the pair's loss that is not part of its weight, see `wpo_weights`; detached.
        chosen_nll, rejected_nll: negative log-likelihood for the losses that also imitate the better completion; None
            is the negative of `chosen` and `rejected`. Differs where prompts are trained too, or tokens are weighted.
        chosen_nll_tokens, rejected_nll_tokens: number of tokens in these.
        reward_shift: scalar or `[P]`, the shift of the rewards of `bco`; None is the mean over these rows and over
            `earlier_rewards`.
        earlier_rewards: `[2]`, mean and weight of the rewards of earlier steps; None is none.
    """

    chosen: jax.Array
    rejected: jax.Array
    chosen_tokens: jax.Array
    rejected_tokens: jax.Array
    weight: jax.Array
    reference_chosen: jax.Array | None = None
    reference_rejected: jax.Array | None = None
    label_probability: jax.Array | None = None
    chosen_nll_scale: jax.Array | None = None
    importance: jax.Array | None = None
    chosen_nll: jax.Array | None = None
    rejected_nll: jax.Array | None = None
    chosen_nll_tokens: jax.Array | None = None
    rejected_nll_tokens: jax.Array | None = None
    reward_shift: jax.Array | None = None
    earlier_rewards: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unpaired:
    """Single completions, labeled as desirable or not. Arrays are float32 `[N]`.

    Attributes:
        policy, reference: log-probability of the completion under both models, summed over its tokens, nats.
        weight: weight of the row in the mean; 0 for padding, which may hold any value.
        desirable: probability that the completion is desirable; 1 and 0 for plain labels.
        kl: `[K]`, log-ratios of both models for prompts with the completion of another row; None without.
        kl_weight: `[K]`, 0 for padding; None is ones.
    """

    policy: jax.Array
    reference: jax.Array
    weight: jax.Array
    desirable: jax.Array
    kl: jax.Array | None = None
    kl_weight: jax.Array | None = None


# The sides of a pair, by field.
SIDES = (("chosen", "rejected"), ("chosen_tokens", "rejected_tokens"), ("reference_chosen", "reference_rejected"),
         ("chosen_nll", "rejected_nll"), ("chosen_nll_tokens", "rejected_nll_tokens"))


def floating(values: jax.Array) -> jax.Array:
    """Converts to float32; float64 stays."""
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def swap(pairs: Pairs) -> Pairs:
    """Exchanges the chosen and the rejected completions."""
    sides = {new: getattr(pairs, old) for side in SIDES for new, old in (side, side[::-1])}
    return dataclasses.replace(pairs, **sides)


def fill(pairs: Pairs) -> Pairs:
    """Replaces None by its meaning and padding by zeros; completions have at least one token.

    Only `label_probability`, `reward_shift` and `earlier_rewards` stay None.
    """
    chex.assert_rank(pairs.weight, 1)
    per_row = [getattr(pairs, name) for side in SIDES for name in side] + [pairs.label_probability, pairs.importance]
    given = [values for values in per_row if values is not None]
    chex.assert_equal_shape([pairs.weight, *given])
    chex.assert_type([pairs.weight, *given], float)
    weight = floating(pairs.weight)
    clean = lambda values: jnp.where(weight > 0, floating(values), 0.0)
    row = lambda values, default: default if values is None else clean(values)
    zero = jnp.zeros_like(weight)
    new: dict = {"weight": weight, "importance": lax.stop_gradient(row(pairs.importance, zero + 1.0))}
    for names in zip(*SIDES, strict=True):
        total, tokens, reference, nll, nll_tokens = (getattr(pairs, name) for name in names)
        total, tokens = clean(total), clean(tokens)
        new |= dict(zip(names, (total, jnp.maximum(tokens, 1.0), lax.stop_gradient(row(reference, zero)),
                                row(nll, -total), row(nll_tokens, tokens)), strict=True))
    if pairs.label_probability is not None:
        new["label_probability"] = clean(pairs.label_probability)
    scale = pairs.chosen_nll_scale
    if scale is None:
        scale = nll_scale(weight, new["chosen_nll_tokens"], new["rejected_nll_tokens"], new.get("label_probability"))
    new["chosen_nll_scale"] = clean(jnp.broadcast_to(scale, weight.shape))
    return dataclasses.replace(pairs, **new)


def nll_scale(weight: jax.Array, chosen_tokens: jax.Array, rejected_tokens: jax.Array | None = None,
              label_probability: jax.Array | None = None) -> jax.Array:
    """Computes the factor of a step that turns a mean over pairs into a mean over tokens.

    The mean over pairs of `scale * NLL` is the sum of all NLLs divided by the number of all tokens.

    Args:
        weight: weights of all pairs of the step, any shape.
        chosen_tokens: number of trained tokens of the chosen completions.
        rejected_tokens, label_probability: for soft labels, which imitate both completions in proportion.

    Returns:
        Scalar: sum of weights / weighted sum of tokens; 0 without tokens.
    """
    chex.assert_equal_shape([weight, chosen_tokens])
    tokens = floating(chosen_tokens)
    if label_probability is not None:
        chex.assert_equal_shape([weight, rejected_tokens, label_probability])
        tokens = label_probability * tokens + (1.0 - label_probability) * floating(rejected_tokens)
    total = jnp.sum(weight * tokens)
    return jnp.where(total > 0, jnp.sum(weight) / jnp.where(total > 0, total, 1.0), 0.0)


def wpo_weights(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    """Computes the weights of pairs by their probability under the policy (WPO, 2406.11827), for `Pairs.importance`.

    The weight is the product of both completions' `exp(mean aligned log-probability)`. It is detached and not clamped.

    Args:
        chosen, rejected: `[P]`, mean over a completion's tokens of `token_aligned_logprobs`.

    Returns:
        `[P]` float32. 1 is a pair of two samples of average probability.
    """
    chex.assert_equal_shape([chosen, rejected])
    chex.assert_type([chosen, rejected], float)
    return lax.stop_gradient(jnp.exp(floating(chosen) + floating(rejected)))


def ld_token_weights(positions: ArrayLike, tokens: ArrayLike, other_tokens: ArrayLike, alpha: float) -> np.ndarray:
    """Computes factors of tokens that desensitize a loss to length (LD-DPO, 2409.06411), on the host.

    Tokens beyond the length of the shorter completion of the pair are weighted by `alpha`, under both models.

    Args:
        positions: index of a token in its completion, from 0.
        tokens: number of tokens of that completion; broadcasts with `positions`.
        other_tokens: number of tokens of the pair's other completion.
        alpha: factor in [0, 1]; 1 leaves the loss as it is.

    Returns:
        float32, in the shape of `positions`.

    Raises:
        ValueError: alpha is outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha:g}")
    return np.where(np.asarray(positions) < np.minimum(tokens, other_tokens), np.float32(1), np.float32(alpha))
