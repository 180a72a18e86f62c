"""The decision whether a run has collapsed, and the area under a frontier, on curves made for it."""

import numpy as np
import pytest

from scripts.reproduce_cory import collapsed, hypervolume


def noisy(curve, seed=0, scale=0.2):
    return np.asarray(curve) + scale * np.random.default_rng(seed).normal(size=len(curve))


def test_noise_is_no_collapse():
    assert np.mean([collapsed(np.random.default_rng(seed).normal(size=60)) for seed in range(200)]) < 0.05


@pytest.mark.parametrize(("curve", "expected"), [
    (np.linspace(0, 3, 60), False), (np.minimum(np.linspace(0, 6, 60), 3), False), (np.linspace(2, -5, 60), True),
    (np.r_[np.linspace(0, 3, 30), np.linspace(3, 0.5, 30)], True),
    (np.r_[np.linspace(0, 3, 40), np.full(20, 2.4)], False),
    (np.r_[np.zeros(59), np.nan], True)])
def test_collapse(curve, expected):
    assert all(collapsed(noisy(curve, seed)) is expected for seed in range(5))


def test_hypervolume():
    assert hypervolume([(2.0, 1.0), (3.0, 4.0)], 1.0, 5.0) == 1 * 4 + 1 * 1
    assert hypervolume([(2.0, 1.0), (1.5, 3.0)], 1.0, 5.0) == 4.0, "a dominated point adds nothing"
    assert hypervolume([(0.5, 1.0)], 1.0, 5.0) == 0.0
