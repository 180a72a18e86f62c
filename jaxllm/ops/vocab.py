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


def _block_rows(vocab: int, tokens: int, block: int | None) -> int:
    """Returns the number of table rows per block: at most `block`, and an even division of the vocabulary if possible.

    An uneven division costs a padded copy of the table, so blocks up to four times smaller are preferred to it.
    """
    limit = max(1, min(vocab, block or max(tile_elements() // max(tokens, 1), 128)))
    if limit == vocab:
        return vocab
    even = [rows for rows in range(limit, max(limit // 4, 1) - 1, -1) if vocab % rows == 0]
    return next((rows for rows in even if rows % SPLIT == 0), even[0] if even else limit)


def _walk(visit, carry, heads, rows: int):
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


def _check_widths(hidden: jax.Array, unembedding: Unembedding) -> None:
    """Asserts that hidden states and unembedding fit."""
    chex.assert_rank(unembedding.table, 2)
    chex.assert_axis_dimension(hidden, -1, unembedding.table.shape[1])
    chex.assert_shape([] if unembedding.bias is None else [unembedding.bias], unembedding.table.shape[:1])


def _check_targets(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array) -> None:
    """Asserts that hidden states, unembedding and the tokens after the states fit."""
    chex.assert_rank(hidden, targets.ndim + 1)
    chex.assert_equal_shape_prefix([hidden, targets], targets.ndim)
    chex.assert_type([hidden, targets], [float, int])
    _check_widths(hidden, unembedding)


def _scores(hidden, head, columns, vocab, temperature):
    """Computes one block of `logits / temperature`, minus infinity in the padding."""
    return jnp.where(columns < vocab, head.logits(hidden) / temperature, -jnp.inf)


def _add_exp(top, total, scores):
    """Extends the running maximum and the running sum of exponentials (relative to it) by `scores` `[N, b]`."""
    new_top = jnp.maximum(top, scores.max(-1))
    # Both differences are of equal infinities only before the first finite score.
    shrink = jnp.where(top == new_top, 1.0, jnp.exp(top - new_top))
    return new_top, total * shrink + jnp.exp(scores - new_top[:, None]).sum(-1), shrink


def _push_back(slope, hidden, head, logits, hidden_gradient):
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
    """Computes `log p(target)` at every position, where `p = softmax(logits / temperature)`.

    Args:
        hidden: `[..., D]`, the states that predict the targets.
        unembedding: from the model.
        targets: `[...]` int32 token ids.
        temperature: temperature of the distribution; as an array, another value compiles nothing. Not differentiated.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `[...]` float32, nats.
    """
    _check_targets(hidden, unembedding, targets)
    flat = hidden.reshape(-1, hidden.shape[-1])
    rows = _block_rows(unembedding.table.shape[0], flat.shape[0], block)
    out = _chosen_logprobs(rows, jnp.float32(temperature), flat, unembedding, targets.reshape(-1))
    return out.reshape(targets.shape)


def _term(kind: str, beta: float):
    """Returns the summand of a divergence as a function of student and teacher log-probabilities."""
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
        """Updates both normalizers, and the sum of `exp(scores) * log-ratio` of the averaging side."""
        s_top, s_total, t_top, t_total, ratios = carry
        s_scores, t_scores = both(blocks, columns)
        s_top, s_total, s_shrink = _add_exp(s_top, s_total, s_scores)
        t_top, t_total, t_shrink = _add_exp(t_top, t_total, t_scores)
        ratio = jnp.where(columns < vocab, t_scores - s_scores, 0.0)
        weights = jnp.exp(t_scores - t_top[:, None]) if kind == "forward" else jnp.exp(s_scores - s_top[:, None])
        ratios = ratios * (t_shrink if kind == "forward" else s_shrink) + (weights * ratio).sum(-1)
        return (s_top, s_total, t_top, t_total, ratios), None

    start = (zero - jnp.inf, zero, zero - jnp.inf, zero, zero)
    (s_top, s_total, t_top, t_total, ratios), _ = _walk(normalize, start, heads, rows)
    s_norm, t_norm = s_top + jnp.log(s_total), t_top + jnp.log(t_total)

    # `slope` is the sum over the vocabulary of d term / d (student log-prob), the gradient that every logit receives
    # through the student's normalizer.
    if kind == "forward":
        value, slope = ratios / t_total - (t_norm - s_norm), zero - 1.0
    elif kind == "reverse":
        value = (t_norm - s_norm) - ratios / s_total
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
    """Computes the divergence of teacher p and student q over the whole vocabulary, at every position.

        forward:  sum_v p (log p - log q)
        reverse:  sum_v q (log q - log p)
        jsd:      beta KL(p || m) + (1 - beta) KL(q || m),   m = beta p + (1 - beta) q

    with p and q the softmax of logits divided by `temperature`. The teacher gets no gradient.

    Args:
        student, teacher: `[..., D]` hidden states of aligned positions; widths may differ.
        student_unembedding, teacher_unembedding: unembeddings of the same vocabulary.
        kind: forward KL, reverse KL, or generalized Jensen-Shannon divergence.
        beta: weight of the teacher in the mixture of `jsd`, in (0, 1).
        temperature: divides both logits.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `[...]` float32, nats.
    """
    chex.assert_rank(teacher, student.ndim)
    chex.assert_equal_shape_prefix([student, teacher], student.ndim - 1)
    chex.assert_type([student, teacher], float)
    _check_widths(student, student_unembedding)
    _check_widths(teacher, teacher_unembedding)
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
    """Computes `-sum_v p log p` at every position, in nats, with `p = softmax(logits / temperature)`.

    Computed as `log V` minus the divergence from the uniform distribution, which has zero logits.

    Args:
        hidden: `[..., D]`.
        unembedding: from the model.
        temperature: temperature of the distribution.
        block: vocabulary rows per block.

    Returns:
        `[...]` float32.
    """
    chex.assert_type(hidden, float)
    _check_widths(hidden, unembedding)
    vocab = unembedding.table.shape[0]
    uniform = jnp.zeros((*hidden.shape[:-1], 1), hidden.dtype)
    flat_table = Unembedding(jnp.zeros((vocab, 1), unembedding.table.dtype))
    divergence = token_divergence(hidden, unembedding, uniform, flat_table, kind="reverse",
                                  temperature=temperature, block=block)
    return jnp.log(jnp.float32(vocab)) - divergence


def token_aligned_logprobs(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, *,
                           block: int | None = None) -> jax.Array:
    """Computes `log p(target) - log sum_v p_v^2` at every position, without gradient (WPO, 2406.11827).

    The second term is the logarithm of the expected probability of a sampled token, so the values of samples are
    around 0.

    Args:
        hidden: `[..., D]`, the states that predict the targets.
        unembedding: from the model.
        targets: `[...]` int32 token ids.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `[...]` float32, nats.
    """
    _check_targets(hidden, unembedding, targets)
    flat, head = lax.stop_gradient((hidden.reshape(-1, hidden.shape[-1]), unembedding))
    vocab, ids = head.table.shape[0], targets.reshape(-1, 1)

    def visit(carry, block, columns):
        top, total, squares, chosen = carry
        scores = _scores(flat, block, columns, vocab, 1.0)
        top, total, shrink = _add_exp(top, total, scores)
        squares = squares * jnp.square(shrink) + jnp.square(jnp.exp(scores - top[:, None])).sum(-1)
        return (top, total, squares, chosen + jnp.where(ids == columns, scores, 0.0).sum(-1)), None

    zero = jnp.zeros(flat.shape[0], jnp.float32)
    rows = _block_rows(vocab, flat.shape[0], block)
    (top, total, squares, chosen), _ = _walk(visit, (zero - jnp.inf, zero, zero, zero), head, rows)
    # log p(target) = chosen - top - log total, and sum p^2 = squares / total^2.
    return (chosen - top + jnp.log(total) - jnp.log(squares)).reshape(targets.shape)


def token_statistics(hidden: jax.Array, unembedding: Unembedding, reference: jax.Array,
                     reference_unembedding: Unembedding, targets: jax.Array, *, temperature: float | jax.Array = 1.0,
                     block: int | None = None) -> dict[str, jax.Array]:
    """Computes what reinforcement learning records of a policy p and a reference model q, in one walk, no gradient.

    Args:
        hidden, reference: `[..., D]`, the states of both models that predict the targets; widths may differ.
        unembedding, reference_unembedding: unembeddings of the same vocabulary.
        targets: `[...]` int32 token ids.
        temperature: divides both logits.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `[...]` float32, nats: `logprobs` and `reference_logprobs` of the targets; `kl`, `sum_v p (log p - log q)`; and
        `entropy`, `-sum_v p log p`.
    """
    _check_targets(hidden, unembedding, targets)
    _check_targets(reference, reference_unembedding, targets)
    chex.assert_equal_shape_prefix([unembedding.table, reference_unembedding.table], 1)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    policy, other, heads = lax.stop_gradient((flat(hidden), flat(reference), (unembedding, reference_unembedding)))
    vocab, ids = unembedding.table.shape[0], targets.reshape(-1, 1)

    def visit(carry, blocks, columns):
        top, total, own, ratios, other_top, other_total, chosen, other_chosen = carry
        inside = columns < vocab
        scores = _scores(policy, blocks[0], columns, vocab, temperature)
        other_scores = _scores(other, blocks[1], columns, vocab, temperature)
        top, total, shrink = _add_exp(top, total, scores)
        other_top, other_total, _ = _add_exp(other_top, other_total, other_scores)
        weights = jnp.exp(scores - top[:, None])
        weighted = lambda values: jnp.where(inside & (weights > 0), weights * values, 0.0).sum(-1)
        pick = lambda values: jnp.where(ids == columns, values, 0.0).sum(-1)
        own = own * shrink + weighted(scores)
        ratios = ratios * shrink + weighted(scores - other_scores)
        return (top, total, own, ratios, other_top, other_total, chosen + pick(scores),
                other_chosen + pick(other_scores)), None

    zero = jnp.zeros(policy.shape[0], jnp.float32)
    rows = _block_rows(vocab, policy.shape[0], block)
    start = (zero - jnp.inf, zero, zero, zero, zero - jnp.inf, zero, zero, zero)
    (top, total, own, ratios, other_top, other_total, chosen, other_chosen), _ = _walk(visit, start, heads, rows)
    norm, other_norm = top + jnp.log(total), other_top + jnp.log(other_total)
    found = {"logprobs": chosen - norm, "reference_logprobs": other_chosen - other_norm,
             "kl": jnp.maximum(ratios / total - norm + other_norm, 0.0), "entropy": norm - own / total}
    return {name: values.reshape(targets.shape) for name, values in found.items()}
