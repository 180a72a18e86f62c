"""Documents, their questions, and how both are put into words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jaxllm.config import check
from jaxllm.evaluate.qa import normalize
from jaxllm.text.rows import Rejected, RowSet, as_text


@dataclasses.dataclass(frozen=True)
class Pair:
    """A question and the answers that count as right."""

    question: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """One text to be written into the weights, and the questions that are asked about it.

    Attributes:
        text: the whole of it.
        pairs: of the test.
        windows: overlapping parts that are read one at a time, where the whole does not fit the model.
        reworded: the test's questions, or some of them, in other words.
    """

    text: str
    pairs: tuple[Pair, ...]
    windows: tuple[str, ...] = ()
    reworded: tuple[Pair, ...] = ()

    @property
    def passages(self) -> tuple[str, ...]:
        """What is read at once: the windows, or the whole."""
        return self.windows or (self.text,)

    def nearest(self, question: str, answer: str = "") -> int:
        """Number of the passage that has most of a question; with an answer, of those that hold it, if any do.

        Letters are compared by threes, so that it works without spaces between words too; those that few passages have
        count more. The first of several.
        """
        texts = [normalize(passage) for passage in self.passages]
        holding = [i for i, text in enumerate(texts) if answer and normalize(answer) in text] or [*range(len(texts))]
        parts = [_threes(text) for text in texts]
        rarity = {part: math.log(1 + len(parts) / count) for part in _threes(normalize(question))
                  if (count := sum(part in found for found in parts))}
        return max(holding, key=lambda i: (sum(rarity[part] for part in rarity if part in parts[i]), -i))


def _threes(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[i:i + 3] for i in range(len(padded) - 2)}


@dataclasses.dataclass(frozen=True)
class FormatConfig:
    """Wording of what the model reads. {context}, {question} and {answer} stand for the texts.

    Args:
        context: the document.
        question: the question, up to where the answer begins.
        answer: the answer, with what ends it.
    """

    context: str = "{context}\n"
    question: str = "Question: {question} Answer:"
    answer: str = " {answer}\n"

    def __post_init__(self):
        for name in ("context", "question", "answer"):
            check(f"{{{name}}}" in getattr(self, name), name, f"must hold {{{name}}}")

    def read(self, context: str) -> str:
        """The document as the reading model sees it."""
        return self.context.replace("{context}", context)

    def ask(self, question: str) -> str:
        """A question, to be continued with its answer."""
        return self.question.replace("{question}", question)

    def tell(self, question: str, answer: str) -> str:
        """A question with its answer: one target text."""
        return self.ask(question) + self.answer.replace("{answer}", answer)

    @property
    def question_start(self) -> str:
        """What comes before the question's own words."""
        return self.question.partition("{question}")[0]

    @property
    def answer_start(self) -> str:
        """What stands between question and answer."""
        return self.question.partition("{question}")[2]

    @property
    def end(self) -> str:
        """What ends an answer."""
        return self.answer.partition("{answer}")[2]


def check_row(row: dict[str, Any]) -> str | None:
    """Why a row `{context, question, answers}` cannot be used, None if it can."""
    empty = next((name for name in ("context", "question") if not row[name].strip()), None)
    if empty:
        return f"{empty} is empty"
    if not row["answers"] or not all(answer.strip() for answer in row["answers"]):
        return "answers is empty or holds an empty answer"
    return None


def group(rows: Sequence[dict[str, Any]]) -> list[Document]:
    """Rows with the same context are one document, in the order in which contexts first appear."""
    pairs: dict[str, list[Pair]] = {}
    for row in rows:
        pairs.setdefault(row["context"], []).append(Pair(row["question"], tuple(row["answers"])))
    return [Document(text, tuple(dict.fromkeys(found))) for text, found in pairs.items()]


def asked_otherwise(documents: Sequence[Document]) -> list[Document]:
    """Those documents that have other wordings, with these for questions."""
    return [dataclasses.replace(one, pairs=one.reworded) for one in documents if one.reworded]


def sort_out(found: RowSet, source: str) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Rows that can be used, and all that were rejected: malformed ones and those that hold nothing."""
    good, rejected = [], list(found.rejected)
    for line, row in zip(found.lines, found.rows, strict=True):
        reason = check_row(row)
        if reason is None:
            good.append(row)
        else:
            rejected.append(Rejected(source, line, reason, as_text(row)))
    return good, sorted(rejected, key=lambda one: one.line)
