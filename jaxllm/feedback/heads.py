"""Linear rewards on fixed features of answers, fitted by the Bradley-Terry loss and used out of fold."""

from __future__ import annotations

import collections
import functools
import hashlib
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.finetune.texts import Text, make_batch, per_text_sums, read_states, row_shape
from jaxllm.model import Model
from jaxllm.progress import bar
from jaxllm.text.forms import PairRow
from jaxllm.text.forms import Text as Answer

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Pairs that are computed together, and then stored.
CHUNK = 160
WORDS = 5000  # most frequent words that are features
_WORD = re.compile(r"\w+|[^\w\s]")


@functools.partial(jax.jit, static_argnames=("spec", "dtype"))
def _states(spec, params, batch, dtype):
    """Computes the last hidden state of every text, `[R, G, 2, D]` float32."""
    return per_text_sums(read_states(spec, params, None, batch, dtype=dtype).astype(jnp.float32), batch, 2)


def last_states(model: Model, pairs: Sequence[tuple[np.ndarray, np.ndarray]], folder: Path, identity: str,
                batch_size: int, dtype: jnp.dtype) -> np.ndarray:
    """Computes the last hidden states of the texts of pairs, `[N, 2, D]` float32.

    Chunks are stored under a hash of their token ids and of `identity`: a stopped run continues, and another run finds
    them again.

    Args:
        model: the model.
        pairs: token ids of both texts of each pair.
        folder: directory for the chunks.
        identity: describes the model and its number format.
        batch_size: texts computed together.
        dtype: dtype of activations.
    """
    last = lambda ids: Text(ids, np.array([len(ids) - 1], np.int32), np.ones(1, np.float32))
    groups, size = [tuple(map(last, pair)) for pair in pairs], max(batch_size // 2, 1)
    batches = [groups[i:i + size] for start in range(0, len(groups), CHUNK)
               for i in range(start, min(start + CHUNK, len(groups)), size)]
    shape = row_shape(batches, groups, model.spec.width, 1, packed=True)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    with bar(len(groups), "features", "pairs") as show:
        for start in range(0, len(groups), CHUNK):
            end = min(start + CHUNK, len(groups))
            digest = hashlib.sha256(identity.encode())
            for pair in pairs[start:end]:
                for ids in pair:
                    digest.update(len(ids).to_bytes(4, "little") + np.asarray(ids, np.int32).tobytes())
            path = folder / f"states-{digest.hexdigest()[:32]}.npy"
            if path.exists():
                parts.append(np.load(path, allow_pickle=False))
            else:
                own = []
                for first in range(start, end, size):
                    batch = make_batch(groups[first:min(first + size, end)], shape)
                    made = np.asarray(_states(model.spec, model.params, batch, dtype))
                    number = batch["group"].reshape(-1)
                    own.append(made.reshape(-1, *made.shape[2:])[np.argsort(number)[np.count_nonzero(number < 0):]])
                    show(min(first + size, end))
                parts.append(np.concatenate(own))
                temporary = path.with_suffix(".tmp.npy")
                np.save(temporary, parts[-1])
                temporary.replace(path)
            show(end)
    return np.concatenate(parts)


def word_counts(rows: Sequence[PairRow]) -> tuple[Any, Any]:
    """Counts words of the chosen and of the rejected answers, log(1 + n), two sparse matrices `[N, W]`, of the words
    that most answers have."""
    from scipy import sparse

    number: dict[str, int] = {}
    parts = []
    for side in ("chosen", "rejected"):
        ends, columns, values = [0], array("l"), array("d")
        for row in rows:
            own = collections.Counter(_WORD.findall(_text(getattr(row, side)).lower()))
            columns.extend(number.setdefault(word, len(number)) for word in own)
            values.extend(own.values())
            ends.append(len(columns))
        parts.append((np.log1p(np.array(values)), np.array(columns, np.int64), np.array(ends)))
    chosen, rejected = (sparse.csr_matrix(part, shape=(len(rows), len(number))) for part in parts)
    answers = np.asarray((chosen > 0).sum(0) + (rejected > 0).sum(0)).ravel()
    frequent = np.sort(np.argsort(-answers, kind="stable")[:WORDS])
    return chosen[:, frequent], rejected[:, frequent]


def _text(answer: Answer) -> str:
    return answer if isinstance(answer, str) else "\n".join(turn["content"] for turn in answer
                                                            if turn["role"] == "assistant")


def fit_reward(difference: Any, penalty: float, probability: np.ndarray | float = 1.0,
               weight: np.ndarray | float = 1.0, margin: np.ndarray | float = 0.0) -> np.ndarray:
    """Fits weights w of a linear reward: minimizes the mean of -log sigmoid(w x - margin) plus penalty / 2 |w|^2.

    Args:
        difference: features of the chosen answer less those of the rejected one, array or sparse matrix `[N, D]`.
        penalty: L2 penalty.
        probability: probability that the label is right, `[N]`; the loss is the expected one.
        weight, margin: weight and margin of each pair, `[N]`.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    share = np.broadcast_to(weight, difference.shape[0]) / np.broadcast_to(weight, difference.shape[0]).sum()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        reward = difference @ weights
        right, wrong = reward - margin, -reward - margin
        value = probability * np.logaddexp(0, -right) + (1 - probability) * np.logaddexp(0, -wrong)
        slope = (1 - probability) * expit(-wrong) - probability * expit(-right)
        return share @ value + penalty / 2 * weights @ weights, difference.T @ (share * slope) + penalty * weights

    def curved(weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        reward = difference @ weights
        right, wrong = reward - margin, -reward - margin
        curvature = probability * expit(right) * expit(-right) + (1 - probability) * expit(wrong) * expit(-wrong)
        return difference.T @ (share * curvature * (difference @ direction)) + penalty * direction

    return minimize(loss, np.zeros(difference.shape[1]), jac=True, hessp=curved, method="Newton-CG").x


def out_of_fold(chosen: Any, rejected: Any, fold: np.ndarray) -> np.ndarray:
    """Scores both answers of each pair by a reward that was fitted without the pair's fold, `[N, 2]`.

    The penalty is that with the least loss on another fold. The scores of a reward are in standard deviations of those
    of the answers that it was fitted on, so that folds have one scale.

    Args:
        chosen, rejected: features of the answers, arrays or sparse matrices `[N, D]`.
        fold: number of each pair's fold, `[N]`; two folds or more.
    """
    scores = np.empty((len(fold), 2))
    folds, difference = np.unique(fold), chosen - rejected
    loss = lambda rows, weights: np.logaddexp(0, -(difference[rows] @ weights)).mean()
    for place, own in enumerate(folds):
        train, inner = fold != own, fold == folds[(place + 1) % len(folds)]
        rest = train & ~inner
        scale = _deviations(chosen[train], rejected[train])
        weights = {}
        for penalty in PENALTIES if rest.any() else ():
            weights[penalty] = fit_reward(_scaled(difference[rest], scale), penalty) / scale
        best = min(weights, key=lambda penalty: loss(inner, weights[penalty])) if weights else PENALTIES[1]
        reward = fit_reward(_scaled(difference[train], scale), best) / scale
        fitted = np.stack([chosen[train] @ reward, rejected[train] @ reward])
        held = fold == own
        scores[held] = (np.stack([chosen[held] @ reward, rejected[held] @ reward], 1) - fitted.mean()) / (
            fitted.std() or 1.0)
    return scores


def _deviations(*parts: Any) -> np.ndarray:
    """Computes the standard deviation of each column over several matrices, `[D]`."""
    count = sum(part.shape[0] for part in parts)
    mean = sum(np.asarray(part.sum(0)).ravel() for part in parts) / count
    square = sum(np.asarray(part.multiply(part).sum(0) if hasattr(part, "multiply") else (part * part).sum(0)).ravel()
                 for part in parts) / count
    return np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6


def _scaled(matrix: Any, scale: np.ndarray) -> Any:
    return matrix.multiply(1 / scale).tocsr() if hasattr(matrix, "multiply") else matrix / scale
