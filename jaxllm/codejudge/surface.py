"""Similarity of a candidate program to a reference program, from their texts: BLEU, ROUGE-L and chrF.

Definitions of the baselines of 2410.02184, those of `codegen-metrics` ("Out of the BLEU", 2208.03133). A score is in
0..1, and 0 where one of the texts is empty. Texts are compared, nothing is parsed or run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from jaxllm.errors import UserError

_SEPARATE = re.compile(r"([^A-Za-z0-9_])")
_CAMEL_CASE = re.compile(r"([a-z])([A-Z])")
_QUOTES = str.maketrans("\"'", "``")


def code_tokens(text: str) -> list[str]:
    """Splits the text of a program into tokens, without a grammar.

    A character outside `A-Z a-z 0-9 _` is a token of its own, names are split where upper case follows lower case, and
    white space only separates. Double and single quotes become back-ticks: the three are one token.
    """
    return _CAMEL_CASE.sub(r"\1 \2", _SEPARATE.sub(r" \1 ", text)).translate(_QUOTES).split()


class _CodeTokenizer:
    """The tokenizer of `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        return code_tokens(text)


def bleu(candidate: str, reference: str) -> float:
    """Computes sentence BLEU over code tokens: n up to 4, brevity penalty, exponential smoothing, effective order.

    Raises:
        UserError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise _missing("sacrebleu") from None
    metric = BLEU(tokenize="none", smooth_method="exp", max_ngram_order=4, effective_order=True)
    score = metric.sentence_score(" ".join(code_tokens(candidate)), [" ".join(code_tokens(reference))]).score
    return min(1.0, score / 100)  # that of equal texts exceeds 100 by rounding


def rouge_l(candidate: str, reference: str) -> float:
    """Computes the F1 of the longest common subsequence of code tokens, in time of the product of their numbers.

    Raises:
        UserError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise _missing("rouge-score") from None
    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_CodeTokenizer())
    return float(scorer.score(reference, candidate)["rougeL"].fmeasure)


def chrf(candidate: str, reference: str) -> float:
    """Computes chrF: F2 of character n-grams, n from 1 to 6, without white space, from average precision and recall.

    Averages are over the orders for which both texts have n-grams.

    Raises:
        UserError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        raise _missing("sacrebleu") from None
    return CHRF(char_order=6, word_order=0, beta=2).sentence_score(candidate, [reference]).score / 100


METRICS: Mapping[str, Callable[[str, str], float]] = MappingProxyType({"bleu": bleu, "rouge_l": rouge_l, "chrf": chrf})
"""Name -> score of (candidate, reference) in 0..1."""


def surface_scores(candidates: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Computes all surface metrics of candidates against their references.

    Args:
        candidates: programs; the published values compare bodies, without the declaration.
        references: the reference of every candidate, in the same order.

    Returns:
        Name of the metric -> scores in 0..1, in the order of the candidates.

    Raises:
        UserError: sacrebleu or rouge-score is not installed.
        ValueError: the numbers of candidates and references differ.
    """
    pairs = list(zip(candidates, references, strict=True))
    return {name: [metric(*pair) for pair in pairs] for name, metric in METRICS.items()}


def _missing(library: str) -> UserError:
    return UserError(f"{library}, a library for surface metrics, is not installed", "surface metrics",
                     "pip install 'jaxllm[surface]'")
