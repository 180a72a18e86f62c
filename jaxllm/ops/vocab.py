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
    """What turns hidden states into logits: `cap(hidden @ table.T + bias)`.

    Attributes:
        table: `[V, D]`, one row per token.
        bias: `[V]`, or None.
        softcap: `cap(z) = c tanh(z / c)` keeps logits within +-c (Gemma 2, 2408.00118); None leaves them.
    """

    table: jax.Array
    bias: jax.Array | None = None
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})

    def logits(self, hidden: jax.Array) -> jax.Array:
        """`[..., V]` float32 logits of `hidden` `[..., D]`."""
        flat = _dot(hidden.reshape(-1, hidden.shape[-1]), self.table)
        if self.bias is not None:
            flat += self.bias.astype(jnp.float32)
        if self.softcap is not None:
            flat = self.softcap * jnp.tanh(flat / self.softcap)
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


def _walk(visit, carry, heads, rows: int):
    """Folds `visit(carry, blocks, columns)` over blocks of `rows` tokens of every `Unembedding` in `heads`.

    `columns` `[rows]` are the token ids of the block, V and above in the padding of the last one.

    Returns:
        The last carry, and the outputs of all visits joined to `[V, ...]`.
    """
    vocab = jax.tree.leaves(heads)[0].shape[0]
    blocks = -(-vocab // rows)
    columns = jnp.arange(blocks * rows, dtype=jnp.int32).reshape(blocks, rows)
    if blocks == 1:
        return visit(carry, heads, columns[0])

    def cut(leaf):
        padding = ((0, blocks * rows - vocab), *((0, 0) for _ in leaf.shape[1:]))
        return jnp.pad(leaf, padding).reshape(blocks, rows, *leaf.shape[1:])

    carry, outputs = lax.scan(lambda carry, xs: visit(carry, *xs), carry, (jax.tree.map(cut, heads), columns))
    return carry, jax.tree.map(lambda out: out.reshape(blocks * rows, *out.shape[2:])[:vocab], outputs)


def _scores(hidden, head, columns, vocab, temperature):
    """One block of `logits / temperature`, minus infinity in the padding."""
    return jnp.where(columns < vocab, head.logits(hidden) / temperature, -jnp.inf)


def _add_exp(top, total, scores):
    """Running maximum and running sum of exponentials (relative to it), extended by `scores` `[N, b]`."""
    new_top = jnp.maximum(top, scores.max(-1))
    # Both differences are of equal infinities only before the first finite score.
    shrink = jnp.where(top == new_top, 1.0, jnp.exp(top - new_top))
    return new_top, total * shrink + jnp.exp(scores - new_top[:, None]).sum(-1), shrink


def _push_back(slope, hidden, head, logits, hidden_gradient):
    """Sends the gradient `slope` `[N, b]` of a block's `logits` on.

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


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen_logprobs(rows, temperature, hidden, head, targets):
    return _chosen_forward(rows, temperature, hidden, head, targets)[0]


def _chosen_forward(rows, temperature, hidden, head, targets):
    vocab, tokens = head.table.shape[0], hidden.shape[0]

    def visit(carry, block, columns):
        top, total, chosen = carry
        scores = _scores(hidden, block, columns, vocab, temperature)
        top, total, _ = _add_exp(top, total, scores)
        chosen += jnp.where(targets[:, None] == columns, scores, 0.0).sum(-1)
        return (top, total, chosen), None

    zero = jnp.zeros(tokens, jnp.float32)
    (top, total, chosen), _ = _walk(visit, (zero - jnp.inf, zero, zero), head, rows)
    normalizer = top + jnp.log(total)
    return chosen - normalizer, (temperature, hidden, head, targets, normalizer)


def _chosen_backward(rows, residuals, gradient):
    temperature, hidden, head, targets, normalizer = residuals
    vocab, weight = head.table.shape[0], (gradient / temperature)[:, None]

    def visit(hidden_gradient, block, columns):
        logits = block.logits(hidden)
        probs = jnp.where(columns < vocab, jnp.exp(logits / temperature - normalizer[:, None]), 0.0)
        slope = weight * ((targets[:, None] == columns) - probs)
        return _push_back(slope, hidden, block, logits, hidden_gradient)

    start = jnp.zeros(hidden.shape, jnp.float32)
    hidden_gradient, head_gradient = _walk(visit, start, head, rows)
    return None, hidden_gradient.astype(hidden.dtype), head_gradient, None


_chosen_logprobs.defvjp(_chosen_forward, _chosen_backward)


def token_logprobs(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, *,
                   temperature: float | jax.Array = 1.0, block: int | None = None) -> jax.Array:
    """`log p(target)` at every position, where `p = softmax(logits / temperature)`.

    Args:
        hidden: `[..., D]`, the states that predict the targets.
        unembedding: from the model.
        targets: `[...]` int32 token ids.
        temperature: of the distribution; as an array, another value compiles nothing. Not differentiated.
        block: vocabulary rows held at a time; chosen by memory by default.

    Returns:
        `[...]` float32, nats.
    """
    chex.assert_equal_shape_prefix([hidden, targets], targets.ndim)
    flat = hidden.reshape(-1, hidden.shape[-1])
    rows = _block_rows(unembedding.table.shape[0], flat.shape[0], block)
    out = _chosen_logprobs(rows, jnp.float32(temperature), flat, unembedding, targets.reshape(-1))
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
def _divergence(kind, beta, temperature, rows, student, student_head, teacher, teacher_head):
    arguments = (student, student_head, teacher, teacher_head)
    return _divergence_forward(kind, beta, temperature, rows, *arguments)[0]


def _divergence_forward(kind, beta, temperature, rows, student, student_head, teacher, teacher_head):
    vocab, tokens = student_head.table.shape[0], student.shape[0]
    heads = (student_head, teacher_head)
    zero = jnp.zeros(tokens, jnp.float32)

    def both(blocks, columns):
        return (_scores(student, blocks[0], columns, vocab, temperature),
                _scores(teacher, blocks[1], columns, vocab, temperature))

    def normalize(carry, blocks, columns):
        """Normalizers of both, and the sum of `exp(scores) * gap` of the side that is averaged over."""
        s_top, s_total, t_top, t_total, gaps = carry
        s_scores, t_scores = both(blocks, columns)
        s_top, s_total, s_shrink = _add_exp(s_top, s_total, s_scores)
        t_top, t_total, t_shrink = _add_exp(t_top, t_total, t_scores)
        gap = jnp.where(columns < vocab, t_scores - s_scores, 0.0)
        weights = jnp.exp(t_scores - t_top[:, None]) if kind == "forward" else jnp.exp(s_scores - s_top[:, None])
        gaps = gaps * (t_shrink if kind == "forward" else s_shrink) + (weights * gap).sum(-1)
        return (s_top, s_total, t_top, t_total, gaps), None

    start = (zero - jnp.inf, zero, zero - jnp.inf, zero, zero)
    (s_top, s_total, t_top, t_total, gaps), _ = _walk(normalize, start, heads, rows)
    s_norm, t_norm = s_top + jnp.log(s_total), t_top + jnp.log(t_total)

    # `slope` is the sum over the vocabulary of d term / d (student log-prob), what the normalizer of the
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

        (value, slope), _ = _walk(add, (zero, zero), heads, rows)
    return value, (student, student_head, teacher, teacher_head, s_norm, t_norm, slope)


def _divergence_backward(kind, beta, temperature, rows, residuals, gradient):
    student, student_head, teacher, teacher_head, s_norm, t_norm, slope = residuals
    vocab, weight = student_head.table.shape[0], (gradient / temperature)[:, None]
    term = _term(kind, beta)

    def visit(hidden_gradient, blocks, columns):
        inside = columns < vocab
        logits = blocks[0].logits(student)
        s_logp = jnp.where(inside, logits / temperature - s_norm[:, None], -jnp.inf)
        t_logp = blocks[1].logits(teacher) / temperature - t_norm[:, None]
        finite = jnp.where(inside, s_logp, 0.0)
        _, slopes = jax.jvp(lambda s: term(s, t_logp), (finite,), (jnp.ones_like(finite),))
        change = jnp.where(inside, slopes, 0.0) - jnp.exp(s_logp) * slope[:, None]
        return _push_back(weight * change, student, blocks[0], logits, hidden_gradient)

    start = jnp.zeros(student.shape, jnp.float32)
    hidden_gradient, head_gradient = _walk(visit, start, (student_head, teacher_head), rows)
    return (hidden_gradient.astype(student.dtype), head_gradient,
            jnp.zeros_like(teacher), jax.tree.map(jnp.zeros_like, teacher_head))


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
    teacher, teacher_head = lax.stop_gradient((flat(teacher), teacher_unembedding))
    rows = _block_rows(teacher_head.table.shape[0], teacher.shape[0], block)
    out = _divergence(kind, float(beta), float(temperature), rows, flat(student),
                      student_unembedding, teacher, teacher_head)
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
