"""Linear rewards on fixed features of answers, fitted by the Bradley-Terry loss and used out of fold."""

from __future__ import annotations

import collections
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

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
    batches = [batch[:CHUNK] for batch in batches]
    shape = row_shape(batches, groups, 1, packed=True)
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


def word_counts(rows: Sequence[PairRow]) -> np.ndarray:
    """Counts words of the answers, log(1 + n), `[N, 2, W]` float32, of the most frequent words of all answers."""
    answers = [[collections.Counter(_WORD.findall(_text(answer).lower())) for answer in (row.chosen, row.rejected)]
               for row in rows]
    total: collections.Counter[str] = collections.Counter()
    for pair in answers:
        for own in pair:
            total.update(own.keys())
    frequent = sorted(total, key=lambda word: (-total[word], word))[:WORDS]
    column = {word: number for number, word in enumerate(frequent)}
    counts = np.zeros((len(rows), 2, len(column)), np.float32)
    for number, pair in enumerate(answers):
        for side, own in enumerate(pair):
            for word, count in own.items():
                if word in column:
                    counts[number, side, column[word]] = np.log1p(count)
    return counts


def _text(answer: Answer) -> str:
    return answer if isinstance(answer, str) else "\n".join(turn["content"] for turn in answer
                                                            if turn["role"] == "assistant")


def fit_reward(difference: np.ndarray, penalty: float, probability: np.ndarray | float = 1.0,
               weight: np.ndarray | float = 1.0, margin: np.ndarray | float = 0.0) -> np.ndarray:
    """Fits weights w of a linear reward: minimizes the mean of -log sigmoid(w x - margin) plus penalty / 2 |w|^2.

    Args:
        difference: features of the chosen answer less those of the rejected one, `[N, D]`.
        penalty: L2 penalty.
        probability: probability that the label is right, `[N]`; the loss is the expected one.
        weight, margin: weight and margin of each pair, `[N]`.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    share = np.broadcast_to(weight, len(difference)) / np.broadcast_to(weight, len(difference)).sum()

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


def out_of_fold(features: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores both answers of each pair by a reward that was fitted without the pair's fold, `[N, 2]`.

    The penalty is chosen by the accuracy on another fold. Rewards of different folds are centered on the mean of the
    pairs that they were fitted on.

    Args:
        features: `[N, 2, D]`.
        fold: number of each pair's fold, `[N]`; two folds or more.
    """
    scores = np.empty(features.shape[:2])
    folds = np.unique(fold)
    for place, own in enumerate(folds):
        train, inner = fold != own, fold == folds[(place + 1) % len(folds)]
        flat = features[train].reshape(-1, features.shape[-1])
        center, scale = flat.mean(0), flat.std(0) + 1e-6
        difference = (features[:, 0] - features[:, 1]) / scale
        rest = train & ~inner
        penalty = max(PENALTIES, key=lambda p: np.mean(difference[inner] @ fit_reward(difference[rest], p) > 0)) \
            if rest.any() else PENALTIES[1]
        scores[fold == own] = ((features[fold == own] - center) / scale) @ fit_reward(difference[train], penalty)
    return scores
