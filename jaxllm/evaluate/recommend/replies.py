"""Parsing of the titles that a reply lists.

The paper's evaluation (SELF-PARAM, 2410.00487, after 2308.10053) takes everything after the first "1." line by line, so
that closing words, blank lines and repeated titles count as items. Here only the list counts.
"""

from __future__ import annotations

import re

_PARENTHESES = re.compile(r"\([^()]*\)")
_NUMBER = re.compile(r"^\d+\s*[.)]?\s*-?\s*")
_ITEM = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s*(\S.*)$")
# A description after a title: from a dash or a colon between blanks on. Other colons are part of titles.
_DESCRIPTION = re.compile(r"\s+[-–—:]\s+.*$")
_QUOTES = "\"'“”‘’*_`"


def titles_in(reply: str, most: int = 20, legacy: bool = False) -> list[str]:
    """Extracts the listed titles in order.

    A line is an item if it has a number or a bullet; the list ends at the first later line that has none. A reply
    without such lines is split at commas and line breaks. Text in parentheses, quotation marks, descriptions after a
    dash, and repeated titles are removed.

    Args:
        reply: the completion, without the prompt.
        most: number of titles requested; later ones do not count.
        legacy: parse as in the paper's evaluation, which has no `most`.
    """
    if legacy:
        return _legacy(reply)
    items: list[str] = []
    lines = reply.splitlines()
    if any(_ITEM.match(line) for line in lines):
        for line in lines:
            if item := _ITEM.match(line):
                items.append(item[1])
            elif items and line.strip():
                break
    else:
        items = re.split(r"[,\n]", reply)
    plain = (_DESCRIPTION.sub("", (_without_parentheses(title) or title).strip(_QUOTES + " ")).strip(_QUOTES + " .")
             for title in items)
    distinct: dict[str, str] = {}
    for title in filter(None, plain):
        distinct.setdefault(title.casefold(), title)
    return list(distinct.values())[:most]


def _legacy(reply: str) -> list[str]:
    _, numbered, rest = reply.partition("1.")
    text = rest if numbered else reply.replace(",", "\n")
    return [_NUMBER.sub("", _without_parentheses(line.strip())).strip() for line in text.split("\n")]


def _without_parentheses(text: str) -> str:
    return " ".join(_PARENTHESES.sub("", text).split())
