"""Top-k log-probabilities of a teacher, stored in place of the teacher, and the KL divergence from them.

With K the k most probable tokens of the teacher p at a position, and all others as one further token,

    D = sum_(v in K) p_v (log p_v - log q_v) + p_rest (log p_rest - log q_rest)

This is a KL divergence itself, at most that over the whole vocabulary, and equal to it where K is the vocabulary.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.ops.unembedding import Unembedding, block_rows, block_scores, check_widths, tile_elements, walk_blocks
from jaxllm.ops.vocab import token_logprobs

# Lower bound of the student's probability of the rest: below it float32 has no digits left in 1 - sum(q).
SMALLEST_REST = 1e-6


def top_k_logprobs(hidden: jax.Array, unembedding: Unembedding, k: int, *, temperature: float = 1.0,
                   block: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Computes the k most probable tokens at every position.

    Args:
        hidden: `[..., D]`.
        unembedding: from the model.
        k: at most the size of the vocabulary.
        temperature: temperature of the distribution.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        Token ids `[..., k]` int32 and their log-probabilities `[..., k]` float32, descending; of equal ones the smaller
        id is first.
    """
    chex.assert_type(hidden, float)
    check_widths(hidden, unembedding)
    flat, vocab = hidden.reshape(-1, hidden.shape[-1]), unembedding.table.shape[0]
    if not 1 <= k <= vocab:
        raise ValueError(f"k must be within 1 and {vocab}, got {k}")
    rows = block_rows(vocab, flat.shape[0], block)

    def visit(carry, head, columns):
        scores, index = lax.top_k(block_scores(flat, head, columns, vocab, temperature), min(k, rows))
        negative = jnp.concatenate([-carry[0], -scores], -1)
        ids = jnp.concatenate([carry[1], columns[index]], -1)
        # Two keys, since blocks are interleaved: of equal scores the smaller id first.
        negative, ids = lax.sort((negative, ids), num_keys=2)
        return (-negative[:, :k], ids[:, :k]), ()

    empty = jnp.full((flat.shape[0], k), -jnp.inf), jnp.full((flat.shape[0], k), vocab, jnp.int32)
    (best, ids), _ = walk_blocks(visit, empty, unembedding, rows)
    # The log-probability of one of them gives the normalizer of all.
    first = token_logprobs(flat, unembedding, ids[:, 0], temperature=temperature, block=block)
    logprobs = best - best[:, :1] + first[:, None]
    return ids.reshape(*hidden.shape[:-1], k), logprobs.reshape(*hidden.shape[:-1], k)


def top_k_kl(student: jax.Array, unembedding: Unembedding, ids: jax.Array, logprobs: jax.Array, *,
             temperature: float = 1.0, block: int | None = None) -> jax.Array:
    """Computes the forward KL divergence from a teacher's top-k tokens; see the top of this file.

    Args:
        student: `[..., D]` hidden states.
        unembedding: unembedding of the student.
        ids, logprobs: `[..., k]` of the teacher, from `top_k_logprobs` at the same temperature.
        temperature: divides the student's logits.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `[...]` float32, nats.
    """
    chex.assert_equal_shape([ids, logprobs])
    chex.assert_rank(ids, student.ndim)
    chex.assert_equal_shape_prefix([student, ids], student.ndim - 1)
    chex.assert_type([student, ids, logprobs], [float, int, float])
    check_widths(student, unembedding)
    flat, k = student.reshape(-1, student.shape[-1]), ids.shape[-1]
    chosen = ids.reshape(-1, k)
    scores = _scores_of(flat, unembedding, chosen) / temperature
    first = token_logprobs(flat, unembedding, chosen[:, 0], temperature=temperature, block=block)
    q = scores - scores[:, :1] + first[:, None]
    p = lax.stop_gradient(logprobs.reshape(-1, k))
    p_rest = top_k_rest(p)
    q_rest = jnp.maximum(1.0 - jnp.exp(q).sum(-1), SMALLEST_REST)
    # Zero where the teacher has no probability left.
    log_ratio = jnp.log(jnp.maximum(p_rest, SMALLEST_REST)) - jnp.log(q_rest)
    rest = jnp.where(p_rest > SMALLEST_REST, p_rest * log_ratio, 0.0)
    return ((jnp.exp(p) * (p - q)).sum(-1) + rest).reshape(student.shape[:-1])


def top_k_rest(logprobs: jax.Array) -> jax.Array:
    """Computes the probability outside the top k, `[...]` float32, from log-probabilities `[..., k]`."""
    return jnp.maximum(1.0 - jnp.exp(logprobs).sum(-1), 0.0)


def _scores_of(hidden: jax.Array, unembedding: Unembedding, ids: jax.Array) -> jax.Array:
    """Computes the logits `[N, k]` of given tokens, gathering table rows for a block of positions at a time."""
    count, k = ids.shape
    size = max(1, min(count, tile_elements() // (k * hidden.shape[-1])))
    blocks = -(-count // size)
    split = lambda x: jnp.pad(x, ((0, blocks * size - count), (0, 0))).reshape(blocks, size, x.shape[-1])

    @jax.checkpoint
    def part_scores(part):
        states, chosen = part
        head = Unembedding(unembedding.table[chosen],
                           None if unembedding.bias is None else unembedding.bias[chosen], unembedding.softcap)
        return jax.vmap(lambda state, rows: rows.logits(state[None])[0])(states, head)

    return lax.map(part_scores, (split(hidden), split(ids))).reshape(blocks * size, k)[:count]
