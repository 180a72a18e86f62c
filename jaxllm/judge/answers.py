"""Parsers of answers that all methods of judging share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxllm.judge.job import Invalid
from jaxllm.judge.protocol import normalized

_OPEN = re.compile(r"\s*<(think|thinking|reasoning|reason)>", re.IGNORECASE)
_CLOSING_LINE = re.compile(r"[ \t]*</(?:think|thinking|reasoning|reason)>[ \t\r]*", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_MARKS = re.compile(r"\\boxed|[*_`\"'#>(){}\[\].,;:!$]+")

# Tokens at the end of a prompt in which an opening tag of thinking is looked for.
TAG_TOKENS = 16
# Words that reject the option before them.
_REJECTED = re.compile(r"[\s*_`)]*(?:(?:is|was|seems|looks|does|has|did|would|could|can)\s*)?(?:\w+ly\s+)?"
                       r"(?:n['\u2019]?t|not|never|wrong|incorrect|worse|weaker|faulty|buggy|broken|fails?)\b",
                       re.IGNORECASE)
_NOUNS = ("answer", "verdict", "option", "choice")


def without_thinking(text: str) -> str | Invalid:
    """Removes the thinking with which a reasoning model begins its answer.

    Where the chat template writes the opening tag, the answer of a local judge has it as well, and that of a server
    only the closing one. Judged texts may spell the tag, and answers quote them: the thinking ends with the last
    closing tag that is alone on its line and in no fence of code. Without one it ends with the first closing tag after
    an opening one; an answer without an opening tag is no thinking then.
    """
    opened = _OPEN.match(text)
    rest = text[opened.end():] if opened else text
    own = _after_closing_line(rest)
    if opened is None or own != rest:
        return own
    closed = re.compile(f"</{opened[1]}>", re.IGNORECASE).search(rest)
    return Invalid("it ends within its thinking") if closed is None else rest[closed.end():]


def opening_tag(prompt: str) -> str:
    """Returns the opening tag with which a prompt ends; empty without one."""
    opened = re.search(r"<(?:think|thinking|reasoning|reason)>\s*\Z", prompt, re.IGNORECASE)
    return opened[0] if opened else ""


def _after_closing_line(text: str) -> str:
    """Returns the text after the last line that is a closing tag, in no fence; all of it without such a line."""
    start, end, in_fence = 0, 0, False
    for line in text.split("\n"):
        end += len(line) + 1
        if _FENCE.match(line):
            in_fence = not in_fence
        elif not in_fence and _CLOSING_LINE.fullmatch(line):
            start = end
    return text[start:]


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
    better`. An answer that begins with one option and ends with another, or rejects it (`A is wrong`), is invalid.

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
