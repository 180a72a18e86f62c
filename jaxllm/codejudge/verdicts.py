"""Strict parsing of Yes and No: the verdict that an answer gives, unless its other words contradict it.

An answer decides at its start ("No, because ..."), at its end ("... so yes"), or with a label ("Answer: Yes"). The
answer to a question about faults ("Any bugs? No") is no verdict, and one that also describes the opposite ("Yes. It
fails for 0", "No. It meets all requirements") has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jaxllm.judge import Invalid

# Marks around a verdict that mean nothing: **Yes**, "Yes", \\boxed{Yes}.
_MARKS = re.compile(r"\\\\boxed|\\boxed|[*_`\"'#>(){}\[\]]")
_NOT = re.compile(r"n['\u2019]t\b", re.IGNORECASE)
_CODE = re.compile(r"^[ \t]*```[^\n]*\n.*?(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_ENDS = " \t.,;:!"
_LABEL = r"(?:answer|verdict|conclusion|judge?ment|decision)"
# "Yes, ...", "No. ...", "No, ..." and "Answer: No ..." decide; "No errors are left" is no verdict.
_LEADING = re.compile(
    rf"\s{{0,9}}(?:(?:(?:my|the|final|overall)\s{{1,9}})*{_LABEL}(?:\s{{1,9}}is)?\s{{0,9}}:?\s{{0,9}})?"
    r"(?:(yes)(?=\s*$|\s*[.,;:!]|\s+(?:it|the|this|that|because|since|all)\b)"
    r"|(no)(?=\s*$|\s*[.,;:!]|\s+(?:it|the|this|that|because|since)\b))", re.IGNORECASE | re.ASCII)
_OTHER_VERDICT = re.compile(r"(?:^\s{0,9}:?|[.,;!])\s{0,9}(yes|no)(?=\s{0,9}(?:[.,;:!]|$))", re.IGNORECASE | re.ASCII)
# The last clause of a line may have these words before its verdict, and no others.
_FILLERS = (r"(?:so|therefore|thus|hence|and|in|short|my|the|final|overall|summary|review|says|is|answer|verdict"
            r"|conclusion|judge?ment|decision)")
_CLOSING = re.compile(rf"\s*((?:{_FILLERS}\s+)*)(yes|no)\s*", re.IGNORECASE | re.ASCII)
_CONNECTED = re.compile(rf"\b(?:so|therefore|thus|hence|{_LABEL})\b", re.IGNORECASE)
_LABELLED = re.compile(
    rf"\b{_LABEL}(?:\s+is)?\s{{0,3}}:?\s{{0,3}}(yes|no)(?=\s*$|\s*[.,;!])", re.IGNORECASE | re.ASCII)
# A question that an answer repeats before its verdict.
_QUESTION = re.compile(r"[^.?!]{1,300}\?\s*")
# Labels and questions that a verdict may answer.
_ONLY_FILLERS = re.compile(rf"\s*(?:{_FILLERS}\s*)+", re.IGNORECASE)
_RIGHT_LABEL = re.compile(r"\s*(?:is\s+)?(?:the\s+)?(?:(?:program|code|solution|function|implementation)\s+)?(?:is\s+)?"
                          r"(?:right|correct|correctness)\s*", re.IGNORECASE)
_RIGHT_QUESTION = re.compile(r"\b(?:right|correct|correctly|works?|meets?|satisf(?:y|ies)|fulfil+s?|solves?)\b"
                             r"|\bdo(?:es)?\s+(?:all|everything|what)\b", re.IGNORECASE)
_FAULT_WORD = re.compile(
    r"\b(?:wrong|incorrect|bugs?|buggy|errors?|faults?|faulty|fail\w*|issues?|problems?|mistakes?|flaw\w*|miss\w*"
    r"|broken|breaks?|defects?|violat\w*|ignor\w*|lacks?|not|no|never|cannot)\b", re.IGNORECASE)

# Words of answers that call a program wrong, in clauses without a negation before them; and negated words of praise.
_NEGATION = re.compile(r"\b(?:no|not|never|nothing|none|without|neither|nor|cannot|free of|hardly)\b", re.IGNORECASE)
_NO_NEGATION = re.compile(r"\b(?:no doubt|without (?:a |any )?doubt|not only|not just|not merely)\b", re.IGNORECASE)
_HAS = r"\b(?:has|have|contains?|makes?|there (?:is|are)|i (?:see|find|found))\s+(?:\w+\s+){0,3}?"
_NO_FAULT = r"(?!\s+(?:handling|messages?|checks?|checking|cases?)\b)"
_WRONG = re.compile(
    r"\b(?:incorrect|wrong|erroneous|faulty|flawed|buggy|broken|incomplete)(?:ly)?\b"
    r"(?!\s+(?:inputs?|types?|arguments?|formats?)\b)"
    r"|\b(?:it|this|program|code|solution|function|would|will|can|could|may|might)\s+crash(?:es|ed)?\b"
    rf"|\bfail(?:s|ed|ing)?\b|\bbugs?\b|{_HAS}(?:errors?|faults?|flaws?|mistakes?|defects?)\b{_NO_FAULT}",
    re.IGNORECASE)
_NOT_RIGHT = re.compile(
    r"(?:\b(?:does|do|did|ca|can|could|wo|will|would|is|are|was)\s+(?:\w+\s+)?not|\bcannot|\bnever)\s+"
    r"(?!need|have\b|requir)(?:\w+\s+){0,2}?(?:meet|satisf|fulfil|handle|work|return|produc|comput|solv|compil|run"
    r"|terminat|pass|implement|cover)\w*|\bnot\s+(?:\w+\s+)?(?:correct|right|complete|valid)\b", re.IGNORECASE)
# These count unless their sentence speaks of style.
_DOUBT = re.compile(rf"\bhowever\b|\b(?:is|are)\s+missing\b|{_HAS}(?:issues?|problems?)\b", re.IGNORECASE)
_STYLE = re.compile(r"\b(?:styl\w*|naming|named?|names|format\w*|cosmetic|readab\w*|efficien\w*|faster|document\w*"
                    r"|docstrings?|comments?|type hints?|annotat\w*|improve\w*|better|cleaner|simpl\w*|short\w*"
                    r"|concise\w*)\b", re.IGNORECASE)
# Words that call a program right, in sentences that take nothing of it back.
_RIGHT = re.compile(
    r"\b(?:program|code|solution|function|implementation|candidate|submission|logic|algorithm|it|this|everything)\s+"
    r"(?:is|looks?|seems?|appears?(?:\s+to\s+be)?)\s+(?:\w+\s+)?(?:correct|right|fine|okay|ok)(?:\s+and\s+\w+)?\s*$"
    r"|\bno\s+(?:\w+\s+){0,2}?(?:errors?|bugs?|faults?|issues?|problems?|mistakes?|flaws?)\b"
    r"(?!\s+(?:handling|messages?|checks?|checking|cases?|(?:is|are|was|were)\s+(?:raised|thrown|reported|printed"
    r"|handled|returned|caught))\b)|\bnothing\s+(?:is\s+)?wrong\b|\b(?:free\s+of|without(?:\s+any)?)\s+(?:errors|bugs)\b"
    r"|\b(?:meets|satisfies|fulfil+s|passes|covers|handles)\s+(?:all|every|each)\b"
    r"|\b(?:all|every|each)\s+(?:\w+\s+){0,4}?(?:requirements?|cases|tests)\s+(?:is|are)\s+(?:met|satisfied|fulfilled"
    r"|handled|passed|covered)\b|\bworks\s+(?:\w+\s+)?(?:for|on|with|in)\s+(?:all|every|any)\b"
    r"|\bworks\s+(?:correctly|properly|fine|well|as\s+\w+)\s*$", re.IGNORECASE)
_QUALIFIED = re.compile(r"\b(?:but|however|except|only|unless|although|though|yet|almost|nearly|mostly|partly|partially"
                        r"|apart|while|not|cannot|never|if|until|would)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[,:\u2013\u2014]|\b(?:and|but|so|because|since|while|although|though|yet|as)\b",
                         re.IGNORECASE)
_SENTENCE_END = re.compile(r"([.;!?]+)")


def parse_verdict(text: str) -> bool | Invalid:
    """Parses Yes or No; invalid where an answer can mean both."""
    question = _QUESTION.match(text)
    if question and _RIGHT_QUESTION.search(question[0]) and not _FAULT_WORD.search(question[0]):
        text = text[question.end():]
    lines = _lines(text)
    if not lines:
        return Invalid("it is empty")
    found, start = _leading(lines[0])
    last, decides = _closing(lines)
    if decides or found:
        found |= last
    if len(found) == 1:
        found |= {word for before, line in zip(lines, lines[1:], strict=False) if before.rstrip()[-1] not in "?:"
                  for word in _leading(line)[0]}
    if len(found) != 1:
        return Invalid("it has both Yes and No" if found else "it is neither Yes nor No")
    verdict, rest = found == {"yes"}, _lines(_CODE.sub("\n", text))
    if rest[:1] == lines[:1]:
        rest[0] = rest[0][start:]
    sentences = [sentence for line in rest for sentence in _statements(line)]
    if _call_wrong(sentences) if verdict else _call_right(sentences) and not _call_wrong(sentences):
        return Invalid(f"it is {'Yes' if verdict else 'No'}, and its other words contradict it")
    return verdict


def _lines(text: str) -> list[str]:
    """Lists the lines with words, without marks and contractions."""
    return [line for line in _MARKS.sub(" ", _NOT.sub(" not", text)).splitlines() if line.strip()]


def _leading(line: str) -> tuple[set[str], int]:
    """Returns the verdict with which a line begins and others that follow in the line, and where the first one ends."""
    match = _LEADING.match(line)
    if match is None:
        return set(), 0
    others = _OTHER_VERDICT.findall(line[match.end():])
    return {word.lower() for word in (match[1] or match[2], *others)}, match.end()


def _closing(lines: list[str]) -> tuple[set[str], bool]:
    """Returns the verdict of the last clause, or that the last line labels as its answer; and whether it decides.

    The answer to a question about faults means the opposite, and can only confirm another verdict.
    """
    *before, clause = re.split(r"([.,;:!?\u2013\u2014])", lines[-1].rstrip(_ENDS))
    match = _CLOSING.fullmatch(clause)
    if match is None:
        return {word.lower() for word in _LABELLED.findall(lines[-1])}, True
    word, context = match[2].lower(), "".join(before) or (lines[-2].rstrip() if len(lines) > 1 else "")
    separator, sentence = context[-1:], _SENTENCE_END.split(context[:-1])[-1]
    if separator == ",":
        return {word}, bool(_CONNECTED.search(match[1]) or _ONLY_FILLERS.fullmatch(sentence))
    if separator not in ("?", ":", "\u2013", "\u2014"):
        return {word}, True
    if _FAULT_WORD.search(sentence):
        return {"no" if word == "yes" else "yes"}, False
    label = re.search(rf"\b{_LABEL}\b", sentence, re.IGNORECASE) or _ONLY_FILLERS.fullmatch(sentence)
    right = _RIGHT_QUESTION.search(sentence) if separator == "?" else _RIGHT_LABEL.fullmatch(sentence)
    return {word}, bool(label or right)


def _statements(line: str) -> Iterator[str]:
    """Yields the sentences of a line, without questions and labels that No answers ("Faulty: No")."""
    parts = _SENTENCE_END.split(_NO_NEGATION.sub(" ", line))
    for sentence, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        _, colon, answer = sentence.rpartition(":")
        if "?" not in end and not (colon and answer.strip().lower() == "no"):
            yield sentence


def _call_wrong(sentences: Sequence[str]) -> bool:
    """Returns whether a sentence calls the program wrong."""
    for sentence in sentences:
        about_style = _STYLE.search(sentence) is not None
        for clause in _CLAUSE_END.split(sentence):
            found = [*_WRONG.finditer(clause), *(() if about_style else _DOUBT.finditer(clause))]
            if any(not _NEGATION.search(clause[:match.end()]) for match in found) or _NOT_RIGHT.search(clause):
                return True
    return False


def _call_right(sentences: Sequence[str]) -> bool:
    """Returns whether a sentence calls the program right, without reserve."""
    return any(_RIGHT.search(sentence) and not _QUALIFIED.search(sentence) for sentence in sentences)
