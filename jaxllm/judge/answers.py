"""Parsers of answers that all methods of judging share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxllm.judge.job import Invalid
from jaxllm.judge.protocol import normalized

_OPEN = re.compile(r"\s*<(think|thinking|reasoning|reason)>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<(/?)(?:think|thinking|reasoning|reason)>", re.IGNORECASE)
_MARKS = re.compile(r"\\boxed|[*_`\"'#>(){}\[\].,;:!$]+")

_NOUNS = ("answer", "verdict", "option", "choice")


def without_thinking(text: str) -> str | Invalid:
    """Removes the thinking with which a reasoning model begins its answer.

    The opening tag may be part of the prompt, so that the answer has only the closing one.
    """
    opened = _OPEN.match(text)
    if opened is None:
        tags = list(_ANY_TAG.finditer(text))
        return text[tags[-1].end():] if tags and all(tag[1] for tag in tags) else text
    closed = re.compile(f"</{opened[1]}>", re.IGNORECASE).search(text, opened.end())
    return Invalid("it ends within its thinking") if closed is None else text[closed.end():]


def last_line_option(text: str, options: Sequence[str], nouns: Sequence[str] = ()) -> str | Invalid:
    """Parses the option that is alone on the last line, such as `A`, `**(A)**` or `Answer: A`.

    Args:
        text: the answer; the thinking of a reasoning model does not count.
        options: the options.
        nouns: words that may precede an option, such as "summary" in "Summary A"; "answer" and "verdict" may.
    """
    own = without_thinking(text)
    if isinstance(own, Invalid):
        return own
    last = next((words for line in reversed(own.splitlines()) if (words := _words(line))), [])
    for option in options:
        spelled = _words(option)
        if last[-len(spelled):] == spelled and _before(nouns).issuperset(last[:-len(spelled)]):
            return option
    return Invalid(f"its last line is none of {', '.join(options)}" if len(options) > 2 else
                   f"its last line is neither {options[0]} nor {options[1]}")


def short_option(text: str, options: Sequence[str], nouns: Sequence[str] = ()) -> str | Invalid:
    """Parses the option of a short answer: alone on its last line, or at its start, such as `A: it is` or `Summary A is
    better`. An answer that begins with one option and ends with another is invalid.

    Args:
        text, options, nouns: as in `last_line_option`.
    """
    own = without_thinking(text)
    if isinstance(own, Invalid):
        return own
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
        if named or re.match(rf"(?:\w+\W+){{{start}}}{re.escape(option)}\s*(?:$|[^\w\s])", rest, re.IGNORECASE):
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
