"""What a model knows about a document, and how far it moved elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.evaluate.qa import accuracy, best, f1, normalize
from jaxllm.finetune.targets import Target, build_target
from jaxllm.generate import generate
from jaxllm.model import Model
from jaxllm.self_param.documents import Document, FormatConfig, Pair, asked_otherwise


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer and what it is worth: token F1 and accuracy against the best of the references."""

    text: str
    f1: float
    accuracy: float


def ask(model: Model, documents: Sequence[Document], wording: FormatConfig, sampling: SamplingConfig, *,
        reading: bool, dtype: jnp.dtype, seed: int = 0, batch_size: int = 32) -> list[list[Answer]]:
    """Asks every question of every document.

    Args:
        model: who answers.
        documents: with their questions.
        wording: of document and question.
        sampling: of the answers; greedy in the paper.
        reading: whether the document stands before the question; of one in windows the one nearest to the question.
        dtype: of activations and cache.
        seed: of the draws.
        batch_size: rows that run together.

    Returns:
        Answers by document, in the order of its questions.
    """
    said = iter(say(model, [(_read(document, pair) if reading else None, pair.question) for document in documents
                            for pair in document.pairs], wording, sampling, dtype=dtype, seed=seed,
                    batch_size=batch_size))
    return [[judge(next(said), pair.answers) for pair in document.pairs] for document in documents]


def _read(document: Document, pair: Pair) -> str:
    return document.passages[document.nearest(pair.question)]


def ask_both(model: Model, documents: Sequence[Document], wording: FormatConfig, sampling: SamplingConfig, *,
             reading: bool, dtype: jnp.dtype, seed: int = 0) -> tuple[list[list[Answer]], list[list[Answer]]]:
    """Answers by document to its questions, and to their other wordings, of which it may have none; see `ask`."""
    reworded = asked_otherwise(documents)
    usual, others = (ask(model, asked, wording, sampling, reading=reading, dtype=dtype, seed=seed) if asked else []
                     for asked in (documents, reworded))
    others = iter(others)
    return usual, [next(others) if one.reworded else [] for one in documents]


def say(model: Model, asked: Sequence[tuple[str | None, str]], wording: FormatConfig, sampling: SamplingConfig, *,
        dtype: jnp.dtype, seed: int = 0, batch_size: int = 32) -> list[str]:
    """What the model answers to every `(document to read or None, question)`, if any; see `ask`."""
    if not asked:
        return []
    prefix, encode = model.prefix, model.tokenizer.encode
    prompts = [[*prefix, *(() if text is None else encode(wording.read(text))), *encode(wording.ask(question))]
               for text, question in asked]
    made = generate(model, prompts, sampling, seed=seed, batch_size=batch_size, dtype=dtype)
    return [one.text.strip() for (one,) in made]


def judge(text: str, references: Sequence[str]) -> Answer:
    """Scores one answer."""
    return Answer(text, best(f1, text, references), best(accuracy, text, references))


def unchanged(before: Sequence[str], after: Sequence[str]) -> float:
    """Share of answers that are what they were, but for case, punctuation and articles."""
    return float(np.mean([normalize(a) == normalize(b) for a, b in zip(before, after, strict=True)]))


def mean_f1(answers: Sequence[Answer]) -> float:
    return float(np.mean([answer.f1 for answer in answers]))


def mean_accuracy(answers: Sequence[Answer]) -> float:
    return float(np.mean([answer.accuracy for answer in answers]))


def question_targets(model: Model, document: Document, wording: FormatConfig) -> list[Target]:
    """The test questions with their first reference as target texts; training never sees them."""
    prefix, encode = model.prefix, model.tokenizer.encode
    return [build_target(prefix, encode(wording.read(_read(document, pair))),
                         encode(wording.tell(pair.question, pair.answers[0])), "qa") for pair in document.pairs]


def plain_targets(model: Model, texts: Sequence[Sequence[int]]) -> list[Target]:
    """Texts that both sides see alike: the divergence on them is drift."""
    return [build_target(model.prefix, (), ids, "unrelated") for ids in texts]
