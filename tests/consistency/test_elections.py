"""Schulze against its definition, and Kemeny against brute force."""

import itertools

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.consistency import optimal_orders
from jaxllm.consistency.ranking import (
    Comparisons,
    contradicted,
    kemeny,
    schulze,
)
from jaxllm.errors import UserError
from tests.consistency.comparisons import CYCLE, complete, counts, pairs, random_counts, records

pytestmark = pytest.mark.usefixtures("strict_floats")


# ---- Schulze -----------------------------------------------------------------------------------------------

def test_schulze_by_hand():
    """Strongest paths by wins: A-B 3, B-A 4, A-C 3, C-A 4, B-C 5, C-B 3; by margins all 1 but B-C 3."""
    winning, margins = schulze(CYCLE), schulze(CYCLE, "margins")
    assert pairs(winning.decided) == {"BC", "BA", "CA"} and winning.scores.tolist() == [-2, 2, 0]
    assert pairs(margins.decided) == {"BC"} and margins.scores.tolist() == [0, 1, -1]
    with pytest.raises(UserError, match="'votes'") as error:
        schulze(CYCLE, "votes")
    assert error.value.fix == "use winning or margins"


def test_schulze_of_a_published_election():
    """The example of Schulze's paper with 45 voters: E > A > C > B > D."""
    ballots = {"ACBED": 5, "ADECB": 5, "BEDAC": 8, "CABED": 3, "CAEBD": 7, "CBADE": 2, "DCEBA": 7, "EBADC": 8}
    wins = np.zeros((5, 5), int)
    for order, number in ballots.items():
        for high, low in itertools.combinations(order, 2):
            wins[ord(high) - 65, ord(low) - 65] += number
    for strength in ("winning", "margins"):
        assert np.argsort(-schulze(Comparisons.from_counts(wins), strength).scores).tolist() == [4, 0, 2, 1, 3]


@pytest.mark.parametrize("strength", ["winning", "margins"])
@pytest.mark.parametrize("seed", range(6))
def test_schulze_is_its_definition(seed, strength):
    own = random_counts(5, seed)
    weight = np.where(own.margins > 0, own.wins if strength == "winning" else own.margins, 0)
    best = np.zeros((5, 5), int)
    for length in range(2, 6):
        for path in itertools.permutations(range(5), length):
            weakest = min(weight[i, j] for i, j in itertools.pairwise(path))
            best[path[0], path[-1]] = max(best[path[0], path[-1]], weakest)
    assert np.array_equal(schulze(own, strength).decided, best > best.T)


@given(counts(5))
@settings(max_examples=30, deadline=None)
def test_schulze_and_kemeny_rank_a_condorcet_winner_first(own):
    winner = np.flatnonzero(((own.margins > 0) | np.eye(5, dtype=bool)).all(1))
    for ranked in (schulze(own), schulze(own, "margins"), kemeny(own)):
        assert not len(winner) or ranked.decided[winner[0]].sum() == 4


# ---- Kemeny ------------------------------------------------------------------------------------------------

def brute_force(own):
    """Least number of contradicted comparisons, and the common order of all optimal orders."""
    items = np.flatnonzero(own.compared)
    orders = list(itertools.permutations(items))
    costs = [contradicted(own, order) for order in orders]
    common = np.zeros((own.count, own.count), bool)
    common[np.ix_(items, items)] = True
    for order, cost in zip(orders, costs, strict=True):
        if cost == min(costs):
            above = np.zeros_like(common)
            for high, low in itertools.combinations(order, 2):
                above[high, low] = True
            common &= above
    return min(costs), common


def test_kemeny_by_hand():
    orders = {"".join("ABC"[item] for item in order): contradicted(CYCLE, order)
              for order in itertools.permutations(range(3))}
    assert orders == {"ABC": 8, "BCA": 8, "BAC": 9, "CAB": 10, "ACB": 11, "CBA": 11}
    ranked = kemeny(CYCLE)
    assert pairs(ranked.decided) == {"BC"} and ranked.scores.tolist() == [0, 1, -1] and ranked.distance == 8
    assert pairs(kemeny(CYCLE, keep_ties=False).decided) == {"AB", "AC", "BC"}
    assert pairs(kemeny(records("A>B A>C")).decided) == {"AB", "AC"}
    assert pairs(kemeny(records("A>B B>C C>D")).decided) == {"AB", "AC", "AD", "BC", "BD", "CD"}


def test_kemeny_without_cycles_contradicts_nothing():
    assert kemeny(records("A>B B>C A>C D>C")).distance == 0
    assert kemeny(records("A>B B>C C>A")).distance == 1
    assert kemeny(records("")).distance == 0


@given(st.integers(2, 6).flatmap(counts))
@settings(max_examples=40, deadline=None)
def test_kemeny_is_brute_force(own):
    cost, common = brute_force(own)
    ranked = kemeny(own)
    assert ranked.distance == cost and np.array_equal(ranked.decided, common)
    assert (cost == 0) == networkx.is_directed_acyclic_graph(
        networkx.DiGraph(list(map(tuple, np.argwhere(own.wins > 0)))))
    one = kemeny(own, keep_ties=False)
    order = np.argsort(-one.scores[own.compared])
    assert contradicted(own, np.flatnonzero(own.compared)[order]) == cost and one.distance == cost
    assert not (common & ~one.decided).any()


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_and_integer_programming_agree(seed, monkeypatch):
    """Without the parts into which a problem is split, which are smaller than these."""
    own = random_counts(6, seed, most=1 + seed % 3, share=[0.5, 1.0][seed % 2])
    items = np.flatnonzero(own.compared)
    margins = own.margins[np.ix_(items, items)]
    cost, common = brute_force(own)
    inside = common[np.ix_(items, items)]
    for order, decided in (optimal_orders._enumerated(margins), optimal_orders._programmed(margins, 60)):
        assert np.array_equal(decided, inside) and contradicted(own, items[order]) == cost
    monkeypatch.setattr(optimal_orders, "MOST_ENUMERATED", 2)
    assert np.array_equal(kemeny(own).decided, common) and kemeny(own).distance == cost


@pytest.mark.parametrize(("count", "noise"), [(16, 0.3), (18, 0.2)])
def test_kemeny_of_real_sizes(count, noise, monkeypatch):
    rng = np.random.default_rng(count)
    upper = np.triu(rng.random((count, count)) >= noise, 1).astype(int)
    own = Comparisons.from_counts(upper + np.tril(1 - upper.T, -1))
    ranked = kemeny(own)
    monkeypatch.setattr(optimal_orders, "MOST_ENUMERATED", 2)
    other = kemeny(own)
    assert other.distance == ranked.distance and np.array_equal(other.decided, ranked.decided)


def test_kemeny_of_a_large_chain_is_split():
    own = complete(range(60))
    assert kemeny(own).decided.sum() == 60 * 59 // 2
    # A cycle among the last items, and two orders of it that are as good.
    wins = own.wins.copy()
    wins[57, 59], wins[59, 57] = 0, 1
    ranked = kemeny(Comparisons.from_counts(wins))
    assert ranked.distance == 1 and ranked.decided.sum() == 60 * 59 // 2 - 3


def test_kemeny_of_a_large_cycle_is_an_integer_program():
    """The last of 22 items beats the first one: all items are in one cycle, and one order contradicts only that."""
    own = complete(range(22))
    wins = own.wins.copy()
    wins[0, 21], wins[21, 0] = 0, 1
    ranked = kemeny(Comparisons.from_counts(wins))
    assert ranked.distance == 1 and np.array_equal(ranked.decided, own.wins > 0)


def test_a_program_without_an_answer_in_time(monkeypatch):
    monkeypatch.setattr(optimal_orders, "MOST_ENUMERATED", 2)
    with pytest.raises(UserError, match="no optimal order of 12 items") as error:
        kemeny(random_counts(12, 0, share=1.0, ties=False), time_limit=0)
    assert error.value.where == "kemeny" and "schulze" in error.value.fix
