"""Scores of an answer against its references: token F1 and accuracy (SELF-PARAM, 2410.00487; SQuAD form)."""

from __future__ import annotations

import collections
import dataclasses
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Normalizes a text in NFC: lower case, without ASCII punctuation, without articles, blanks collapsed.

    A text of articles alone keeps them, and a text of punctuation alone keeps that, so that something is left.
    """
    return normalize_pair(text, text)[1]


def normalize_pair(prediction: str, reference: str) -> tuple[str, str]:
    """Normalizes two texts as `normalize` does the reference, so that what stays of the reference stays in both."""
    plain = [" ".join(unicodedata.normalize("NFC", text).lower().split()) for text in (prediction, reference)]
    words = [" ".join(text.translate(_PUNCTUATION).split()) for text in plain]
    bare = [" ".join(_ARTICLES.sub(" ", text).split()) for text in words]
    one, other = next((pair for pair in (bare, words) if pair[1]), plain)
    return one, other


def f1(prediction: str, reference: str) -> float:
    """Computes the harmonic mean of precision and recall of words, with multiplicity; 0 if no word is shared."""
    predicted, wanted = (text.split() for text in normalize_pair(prediction, reference))
    shared = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


def accuracy(prediction: str, reference: str) -> float:
    """Returns 1 if the normalized reference occurs in the normalized prediction; an empty reference always does.

    A reference of articles alone (the answer "A") has to occur as words, since most texts have its letters; in the
    code of SELF-PARAM nothing is left of it, and it always occurs.
    """
    predicted, wanted = normalize_pair(prediction, reference)
    if wanted and not _ARTICLES.sub("", wanted).strip():
        predicted, wanted = f" {predicted} ", f" {wanted} "
    return float(wanted in predicted)


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
