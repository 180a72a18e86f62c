"""A model of one's own as a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate.engine import generate
from jaxllm.generate.scoring import score
from jaxllm.judge.protocol import Answer, Choice, Prompt, check_answers, choice_of, variants, warn_of_low_mass
from jaxllm.text.model import Model


class LocalJudge:
    """Asks a model; conversations through its chat template.

    Args:
        model: who answers.
        identity: of the model, for caches; see `JudgeConfig`.
        batch_size: texts that run together.
        dtype: of activations.
    """

    def __init__(self, model: Model, identity: str, batch_size: int = 32, dtype: jnp.dtype = jnp.float32):
        self.model, self.identity, self.batch_size, self.dtype = model, identity, batch_size, dtype

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`."""
        answers = lambda completions: [Answer(one.text, one.finish_reason, one.logprob) for one in completions]
        tell = None if on_answer is None else lambda i, completions: on_answer(i, answers(completions))
        made = generate(self.model, [self._ids(prompt) for prompt in prompts], sampling, seed=seed,
                        batch_size=self.batch_size, dtype=self.dtype, on_prompt=tell,
                        places=[int(prompt.sha256[:8], 16) for prompt in prompts])
        return [answers(completions) for completions in made]

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`; sums over the ways in which each answer may be spelled.

        A prompt is read once, however many answers and spellings there are.
        """
        check_answers(answers)
        pairs, owners = [], []
        for number, prompt in enumerate(prompts):
            for answer in answers:
                for before, after in self._spellings(prompt, answer):
                    pairs.append((before, after))
                    owners.append((number, answer))
        scores = score(self.model, pairs, batch_size=self.batch_size, dtype=self.dtype)
        found = [dict.fromkeys(answers, 0.0) for _ in prompts]
        for (number, answer), one in zip(owners, scores, strict=True):
            found[number][answer] += math.exp(one.logprob)
        choices = [choice_of(one) for one in found]
        for number, choice in enumerate(choices):
            if on_answer is not None:
                on_answer(number, choice)
        warn_of_low_mass(choices, answers, self.identity)
        return choices

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt.content, str):
            return self.model.prompt_ids(prompt.content)
        return self.model.tokenizer.chat(prompt.messages)

    def _spellings(self, prompt: Prompt, answer: str) -> list[tuple[list[int], list[int]]]:
        """(prompt, answer) as ids for every spelling: each sequence once, and none that goes on from another."""
        before = self._ids(prompt)
        found = []
        for spelled in variants(answer):
            if isinstance(prompt.content, str):
                head, tail = self.model.pair_ids(prompt.content, spelled)
            else:
                head, tail = before, self.model.tokenizer.encode(spelled)
            if head == before and tail:  # otherwise it would be cut up differently, and not follow this prompt
                found.append(tuple(tail))
        distinct = dict.fromkeys(found)
        # What begins with another spelling is part of that one's probability already.
        kept = [ids for ids in distinct if not any(ids != other and ids[:len(other)] == other for other in distinct)]
        if not kept:
            raise UserError(f"the answer {answer!r} cannot be told from the prompt's end",
                            fix="end the prompt with a blank line, or use messages")
        return [(before, list(ids)) for ids in kept]

