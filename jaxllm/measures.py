"""Measures of reward models and classifiers, from their scores: accuracy, calibration, and RewardBench's sections.

Shares have no value (None) where nothing was counted.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.statistics import rate

BINS = 10
SECTIONS: Mapping[str, Mapping[str, int]] = MappingProxyType({
    "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
             "mt-bench-med": 40},
    "Chat Hard": {"mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
                  "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46},
    "Safety": {"refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
               "xstest-should-respond": 250, "donotanswer": 136},
    "Reasoning": {"math-prm": 984} | dict.fromkeys(
        ("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"), 164),
})
"""Sections of RewardBench (2403.13787): weights of their subsets, the numbers of their rows; math (447 rows) weighs as
much as the six sets of programs together. RewardBench's own program has the two weights of xstest the other way round.
"""


def pair_measures(chosen: ArrayLike, rejected: ArrayLike, groups: Sequence[Hashable] | None = None, seed: int = 0,
                  bins: int = BINS) -> dict[str, Any]:
    """Measures how often and how surely a reward model prefers the chosen answer.

    The probability that the chosen answer is the better one is the logistic function of the margin (Bradley-Terry).

    Args:
        chosen, rejected: scores `[N]` of the answers, at least one pair.
        groups: prompt of every pair: pairs with the same prompt are dependent, and resampled together. None takes all
            pairs as independent.
        seed: seed of the resampling.
        bins: bins of the calibration.

    Returns:
        `accuracy`, the share of pairs with a higher score for the chosen answer, as `statistics.rate`, where ties
        count as wrong; `ties`, their share; `margin`, the mean; and `calibration`: `log_loss` in nats, `brier`, the
        mean of (1 - probability)^2, and `reliability` of the preferred answer, where a tie is half right.
    """
    margins = _scores(chosen) - _scores(rejected)
    right = margins > 0
    probabilities = np.exp(-np.logaddexp(0, -margins))
    confidence = np.maximum(probabilities, np.exp(-np.logaddexp(0, margins)))
    return {"accuracy": rate(right, groups, seed), "ties": float(np.mean(margins == 0)),
            "margin": float(margins.mean()),
            "calibration": {"log_loss": float(np.logaddexp(0, -margins).mean()),
                            "brier": float(np.square(1 - probabilities).mean()),
                            **reliability(confidence, np.where(margins == 0, 0.5, right), bins)}}


def reward_bench(chosen: ArrayLike, rejected: ArrayLike, subsets: Sequence[str]) -> dict[str, Any]:
    """Computes accuracies per subset, and with RewardBench's subsets per section; ties count as wrong.

    Args:
        chosen, rejected: scores `[N]`.
        subsets: subset of every pair.

    Returns:
        `subsets`: `n`, `accuracy` and `ties` of each; `sections`: accuracy of each that has rows, where its subsets
        weigh as in `SECTIONS`; `overall`, the plain mean of sections; `missing`, subsets of `SECTIONS` without rows.
    """
    margins, names = _scores(chosen) - _scores(rejected), np.asarray(list(map(str, subsets)))
    found = {}
    for name in dict.fromkeys(names.tolist()):
        own = margins[names == name]
        found[name] = {"n": len(own), "accuracy": float((own > 0).mean()), "ties": float((own == 0).mean())}
    sections: dict[str, float] = {}
    for section, weights in SECTIONS.items():
        if own := [name for name in weights if name in found]:
            sections[section] = float(np.average([found[name]["accuracy"] for name in own],
                                                 weights=[weights[name] for name in own]))
    missing = [name for weights in SECTIONS.values() for name in weights if name not in found]
    return {"subsets": found, "sections": sections, "overall": _mean(list(sections.values())),
            "missing": missing if sections else []}


def length_measures(chosen: ArrayLike, rejected: ArrayLike, right: ArrayLike) -> dict[str, Any]:
    """Compares a reward model with the rule that the longer answer is better.

    Args:
        chosen, rejected: lengths `[N]` of the answers, in any unit.
        right: `[N]`, whether the model prefers the chosen answer.

    Returns:
        `longer_is_better`, accuracy of the rule, where equal lengths count one half; `equal`, their share; and `n` and
        the model's `accuracy` where the chosen answer is longer, and where it is shorter.
    """
    differences, right = np.subtract(chosen, rejected), np.asarray(right, bool)
    part = lambda where: {"n": int(where.sum()), "accuracy": _mean(right[where])}
    return {"longer_is_better": _mean((np.sign(differences) + 1) / 2), "equal": _mean(differences == 0),
            "chosen_longer": part(differences > 0), "chosen_shorter": part(differences < 0)}


def class_measures(scores: ArrayLike, labels: ArrayLike, names: Sequence[str] = (), seed: int = 0, bins: int = BINS
                   ) -> dict[str, Any]:
    """Measures a classifier.

    Args:
        scores: logits `[N, C]`; a single one (C = 1) is the logit of class 1 against class 0.
        labels: numbers of the right classes `[N]`, at least one.
        names: names of the classes, by default their numbers.
        seed, bins: as in `pair_measures`.

    Returns:
        `accuracy` with an interval, where of equal scores the first counts; `macro_f1`, the mean over the classes that
        are a label or predicted; `confusion`, counts `[C, C]` of label and prediction; per class `precision`, `recall`,
        `f1` and `n`; and `calibration` of the softmax: `log_loss` in nats, `brier`, the mean of the squared differences
        summed over classes, and `reliability` of the predicted class.
    """
    logits, labels = _scores(scores), np.asarray(labels, np.int64)
    logits = np.concatenate([np.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    count = logits.shape[1]
    log_probabilities = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    probabilities, predicted = np.exp(log_probabilities), logits.argmax(1)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    hits, of_label, of_prediction = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    classes = {}
    for i, name in enumerate(names or map(str, range(count))):
        classes[name] = {"n": int(of_label[i]), "precision": _ratio(hits[i], of_prediction[i]),
                         "recall": _ratio(hits[i], of_label[i]),
                         "f1": _ratio(2 * hits[i], of_label[i] + of_prediction[i])}
    right = predicted == labels
    return {"accuracy": rate(right, None, seed),
            "macro_f1": _mean([own["f1"] for own in classes.values() if own["f1"] is not None]),
            "confusion": confusion.tolist(), "classes": classes,
            "calibration": {"log_loss": -float(log_probabilities[np.arange(len(labels)), labels].mean()),
                            "brier": float(np.square(probabilities - np.eye(count)[labels]).sum(1).mean()),
                            **reliability(probabilities.max(1), right, bins)}}


def reliability(confidences: ArrayLike, outcomes: ArrayLike, bins: int = BINS) -> dict[str, Any]:
    """Compares confidences with how often they are right, in bins of about as many values each.

    Equal confidences are in one bin, that of their middle rank, so that the order of the values does not matter.

    Args:
        confidences: probabilities `[N]`, at least one.
        outcomes: `[N]`, 1 where the prediction is right, 0 where it is wrong.
        bins: number of bins; fewer where values are equal.

    Returns:
        `ece`, the expected calibration error: the mean over values of |mean confidence - accuracy| of their bin
        (Naeini et al. 2015); and `reliability`: `n`, `confidence` and `accuracy` of every bin, ascending.
    """
    confidences, outcomes = _scores(confidences), np.asarray(outcomes, np.float64)
    ordered = np.sort(confidences)
    first, end = np.searchsorted(ordered, confidences), np.searchsorted(ordered, confidences, "right")
    _, own = np.unique((first + end) * bins // (2 * len(ordered)), return_inverse=True)
    counts = np.bincount(own)
    confidence, accuracy = np.bincount(own, confidences) / counts, np.bincount(own, outcomes) / counts
    table = [{"n": int(n), "confidence": float(mean), "accuracy": float(share)}
             for n, mean, share in zip(counts, confidence, accuracy, strict=True)]
    return {"ece": float(np.sum(counts * np.abs(confidence - accuracy)) / len(confidences)), "reliability": table}


def pass_at_k(samples: int, right: int, k: int) -> float | None:
    """Computes the probability that one of k samples is right: 1 - C(n - c, k) / C(n, k) (2107.03374).

    Args:
        samples: n, samples of one problem.
        right: c, right ones among them.
        k: samples that are drawn without replacement.

    Returns:
        None where k exceeds the number of samples, since it is not known then.

    Raises:
        ValueError: the counts do not fit.
    """
    if not 0 <= right <= samples or k < 1:
        raise ValueError(f"{right} of {samples} samples cannot be right, or k is {k}")
    if k > samples:
        return None
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def _scores(values: ArrayLike) -> np.ndarray:
    """Converts to float64; raises a `ValueError` where there are no values, or one is not finite."""
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError("measures need finite scores, and at least one")
    return array


def _mean(values: ArrayLike) -> float | None:
    array = np.asarray(values, np.float64)
    return float(array.mean()) if array.size else None


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
