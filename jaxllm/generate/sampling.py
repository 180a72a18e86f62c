"""From logits to the next token, one independent random stream per row."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How every row of a batch chooses its tokens. Arrays, so that changing them compiles nothing.

    Attributes:
        temperature: `[B]` float32; 0 takes the most likely token.
        top_k: `[B]` int32; only the k most likely tokens, 0 for all.
        top_p: `[B]` float32; only the most likely tokens that together reach this probability.
        stop_ids: `[B, K]` int32; tokens that end the row, -1 for none.
        max_tokens: `[B]` int32; the row ends after so many tokens.
        keys: `[B]` typed random keys; step n of a row draws from `fold_in(key, n)`.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    stop_ids: jax.Array
    max_tokens: jax.Array
    keys: jax.Array


def row_keys(seed: int, rows: jax.Array, samples: jax.Array) -> jax.Array:
    """Keys `[B]` that depend on the seed, the row and the number of the sample, and on no neighbour."""
    base = jax.random.key(seed)
    return jax.vmap(lambda row, sample: jax.random.fold_in(jax.random.fold_in(base, row), sample))(rows, samples)


def truncate(scaled: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Sets to minus infinity what top-k and nucleus sampling (1904.09751) leave out.

    A token stays if it is among the `top_k` most likely and if the tokens more likely than it hold less
    than `top_p`; the most likely one always stays. Ties with the last kept token stay too.

    Args:
        scaled: `[B, V]` float32 logits, already divided by the temperature.
        top_k: `[B]`, 0 for all.
        top_p: `[B]`, 1 for all.
    """
    ordered = -jnp.sort(-scaled, axis=-1)
    probs = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    rank = jnp.arange(scaled.shape[-1])[None]
    kept = (before < top_p[:, None]) | (top_p[:, None] >= 1.0)
    kept &= (rank < top_k[:, None]) | (top_k[:, None] <= 0)
    last = jnp.maximum(kept.sum(-1) - 1, 0)
    threshold = jnp.take_along_axis(ordered, last[:, None], -1)
    return jnp.where(scaled >= threshold, scaled, -jnp.inf)


def choose(logits: jax.Array, sampling: Sampling, step: jax.Array) -> jax.Array:
    """The next token of every row, `[B]` int32.

    Args:
        logits: `[B, V]` float32.
        sampling: the rows' settings.
        step: `[B]` int32, how many tokens each row has generated so far.
    """
    greedy = jnp.argmax(logits, axis=-1)

    def draw() -> jax.Array:
        temperature = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)
        # The largest becomes zero first: a temperature near zero would take all of them to infinity.
        scaled = (logits - logits.max(-1, keepdims=True)) / temperature[:, None]
        limits = jnp.any(sampling.top_k > 0) | jnp.any(sampling.top_p < 1.0)
        # The sort costs more than a decode step of a small model; most batches do without.
        scaled = lax.cond(limits, lambda: truncate(scaled, sampling.top_k, sampling.top_p), lambda: scaled)
        keys = jax.vmap(jax.random.fold_in)(sampling.keys, step)
        return jax.vmap(jax.random.categorical)(keys, scaled)

    sampled = lax.cond(jnp.any(sampling.temperature > 0), draw, lambda: greedy)
    return jnp.where(sampling.temperature > 0, sampled, greedy).astype(jnp.int32)
