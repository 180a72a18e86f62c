"""Merge sort by a judge of pairs: right orders, few comparisons, beams, and judges without an opinion."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxllm.consistency.data import Instance
from jaxllm.consistency.pair_ranking import agreement, rank
from jaxllm.consistency.sorting import _beam_merge, merge_sort, most_comparisons, together


def solve(sort, p):
    """Runs a sort; returns its result and the pairs that it needed, round by round."""
    rounds = []
    try:
        wanted = next(sort)
        while True:
            rounds.append(wanted)
            wanted = sort.send({pair: p(*pair) for pair in wanted})
    except StopIteration as stop:
        return stop.value, rounds


@pytest.mark.parametrize(("count", "bound"), [(1, 0), (2, 1), (3, 3), (5, 8), (16, 49), (20, 69), (33, 135)])
def test_a_total_order_is_sorted_within_the_bound(count, bound):
    rng = np.random.default_rng(count)
    assert most_comparisons(count) == bound
    for _ in range(50):
        value = rng.permutation(count)
        order, rounds = solve(merge_sort(rng.permutation(count).tolist()), lambda i, j, value=value: float(
            value[i] > value[j]))
        needed = list(itertools.chain(*rounds))
        assert [value[i] for i in order] == sorted(value) and len(needed) <= bound and len(set(needed)) == len(needed)


def test_both_halves_ask_at_once():
    _, rounds = solve(merge_sort(range(16)), lambda i, j: float(i > j))
    assert len(rounds[0]) == 8 and len(rounds) <= 1 + 3 + 7 + 15
    results, rounds = solve(together(*(merge_sort(order) for order in ([0, 1], [1, 2], [0, 1]))), lambda i, j: 1.0)
    assert results == [[1, 0], [2, 1], [1, 0]] and rounds == [[(0, 1), (1, 2)]]


def test_judges_without_an_opinion():
    """Items best first: one that always picks the first slot keeps that order, one that answers 0.5 reverses it."""
    assert solve(merge_sort(range(8)), lambda i, j: 1.0)[0][::-1] == list(range(8))
    assert solve(merge_sort(range(8)), lambda i, j: 0.5)[0] == list(range(8))


@pytest.mark.parametrize("tie_margin", [0.0, 0.2, 0.5])
def test_a_beam_finds_the_best_interleaving(tie_margin):
    """Against all interleavings of two lists, with the branches that the margin allows."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        table = rng.uniform(0.02, 0.98, (7, 7))

        def follow(i, j, merged, logprob, count, table=table):
            if i == 2 or j == 3:
                yield logprob / max(count, 1), [*merged, *range(i, 2), *range(2 + j, 5)]
                return
            p = table[i, 2 + j]
            if p <= 0.5 + tie_margin:
                yield from follow(i + 1, j, [*merged, i], logprob + math.log(1 - p), count + 1)
            if p > 0.5 - tie_margin:
                yield from follow(i, j + 1, [*merged, 2 + j], logprob + math.log(p), count + 1)

        found, rounds = solve(_beam_merge([0, 1], [2, 3, 4], 1000, tie_margin, {}),
                              lambda i, j, table=table: table[i, j])
        assert found == max(follow(0, 0, [], 0.0, 0), key=lambda pair: pair[0])[1]
        needed = list(itertools.chain(*rounds))
        assert len(set(needed)) == len(needed)
    assert solve(merge_sort(range(9), beam=50, tie_margin=0.0), lambda i, j: float(i > j))[0] == list(range(9))


def test_ranks_from_many_orders():
    """Each pair is compared once; position bias cancels in the mean over orders, with calibration in each of them."""
    sizes, needed = [8, 5], []

    def first_slot(wanted):
        needed.extend(wanted)
        return [1.0] * len(wanted)

    found = rank(sizes, first_slot, orders=400, seed=1)
    assert len(set(needed)) == len(needed) <= 8 * 7 + 5 * 4 and found[0].ranks.shape == (400, 8)
    best_first = Instance("x", "", ("",) * 8, list(range(8, 0, -1)))
    rhos = [agreement(own, best_first)["spearman"] for own in found[0].ranks]
    assert abs(np.mean(rhos)) < 0.06 and np.std(rhos) == pytest.approx(0.38, abs=0.04)
    assert (rank(sizes, first_slot, orders=3, seed=1)[0].ranks == found[0].ranks[:3]).all()
    calibrated = rank([6], first_slot, calibrated=True, orders=5)
    equal = rank([6], lambda wanted: [None] * len(wanted), orders=5)
    assert (calibrated[0].ranks == equal[0].ranks).all() and set(equal[0].answers.values()) == {0.5}
    assert (equal[0].uncertainty == 1).all() and (calibrated[0].uncertainty == 1).all()


@pytest.mark.parametrize("settings", [{}, {"calibrated": True}, {"beam": 100, "tie_margin": 0.3}])
def test_all_instances_orders_and_merges_share_their_calls(settings):
    """There are as many calls as steps in the longest sort, and the ranks are those of every sort alone."""
    rng = np.random.default_rng(5)
    table = rng.uniform(0.1, 0.9, (12, 8, 8))

    def ranked(numbers, orders, calls):
        def source(wanted):
            calls.append(len(set(wanted)))
            assert calls[-1] == len(wanted)
            return [float(table[numbers[n]][pair]) for n, pair in wanted]

        return rank([8] * len(numbers), source, orders=orders, keys=numbers, **settings)

    calls, alone = [], {}
    found = ranked(range(12), 3, calls)
    for number in range(12):
        single = ranked([number], 3, alone.setdefault(number, []))[0]
        assert (single.ranks == found[number].ranks).all() and single.answers == found[number].answers
        assert ranked([number], 1, [])[0].ranks.tolist() == found[number].ranks[:1].tolist()
    assert len(calls) == max(map(len, alone.values())) <= 1 + 3 + 7
    assert sum(calls) == sum(map(sum, alone.values())) == sum(own.comparisons for own in found)
    assert calls[0] == sum(own[0] for own in alone.values()) >= 12 * 4  # four merges of two items in every sort


def test_one_of_both_orders_alone_decides_nothing():
    found = rank([2], lambda wanted: [None if pair == (1, 0) else 0.9 for _, pair in wanted], calibrated=True)[0]
    assert set(found.answers.values()) == {0.5}


def test_noise_lowers_the_correlation():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(30, 16)) * 2
    means = []
    for noise in (0.0, 1.0, 4.0):
        def source(wanted, noise=noise):
            return [1 / (1 + math.exp(-(theta[n, i] - theta[n, j]) - noise * rng.normal())) for n, (i, j) in wanted]

        found = rank([16] * 30, source)
        means.append(np.mean([agreement(own.ranks, Instance("", "", ("",) * 16, list(scores)))["spearman"]
                              for own, scores in zip(found, theta, strict=True)]))
    assert means[0] == 1 and means[0] > means[1] > means[2] > 0.2


def test_agreement_with_ties_and_pairs():
    """Spearman with average ranks and tau-b; constant scores have neither."""
    ranks = np.array([6.0, 5, 4, 3, 2, 1])
    found = agreement(ranks, Instance("", "", ("",) * 6, [3, 3, 2, 1, 1, 1]))
    assert found == {"spearman": pytest.approx(0.925820, abs=1e-6), "kendall": pytest.approx(0.856349, abs=1e-6),
                     "accuracy": 1}
    assert agreement(ranks, Instance("", "", ("",) * 6, [2] * 6)) == dict.fromkeys(("spearman", "kendall", "accuracy"))
    pairs = agreement(ranks, Instance("", "", ("",) * 6, [[0, 5], [4, 1], [2, 3]]))
    assert pairs == {"spearman": None, "kendall": None, "accuracy": pytest.approx(2 / 3)}
    assert agreement(ranks, Instance("", "", ("",) * 6)) == dict.fromkeys(("spearman", "kendall", "accuracy"))


def test_agreement_of_many_orders():
    """The means over the orders are those of scipy, order by order; an item without a score is left out."""
    rng = np.random.default_rng(4)
    for human in ([5, 1, 1, None, 3, 3, 2, 0], rng.normal(size=8).tolist()):
        ranks = np.array([rng.permutation(8) for _ in range(50)])
        own = [i for i in range(8) if human[i] is not None]
        scores = [human[i] for i in own]
        found = agreement(ranks, Instance("", "", ("",) * 8, human))
        assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(one[own], scores)[0] for one in ranks]))
        assert found["kendall"] == pytest.approx(np.mean([stats.kendalltau(one[own], scores)[0] for one in ranks]))
        right = [one[i] > one[j] for one in ranks for i in own for j in own if human[i] > human[j]]
        assert found["accuracy"] == pytest.approx(np.mean(right))
    lone = agreement(ranks, Instance("", "", ("",) * 8, [1, *[None] * 7]))
    assert lone == dict.fromkeys(("spearman", "kendall", "accuracy"))
