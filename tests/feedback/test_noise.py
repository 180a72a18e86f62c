"""Labels that are exchanged on purpose: rates, and what they depend on."""

import numpy as np
import pytest

from jaxllm.feedback.noise import flips

IDS = [f"r{n}" for n in range(8000)]


@pytest.mark.parametrize("kind", ["uniform", "class", "annotator", "length", "margin"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 1.0])
def test_the_rate_is_that_which_was_given(kind, rate):
    rng = np.random.default_rng(0)
    found = flips(IDS, rate, kind, groups=[n % 20 for n in range(8000)], words=rng.integers(1, 50, (8000, 2)),
                  margins=rng.exponential(1, 8000))
    assert found.mean() == pytest.approx(rate, abs=0.015)


def test_draws_depend_on_id_and_seed_alone():
    order = np.random.default_rng(1).permutation(8000)
    found = flips(IDS, 0.2)
    assert (flips([IDS[n] for n in order], 0.2) == found[order]).all()
    assert (flips(IDS, 0.2, seed=1) != found).any()
    assert (found <= flips(IDS, 0.3)).all()


def test_what_a_kind_depends_on():
    rng = np.random.default_rng(2)
    words, margins = rng.integers(1, 50, (8000, 2)), rng.exponential(1, 8000)
    groups = [n % 4 for n in range(8000)]
    longer = words[:, 1] > words[:, 0]
    by_length = flips(IDS, 0.2, "length", words=words)
    assert by_length[longer].mean() > 3 * by_length[~longer].mean()
    by_margin = flips(IDS, 0.2, "margin", margins=margins)
    assert by_margin[margins < 0.3].mean() > 2 * by_margin[margins > 1.5].mean()
    by_group = flips(IDS, 0.2, "annotator", groups=groups)
    rates = [by_group[np.array(groups) == group].mean() for group in range(4)]
    assert max(rates) > 2 * min(rates)
    flat = flips(IDS, 0.2, "length", words=words, strength=0.0)
    assert (flat == flips(IDS, 0.2)).all()


@pytest.mark.parametrize("kind", ["uniform", "class", "annotator", "length", "margin"])
def test_arrays_and_no_pairs(kind):
    groups, words, margins = np.array(["x", "y"] * 4), np.arange(16).reshape(8, 2), np.arange(8.0)
    assert flips(IDS[:8], 0.5, kind, groups=groups, words=words, margins=margins).shape == (8,)
    none = flips([], 0.5, kind, groups=groups[:0], words=words[:0], margins=margins[:0])
    assert none.shape == (0,) and none.dtype == bool


def test_what_a_kind_needs():
    with pytest.raises(ValueError, match="needs words"):
        flips(IDS, 0.2, "length")
    with pytest.raises(ValueError, match="needs groups"):
        flips(IDS, 0.2, "class")
    with pytest.raises(ValueError, match="between 0 and 1"):
        flips(IDS, 1.2)
