"""Log-probabilities, entropies and divergences over a vocabulary that is never held in memory.

Logits are `hidden @ table.T`, `[N, V]` for N tokens. With V = 128k and N = 4096 that is 2 GB in float32,
several times over in a backward pass. Here the vocabulary is walked in blocks of rows of the table: the
forward pass keeps running sums per token, the backward pass computes each block of logits again. Memory
grows with the block, not with V, and a block's share of the table's gradient is complete when the block
is done.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

Divergence = Literal["forward", "reverse", "jsd"]

# Elements of one block of logits where the caller names no block: 16 MiB in float32.
TILE = 2**22


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unembedding:
    """What turns hidden states into logits.

    Attributes:
        table: `[V, D]`, one row per token.
    """

    table: jax.Array

    def logits(self, hidden: jax.Array) -> jax.Array:
        """`[..., V]` float32 logits of `hidden` `[..., D]`."""
        flat = _dot(hidden.reshape(-1, hidden.shape[-1]), self.table)
        return flat.reshape(*hidden.shape[:-1], -1)


def _dot(hidden: jax.Array, rows: jax.Array) -> jax.Array:
    """`hidden @ rows.T`: `[N, D]`, `[b, D]` -> float32 `[N, b]`."""
    precision = lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
    return lax.dot_general(hidden, rows.astype(hidden.dtype), (((1,), (1,)), ((), ())),
                           precision=precision, preferred_element_type=jnp.float32)


def _block_rows(vocab: int, tokens: int, block: int | None) -> int:
    """Rows per block: at most `block`, and an even division of the vocabulary where there is one.

    An uneven division costs a padded copy of the table; so blocks up to four times smaller than asked
    for are preferred to it.
    """
    limit = max(1, min(vocab, block or max(TILE // max(tokens, 1), 128)))
    even = next((rows for rows in range(limit, max(limit // 4, 1) - 1, -1) if vocab % rows == 0), None)
    return even or limit


def _walk(visit, carry, tables, rows: int):
    """Folds `visit(carry, block_tables, columns)` over blocks of `rows` rows of every table `[V, D]`.

    `columns` `[rows]` are the token ids of the block, V and above in the padding of the last one.

    Returns:
        The last carry, and the outputs of all visits joined to `[V, ...]`.
    """
    vocab = jax.tree.leaves(tables)[0].shape[0]
    blocks = -(-vocab // rows)
    columns = jnp.arange(blocks * rows, dtype=jnp.int32).reshape(blocks, rows)
    if blocks == 1:
        return visit(carry, tables, columns[0])
    cut = lambda table: jnp.pad(table, ((0, blocks * rows - vocab), (0, 0))).reshape(blocks, rows, -1)
    carry, outputs = lax.scan(lambda carry, xs: visit(carry, *xs), carry, (jax.tree.map(cut, tables), columns))
    return carry, jax.tree.map(lambda out: out.reshape(blocks * rows, -1)[:vocab], outputs)


def _logits(hidden, rows, columns, vocab, temperature):
    """One block of `logits / temperature`, minus infinity in the padding."""
    return jnp.where(columns < vocab, _dot(hidden, rows) / temperature, -jnp.inf)


def _add_exp(top, total, scores):
    """Running maximum and running sum of exponentials (relative to it), extended by `scores` `[N, b]`."""
    new_top = jnp.maximum(top, scores.max(-1))
    # Both differences are of equal infinities only before the first finite score.
    shrink = jnp.where(top == new_top, 1.0, jnp.exp(top - new_top))
    return new_top, total * shrink + jnp.exp(scores - new_top[:, None]).sum(-1), shrink


def _push_back(slope, hidden, rows, hidden_gradient):
    """Adds a block's share to the gradient of `hidden`; returns it and the block's table gradient."""
    precision = lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
    slope = slope.astype(hidden.dtype)
    hidden_gradient += lax.dot_general(slope, rows.astype(hidden.dtype), (((1,), (0,)), ((), ())),
                                       precision=precision, preferred_element_type=jnp.float32)
    table_gradient = lax.dot_general(slope, hidden, (((0,), (0,)), ((), ())),
                                     precision=precision, preferred_element_type=jnp.float32)
    return hidden_gradient, table_gradient.astype(rows.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chosen_logprobs(temperature, rows, hidden, table, targets):
    return _chosen_forward(temperature, rows, hidden, table, targets)[0]


def _chosen_forward(temperature, rows, hidden, table, targets):
    vocab, tokens = table.shape[0], hidden.shape[0]

    def visit(carry, block, columns):
        top, total, chosen = carry
        scores = _logits(hidden, block, columns, vocab, temperature)
        top, total, _ = _add_exp(top, total, scores)
        chosen += jnp.where(targets[:, None] == columns, scores, 0.0).sum(-1)
        return (top, total, chosen), None

    zero = jnp.zeros(tokens, jnp.float32)
    (top, total, chosen), _ = _walk(visit, (zero - jnp.inf, zero, zero), table, rows)
    normaliser = top + jnp.log(total)
    return chosen - normaliser, (hidden, table, targets, normaliser)


def _chosen_backward(temperature, rows, residuals, gradient):
    hidden, table, targets, normaliser = residuals
    vocab, weight = table.shape[0], (gradient / temperature)[:, None]

    def visit(hidden_gradient, block, columns):
        probs = jnp.exp(_logits(hidden, block, columns, vocab, temperature) - normaliser[:, None])
        return _push_back(weight * ((targets[:, None] == columns) - probs), hidden, block, hidden_gradient)

    start = jnp.zeros(hidden.shape, jnp.float32)
    hidden_gradient, table_gradient = _walk(visit, start, table, rows)
    return hidden_gradient.astype(hidden.dtype), table_gradient, None


_chosen_logprobs.defvjp(_chosen_forward, _chosen_backward)


def token_logprobs(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, *,
                   temperature: float = 1.0, block: int | None = None) -> jax.Array:
    """`log p(target)` at every position, where `p = softmax(logits / temperature)`.

    Args:
        hidden: `[..., D]`, the states that predict the targets.
        unembedding: from the model.
        targets: `[...]` int32 token ids.
        temperature: of the distribution.
        block: vocabulary rows held at a time; chosen by memory by default.

    Returns:
        `[...]` float32, nats.
    """
    chex.assert_equal_shape_prefix([hidden, targets], targets.ndim)
    flat = hidden.reshape(-1, hidden.shape[-1])
    rows = _block_rows(unembedding.table.shape[0], flat.shape[0], block)
    out = _chosen_logprobs(float(temperature), rows, flat, unembedding.table, targets.reshape(-1))
    return out.reshape(targets.shape)


def _term(kind: str, beta: float):
    """The summand of a divergence as a function of student and teacher log-probabilities."""
    def jensen_shannon(student, teacher):
        middle = jnp.logaddexp(jnp.log(beta) + teacher, jnp.log1p(-beta) + student)
        return (beta * jnp.exp(teacher) * (teacher - middle)
                + (1 - beta) * jnp.exp(student) * (student - middle))

    return {"forward": lambda student, teacher: jnp.exp(teacher) * (teacher - student),
            "reverse": lambda student, teacher: jnp.exp(student) * (student - teacher),
            "jsd": jensen_shannon}[kind]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _divergence(kind, beta, temperature, rows, student, student_table, teacher, teacher_table):
    arguments = (student, student_table, teacher, teacher_table)
    return _divergence_forward(kind, beta, temperature, rows, *arguments)[0]


def _divergence_forward(kind, beta, temperature, rows, student, student_table, teacher, teacher_table):
    vocab, tokens = student_table.shape[0], student.shape[0]
    tables = (student_table, teacher_table)
    zero = jnp.zeros(tokens, jnp.float32)

    def both(blocks, columns):
        return (_logits(student, blocks[0], columns, vocab, temperature),
                _logits(teacher, blocks[1], columns, vocab, temperature))

    def normalise(carry, blocks, columns):
        """Normalisers of both, and the sum of `exp(scores) * gap` of the side that is averaged over."""
        s_top, s_total, t_top, t_total, gaps = carry
        s_scores, t_scores = both(blocks, columns)
        s_top, s_total, s_shrink = _add_exp(s_top, s_total, s_scores)
        t_top, t_total, t_shrink = _add_exp(t_top, t_total, t_scores)
        gap = jnp.where(columns < vocab, t_scores - s_scores, 0.0)
        weights = jnp.exp(t_scores - t_top[:, None]) if kind == "forward" else jnp.exp(s_scores - s_top[:, None])
        gaps = gaps * (t_shrink if kind == "forward" else s_shrink) + (weights * gap).sum(-1)
        return (s_top, s_total, t_top, t_total, gaps), None

    start = (zero - jnp.inf, zero, zero - jnp.inf, zero, zero)
    (s_top, s_total, t_top, t_total, gaps), _ = _walk(normalise, start, tables, rows)
    s_norm, t_norm = s_top + jnp.log(s_total), t_top + jnp.log(t_total)

    # `slope` is the sum over the vocabulary of d term / d (student log-prob), what the normaliser of the
    # student hands back to every logit.
    if kind == "forward":
        value, slope = gaps / t_total - (t_norm - s_norm), zero - 1.0
    elif kind == "reverse":
        value = (t_norm - s_norm) - gaps / s_total
        slope = value + 1.0
    else:
        term = _term(kind, beta)

        def add(carry, blocks, columns):
            s_scores, t_scores = both(blocks, columns)
            s_logp = jnp.where(columns < vocab, s_scores - s_norm[:, None], 0.0)
            t_logp = jnp.where(columns < vocab, t_scores - t_norm[:, None], 0.0)
            terms, slopes = jax.jvp(lambda s: term(s, t_logp), (s_logp,), (jnp.ones_like(s_logp),))
            keep = lambda x: jnp.where(columns < vocab, x, 0.0).sum(-1)
            return (carry[0] + keep(terms), carry[1] + keep(slopes)), None

        (value, slope), _ = _walk(add, (zero, zero), tables, rows)
    return value, (student, student_table, teacher, teacher_table, s_norm, t_norm, slope)


def _divergence_backward(kind, beta, temperature, rows, residuals, gradient):
    student, student_table, teacher, teacher_table, s_norm, t_norm, slope = residuals
    vocab, weight = student_table.shape[0], (gradient / temperature)[:, None]
    term = _term(kind, beta)

    def visit(hidden_gradient, blocks, columns):
        inside = columns < vocab
        s_logp = jnp.where(inside, _dot(student, blocks[0]) / temperature - s_norm[:, None], -jnp.inf)
        t_logp = _dot(teacher, blocks[1]) / temperature - t_norm[:, None]
        finite = jnp.where(inside, s_logp, 0.0)
        _, slopes = jax.jvp(lambda s: term(s, t_logp), (finite,), (jnp.ones_like(finite),))
        change = jnp.where(inside, slopes, 0.0) - jnp.exp(s_logp) * slope[:, None]
        return _push_back(weight * change, student, blocks[0], hidden_gradient)

    start = jnp.zeros(student.shape, jnp.float32)
    hidden_gradient, table_gradient = _walk(visit, start, (student_table, teacher_table), rows)
    return (hidden_gradient.astype(student.dtype), table_gradient,
            jnp.zeros_like(teacher), jnp.zeros_like(teacher_table))


_divergence.defvjp(_divergence_forward, _divergence_backward)


def token_divergence(student: jax.Array, student_unembedding: Unembedding, teacher: jax.Array,
                     teacher_unembedding: Unembedding, *, kind: Divergence = "forward", beta: float = 0.5,
                     temperature: float = 1.0, block: int | None = None) -> jax.Array:
    """Divergence between teacher p and student q over the whole vocabulary, at every position.

        forward:  sum_v p (log p - log q)
        reverse:  sum_v q (log q - log p)
        jsd:      beta KL(p || m) + (1 - beta) KL(q || m),   m = beta p + (1 - beta) q

    with p and q the softmax of logits divided by `temperature`. The teacher gets no gradient.

    Args:
        student, teacher: `[..., D]` hidden states of aligned positions; widths may differ.
        student_unembedding, teacher_unembedding: of the same vocabulary.
        kind: which divergence.
        beta: weight of the teacher in the mixture of `jsd`, in (0, 1).
        temperature: divides both logits.
        block: vocabulary rows held at a time; chosen by memory by default.

    Returns:
        `[...]` float32, nats.
    """
    chex.assert_equal_shape_prefix([student, teacher], student.ndim - 1)
    chex.assert_equal_shape_prefix([student_unembedding.table, teacher_unembedding.table], 1)
    if kind == "jsd" and not 0.0 < beta < 1.0:
        raise ValueError(f"beta must be in (0, 1), got {beta}")
    flat = lambda x: x.reshape(-1, x.shape[-1])
    teacher, teacher_table = lax.stop_gradient((flat(teacher), teacher_unembedding.table))
    rows = _block_rows(teacher_table.shape[0], teacher.shape[0], block)
    out = _divergence(kind, float(beta), float(temperature), rows, flat(student),
                      student_unembedding.table, teacher, teacher_table)
    return out.reshape(student.shape[:-1])


def token_entropy(hidden: jax.Array, unembedding: Unembedding, *, temperature: float = 1.0,
                  block: int | None = None) -> jax.Array:
    """`-sum_v p log p` at every position, nats, with `p = softmax(logits / temperature)`.

    Computed as `log V` minus the divergence from the uniform distribution, whose logits are zero.

    Args:
        hidden: `[..., D]`.
        unembedding: from the model.
        temperature: of the distribution.
        block: vocabulary rows held at a time.

    Returns:
        `[...]` float32.
    """
    vocab = unembedding.table.shape[0]
    uniform = jnp.zeros((*hidden.shape[:-1], 1), hidden.dtype)
    flat_table = Unembedding(jnp.zeros((vocab, 1), unembedding.table.dtype))
    gap = token_divergence(hidden, unembedding, uniform, flat_table, kind="reverse",
                           temperature=temperature, block=block)
    return jnp.log(jnp.float32(vocab)) - gap
