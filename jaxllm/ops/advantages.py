"""From scores of responses to advantages of their tokens: rewards with a KL penalty, whitening, GAE, baselines.

Arrays of tokens are `[B, T]`: B responses of at most T tokens. A mask `[B, T]` is above 0 for the tokens of a response,
its end token included. Values outside it may be anything, NaN included, and have no effect.
"""

from __future__ import annotations

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

GroupBaseline = Literal["rloo", "grpo", "dr_grpo"]

# Relative difference of scores in float32 that is taken for rounding.
ROUNDING = 1e-6


def token_rewards(scores: jax.Array, kl: jax.Array, mask: jax.Array, kl_coef: jax.Array | float) -> jax.Array:
    """Computes the reward of every token: `-kl_coef * kl`, and the response's score at its last token in addition.

    Args:
        scores: `[B]`, one per response.
        kl: `[B, T]`, penalty of the token, see `token_kl`.
        mask: `[B, T]`; a response without tokens gets no reward.
        kl_coef: coefficient of the penalty.

    Returns:
        `[B, T]` float32, 0 outside the mask.
    """
    chex.assert_rank([scores, kl, mask], [1, 2, 2])
    chex.assert_equal_shape([kl, mask])
    chex.assert_type([scores, kl], float)
    real = mask > 0
    last = real & (jnp.cumsum(real[:, ::-1], axis=1)[:, ::-1] == 1)
    penalty = jnp.where(real, -kl_coef * kl.astype(jnp.float32), 0.0)
    return penalty + jnp.where(last, scores.astype(jnp.float32)[:, None], 0.0)


def whiten(values: jax.Array, mask: jax.Array, *, shift_mean: bool = True) -> jax.Array:
    """Scales values to variance 1 over all tokens of the batch; the variance is the unbiased one.

    Args:
        values: `[B, T]`.
        mask: `[B, T]`.
        shift_mean: also move the mean to 0, as for advantages. Rewards keep their mean: moving it would add a reward to
            every token, so that longer responses get more.

    Returns:
        `[B, T]` float32, 0 outside the mask. Equal values, or a single one, are not scaled.
    """
    chex.assert_equal_shape([values, mask])
    chex.assert_type(values, float)
    real = mask > 0
    values = jnp.where(real, values.astype(jnp.float32), 0.0)
    count = jnp.sum(real)
    mean = jnp.sum(values) / jnp.maximum(count, 1)
    mean = jnp.where(_constant(values, real, None), jnp.max(values, where=real, initial=-jnp.inf), mean)
    centered = jnp.where(real, values - mean, 0.0)
    variance = jnp.sum(jnp.square(centered)) / jnp.maximum(count - 1, 1)
    scaled = jnp.where(variance > 0, centered * lax.rsqrt(variance + 1e-8), centered)
    return jnp.where(real, scaled if shift_mean else scaled + mean, 0.0)


def _constant(values: jax.Array, real: jax.Array, axis: int | None) -> jax.Array:
    """Whether all values under a mask are equal. Their spread is no criterion: of equal values it may be rounding."""
    return (jnp.max(values, axis, where=real, initial=-jnp.inf) <= jnp.min(values, axis, where=real, initial=jnp.inf))


def gae(rewards: jax.Array, values: jax.Array, mask: jax.Array, *, gamma: float = 1.0, lam: float = 0.95
        ) -> tuple[jax.Array, jax.Array]:
    """Computes generalized advantage estimates (1506.02438) and the returns that a value function is trained on.

        delta_t = r_t + gamma V_{t+1} - V_t,    A_t = delta_t + gamma lam A_{t+1},    return_t = A_t + V_t

    where t + 1 is the next token of the mask: tokens in between that the model did not write, such as the output of a
    tool, are skipped. The value after the last token is 0, also for a response that was cut at its limit.

    Args:
        rewards, values: `[B, T]`; a value is that of the state before its token.
        mask: `[B, T]`.
        gamma: discount.
        lam: lambda.

    Returns:
        Advantages, not whitened, and returns, `[B, T]` float32, 0 outside the mask.
    """
    chex.assert_rank(rewards, 2)
    chex.assert_equal_shape([rewards, values, mask])
    chex.assert_type([rewards, values], float)
    real = mask > 0
    rewards, values = (jnp.where(real, x.astype(jnp.float32), 0.0) for x in (rewards, values))

    def step(carry: tuple[jax.Array, jax.Array], column: tuple[jax.Array, jax.Array, jax.Array]):
        next_value, next_advantage = carry
        reward, value, present = column
        advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        carry = jnp.where(present, value, next_value), jnp.where(present, advantage, next_advantage)
        return carry, jnp.where(present, advantage, 0.0)

    zero = jnp.zeros(rewards.shape[0], jnp.float32)
    _, advantages = lax.scan(step, (zero, zero), (rewards.T, values.T, real.T), reverse=True)
    return advantages.T, jnp.where(real, advantages.T + values, 0.0)


def equal_scores(lowest: Any, highest: Any) -> Any:
    """Decides whether scores from `lowest` to `highest` are equal up to the rounding of their largest value, or of 0.1.

    Args:
        lowest, highest: arrays of JAX or NumPy, of one shape.

    Returns:
        bool, in that shape.
    """
    spread = highest - lowest
    return (spread <= ROUNDING * abs(lowest)) | (spread <= ROUNDING * abs(highest)) | (spread <= ROUNDING * 0.1)


def group_advantages(scores: jax.Array, groups: jax.Array, count: int, *, baseline: GroupBaseline = "grpo"
                     ) -> jax.Array:
    """Compares the score of every response with those of the other responses to its prompt.

        rloo:     r_i - mean of the others' scores             (2402.14740)
        grpo:     (r_i - mean) / standard deviation            (2402.03300; the unbiased deviation)
        dr_grpo:  r_i - mean                                   (2503.20783)

    Groups may differ in size. A group of one response, or of scores that are equal up to the rounding of their largest
    value (or of 0.1), has advantages of exactly 0: `grpo` would make the rounding as large as any other difference.

    Args:
        scores: `[B]`, KL penalties included where the reward has them.
        groups: `[B]` int32, number of the response's group; the same prompt drawn twice is two groups. -1 for padding,
            which gets 0.
        count: number of groups.
        baseline: see above.

    Returns:
        `[B]` float32; each group's sum is 0.
    """
    chex.assert_rank([scores, groups], 1)
    chex.assert_equal_shape([scores, groups])
    chex.assert_type([scores, groups], [float, int])
    member = (groups >= 0) & (groups < count)
    scores = jnp.where(member, scores.astype(jnp.float32), 0.0)
    number = jnp.where(member, groups, count)  # padding is a group of its own
    over = lambda reduce, values: reduce(values, number, count + 1)[number]
    size = over(jax.ops.segment_sum, jnp.ones_like(scores))
    centered = scores - over(jax.ops.segment_sum, scores) / size
    if baseline == "rloo":
        centered *= size / jnp.maximum(size - 1, 1)
    elif baseline == "grpo":
        variance = over(jax.ops.segment_sum, jnp.square(centered)) / jnp.maximum(size - 1, 1)
        centered *= jnp.where(variance > 0, lax.rsqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    equal = equal_scores(over(jax.ops.segment_min, scores), over(jax.ops.segment_max, scores))
    return jnp.where(member & ~equal, centered, 0.0)


def combined_reward(scores: jax.Array, kl: jax.Array, mask: jax.Array, kl_coef: jax.Array | float) -> jax.Array:
    """Computes a response's score minus its KL penalty, `[B]` float32: a measure of one agent (CORY, 2410.06101, 4.1).

    Args:
        scores: `[B]`, the agent's own scores.
        kl: `[B, T]`.
        mask: `[B, T]`.
        kl_coef: coefficient of the penalty.
    """
    chex.assert_rank([scores, kl, mask], [1, 2, 2])
    return scores.astype(jnp.float32) - kl_coef * jnp.sum(jnp.where(mask > 0, kl, 0.0), 1)
