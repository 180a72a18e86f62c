"""Where the question-answer pairs that a document is written with come from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import jax.numpy as jnp

from jaxllm.config import SamplingConfig, check
from jaxllm.errors import UserError
from jaxllm.evaluate.qa import normalize
from jaxllm.generate import generate
from jaxllm.judge import JudgeConfig
from jaxllm.model import Model
from jaxllm.self_param.documents import FormatConfig, sort_out
from jaxllm.text.rows import Rejected, RowSet, as_text

QuestionAnswer = tuple[str, str]

QuestionSource = Callable[[Sequence[str]], list[list[QuestionAnswer]]]
"""Texts of documents -> for each its pairs of question and answer. Any callable of this form will do."""


@dataclasses.dataclass(frozen=True)
class QuestionConfig:
    """The pairs that a document is written with. They are not the pairs that it is tested with.

    Args:
        source: 'model' lets the model itself ask about the document it reads, and answer; 'judge' lets the judge
            write the pairs; else a file of rows {context, question, answers} as data.path takes it.
        judge: who writes them where source is judge; see judge.cache to ask nobody twice.
        examples: rows {context, question, answers} that the model reads before the document when it asks itself: worked
            examples, for models that do not ask in this wording by themselves.
        per_document: at most so many pairs of a document, or of each of its windows.
        temperature: at which pairs are written; the model itself answers with temperature 0.
        grounded: leaves out pairs whose answer has a word that is not in the document.
        min_answer: leaves out pairs whose answer has fewer letters and digits.
        max_tokens: of a question made by the model.
        learn: all tokens of question and answer, as in the paper, or the answer only.
        end: the model's end token follows every answer that is learned; the paper never trains an end.
    """

    source: str = "model"
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    examples: str | None = None
    per_document: int = 48
    temperature: float = 1.0
    grounded: bool = False
    min_answer: int = 1
    max_tokens: int = 32
    learn: Literal["all", "answer"] = "all"
    end: bool = False

    def __post_init__(self):
        check(self.per_document >= 1, "per_document", f"must be 1 or more, got {self.per_document}")
        check(self.temperature > 0, "temperature", f"must be above 0, got {self.temperature:g}",
              "at 0 the model would ask the same question again and again")
        check(self.min_answer >= 1, "min_answer", f"must be 1 or more, got {self.min_answer}")
        check(self.max_tokens >= 1, "max_tokens", f"must be 1 or more, got {self.max_tokens}")


def distinct(pairs: Sequence[QuestionAnswer], limit: int) -> list[QuestionAnswer]:
    """The first `limit` pairs whose question differs from the earlier ones by more than case and punctuation."""
    kept: dict[str, QuestionAnswer] = {}
    for question, answer in pairs:
        question, answer = question.strip(), answer.strip()
        if normalize(question) and answer:
            kept.setdefault(normalize(question), (question, answer))
    return list(kept.values())[:limit]


def file_source(found: RowSet, path: str, contexts: Collection[str], fits: Callable[[str, str, str], bool],
                strange: str) -> tuple[QuestionSource, list[Rejected]]:
    """Pairs from rows `{context, question, answers}`; the first answer is the one that is learned.

    Args:
        found: the rows.
        path: where they are from.
        contexts: all documents of the data.
        fits: whether a context, a question and an answer leave room in the context window.
        strange: why a row is of no use whose context is none of these.

    Returns:
        The source, and the rows that are of no use to it, with reasons.
    """
    good, rejected = sort_out(found, path)
    lines = {id(row): line for row, line in zip(found.rows, found.lines, strict=True)}
    pairs: dict[str, list[QuestionAnswer]] = {}
    for row in good:
        pair = row["question"], row["answers"][0]
        reason = (strange if row["context"] not in contexts else
                  None if fits(row["context"], *pair) else "the document and this pair do not fit the context window")
        if reason is not None:
            rejected.append(Rejected(path, lines[id(row)], reason, as_text(row)))
        else:
            pairs.setdefault(row["context"], []).append(pair)
    return lambda texts: [pairs.get(text, []) for text in texts], sorted(rejected, key=lambda one: one.line)


def model_source(model: Model, wording: FormatConfig, config: QuestionConfig, answer_tokens: int, seed: int, *,
                 batch_size: int, dtype: jnp.dtype, examples: str = "",
                 on_sample: Callable[[int], None] | None = None) -> QuestionSource:
    """The model asks itself: questions sampled behind the document, answers with the document in sight.

    Args:
        model: who asks and answers.
        wording: of document, question and answer.
        config: how many and at what temperature.
        answer_tokens: longest answer.
        seed: of the questions.
        batch_size: rows that run together.
        dtype: of activations and cache.
        examples: what stands before every document.
        on_sample: called with the number of questions finished.
    """
    prefix, encode, window = model.prefix, model.tokenizer.encode, model.spec.max_positions
    ends = [text for text in (wording.answer_start.strip(), wording.end or "\n") if text]
    asking = SamplingConfig(temperature=config.temperature, max_tokens=config.max_tokens,
                            n=config.per_document, stop=list(dict.fromkeys(ends)))
    answering = SamplingConfig(temperature=0.0, max_tokens=answer_tokens, stop=[wording.end or "\n"])

    def source(texts: Sequence[str]) -> list[list[QuestionAnswer]]:
        read = [[*prefix, *encode(examples), *encode(wording.read(text))] for text in texts]
        start = encode(wording.question_start.rstrip())
        made = itertools.count(1)
        tell = None if on_sample is None else lambda _, samples: [on_sample(next(made)) for _ in samples]
        asked = generate(model, [[*ids, *start] for ids in read], asking, seed=seed, batch_size=batch_size,
                         dtype=dtype, on_prompt=tell)
        # A question that leaves no room for its answer and the end of it is no question.
        room = lambda ids, question: len(ids) + len(encode(wording.tell(question, ""))) + answer_tokens < window
        questions = [[question for question, _ in distinct([(c.text, "?") for c in samples], len(samples))
                      if room(ids, question)] for ids, samples in zip(read, asked, strict=True)]
        prompts = [[*ids, *encode(wording.ask(question))] for ids, own in zip(read, questions, strict=True)
                   for question in own]
        answers = iter(generate(model, prompts, answering, seed=seed, batch_size=batch_size, dtype=dtype)
                       if prompts else ())
        return [[(question, next(answers)[0].text) for question in own] for own in questions]

    return source


def usable(text: str, answer: str, config: QuestionConfig) -> bool:
    """Whether an answer is long enough and, if asked for, made of words of the document."""
    if sum(letter.isalnum() for letter in answer) < config.min_answer:
        return False
    return not config.grounded or set(normalize(answer).split()) <= set(normalize(text).split())


def collect(source: QuestionSource, texts: Sequence[str], config: QuestionConfig,
            owners: Sequence[int] | None = None) -> list[list[QuestionAnswer]]:
    """Distinct pairs of every text that can be learned from.

    Args:
        source: of the pairs.
        texts: documents, or passages of them.
        config: what is left out.
        owners: number of every text's document, where several texts may belong to one.

    Raises:
        UserError: a document has none.
    """
    pairs = [distinct([(question, answer) for question, answer in found if usable(text, answer, config)],
                      config.per_document) for text, found in zip(texts, source(texts), strict=True)]
    owners = range(len(texts)) if owners is None else owners
    asked = {owner for owner, found in zip(owners, pairs, strict=True) if found}
    bare = [i for i, owner in enumerate(owners) if owner not in asked]
    if bare:
        raise UserError(f"no question-answer pairs for {len({owners[i] for i in bare})} of {len(set(owners))} "
                        f"documents, first for the one that begins {texts[bare[0]][:60]!r}", "questions.source",
                        "give a file of pairs with --questions.source FILE, or a model that asks in this wording")
    return pairs
