"""The titles that a reply lists.

The paper's evaluation (SELF-PARAM, 2410.00487, after 2308.10053) keeps whatever stands behind the first "1.", line by
line, which makes items of closing words, of blank lines and of a title's second mention. Here only the list counts.
"""

from __future__ import annotations

import re

_PARENTHESES = re.compile(r"\([^()]*\)")
_NUMBER = re.compile(r"^\d+\s*[.)]?\s*-?\s*")
_ITEM = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s*(\S.*)$")
# What follows a title on its line: a dash or a colon between blanks. Other colons are part of titles.
_DESCRIPTION = re.compile(r"\s+[-–—:]\s+.*$")
_QUOTES = "\"'“”‘’*_`"


def titles_in(reply: str, most: int = 20, legacy: bool = False) -> list[str]:
    """Titles in the order of a reply.

    A line is an item if it has a number or a bullet; the list ends with the first line behind it that has none. A
    reply without such lines is read as titles between commas and line breaks. Years and other words in parentheses,
    quotation marks, descriptions behind a dash, and titles that came before are left out.

    Args:
        reply: what the model said, without the prompt.
        most: titles that were asked for; later ones do not count.
        legacy: as in the paper's evaluation, which knows no `most`.
    """
    if legacy:
        return _legacy(reply)
    found: list[str] = []
    lines = reply.splitlines()
    if any(_ITEM.match(line) for line in lines):
        for line in lines:
            if item := _ITEM.match(line):
                found.append(item[1])
            elif found and line.strip():
                break
    else:
        found = re.split(r"[,\n]", reply)
    plain = (_DESCRIPTION.sub("", _without_parentheses(title).strip(_QUOTES + " ")).strip(_QUOTES + " .")
             for title in found)
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
