"""What a model knows, as it tells it itself: a stream of targets against forgetting. Ours, not the paper's.

Before an injection the model asks itself and answers, reading nothing. What it asked before earlier injections is asked
again as well: of what it asks at any one time half is about the latest document, so that the share of an earlier one
would halve with every injection. Kept are these questions, and no document; what they are answered with is always
what the model of the moment thinks.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.errors import UserError
from jaxllm.files import JsonlWriter, read_jsonl
from jaxllm.job import Job
from jaxllm.self_param.answers import normalise
from jaxllm.self_param.config import Config
from jaxllm.self_param.questions import QuestionAnswer, ask_itself, distinct
from jaxllm.self_param.streams import Streams, purpose_seed
from jaxllm.text.model import Model

Texts = tuple[tuple[int, ...], ...]


class Memory:
    """What the models of one arm told of themselves, kept in recall.jsonl."""

    def __init__(self, config: Config, job: Job, streams: Streams, arm: str):
        self._config, self._arm, self._path = config, arm, job.directory / "recall.jsonl"
        # Before the first injection all arms have the same model, and nothing to lose but what unrelated texts hold.
        self._first = streams.recall
        self._told = {row["step"]: [(pair["question"], pair["answer"]) for pair in row["pairs"]]
                      for row in read_jsonl(self._path) if row["arm"] == arm}

    def before(self, step: int, model: Model) -> Texts:
        """All that was asked until now, none twice, with the last answer; the model is asked unless it was before the
        job was stopped.

        Args:
            step: number of the injection, from 1.
            model: as it is before that injection.
        """
        if step == 1 or not self._first:
            return self._first
        if step not in self._told:
            self._told[step] = recalled(self._config, model, purpose_seed(self._config.seed, "recall", step - 1))
            with JsonlWriter(self._path) as writer:
                writer.write({"arm": self._arm, "step": step,
                              "pairs": [{"question": q, "answer": a} for q, a in self._told[step]]})
        latest = {normalise(question): (question, answer) for told in range(2, step + 1)
                  for question, answer in self._told[told]}
        return as_texts(self._config, model, list(latest.values()))


def recalled(config: Config, model: Model, seed: int) -> list[QuestionAnswer]:
    """What a model asks itself without reading anything, with its own answers.

    Raises:
        UserError: it has no answer to anything.
    """
    tokens = config.questions.max_tokens, config.sampling.max_tokens
    (found,) = ask_itself(model, [model.prefix], config.format, config.recall.texts, 1.0, tokens, seed, batch_size=64,
                          dtype=config.device.compute_dtype)
    found = [pair for pair in distinct(found, len(found)) if as_texts(config, model, [pair])]
    if not found:
        raise UserError(f"the model asked itself {config.recall.texts} questions and answered none within "
                        f"{longest(config, model)} tokens", "mixture.recall", "set it to 0, or allow more "
                        "questions.max_tokens")
    return found


def as_texts(config: Config, model: Model, pairs: Sequence[QuestionAnswer]) -> Texts:
    """Pairs as ids of targets; those that are longer than any should be are left out."""
    made = (tuple(model.tokenizer.encode(config.format.tell(*pair))) for pair in pairs)
    return tuple(ids for ids in made if len(ids) <= longest(config, model))


def longest(config: Config, model: Model) -> int:
    """Tokens that a question with its answer may have: those of the wording, and what may be generated."""
    return (len(model.tokenizer.encode(config.format.tell("", ""))) + config.questions.max_tokens
            + config.sampling.max_tokens)
