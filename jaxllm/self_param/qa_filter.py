"""Which QA pairs of a passage are worth training on, and why the others are not.

A pair is checked in the order of `REASONS`. The last checks ask the model itself, by the log-probabilities that it
gives the tokens with the passage in its prompt and without it, in nats (pointwise mutual information):

    question gain = sum_t [log p(q_t | passage, q_<t) - log p(q_t | q_<t)]
    answer gain   = sum_t [log p(a_t | passage, q, a_<t) - log p(a_t | q, a_<t)]

over the tokens of the question and of the answer alone, without label, template and end of the turn. A question that
fits any text has a small question gain; log N nats separate the passage from N others. An answer that the model would
give without the passage has a small answer gain. Both are sums, so long texts have larger ones. Neither is a test of
what is right: a sentence copied from the passage has a large answer gain as the answer to any question.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxllm.evaluate.qa import normalize
from jaxllm.generate import Generator
from jaxllm.self_param.cloze import is_cloze
from jaxllm.self_param.config import QAPairConfig
from jaxllm.self_param.data import Document
from jaxllm.self_param.phrases import FUNCTION_WORDS, MARKS, in_turns, sentences, spread
from jaxllm.self_param.prompts import Prompts

Reason = Literal["cut", "duplicate", "too_long", "unspecific", "cut_answer", "short_answer", "ungrounded",
                 "unanswerable", "repeated", "surplus"]
REASONS: dict[Reason, str] = {
    "cut": "the question is cut at qa_pairs.max_tokens",
    "duplicate": "empty, or an earlier question is the same but for case, punctuation and articles",
    "too_long": "the context window does not hold the passage with the pair",
    "unspecific": "question gain below qa_pairs.question_gain: it fits any text",
    "cut_answer": "no answer, or one that is cut: at sampling.max_tokens, if the passage has others, or at the end of "
                  "a judge's reply",
    "short_answer": "fewer letters and digits in the answer than qa_pairs.min_answer",
    "ungrounded": "a word of the answer is not in the passage, or not next to the others (qa_pairs.grounded)",
    "unanswerable": "answer gain below qa_pairs.answer_gain: the model gives the answer without the passage",
    "repeated": "more pairs with this answer than qa_pairs.per_answer",
    "surplus": "more pairs than qa_pairs.per_document; sentences without a pair come first"}
"""Reasons to drop a pair, in the order of the checks."""


# Scripts without spaces: Thai to Myanmar, Khmer, kana, and Han. Each of their characters is a word of its own.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_UNSPACED}]|(?:[^\W{_UNSPACED}][{MARKS}]*)+")
_ARTICLES = {"a", "an", "the"}


class QAPair(NamedTuple):
    """A question and the answer to train on."""

    question: str
    answer: str


@dataclass
class PassagePairs:
    """QA pairs of one passage.

    Attributes:
        selected: pairs to train on.
        dropped: the others, each with its reason; a question that was dropped before it was answered has the phrase
            that it was written for, or "", as its answer.
        answer_tokens: tokens of the answers, those of dropped pairs included, that the open-book and the closed-book
            model wrote; None where answers are not mixed (qa_pairs.closed_book_share).
    """

    selected: list[QAPair]
    dropped: list[tuple[QAPair, Reason]] = field(default_factory=list)
    answer_tokens: tuple[int, int] | None = None

    def drop(self, reason: Reason, bad: Sequence[bool]) -> None:
        """Drops the selected pairs for which `bad` is true."""
        self.dropped += [(pair, reason) for pair, out in zip(self.selected, bad, strict=True) if out]
        self.selected = [pair for pair, out in zip(self.selected, bad, strict=True) if not out]

    def add(self, other: PassagePairs) -> None:
        """Adds the pairs of another source."""
        self.selected += other.selected
        self.dropped += other.dropped

    def drop_duplicates(self) -> None:
        """Drops questions without a letter, and those that repeat one up to case, punctuation and articles."""
        seen: set[str] = set()
        bad = []
        for question, _ in self.selected:
            key = normalize(question)
            bad.append(key in seen or not any(map(str.isalnum, key)))
            seen.add(key)
        self.drop("duplicate", bad)


def drop_unusable(text: str, pairs: PassagePairs, config: QAPairConfig) -> None:
    """Drops pairs with a short answer and, with qa_pairs.grounded, with one that is not a part of the text."""
    pairs.drop("short_answer", [not is_long_enough(answer, config) for _, answer in pairs.selected])
    if config.grounded:
        pairs.drop("ungrounded", [not _is_grounded(text, answer) for _, answer in pairs.selected])


def is_long_enough(answer: str, config: QAPairConfig) -> bool:
    """Whether an answer has the letters and digits of qa_pairs.min_answer."""
    return sum(letter.isalnum() for letter in answer) >= config.min_answer


def _words(text: str) -> list[str]:
    """Splits a text into lower-case words and numbers, and what has no spaces into characters."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _is_grounded(text: str, answer: str) -> bool:
    """Whether the words of the answer occur in the text one after the other; articles are left out of both."""
    own, wanted = ([word for word in _words(one) if word not in _ARTICLES] for one in (text, answer))
    if not wanted:
        own, wanted = _words(text), _words(answer)
    return any(own[start:start + len(wanted)] == wanted for start in range(len(own) - len(wanted) + 1))


def drop_repeated(pairs: PassagePairs, limit: int) -> None:
    """Keeps the first `limit` pairs with each answer; case, punctuation and articles make no difference."""
    count: collections.Counter[str] = collections.Counter()
    bad = []
    for _, answer in pairs.selected:
        key = normalize(answer)
        count[key] += 1
        bad.append(count[key] > limit)
    pairs.drop("repeated", bad)


def drop_surplus(text: str, pairs: PassagePairs, limit: int) -> None:
    """Keeps `limit` pairs: the first of every sentence before the second of any, those about none last; see
    `phrases.spread`."""
    if len(pairs.selected) <= limit:
        return
    by_sentence, about_none = collections.defaultdict[int, list[int]](list), list[int]()
    for number, sentence in enumerate(sentences_of(text, pairs.selected)):
        (about_none if sentence is None else by_sentence[sentence]).append(number)
    turns = in_turns(by_sentence[sentence] for sentence in sorted(by_sentence))
    chosen = set(spread([*turns, about_none], limit))
    pairs.drop("surplus", [number not in chosen for number in range(len(pairs.selected))])


def sentences_of(text: str, pairs: Sequence[QAPair]) -> list[int | None]:
    """Finds the sentence that each pair is most likely about, as an index into `phrases.sentences`.

    None where that sentence has neither the answer nor a word of the question, function words aside.
    """
    own = sentences(text)
    if not own:  # a chunk of blanks
        return [None] * len(pairs)
    document = Document(text, chunks=tuple(own))
    nearest = [document.nearest_passage(*pair) for pair in pairs]
    return [number if _is_about(own[number], *pair) else None for number, pair in zip(nearest, pairs, strict=True)]


def _is_about(sentence: str, question: str, answer: str) -> bool:
    content = lambda text: {*_words(text)} - FUNCTION_WORDS
    return bool(content(question) & content(sentence)) or bool(content(answer)) and _is_grounded(sentence, answer)


def coverage(text: str, pairs: Sequence[QAPair]) -> float:
    """Computes the share of a text's sentences that at least one pair is about."""
    return len({*sentences_of(text, pairs)} - {None}) / max(len(sentences(text)), 1)


def summarize_pairs(passages: Sequence[str], pairs: Sequence[PassagePairs]) -> dict[str, Any]:
    """Counts the pairs of a run.

    Args:
        passages: texts.
        pairs: pairs of each.

    Returns:
        `generated`, pairs of the source that are not cloze pairs, and `cloze`, those that are; of both, `selected` and
        `dropped` by reason; `coverage`, the mean share of a passage's sentences that a selected pair is about which is
        no cloze pair; and of mixed answers `answer_tokens`, from the `open_book` and the `closed_book` model.
    """
    reasons = collections.Counter(reason for own in pairs for _, reason in own.dropped)
    selected = [pair for own in pairs for pair in own.selected]
    made = [*selected, *(pair for own in pairs for pair, _ in own.dropped)]
    cloze = sum(is_cloze(question) for question, _ in made)
    covered = [coverage(text, [pair for pair in own.selected if not is_cloze(pair.question)])
               for text, own in zip(passages, pairs, strict=True)]
    tokens = [own.answer_tokens for own in pairs if own.answer_tokens is not None]
    return {"generated": len(made) - cloze, "cloze": cloze, "selected": len(selected),
            "dropped": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
            "coverage": float(np.mean(covered))} | (
        {"answer_tokens": _by_book([sum(own) for own in zip(*tokens, strict=True)])} if tokens else {})


def _by_book(tokens: Sequence[int]) -> dict[str, int]:
    return dict(zip(("open_book", "closed_book"), tokens, strict=True))


def question_gains(generator: Generator, prompts: Prompts, text: str, questions: Sequence[str]) -> list[float]:
    """Computes the question gain of each question about a text; see the module."""
    return _gains(generator, [prompts.question_views(question, text) for question in questions])


def answer_gains(generator: Generator, prompts: Prompts, text: str, pairs: Sequence[QAPair]) -> list[float]:
    """Computes the answer gain of each pair about a text; see the module."""
    return _gains(generator, [prompts.answer_views(*pair, text) for pair in pairs])


View = tuple[Sequence[int], int]


def _gains(generator: Generator, views: Sequence[tuple[View, View]]) -> list[float]:
    """Sums the differences of the log-probabilities of the last tokens of two sequences, the second less the first.

    Args:
        generator: the model.
        views: `(ids, start)` without the passage and with it; the tokens from `start` on are compared, as many as the
            shorter view has.
    """
    scores = generator.score([(ids[:start], ids[start:]) for pair in views for ids, start in pair])
    gains = []
    for without, given in zip(scores[::2], scores[1::2], strict=True):
        tokens = min(without.tokens, given.tokens)
        gains.append(float(np.sum(given.logprobs[-tokens:] - without.logprobs[-tokens:])))
    return gains


def as_row(pairs: PassagePairs) -> dict[str, Any]:
    """Returns a row of pairs.jsonl."""
    return {"pairs": [pair._asdict() for pair in pairs.selected],
            "dropped": [pair._asdict() | {"reason": reason} for pair, reason in pairs.dropped]} | (
        {} if pairs.answer_tokens is None else {"answer_tokens": _by_book(pairs.answer_tokens)})


def of_row(row: Mapping[str, Any]) -> PassagePairs:
    """Reads a row of pairs.jsonl."""
    tokens = row.get("answer_tokens")
    return PassagePairs([QAPair(own["question"], own["answer"]) for own in row["pairs"]],
                        [(QAPair(own["question"], own["answer"]), own["reason"]) for own in row["dropped"]],
                        tokens and (tokens["open_book"], tokens["closed_book"]))
