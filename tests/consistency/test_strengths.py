"""Bradley-Terry against scipy on the likelihood, and Rank Centrality against its stationary distribution."""

import math

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import optimize
from scipy.special import log_expit

from jaxllm.consistency.ranking import (
    Comparisons,
    bradley_terry,
    has_maximum_likelihood,
    log_strengths,
    rank_centrality,
)
from jaxllm.errors import UserError
from tests.consistency.comparisons import LOG3, chain, close, counts, exactly, mm, pairs, random_counts, records

pytestmark = pytest.mark.usefixtures("strict_floats")


# ---- Bradley-Terry -----------------------------------------------------------------------------------------

def test_a_tie_is_half_a_win_of_each():
    scores = bradley_terry(records("A>B A>B A<B A=B"), prior=0).scores
    assert scores[0] - scores[1] == close(0.510826) == math.log(2.5 / 1.5)


@pytest.mark.parametrize(("count", "spread"), [(20, 20.873634), (10, 9.887511)])
def test_a_long_chain_has_its_closed_form(count, spread):
    scores = bradley_terry(chain(count), prior=0).scores
    assert scores[0] - scores[-1] == pytest.approx(spread, abs=1e-6)
    assert -np.diff(scores) == pytest.approx(LOG3, abs=1e-9)
    assert scores.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "steps", "change", "spread", "digits"), [
    (20, 100, 0, 11.53, 2), (20, 1000, 0, 20.794, 3), (20, None, 1e-6, 20.839, 3), (10, 100, 0, 9.2284, 4),
    (10, None, 1e-6, 9.8857, 4), (20, 10_000, 0, 20.873634, 6)])
def test_minorization_maximization_alone_stops_too_early(count, steps, change, spread, digits):
    """The values of an iteration that is judged by changes of strengths, which a wrong criterion would give."""
    logs, last = mm(chain(count).votes, steps, change)
    assert logs[0] - logs[-1] == pytest.approx(spread, abs=0.6 * 10**-digits)
    assert count != 20 or steps or last == 1161


@pytest.mark.parametrize(("others", "contrast"), [(0, 1.036092), (1, 1.005969), (3, .951504), (8, .840811)])
def test_items_that_were_never_compared_do_not_change_a_contrast(others, contrast):
    wins = np.zeros((2 + others, 2 + others), int)
    wins[0, 1], wins[1, 0] = 3, 1
    scores = bradley_terry(Comparisons.from_counts(wins)).scores
    assert scores[0] - scores[1] == close(1.036092) and np.isnan(scores[2:]).all()
    # The prior on all pairs of items, whether they have comparisons or not.
    everywhere = log_strengths(wins + 0.1 * (1 - np.eye(len(wins))))
    assert everywhere[0] - everywhere[1] == close(contrast)
    assert bradley_terry(Comparisons.from_counts(wins), everywhere=True).scores == pytest.approx(
        scores, abs=1e-9, nan_ok=True)


def test_a_prior_on_all_pairs_of_compared_items():
    own = records("A>B A>B A>B B>A C>D", 5)
    ranked = bradley_terry(own, everywhere=True)
    assert ranked.scores[:4] == pytest.approx(log_strengths((own.votes + 0.1 * (1 - np.eye(5)))[:4, :4]), abs=1e-9)
    assert math.isnan(ranked.scores[4]) and pairs(ranked.decided) >= {"AB", "CD", "CB", "AD"}
    assert not bradley_terry(own).decided[2, 1]
    with pytest.raises(UserError):
        bradley_terry(own, 0, everywhere=True)


def test_a_star_has_no_maximum_without_a_prior():
    star = records("A>B A>C")
    assert not has_maximum_likelihood(star)
    for method in (bradley_terry, rank_centrality):
        with pytest.raises(UserError, match="never lost") as error:
            method(star, prior=0)
        assert error.value.where == method.__name__ and "prior" in error.value.fix
        scores = method(star).scores
        assert scores[0] > scores[1] and scores[1] == exactly(scores[2])
        assert pairs(method(star).decided) == {"AB", "AC"}
        with pytest.raises(UserError, match="the prior is -1"):
            method(star, prior=-1)


@pytest.mark.parametrize("prior", [1.0, 1e-3, 1e-6, 1e-9])
def test_small_priors(prior):
    scores = bradley_terry(records("A>B A>C B>D"), prior).scores
    own = math.log((1 + prior) / prior)
    assert scores - scores[0] == pytest.approx([0, -own, -own, -2 * own], abs=1e-6)


@given(counts(5))
@settings(max_examples=30, deadline=None)
def test_existence_of_the_maximum(own):
    graph = networkx.DiGraph(list(map(tuple, np.argwhere(own.votes > 0))))
    components = list(networkx.weakly_connected_components(graph))
    strong = all(networkx.is_strongly_connected(graph.subgraph(own)) for own in components)
    assert has_maximum_likelihood(own) == strong
    if not strong:
        with pytest.raises(UserError):
            bradley_terry(own, prior=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("prior", [0.0, 0.1, 2.0])
def test_the_maximum_of_the_likelihood(seed, prior):
    """The gradient is 0, and a general optimizer ends at the same strengths."""
    own = random_counts(8, seed, 4, 0.6)
    if prior == 0 and not has_maximum_likelihood(own):
        pytest.skip("no maximum")
    votes = own.votes + prior * (own.played > 0)
    scores = bradley_terry(own, prior).scores
    expected = ((votes + votes.T) / (1 + np.exp(scores - scores[:, None]))).sum(1)
    assert votes.sum(1) == pytest.approx(expected, abs=1e-8)
    # The square of the sum fixes the mean, which the likelihood leaves open.
    loss = lambda s: s.sum()**2 - (votes * log_expit(s[:, None] - s)).sum()
    found = optimize.minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})
    assert scores == pytest.approx(found.x, abs=2e-5)
    assert loss(scores) <= loss(found.x) + 1e-9


def test_components_have_a_mean_of_zero():
    for method in (bradley_terry, rank_centrality):
        scores = method(records("A>B B>C D>E", 6)).scores
        assert scores[:3].sum() == pytest.approx(0, abs=1e-9) and scores[3:5].sum() == pytest.approx(0, abs=1e-9)
        assert np.isnan(scores[5])


def test_strengths_of_votes_without_a_maximum():
    assert log_strengths(np.zeros((0, 0))).tolist() == [] and log_strengths([[0]]).tolist() == [0]
    with pytest.raises(UserError, match="no finite estimate"):
        log_strengths([[0, 1], [0, 0]])


def test_strengths_that_float64_does_not_resolve():
    with pytest.raises(UserError, match="float64"):
        log_strengths([[0, 1, 0], [1e-320, 0, 1], [0, 1e-320, 0]])


# ---- Rank Centrality ---------------------------------------------------------------------------------------

def test_rank_centrality_recovers_the_weights_from_exact_shares():
    weights = np.array([1, 2, 4, 7, 11])
    wins = np.tile(weights[:, None], 5) * (1 - np.eye(5, dtype=int))  # i wins w_i of w_i + w_j
    scores = rank_centrality(Comparisons.from_counts(wins), prior=0).scores
    assert scores == exactly(np.log(weights) - np.log(weights).mean())
    assert bradley_terry(Comparisons.from_counts(wins), prior=0).scores == pytest.approx(scores, abs=1e-9)
    long = rank_centrality(chain(20), prior=0).scores
    assert long[0] - long[-1] == exactly(19 * LOG3)


@pytest.mark.parametrize("seed", range(5))
def test_rank_centrality_is_the_stationary_distribution(seed):
    own = random_counts(6, seed, share=1.0)
    votes = own.votes + 0.1 * (own.played > 0)
    walk = np.divide(votes.T, votes + votes.T, out=np.zeros((6, 6)), where=own.played > 0)
    walk /= (own.played > 0).sum(1).max()
    np.fill_diagonal(walk, 1 - walk.sum(1))
    probabilities = np.linalg.matrix_power(walk, 2**14)[0]
    assert rank_centrality(own).scores == pytest.approx(np.log(probabilities) - np.log(probabilities).mean(), abs=1e-9)


def test_rank_centrality_of_tiny_probabilities():
    scores = rank_centrality(chain(60, 1, 0), prior=1e-9).scores  # the smallest probability is 1e-531
    assert -np.diff(scores) == pytest.approx(math.log(1e9 + 1), abs=1e-9)
