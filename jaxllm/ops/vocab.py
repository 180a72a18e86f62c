"""Log-probabilities, entropies and divergences over a vocabulary that is never held in memory.

Logits are `hidden @ table.T`, `[N, V]` for N tokens. The vocabulary is walked in blocks of rows of the table (see
`ops/unembedding.py`): the forward pass keeps running sums per token, the backward pass computes each block of logits
again, and a block's share of the table's gradient is complete when the block is done.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.ops.unembedding import Unembedding, block_rows, block_scores, check_widths, push_back, walk_blocks

Divergence = Literal["forward", "reverse", "jsd"]
LOWEST = float(jnp.finfo(jnp.float32).min)  # in place of minus infinity, of which differences are NaN


def _check_targets(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array) -> None:
    """Asserts that hidden states, unembedding and the tokens after the states fit."""
    chex.assert_rank(hidden, targets.ndim + 1)
    chex.assert_equal_shape_prefix([hidden, targets], targets.ndim)
    chex.assert_type([hidden, targets], [float, int])
    check_widths(hidden, unembedding)


def _add_exp(top, total, scores):
    """Extends the running maximum, `LOWEST` at first, and the running sum of exponentials relative to it by `scores`
    `[N, b]`."""
    new_top = jnp.maximum(top, scores.max(-1))
    shrink = jnp.exp(top - new_top)
    return new_top, total * shrink + jnp.exp(scores - new_top[:, None]).sum(-1), shrink


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen_logprobs(rows, temperature, hidden, head, targets):
    return _chosen_forward(rows, temperature, hidden, head, targets)[0]


def _chosen_forward(rows, temperature, hidden, head, targets):
    vocab, tokens = head.table.shape[0], hidden.shape[0]

    def visit(carry, block, columns):
        top, total, chosen = carry
        scores = block_scores(hidden, block, columns, vocab, temperature)
        top, total, _ = _add_exp(top, total, scores)
        chosen += jnp.where(targets[:, None] == columns, scores, 0.0).sum(-1)
        return (top, total, chosen), None

    zero = jnp.zeros(tokens, jnp.float32)
    (top, total, chosen), _ = walk_blocks(visit, (zero + LOWEST, zero, zero), head, rows)
    normalizer = top + jnp.log(total)
    return chosen - normalizer, (temperature, hidden, head, targets, normalizer)


def _chosen_backward(rows, residuals, gradient):
    temperature, hidden, head, targets, normalizer = residuals
    vocab, weight = head.table.shape[0], (gradient / temperature)[:, None]

    def visit(hidden_gradient, block, columns):
        logits = block.logits(hidden)
        probs = jnp.where(columns < vocab, jnp.exp(logits / temperature - normalizer[:, None]), 0.0)
        slope = weight * ((targets[:, None] == columns) - probs)
        return push_back(slope, hidden, block, logits, hidden_gradient)

    start = jnp.zeros(hidden.shape, jnp.float32)
    hidden_gradient, head_gradient = walk_blocks(visit, start, head, rows)
    return None, hidden_gradient.astype(hidden.dtype), head_gradient, None


_chosen_logprobs.defvjp(_chosen_forward, _chosen_backward)


def token_logprobs(hidden: jax.Array, unembedding: Unembedding, targets: jax.Array, *,
                   temperature: float | jax.Array = 1.0, block: int | None = None) -> jax.Array:
    """Computes `log p(target)` at every position, where `p = softmax(logits / temperature)`.

    Args:
        hidden: `[..., D]`, the states that predict the targets.
        unembedding: from the model.
        targets: `[...]` int32 token ids, 0 to V - 1; of others, such as -100, the result is finite and has no meaning.
        temperature: temperature of the distribution; as an array, another value compiles nothing. Not differentiated.
        block: vocabulary rows per block; by default chosen for the backend.

    Returns:
        `[...]` float32, nats.
    """
    _check_targets(hidden, unembedding, targets)
    flat = hidden.reshape(-1, hidden.shape[-1])
    rows = block_rows(unembedding.table.shape[0], flat.shape[0], block)
    out = _chosen_logprobs(rows, jnp.float32(temperature), flat, unembedding, targets.reshape(-1))
    return out.reshape(targets.shape)


def _term(kind: str, beta: float):
    """Returns the summand of a divergence as a function of student and teacher log-probabilities."""
    def jensen_shannon(student, teacher):
        student, teacher = jnp.maximum(student, LOWEST), jnp.maximum(teacher, LOWEST)
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
        return (block_scores(student, blocks[0], columns, vocab, temperature),
                block_scores(teacher, blocks[1], columns, vocab, temperature))

    def normalize(carry, blocks, columns):
        """Updates both normalizers, and the sum of `exp(scores) * log-ratio` of the averaging side."""
        s_top, s_total, t_top, t_total, ratios = carry
        s_scores, t_scores = both(blocks, columns)
        s_top, s_total, s_shrink = _add_exp(s_top, s_total, s_scores)
        t_top, t_total, t_shrink = _add_exp(t_top, t_total, t_scores)
        ratio = jnp.where(columns < vocab, t_scores - s_scores, 0.0)
        weights = jnp.exp(t_scores - t_top[:, None]) if kind == "forward" else jnp.exp(s_scores - s_top[:, None])
        # Not 0 * infinity where a logit is minus infinity.
        ratios = ratios * (t_shrink if kind == "forward" else s_shrink) + jnp.where(
            weights > 0, weights * ratio, 0.0).sum(-1)
        return (s_top, s_total, t_top, t_total, ratios), None

    start = (zero + LOWEST, zero, zero + LOWEST, zero, zero)
    (s_top, s_total, t_top, t_total, ratios), _ = walk_blocks(normalize, start, heads, rows)
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

        (value, slope), _ = walk_blocks(add, (zero, zero), heads, rows)
    return value, (student, student_head, teacher, teacher_head, s_norm, t_norm, slope)


def _divergence_backward(kind, beta, temperature, rows, residuals, gradient):
    student, student_head, teacher, teacher_head, s_norm, t_norm, slope = residuals
    vocab, weight = student_head.table.shape[0], (gradient / temperature)[:, None]
    term = _term(kind, beta)

    def visit(hidden_gradient, blocks, columns):
        logits = blocks[0].logits(student)
        s_logp = jnp.where(columns < vocab, logits / temperature - s_norm[:, None], -jnp.inf)
        t_logp = blocks[1].logits(teacher) / temperature - t_norm[:, None]
        inside = s_logp > -jnp.inf
        finite = jnp.where(inside, s_logp, 0.0)
        _, slopes = jax.jvp(lambda s: term(s, t_logp), (finite,), (jnp.ones_like(finite),))
        change = jnp.where(inside, slopes, 0.0) - jnp.exp(s_logp) * slope[:, None]
        return push_back(weight * change, student, blocks[0], logits, hidden_gradient)

    start = jnp.zeros(student.shape, jnp.float32)
    hidden_gradient, head_gradient = walk_blocks(visit, start, (student_head, teacher_head), rows)
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
    check_widths(student, student_unembedding)
    check_widths(teacher, teacher_unembedding)
    chex.assert_equal_shape_prefix([student_unembedding.table, teacher_unembedding.table], 1)
    if kind == "jsd" and not 0.0 < beta < 1.0:
        raise ValueError(f"beta must be in (0, 1), got {beta}")
    flat = lambda x: x.reshape(-1, x.shape[-1])
    teacher, teacher_head = lax.stop_gradient((flat(teacher), teacher_unembedding))
    rows = block_rows(teacher_head.table.shape[0], teacher.shape[0], block)
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
    check_widths(hidden, unembedding)
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
        scores = block_scores(flat, block, columns, vocab, 1.0)
        top, total, shrink = _add_exp(top, total, scores)
        squares = squares * jnp.square(shrink) + jnp.square(jnp.exp(scores - top[:, None])).sum(-1)
        return (top, total, squares, chosen + jnp.where(ids == columns, scores, 0.0).sum(-1)), None

    zero = jnp.zeros(flat.shape[0], jnp.float32)
    rows = block_rows(vocab, flat.shape[0], block)
    (top, total, squares, chosen), _ = walk_blocks(visit, (zero + LOWEST, zero, zero, zero), head, rows)
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
        scores = block_scores(policy, blocks[0], columns, vocab, temperature)
        other_scores = block_scores(other, blocks[1], columns, vocab, temperature)
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
    rows = block_rows(vocab, policy.shape[0], block)
    start = (zero + LOWEST, zero, zero, zero, zero + LOWEST, zero, zero, zero)
    (top, total, own, ratios, other_top, other_total, chosen, other_chosen), _ = walk_blocks(visit, start, heads, rows)
    norm, other_norm = top + jnp.log(total), other_top + jnp.log(other_total)
    found = {"logprobs": chosen - norm, "reference_logprobs": other_chosen - other_norm,
             "kl": jnp.maximum(ratios / total - norm + other_norm, 0.0), "entropy": norm - own / total}
    return {name: values.reshape(targets.shape) for name, values in found.items()}
