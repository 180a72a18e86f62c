"""Parsing of the titles that a reply lists.

The paper's evaluation (SELF-PARAM, 2410.00487, after 2308.10053) takes everything after the first "1." line by line, so
that closing words, blank lines and repeated titles count as items. Here only the list counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxllm.text.thinking import without_thinking

_PARENTHESES = re.compile(r"\([^()]*\)")
_NUMBER = re.compile(r"^\d+\s*[.)]?\s*-?\s*")
# Indent, marks such as ** before the number, number or bullet, and text.
_ITEM = re.compile(r"""^(\s*)(?:#+\s*)?([*_"“`]*)\s*(\d+\s*[.):]|(?<!\*)[-•]|(?<!\*)\*(?=\s))\s*(\S.*)$""")
# A title in marks, and nothing but a description after it.
_MARKED = re.compile(r"""^(?:\*+|_+|["“`])(?=[^*_"“`])(.+?)(?:\*+|_+|["”`])\s*(?:[-–—:].*)?$|"""
                     r"""^\*\*([^*]+):\*\*\s.*$""")
# Columns by which a line is deeper than the items: a description of the one above it.
_DEEPER = 2
# A description after a title: from a dash or a colon between blanks on. Other colons are part of titles.
_DESCRIPTION = re.compile(r"\s+[-–—:]\s+.*$")
_QUOTES = "\"'“”‘’*_`"


def titles_in(reply: str, most: int = 20, legacy: bool = False) -> list[str]:
    """Extracts the listed titles in order.

    A line is an item if it has a number or a bullet; the list ends at the first later line that has none. Lines that
    are indented below an item describe it, and `2001: ` is a number only in a list that begins with `1: `. A reply
    without items is split at commas and line breaks. Text in parentheses, quotation marks, descriptions after a dash
    or after a title in quotation marks or asterisks, and repeated titles are removed.

    Args:
        reply: the completion, without the prompt; thinking at its start does not count, and has no title where it does
            not end.
        most: number of titles requested; later ones do not count.
        legacy: parse as in the paper's evaluation, which has no `most`.
    """
    if legacy:
        return _legacy(reply)
    if (own := without_thinking(reply)) is None:
        return []
    items = _items(own.splitlines()) or [text.strip().removeprefix("and ") for text in re.split(r"[,\n]", own)]
    distinct: dict[str, str] = {}
    for title in filter(None, map(_title, items)):
        distinct.setdefault(title.casefold(), title)
    return list(distinct.values())[:most]


def _items(lines: Sequence[str]) -> list[str]:
    """Returns the texts of the first list, without numbers and bullets."""
    items: list[str] = []
    indent, colon = 0, False
    for line in filter(str.strip, lines):
        item = _ITEM.match(line)
        if item and item[3].endswith(":") and not (colon or not items and item[3] == "1:"):
            item = None
        if not items and item:
            indent, colon = len(item[1]), item[3].endswith(":")
        deeper = len(line) - len(line.lstrip()) >= indent + _DEEPER
        if item and not (items and deeper):
            items.append(item[2] + item[4])
        elif items and not deeper:
            break
    return items


def _title(item: str) -> str:
    """Removes what is not the title from the text of an item."""
    text = (_without_parentheses(item) or item).strip()
    if marked := _MARKED.match(text):
        text = marked[1] or marked[2]
    return _DESCRIPTION.sub("", text.strip(_QUOTES + " ")).strip(_QUOTES + " .")


def _legacy(reply: str) -> list[str]:
    _, numbered, rest = reply.partition("1.")
    text = rest if numbered else reply.replace(",", "\n")
    return [_NUMBER.sub("", _without_parentheses(line.strip())).strip() for line in text.split("\n")]


def _without_parentheses(text: str) -> str:
    return " ".join(_PARENTHESES.sub("", text).split())
