"""How an answer is compared with the references: token F1 and accuracy (SELF-PARAM, 2410.00487; SQuAD form)."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, ASCII punctuation deleted, articles blanked, blanks collapsed; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, counted with multiplicity; 0 when none is shared."""
    predicted, wanted = normalize(prediction).split(), normalize(reference).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


def accuracy(prediction: str, reference: str) -> float:
    """1 when the normalized reference occurs in the normalized prediction; an empty one always does."""
    return float(normalize(reference) in normalize(prediction))


def best(measure, prediction: str, references: Sequence[str]) -> float:
    """The largest value of `measure` over the accepted references."""
    return max(measure(prediction, reference) for reference in references)
