"""A teacher's likeliest tokens, kept instead of the teacher, and the divergence from them.

With K the k tokens that the teacher p finds likeliest at a position, and everything else as one further token,

    D = sum_(v in K) p_v (log p_v - log q_v) + p_rest (log p_rest - log q_rest)

which is a KL divergence itself, never more than that over the whole vocabulary, and equal to it where K is all of it.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.ops.vocab import TILE, Unembedding, _block_rows, _scores, _walk, token_logprobs

# What a student gives the rest is not taken to be less: below it float32 has no digits left in 1 - sum(q).
LEAST = 1e-6


def top_k_logprobs(hidden: jax.Array, unembedding: Unembedding, k: int, *, temperature: float = 1.0,
              block: int | None = None) -> tuple[jax.Array, jax.Array]:
    """The k likeliest tokens at every position.

    Args:
        hidden: `[..., D]`.
        unembedding: from the model.
        k: at most the size of the vocabulary.
        temperature: of the distribution.
        block: vocabulary rows held at a time.

    Returns:
        Token ids `[..., k]` int32 and their log-probabilities `[..., k]` float32, falling; of equal ones the smaller
        id is first.
    """
    flat, vocab = hidden.reshape(-1, hidden.shape[-1]), unembedding.table.shape[0]
    if not 1 <= k <= vocab:
        raise ValueError(f"k must be within 1 and {vocab}, got {k}")
    rows = max(_block_rows(vocab, flat.shape[0], block), min(k, vocab))

    def visit(carry, head, columns):
        best, ids = carry
        scores = _scores(flat, head, columns, vocab, temperature)
        found = jnp.concatenate([ids, jnp.broadcast_to(columns, scores.shape)], -1)
        best, places = lax.top_k(jnp.concatenate([best, scores], -1), k)
        return (best, jnp.take_along_axis(found, places, -1)), ()

    empty = jnp.full((flat.shape[0], k), -jnp.inf), jnp.zeros((flat.shape[0], k), jnp.int32)
    (best, ids), _ = _walk(visit, empty, unembedding, rows)
    # One of them gives the logarithm of the sum that all share.
    first = token_logprobs(flat, unembedding, ids[:, 0], temperature=temperature, block=block)
    logprobs = best - best[:, :1] + first[:, None]
    return ids.reshape(*hidden.shape[:-1], k), logprobs.reshape(*hidden.shape[:-1], k)


def top_k_kl(student: jax.Array, unembedding: Unembedding, ids: jax.Array, logprobs: jax.Array, *,
                         temperature: float = 1.0, block: int | None = None) -> jax.Array:
    """Forward divergence from a teacher's likeliest tokens; see the top of this file.

    Args:
        student: `[..., D]` hidden states.
        unembedding: of the student.
        ids, logprobs: `[..., k]` of the teacher, from `top_k_logprobs` at the same temperature.
        temperature: divides the student's logits.
        block: vocabulary rows held at a time.

    Returns:
        `[...]` float32, nats.
    """
    chex.assert_equal_shape([ids, logprobs])
    flat, k = student.reshape(-1, student.shape[-1]), ids.shape[-1]
    chosen = ids.reshape(-1, k)
    scores = _scores_of(flat, unembedding, chosen) / temperature
    first = token_logprobs(flat, unembedding, chosen[:, 0], temperature=temperature, block=block)
    q = scores - scores[:, :1] + first[:, None]
    p = lax.stop_gradient(logprobs.reshape(-1, k))
    p_rest = jnp.maximum(1.0 - jnp.exp(p).sum(-1), 0.0)
    q_rest = jnp.maximum(1.0 - jnp.exp(q).sum(-1), LEAST)
    # Zero where the teacher has nothing left, whatever the student has.
    rest = jnp.where(p_rest > LEAST, p_rest * (jnp.log(jnp.maximum(p_rest, LEAST)) - jnp.log(q_rest)), 0.0)
    return ((jnp.exp(p) * (p - q)).sum(-1) + rest).reshape(student.shape[:-1])


def _scores_of(hidden: jax.Array, unembedding: Unembedding, ids: jax.Array) -> jax.Array:
    """Logits `[N, k]` of some tokens: their rows of the table are gathered for a block of positions at a time."""
    count, k = ids.shape
    size = max(1, min(count, TILE // (k * hidden.shape[-1])))
    blocks = -(-count // size)
    cut = lambda x: jnp.pad(x, ((0, blocks * size - count), (0, 0))).reshape(blocks, size, x.shape[-1])

    @jax.checkpoint
    def one(part):
        states, chosen = part
        head = Unembedding(unembedding.table[chosen],
                           None if unembedding.bias is None else unembedding.bias[chosen], unembedding.softcap)
        return jax.vmap(lambda state, own: own.logits(state[None])[0])(states, head)

    return lax.map(one, (cut(hidden), cut(ids))).reshape(blocks * size, k)[:count]
