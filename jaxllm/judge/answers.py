"""Parsers of answers that all methods of judging share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxllm.judge.job import Invalid
from jaxllm.judge.protocol import normalized
from jaxllm.text.thinking import without_thinking

UNFINISHED = Invalid("it ends within its thinking")
_MARKS = re.compile(r"\\boxed|[*_`\"'#>(){}\[\].,;:!$]+")
# Words that reject the option before them.
_REJECTED = re.compile(r"[\s*_`)]*(?:(?:is|was|seems|looks|does|has|did|would|could|can)\s*)?(?:\w+ly\s+)?"
                       r"(?:n['\u2019]?t|not|never|wrong|incorrect|worse|weaker|faulty|buggy|broken|fails?)\b",
                       re.IGNORECASE)
_NOUNS = ("answer", "verdict", "option", "choice")


def last_line_option(text: str, options: Sequence[str], nouns: Sequence[str] = ()) -> str | Invalid:
    """Parses the option that is alone on the last line, such as `A`, `**(A)**` or `Answer: A`.

    Args:
        text: the answer; the thinking of a reasoning model does not count.
        options: the options.
        nouns: words that may precede an option, such as "summary" in "Summary A"; "answer" and "verdict" may.
    """
    if (own := without_thinking(text)) is None:
        return UNFINISHED
    last = next((words for line in reversed(own.splitlines()) if (words := _words(line))), [])
    for option in options:
        spelled = _words(option)
        if last[-len(spelled):] == spelled and _before(nouns).issuperset(last[:-len(spelled)]):
            return option
    return Invalid(f"its last line is none of {', '.join(options)}" if len(options) > 2 else
                   f"its last line is neither {options[0]} nor {options[1]}")


def short_option(text: str, options: Sequence[str], nouns: Sequence[str] = ()) -> str | Invalid:
    """Parses the option of a short answer: alone on its last line, or at its start, such as `A: it is` or `Summary A is
    better`. An answer that begins with one option and ends with another, or rejects it (`A is wrong`), is invalid.

    Args:
        text, options, nouns: as in `last_line_option`.
    """
    if (own := without_thinking(text)) is None:
        return UNFINISHED
    found = [last_line_option(own, options, nouns)]
    first = next((line for line in own.splitlines() if _words(line)), "")
    for option in options:
        spelled, words = _words(option), _words(first)
        start = next((i for i, word in enumerate(words) if word not in _before(nouns)), len(words))
        if words[start:start + len(spelled)] != spelled:
            continue
        # "A good one" is no answer, "A." and "Summary A is" are.
        rest = re.sub(r"^[^\w]*", "", first, count=1)
        named = any(normalized(noun) in words[:start] for noun in (*nouns, *_NOUNS))
        shown = re.match(rf"(?:\w+\W+){{{start}}}{re.escape(option)}(?!\w)", rest, re.IGNORECASE)
        if shown and _REJECTED.match(rest, shown.end()):
            return Invalid(f"it rejects {option}")
        if named or shown and re.match(r"\s*(?:$|[^\w\s])", rest[shown.end():]):
            found.append(option)
    valid = {one for one in found if isinstance(one, str)}
    if len(valid) == 1:
        return valid.pop()
    return Invalid("it names several options") if valid else found[0]


def _words(line: str) -> list[str]:
    return normalized(_MARKS.sub(" ", line)).split()


def _before(nouns: Sequence[str]) -> set[str]:
    """Words that may precede an option."""
    return {normalized(word) for word in ("the", "final", "is", *_NOUNS, *nouns)}
