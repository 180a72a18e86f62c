"""Transitivity, cycles and least-squares rankings of graphs against brute force, networkx and closed forms."""

import itertools
import math

import jax
import numpy as np
import pytest

from jaxllm.ops.preference_graphs import (
    acyclic,
    chance_transitivity,
    components,
    cyclic_triads,
    hodge_rank,
    kendall_zeta,
    sampled_transitivity,
    sampling_error,
    subsets,
    transitivity,
)


def tournaments(rng, batch, size):
    """Random complete tournaments, `[batch, size, size]`."""
    upper = np.triu(rng.random((batch, size, size)) < 0.5, 1)
    return upper | np.triu(~upper, 1).transpose(0, 2, 1)


def order(size, permutation=None):
    """The graph of a total order: the item that is first in the permutation wins against all others."""
    place = np.argsort(np.arange(size) if permutation is None else permutation)
    return place[:, None] < place


def has_cycle(graph):
    """A depth-first search with a stack, as algorithm 2 of the paper; for graphs without equal items."""
    done, active = set(), set()

    def visit(node):
        if node in active:
            return True
        if node in done:
            return False
        active.add(node)
        hit = any(visit(other) for other in np.flatnonzero(graph[node]))
        active.remove(node)
        done.add(node)
        return hit

    return any(visit(node) for node in range(len(graph)))


def brute_force(graph, k):
    """s_tran(K) over all subsets."""
    results = [not has_cycle(graph[np.ix_(rows, rows)]) for rows in itertools.combinations(range(len(graph)), k)]
    return np.mean(results) if results else np.nan


def padded(graphs, size, fill=True):
    """A batch of graphs of different sizes and their items; what is outside is `fill`."""
    batch = np.full((len(graphs), size, size), fill)
    for row, graph in zip(batch, graphs, strict=True):
        row[:len(graph), :len(graph)] = graph
    return batch, np.arange(size) < np.array([len(graph) for graph in graphs])[:, None]


def digraph(graph):
    networkx = pytest.importorskip("networkx", reason="the oracle of graphs is not installed")
    return networkx, networkx.from_numpy_array(graph, create_using=networkx.DiGraph)


@pytest.mark.parametrize(("k", "share"), [(3, 0.75), (4, 0.375), (5, 120 / 1024)])
def test_share_of_transitive_tournaments(k, share):
    """All 2^(K (K - 1) / 2) of them, K! of which are transitive; the number of wins decides it."""
    bits = (np.arange(2**math.comb(k, 2))[:, None] >> np.arange(math.comb(k, 2))) & 1 > 0
    graphs = np.zeros((len(bits), k, k), bool)
    graphs[:, *np.triu_indices(k, 1)] = bits
    graphs |= np.triu(~graphs, 1).transpose(0, 2, 1)
    transitive = np.asarray(acyclic(graphs))
    assert transitive.sum() == math.factorial(k) and transitive.mean() == share == chance_transitivity(k)
    wins = np.sort(graphs.sum(2), 1)
    np.testing.assert_array_equal(transitive, (wins == np.arange(k)).all(1))
    np.testing.assert_array_equal(transitive, (wins**2).sum(1) == (k - 1) * k * (2 * k - 1) // 6)
    np.testing.assert_array_equal(transitive, transitivity(graphs, 3) == 1)
    np.testing.assert_array_equal(transitive, transitivity(graphs, k))
    np.testing.assert_array_equal(transitive, [not has_cycle(graph) for graph in graphs])


@pytest.mark.parametrize("size", [6, 7, 8, 9])
def test_the_number_of_wins_decides_transitivity(size):
    rng = np.random.default_rng(size)
    graphs = np.concatenate([tournaments(rng, 500, size), [order(size, rng.permutation(size)) for _ in range(250)]])
    np.testing.assert_array_equal(transitivity(graphs, 3) == 1, acyclic(graphs))
    assert acyclic(graphs).sum() >= 250


@pytest.mark.parametrize("k", [3, 4, 5, 6])
def test_exact_transitivity_is_brute_force(k):
    """Sizes 3 to 8 in one padded batch."""
    rng = np.random.default_rng(k)
    graphs = [graph for size in range(3, 9) for graph in tournaments(rng, 4, size)]
    graphs += [order(7, rng.permutation(7)), *(order(8) ^ np.isin(np.arange(64), [a, b]).reshape(8, 8)
                                               for a, b in [(1, 8), (7, 56), (11, 25)])]
    expected = [brute_force(graph, k) for graph in graphs]
    for fill in (True, False):
        batch, items = padded(graphs, 8, fill)
        np.testing.assert_allclose(transitivity(batch, k, items), expected, rtol=1e-6)
    assert transitivity(order(8)[None], k) == 1


def test_exact_transitivity_of_twenty_items_by_another_formula():
    """The sums of section 6.1, in int64."""
    graph = tournaments(np.random.default_rng(0), 1, 20)[0]
    a = graph.astype(np.int64)
    pairs = lambda n: n * (n - 1) // 2
    fourth = (a * pairs(a @ a.T)).sum()
    fifth = (np.einsum("ij,ik,jk->ijk", a, a, a) * pairs(np.einsum("il,jl,kl->ijk", a, a, a))).sum()
    np.testing.assert_allclose([transitivity(graph, k) for k in (3, 4, 5)],
                               [pairs(a.sum(1)).sum() / 1140, fourth / 4845, fifth / 15504], rtol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 8, 9, 12, 20])
def test_acyclic_is_networkx(size):
    """10,000 random graphs in all: complete, partial and sparse ones, half of them without most cycles."""
    rng = np.random.default_rng(size)
    density = rng.choice([0.2, 0.5, 0.8, 1.0], (1000, 1, 1))
    graphs = tournaments(rng, 1000, size) & (rng.random((1000, size, size)) < density)
    graphs[::2] &= order(size) | (rng.random((500, size, size)) < 0.1)
    networkx, _ = digraph(graphs[0])
    expected = [networkx.is_directed_acyclic_graph(digraph(graph)[1]) for graph in graphs]
    np.testing.assert_array_equal(acyclic(graphs), expected)
    assert size == 2 or 100 < sum(expected) < 1000
    np.testing.assert_array_equal(expected[:200], [not has_cycle(graph) for graph in graphs[:200]])


@pytest.mark.parametrize("size", [3, 5, 8])
def test_cycles_of_equal_items_are_consistent(size):
    """A violation is a strict edge within a strongly connected component."""
    rng = np.random.default_rng(size)
    graphs = order(size) | (rng.random((300, size, size)) < 1 / size)       # equal items where both have an edge
    graphs &= rng.random((300, size, size)) < rng.choice([0.5, 0.9], (300, 1, 1))
    graphs[:, range(size), range(size)] = False
    expected, labels = [], []
    for graph in graphs:
        networkx, edges = digraph(graph)
        groups = list(networkx.strongly_connected_components(edges))
        label = {item: min(group) for group in groups for item in group}
        labels.append([label[item] for item in range(size)])
        strict = np.argwhere(graph & ~graph.T)
        expected.append(not any(label[i] == label[j] for i, j in strict))
    np.testing.assert_array_equal(acyclic(graphs), expected)
    np.testing.assert_array_equal(components(graphs), labels)
    assert 0 < sum(expected) < 300


def test_equal_items_by_hand():
    equal = np.ones((3, 3), bool)
    assert acyclic(equal) and components(equal).tolist() == [0, 0, 0]
    one_strict = np.array([[0, 1, 1], [0, 0, 1], [1, 1, 0]], bool)  # 0 > 1, 1 = 2, 2 = 0
    assert not acyclic(one_strict)
    chain = np.array([[0, 1, 1], [0, 0, 1], [0, 1, 0]], bool)       # 0 > 1, 1 = 2, 0 > 2
    assert acyclic(chain) and components(chain).tolist() == [0, 1, 1]


def test_long_cycles_of_partial_graphs_are_invisible_to_small_subsets():
    ring = np.roll(np.eye(6, dtype=bool), 1, 1)
    assert not acyclic(ring) and components(ring).tolist() == [0] * 6
    shares = [float(sampled_transitivity(ring, subsets(6, k, 20))[0]) for k in (3, 4, 5, 6)]
    assert shares == [1, 1, 1, 0]
    square = np.zeros((5, 5), bool)
    square[[0, 1, 2, 3], [1, 2, 3, 0]] = True
    assert sampled_transitivity(square, subsets(5, 4, 5))[0] == pytest.approx(0.8)


@pytest.mark.parametrize(("size", "most"), [(3, 1), (4, 2), (5, 5), (6, 8), (7, 14), (8, 20)])
def test_triads_and_zeta(size, most):
    """In a rotation every item wins against the next half of the others; without an item it is the worst even one."""
    odd = size + 1 - size % 2
    worst = (np.subtract.outer(np.arange(odd), np.arange(odd)) % odd > odd // 2)[:size, :size]
    graphs = np.concatenate([tournaments(np.random.default_rng(size), 200, size), [worst, order(size)]])
    a = graphs.astype(np.int64)
    triads = np.trace(a @ a @ a, axis1=1, axis2=2) // 3
    wins = a.sum(2)
    np.testing.assert_array_equal(cyclic_triads(graphs), triads)
    np.testing.assert_array_equal(triads, math.comb(size, 3) - (wins * (wins - 1) // 2).sum(1))
    np.testing.assert_allclose(triads, size * (size**2 - 1) / 24 - ((wins - (size - 1) / 2)**2).sum(1) / 2)
    assert triads[-2:].tolist() == [most, 0] and triads.max() == most
    np.testing.assert_allclose(kendall_zeta(graphs), 1 - triads / most, atol=1e-6)
    assert kendall_zeta(graphs)[-2:].tolist() == [0, 1]


def test_counts_beyond_32_bits():
    """C(3000, 3) exceeds 2^31: the counts of a random tournament are rounded once, a few cycles are exact."""
    graph = tournaments(np.random.default_rng(0), 1, 3000)[0]
    wins = graph.sum(1).astype(np.int64)
    cyclic = math.comb(3000, 3) - int((wins * (wins - 1) // 2).sum())
    assert cyclic > 2**29 and float(cyclic_triads(graph)) == np.float32(cyclic)
    np.testing.assert_allclose(transitivity(graph, 3), 1 - cyclic / math.comb(3000, 3), rtol=1e-7)
    ordered = order(3000, np.random.default_rng(1).permutation(3000))
    assert transitivity(ordered, 3) == 1 and cyclic_triads(ordered) == 0
    best, worst = np.argmax(ordered.sum(1)), np.argmin(ordered.sum(1))
    ordered[[best, worst], [worst, best]] = [False, True]
    assert cyclic_triads(ordered) == 2998


def test_memory_of_many_items():
    """Triads of 20,000 items are counted with two bytes per pair, next to the graph itself."""
    compiled = transitivity.lower(jax.ShapeDtypeStruct((20_000, 20_000), bool), 3).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2.1 * 20_000**2


@pytest.mark.slow
def test_triads_of_twenty_thousand_items():
    """A rotation has the largest number of cycles."""
    size = 20_001
    turn = np.tile(np.arange(size) > size // 2, 2)
    graph = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(turn, size)[1:][::-1])
    assert transitivity(graph, 3) == pytest.approx(1 - (size + 1) / (4 * (size - 2)), rel=1e-7)


def test_sizes_beyond_exact_counts_are_refused():
    with pytest.raises(ValueError, match="sample them"):
        jax.eval_shape(lambda graph: transitivity(graph, 5), jax.ShapeDtypeStruct((479, 479), bool))
    with pytest.raises(ValueError, match="sample them"):
        jax.eval_shape(lambda graph: transitivity(graph, 3), jax.ShapeDtypeStruct((40_000, 40_000), bool))
    for size, k in ((478, 5), (2346, 4), (32_768, 3)):
        graph = jax.ShapeDtypeStruct((size, size), bool)
        assert jax.eval_shape(lambda graph, k=k: transitivity(graph, k), graph).shape == ()
    with pytest.raises(ValueError, match="three items"):
        transitivity(order(5), 2)


def test_incomplete_tournaments_have_no_exact_value():
    missing, equal = order(5), order(5)
    missing[0, 1], equal[1, 0] = False, True
    batch = np.stack([order(5), missing, equal])
    for measure in (transitivity, cyclic_triads, kendall_zeta):
        assert np.isnan(measure(batch)).tolist() == [False, True, True]
    # The missing edge is outside the items.
    assert transitivity(missing, 3, np.arange(5) > 0) == 1
    assert acyclic(batch).all()


@pytest.mark.parametrize(("size", "k", "count"), [(7, 5, 21), (8, 5, 56), (10, 5, 252), (16, 5, 4368), (20, 5, 15504)])
def test_number_of_subsets(size, k, count):
    rows = subsets(size, k, count)
    assert len({tuple(row) for row in rows}) == count and (rows >= 0).all() and (np.diff(rows, axis=1) > 0).all()
    longer = subsets(size, k, count + 3)
    np.testing.assert_array_equal(longer[:count], rows)
    assert (longer[count:] == -1).all() and longer.dtype == np.int32


@pytest.mark.parametrize(("size", "k", "count"), [
    (20, 5, 1000), (14, 4, 1000), (20, 15, 1000), (5000, 5, 1000), (9, 4, 125)])
def test_drawn_subsets_are_distinct_and_repeatable(size, k, count):
    """14 items have 1,001 subsets of 4, 9 have 126."""
    rows = subsets(size, k, count, seed=3)
    assert rows.shape == (count, k) and len(np.unique(rows, axis=0)) == count
    assert (np.diff(rows, axis=1) > 0).all() and rows.min() >= 0 and rows.max() < size
    np.testing.assert_array_equal(rows, subsets(size, k, count, seed=3))
    assert not np.array_equal(rows, subsets(size, k, count, seed=4))
    assert not np.array_equal(subsets(size, k, count, (3, 0)), subsets(size, k, count, (3, 1)))


def test_drawn_subsets_are_uniform():
    drawn = [subsets(6, 3, 4, (0, seed)) for seed in range(2500)]
    _, counts = np.unique(np.concatenate(drawn), axis=0, return_counts=True)
    assert len(counts) == 20 and np.abs(counts - 500).max() < 4 * math.sqrt(500)


def test_sampled_transitivity_converges_to_the_exact_one():
    graphs = tournaments(np.random.default_rng(2), 20, 20)
    graphs = np.where(np.random.default_rng(3).random((20, 1, 1)) < 0.5, graphs, order(20))
    graphs[:, 3:9, 3:9] = tournaments(np.random.default_rng(4), 1, 6)
    exact = np.asarray(transitivity(graphs, 5))
    everything, n = sampled_transitivity(graphs, subsets(20, 5, 15504))
    assert (n == 15504).all()
    np.testing.assert_allclose(everything, exact, atol=1e-6)
    chosen = np.stack([subsets(20, 5, 1000, (0, instance)) for instance in range(20)])
    sampled, n = sampled_transitivity(graphs, chosen)
    errors = np.array([sampling_error(1000, share, 4.0) for share in exact])
    assert (np.abs(sampled - exact) <= errors).all() and (n == 1000).all()
    assert np.abs(np.mean(sampled - exact)) < errors.max() / math.sqrt(20)


def test_sampled_transitivity_of_different_sizes():
    graphs = [graph for size in (4, 5, 6, 8) for graph in tournaments(np.random.default_rng(size), 2, size)]
    chosen = np.stack([subsets(len(graph), 5, 60) for graph in graphs])
    mean, n = sampled_transitivity(padded(graphs, 8)[0], chosen)
    assert n.tolist() == [0, 0, 1, 1, 6, 6, 56, 56]
    np.testing.assert_allclose(mean, [brute_force(graph, 5) for graph in graphs], rtol=1e-6)


def test_a_thousand_subsets_are_those_of_a_search_on_the_host():
    """Partial and complete graphs of 9, 14 and 20 items in one batch, 5 and 7 items a subset."""
    rng = np.random.default_rng(6)
    graphs = [tournaments(rng, 1, size)[0] & (rng.random((size, size)) < share)
              for size, share in ((9, 1.0), (14, 0.6), (20, 1.0), (20, 0.4))]
    for k in (5, 7):
        chosen = np.stack([subsets(len(graph), k, 1000, (1, number)) for number, graph in enumerate(graphs)])
        mean, n = sampled_transitivity(padded(graphs, 32, fill=False)[0], chosen)
        assert n.tolist() == [math.comb(9, k), *[1000] * 3]
        expected = [np.mean([not has_cycle(graph[np.ix_(rows, rows)]) for rows in own[:count]])
                    for graph, own, count in zip(graphs, chosen, n, strict=True)]
        np.testing.assert_allclose(mean, expected, rtol=1e-6)
        assert 0 < expected[2] < expected[3] < 1


def test_sampling_error():
    """Appendix I: 385 samples for an error of 0.05, the paper's 394 for 0.0494, 0.031 with 1,000."""
    assert sampling_error(385) < 0.05 < sampling_error(384)
    assert sampling_error(394) == pytest.approx(0.0494, abs=5e-5)
    assert sampling_error(1000) == pytest.approx(0.031, abs=5e-5)


def test_relabelling_changes_nothing():
    rng = np.random.default_rng(0)
    graph, permutation = tournaments(rng, 1, 9)[0], rng.permutation(9)
    other = graph[np.ix_(permutation, permutation)]
    for k in (3, 4, 5):
        assert transitivity(graph, k) == transitivity(other, k)
    assert cyclic_triads(graph) == cyclic_triads(other) and kendall_zeta(graph) == kendall_zeta(other)
    partial = graph & (rng.random((9, 9)) < 0.3)
    relabelled = partial[np.ix_(permutation, permutation)]
    assert acyclic(partial) == acyclic(relabelled)
    everything = subsets(9, 4, 126)
    assert sampled_transitivity(partial, everything)[0] == sampled_transitivity(relabelled, everything)[0]
    groups, new = np.asarray(components(partial)), np.asarray(components(relabelled))
    np.testing.assert_array_equal(groups[permutation][:, None] == groups[permutation], new[:, None] == new)


def test_padding_changes_nothing():
    rng = np.random.default_rng(1)
    graphs = [tournaments(rng, 1, size)[0] for size in (3, 5, 8, 11)]
    batch, items = padded(graphs, 12, fill=rng.random((12, 12)) < 0.5)
    exact = [lambda graph, own=None, k=k: transitivity(graph, k, own) for k in (3, 4, 5)]
    for measure in (acyclic, cyclic_triads, kendall_zeta, *exact):
        np.testing.assert_array_equal(measure(batch, items), [measure(graph) for graph in graphs])
    for graph, row in zip(graphs, components(batch, items), strict=True):
        np.testing.assert_array_equal(row, [*components(graph), *range(len(graph), 12)])
    # Items need not be the first ones.
    reversed_items = transitivity(batch[:, ::-1, ::-1], 4, items[:, ::-1])
    np.testing.assert_array_equal(reversed_items, transitivity(batch, 4, items))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_hardly_any_items(size):
    for graph in (order(size), np.stack([order(size)] * 3)):
        assert acyclic(graph).all() and components(graph).shape == graph.shape[:-1]
        for k in (3, 4, 5):
            assert np.isnan(transitivity(graph, k)).all()
        assert (cyclic_triads(graph) == 0).all() and np.isnan(kendall_zeta(graph)).all()
        mean, n = sampled_transitivity(graph, np.broadcast_to(subsets(size, 5, 4), (*graph.shape[:-2], 4, 5)))
        assert np.isnan(mean).all() and (n == 0).all()
        potential, inconsistency = hodge_rank(np.where(graph, 1.0, -1.0))
        np.testing.assert_allclose(inconsistency, 0 if size == 2 else np.nan, atol=1e-6)
        np.testing.assert_allclose(potential, np.broadcast_to({0: [], 1: [0], 2: [.5, -.5]}[size], graph.shape[:-1]))


def least_squares(flow):
    """The potential of least norm and the inconsistency, by numpy's solver over the known pairs."""
    first, second = np.nonzero(np.triu(~np.isnan(flow), 1))
    gradient = np.zeros((len(first), len(flow)))
    gradient[np.arange(len(first)), first], gradient[np.arange(len(first)), second] = 1, -1
    values = flow[first, second]
    potential = np.linalg.lstsq(gradient, values)[0]
    return potential, np.sum((values - gradient @ potential)**2) / np.sum(values**2)


def test_hodge_rank_is_least_squares():
    """Complete, partial and unconnected flows of different sizes."""
    rng = np.random.default_rng(0)
    batch, items, expected = np.full((12, 9, 9), np.nan), np.zeros((12, 9), bool), []
    for row, size in enumerate(rng.integers(4, 10, 12)):
        flow = np.triu(rng.normal(size=(size, size)), 1)
        flow -= flow.T
        flow[np.triu(rng.random((size, size)) < (0, 0.4, 0.7)[row % 3], 1)] = np.nan
        flow[np.isnan(flow.T)] = np.nan
        batch[row, :size, :size], items[row, :size] = flow, True
        expected.append(least_squares(flow))
    potential, inconsistency = hodge_rank(batch, items)
    for row, (own, share) in enumerate(expected):
        np.testing.assert_allclose(potential[row, :len(own)], own, atol=2e-6)
        np.testing.assert_allclose(inconsistency[row], share, atol=2e-6)
    assert not np.any(np.where(items, 0, potential))
    garbage = np.where(items[:, :, None] & items[:, None], batch, 7.0)
    np.testing.assert_array_equal(hodge_rank(garbage, items)[0], potential)


def test_hodge_rank_of_complete_flows_is_the_mean():
    flow = np.random.default_rng(1).normal(size=(6, 6))
    flow -= flow.T
    np.testing.assert_allclose(hodge_rank(flow)[0], flow.mean(1), atol=1e-6)


@pytest.mark.parametrize("size", [3, 6, 9])
def test_hodge_rank_of_signs_counts_triads(size):
    """|R|^2 = N (N - 1) / 2 - (N^2 - 1) / 3 + 8 c3 / N; for a perfect order (N - 1) (N - 2) / 6, and not 0."""
    graphs = np.concatenate([tournaments(np.random.default_rng(size), 50, size), order(size)[None]])
    residual = np.asarray(hodge_rank(np.where(graphs, 1.0, -1.0))[1]) * math.comb(size, 2)
    triads = np.asarray(cyclic_triads(graphs))
    np.testing.assert_allclose(residual, math.comb(size, 2) - (size**2 - 1) / 3 + 8 * triads / size, rtol=1e-5)
    assert residual[-1] == pytest.approx((size - 1) * (size - 2) / 6, rel=1e-5)
    assert residual[-1] / math.comb(size, 2) == pytest.approx((size - 2) / (3 * size), rel=1e-5)


def test_mapped_and_nested_functions():
    rng = np.random.default_rng(0)
    graphs, items = padded([tournaments(rng, 1, size)[0] for size in (3, 4, 6, 8, 8)], 8)
    chosen = np.stack([subsets(int(own.sum()), 4, 30, 1) for own in items])
    flow = np.where(graphs, 1.5, -1.5).astype(np.float32)

    def everything(graph, own, rows, values):
        return (acyclic(graph, own), components(graph, own), cyclic_triads(graph, own), kendall_zeta(graph, own),
                [transitivity(graph, k, own) for k in (3, 4, 5)], sampled_transitivity(graph, rows),
                hodge_rank(values, own))

    plain = everything(graphs, items, chosen, flow)
    for other in (jax.jit(everything), jax.vmap(everything), jax.jit(jax.vmap(everything))):
        for value, same in zip(*map(jax.tree.leaves, (plain, other(graphs, items, chosen, flow))), strict=True):
            np.testing.assert_allclose(value, same, rtol=1e-6, atol=1e-6)
            assert value.dtype == same.dtype and not value.weak_type


def test_one_program_per_shape(programs):
    """Sizes of instances are data."""
    before = programs()
    for seed in range(3):
        graphs, items = padded([tournaments(np.random.default_rng(seed), 1, size)[0] for size in (5, 6 + seed)], 13)
        transitivity(graphs, 5, items)
        sampled_transitivity(graphs, np.stack([subsets(size, 5, 50, seed) for size in (5, 6 + seed)]))
    assert programs() - before == 2
