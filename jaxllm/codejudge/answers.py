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

from jaxllm.codejudge.verdicts import parse_verdict
from jaxllm.judge import Invalid
from jaxllm.judge.answers import UNFINISHED
from jaxllm.text.thinking import without_thinking

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

    def named(self, text: str) -> list[str]:
        """Lists the severities of the kinds of faults that a text names as whole words, in order; never `OTHER`'s."""
        found = [(match.start(), own) for kind, own in self.kinds.items() if kind != OTHER
                 and (match := re.search(rf"\b{re.escape(kind)}\b", text, re.IGNORECASE))]
        return [severity for _, severity in sorted(found)]


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


# ---- strict ------------------------------------------------------------------------------------------------

# Where JSON may begin, and keys of faults.
_OPENING = re.compile(r"[\[{]")
_JSON_START = re.compile(r"\[\s{0,99}\{|\{\s{0,99}[\"'a-zA-Z]")
_KEY = re.compile(r"[\"']?\b(inconsistency|severity)\b[\"']?\s{0,9}:", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```.*$", re.MULTILINE)
_LIST_NAMES = ("faults", "inconsistencies", "issues", "errors", "problems")
# A number of its own; neither 1e2 nor 0x3 nor v2.
_NUMBER = re.compile(r"(?<![\w.,])[0-9]+(?:[.,][0-9]+)?(?![\w])", re.ASCII)
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
# "0-4", "0 to 4", "/4" and "of 4" repeat the scale and are no grades; another scale makes the answer invalid.
_GRADE_SCALE, _HELP_SCALE = (re.compile(
    rf"\b0\s{{0,3}}(?:[{_DASHES}]|to|and|through|\.\.)\s{{0,3}}{top}\b|/\s{{0,3}}{top}(?!\w|\.\d)"
    rf"|\b(?:out\s{{1,3}})?of\s{{1,3}}{top}\b(?!\.\d)", re.IGNORECASE) for top in (GRADES[-1], HELPFULNESS_TOP))
_OTHER_SCALE = re.compile(rf"[{_DASHES}/\u00b2\u00b3\u00b9]|\s{{0,3}}(?:%|percent\b)"
                          r"|\s{0,3}(?:/|out of|of|or|to)\s{0,3}[0-9]")
_PERCENT = re.compile(r"\s{0,3}(?:%|percent\b)")
_LABEL = r"(?:score|grade|rating|usefulness|correctness|helpfulness|final|answer|verdict)"
_LABELLED_LINE = re.compile(
    rf"^\W{{0,9}}(?:[a-z]+\s){{0,3}}{_LABEL}(?:\s+is)?[\s:*=()]{{0,9}}([0-9]+)(%?)[\s.*]{{0,9}}$",
    re.IGNORECASE | re.MULTILINE | re.ASCII)
_LABELLED = re.compile(rf"\b{_LABEL}\b", re.IGNORECASE)
# A number counts at the start of an answer, or where its sentence gives it ("I give this a 3"), and if no noun follows
# ("3 bugs", "2 cases"); "1. ..." may be the first entry of a list.
_GIVES = re.compile(rf"\b(?:{_LABEL}s?|rate[ds]?|grade[ds]?|scored?|gives?|gave|say|deserves?|worth|gets?|earns?"
                    r"|assign(?:ed)?|award(?:ed)?|judged?)\b|\ban?\W*$", re.IGNORECASE)
_NO_NOUN = re.compile(rf"[ \t*_`\"')\]}}$\\]{{0,9}}(?:[\n.,;:!(]|[{_DASHES}]\s|$"
                      r"|(?:because|since|as|for|and|but|points?|out)\b)", re.IGNORECASE)


class Strict:
    """Accepts what can mean one thing only."""

    def verdict(self, text: str) -> bool | Invalid:
        """Parses Yes or No; see `verdicts`."""
        own = without_thinking(text)
        return UNFINISHED if own is None else parse_verdict(own)

    def faults(self, text: str, taxonomy: Taxonomy, cut: bool = False) -> list[Fault] | Invalid:
        """Parses a JSON list of faults, objects without a list, or an object around a list.

        A list without its end is invalid, since a cut list always looks better than it was meant, and so are objects
        without a list where the token limit or an open bracket hides the end; other slips of the notation are repaired,
        unless a word would be lost by it. An empty list, alone, has no faults.
        """
        if (own := without_thinking(text)) is None:
            return UNFINISHED
        items = _fault_list(own, taxonomy, cut)
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
        value = _strict_number(text, _GRADE_SCALE, GRADES[-1], percent=False)
        return value if isinstance(value, Invalid) else int(value)

    def helpfulness(self, text: str) -> float | Invalid:
        """Parses a whole number or percentage from 0 to 100."""
        value = _strict_number(text, _HELP_SCALE, HELPFULNESS_TOP, percent=True)
        return value if isinstance(value, Invalid) else value / HELPFULNESS_TOP


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
        severities = set(taxonomy.named(text))
        if len(severities) != 1:
            return Invalid(f"entry {number} has no severity")
        return Fault(text, severities.pop(), inferred=True)
    word = fields["severity"]
    if not isinstance(word, str):
        return Invalid(f"the severity of entry {number} is not a text")
    if nothing and word.strip().casefold() in ("", "none"):
        return None
    severity = taxonomy.severity(word)
    if severity is None:
        return Invalid(f"the severity of entry {number} is none of {', '.join(taxonomy.weights)}")
    if {taxonomy.severity(value) for value in fields.values() if isinstance(value, str)} - {None, severity}:
        return Invalid(f"entry {number} has several severities")
    if not nothing or taxonomy.weights[severity] and not text.strip():
        return Fault(text, severity)
    return Invalid(f"entry {number} has the severity {severity} and no inconsistency") \
        if taxonomy.weights[severity] else None


def _fault_list(text: str, taxonomy: Taxonomy, cut: bool) -> list[Any] | Invalid:
    """Finds the one list of faults in an answer, with or without fences and other text around it."""
    plain = _FENCE.sub("", text).strip()
    spans, damaged = _json_spans(text)
    values = [_loads(text[start:end]) for start, end in spans]
    objects = [value for value in values if _is_fault(value)]
    lists = [items for value in values if (items := _as_list(value)) is not None]
    if len(values) == 1 and plain == text[slice(*spans[0])].strip() and not objects:
        if _is_empty(values[0]):
            return []
        if not lists and isinstance(values[0], list):
            return values[0]  # not a list of objects: each entry has its reason
    between = [0, *(place for span in spans for place in span), len(text)]
    rest = [text[start:end] for start, end in zip(between[::2], between[1::2], strict=True)]
    if damaged is not None:
        return Invalid("its JSON cannot be read") if objects or lists else _repaired(text[damaged:], cut)
    if _KEY.search("".join(rest)) or lists and objects or any(items != lists[0] for items in lists):
        return Invalid("it has several lists of faults")
    if lists:
        return lists[0]
    if not objects:
        return Invalid("there is no JSON list in it")
    if cut or not _is_whole(rest, values, objects, taxonomy):
        return Invalid("its objects are no whole list of faults")
    return _without_repetitions(text, spans, values)


def _is_whole(rest: Sequence[str], values: Sequence[Any], objects: Sequence[Any], taxonomy: Taxonomy) -> bool:
    """Returns whether the objects of an answer without a list can be all its faults.

    They cannot where a bracket is left open, a comma follows, another object has no key of a fault, or the text names
    a severity that none of them has ("2. Fatal: ...").
    """
    text = _FENCE.sub("", "\n".join(rest))
    if any(text.count(left) > text.count(right) for left, right in ("[]", "{}")) \
            or _FENCE.sub("", rest[-1]).strip().endswith(",") \
            or any(isinstance(value, dict) and not _is_fault(value) for value in values):
        return False
    words = "|".join(map(re.escape, (*taxonomy.weights, *taxonomy.aliases)))
    marked = re.findall(rf"\b({words})\b\W{{0,3}}:|\(({words})\)", text, re.IGNORECASE)
    named = {taxonomy.severity(first or second) for first, second in marked}
    return named <= {taxonomy.severity(str(value)) for one in objects for name, value in one.items()
                     if str(name).strip().casefold() == "severity"}


def _without_repetitions(text: str, spans: list[tuple[int, int]], values: list[Any]) -> list[Any]:
    """Lists the faults among the values; objects that follow each other directly, and again after other text, once."""
    runs: list[list[Any]] = []
    end = 0
    for (start, stop), value in zip(spans, values, strict=True):
        if not runs or text[end:start].strip(", \t\r\n"):
            runs.append([])
        if _is_fault(value):
            runs[-1].append(value)
        end = stop
    return [value for number, run in enumerate(runs) if run not in runs[:number] for value in run]


def _repaired(text: str, cut: bool) -> list[Any] | Invalid:
    """Repairs slips such as a trailing comma or single quotes; invalid where a fault or one of its words is lost.

    Args:
        text: the answer from the start of its JSON on.
        cut: the token limit ended the answer.
    """
    end = max(text.rfind("]"), text.rfind("}")) + 1
    span, rest = text[:end], text[end:]
    balanced = all(span.count(left) == span.count(right) for left, right in ("[]", "{}"))
    if cut or not balanced or _KEY.search(rest) or _OPENING.search(rest):
        return Invalid("its JSON list is cut off or damaged")
    import json_repair

    value: Any
    try:
        value = json_repair.loads(span)
    except Exception:  # of a library, on text of any kind
        return Invalid("its JSON cannot be read")
    items = [value] if _is_fault(value) else _as_list(value)
    keys = [key.lower() for key in _KEY.findall(span)]
    if items is None or not all(isinstance(item, dict) for item in items) or any(
            keys.count(name) != sum(name in map(str.lower, item) for item in items)
            for name in ("inconsistency", "severity")) \
            or _word_counts(span) - _word_counts(json.dumps(value, ensure_ascii=False)):
        return Invalid("its JSON cannot be read")
    return items


def _word_counts(text: str) -> Counter[str]:
    """Counts the words of JSON or of a text like it, without escapes; None of Python is null."""
    words = re.findall(r"\w+", re.sub(r"\\u[0-9a-fA-F]{4}|\\.", " ", text).casefold())
    return Counter("null" if word == "none" else word for word in words)


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object; a `ValueError` where two keys differ in nothing but case and outer blanks."""
    if len({name.strip().casefold() for name, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _is_fault(value: Any) -> bool:
    return isinstance(value, dict) and bool({str(name).strip().casefold() for name in value}
                                            & {"inconsistency", "severity"})


def _is_empty(value: Any) -> bool:
    """Returns whether a decoded value is an empty list, or an object around one."""
    return value == [] or isinstance(value, dict) and len(value) == 1 and next(iter(value.values())) == [] \
        and str(next(iter(value))).strip().casefold() in _LIST_NAMES


def _as_list(value: Any) -> list[Any] | None:
    """Returns the entries of a decoded list of faults, or of an object around one; None if it is something else."""
    if isinstance(value, dict) and len(value) == 1:
        [value] = value.values()
    return value if isinstance(value, list) and any(map(_is_fault, value)) else None


def _json_spans(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """Lists the outermost spans that JSON can decode, and the start of one that looks like JSON and is damaged.

    What follows a damaged start is not searched: parts of a list must not pass for the whole of it.
    """
    decoder, spans, at = json.JSONDecoder(object_pairs_hook=_unique), [], 0
    while match := _OPENING.search(text, at):
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


def _strict_number(text: str, scale: re.Pattern, top: int, percent: bool) -> float | Invalid:
    """Parses the only number of an answer, or the one that a line labels as the score."""
    if (own := without_thinking(text)) is None:
        return UNFINISHED
    if not own.strip():
        return Invalid("it is empty")
    plain = scale.sub(" ", own)
    labelled = {number for number, unit in _LABELLED_LINE.findall(plain) if percent or not unit}
    label = _LABELLED.search(plain)
    numbers = list(_NUMBER.finditer(plain, label.start() if label else 0))
    if len(labelled) == 1:
        word = labelled.pop()
    elif labelled or len(numbers) > 1:
        return Invalid("it has several numbers")
    elif not numbers:
        return Invalid("there is no number in it")
    else:
        [match] = numbers
        before, after = plain[:match.start()], plain[match.end():]
        after = _PERCENT.sub("", after, count=1) if percent and _PERCENT.match(after) else after
        if before[-1:] in tuple(_DASHES) or _OTHER_SCALE.match(after):
            return Invalid("its number is of another scale")
        word = match.group()
        if not _is_given(before, word, after):
            return Invalid("its number is part of a sentence, and no score")
    if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) > top:
        return Invalid(f"{word:.20} is not a whole number from 0 to {top}")
    return float(int(word))


def _is_given(before: str, word: str, after: str) -> bool:
    """Returns whether a number is given as the score, by the text before and after it."""
    is_first = not before.replace("\\boxed", "").strip(" \t\n*_`\"'#>($[{\\")
    if is_first and word == "1" and re.match(r"[.)]\s+\S", after):
        return False
    sentence = re.split(r"[.!?;\n]", before)[-1]
    return bool((is_first or _GIVES.search(sentence)) and _NO_NOUN.match(after))


# ---- as released -------------------------------------------------------------------------------------------

_COSTLY = ("fatal", "major", "small")
_LIST_START, _LIST_END = re.compile(r"\[\s*\{"), re.compile(r"\}\s*\]")


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
        items, start = None, _LIST_START.search(text)
        if start and (end := _LIST_END.search(text, start.end())):
            items = _decoded(text[start.start():end.end()])
        if items is None and (first := text.find("{")) >= 0:
            single = _decoded(text[first:text.find("}", first) + 1])
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


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _released_fault(item: Any, taxonomy: Taxonomy) -> Fault | None:
    try:
        text = item["inconsistency"]
        if "severity" not in item:
            severities = taxonomy.named(text)
            return Fault(text, severities[0], inferred=True) if severities else None
        word = item["severity"].lower()
        if text.lower() == "none":
            word = "negligible"
    except (AttributeError, TypeError, KeyError):
        return None
    free = min(taxonomy.weights, key=lambda name: taxonomy.weights[name])
    return Fault(text, taxonomy.severity(word) or free if word in _COSTLY else free)


PARSERS: Mapping[str, Parser] = {"strict": Strict(), "compat": Compat()}


def majority(votes: Sequence[bool]) -> tuple[bool | None, float | None]:
    """Returns the verdict of most votes and the share of votes for it; None for an even split, and without votes."""
    if not votes:
        return None, None
    yes = sum(votes)
    if 2 * yes == len(votes):
        return None, 0.5
    return 2 * yes > len(votes), max(yes, len(votes) - yes) / len(votes)
