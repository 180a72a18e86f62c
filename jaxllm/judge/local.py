"""A model of one's own as a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import Generator, check_prompt
from jaxllm.judge.protocol import Answer, Choice, Judge, Prompt, check_answers, choice_of, variants, warn_of_low_mass
from jaxllm.model import Model

# Prompts whose choices are computed together: what is lost when the job is stopped.
TOGETHER = 256


class LocalJudge(Judge):
    """Asks a model; conversations through its chat template.

    Args:
        model: who answers; of stacked layers a second copy is kept, as decoding wants them apart.
        identity: of the model, for caches; see `JudgeConfig`.
        batch_size: texts that run together.
        dtype: of activations.
    """

    def __init__(self, model: Model, identity: str, batch_size: int = 32, dtype: jnp.dtype = jnp.float32):
        self.generator = Generator(model, dtype=dtype, batch_size=batch_size)
        self.model, self.identity = self.generator.model, identity

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`."""
        answers = lambda completions: [Answer(one.text, one.finish_reason, one.logprob) for one in completions]
        tell = None if on_answer is None else lambda i, completions: on_answer(i, answers(completions))
        made = self.generator.generate([self._ids(prompt) for prompt in prompts], sampling, seed=seed, on_prompt=tell,
                                       row_ids=[int(prompt.sha256[:8], 16) for prompt in prompts])
        return [answers(completions) for completions in made]

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`; sums over the ways in which each answer may be spelled.

        A prompt is read once, however many answers and spellings there are. Where an answer begins another, what the
        longer one has is not the shorter one's.

        Raises:
            UserError: a prompt with its answers does not fit the context window, or answers are spelled alike.
        """
        check_answers(answers)
        spelled = [{answer: self._spellings(prompt, answer) for answer in answers} for prompt in prompts]
        before = [self._ids(prompt) for prompt in prompts]
        for number, (ids, own) in enumerate(zip(before, spelled, strict=True)):
            longest = max(len(tail) for tails in own.values() for tail in tails)
            check_prompt(ids, longest, self.model.spec.max_positions, f"prompt {number + 1}")
        choices: list[Choice] = []
        for start in range(0, len(prompts), TOGETHER):
            numbers = range(start, min(start + TOGETHER, len(prompts)))
            tails = [(i, answer, tail) for i in numbers for answer in answers for tail in spelled[i][answer]]
            scores = self.generator.score([(before[i], tail) for i, _, tail in tails])
            found: dict[int, dict[tuple[int, ...], tuple[str, float]]] = {i: {} for i in numbers}
            for (i, answer, tail), one in zip(tails, scores, strict=True):
                if tail in found[i]:
                    raise UserError(f"the answers {found[i][tail][0]!r} and {answer!r} are the same tokens",
                                    f"prompt {i + 1}", "choose answers that the model's tokenizer tells apart")
                found[i][tail] = answer, math.exp(one.logprob)
            for i in numbers:
                choices.append(choice_of(_own_shares(found[i], answers)))
                if on_answer is not None:
                    on_answer(i, choices[i])
        warn_of_low_mass(choices, answers, self.identity)
        return choices

    def obstacle(self, prompt: Prompt, tokens: int) -> str | None:
        """See `Judge.obstacle`: it does not fit the context window, or has no form in the chat template."""
        try:
            check_prompt(self._ids(prompt), tokens, self.model.spec.max_positions, "")
        except UserError as error:
            return error.what if error.fix is None else f"{error.what} ({error.fix})"
        return None

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt.content, str):
            return self.model.prompt_ids(prompt.content)
        return self.model.tokenizer.chat(prompt.messages)

    def _spellings(self, prompt: Prompt, answer: str) -> list[tuple[int, ...]]:
        """The ids of every spelling: each sequence once, and none that goes on from another."""
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
        return kept


def _own_shares(found: Mapping[tuple[int, ...], tuple[str, float]], answers: Sequence[str]) -> dict[str, float]:
    """Probability of every answer, from that of token sequences and whose they are.

    A sequence's probability holds that of all that go on from it; those of other answers are taken off.
    """
    shares = dict.fromkeys(answers, 0.0)
    for ids, (answer, probability) in found.items():
        longer = [other for other in found if len(other) > len(ids) and other[:len(ids)] == ids]
        nearest = [one for one in longer if not any(one != other and one[:len(other)] == other for other in longer)]
        shares[answer] += max(probability - sum(found[one][1] for one in nearest), 0.0)
    return shares

