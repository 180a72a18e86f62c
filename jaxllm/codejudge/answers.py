"""Parsing of a judge's answers: Yes or No, faults with severities, and grades.

`Strict` accepts an answer only if it can mean one thing; `Compat` reproduces the parser that was released with
2410.02184, its slips included: "I do not know" is No there, and unknown severities cost nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxllm.judge import Invalid

GRADES = (0, 1, 2, 3, 4)
"""Grades of ICE-Score (2304.14317): 0 is worst, 4 best."""
HELPFULNESS_TOP = 100
OTHER = "Other"
"""Kind of faults of no other kind; its name is too common a word to mean the kind."""


@dataclass(frozen=True)
class Taxonomy:
    """Kinds of faults and what they cost.

    Attributes:
        weights: severity -> points of a fault; a program has 100.
        kinds: kind of fault -> severity, for answers that name the kind alone.
        aliases: other words for severities -> severity.
    """

    weights: Mapping[str, float]
    kinds: Mapping[str, str]
    aliases: Mapping[str, str]

    def severity(self, word: str) -> str | None:
        """Returns the severity that a word names, in any case; None if it names none."""
        plain = word.strip().casefold()
        for name in self.weights:
            if name.casefold() == plain:
                return name
        return next((own for alias, own in self.aliases.items() if alias.casefold() == plain), None)

    def inferred(self, text: str) -> str | None:
        """Returns the severity of the first kind of fault that a text names, as whole words; never that of `OTHER`."""
        found = [(match.start(), own) for kind, own in self.kinds.items() if kind != OTHER
                 and (match := re.search(rf"\b{re.escape(kind)}\b", text, re.IGNORECASE))]
        return min(found)[1] if found else None


@dataclass(frozen=True)
class Fault:
    """A fault that a judge reports.

    Attributes:
        inconsistency: description.
        severity: severity of the taxonomy.
        inferred: the answer gave no severity; it is that of the kind named in the description.
    """

    inconsistency: str
    severity: str
    inferred: bool = False


def fault_score(severities: Iterable[str], weights: Mapping[str, float]) -> float:
    """Computes max(0, 100 - sum of the weights) / 100, a number from 0 to 1.

    Args:
        severities: severity of every fault; each counts, repeated ones too.
        weights: points of a fault by severity.
    """
    return max(0.0, 100.0 - sum(weights[severity] for severity in severities)) / 100.0


class Parser(Protocol):
    """Values of answers, or the reason why they have none."""

    def verdict(self, text: str) -> bool | Invalid:
        """Parses Yes or No."""

    def faults(self, text: str, taxonomy: Taxonomy, cut: bool = False) -> list[Fault] | Invalid:
        """Parses a list of faults, empty for a right program; `cut`: the token limit ended the answer."""

    def grade(self, text: str) -> int | Invalid:
        """Parses a grade from 0 to 4."""

    def helpfulness(self, text: str) -> float | Invalid:
        """Parses a number from 0 to 100, and divides it by 100."""


# ---- thinking ----------------------------------------------------------------------------------------------

_OPEN = re.compile(r"\s*<(think|thinking|reasoning|reason)>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<(/?)(?:think|thinking|reasoning|reason)>", re.IGNORECASE)


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


# ---- strict ------------------------------------------------------------------------------------------------

_WORD = re.compile(r"(?<![\w'])(yes|no)(?![\w'])", re.IGNORECASE)
# "Yes, ..." and "No. ..." decide; "No errors are left" is no verdict.
_FIRST = re.compile(r"\W*(?:(yes)(?![\w'])|(no)(?=\W*$|\s*[.,;:!*\"\u2013\u2014-]|\s+(?:the|it|this|because|since)\b))",
                    re.IGNORECASE)
_LAST = re.compile(r"(?:^|[\s\"'*:(\[{])(yes|no)\W*$", re.IGNORECASE)
# What turns a Yes or No at the end of a line into its opposite, or makes it a choice.
_HEDGED = re.compile(r"\b(?:not|never|cannot|can't|don't|doesn't|isn't|neither|nor|or|either|unsure|whether|if)\b"
                     r"|n't\b", re.IGNORECASE)
_LABELLED_WORD = re.compile(r"\b(?:answer|verdict|conclusion)(?:\s+is)?\s*:?[\s\"'*]*(yes|no)(?![\w'])", re.IGNORECASE)
# A line that begins with Yes and then calls the program wrong, or with No and calls it right.
_AGAINST = {"yes": re.compile(r"\b(?:incorrect|wrong|not correct|not right|fails?|faulty|buggy|however|but)\b",
                              re.IGNORECASE),
            "no": re.compile(r"\b(?:is|are|looks?) (?:fully |completely |entirely )?(?:correct|right)\b",
                             re.IGNORECASE)}
_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_JSON_START = re.compile(r"\[\s*\{|\{\s*[\"']")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)?")
# "(0-4)", "on a scale of 0 to 4", "/4" and "out of 4" are no grades.
_SCALE = r"\b0\s*(?:-|\u2013|to|and|through)\s*{top}\b|/\s*{top}(?![\d.])|\bout\s+of\s+{top}\b"
_GRADE_SCALE, _HELP_SCALE = (re.compile(_SCALE.format(top=top), re.IGNORECASE) for top in (GRADES[-1], HELPFULNESS_TOP))
_LABELLED = re.compile(r"(?:score|grade|rating|usefulness|correctness|helpfulness)[^\w+-]*(?:is|of)?[^\w+-]*"
                       r"([-+]?\d+(?:[.,]\d+)?)", re.IGNORECASE)


class Strict:
    """Accepts what can mean one thing only."""

    def verdict(self, text: str) -> bool | Invalid:
        """Parses Yes or No at the start of the first line, or at the end of the last one, where they do not differ."""
        own = without_thinking(text)
        if isinstance(own, Invalid):
            return own
        lines = [line for line in own.splitlines() if line.strip()]
        if not lines:
            return Invalid("it is empty")
        found = _leading(lines[0]) | _closing(lines[-1])
        if len(found) != 1:
            return Invalid("it has both Yes and No" if found else "it is neither Yes nor No")
        return found == {"yes"}

    def faults(self, text: str, taxonomy: Taxonomy, cut: bool = False) -> list[Fault] | Invalid:
        """Parses a JSON list of faults, one object, or an object around a list.

        A list without its end is invalid, since a cut list always looks better than it was meant; other slips of
        the notation are repaired, unless an object is lost by it. An empty list has no faults.
        """
        own = without_thinking(text)
        if isinstance(own, Invalid):
            return own
        items = _fault_list(own, cut)
        if isinstance(items, Invalid):
            return items
        faults = []
        for number, item in enumerate(items, 1):
            fault = _strict_fault(item, number, taxonomy)
            if isinstance(fault, Invalid):
                return fault
            if fault is not None:
                faults.append(fault)
        return faults

    def grade(self, text: str) -> int | Invalid:
        """Parses a whole number from 0 to 4; a scale that the answer repeats is no grade."""
        value = _strict_number(text, _GRADE_SCALE, GRADES[-1])
        return value if isinstance(value, Invalid) else int(value)

    def helpfulness(self, text: str) -> float | Invalid:
        """Parses a whole number or percentage from 0 to 100."""
        value = _strict_number(text, _HELP_SCALE, HELPFULNESS_TOP)
        return value if isinstance(value, Invalid) else value / HELPFULNESS_TOP


def _leading(line: str) -> set[str]:
    """Returns the verdict with which a line begins; both verdicts where the rest of the line takes it back."""
    match = _FIRST.match(line)
    if match is None:
        return set()
    word, rest = (match[1] or match[2]).lower(), line[match.end():]
    verdicts = {word, *(other.lower() for other in _WORD.findall(rest))}
    return {"yes", "no"} if _AGAINST[word].search(rest) else verdicts


def _closing(line: str) -> set[str]:
    """Returns the verdict with which a line ends, or that it labels as its answer; both where it is negated."""
    match = _LABELLED_WORD.search(line) or _LAST.search(line)
    if match is None:
        return set()
    before, after = line[:match.start(1)], line[match.end(1):]
    verdicts = {match[1].lower(), *(other.lower() for other in _WORD.findall(after))}
    return {"yes", "no"} if _HEDGED.search(before) else verdicts


def _strict_fault(item: Any, number: int, taxonomy: Taxonomy) -> Fault | Invalid | None:
    """Builds a fault; None for an entry without one."""
    if not isinstance(item, dict):
        return Invalid(f"entry {number} of its list is not an object with inconsistency and severity")
    fields = {str(name).strip().casefold(): value for name, value in item.items()}
    text = fields.get("inconsistency", "")
    text = "None" if text is None else text
    if not isinstance(text, str):
        return Invalid(f"the inconsistency of entry {number} is not a text")
    nothing = text.strip().strip(".").casefold() in ("none", "no inconsistency", "")
    if "severity" not in fields:
        severity = taxonomy.inferred(text)
        if severity is None:
            return Invalid(f"entry {number} has no severity")
        return Fault(text, severity, inferred=True)
    word = fields["severity"]
    if not isinstance(word, str):
        return Invalid(f"the severity of entry {number} is not a text")
    if nothing and word.strip().casefold() in ("", "none"):
        return None
    severity = taxonomy.severity(word)
    if severity is None:
        return Invalid(f"the severity of entry {number} is none of {', '.join(taxonomy.weights)}")
    if nothing and taxonomy.weights[severity] == 0:
        return None
    return Fault(text, severity)


def _fault_list(text: str, cut: bool) -> list[Any] | Invalid:
    """Finds the list of faults in an answer: as the whole of it, in a fenced block, or anywhere, if there is one."""
    items = _as_items(_loads(text.strip()), whole=True)
    if items is not None:
        return items
    blocks = list(_FENCED.finditer(text))
    inside = [own for block in blocks if (own := _as_items(_loads(block[1].strip()), whole=False)) is not None]
    outside = _FENCED.sub("\n", text)
    if len(blocks) == 1 and not outside.strip() and blocks[0][1].strip() == "[]":
        return []
    spans, damaged = _json_spans(outside)
    found = inside + [own for start, end in spans
                      if (own := _as_items(_loads(outside[start:end]), whole=False)) is not None]
    if any(own != found[0] for own in found):
        return Invalid("it has several lists of faults")
    if damaged is not None:
        end = _closed_at(outside, damaged)
        if cut or end is None:
            return Invalid("its JSON list is cut off")
        return Invalid("its JSON cannot be read") if found else _repaired(outside[damaged:end])
    if found:
        return found[0]
    if len(blocks) == 1 and not outside.strip():
        return _fault_list(blocks[0][1], cut)  # a fenced list with slips
    return Invalid("there is no JSON list in it")


def _repaired(span: str) -> list[Any] | Invalid:
    """Repairs slips such as a trailing comma or a missing quote, as long as no object gets lost."""
    import json_repair

    value = json_repair.loads(span)
    items = _as_items(value, whole=True)
    if items is None or not items or len(items) < _objects(span):
        return Invalid("its JSON cannot be read")
    return items


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _as_items(value: Any, whole: bool) -> list[Any] | None:
    """Returns the entries of a decoded list of faults; None if it is something else.

    Args:
        value: the decoded JSON.
        whole: it is all there is, so that an empty list means no faults.
    """
    if isinstance(value, dict):
        names = {str(name).strip().casefold() for name in value}
        if names & {"inconsistency", "severity"}:
            return [value]
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        return _as_items(lists[0], whole) if len(value) == len(lists) == 1 else None
    if isinstance(value, list):
        if not value:
            return value if whole else None
        return value if whole or any(isinstance(item, dict) for item in value) else None
    return None


def _json_spans(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """Lists the outermost spans that JSON can decode, and the start of one that looks like JSON and is damaged.

    What follows a damaged start is not searched: parts of a list must not pass for the whole of it.
    """
    decoder, spans, at = json.JSONDecoder(), [], 0
    while match := re.compile(r"[\[{]").search(text, at):
        try:
            at = decoder.raw_decode(text, match.start())[1]
        except RecursionError:
            return spans, match.start()
        except ValueError:
            if _JSON_START.match(text, match.start()):
                return spans, match.start()
            at = match.end()
            continue
        spans.append((match.start(), at))
    return spans, None


def _closed_at(text: str, start: int) -> int | None:
    """Returns the end of the bracket that opens at `start`, outside of strings; None if it is never closed."""
    depth, quoted, at = 0, False, start
    while at < len(text):
        letter = text[at]
        if letter == "\\" and quoted:
            at += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted:
            depth += (letter in "[{") - (letter in "]}")
            if depth == 0:
                return at + 1
        at += 1
    return None


def _objects(span: str) -> int:
    """Counts objects that are not in one another, outside of strings."""
    count = depth = 0
    quoted = escaped = False
    for letter in span:
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = quoted
        elif letter == '"':
            quoted = not quoted
        elif not quoted:
            count += letter == "{" and depth == 0
            depth += (letter == "{") - (letter == "}")
    return count


def _strict_number(text: str, scale: re.Pattern, top: int) -> float | Invalid:
    own = without_thinking(text)
    if isinstance(own, Invalid):
        return own
    if not own.strip():
        return Invalid("it is empty")
    plain = scale.sub(" ", own)
    found = {match[1] for match in _LABELLED.finditer(plain)} or set(_NUMBER.findall(plain))
    if not found:
        lone = re.findall(rf"\b(?:0|{top})\b", own)  # an answer of 0 to 4 alone is a scale, 4/4 is not
        return Invalid("there is no number in it" if not lone else f"it gives no single number from 0 to {top}")
    if len(found) > 1:
        return Invalid("it has several numbers")
    word = found.pop()
    if not re.fullmatch(r"\+?[0-9]{1,9}", word) or int(word) > top:
        return Invalid(f"{word:.20} is not a whole number from 0 to {top}")
    return float(int(word))


# ---- as released -------------------------------------------------------------------------------------------

_PENALTIES = {"fatal": 100.0, "major": 50.0, "small": 5.0}
_LIST_SPAN = re.compile(r"\[\s*\{.*?\}\s*\]", re.DOTALL)
_OBJECT_SPAN = re.compile(r"\{.*?\}", re.DOTALL)


class Compat:
    """Reproduces the parser that was released with the paper (specification of its behavior, code of ours)."""

    def verdict(self, text: str) -> bool | Invalid:
        """Searches the first and the last line for "yes", then for "no", within words too."""
        lines = text.strip().split("\n")
        ends = lines[0].strip().lower(), lines[-1].strip().lower()
        for word in ("yes", "no"):
            if any(word in line for line in ends):
                return word == "yes"
        return Invalid("its first and last lines have neither yes nor no")

    def faults(self, text: str, taxonomy: Taxonomy, cut: bool = False) -> list[Fault] | Invalid:
        """Decodes the first `[{...}]`, or else the first `{...}`; unknown severities cost nothing."""
        items = None
        if match := _LIST_SPAN.search(text):
            items = _loads(match.group())
        if items is None and (match := _OBJECT_SPAN.search(text)):
            single = _loads(match.group())
            items = None if single is None else [single]
        if not isinstance(items, list):
            return Invalid("there is no JSON list in it")
        faults = []
        for number, item in enumerate(items, 1):
            fault = _released_fault(item, taxonomy)
            if fault is None:
                return Invalid(f"entry {number} of its list cannot be used")
            faults.append(fault)
        return faults

    def grade(self, text: str) -> int | Invalid:
        """Takes the most frequent whole number of the sentences that speak of a score."""
        lines = text.lower().replace("(", "").replace(")", "").split("\n")
        sentences = [part for line in lines for part in line.lstrip("0123456789. ").split(". ")
                     if any(word in part for word in ("score", "functional", "correctness", "usefulness"))]
        words = [word for part in sentences
                 for word in part.strip(".").replace("out of ", "/").replace("/4", "").split()
                 if re.fullmatch(r"[0-9]{1,9}", word)]
        if words:
            return int(Counter(words).most_common(1)[0][0])
        if re.fullmatch(r"[-+]?[0-9]{1,9}", text.strip()):
            return int(text)
        return 0 if "N/A" in text else Invalid("there is no score in it")

    def helpfulness(self, text: str) -> float | Invalid:
        """Divides the first whole number by 100, on any scale."""
        match = re.search(r"[0-9]+", text.replace("(0-4)", ""))
        if match is None or len(match.group()) > 9:
            return Invalid("there is no number in it")
        return int(match.group()) / 100.0


def _released_fault(item: Any, taxonomy: Taxonomy) -> Fault | None:
    try:
        text = item.get("inconsistency", "")
        if "severity" not in item:
            severity = taxonomy.inferred(text)
            return None if severity is None else Fault(text, severity, inferred=True)
        word = item["severity"].lower()
        if text.lower() == "none":
            word = "negligible"
    except (AttributeError, TypeError, KeyError):
        return None
    free = min(taxonomy.weights, key=lambda name: taxonomy.weights[name])
    return Fault(text, taxonomy.severity(word) or free if word in _PENALTIES else free)


PARSERS: Mapping[str, Parser] = {"strict": Strict(), "compat": Compat()}


def majority(votes: Sequence[bool]) -> tuple[bool | None, float | None]:
    """Returns the verdict of most votes and the share of votes for it; None for an even split, and without votes."""
    if not votes:
        return None, None
    yes = sum(votes)
    if 2 * yes == len(votes):
        return None, 0.5
    return 2 * yes > len(votes), max(yes, len(votes) - yes) / len(votes)
