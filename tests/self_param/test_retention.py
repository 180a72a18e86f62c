"""Numbers made of a matrix of scores, by hand."""

import numpy as np
import pytest

from jaxllm.self_param import retention
from jaxllm.statistics import paired

# Three injections of a document each; F[i][j].
MATRIX = np.array([[0.0, 0.1, 0.2], [1.0, 0.3, 0.0], [0.8, 0.9, 0.1], [0.5, 0.7, 0.6]])


def test_one_after_the_other():
    written = [1, 2, 3]
    assert retention.efficacy(MATRIX, written).tolist() == [1.0, 0.9, 0.6]
    assert retention.retention_by_lag(MATRIX, written) == pytest.approx([2.5 / 3, 1.5 / 2, 0.5])
    assert retention.mean_seen(MATRIX, written) == pytest.approx([1.0, 0.85, 0.6])
    assert retention.untold(MATRIX, written) == pytest.approx((0.0 + 0.1 + 0.3 + 0.2 + 0.0 + 0.1) / 6)


def test_all_together():
    matrix = MATRIX[[0, 3]]
    assert retention.efficacy(matrix, [1, 1, 1]).tolist() == [0.5, 0.7, 0.6]
    assert retention.retention_by_lag(matrix, [1, 1, 1]) == pytest.approx([0.6])
    assert retention.mean_seen(matrix, [1, 1, 1]) == pytest.approx([0.6])


def test_paired_differences():
    """Of 2 ** 5 ways to draw signs two are as extreme as all alike."""
    found = paired([0.6, 0.7, 0.8, 0.6, 0.7], [0.5] * 5)
    assert found["mean"] == pytest.approx(0.18) and found["p"] == pytest.approx(2 / 32) and found["n"] == 5
    assert found["ci_low"] >= 0.1 - 1e-9 and found["ci_high"] <= 0.3 + 1e-9
    assert paired([0.5, 0.5], [0.5, 0.5])["p"] == 1.0
    assert paired([1.0], [0.5]) == {"mean": 0.5, "ci_low": 0.5, "ci_high": 0.5, "n": 1, "p": 1.0}
    assert paired([0.1, 0.9], [0.9, 0.1])["p"] == 1.0
