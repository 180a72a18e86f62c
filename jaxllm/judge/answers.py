"""Parsers of answers that all methods of judging share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxllm.judge.job import Invalid
from jaxllm.judge.protocol import normalized

_OPEN = re.compile(r"\s*<(think|thinking|reasoning|reason)>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<(/?)(?:think|thinking|reasoning|reason)>", re.IGNORECASE)
_MARKS = re.compile(r"\\\\?boxed|[*_`\"'#>(){}\[\].,;:!]+")


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
    words_of = lambda line: normalized(_MARKS.sub(" ", line)).split()
    last = next((words for line in reversed(own.splitlines()) if (words := words_of(line))), [])
    before = {normalized(word) for word in ("the", "final", "answer", "verdict", "is", *nouns)}
    for option in options:
        spelled = words_of(option)
        if last[-len(spelled):] == spelled and before.issuperset(last[:-len(spelled)]):
            return option
    return Invalid(f"its last line is none of {', '.join(options)}" if len(options) > 2 else
                   f"its last line is neither {options[0]} nor {options[1]}")
