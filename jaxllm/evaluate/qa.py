"""Scores of an answer against its references: token F1 and accuracy (SELF-PARAM, 2410.00487; SQuAD form)."""

from __future__ import annotations

import collections
import dataclasses
import re
import string
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower-cases, deletes ASCII punctuation, replaces articles by blanks, collapses blanks; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(prediction: str, reference: str) -> float:
    """Computes the harmonic mean of precision and recall of words, with multiplicity; 0 if no word is shared."""
    predicted, wanted = normalize(prediction).split(), normalize(reference).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


def accuracy(prediction: str, reference: str) -> float:
    """Returns 1 if the normalized reference occurs in the normalized prediction; an empty reference always does."""
    return float(normalize(reference) in normalize(prediction))


def best(measure: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    """Computes the largest value of `measure` over the accepted references."""
    return max(measure(prediction, reference) for reference in references)


def same_answer(one: str, other: str) -> bool:
    """Compares two answers up to case, punctuation and articles."""
    return normalize(one) == normalize(other)


@dataclasses.dataclass(frozen=True)
class ScoredAnswer:
    """An answer with its token F1 and accuracy against the best of its references."""

    text: str
    f1: float
    accuracy: float


def score_answer(text: str, references: Sequence[str]) -> ScoredAnswer:
    """Scores one answer."""
    return ScoredAnswer(text, best(f1, text, references), best(accuracy, text, references))
