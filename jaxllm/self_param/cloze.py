"""QA pairs made from a document's sentences without a model: sentence completions and cloze questions.

Every answer is a part of its sentence, word for word. A reconstruction: the paper trains on questions of a model only.
"""

from __future__ import annotations

import itertools
import re

BLANK = "____"
COMPLETION, CLOZE = "Complete the sentence: {text}", "Fill in the blank: {text}"
# Shorter sentences are headings or fragments.
SENTENCE_LETTERS = 20

_BORDER = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)\]])\s+|(?<=[。！？])|\n+")
_NUMBER = r"\d+(?:[.,:/-]\d+)*%?"
_NAME = r"[A-Z][\w'’-]*(?: (?:(?:of|the|de|von|van|and) )?[A-Z][\w'’-]*)*"
_SPAN = re.compile(rf"\b(?:{_NUMBER}|{_NAME})(?!\w)")
_LONG_WORD = re.compile(r"\b[^\W\d_]{7,}\b")


def sentences(text: str) -> list[str]:
    """Splits a text at the ends of sentences and at line breaks; abbreviations are split too."""
    return [sentence for part in _BORDER.split(text) if (sentence := part.strip())]


def cloze_pairs(text: str, limit: int) -> list[tuple[str, str]]:
    """Makes questions and answers of a text, the first of every sentence before the second of any.

    Args:
        text: document or chunk.
        limit: maximum number of pairs.

    Returns:
        (question, answer): the rest of a sentence after its first half, then its numbers and names, then its long
        words, each as the blank of the whole sentence.
    """
    own = [_of_sentence(sentence) for sentence in sentences(text)
           if sum(letter.isalnum() for letter in sentence) >= SENTENCE_LETTERS]
    turns = itertools.zip_longest(*own)
    return [pair for turn in turns for pair in turn if pair is not None][:limit]


def is_cloze(question: str) -> bool:
    """Whether a question has the form of `cloze_pairs`."""
    return question.startswith((COMPLETION.partition("{")[0], CLOZE.partition("{")[0]))


def _of_sentence(sentence: str) -> list[tuple[str, str]]:
    spans = [match for match in _SPAN.finditer(sentence) if match.start() > 0]
    words = sorted((match for match in _LONG_WORD.finditer(sentence)
                    if not any(match.start() < span.end() and span.start() < match.end() for span in spans)),
                   key=lambda match: -len(match[0]))
    blanks = [(CLOZE.format(text=sentence[:match.start()] + BLANK + sentence[match.end():]), match[0])
              for match in (*spans, *words)]
    parts = sentence.split(" ")
    if len(parts) < 4:
        return blanks
    half = len(parts) // 2
    return [(COMPLETION.format(text=" ".join(parts[:half]) + " ..."), " ".join(parts[half:])), *blanks]
