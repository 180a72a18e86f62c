"""QA pairs made from a document's sentences without a model: sentence completions and cloze questions.

Every answer is a part of its sentence, word for word. A reconstruction: the paper trains on questions of a model only.
"""

from __future__ import annotations

from jaxllm.self_param.phrases import in_turns, long_words, names_and_numbers, sentences, spread

BLANK = "____"
COMPLETION, CLOZE = "Complete the sentence: {text}", "Fill in the blank: {text}"
# Shorter sentences are headings or fragments.
SENTENCE_LETTERS = 20


def cloze_pairs(text: str, limit: int) -> list[tuple[str, str]]:
    """Makes questions and answers of a text, the first of every sentence before the second of any (`phrases.spread`).

    Args:
        text: document or chunk.
        limit: maximum number of pairs.

    Returns:
        (question, answer): the rest of a sentence after its first half, then its numbers and names, then its long
        words, each as the blank of the whole sentence.
    """
    own = [_of_sentence(sentence) for sentence in sentences(text)
           if sum(letter.isalnum() for letter in sentence) >= SENTENCE_LETTERS]
    return spread(in_turns(own), limit)


def is_cloze(question: str) -> bool:
    """Whether a question has the form of `cloze_pairs`."""
    return question.startswith((COMPLETION.partition("{")[0], CLOZE.partition("{")[0]))


def _of_sentence(sentence: str) -> list[tuple[str, str]]:
    spans = names_and_numbers(sentence)
    words = [match for match in long_words(sentence)
             if not any(match.start() < span.end() and span.start() < match.end() for span in spans)]
    blanks = [(CLOZE.format(text=sentence[:match.start()] + BLANK + sentence[match.end():]), match[0])
              for match in (*spans, *words)]
    parts = sentence.split(" ")
    if len(parts) < 4:
        return blanks
    half = len(parts) // 2
    return [(COMPLETION.format(text=" ".join(parts[:half]) + " ..."), " ".join(parts[half:])), *blanks]
