"""Measures of a judge's consistency on judges with known behavior, values worked out by hand, and brute force."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from jaxllm.ops.consistency import (
    CHANCE,
    abstain,
    adjusted,
    chance_self_agreement,
    commutativity,
    coverage,
    cyclic_triples,
    debias,
    fill_missing,
    log_odds,
    negation_failures,
    negation_invariance,
    order_flips,
    pairwise_accuracy,
    position_bias,
    preference_graph,
    self_agreement,
)
from jaxllm.ops.preference_graphs import (
    acyclic,
    chance_transitivity,
    components,
    hodge_rank,
    kendall_zeta,
    sampled_transitivity,
    subsets,
    transitivity,
)

NAN = float("nan")


def judge(scores, bias=0.0):
    """`p` of a judge with latent scores `[..., N]`, with a bias of the log-odds towards the first slot."""
    scores = np.asarray(scores, np.float64)
    return 1 / (1 + np.exp(-(scores[..., :, None] - scores[..., None, :] + bias)))


def noisy(rng, *shape):
    """Independent answers, none of them near 0.5; multiples of 1 / 1024, so that sums in float32 are exact."""
    p = rng.integers(20, 492, shape) / 1024
    return np.where(rng.random(shape) < 0.5, p, 1 - p)


def values(*means):
    return [float(mean[0]) for mean in means]


def test_a_perfect_judge():
    scores = np.random.default_rng(0).normal(size=(4, 9))
    p = judge(scores)
    for (mean, n), count in ((commutativity(p), 36), (negation_invariance(p, 1 - p), 72)):
        assert (mean == 1).all() and n.tolist() == [count] * 4
    for graph in (preference_graph(p), preference_graph(debias(p))):
        np.testing.assert_array_equal(graph, scores[:, :, None] > scores[:, None, :])
        assert (transitivity(graph) == 1).all() and (kendall_zeta(graph) == 1).all()
    accuracy, n, ties = pairwise_accuracy(p, scores)
    assert (accuracy == 1).all() and (n == 72).all() and (ties == 0).all()
    assert (pairwise_accuracy(p, -scores)[0] == 0).all() and (position_bias(p)[0] == 0).all()


def test_a_judge_that_always_picks_the_first_slot():
    """Transitivity is perfect, and means nothing: commutativity shows it."""
    p = np.full((6, 6), 0.9)
    graph = preference_graph(p, positions=np.random.default_rng(0).permutation(6))
    assert [transitivity(graph, k) for k in (3, 4, 5)] == [1, 1, 1]
    assert values(commutativity(p), negation_invariance(p, p), position_bias(p)) == [0, 0, 0.5]
    assert pairwise_accuracy(p, np.arange(6.0))[0] == 0.5
    equal = preference_graph(debias(p), tie=0.0)
    np.testing.assert_array_equal(equal, ~np.eye(6, dtype=bool))
    assert acyclic(equal) and (components(equal) == 0).all()
    assert commutativity(debias(p), tie=0.0)[0] == 1


def test_a_judge_that_ignores_the_negation():
    p = judge(np.arange(7.0))
    assert values(commutativity(p), negation_invariance(p, p)) == [1, 0]
    assert transitivity(preference_graph(p)) == 1


def test_a_judge_that_flips_a_coin():
    rng = np.random.default_rng(0)
    p, q = rng.random((2, 300, 16, 16))
    shares = [transitivity(preference_graph(p), k) for k in (3, 4, 5)]
    shares += [commutativity(p)[0], negation_invariance(p, q)[0], pairwise_accuracy(p, rng.normal(size=(300, 16)))[0]]
    levels = [chance_transitivity(3), chance_transitivity(4), chance_transitivity(5), *[CHANCE] * 3]
    assert levels == [0.75, 0.375, 0.1171875, 0.5, 0.5, 0.5]
    for share, level in zip(np.asarray(shares), levels, strict=True):
        assert abs(share.mean() - level) < 4 * share.std() / math.sqrt(300)
        assert abs(adjusted(share.mean(), level)) < 0.02 and adjusted(1.0, level) == 1
    assert abs(position_bias(p)[0].mean()) < 4 * 0.5 / math.sqrt(300 * 240)


def test_slots_are_not_winners():
    """The same winner in both orders means different slots."""
    p = np.array([[0.5, 0.9], [0.1, 0.5]])
    assert commutativity(p)[0] == 1 and commutativity(np.full((2, 2), 0.9))[0] == 0
    assert negation_invariance(p, p.T)[0] == 1 and negation_invariance(p, p)[0] == 0


@pytest.mark.parametrize(("bias", "expected"), [
    (0, (1, 1, 0)), (0.25, (0.975, 0.861, 0.069)), (0.5, (0.922, 0.729, 0.135)), (1, (0.807, 0.476, 0.262)),
    (2, (0.809, 0.159, 0.421)), (4, (0.991, 0.003, 0.498))])
def test_position_bias_is_not_monotone_in_transitivity(bias, expected):
    """s_tran(5), s_comm and first-slot excess of a judge without noise; the debiased graph is transitive."""
    scores = np.random.default_rng(0).normal(size=(1000, 16))
    p = judge(scores, bias)
    means = [np.mean(x) for x in (transitivity(preference_graph(p)), commutativity(p)[0], position_bias(p)[0])]
    np.testing.assert_allclose(means, expected, atol=0.015)
    assert (transitivity(preference_graph(debias(p))) == 1).all()


def test_debiased_answers():
    p = noisy(np.random.default_rng(0), 5, 5)
    p[0, 1] = NAN
    expected = np.array([[(p[i, j] + 1 - p[j, i]) / 2 for j in range(5)] for i in range(5)])
    np.testing.assert_allclose(debias(p), expected, atol=1e-7)
    assert np.isnan(np.asarray(debias(p))[[0, 1], [1, 0]]).all()
    np.testing.assert_allclose(log_odds(p), np.log(expected / (1 - expected)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(log_odds(p), -np.asarray(log_odds(p)).T)
    assert np.isfinite(log_odds(np.array([[0.5, 1.0], [0.0, 0.5]]))).all()


def test_log_odds_of_latent_scores_have_no_inconsistency():
    scores = np.random.default_rng(1).normal(size=(3, 8))
    potential, inconsistency = hodge_rank(log_odds(judge(scores)))
    np.testing.assert_allclose(potential, scores - scores.mean(1, keepdims=True), atol=1e-5)
    assert (inconsistency < 1e-9).all()
    assert hodge_rank(log_odds(noisy(np.random.default_rng(1), 8, 8)))[1] > 0.3


def test_algorithm_1():
    """One answer per pair, that of the order i < j; ties go to the first slot."""
    p = np.array([[NAN, 0.5, 0.2], [0.1, NAN, 0.7], [0.3, 0.6, NAN]])
    assert preference_graph(p).tolist() == [[False, True, False], [False, False, True], [True, False, False]]
    # In the order 2, 1, 0 the answers are p[2, 1] = .6, p[2, 0] = .3 and p[1, 0] = .1: 2 > 1, 0 > 2, 0 > 1.
    reverse = preference_graph(p, positions=np.array([2, 1, 0]))
    assert reverse.tolist() == [[False, True, True], [False, False, False], [False, True, False]]
    assert not acyclic(preference_graph(p)) and acyclic(reverse)


def test_ties_by_hand():
    p = np.array([[NAN, 0.5, 0.61], [0.42, NAN, 0.9], [0.55, 0.2, NAN]])
    graph = preference_graph(p, tie=0.1)
    assert graph.tolist() == [[False, True, True], [True, False, True], [False, False, False]]
    # Pair (0, 1) is equal in both orders, (0, 2) in one of them, (1, 2) has the same winner.
    assert values(commutativity(p, tie=0.1), commutativity(p)) == pytest.approx([2 / 3, 2 / 3])
    assert order_flips(p, tie=0.1)[0].tolist()[:2] == [[0, 2], [-1, -1]]
    # First slot in 2 of 6, second slot in 1, equal in 3.
    assert position_bias(p, tie=0.1)[0] == pytest.approx(3.5 / 6 - 0.5)
    q = np.where(np.abs(p - 0.5) > 0.1, 1 - p, 0.45)
    assert values(negation_invariance(p, q, tie=0.1), negation_invariance(p, q)) == [1, pytest.approx(5 / 6)]
    assert pairwise_accuracy(p, np.array([1.0, 1.0, 0.0]), tie=0.1)[0] == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("tenths", [1, 2, 3, 4])
def test_thresholds_do_not_depend_on_rounding(tenths):
    """Votes of ten samples: 0.6 and 0.4 are as far from 0.5."""
    p = np.array([[NAN, 0.5 + tenths / 10], [0.5 - tenths / 10, NAN]])
    assert preference_graph(p, tie=tenths / 10).tolist() == [[False, True], [True, False]]
    for measured in (p, p.T):
        assert commutativity(measured, tie=tenths / 10)[0] == commutativity(abstain(measured, tenths / 10))[0] == 1
        assert coverage(abstain(measured, tenths / 10 + 0.01))[0] == 0


def test_a_cycle_with_an_equality_is_a_violation():
    p = np.full((3, 3), NAN)
    p[0, 1], p[1, 2], p[0, 2] = 0.9, 0.52, 0.45  # 0 > 1, 1 = 2, 0 = 2
    assert not acyclic(preference_graph(p, tie=0.1))
    index, strength = cyclic_triples(p, tie=0.1, limit=2)
    assert index.tolist() == [[0, 1, 2], [-1, -1, -1]]
    np.testing.assert_allclose(strength, [0.4, 0], atol=1e-6)
    assert not acyclic(preference_graph(p))  # 0 > 1 > 2 > 0
    assert acyclic(preference_graph(np.where(np.isnan(p), p, 0.5), tie=0.0))


def test_missing_answers_are_dropped():
    p = judge(np.arange(5.0))
    p[0, 1] = p[3, 2] = NAN
    q = 1 - judge(np.arange(5.0))
    q[4, 0] = NAN
    mean, n = coverage(p)
    assert mean == pytest.approx(18 / 20) and n == 20
    assert [int(count) for _, count in (commutativity(p), negation_invariance(p, q), position_bias(p))] == [8, 17, 18]
    assert values(commutativity(p), negation_invariance(p, q)) == [1, 1]
    graph = np.asarray(preference_graph(p))
    assert graph.sum() == 9 and not graph[0, 1] and not graph[1, 0] and graph[3, 2]
    assert np.isnan(transitivity(graph)) and sampled_transitivity(graph, subsets(5, 4, 5))[0] == 1
    assert pairwise_accuracy(p, np.arange(5.0))[1] == 18
    nothing = np.full((5, 5), NAN)
    assert all(np.isnan(measure(nothing)[0]) for measure in (commutativity, position_bias, self_agreement))
    assert coverage(nothing)[0] == 0 and not np.any(preference_graph(nothing))


def test_missing_answers_for_the_first_slot():
    """The fallback of PairS: as if the judge had picked the item that happens to be first."""
    p = judge(np.arange(4.0))
    p[0, 3] = NAN
    graph = np.asarray(preference_graph(fill_missing(p)))
    assert graph[0, 3] and not graph[3, 0] and transitivity(graph, 3) == 0.5
    assert commutativity(fill_missing(p))[0] == pytest.approx(5 / 6)
    equal = np.asarray(preference_graph(fill_missing(p), tie=0.01))
    assert equal[0, 3] and equal[3, 0]
    assert coverage(p)[0] == pytest.approx(11 / 12)


def test_confidence_curve():
    """Only confident answers are consistent here: the curve rises as coverage falls."""
    p = judge(np.arange(6.0) * 2)
    p[4, 5], p[2, 3] = 0.55, 0.7
    curve = [commutativity(abstain(p, threshold)) for threshold in (0.0, 0.1, 0.3)]
    assert [float(mean) for mean, _ in curve] == pytest.approx([13 / 15, 13 / 14, 1])
    assert [int(n) for _, n in curve] == [15, 14, 13]
    mean, n = jax.vmap(lambda threshold: commutativity(abstain(p, threshold)))(np.array([0.0, 0.1, 0.3]))
    np.testing.assert_array_equal(mean, [mean for mean, _ in curve])


def test_human_agreement_leaves_out_ties():
    p = judge([3.0, 2.0, 1.0, 0.0])
    human = np.array([2.0, 1.0, 1.0, 3.0])
    # Pairs (0, 1) and (0, 2) agree, (0, 3), (1, 3) and (2, 3) do not; (1, 2) is a tie.
    mean, n, ties = pairwise_accuracy(p, human)
    assert mean == pytest.approx(0.4) and (n, ties) == (10, 2)
    mean, n, ties = pairwise_accuracy(p, np.array([2.0, NAN, 1.0, 1.0]))
    assert mean == 1 and (n, ties) == (4, 2)
    mean, n, ties = pairwise_accuracy(p, np.zeros(4))
    assert np.isnan(mean) and (n, ties) == (0, 12)


def test_a_verbose_judge():
    lengths = np.random.default_rng(0).permutation(30.0 * np.arange(12))
    assert pairwise_accuracy(judge(lengths), lengths)[0] == 1
    rng = np.random.default_rng(1)
    independent = pairwise_accuracy(judge(rng.normal(size=(400, 12))), rng.normal(size=(400, 12)))[0]
    assert abs(np.mean(independent) - 0.5) < 4 * np.std(independent) / 20


def test_self_agreement():
    p = np.array([[NAN, 0.9, 0.5], [0.3, NAN, 1.0], [NAN, 0.0, NAN]])
    mean, n = self_agreement(p)
    assert mean == pytest.approx((0.9 + 0.5 + 0.7 + 1 + 1) / 5) and n == 5
    assert chance_self_agreement(10) == pytest.approx(0.623, abs=5e-4) and chance_self_agreement(1) == 1
    samples = np.random.default_rng(0).binomial(10, 0.5, (100, 20, 20)) / 10
    assert np.mean(self_agreement(samples)[0]) == pytest.approx(chance_self_agreement(10), abs=3e-3)


def brute_triples(p, positions):
    """Cycles of three with their strengths, the strongest first."""
    first = np.where(positions[:, None] < positions, p, 1 - p.T)
    hits = []
    for i, j, k in itertools.permutations(range(len(p)), 3):
        edges = first[[i, j, k], [j, k, i]]
        if i < min(j, k) and (edges > 0.5).all():
            hits.append((-(edges.min() - 0.5), (i, j, k)))
    return sorted(hits)


def test_cyclic_triples_are_all_cycles_the_strongest_first():
    rng = np.random.default_rng(0)
    p, positions = noisy(rng, 3, 8, 8), np.stack([rng.permutation(8) for _ in range(3)])
    index, strength = cyclic_triples(p, positions=positions, limit=30)
    for row in range(3):
        expected = brute_triples(p[row], positions[row])
        assert 3 < len(expected) < 30
        missing = 30 - len(expected)
        assert index[row].tolist() == [*(list(own) for _, own in expected), *[[-1] * 3] * missing]
        np.testing.assert_allclose(strength[row], [*(-own for own, _ in expected), *[0] * missing], atol=1e-6)
        graph = preference_graph(p[row], positions=positions[row])
        assert transitivity(graph, 3) == pytest.approx(1 - len(expected) / 56)
    few, own = cyclic_triples(p, positions=positions, limit=4)
    np.testing.assert_array_equal(few, index[:, :4])
    np.testing.assert_array_equal(own, strength[:, :4])


def test_flips_and_failures_are_all_the_strongest_first():
    rng = np.random.default_rng(1)
    p, q = noisy(rng, 2, 7, 7)
    p[0, 3] = q[1, 2] = NAN
    margin = lambda i, j: min(abs(p[i, j] - 0.5), abs(p[j, i] - 0.5))
    flips = sorted((-margin(i, j), i, j) for i, j in itertools.combinations(range(7), 2)
                   if (p[i, j] - 0.5) * (p[j, i] - 0.5) > 0)
    index, strength = order_flips(p, limit=len(flips) + 2)
    assert index.tolist() == [*([i, j] for _, i, j in flips), [-1, -1], [-1, -1]]
    np.testing.assert_allclose(strength[:-2], [-own for own, _, _ in flips], atol=1e-6)
    mean, n = commutativity(p)
    assert n == 20 and mean == pytest.approx(1 - len(flips) / 20)
    failures = sorted((-min(abs(p[i, j] - 0.5), abs(q[i, j] - 0.5)), i, j) for i, j in
                      itertools.permutations(range(7), 2) if (p[i, j] - 0.5) * (q[i, j] - 0.5) > 0)
    index, strength = negation_failures(p, q, limit=5)
    assert len(failures) > 5 and index.tolist() == [[i, j] for _, i, j in failures[:5]]
    mean, n = negation_invariance(p, q)
    assert n == 40 and mean == pytest.approx(1 - len(failures) / 40)


def test_relabelling():
    """Only the graph of one order depends on it, unless the judge is commutative."""
    rng = np.random.default_rng(0)
    p, q, permutation = *noisy(rng, 2, 8, 8), rng.permutation(8)
    scores = rng.normal(size=8)
    other, negated = (x[np.ix_(permutation, permutation)] for x in (p, q))
    for ours, theirs in ((commutativity(p), commutativity(other)), (position_bias(p), position_bias(other)),
                         (negation_invariance(p, q), negation_invariance(other, negated)),
                         (pairwise_accuracy(p, scores), pairwise_accuracy(other, scores[permutation])),
                         (transitivity(preference_graph(debias(p))), transitivity(preference_graph(debias(other))))):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    graph = np.asarray(preference_graph(p))
    same = preference_graph(other, positions=permutation)
    np.testing.assert_array_equal(same, graph[np.ix_(permutation, permutation)])
    assert transitivity(same, 4) == transitivity(graph, 4) != transitivity(preference_graph(other), 4)
    commutative = np.triu(p, 1) + np.tril(1 - p.T, -1)
    relabelled = commutative[np.ix_(permutation, permutation)]
    for k in (3, 4, 5):
        assert transitivity(preference_graph(commutative), k) == transitivity(preference_graph(relabelled), k)


def everything(p, q, scores, items, positions):
    """All results for one instance or a batch."""
    return dict(coverage=coverage(p, items), commutativity=commutativity(p, items),
                ties=commutativity(p, items, tie=0.1), negation=negation_invariance(p, q, items),
                bias=position_bias(p, items), accuracy=pairwise_accuracy(p, scores, items),
                agreement=self_agreement(p, items), flips=order_flips(p, items, limit=7),
                failures=negation_failures(p, q, items, limit=7),
                cycles=cyclic_triples(p, items, positions=positions, limit=7),
                transitivity=transitivity(preference_graph(p, items, positions=positions), 4, items),
                debiased=transitivity(preference_graph(debias(p), items), 3, items))


@pytest.fixture(scope="module")
def batch():
    """Four instances of 3, 4, 6 and 9 items in 9 rows, with garbage outside."""
    rng = np.random.default_rng(0)
    p, q = noisy(rng, 2, 4, 9, 9)
    p[3, 0, 1] = NAN
    items = np.arange(9) < np.array([3, 4, 6, 9])[:, None]
    p[0, 3:] = 7.0
    q[1, :, 4:] = NAN
    scores = np.where(items, rng.integers(0, 4, (4, 9)), np.inf)
    return p, q, scores, items, np.stack([rng.permutation(9) for _ in range(4)])


def test_padding_changes_nothing(batch):
    compiled = jax.jit(everything)
    together = compiled(*batch)
    for row, size in enumerate((3, 4, 6, 9)):
        p, q, scores, _, positions = (x[row, :size] if x.ndim == 2 else x[row, :size, :size] for x in batch)
        alone = compiled(p, q, scores, None, positions)
        jax.tree.map(lambda ours, theirs, row=row: np.testing.assert_array_equal(ours[row], theirs), together, alone)


def test_mapped_and_nested_functions(batch):
    plain = everything(*batch)
    for other in (jax.jit(everything), jax.vmap(everything)):
        again = other(*batch)
        jax.tree.map(np.testing.assert_array_equal, plain, again)
        assert [x.dtype for x in jax.tree.leaves(plain)] == [x.dtype for x in jax.tree.leaves(again)]
    assert not any(x.weak_type for x in jax.tree.leaves(plain))


def test_one_program_per_shape(programs):
    """Sizes, ties and thresholds are data."""
    before = programs()
    for size in (3, 5, 6):
        p = noisy(np.random.default_rng(size), 2, 11, 11)
        preference_graph(p, np.broadcast_to(np.arange(11) < size, (2, 11)), tie=size / 100)
        abstain(p, size / 100)
    assert programs() - before == 2


@pytest.mark.parametrize("size", [0, 1, 2])
def test_hardly_any_items(size):
    p = np.full((3, size, size), 0.9)
    pairs = size * (size - 1) // 2
    for (mean, n), expected, count in (
            (commutativity(p), 0, pairs), (negation_invariance(p, 1 - p), 1, 2 * pairs),
            (position_bias(p), 0.5, 2 * pairs), (self_agreement(p), 0.9, 2 * pairs), (coverage(p), 1, 2 * pairs),
            (pairwise_accuracy(p, np.zeros((3, size)) + np.arange(size))[:2], 0.5, 2 * pairs)):
        np.testing.assert_allclose(mean, [expected if pairs else NAN] * 3, rtol=1e-6)
        assert n.tolist() == [count] * 3
    assert preference_graph(p).sum() == 3 * pairs
    index, strength = order_flips(p, limit=3)
    assert index.tolist() == [[[0, 1] if pairs else [-1, -1], [-1, -1], [-1, -1]]] * 3
    np.testing.assert_allclose(strength, [[0.4 if pairs else 0, 0, 0]] * 3, atol=1e-6)
    for index, strength in (cyclic_triples(p, limit=2), negation_failures(p, 1 - p, limit=2)):
        assert (index == -1).all() and (strength == 0).all()


def test_matrices_of_decisions_are_refused():
    """A matrix of letters or of winners is no matrix of probabilities."""
    with pytest.raises(AssertionError):
        commutativity(np.ones((3, 3), bool))
    with pytest.raises(AssertionError):
        preference_graph(np.ones((3, 3), np.int32))


def rows(shared, name):
    return [json.loads(line) for line in (shared / "consistency" / f"{name}.jsonl").read_text().splitlines()]


def test_real_scores_and_a_biased_judge(shared):
    """SummEval: 75 documents with 16 summaries; the judge knows the experts' scores."""
    human = np.array([[candidate["expert"]["coherence"] for candidate in row["candidates"]]
                      for row in rows(shared, "summeval")])
    assert human.shape == (75, 16)
    measured = []
    for bias in (0, 0.25, 0.5, 1, 2, 4):
        p = judge(human, bias)
        assert (transitivity(preference_graph(debias(p))) == 1).all()
        accuracy, n, ties = pairwise_accuracy(debias(p), human)
        assert (accuracy == 1).all() and (n + ties == 240).all()
        measured.append((np.mean(commutativity(p, tie=1e-6)[0]), np.mean(position_bias(p, tie=1e-6)[0])))
    commutative, excess = np.array(measured).T
    assert (np.diff(commutative) < 0).all() and (np.diff(excess) > 0).all()
    assert commutative[0] == 1 and excess[0] == 0
    equal = np.triu(human[:, :, None] == human[:, None, :], 1).sum()
    assert ties.sum() == 2 * equal and equal / (75 * 120) == pytest.approx(0.111, abs=0.01)


def test_real_relevance_has_many_ties(shared):
    """NovelEval: 16 queries with 20 passages of relevance 0, 1 or 2; 53.8% of the pairs of all 21 are tied."""
    human = np.array([[candidate["relevance"] for candidate in row["candidates"]]
                      for row in rows(shared, "noveleval")], np.float64)
    p = judge(human + np.random.default_rng(0).normal(size=human.shape) / 1000)
    accuracy, n, ties = pairwise_accuracy(p, human)
    assert human.shape == (16, 20) and (accuracy == 1).all() and (n + ties == 380).all()
    assert ties.sum() / (16 * 380) == pytest.approx(0.538, abs=0.03)
