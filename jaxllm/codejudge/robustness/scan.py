"""Code, strings and comments of a program, and the tokens of its code, for five languages."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

LANGUAGES = ("python", "cpp", "java", "js", "go")


class Span(NamedTuple):
    """A part of a program.

    Attributes:
        kind: code, string (with its quotes and prefix; also characters and regular expressions) or comment.
        start, end: positions in characters.
        closed: False for a string or comment of several lines that the text ends in.
    """

    kind: Literal["code", "string", "comment"]
    start: int
    end: int
    closed: bool = True


def _grammar(*alternatives: str) -> re.Pattern:
    return re.compile("|".join(alternatives), re.DOTALL)


_QUOTED = r"""(?:"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)"""
_LINE, _BLOCK = r"(?P<comment>//[^\n]*|/\*.*?\*/)", r"(?P<open_comment>/\*.*)"
_PYTHON_PREFIX = r"(?:(?<!\w)[rRbBuUfF]{1,2})?"
_PYTHON_TRIPLE = r'''(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\')'''
_CPP_PREFIX = r"(?:(?<!\w)(?:u8|[uUL]))?"
_CPP_RAW = r"""(?:(?<!\w)(?:u8|[uUL])?R"(?P<{0}>[^()\\\s]{{0,16}})\()"""
_GRAMMARS = {
    "python": _grammar(r"(?P<comment>\#[^\n]*)", rf"(?P<string>{_PYTHON_PREFIX}{_PYTHON_TRIPLE})",
                       rf'''(?P<open_string>{_PYTHON_PREFIX}(?:"""|\'\'\').*)''',
                       rf"(?P<line_string>{_PYTHON_PREFIX}{_QUOTED})"),
    # The apostrophes of 1'000 belong to a number, and a backslash continues the comment of a line.
    "cpp": _grammar(r"(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)", _BLOCK, r"(?P<skip>(?<!\w)\d(?:'?[\w.])*)",
                    rf'(?P<string>{_CPP_RAW.format("delimiter")}.*?\)(?P=delimiter)")',
                    rf'(?P<open_string>{_CPP_RAW.format("other")}.*)', rf"(?P<line_string>{_CPP_PREFIX}{_QUOTED})"),
    "java": _grammar(_LINE, _BLOCK, r'(?P<string>"""(?:\\.|[^\\])*?""")', r'(?P<open_string>""".*)',
                     rf"(?P<line_string>{_QUOTED})"),
    "js": _grammar(_LINE, _BLOCK, rf"(?P<line_string>{_QUOTED})", r"(?P<template>`)", r"(?P<brace>[{}])",
                   r"(?P<regex>/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+/\w*)"),
    "go": _grammar(_LINE, _BLOCK, r"(?P<string>`[^`]*`)", r"(?P<open_string>`.*)", rf"(?P<line_string>{_QUOTED})"),
}
_NOT_BLANK = re.compile(r"\S+")
_TEMPLATE = re.compile(r"(?:\\.|\$(?!\{)|[^`\\$])*(?P<end>`|\$\{)?", re.DOTALL)
_BEFORE_REGEX = set("return typeof case in of delete void throw new else do instanceof yield await".split())


def scan(text: str, language: str) -> list[Span]:
    """Splits a program into spans of code, strings and comments, without gaps.

    The code inside a template literal of JavaScript is code; that inside an f-string of Python is part of the string.

    Args:
        text: program, which need not be right or complete.
        language: one of `LANGUAGES`.
    """
    grammar = _GRAMMARS[language]
    spans: list[Span] = []
    depths: list[int] = []  # braces open inside each template's expression
    start = position = 0

    def add(kind: Literal["code", "string", "comment"], end: int, closed: bool = True) -> None:
        nonlocal start
        if end > start:
            spans.append(Span(kind, start, end, closed))
        start = end

    def template(begin: int) -> int:
        match = _TEMPLATE.match(text, begin)
        assert match is not None  # it matches the empty text
        if match["end"] == "${":
            depths.append(0)
        add("string", match.end(), match["end"] is not None)
        return match.end()

    while match := grammar.search(text, position):
        kind, position = str(match.lastgroup), match.end()
        if kind == "regex" and not _regex_may_start(text, spans, start, match.start()):
            position = match.start() + 1
        elif kind == "brace":
            if depths and match[0] == "{":
                depths[-1] += 1
            elif depths and depths[-1]:
                depths[-1] -= 1
            elif depths:  # the end of a template's expression
                depths.pop()
                add("code", match.start())
                position = template(position)
        elif kind == "template":
            add("code", match.start())
            position = template(position)
        elif kind != "skip":
            add("code", match.start())
            add("comment" if kind.endswith("comment") else "string", position, not kind.startswith("open"))
    add("code", len(text))
    return spans


def _regex_may_start(text: str, spans: Sequence[Span], start: int, position: int) -> bool:
    """Returns whether a slash of JavaScript starts a regular expression: no value precedes it."""
    code = (span for span in reversed(spans) if span.kind != "comment")
    for begin, end in itertools.chain([(start, position)], ((span.start, span.end) for span in code)):
        while end > begin and text[end - 1].isspace():
            end -= 1
        if end > begin:
            before = text[max(begin, end - len("instanceof") - 1):end]
            word = re.search(r"[\w$]+$", before)
            return word[0] in _BEFORE_REGEX if word else before[-1] not in ")]}\"'`"
    return True


def blanked(text: str, language: str) -> str:
    """Returns a program of the same length with blanks in the stead of strings and comments."""
    return "".join(text[span.start:span.end] if span.kind == "code"
                   else re.sub(r"[^\n]", " ", text[span.start:span.end]) for span in scan(text, language))


def code_lines(text: str, language: str) -> list[int]:
    """Returns the positions at which the lines that have code or strings start."""
    return sorted({text.rfind("\n", 0, hit.start()) + 1 for span in scan(text, language) if span.kind != "comment"
                   for hit in _NOT_BLANK.finditer(text, span.start, span.end)})


def indentation_at(text: str, position: int) -> str:
    """Returns the blanks with which the line at a position starts."""
    return text[position:len(text) - len(text[position:].lstrip(" \t"))]


# --- Tokens of the code.


class _Token(NamedTuple):
    text: str
    start: int
    word: bool


_TOKEN = re.compile(r"(?P<word>(?!\d)[\w$]+)|\d\w*(?:\.\d\w*)?|\.\.\.|\?\.|::|->|:=|=>|===|!==|[-+*/%&|^<>=!]=|&&|\|\|"
                    r"|\+\+|--|<<|\n|\S")
WORD = re.compile(r"(?!\d)[\w$]+")
_STRING = '"'
OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}


class Code:
    """Tokens of a program's code, with its brackets; a string is one token, comments and ends of lines are none."""

    def __init__(self, text: str, language: str, newlines: bool = False):
        self.language, self.text, self.spans = language, text, scan(text, language)
        self.tokens = [token for token in self._read() if newlines or token.text != "\n"]
        self.pairs: dict[int, int] = {}  # index of a bracket -> index of its partner
        self.enclosing: list[int | None] = []  # index of the innermost open bracket around every token
        stack: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.text in CLOSE and stack and OPEN[self[stack[-1]]] == token.text:
                self.pairs[index] = stack.pop()
                self.pairs[self.pairs[index]] = index
            self.enclosing.append(stack[-1] if stack else None)
            if token.text in OPEN:
                stack.append(index)
        self.unclosed = stack

    def _read(self) -> Iterator[_Token]:
        for span in self.spans:
            if span.kind == "string":
                yield _Token(_STRING, span.start, False)
            elif span.kind == "code":
                for match in _TOKEN.finditer(self.text, span.start, span.end):
                    yield _Token(match[0], match.start(), match["word"] is not None)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> str:
        """Returns the text of a token, and the empty text outside the program."""
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def is_word(self, index: int) -> bool:
        return 0 <= index < len(self.tokens) and self.tokens[index].word

    def is_member(self, index: int) -> bool:
        """Returns whether a word is an attribute or in a namespace."""
        return self[index - 1] in {"cpp": (".", "->", "::"), "java": (".", "::")}.get(self.language, (".", "?."))

    def words(self, indices: Iterator[int] | Sequence[int] | range) -> set[str]:
        return {self[index] for index in indices if self.is_word(index)}

    def strings(self, prefix: str = "") -> str:
        """Returns the strings with one of the given letters in their prefix; all strings by default."""
        texts = [self.text[span.start:span.end] for span in self.spans if span.kind == "string"]
        return " ".join(text for text in texts
                        if not prefix or set(re.split("[\"']", text, maxsplit=1)[0].lower()) & set(prefix))
