"""Losses of reinforcement learning: divergences from a reference model, clipped policy losses, value losses.

Arrays of tokens are `[B, T]` as in `advantages`; losses are `(sum, weight)`, divided once over the whole batch.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.ops.losses import SumAndWeight

KlKind = Literal["full", "k1", "k2", "k3", "abs"]
Ratio = Literal["token", "sequence", "sequence_mean", "none"]
Aggregate = Literal["token", "sequence", "constant"]
# Bound of log-ratios, so that their exponential is finite in float32.
LOG_RATIO_LIMIT = 20.0


def token_kl(kind: KlKind, logprobs: jax.Array, reference: jax.Array) -> jax.Array:
    """Estimates the KL divergence from the reference model at every token, from the log-probability of the sample.

        k1:   log p - log q              unbiased; negative for some tokens
        k2:   (log p - log q)^2 / 2      its gradient in a loss is that of KL(p || q) (for samples of p)
        k3:   q / p - 1 - log (q / p)    unbiased and never negative; its gradient in a loss is that of KL(q || p);
                                         constant from q / p = e^20 on, where its exponential would overflow
        abs:  |log p - log q|

    `full`, the divergence of the whole distributions, is `ops.token_statistics`. The gradient of k1 in a loss is 0 in
    expectation: it belongs in the reward.

    Args:
        kind: k1, k2, k3 or abs.
        logprobs, reference: log-probability of the token under the policy and under the reference model, same shape.

    Returns:
        float32, in that shape.

    Raises:
        ValueError: full, or an unknown kind.
    """
    chex.assert_equal_shape([logprobs, reference])
    chex.assert_type([logprobs, reference], float)
    difference = logprobs.astype(jnp.float32) - reference.astype(jnp.float32)
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * jnp.square(difference)
    if kind == "k3":
        difference = jnp.maximum(difference, -LOG_RATIO_LIMIT)
        return jnp.expm1(-difference) + difference
    if kind == "abs":
        return jnp.abs(difference)
    raise ValueError(f"{kind} is not computed from the log-probabilities of samples")


def importance_weights(logprobs: jax.Array, sampler: jax.Array, mask: jax.Array, cap: float = 2.0,
                       ratio: Ratio = "token") -> jax.Array:
    """Computes truncated importance weights `min(p / p_sampler, cap)`, where the sampler is not quite the policy.

    Another engine, precision or quantization makes the difference. The weights are detached, and multiply the policy
    loss. They are of the form of its ratio: a response has one weight where it has one ratio, computed before the cap.

    Args:
        logprobs: `[B, T]`, under the policy before the update.
        sampler: `[B, T]`, under the distribution that the tokens were drawn from.
        mask: `[B, T]`.
        cap: largest weight.
        ratio: see `PolicySettings`: the weight of every token (token, none), or of the response: the product over its
            tokens (sequence) or their geometric mean (sequence_mean).

    Returns:
        `[B, T]` float32, 1 outside the mask.
    """
    chex.assert_equal_shape([logprobs, sampler, mask])
    real = mask > 0
    difference = jnp.where(real, logprobs.astype(jnp.float32) - sampler.astype(jnp.float32), 0.0)
    difference = _log_ratio(ratio, difference, real)
    weights = jnp.exp(jnp.minimum(difference, jnp.log(jnp.float32(cap))))
    return lax.stop_gradient(jnp.where(real, weights, 1.0))


def _log_ratio(ratio: Ratio, change: jax.Array, real: jax.Array) -> jax.Array:
    """Computes the log-ratio that every token counts with, `[B, T]`: its own, or that of its response.

    Args:
        ratio: see `PolicySettings`.
        change: log-ratio of the token, 0 outside the mask.
        real: bool, tokens of the response.
    """
    if ratio not in ("sequence", "sequence_mean"):
        return change
    total = change.sum(1, keepdims=True)
    if ratio == "sequence_mean":
        total /= jnp.maximum(real.sum(1, keepdims=True), 1)
    return jnp.broadcast_to(total, change.shape)


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """Form of the policy loss.

    Args:
        ratio: ratio of new and old probability: of every token; of the whole response, as the product over its tokens
            (sequence, RLOO) or their geometric mean (sequence_mean, GSPO); or none (REINFORCE), `-A log p`.
        clip_low, clip_high: ratios are clipped to 1 - clip_low .. 1 + clip_high; null does not clip.
        aggregate: the mean is over all tokens of the batch (token), over responses of the mean over their tokens
            (sequence), or the sum over responses and their token limit (constant, Dr. GRPO).
    """

    ratio: Ratio = "token"
    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    aggregate: Aggregate = "token"


def policy_terms(settings: PolicySettings, logprobs: jax.Array, old_logprobs: jax.Array, advantages: jax.Array,
                 mask: jax.Array, importance: jax.Array | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the policy loss of every token, `max(-A ratio, -A clip(ratio))` (PPO, 1707.06347).

    Args:
        settings: form of the loss.
        logprobs: `[B, T]`, under the policy now.
        old_logprobs: `[B, T]`, before the update.
        advantages: `[B, T]`, or `[B]` for one of the whole response.
        mask: `[B, T]`.
        importance: `[B, T]`, from `importance_weights`; None is 1.

    Returns:
        `[B, T]` float32, 0 outside the mask; and detached values of every token: `ratio`, `clipped` (1 where the
        clipped loss is the larger one), `approx_kl` = (log p - log p_old)^2 / 2, `policy_kl` = log p_old - log p.
    """
    chex.assert_rank(logprobs, 2)
    chex.assert_equal_shape([logprobs, old_logprobs, mask])
    chex.assert_type([logprobs, old_logprobs, advantages], float)
    real = mask > 0
    advantages = advantages if advantages.ndim == 2 else jnp.broadcast_to(advantages[:, None], mask.shape)
    chex.assert_equal_shape([advantages, mask])
    clean = lambda x: jnp.where(real, x.astype(jnp.float32), 0.0)
    logprobs, old_logprobs, advantages = clean(logprobs), clean(lax.stop_gradient(old_logprobs)), clean(advantages)
    advantages = lax.stop_gradient(advantages)
    change = logprobs - old_logprobs  # masked before the exponential: an infinite one would give a NaN gradient
    log_ratio = _log_ratio(settings.ratio, change, real)
    if settings.ratio in ("sequence", "sequence_mean"):
        count = jnp.maximum(real.sum(1, keepdims=True), 1)  # one advantage of the response
        advantages = jnp.broadcast_to(advantages.sum(1, keepdims=True) / count, change.shape)
    ratio = jnp.exp(jnp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    clipped = jnp.zeros_like(ratio)
    if settings.ratio == "none":
        losses = -advantages * logprobs
    else:
        losses = -advantages * ratio
        low = 0.0 if settings.clip_low is None else 1.0 - settings.clip_low
        high = jnp.inf if settings.clip_high is None else 1.0 + settings.clip_high
        bounded = -advantages * jnp.clip(ratio, low, high)
        clipped = (bounded > losses).astype(jnp.float32)
        losses = jnp.maximum(losses, bounded)
    if importance is not None:
        losses *= jnp.where(real, lax.stop_gradient(importance), 1.0)
    measures = {"ratio": ratio, "clipped": clipped, "approx_kl": 0.5 * jnp.square(change), "policy_kl": -change}
    return jnp.where(real, losses, 0.0), lax.stop_gradient(measures)


def value_terms(values: jax.Array, old_values: jax.Array, returns: jax.Array, mask: jax.Array, *,
                clip: float | None = 0.2) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the loss of a value function at every token: half the larger of `(V - R)^2` with and without clipping.

    Args:
        values: `[B, T]`, now.
        old_values: `[B, T]`, before the update; values are clipped to at most `clip` from them.
        returns: `[B, T]`, from `gae`.
        mask: `[B, T]`.
        clip: range of the change; None does not clip.

    Returns:
        `[B, T]` float32, 0 outside the mask; and detached values of every token: `clipped` (1 where the clipped loss is
        the larger one).
    """
    chex.assert_rank(values, 2)
    chex.assert_equal_shape([values, old_values, returns, mask])
    chex.assert_type([values, old_values, returns], float)
    real = mask > 0
    clean = lambda x: jnp.where(real, x.astype(jnp.float32), 0.0)
    values, old_values, returns = clean(values), *map(lax.stop_gradient, (clean(old_values), clean(returns)))
    losses = jnp.square(values - returns)
    clipped = jnp.zeros_like(losses)
    if clip is not None:
        bounded = jnp.square(jnp.clip(values, old_values - clip, old_values + clip) - returns)
        clipped = (bounded > losses).astype(jnp.float32)
        losses = jnp.maximum(losses, bounded)
    return 0.5 * losses, {"clipped": lax.stop_gradient(clipped)}


def aggregate(kind: Aggregate, losses: jax.Array, mask: jax.Array, limit: int) -> SumAndWeight:
    """Sums losses of tokens, and counts what their mean is over.

    Args:
        kind: see `PolicySettings`; responses without tokens in the mask do not count.
        losses: `[B, T]`.
        mask: `[B, T]`.
        limit: token limit of a response, for `constant`.

    Returns:
        `(sum, weight)`, float32 scalars.
    """
    chex.assert_rank(losses, 2)
    chex.assert_equal_shape([losses, mask])
    real = mask > 0
    losses = jnp.where(real, losses, 0.0)
    tokens = real.sum(1).astype(jnp.float32)
    responses = jnp.sum(tokens > 0).astype(jnp.float32)
    if kind == "token":
        return jnp.sum(losses), jnp.sum(tokens)
    if kind == "sequence":
        return jnp.sum(losses.sum(1) / jnp.maximum(tokens, 1.0)), responses
    return jnp.sum(losses), responses * limit


def token_mean(values: jax.Array, mask: jax.Array) -> SumAndWeight:
    """Sums a measure of tokens `[B, T]` for a mean over those in the mask."""
    return aggregate("token", values.astype(jnp.float32), mask, 0)
