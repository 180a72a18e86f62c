"""Token sequences of an injection run (closed-book, open-book, QA generation, targets) and their context budget.

Every sequence is built here and nowhere else, so the context budget of a document is measured on the sequences
themselves. In plain mode parts are tokenized separately and concatenated:

    closed-book     prefix ++ question
    open-book       prefix ++ document ++ question
    QA generation   prefix ++ worked examples ++ document ++ "Question:"
    target          prefix ++ [document] ++ question and answer [++ end token]

In chat mode the texts are contents of a conversation in the model's chat template, tokenized as a whole:

    closed-book     user: question
    open-book       user: document, question
    QA generation   user: worked examples, document, request for a question
    target          user: [document,] question; assistant: answer, end of turn
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Literal

from jaxllm.config import check
from jaxllm.errors import UserError
from jaxllm.finetune.targets import TARGET_TYPES, Target, build_target
from jaxllm.model import Model

TEMPLATES = {"plain": {"context": "{context}\n", "question": "Question: {question} Answer:", "answer": " {answer}\n"},
             "chat": {"context": "{context}\n\n", "question": "{question}", "answer": "{answer}"}}
REQUEST = "Ask one short question that the text above answers. Write only the question."
ANSWER_REQUEST = ('Ask one short question about the text above that has the answer "{answer}". '
                  "Write only the question.")
CLOSED_BOOK_REQUEST = "Ask one short question about something that you know. Write only the question."
# Tokens that a document and a prompt can have more as one text than apart, in chat mode.
BORDER_TOKENS = 4
_LABEL = re.compile(r"^[\s*]*(?:\d+[.)]|[-*]|Q(?:uestion)?(?:\s*\d+)?\s*:)\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class FormatConfig:
    """Prompts. {context}, {question} and {answer} are replaced by the texts.

    Args:
        mode: encoding of the prompts. chat: turns of a conversation in the model's chat template; plain: text that the
            model continues; auto: chat where the model has a chat template.
        context: template of a document in the prompt; null takes "{context}" and a line break (chat: two).
        question: template of a question, before the answer; null takes "Question: {question} Answer:" (chat:
            "{question}").
        answer: template of an answer, including the text that ends it; null takes " {answer}" and a line break (chat:
            "{answer}").
    """

    mode: Literal["auto", "chat", "plain"] = "auto"
    context: str | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self):
        for name in ("context", "question", "answer"):
            template = getattr(self, name)
            check(template is None or f"{{{name}}}" in template, name, f"must contain {{{name}}}")

    def resolve(self, has_chat_template: bool) -> Format:
        """Chooses the mode and the templates for a model.

        Raises:
            UserError: mode is chat, and the model has no chat template.
        """
        check(self.mode != "chat" or has_chat_template, "format.mode", "is chat, and the model has no chat template",
              "use plain, or add chat_template.jinja to the tokenizer")
        chat = self.mode == "chat" or self.mode == "auto" and has_chat_template
        templates = TEMPLATES["chat" if chat else "plain"]
        return Format(chat, *(templates[name] if getattr(self, name) is None else getattr(self, name)
                              for name in ("context", "question", "answer")))


@dataclasses.dataclass(frozen=True)
class Format:
    """The prompts of a run; see `FormatConfig`.

    Attributes:
        chat: the texts are turns in the model's chat template.
        context, question, answer: templates.
    """

    chat: bool
    context: str
    question: str
    answer: str

    def context_text(self, context: str) -> str:
        """Fills the template of a document."""
        return self.context.replace("{context}", context)

    def question_text(self, question: str) -> str:
        """Fills the template of a question."""
        return self.question.replace("{question}", question)

    def answer_text(self, answer: str) -> str:
        """Fills the template of an answer."""
        return self.answer.replace("{answer}", answer)

    def pair_text(self, question: str, answer: str) -> str:
        """Fills the templates of a question and its answer: one target text, or a worked example."""
        return self.question_text(question) + ("\n" if self.chat else "") + self.answer_text(answer) + (
            "\n\n" if self.chat else "")

    @property
    def question_prefix(self) -> str:
        """Text before the words of a question."""
        return self.question.partition("{question}")[0]

    @property
    def question_stops(self) -> list[str]:
        """Texts that end a generated question."""
        after = "" if self.chat else self.question.partition("{question}")[2].strip()
        return list(dict.fromkeys(text for text in (after, *(self.answer_stops or ["\n"])) if text))

    @property
    def answer_stops(self) -> list[str]:
        """Texts that end an answer: a line break where a plain template has none; in chat mode the turn ends."""
        suffix = self.answer.partition("{answer}")[2] or ("" if self.chat else "\n")
        return [suffix] if suffix else []


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Builds the token sequences of a run.

    Attributes:
        model: its tokenizer, prefix, end token and context window are used.
        settings: mode and templates.
        examples: worked examples before the document in QA generation; may be empty.
        append_eos: whether the end token follows every answer of a plain target; in chat mode the end of the turn does.
    """

    model: Model
    settings: FormatConfig
    examples: str = ""
    append_eos: bool = False

    def __post_init__(self):
        if self.append_eos and not self.model.stop_ids:
            raise UserError("the model has no end token", "qa_pairs.append_eos", "set it to false")
        _ = self.format  # an impossible mode is reported here

    @functools.cached_property
    def format(self) -> Format:
        """Mode and templates for this model."""
        return self.settings.resolve(self.model.tokenizer.has_chat_template)

    @property
    def window(self) -> int:
        """Positions of the model."""
        return self.model.spec.max_positions

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """Ids before every closed-book question: the begin token, or the chat template up to the user's text."""
        if not self.format.chat:
            return self.model.prefix
        first, second = (self._chat(text) for text in ("a", "0"))
        return tuple(first[:_common(first, second)])

    def encode(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text)

    def document(self, passage: str) -> list[int]:
        """Ids of a document or one of its chunks, without the prefix."""
        return self.encode(self.format.context_text(passage))

    def question(self, question: str, passage: str | None = None, examples: bool = False) -> list[int]:
        """Ids of a question to be answered: open-book with a passage, closed-book without.

        Args:
            question: the question.
            passage: the document or chunk.
            examples: whether the worked examples come first.
        """
        return self._prompt(passage, self.format.question_text(question), examples)

    def question_request(self, passage: str | None = None, answer: str | None = None) -> list[int]:
        """Ids after which the model writes a question, about a passage or about anything; in chat mode also one that
        has an answer."""
        if self.format.chat:
            request = CLOSED_BOOK_REQUEST if passage is None else REQUEST if answer is None else \
                ANSWER_REQUEST.replace("{answer}", answer)
            return self._prompt(passage, request, passage is not None)
        return self._prompt(passage, self.format.question_prefix.rstrip(), passage is not None)

    def pair(self, question: str, answer: str) -> tuple[list[int], int]:
        """Ids of a question with its answer, without the prefix.

        Returns:
            the ids, and how many of them are the question's alone; a token that spans the border is the answer's.
        """
        if self.format.chat:
            target = self.target(question, answer)
            return list(target.student[len(self.prefix):]), target.prompt_tokens - len(self.prefix)
        text = self.format.question_text(question)
        ids = self.model.tokenizer.encode(text, completion=self.format.answer_text(answer))
        alone = self.encode(text)
        return [*ids, *(self.model.stop_ids[:1] if self.append_eos else ())], _common(ids, alone)

    def target(self, question: str, answer: str, passage: str | None = None, *, mask_prompt: bool = False,
               end: bool = True) -> Target:
        """Builds a question with its answer as a target; the teacher's view has the passage.

        Args:
            question, answer: the pair.
            passage: the document or chunk; None has none in either view.
            mask_prompt: whether the question has no loss.
            end: whether the end token follows, where `append_eos` is set.
        """
        if self.format.chat:
            return self._chat_target(question, answer, passage, mask_prompt)
        ids, question_tokens = self.pair(question, answer)
        ids = ids if end or not self.append_eos else ids[:-1]
        context = [] if passage is None else self.document(passage)
        return build_target(self.prefix, context, ids, "qa", question_tokens, mask_prompt)

    def fits(self, passage: str, question: str, answer: str) -> bool:
        """Whether the open-book teacher can read a passage with this pair."""
        return len(self.target(question, answer, passage).teacher) <= self.window

    def question_of(self, text: str) -> str:
        """Returns the question in a generated text; chat models like to number or label it."""
        return _LABEL.sub("", text).strip(" *") if self.format.chat else text

    def question_views(self, question: str, passage: str) -> tuple[tuple[list[int], int], tuple[list[int], int]]:
        """Builds a question's prompt without a passage and with it, each up to the question's last token.

        Returns:
            for each, its ids, and the index of the question's first token; a token that spans the border to the
            template and differs between the two is not the question's.
        """
        without, given = self.question(question), self.question(question, passage)
        before, after = self._around_question
        extra, end = len(given) - len(without), len(without) - after
        start = min(max(len(without) - _common(without[::-1], given[::-1]), before, 1), end - 1)
        return (without[:end], start), (given[:end + extra], start + extra)

    def answer_views(self, question: str, answer: str, passage: str
                     ) -> tuple[tuple[list[int], int], tuple[list[int], int]]:
        """Builds a question with its answer without a passage and with it, each up to the answer's last token.

        Returns:
            for each, its ids, and the index of the answer's first token.
        """
        target = self.target(question, answer, passage)
        start = target.prompt_tokens
        end = max(len(target.student) - self._after_answer, start + 1)
        return (list(target.student[:end]), start), (
            list(target.teacher[:end + target.offset]), start + target.offset)

    @functools.cached_property
    def _around_question(self) -> tuple[int, int]:
        """Tokens of a closed-book prompt before a question, with its label, and after it."""
        first, second = (self.question(text) for text in ("a", "0"))
        return _common(first, second), _common(first[::-1], second[::-1])

    @functools.cached_property
    def _after_answer(self) -> int:
        """Tokens of a target after an answer: of its template, the end token, or the end of the turn."""
        first, second = (list(self.target("x", text).student[::-1]) for text in ("a", "0"))
        return _common(first, second)

    @functools.cached_property
    def answer_end_tokens(self) -> int:
        """Tokens after an answer: of its template, or the end of the turn."""
        if self.format.chat:
            return len(self.target("x", "x").student) - len(self.question("x")) - len(self.encode("x"))
        return len(self.encode(self.format.answer_text(""))) + self.append_eos

    @property
    def border_tokens(self) -> int:
        """Tokens that a document and a prompt can have more as one text than apart."""
        return BORDER_TOKENS if self.format.chat else 0

    def _prompt(self, passage: str | None, text: str, examples: bool) -> list[int]:
        examples_text = self.examples if examples else ""
        if self.format.chat:
            return self._chat(examples_text + ("" if passage is None else self.format.context_text(passage)) + text)
        document = [] if passage is None else self.document(passage)
        return [*self.model.prefix, *self.encode(examples_text), *document, *self.encode(text)]

    def _chat(self, text: str) -> list[int]:
        return self.model.tokenizer.chat([{"role": "user", "content": text}])

    def _chat_target(self, question: str, answer: str, passage: str | None, mask_prompt: bool) -> Target:
        """Builds both views as whole conversations, aligned at the suffix that they have in common."""
        student, teacher = (self._conversation(question, answer, text) for text in (None, passage))
        prompt_tokens = _common(student, self.question(question))
        aligned = _common(student[::-1], teacher[::-1])
        return Target(tuple(student), tuple(teacher), len(teacher) - len(student), TARGET_TYPES.index("qa"),
                      prompt_tokens if mask_prompt else max(len(student) - aligned, len(self.prefix)), prompt_tokens)

    def _conversation(self, question: str, answer: str, passage: str | None) -> list[int]:
        """Ids up to the end of the assistant's turn."""
        context = "" if passage is None else self.format.context_text(passage)
        ids, turns = self.model.tokenizer.chat_turns([
            {"role": "user", "content": context + self.format.question_text(question)},
            {"role": "assistant", "content": self.format.answer_text(answer)}])
        return ids if turns[1] is None else ids[:turns[1][1]]


def _common(first: list[int], second: list[int]) -> int:
    """Counts the tokens at the start that two sequences share."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
                min(len(first), len(second)))
