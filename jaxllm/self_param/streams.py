"""Which target of a document a training step sees: its streams take turns."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from jaxllm.config import check
from jaxllm.errors import UserError
from jaxllm.finetune.targets import TARGET_TYPES, Target, build_target, continuation, purpose_seed
from jaxllm.model import Model
from jaxllm.self_param.documents import FormatConfig
from jaxllm.self_param.questions import QuestionAnswer
from jaxllm.train import row_indices


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """How many targets of each kind take turns; the paper's are one each.

    Args:
        qa: question with answer, asked of a teacher that reads the document.
        continuation: the rest of the document from a random place on.
        unrelated: other text, against drift.
        recall: what the model asks itself and answers before an injection, reading nothing: what it knew, against
            forgetting it and against answering all questions alike. Not in the paper, hence 0.
    """

    qa: int = 1
    continuation: int = 1
    unrelated: int = 1
    recall: int = 0

    def __post_init__(self):
        for name in TARGET_TYPES:
            check(getattr(self, name) >= 0, name, f"must be 0 or more, got {getattr(self, name)}")
        check(bool(self.turns), "qa", "all kinds are 0")

    @property
    def turns(self) -> tuple[str, ...]:
        """Kinds in the order in which they take turns."""
        return tuple(kind for kind in TARGET_TYPES for _ in range(getattr(self, kind)))


@dataclasses.dataclass(frozen=True)
class Streams:
    """All targets of one document, tokenized.

    Attributes:
        prefix: begins every sequence.
        context: the document as the teacher reads it.
        questions: one target for every question-answer pair.
        unrelated: ids of other texts.
        unrelated_context: what the teacher reads before an unrelated text: the document, or nothing.
        turns: kinds in the order in which they take turns.
        seed: of the order and of the cuts.
        recall: ids of what the model knew.
    """

    prefix: tuple[int, ...]
    context: tuple[int, ...]
    questions: tuple[Target, ...]
    unrelated: tuple[tuple[int, ...], ...]
    unrelated_context: tuple[int, ...]
    turns: tuple[str, ...]
    seed: int
    recall: tuple[tuple[int, ...], ...] = ()

    @property
    def cycle(self) -> int:
        return len(self.turns)

    def target(self, number: int) -> Target:
        """Target `number` of the run: a function of the number and the seed alone, so a run can resume anywhere."""
        turn, place = divmod(number, len(self.turns))
        kind = self.turns[place]
        # Number of this target within its own stream.
        n = turn * self.turns.count(kind) + self.turns[:place].count(kind)
        if kind == "continuation":
            cuts = np.random.default_rng((self.seed, n))
            return continuation(self.prefix, self.context, int(cuts.integers(1, len(self.context) - 1)))
        if kind == "unrelated":
            order = purpose_seed(self.seed, "unrelated")
            text = self.unrelated[row_indices(order, n, 1, len(self.unrelated))[0]]
            return build_target(self.prefix, self.unrelated_context, text, kind)
        if kind == "recall":
            order = purpose_seed(self.seed, "recall")
            return build_target(self.prefix, (), self.recall[row_indices(order, n, 1, len(self.recall))[0]], kind)
        return self.questions[row_indices(self.seed, n, 1, len(self.questions))[0]]

    def longest(self) -> list[Target]:
        """Targets that are as long, in either view, as any that `target` returns."""
        found = list(self.questions)
        if "continuation" in self.turns:
            found.append(continuation(self.prefix, self.context, 1))
        if "unrelated" in self.turns:
            found.append(build_target(self.prefix, self.unrelated_context, max(self.unrelated, key=len), "unrelated"))
        if "recall" in self.turns:
            found.append(build_target(self.prefix, (), max(self.recall, key=len), "recall"))
        return found


def make_streams(model: Model, text: str, pairs: Sequence[QuestionAnswer], unrelated: Sequence[Sequence[int]],
                 wording: FormatConfig, mixture: MixtureConfig, seed: int, unrelated_with_document: bool, *,
                 answers_only: bool = False, end: bool = False) -> Streams:
    """Tokenizes a document and its pairs.

    Args:
        model: whose tokenizer, prefix and end token are used.
        text: of the document.
        pairs: questions with answers.
        unrelated: ids of other texts.
        wording, mixture, seed: see `Streams`.
        unrelated_with_document: whether the teacher reads the document before unrelated text.
        answers_only: questions are read and not learned.
        end: the model's end token follows every answer, and is learned.

    Raises:
        UserError: the document is too short for the only kind of target that is asked for, or there is no end token.
    """
    encode, prefix = model.tokenizer.encode, model.prefix
    context = tuple(encode(wording.read(text)))
    has = {"continuation": len(context) >= 3, "qa": bool(pairs)}
    turns = tuple(kind for kind in mixture.turns if has.get(kind, True))
    if not turns:
        raise UserError(f"a document of {len(context)} tokens has no continuation, or no pairs", "mixture",
                        "give qa a share, and pairs")
    if end and not model.stop_ids:
        raise UserError("the model has no end token", "questions.end", "set it to false")
    ending = list(model.stop_ids[:1]) if end else []
    # What the question and its answer share with the question alone; a token that spans the border is of the answer.
    asked = lambda question, ids: sum(1 for _ in itertools.takewhile(
        lambda two: two[0] == two[1], zip(encode(wording.ask(question)), ids, strict=False)))
    questions = []
    for question, answer in pairs:
        ids = encode(wording.tell(question, answer))
        questions.append(build_target(prefix, context, [*ids, *ending], "qa",
                                      asked(question, ids), answers_only))
    return Streams(prefix, context, tuple(questions), tuple(map(tuple, unrelated)),
                   context if unrelated_with_document else (), turns, seed)


def document_alone(model: Model, text: str, wording: FormatConfig, seed: int) -> Streams:
    """The document's own text as the only target, for plain training on it."""
    whole = build_target(model.prefix, (), model.tokenizer.encode(wording.read(text)), "qa")
    return Streams(model.prefix, (), (whole,), (), (), ("qa",), seed)
