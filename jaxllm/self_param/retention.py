"""What a model still knows of documents written into it one after the other, from the matrix of scores.

    F[i][j]         score on document j after i injections; F[0] is the model as it was
    w_j             the injection, from 1, that wrote document j

    efficacy        F[w_j][j]                         right after it was written
    retention(L)    mean over j of F[w_j + L][j]      L injections later
    mean seen(i)    mean over {j : w_j <= i} of F[i][j]
    untold          F[i][j] for i < w_j               before it was written: a control

(SELF-PARAM, 2410.00487, sequential injection.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def efficacy(matrix: np.ndarray, written: Sequence[int]) -> np.ndarray:
    """`[J]` scores of `matrix` `[I + 1, J]` right after each document was written."""
    return matrix[np.asarray(written), np.arange(matrix.shape[1])]


def retention_by_lag(matrix: np.ndarray, written: Sequence[int]) -> list[float]:
    """Mean score after 0, 1, ... further injections, over the documents that have lived to see so many."""
    last = len(matrix) - 1
    lags = range(last - min(written) + 1)
    return [float(np.mean([matrix[w + lag, j] for j, w in enumerate(written) if w + lag <= last])) for lag in lags]


def mean_seen(matrix: np.ndarray, written: Sequence[int]) -> list[float]:
    """Mean score over all documents written so far, after the first injection, the second, and so on."""
    written = np.asarray(written)
    return [float(matrix[i, written <= i].mean()) for i in range(1, len(matrix)) if (written <= i).any()]


def untold(matrix: np.ndarray, written: Sequence[int]) -> float:
    """Mean score on documents before they were written."""
    return float(np.mean([matrix[i, j] for j, w in enumerate(written) for i in range(w)]))
