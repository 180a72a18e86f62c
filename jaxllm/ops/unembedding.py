"""The output layer of a language model, and a walk over its vocabulary in blocks.

With V = 128k and 4,096 tokens the logits take 2 GB in float32, several times over in a backward pass. `walk_blocks`
visits the table block by block instead, so that memory grows with the block and not with V.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax import lax

# Elements of one block of logits where the caller gives no block size: 16 MiB in float32 on CPU, where blocks that fit
# the cache are fastest, and 256 MiB on accelerators, so that 32,000 tokens still get blocks of 2,000 rows.
TILE = {"cpu": 2**22}
TILE_ELSEWHERE = 2**26
# Blocks have a multiple of this many rows where possible, so that a table split over devices stays split.
SPLIT = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unembedding:
    """Output layer of a language model, from hidden states to logits: `cap(hidden @ table.T + bias)`.

    Attributes:
        table: `[V, D]`, one row per token.
        bias: `[V]`, or None.
        softcap: `cap(z) = c tanh(z / c)` keeps logits within +-c (Gemma 2, 2408.00118); None leaves them.
    """

    table: jax.Array
    bias: jax.Array | None = None
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Computes `[..., V]` float32 logits of `hidden` `[..., D]`."""
        chex.assert_type(hidden, float)
        flat = _dot(hidden.reshape(-1, hidden.shape[-1]), self.table)
        if self.bias is not None:
            flat += self.bias.astype(jnp.float32)
        if self.softcap is not None:
            flat = self.softcap * jnp.tanh(flat / self.softcap)
        return flat.reshape(*hidden.shape[:-1], -1)


def _dot(hidden: jax.Array, rows: jax.Array) -> jax.Array:
    """Computes `hidden @ rows.T`: `[N, D]`, `[b, D]` -> float32 `[N, b]`."""
    precision = lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
    return lax.dot_general(hidden, rows.astype(hidden.dtype), (((1,), (1,)), ((), ())),
                           precision=precision, preferred_element_type=jnp.float32)


def tile_elements() -> int:
    """Returns the number of elements of a block that suits the default backend."""
    return TILE.get(jax.default_backend(), TILE_ELSEWHERE)


def block_rows(vocab: int, tokens: int, block: int | None) -> int:
    """Returns the number of table rows per block: at most `block`, and an even division of the vocabulary if possible.

    An uneven division costs a padded copy of the table, so blocks up to four times smaller are preferred to it.
    """
    limit = max(1, min(vocab, block or max(tile_elements() // max(tokens, 1), 128)))
    if limit == vocab:
        return vocab
    even = [rows for rows in range(limit, max(limit // 4, 1) - 1, -1) if vocab % rows == 0]
    return next((rows for rows in even if rows % SPLIT == 0), even[0] if even else limit)


def walk_blocks(visit, carry, heads, rows: int):
    """Folds `visit(carry, block, columns)` over blocks of `rows` tokens of every `Unembedding` in `heads`.

    Blocks are interleaved: with n blocks, block b holds the tokens b, b + n, b + 2 n, ... A table that is split over
    devices by rows gives every device its share of each block, so logits are computed where the table is. Contiguous
    blocks would be gathered. `columns` `[rows]` are the token ids of the block, ascending; V and above in the padding.

    Returns:
        The last carry, and the outputs of all visits, `[V, ...]` in the order of the table.
    """
    vocab = jax.tree.leaves(heads)[0].shape[0]
    blocks = -(-vocab // rows)
    if blocks == 1:
        return visit(carry, heads, jnp.arange(vocab, dtype=jnp.int32))

    def split(leaf):
        padding = ((0, blocks * rows - vocab), *((0, 0) for _ in leaf.shape[1:]))
        return jnp.pad(leaf, padding).reshape(rows, blocks, *leaf.shape[1:])

    # Blocks are sliced and written along axis 1 of the split arrays; a scan over them would transpose the whole table.
    tables = jax.tree.map(split, heads)
    ids = jnp.arange(rows, dtype=jnp.int32) * blocks
    block_of = lambda b: jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, b, 1, keepdims=False), tables)
    shapes = jax.eval_shape(lambda carry: visit(carry, block_of(0), ids)[1], carry)
    outputs = jax.tree.map(lambda out: jnp.zeros((rows, blocks, *out.shape[1:]), out.dtype), shapes)

    def step(state, b):
        carry, outputs = state
        carry, new = visit(carry, block_of(b), ids + b)
        write = lambda buffer, out: lax.dynamic_update_index_in_dim(buffer, out, b, 1)
        return (carry, jax.tree.map(write, outputs, new)), None

    (carry, outputs), _ = lax.scan(step, (carry, outputs), jnp.arange(blocks, dtype=jnp.int32))
    return carry, jax.tree.map(lambda out: out.reshape(blocks * rows, *out.shape[2:])[:vocab], outputs)


def check_widths(hidden: jax.Array, unembedding: Unembedding) -> None:
    """Asserts that hidden states and unembedding fit."""
    chex.assert_rank(unembedding.table, 2)
    chex.assert_axis_dimension(hidden, -1, unembedding.table.shape[1])
    chex.assert_shape([] if unembedding.bias is None else [unembedding.bias], unembedding.table.shape[:1])


def block_scores(hidden, head, columns, vocab, temperature):
    """Computes one block of `logits / temperature`, minus infinity in the padding."""
    return jnp.where(columns < vocab, head.logits(hidden) / temperature, -jnp.inf)


def push_back(slope, hidden, head, logits, hidden_gradient):
    """Propagates the gradient `slope` `[N, b]` of a block's `logits`.

    Returns:
        `hidden_gradient` with the block's share added, and the gradient of the block's part of the head.
    """
    if head.softcap is not None:  # d tanh = 1 - tanh^2
        slope = slope * (1.0 - jnp.square(logits / head.softcap))
    bias_gradient = None if head.bias is None else slope.sum(0).astype(head.bias.dtype)
    precision = lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
    slope = slope.astype(hidden.dtype)
    hidden_gradient += lax.dot_general(slope, head.table.astype(hidden.dtype), (((1,), (0,)), ((), ())),
                                       precision=precision, preferred_element_type=jnp.float32)
    table_gradient = lax.dot_general(slope, hidden, (((0,), (0,)), ((), ())),
                                     precision=precision, preferred_element_type=jnp.float32)
    return hidden_gradient, Unembedding(table_gradient.astype(head.table.dtype), bias_gradient, head.softcap)
