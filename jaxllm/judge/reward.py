"""A reward model as a judge: it scores answers to a prompt, and writes none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import Generator
from jaxllm.judge.local import TextFormat
from jaxllm.judge.protocol import Answer, Choice, Judge, OnFailure, Prompt, Usage, check_options, choice_of
from jaxllm.model import Model
from jaxllm.models import Adapter
from jaxllm.text.examples import reward_text_ids

# Prompts scored together: at most this many are lost when the job is stopped.
PROMPTS_PER_SCORE_CALL = 256


class RewardJudge(Judge):
    """Chooses between answers by their scores: probabilities are the softmax of the scores, those of a Bradley-Terry
    model for two answers.

    Prompt and answer are encoded as in the training of a reward model; see `text.examples.reward_text_ids`.

    Args:
        model: a model with a head of one score.
        identity: describes the model for caches; see `open_judge`.
        batch_size: texts scored together at most.
        dtype: dtype of activations; by default bfloat16 on accelerators and float32 on CPU.
        adapter, mesh, text_format, donate: as in `LocalJudge`.

    Raises:
        UserError: the model gives another number of scores, or has no chat template for `text_format="chat"`.
    """

    def __init__(self, model: Model, identity: str, batch_size: int = 32, dtype: jnp.dtype | None = None, *,
                 adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None,
                 text_format: TextFormat = "auto", donate: bool = False):
        labels = 0 if model.spec.head is None else model.spec.head.labels
        if labels != 1:
            raise UserError(f"a reward model gives one score, and this model {labels or 'none'}", identity,
                            "use a reward model, or set the judge's kind to local" if not labels else None)
        has_template = model.tokenizer.has_chat_template
        if text_format == "chat" and not has_template:
            raise UserError("the model has no chat template", identity, "set the judge's format to plain")
        self.generator = Generator(model, dtype=dtype, mesh=mesh, batch_size=batch_size, donate=donate)
        self.tokenizer, self.window, self.adapter = model.tokenizer, model.spec.max_positions, adapter
        self.chat_texts = text_format == "chat" or text_format == "auto" and has_template
        self.identity = f"rewards of {identity}, texts as {'chat' if self.chat_texts else 'plain'}"
        if model.tokenizer.dates:
            self.identity += f", with the date {', '.join(model.tokenizer.dates)}"

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """Raises a `UserError`: a reward model writes no text."""
        raise UserError("a reward model scores answers and writes none", self.identity,
                        "use a judge of another kind here")

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """See `Judge.choose`; the options are whole answers, and their mass is always 1."""
        check_options(options)
        encoded: dict[int, list[list[int]]] = {}
        failed: dict[int, UserError] = {}
        for number, prompt in enumerate(prompts):
            try:
                encoded[number] = [self._ids(prompt, option) for option in options]
            except UserError as error:
                failed[number] = error
        numbers = list(encoded)
        results: list[Choice | None] = [None] * len(prompts)
        for start in range(0, len(numbers), PROMPTS_PER_SCORE_CALL):
            some = numbers[start:start + PROMPTS_PER_SCORE_CALL]
            scores = np.reshape(self._scores([ids for number in some for ids in encoded[number]]), (len(some), -1))
            shares = np.exp(scores - np.logaddexp.reduce(scores, 1, keepdims=True))
            for number, row in zip(some, shares.tolist(), strict=True):
                usage = Usage(sum(map(len, encoded[number])), 0)
                results[number] = choice = choice_of(dict(zip(options, row, strict=True)), usage)
                if on_answer is not None:
                    on_answer(number, choice)
        for number, reason in failed.items():
            if on_failure is None:
                raise UserError(reason.what, f"prompt {number + 1}", reason.fix)
            on_failure(number, reason.what)
        return results

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Computes the score of an answer to every prompt.

        Raises:
            UserError: a prompt with its answer does not fit the context window, or the chat template refuses it.
        """
        return self._scores([self._ids(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])

    def unanswerable_reason(self, prompt: Prompt, max_tokens: int) -> str | None:
        """See `Judge.unanswerable_reason`: the prompt does not fit the context window, or the chat template refuses it.
        """
        try:
            self._ids(prompt, "")
        except UserError as error:
            return error.what
        return None

    def _ids(self, prompt: Prompt, answer: str) -> list[int]:
        content = prompt.content if isinstance(prompt.content, str) and not self.chat_texts else prompt.messages
        ids = reward_text_ids(self.tokenizer, content, answer)
        if len(ids) > self.window:
            raise UserError(f"{len(ids)} tokens do not fit the context window of {self.window}", self.identity)
        return ids

    def _scores(self, texts: Sequence[list[int]]) -> list[float]:
        pairs = [(ids, [0] * len(ids)) for ids in texts]
        return [score for (score,) in self.generator.classify(pairs, adapter=self.adapter)]
