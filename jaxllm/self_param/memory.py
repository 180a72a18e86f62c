"""What a model knows, as it tells it itself: a stream of targets against forgetting. Ours, not the paper's.

Before an injection the model asks itself and answers, reading nothing. What it asked before earlier injections is asked
again as well: of what it asks at any one time half is about the latest document, so that the share of an earlier one
would halve with every injection. Kept are these questions with the answers that it gave, and no document; what is
learned of them is how the model of the moment would go on.
"""

from __future__ import annotations

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.files import JsonlWriter, read_jsonl
from jaxllm.finetune.targets import purpose_seed
from jaxllm.generate import generate
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.self_param.config import Config
from jaxllm.self_param.streams import Streams

Texts = tuple[tuple[int, ...], ...]


class Memory:
    """What the models of one arm told of themselves, kept in recall.jsonl."""

    def __init__(self, config: Config, job: Job, streams: Streams, arm: str):
        self._config, self._arm, self._path = config, arm, job.directory / "recall.jsonl"
        self._wanted = "recall" in streams.turns
        # What the first model knew, which all arms share, is in its own unrelated texts, if there are such, and would
        # only crowd out what is new.
        self._held = bool(config.mixture.unrelated) and config.unrelated.path is None
        self._told = {1: streams.recall}
        if self._wanted:
            self._told |= {row["step"]: tuple(map(tuple, row["texts"])) for row in read_jsonl(self._path)
                           if row["arm"] == arm}

    def before(self, step: int, model: Model) -> Texts:
        """All that was told until now, none twice; the model is asked unless it was before the job was stopped.

        Args:
            step: number of the injection, from 1.
            model: as it is before that injection.
        """
        if not self._wanted:
            return ()
        if step not in self._told:
            self._told[step] = recalled(self._config, model, purpose_seed(self._config.seed, "recall", step - 1))
            with JsonlWriter(self._path) as writer:
                writer.write({"arm": self._arm, "step": step, "texts": [list(ids) for ids in self._told[step]]})
        first = min(2 if self._held else 1, step)
        return tuple(dict.fromkeys(ids for told in range(first, step + 1) for ids in self._told[told]))


def recalled(config: Config, model: Model, seed: int) -> tuple[tuple[int, ...], ...]:
    """What a model asks itself and answers without reading anything: ids of different texts.

    Raises:
        UserError: it never comes to an end.
    """
    start = model.tokenizer.encode(config.format.question_start.rstrip())
    free = SamplingConfig(temperature=1.0, max_tokens=recall_tokens(config), n=config.recall.texts,
                          stop=[config.format.end or "\n"])
    made = generate(model, [[*model.prefix, *start]], free, seed=seed, batch_size=64,
                    dtype=config.device.compute_dtype)[0]
    ends = set(model.stop_ids)
    found = dict.fromkeys((*start, *(token for token in one.token_ids if token not in ends)) for one in made
                          if one.finish_reason == "stop")
    if not found:
        raise UserError(f"the model asked itself {config.recall.texts} questions and came to the end of none within "
                        f"{recall_tokens(config)} tokens", "mixture.recall", "set it to 0, or allow more "
                        "questions.max_tokens")
    return tuple(found)


def recall_tokens(config: Config) -> int:
    """The most that a question with its answer has behind its beginning."""
    return config.questions.max_tokens + config.sampling.max_tokens
