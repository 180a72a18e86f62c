"""A reward model on frozen features of a language model, out of fold over all pairs of a file, with baselines.

    python scripts/reward_features.py pairs.jsonl OUT [--model smollm2] [--folds 5] [--max_length 1024]

Features of a text are the hidden state of its last token. They are computed once and stored in OUT in chunks, so that
the same command resumes. The reward is linear in the standardized features, fitted by the Bradley-Terry loss with an L2
penalty; folds are by prompt. No text is printed or stored.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

import jaxllm
from jaxllm.compile_cache import enable_compile_cache
from jaxllm.errors import UserError
from jaxllm.files import write_atomic
from jaxllm.finetune.texts import Text, make_batch, per_text_sums, read_states, row_shape
from jaxllm.progress import bar
from jaxllm.statistics import clustered
from jaxllm.text.encoding import encode_reward_pair
from jaxllm.text.preferences import preference_rows, prompt_of

BATCH, CHUNK = 16, 160
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@functools.partial(jax.jit, static_argnames=("spec", "dtype"))
def features_of(spec, params, batch, dtype):
    """Computes the last hidden state of every text, `[R, G, 2, D]`."""
    return per_text_sums(read_states(spec, params, None, batch, dtype=dtype).astype(jnp.float32), batch, 2)


def last_state(ids: np.ndarray) -> Text:
    return Text(ids, np.array([len(ids) - 1], np.int32), np.ones(1, np.float32))


def compute_features(model: jaxllm.Model, rows: list, max_length: int, folder: Path) -> tuple[np.ndarray, list[int]]:
    """Returns features `[n, 2, D]` of the pairs that fit, and their numbers."""
    groups, used = [], []
    for i, row in enumerate(rows):
        try:
            groups.append(tuple(map(last_state, encode_reward_pair(model.tokenizer, row, max_length=max_length))))
        except UserError:
            continue
        used.append(i)
    batches = [groups[i:i + BATCH] for i in range(0, len(groups), BATCH)]
    shape = row_shape(batches, groups, 1, packed=True)
    parts = []
    with bar(len(groups), "features", "pairs") as show:
        for start in range(0, len(groups), CHUNK):
            path = folder / f"features_{start:06d}.npy"
            if not path.exists():
                own = []
                for first in range(start, min(start + CHUNK, len(groups)), BATCH):
                    batch = make_batch(groups[first:min(first + BATCH, start + CHUNK)], shape)
                    made = np.asarray(features_of(model.spec, model.params, batch, jnp.dtype("float32")))
                    number = batch["group"].reshape(-1)
                    own.append(made.reshape(-1, *made.shape[2:])[np.argsort(number)[np.count_nonzero(number < 0):]])
                    show(first + len(own[-1]))
                np.save(path, np.concatenate(own))
            parts.append(np.load(path))
    return np.concatenate(parts), used


def fit(difference: np.ndarray, penalty: float) -> np.ndarray:
    """Minimizes mean -log sigmoid(w x) + penalty / 2n |w|^2 over differences of features `[n, D]`."""
    n = len(difference)

    def loss(weights):
        margin = difference @ weights
        gradient = -difference.T @ expit(-margin) / n + penalty * weights / n
        return np.logaddexp(0, -margin).mean() + penalty / (2 * n) * weights @ weights, gradient

    return minimize(loss, np.zeros(difference.shape[1]), jac=True, method="L-BFGS-B").x


def out_of_fold(features: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Computes the margin of every pair by a reward that was fitted without its fold; the penalty is chosen within the
    other folds."""
    margins = np.zeros(len(features))
    for own in np.unique(fold):
        train = fold != own
        scale = features[train].reshape(-1, features.shape[-1]).std(0) + 1e-6
        difference = (features[:, 0] - features[:, 1]) / scale
        inner = fold == (own + 1) % (fold.max() + 1)
        chosen = max(PENALTIES, key=lambda p: np.mean(
            difference[inner] @ fit(difference[train & ~inner], p * len(difference)) > 0))
        margins[own == fold] = difference[own == fold] @ fit(difference[train], chosen * len(difference))
    return margins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--max_length", type=int, default=1024)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    enable_compile_cache()
    model, rows = jaxllm.load(options.model), preference_rows(options.data, "paired").rows
    features, used = compute_features(model, rows, options.max_length, options.out)
    prompts = [prompt_of(rows[i]) for i in used]
    names = {name: k for k, name in enumerate(dict.fromkeys(prompts))}
    fold = np.random.default_rng(0).permutation(len(names))[[names[name] for name in prompts]] % options.folds
    margins = out_of_fold(features, fold)
    words = lambda answer: len(answer.split() if isinstance(answer, str) else str(answer).split())
    shorter = np.array([np.sign(words(rows[i].rejected) - words(rows[i].chosen)) for i in used])
    result = {"pairs": len(used), "dropped": len(rows) - len(used),
              "features": clustered(margins > 0, prompts),
              "shorter answer, ties half": clustered((shorter + 1) / 2, prompts)}
    write_atomic(options.out / "result.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
