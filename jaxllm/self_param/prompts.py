"""Token sequences of an injection run (closed-book, open-book, QA generation, targets) and their context budget.

Every sequence is built here and nowhere else, so the context budget of a document is measured on the sequences
themselves. The parts of a sequence are tokenized separately and concatenated:

    closed-book     prefix ++ question
    open-book       prefix ++ document ++ question
    QA generation   prefix ++ worked examples ++ document ++ question prefix
    target          prefix ++ [document] ++ question and answer [++ end token]
"""

from __future__ import annotations

import dataclasses

from jaxllm.config import check
from jaxllm.errors import UserError
from jaxllm.model import Model


@dataclasses.dataclass(frozen=True)
class FormatConfig:
    """Prompt templates. {context}, {question} and {answer} are replaced by the texts.

    Args:
        context: template of a document in the prompt.
        question: template of a question; the answer follows it.
        answer: template of an answer, including the text that ends it.
    """

    context: str = "{context}\n"
    question: str = "Question: {question} Answer:"
    answer: str = " {answer}\n"

    def __post_init__(self):
        for name in ("context", "question", "answer"):
            check(f"{{{name}}}" in getattr(self, name), name, f"must contain {{{name}}}")

    def context_text(self, context: str) -> str:
        """Fills the template of a document."""
        return self.context.replace("{context}", context)

    def question_text(self, question: str) -> str:
        """Fills the template of a question."""
        return self.question.replace("{question}", question)

    def pair_text(self, question: str, answer: str) -> str:
        """Fills the templates of a question and its answer: one target text."""
        return self.question_text(question) + self.answer.replace("{answer}", answer)

    @property
    def question_prefix(self) -> str:
        """Text before the words of a question."""
        return self.question.partition("{question}")[0]

    @property
    def answer_prefix(self) -> str:
        """Text between a question and its answer."""
        return self.question.partition("{question}")[2]

    @property
    def answer_suffix(self) -> str:
        """Text that ends an answer; a line break where the template has none."""
        return self.answer.partition("{answer}")[2] or "\n"


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Builds the token sequences of a run.

    Attributes:
        model: its tokenizer, prefix, end token and context window are used.
        format: prompt templates.
        examples: worked examples before the document in QA generation; may be empty.
        append_eos: whether the end token follows every answer of a target.
    """

    model: Model
    format: FormatConfig
    examples: str = ""
    append_eos: bool = False

    def __post_init__(self):
        if self.append_eos and not self.model.stop_ids:
            raise UserError("the model has no end token", "qa_pairs.append_eos", "set it to false")

    @property
    def window(self) -> int:
        """Positions of the model."""
        return self.model.spec.max_positions

    def encode(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text)

    def document(self, passage: str) -> list[int]:
        """Ids of a document or one of its chunks, without the prefix."""
        return self.encode(self.format.context_text(passage))

    def question(self, question: str, passage: str | None = None) -> list[int]:
        """Ids of a question to be answered: open-book with a passage, closed-book without."""
        document = [] if passage is None else self.document(passage)
        return [*self.model.prefix, *document, *self.encode(self.format.question_text(question))]

    def pair(self, question: str, answer: str) -> tuple[list[int], int]:
        """Ids of a question with its answer, without the prefix.

        Returns:
            the ids, and how many of them are the question's alone; a token that spans the border is the answer's.
        """
        ids, alone = self.encode(self.format.pair_text(question, answer)), self.encode(
            self.format.question_text(question))
        shared = next((i for i, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b),
                      min(len(alone), len(ids)))
        return [*ids, *(self.model.stop_ids[:1] if self.append_eos else ())], shared

    def generation_context(self, passage: str | None = None) -> list[int]:
        """Ids that precede a question in QA generation: prefix, worked examples, document."""
        document = [] if passage is None else self.document(passage)
        return [*self.model.prefix, *self.encode(self.examples), *document]

    def question_start(self) -> list[int]:
        """Ids after which the model writes a question."""
        return self.encode(self.format.question_prefix.rstrip())

    def fits(self, passage: str, question: str, answer: str) -> bool:
        """Whether the open-book teacher can read a passage with this pair."""
        return len(self.model.prefix) + len(self.document(passage)) + len(self.pair(question, answer)[0]) <= self.window
