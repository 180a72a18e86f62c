"""From logits to the next token, with an independent random stream per row."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling settings of every row of a batch. Arrays, so that changing them compiles nothing.

    Attributes:
        temperature: `[B]` float32; 0 is greedy.
        top_k: `[B]` int32; keep the k most probable tokens, 0 keeps all.
        top_p: `[B]` float32; nucleus sampling: keep the smallest set of most probable tokens with this cumulative
            probability among those that top-k keeps, 1 keeps all.
        min_p: `[B]` float32; keep tokens with at least this fraction of the most probable token's probability.
        repetition: `[B]` float32 repetition penalty (1909.05858, section 4.1): divides positive logits of tokens that
            occur in the sequence and multiplies negative ones; 1 is off.
        logprob_temperature: `[B]` float32, temperature of the recorded log-probabilities.
        bias_ids: `[K]` int32; tokens with shifted logits in all rows, -1 for unused entries.
        bias: `[K]` float32; the shifts.
        stop_ids: `[K]` int32; tokens that end a row, -1 for unused entries.
        max_tokens: `[B]` int32; limit of new tokens.
        keys: `[B]` typed random keys; step n of a row draws with `fold_in(key, n)`.
        source: `[B, N]` int32, the row from which each row takes its token of step n; None takes its own.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition: jax.Array
    logprob_temperature: jax.Array
    bias_ids: jax.Array
    bias: jax.Array
    stop_ids: jax.Array
    max_tokens: jax.Array
    keys: jax.Array
    source: jax.Array | None = None


@jax.jit
def row_keys(base: jax.Array, rows: jax.Array, samples: jax.Array) -> jax.Array:
    """Derives keys `[B]` from a base key, the row ids `[B]` and the sample numbers `[B]`, independent of neighbors."""
    return jax.vmap(lambda row, sample: jax.random.fold_in(jax.random.fold_in(base, row), sample))(rows, samples)


def truncate(scaled: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Sets logits outside top-k, and outside the nucleus (1904.09751) of what is left, to minus infinity.

    A token stays if it is among the `top_k` most probable and if those of them more probable than it hold less than
    `top_p` of their probability; the most probable one always stays. Ties with the last token that stays stay too.

    Args:
        scaled: `[B, V]` float32 logits, already divided by the temperature.
        top_k: `[B]`, 0 for all.
        top_p: `[B]`, 1 for all.
    """
    chex.assert_rank([scaled, top_k, top_p], [2, 1, 1])
    chex.assert_type(scaled, jnp.float32)
    ordered = -jnp.sort(-scaled, axis=-1)
    vocab = scaled.shape[-1]
    at = lambda index: jnp.take_along_axis(ordered, index[:, None], -1)
    among = ordered >= at(jnp.where(top_k > 0, jnp.minimum(top_k, vocab), vocab) - 1)
    probs = jax.nn.softmax(ordered, axis=-1, where=among)
    before = jnp.cumsum(probs, axis=-1) - probs
    keep = among & ((before < top_p[:, None]) | (top_p[:, None] >= 1.0))
    threshold = at(jnp.maximum(keep.sum(-1) - 1, 0))
    return jnp.where(scaled >= threshold, scaled, -jnp.inf)


def adjust(logits: jax.Array, sampling: Sampling, seen: jax.Array) -> jax.Array:
    """Applies the logit bias, then the repetition penalty, as transformers does; `[B, V]`."""
    columns = jnp.where(sampling.bias_ids < 0, logits.shape[-1], sampling.bias_ids)
    biased = lax.cond(jnp.any(sampling.bias_ids >= 0), lambda: logits.at[:, columns].add(sampling.bias, mode="drop"),
                      lambda: logits)
    factor = sampling.repetition[:, None]
    repeated = lambda: jnp.where(seen, jnp.where(biased > 0, biased / factor, biased * factor), biased)
    return lax.cond(jnp.any(sampling.repetition != 1.0), repeated, lambda: biased)


def argmax(logits: jax.Array) -> jax.Array:
    """`argmax` over the last axis, int32: the first of equal values. On CPU four times faster than `jnp.argmax`."""
    columns = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    first = jnp.where(logits == logits.max(-1, keepdims=True), columns, logits.shape[-1]).min(-1)
    return jnp.minimum(first, logits.shape[-1] - 1)  # nothing equals NaN


def sample_tokens(logits: jax.Array, sampling: Sampling, step: jax.Array, seen: jax.Array) -> jax.Array:
    """Chooses the next token of every row, `[B]` int32.

    Args:
        logits: `[B, V]` float32.
        sampling: the rows' settings.
        step: `[B]` int32, number of tokens each row has generated so far.
        seen: `[B, V]` bool, tokens that occur in the row's sequence.
    """
    chex.assert_rank([logits, step, seen], [2, 1, 2])
    chex.assert_type([logits, seen], [jnp.float32, jnp.bool_])
    logits = adjust(logits, sampling, seen)
    greedy = argmax(logits)

    def draw() -> jax.Array:
        temperature = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)
        # The largest becomes zero first: a temperature near zero would overflow all of them.
        scaled = (logits - logits.max(-1, keepdims=True)) / temperature[:, None]
        limits = jnp.any(sampling.top_k > 0) | jnp.any(sampling.top_p < 1.0)
        # The sort costs more than a decoding step of a small model; most batches do without.
        scaled = lax.cond(limits, lambda: truncate(scaled, sampling.top_k, sampling.top_p), lambda: scaled)
        # The most probable token is at 0, so a fraction of its probability is a difference to 0.
        scaled = jnp.where(scaled >= jnp.log(sampling.min_p)[:, None], scaled, -jnp.inf)
        keys = jax.vmap(jax.random.fold_in)(sampling.keys, step)
        return jax.vmap(jax.random.categorical)(keys, scaled)

    sampled = lax.cond(jnp.any(sampling.temperature > 0), draw, lambda: greedy)
    token = jnp.where(sampling.temperature > 0, sampled, greedy).astype(jnp.int32)
    return token if sampling.source is None else token[sampling.source[jnp.arange(len(token)), step]]
