"""Logical consistency of a judge of pairs: commutativity, negation invariance, graphs for transitivity (2410.02205).

An instance has N items. `p[i, j]` is the probability that the judge picks the item in the first slot when i is shown
first and j second, and `q[i, j]` the same for the negated question ("which is worse"). Both are about slots, not about
winners: a judge that prefers the same item in both orders has one of `p[i, j]` and `p[j, i]` above 0.5 and the other
one below. NaN is a missing answer; comparisons without an answer are dropped. The diagonal is ignored.

Arguments of most functions:
    p, q: `[..., N, N]` float, any number of instances; compared with 0.5 in float32.
    items: `[..., N]` bool, the items of an instance; None where there is no padding. Values outside may be anything.
    tie: None decides for the first slot where p >= 0.5, for the second one otherwise (the paper). A number decides that
        both items are equal where |p - 0.5| <= tie.

Means are `(mean, n)`: float32 `[...]`, NaN where n is 0, and the number of comparisons in it, int32 `[...]`.
Functions of arrays are compiled, one program per shape.
"""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.ops.preference_graphs import Mean, by_row, mean_over, pairs_of, strict_edges, transpose

Violations = tuple[jax.Array, jax.Array]
"""Indices of items, `[..., limit, 2 or 3]` int32, and strengths, `[..., limit]` float32.

The strongest is first; of equal ones that with the lower indices. -1 and strength 0 where there are fewer than `limit`.
The strength is the smallest |p - 0.5| of the answers that contradict each other.
"""

# The slot that an answer decides for, with opposite signs.
FIRST, EQUAL, SECOND, UNKNOWN = 1, 0, -1, 2
# Chance level of commutativity, negation invariance and pairwise accuracy: a judge that flips a coin.
CHANCE = 0.5
# Bound of |p[i, j] - p[j, i]|, so that log-odds are finite in float32: at most 14.5.
LARGEST_DIFFERENCE = 1.0 - 1e-6
# Slack of thresholds: in float32 0.6 is further from 0.5 than 0.1, and 0.4 is not.
ROUNDING = 1e-6


# Answers: what is done about position bias, and about missing and uncertain answers.

@jax.jit
def debias(p: jax.Array) -> jax.Array:
    """Averages the answers in both orders: (p[i, j] + 1 - p[j, i]) / 2, the probability that i wins.

    A bias that is added to the log-odds of the first slot changes it, but never moves it across 0.5.

    Args:
        p: `[..., N, N]`.

    Returns:
        `[..., N, N]` float32, NaN where one of both answers is missing; entries (i, j) and (j, i) sum to 1.
    """
    return 0.5 + 0.5 * _difference(p)


@jax.jit
def log_odds(p: jax.Array) -> jax.Array:
    """Computes the log-odds of `debias(p)`, `[..., N, N]` float32: an antisymmetric flow for `hodge_rank`."""
    return 2.0 * jnp.arctanh(jnp.clip(_difference(p), -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE))


@jax.jit
def fill_missing(p: jax.Array) -> jax.Array:
    """Replaces missing answers by 0.5, as the code of PairS does: the first slot wins, or a tie where there are ties.

    The other policies are to drop missing answers, as all functions do, and to refuse them, by their `coverage`.
    """
    chex.assert_type(p, float)
    return jnp.where(jnp.isnan(p), 0.5, p)


@jax.jit
def abstain(p: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Drops answers with |p - 0.5| < threshold. A measure over ascending thresholds is its confidence curve."""
    chex.assert_type(p, float)
    return jnp.where(_margin(p) < threshold - ROUNDING, jnp.nan, p)


@jax.jit
def coverage(p: jax.Array, items: jax.Array | None = None) -> Mean:
    """Computes the share of ordered pairs that have an answer; n is the number of all ordered pairs, N (N - 1)."""
    chex.assert_type(p, float)
    return mean_over(~jnp.isnan(p), pairs_of(p, items))


# Measures of answers.

@jax.jit
def commutativity(p: jax.Array, items: jax.Array | None = None, *, tie: float | None = None) -> Mean:
    """Computes s_comm, the share of unordered pairs with the same winner in both orders (equation 2).

    Args:
        p, items, tie: see the top of this file; with `tie`, what is equal in one order must be in the other.

    Returns:
        The mean over pairs with both answers. 0.5 by chance; 0 for a judge that always picks the first slot.
    """
    consistent, compared = _both_orders(p, items, tie)
    return mean_over(consistent, compared)


@jax.jit
def negation_invariance(p: jax.Array, q: jax.Array, items: jax.Array | None = None, *, tie: float | None = None
                        ) -> Mean:
    """Computes s_neg, the share of ordered pairs where the negated question gets the other slot (equation 3).

    Args:
        p, q, items, tie: see the top of this file; with `tie`, what is equal must be for both questions.

    Returns:
        The mean over pairs with both answers. 0.5 by chance; 0 for a judge that ignores the negation.
    """
    consistent, compared = _both_questions(p, q, items, tie)
    return mean_over(consistent, compared)


@jax.jit
def position_bias(p: jax.Array, items: jax.Array | None = None, *, tie: float | None = None) -> Mean:
    """Computes the first-slot excess: the share of ordered pairs decided for the first slot, less 0.5.

    Equal items count one half. 0 for a commutative judge with all answers; 0.5 where the first slot always wins.
    """
    answers = _answers(p, items, tie)
    return mean_over(answers / 2.0, answers != UNKNOWN)


@jax.jit
def pairwise_accuracy(p: jax.Array, scores: jax.Array, items: jax.Array | None = None, *, tie: float | None = None
                      ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the share of ordered pairs decided for the item with the higher score: agreement with humans (H.).

    Both orders count, so that a judge that always picks the first slot has 0.5 for any order of the items. With the
    items' lengths as scores it measures verbosity: 0.5 where wins do not depend on length.

    Args:
        p, items, tie: see the top of this file; items that are equal for the judge count one half.
        scores: `[..., N]` float, higher is better; NaN is unknown.

    Returns:
        `(mean, n, ties)`: the mean over answered pairs with different scores, their number, and the number of answered
        pairs that are left out because their scores are equal.
    """
    chex.assert_equal_shape_prefix([p, scores], p.ndim - 1)
    chex.assert_type(scores, float)
    return order_accuracy(p, jnp.sign(_float(scores)[..., :, None] - _float(scores)[..., None, :]), items, tie=tie)


@jax.jit
def order_accuracy(p: jax.Array, order: jax.Array, items: jax.Array | None = None, *, tie: float | None = None
                   ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes `pairwise_accuracy` for preferences that need no scores.

    Args:
        p, items, tie: see the top of this file.
        order: `[..., N, N]` float: above 0 where item i is better than j, below 0 where it is worse, 0 where they are
            equal, NaN where it is unknown.

    Returns:
        See `pairwise_accuracy`.
    """
    chex.assert_equal_shape([p, order])
    chex.assert_type(order, float)
    order = jnp.sign(order)
    answers = _answers(p, items, tie)
    answered = answers != UNKNOWN
    mean, n = mean_over((1.0 + answers * order) / 2.0, answered & (jnp.abs(order) > 0))
    return mean, n, jnp.sum(answered & (order == 0), (-2, -1))


@jax.jit
def self_agreement(p: jax.Array, items: jax.Array | None = None) -> Mean:
    """Computes the mean share of samples that are equal to the majority answer (section 3.1), 0.5 to 1.

    Args:
        p: `[..., N, N]`, share of the valid samples of a comparison that pick the first slot; NaN without any.
        items: see the top of this file.

    Returns:
        The mean over ordered pairs. By chance it is above 0.5, see `chance_self_agreement`.
    """
    return mean_over(0.5 + _margin(p), pairs_of(p, items) & ~jnp.isnan(p))


def chance_self_agreement(samples: int) -> float:
    """Computes the self-agreement of a judge that flips a coin: E max(B, S - B) / S with B ~ Binomial(S, 1 / 2)."""
    return sum(math.comb(samples, b) * max(b, samples - b) for b in range(samples + 1)) / (2**samples * samples)


def adjusted(value: jax.Array | float, chance: float) -> jax.Array | float:
    """Rescales a share so that it is 0 by chance and at most 1."""
    return (value - chance) / (1.0 - chance)


# The graph of the answers, and what contradicts what.

@jax.jit
def preference_graph(p: jax.Array, items: jax.Array | None = None, *, positions: jax.Array | None = None,
                     tie: float | None = None) -> jax.Array:
    """Builds the preference graph of an instance from one answer per unordered pair (algorithm 1).

    It is the answer for the earlier item in the first slot. A judge that always picks the first slot is perfectly
    transitive therefore, in any order. The graph of `debias(p)` depends on the order only where both answers are equal.

    Args:
        p, items, tie: see the top of this file.
        positions: `[..., N]` int, position of every item in the order of the instance, all different, such as a random
            permutation; by default 0 to N - 1. Rows and columns of the graph remain those of `p`.

    Returns:
        `[..., N, N]` bool, see `preference_graphs`: no edge where the answer is missing, two where items are equal.
    """
    answers = jnp.where(_earlier(p, positions), _answers(p, items, tie), UNKNOWN)
    at_least = (answers == FIRST) | (answers == EQUAL)
    return at_least | transpose((answers == SECOND) | (answers == EQUAL))


@functools.partial(jax.jit, static_argnames="limit")
def order_flips(p: jax.Array, items: jax.Array | None = None, *, tie: float | None = None, limit: int = 10
                ) -> Violations:
    """Finds pairs i < j that have different winners in both orders; see `commutativity`."""
    consistent, compared = _both_orders(p, items, tie)
    return _strongest(compared & ~consistent, jnp.minimum(_margin(p), transpose(_margin(p))), limit)


@functools.partial(jax.jit, static_argnames="limit")
def negation_failures(p: jax.Array, q: jax.Array, items: jax.Array | None = None, *, tie: float | None = None,
                      limit: int = 10) -> Violations:
    """Finds ordered pairs (i in the first slot) where the negated question does not get the other slot."""
    consistent, compared = _both_questions(p, q, items, tie)
    return _strongest(compared & ~consistent, jnp.minimum(_margin(p), _margin(q)), limit)


@functools.partial(jax.jit, static_argnames="limit")
def cyclic_triples(p: jax.Array, items: jax.Array | None = None, *, positions: jax.Array | None = None,
                   tie: float | None = None, limit: int = 10) -> Violations:
    """Finds cycles i -> j -> k -> i of the graph of `preference_graph`, i the lowest index. O(N^3) time, O(N^2) memory.

    With `tie`, one or two of the edges may be equalities, which the strength leaves out.
    """
    graph = preference_graph(p, items, positions=positions, tie=tie)
    strict, index = strict_edges(graph), jnp.arange(graph.shape[-1])
    margin = jnp.where(_earlier(p, positions), _margin(p), transpose(_margin(p)))
    strength = jnp.where(strict, margin, jnp.inf)
    shape = *graph.shape[:-2], limit
    none = jnp.full((*shape, 3), -1, jnp.int32), jnp.zeros(shape, jnp.float32)

    def visit(best: Violations, i: jax.Array) -> tuple[Violations, None]:
        edges = lambda matrix: (jnp.take(matrix, i, -2)[..., :, None], matrix, jnp.take(matrix, i, -1)[..., None, :])
        (from_i, between, to_i), (one, two, three), weights = edges(graph), edges(strict), edges(strength)
        cycle = from_i & between & to_i & (one | two | three) & (index > i)[:, None] & (index > i)
        pairs, strengths = _strongest(cycle, jnp.minimum(jnp.minimum(*weights[:2]), weights[2]), limit)
        triples = jnp.concatenate([jnp.where(pairs[..., :1] < 0, -1, i), pairs], -1)
        triples = jnp.concatenate([best[0], triples], -2)
        strengths = jnp.concatenate([best[1], strengths], -1)
        strengths, order = lax.top_k(jnp.where(triples[..., 0] < 0, -1.0, strengths), limit)
        return (jnp.take_along_axis(triples, order[..., None], -2), jnp.maximum(strengths, 0.0)), None

    return lax.scan(visit, none, index)[0] if graph.shape[-1] > 2 else none


def _strongest(marked: jax.Array, strength: jax.Array, limit: int) -> Violations:
    """Selects the marked pairs of largest strength, which is 0 or more."""
    count = marked.shape[-1]
    flat = jnp.where(marked, strength, -1.0).reshape(*marked.shape[:-2], count * count)
    flat = jnp.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, max(0, limit - count * count))], constant_values=-1.0)
    strengths, cells = lax.top_k(flat, limit)
    pairs = jnp.stack([cells // max(count, 1), cells % max(count, 1)], -1).astype(jnp.int32)
    return jnp.where(strengths[..., None] < 0, -1, pairs), jnp.maximum(strengths, 0.0)


def _float(values: jax.Array) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def _difference(p: jax.Array) -> jax.Array:
    """Computes p[i, j] - p[j, i], exactly antisymmetric."""
    chex.assert_type(p, float)
    return _float(p) - transpose(_float(p))


def _margin(p: jax.Array) -> jax.Array:
    return jnp.abs(_float(p) - 0.5)


def _answers(p: jax.Array, items: jax.Array | None, tie: float | None) -> jax.Array:
    """Decides for FIRST, SECOND or EQUAL; UNKNOWN where there is no answer, on the diagonal and outside the items."""
    chex.assert_type(p, float)

    def decide(row: jax.Array) -> jax.Array:
        answers = jnp.where(_float(row) >= 0.5, FIRST, SECOND)
        answers = answers if tie is None else jnp.where(_margin(row) <= tie + ROUNDING, EQUAL, answers)
        return jnp.where(jnp.isnan(row), UNKNOWN, answers).astype(jnp.int8)

    return jnp.where(pairs_of(p, items), by_row(decide, p), jnp.int8(UNKNOWN))


def _opposite(answers: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Marks answers that are for opposite slots, or both for neither, and those that can be compared at all."""
    compared = (answers != UNKNOWN) & (others != UNKNOWN)
    return compared & (answers == -others), compared


def _both_orders(p: jax.Array, items: jax.Array | None, tie: float | None) -> tuple[jax.Array, jax.Array]:
    """Marks consistent and compared pairs i < j."""
    answers = jnp.where(_earlier(p, None), _answers(p, items, tie), UNKNOWN)
    return _opposite(answers, transpose(_answers(p, items, tie)))


def _both_questions(p: jax.Array, q: jax.Array, items: jax.Array | None, tie: float | None
                    ) -> tuple[jax.Array, jax.Array]:
    """Marks consistent and compared ordered pairs."""
    chex.assert_equal_shape([p, q])
    return _opposite(_answers(p, items, tie), _answers(q, items, tie))


def _earlier(p: jax.Array, positions: jax.Array | None) -> jax.Array:
    positions = jnp.arange(p.shape[-1]) if positions is None else jnp.asarray(positions)
    return positions[..., :, None] < positions[..., None, :]
