"""Graphs of pairwise preferences: transitivity exactly and by samples, cycles, consistence, least-squares ranking.

A graph is `[..., N, N]` bool, any number of instances of N items: an edge i -> j where i is preferred to j, edges in
both directions where they are equal, none where the preference is unknown. With one edge per pair it is a complete
tournament. `items` `[..., N]` bool are the items of an instance; None where there is no padding. Values outside, and on
the diagonal, may be anything.

Functions of arrays are compiled, one program per shape: the sizes of instances are data.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Mean = tuple[jax.Array, jax.Array]
"""A mean, float32 `[...]`, NaN where there are no values, and the number of values, int32 `[...]`."""

# Instances with more items have sums that 32 bits do not hold.
MOST_ITEMS = 2**15


@jax.jit
def acyclic(graph: jax.Array, items: jax.Array | None = None) -> jax.Array:
    """Decides whether a graph, complete or partial, has no cycle that contradicts a preference.

    A violation is a directed cycle with at least one strict edge, one without its reverse (2410.02205, algorithm 2,
    which knows strict edges only): a cycle of equal items is consistent. O(N^3).

    Args:
        graph: `[..., N, N]`.
        items: `[..., N]` bool.

    Returns:
        `[...]` bool; True without items.
    """
    return _acyclic(jnp.asarray(graph) & pairs_of(graph, items))


@jax.jit
def components(graph: jax.Array, items: jax.Array | None = None) -> jax.Array:
    """Finds strongly connected components: items that are equal, or contradict each other in a cycle.

    Args:
        graph: `[..., N, N]`.
        items: `[..., N]` bool.

    Returns:
        `[..., N]` int32, the lowest index of an item of the same component.
    """
    count = graph.shape[-1]
    reach = _reachable(jnp.asarray(graph) & pairs_of(graph, items))
    connected = (reach & transpose(reach)) | jnp.eye(count, dtype=bool)
    return jnp.min(jnp.where(connected, jnp.arange(count, dtype=jnp.int32), count), -1, initial=count)


@functools.partial(jax.jit, static_argnames="k")
def transitivity(graph: jax.Array, k: int = 5, items: jax.Array | None = None) -> jax.Array:
    """Computes s_tran(K) exactly: the share of all subsets of K items that are acyclic, in a complete tournament.

    An acyclic subset has one item that wins against all others of it. These are counted per item, within the items that
    it wins against: O(N^(K - 1)) time, O(N^2) memory (2410.02205, equation 1, over all subsets).

    Args:
        graph: `[..., N, N]`.
        k: items of a subset, 3 or more. Values of different k are not comparable.
        items: `[..., N]` bool.

    Returns:
        `[...]` float32; NaN where there are fewer than k items, or a pair has no edge or two: see
        `sampled_transitivity`.

    Raises:
        ValueError: k is below 3, or counts exceed 32 bits: N above 32,768 for k = 3, 2,346 for 4, 478 for 5.
    """
    total = _by_size([float(math.comb(n, k)) for n in range(graph.shape[-1] + 1)], graph, items)
    share = (total - _cyclic(graph, items, k)) / jnp.maximum(total, 1.0)
    return jnp.where(complete(graph, items) & (total > 0), share, jnp.nan)


@jax.jit
def cyclic_triads(graph: jax.Array, items: jax.Array | None = None) -> jax.Array:
    """Counts the cycles of three items of a complete tournament, from the number of wins of every item.

    Args:
        graph: `[..., N, N]`.
        items: `[..., N]` bool.

    Returns:
        `[...]` float32, rounded above 2^24; NaN where a pair has no edge or two.
    """
    return jnp.where(complete(graph, items), _cyclic(graph, items, 3), jnp.nan)


@jax.jit
def kendall_zeta(graph: jax.Array, items: jax.Array | None = None) -> jax.Array:
    """Computes Kendall's coefficient of consistence, 1 - cyclic triads / their largest possible number.

    Args:
        graph: `[..., N, N]`, complete tournaments.
        items: `[..., N]` bool.

    Returns:
        `[...]` float32, 0 to 1; NaN where there are fewer than three items, or a pair has no edge or two.
    """
    counts = range(graph.shape[-1] + 1)
    most = _by_size([float((n**3 - n * (1 if n % 2 else 4)) // 24) for n in counts], graph, items)
    return jnp.where(most > 0, 1.0 - cyclic_triads(graph, items) / jnp.maximum(most, 1.0), jnp.nan)


def subsets(size: int, k: int = 5, count: int = 1000, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Draws different subsets of k of `size` items uniformly, or lists all of them if there are at most `count`.

    Args:
        size: number of items.
        k: items of a subset.
        count: number of subsets; 1000 in 2410.02205.
        seed: seed, such as (seed, index of the instance), so that errors of instances are independent.

    Returns:
        `[count, k]` int32, items ascending; rows of -1 at the end where there are fewer subsets.
    """
    if math.comb(size, k) <= count:
        rows = np.array(list(itertools.combinations(range(size), k)), np.int32).reshape(-1, k)
        return np.pad(rows, ((0, count - len(rows)), (0, 0)), constant_values=-1)
    rng, rows = np.random.default_rng(seed), np.empty((0, k), np.int32)
    while len(rows) < count:
        drawn = np.full((count, k), -1, np.int32)
        for column, last in enumerate(range(size - k, size)):  # R. W. Floyd's algorithm, for all rows at once
            item = rng.integers(last + 1, size=count)
            drawn[:, column] = np.where((drawn == item[:, None]).any(1), last, item)
        rows = np.concatenate([rows, np.sort(drawn, 1)])
        rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]  # the first one of equal rows
    return rows[:count]


@jax.jit
def sampled_transitivity(graph: jax.Array, chosen: jax.Array) -> Mean:
    """Computes s_tran(K) over given subsets of items: the share of induced subgraphs that are acyclic.

    (2410.02205, equation 1.) The graph may be partial: only cycles count, missing edges do not.

    Args:
        graph: `[..., N, N]`.
        chosen: `[..., M, K]` int32 from `subsets`; rows of -1 are padding. Takes M K^2 bytes per instance.

    Returns:
        The mean, and the number of subsets.
    """
    chex.assert_type(chosen, int)
    if not graph.shape[-1]:  # an array without elements has no row -1
        graph = jnp.zeros((*graph.shape[:-2], 1, 1), bool)
    induced = lambda edges, rows: edges[rows[:, :, None], rows[:, None, :]]
    subgraphs = jnp.vectorize(induced, signature="(n,n),(m,k)->(m,k,k)")(graph, chosen)
    return mean_over(acyclic(subgraphs), jnp.all(jnp.asarray(chosen) >= 0, -1), -1)


@jax.jit
def hodge_rank(flow: jax.Array, items: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Fits the potential s that explains a flow Y best, by least squares: Y[i, j] ~ s[i] - s[j] (HodgeRank, 0811.1067).

    Args:
        flow: `[..., N, N]` antisymmetric, such as `log_odds(p)`, or +1 for an edge and -1 for its reverse; NaN where
            unknown. The inconsistency of log-odds is 0 for a judge with latent scores; that of +1 and -1 is at least
            (N - 2) / (3 N), the value of a perfect order.
        items: `[..., N]` bool.

    Returns:
        The potential `[..., N]` float32, with mean 0 over every connected component; and the inconsistency `[...]`,
        the squares of Y[i, j] - (s[i] - s[j]) over those of Y, 0 to 1, NaN where the flow is 0.
    """
    chex.assert_type(flow, float)
    known = ~jnp.isnan(flow) & pairs_of(flow, items)
    known &= transpose(known)
    flow = jnp.where(known, jnp.asarray(flow, jnp.float32), 0.0)
    linked, one = known.astype(jnp.float32), jnp.eye(flow.shape[-1])
    laplacian = jnp.sum(linked, -1)[..., None] * one - linked
    # A constant may be added to the potential of a connected component: the component's indicator fixes its mean at 0.
    component = _reachable(known | (one > 0)).astype(jnp.float32)
    potential = jnp.linalg.solve(laplacian + component, jnp.sum(flow, -1)[..., None])[..., 0]
    residual = jnp.where(known, flow - (potential[..., :, None] - potential[..., None, :]), 0.0)
    squares = jnp.sum(jnp.square(flow), (-2, -1))
    inconsistency = jnp.sum(jnp.square(residual), (-2, -1)) / jnp.where(squares > 0, squares, 1.0)
    return potential, jnp.where(squares > 0, inconsistency, jnp.nan)


def chance_transitivity(k: int) -> float:
    """Computes s_tran(K) of a random judge: K! transitive tournaments of 2^(K (K - 1) / 2)."""
    return math.factorial(k) / 2**math.comb(k, 2)


def sampling_error(samples: int, share: float = 0.5, z: float = 1.96) -> float:
    """Computes the half-width of the normal interval of a share over random samples (2410.02205, appendix I)."""
    return z * math.sqrt(share * (1.0 - share) / samples)


def transpose(matrix: jax.Array) -> jax.Array:
    """Exchanges the last two axes."""
    return jnp.swapaxes(matrix, -1, -2)


def strict_edges(graph: jax.Array) -> jax.Array:
    """Marks the edges without a reverse."""
    return graph & ~transpose(graph)


def pairs_of(matrix: jax.Array, items: jax.Array | None) -> jax.Array:
    """Marks the ordered pairs of different items of an instance, bool in the shape of a matrix `[..., N, N]`."""
    chex.assert_equal(*matrix.shape[-2:])
    items = _all_items(matrix, items)
    return items[..., :, None] & items[..., None, :] & ~jnp.eye(matrix.shape[-1], dtype=bool)


def mean_over(values: jax.Array, where: jax.Array, axis: int | tuple[int, ...] = (-2, -1)) -> Mean:
    """Computes the mean of the marked values along axes."""
    n = jnp.sum(where, axis)
    return jnp.where(n > 0, jnp.sum(jnp.where(where, values, 0), axis) / jnp.maximum(n, 1), jnp.nan), n


def by_row(function: Callable[[jax.Array], jax.Array], matrix: jax.Array) -> jax.Array:
    """Applies a function to row i of all instances, `[..., N]`, for one i after the other: no matrix is widened.

    Returns:
        `[..., N]` or `[..., N, N]`, stacked results of the function.
    """
    rows = lax.map(function, jnp.moveaxis(matrix, -2, 0))
    return jnp.moveaxis(rows, 0, matrix.ndim - 2)


def _all_items(matrix: jax.Array, items: jax.Array | None) -> jax.Array:
    # After a barrier: constants of N x N take seconds to fold, and round a division in another way than data.
    items = lax.optimization_barrier(jnp.ones(matrix.shape[-1], bool)) if items is None else items
    return jnp.broadcast_to(items, matrix.shape[:-1])


def _by_size(table: Sequence[float], graph: jax.Array, items: jax.Array | None) -> jax.Array:
    """Looks up the entry of a table for the number of items of every instance."""
    return jnp.asarray(table, jnp.float32)[jnp.sum(_all_items(graph, items), -1)]


def _acyclic(graph: jax.Array) -> jax.Array:
    return ~jnp.any(strict_edges(graph) & transpose(_reachable(graph)), (-2, -1))


def _reachable(graph: jax.Array) -> jax.Array:
    """Marks the pairs with a directed path from i to j (Warshall)."""
    line = lax.dynamic_index_in_dim
    step = lambda k, reach: reach | (line(reach, k, -1) & line(reach, k, -2))
    return lax.fori_loop(0, graph.shape[-1], step, graph) if graph.shape[-1] else graph


@jax.jit
def complete(graph: jax.Array, items: jax.Array | None = None) -> jax.Array:
    """Decides whether every pair of items has one edge, `[...]` bool."""
    return jnp.all((jnp.asarray(graph) ^ transpose(graph)) | ~pairs_of(graph, items), (-2, -1))


def _cyclic(graph: jax.Array, items: jax.Array | None, k: int) -> jax.Array:
    """Counts the subsets of k items of a complete tournament that are not transitive, float32, rounded once."""
    count = graph.shape[-1]
    if k < 3:
        raise ValueError(f"a cycle has three items or more, not {k}")
    if count > MOST_ITEMS or count > 0 and math.comb(count - 1, k - 1) >= 2**31:
        raise ValueError(f"the subsets of {k} of {count} items exceed 32 bits: sample them")
    # In an order without cycles, an item with r items after it is the best of C(r, k - 1) subsets.
    ordered = jnp.asarray([math.comb(r, k - 1) for r in range(count)], jnp.int32)
    ordered = jnp.where(jnp.arange(count) < jnp.sum(_all_items(graph, items), -1)[..., None], ordered, 0)
    lacking = ordered - _best_of(jnp.asarray(graph) & pairs_of(graph, items), k)
    # The sum may exceed 32 bits; the sums of upper and of lower halves do not.
    low = jnp.sum(lacking & 0xFFFF, -1)
    high = jnp.sum(lacking >> 16, -1) + (low >> 16)
    return high.astype(jnp.float32) * 65536.0 + (low & 0xFFFF).astype(jnp.float32)


def _best_of(graph: jax.Array, k: int) -> jax.Array:
    """Counts for every item the transitive subsets of k items that it is the best of, `[..., N]` int32."""
    choose_two = lambda n: n * (n - 1) // 2
    if k == 3:
        return choose_two(by_row(lambda row: jnp.sum(row, -1, dtype=jnp.int32), graph))
    if k == 4:
        edges = graph.astype(jnp.float32)
        common = jnp.matmul(edges, transpose(edges)).astype(jnp.int32)  # items that both i and j win against
        return jnp.sum(jnp.where(graph, choose_two(common), 0), -1)
    within = lambda others: jnp.sum(_best_of(graph & others[..., :, None] & others[..., None, :], k - 1), -1)
    return by_row(within, graph)
