"""Sentences of a text, and the phrases in them that can be the answer to a question.

Phrases are names, numbers, and runs of words between function words and punctuation, as keywords are in RAKE (Rose et
al. 2010). Function words are English; in other languages phrases are names, numbers and short clauses.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from jaxllm.evaluate.qa import normalize

T = TypeVar("T")

FUNCTION_WORDS = frozenset("""
a about after all also an and any are as at be because been before being but by can could did do does done during each
for from had has have he her here him his how i if in into is it its ll many may me might more most much must my no
not of on or our re s she should so some t than that the their them then there these they this those to too up us ve
was we were what when where which while who whom why will with would you your""".split())
"""Words of English questions and sentences that are about nothing; in other languages every word counts."""

# A longer run of words is no phrase, and a shorter part of a phrase is none of its own.
PHRASE_WORDS, PART_LETTERS = 5, 3

MARKS = "\u200c\u200d" + "".join(
    char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char).startswith("M"))
"""Vowel signs, accents and joiners, which are parts of words, and which \\w of `re` does not have."""

# The full stops and question marks of Hindi, Urdu and Arabic are among the ends of sentences.
_BORDER = re.compile(r"(?<=[.!?।॥۔؟])\s+|(?<=[.!?][\"'”’)\]])\s+|(?<=[。！？])|\n+")
_NUMBER = r"\d+(?:[.,:/-]\d+)*%?"
_NAME = rf"[A-Z][\w{MARKS}'’–-]*(?: (?:(?:of|the|de|von|van|and) )?[A-Z][\w{MARKS}'’–-]*)*"
_SPAN = re.compile(rf"(?<![\w{MARKS}])(?:{_NUMBER}|{_NAME})(?![\w{MARKS}])")
_LONG_WORD = re.compile(rf"(?<![\w{MARKS}])(?:[^\W\d_][{MARKS}]*){{7,}}(?![\w{MARKS}])")
# With a capital letter too; May and Will are names, and so is US.
_FUNCTION_WORDS = FUNCTION_WORDS | {word.capitalize() for word in FUNCTION_WORDS} - {"May", "Will"}
_WORD = re.compile(rf"{_NUMBER}|\w[\w{MARKS}]*(?:['’.–-]\w[\w{MARKS}]*)*")


def sentences(text: str) -> list[str]:
    """Splits a text at the ends of sentences and at line breaks; abbreviations are split too."""
    return [sentence for part in _BORDER.split(text) if (sentence := part.strip())]


def names_and_numbers(sentence: str) -> list[re.Match[str]]:
    """Finds the numbers and the words with a capital letter in a sentence, but for its first word and single function
    words."""
    return [match for match in _SPAN.finditer(sentence) if match.start() > 0 and match[0] not in _FUNCTION_WORDS]


def long_words(sentence: str) -> list[re.Match[str]]:
    """Finds the words of seven letters or more in a sentence, the longest first."""
    return sorted(_LONG_WORD.finditer(sentence), key=lambda match: -len(match[0]))


def in_turns(lists: Iterable[Sequence[T]]) -> Iterator[list[T]]:
    """Yields the first items of all lists, then the second ones, and so on; shorter lists have none any more."""
    for number in range(max(map(len, lists := list(lists)), default=0)):
        yield [own[number] for own in lists if number < len(own)]


def spread(turns: Iterable[Sequence[T]], limit: int) -> list[T]:
    """Takes whole turns until the next exceeds the limit, and of that one an even selection."""
    taken: list[T] = []
    for turn in turns:
        left = min(limit - len(taken), len(turn))
        taken += (turn[number * len(turn) // left] for number in range(left))
    return taken


def answer_phrases(text: str, limit: int = sys.maxsize) -> list[str]:
    """Collects phrases of a text, the first of every sentence before the second of any; see `spread`.

    Of a sentence, names, numbers and phrases of several words come first, in its order; then single words, the longest
    first. A phrase that is an earlier one but for case, punctuation and articles is left out.
    """
    seen: set[str] = set()
    turns: list[list[str]] = []
    for turn in in_turns(map(_of_sentence, sentences(text))):
        turns.append([])
        for phrase in turn:
            if (key := normalize(phrase)) not in seen:
                turns[-1].append(phrase)
                seen.add(key)
    return spread(turns, limit)


def _of_sentence(sentence: str) -> list[str]:
    runs: list[list[re.Match[str]]] = [[]]
    for word in _WORD.finditer(sentence):
        if runs[-1] and sentence[runs[-1][-1].end():word.start()].strip():
            runs.append([])  # punctuation
        if word[0] in _FUNCTION_WORDS:
            runs.append([])
        else:
            runs[-1].append(word)
    whole = {(run[0].start(), run[-1].end()) for run in runs if 0 < len(run) <= PHRASE_WORDS}
    inside = lambda start, end: any(first <= start and end <= last for first, last in whole)
    spans = {span for span in (match.span() for match in names_and_numbers(sentence))
             if span[1] - span[0] >= PART_LETTERS or not inside(*span)}
    several = {span for span in whole if " " in sentence[slice(*span)]}
    single = sorted((sentence[slice(*span)] for span in whole - several - spans), key=lambda word: (-len(word), word))
    return [sentence[slice(*span)] for span in sorted(spans | several)] + single
