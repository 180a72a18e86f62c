"""State of reinforcement learning that adapts from batch to batch: the KL coefficient, and the scale of scores."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

Moments = dict[str, jax.Array]
"""`mean`, `variance` (biased) and `count` of all scores so far, float32 scalars."""


def adapt_kl_coef(coef: jax.Array, kl: jax.Array, rows: int, *, target: float = 6.0, horizon: int = 10_000
                  ) -> jax.Array:
    """Moves a KL coefficient towards the value at which the divergence is `target` (1909.08593, section 2.2).

        coef * (1 + clip(kl / target - 1, -0.2, 0.2) * rows / horizon)

    Args:
        coef: scalar.
        kl: scalar, mean over responses of the sum over their tokens.
        rows: responses of the whole batch, over all devices.
        target: divergence that is aimed at, nats.
        horizon: responses over which the coefficient can change by a fifth.
    """
    chex.assert_rank([coef, kl], 0)
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return (coef * (1.0 + error * rows / horizon)).astype(jnp.float32)


def init_moments() -> Moments:
    """Returns the moments before the first score."""
    return {"mean": jnp.float32(0.0), "variance": jnp.float32(1.0), "count": jnp.float32(0.0)}


def update_moments(moments: Moments, scores: jax.Array) -> Moments:
    """Merges the scores of a batch `[B]` into running moments (Chan et al. 1979)."""
    chex.assert_rank(scores, 1)
    chex.assert_type(scores, float)
    scores = scores.astype(jnp.float32)
    count, own = moments["count"], jnp.float32(scores.shape[0])
    total, change = count + own, scores.mean() - moments["mean"]
    squares = moments["variance"] * count + scores.var() * own + jnp.square(change) * count * own / total
    return {"mean": moments["mean"] + change * own / total, "variance": squares / total, "count": total}


def standard_deviation(moments: Moments) -> jax.Array:
    """Computes the unbiased standard deviation of all scores; of a single one it is 0."""
    count = moments["count"]
    return jnp.sqrt(moments["variance"] * count / jnp.maximum(count - 1.0, 1.0))


def shape_scores(scores: jax.Array, moments: Moments, *, scale: bool, center: bool, clip: float | None) -> jax.Array:
    """Divides scores by their running standard deviation, then clips them.

    Args:
        scores: `[B]`.
        moments: moments that hold these scores already.
        scale: divide; not while all scores so far are equal, up to rounding.
        center: subtract the running mean first; only with `scale`.
        clip: largest absolute value afterwards; None does not clip.

    Returns:
        `[B]` float32.
    """
    chex.assert_rank(scores, 1)
    chex.assert_type(scores, float)
    scores = scores.astype(jnp.float32)
    if scale:
        shifted = scores - moments["mean"] if center else scores
        deviation = standard_deviation(moments)
        spread = deviation > 1e-6 * jnp.maximum(jnp.abs(moments["mean"]), 1e-6)
        scores = jnp.where(spread, shifted / (deviation + jnp.finfo(jnp.float32).eps), shifted)
    return scores if clip is None else jnp.clip(scores, -clip, clip)


def overlong_penalty(lengths: jax.Array, limit: int, cache: int) -> jax.Array:
    """Computes the penalty of long responses, from 0 at `limit - cache` tokens to -1 at `limit` (DAPO, 2503.14476).

    Args:
        lengths: `[B]` int32, tokens of the responses, end token included.
        limit: token limit of a response.
        cache: tokens before the limit over which the penalty grows.

    Returns:
        `[B]` float32.
    """
    chex.assert_rank(lengths, 1)
    chex.assert_type(lengths, int)
    return jnp.clip((limit - cache - lengths) / cache, -1.0, 0.0).astype(jnp.float32)
