"""Grade-school arithmetic (GSM8K, 2110.14168): the final number of a solution, compared with the right one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from jaxllm.text.thinking import without_thinking

# The pattern of lm-evaluation-harness's flexible extraction, and the one of the original repository.
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
STOP_TEXT = "Question:"
_QUESTION = re.compile(rf"^\W*{STOP_TEXT}", re.MULTILINE)
"""A model that runs on invents another question; what follows is not part of its answer."""


def final_number(solution: str, *, strict: bool = False) -> Decimal | None:
    """Extracts the answer of a solution.

    Without `strict` it is the last number in the text before the first line that begins with `Question:` after words:
    a solution may begin with the question. Matches of the usual pattern that are no numbers, such as `...`, `$.` or
    `1.2.3`, are passed over; the pattern read to the letter would find no number in `\\boxed{18}$.`.

    Args:
        solution: a solution.
        strict: the number after the first `#### `, the mark of the data set's own solutions.

    Returns:
        The number without commas, dollar signs and final dots; None where there is none.
    """
    own = next((part for part in _QUESTION.split(solution) if re.search(r"\w", part)), "")
    found = _STRICT.findall(own)[:1] if strict else reversed(_FLEXIBLE.findall(own))
    return next((number for text in found if (number := _number(text)) is not None), None)


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[,$]", "", text).rstrip("."))
    except InvalidOperation:
        return None


def is_right(solution: str, answer: str, *, strict: bool = False) -> bool:
    """Compares the final number of a solution with that of a data set's answer, exactly, as decimals: 72.0 is 72.

    Thinking at the start of a solution, with its opening tag, does not count; one that ends within it has no number.

    Args:
        solution, strict: see `final_number`.
        answer: a worked solution with its number after `#### `, or the number alone.

    Raises:
        ValueError: the answer has no number.
    """
    right = final_number(answer, strict="#### " in answer)
    if right is None:
        raise ValueError(f"the answer has no number: {answer[-60:]!r}")
    own = without_thinking(solution)
    return own is not None and final_number(own, strict=strict) == right
