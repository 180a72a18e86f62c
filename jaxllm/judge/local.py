"""A local model as a judge."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import Completion, GenerationStats, Generator, check_prompt
from jaxllm.judge.options import Ids, OptionTokens
from jaxllm.judge.protocol import (
    MOST_PROBABLE,
    Answer,
    Choice,
    Judge,
    NoAnswer,
    OnFailure,
    Prompt,
    Spellings,
    Usage,
    check_options,
    choice_of,
    warn_of_low_mass,
)
from jaxllm.model import Model, warn_of_control_tokens
from jaxllm.models import Adapter
from jaxllm.text.thinking import opening_tag_of

TextFormat = Literal["auto", "chat", "plain"]
# Prompts with choices computed together: at most this many are lost when the job is stopped.
PROMPTS_PER_SCORE_CALL = 256


class LocalJudge(Judge):
    """Generates with a model, and scores options with it.

    Args:
        model: the judge; weights are prepared once, here.
        identity: describes the model for caches; see `open_judge`.
        batch_size: sequences decoded together at most.
        dtype: dtype of activations; by default bfloat16 on accelerators and float32 on CPU.
        adapter: low-rank adapter applied next to the weights.
        mesh: splits rows over `data` and `fsdp` and KV heads over `tensor`.
        text_format: encoding of a prompt that is a text, not messages. `chat`: one user message in the chat template;
            `plain`: raw text that the model continues; `auto`: chat where the model has a template, else plain.
        spellings: the probability of an option is the sum over its spellings, or that of the most probable one.
        donate: frees the stacked weights of `model`, which must not be used afterwards.

    Attributes:
        stats: counts of the work done so far.

    Raises:
        UserError: the model has a scoring head, or no chat template for `text_format="chat"`.
    """

    def __init__(self, model: Model, identity: str, batch_size: int = 32, dtype: jnp.dtype | None = None, *,
                 adapter: Adapter | None = None, mesh: jax.sharding.Mesh | None = None,
                 text_format: TextFormat = "auto", spellings: Spellings = "sum", donate: bool = False):
        model.require_lm("answer prompts", identity)
        has_template = model.tokenizer.has_chat_template
        if text_format == "chat" and not has_template:
            raise UserError("the model has no chat template", identity, "set the judge's format to plain")
        self.generator = Generator(model, dtype=dtype, mesh=mesh, batch_size=batch_size, donate=donate)
        self.model, self.adapter = self.generator.model, adapter
        self.chat_texts = text_format == "chat" or text_format == "auto" and has_template
        self.reads_messages, self.stats = self.chat_texts, GenerationStats()
        self.identity = identity if text_format == "auto" else f"{identity}, texts as {text_format}"
        self.spellings = spellings
        if spellings == "max":
            self.identity += MOST_PROBABLE
        if model.tokenizer.dates:
            self.identity += f", with the date {', '.join(model.tokenizer.dates)}"

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """See `Judge.complete`; an answer has the opening tag of its thinking where the chat template writes it."""
        encoded = self._encode(prompts, sampling.max_tokens, on_failure)
        numbers, results = list(encoded), [[] for _ in prompts]

        def finished(index: int, completions: list[Completion]) -> None:
            number = numbers[index]
            tag = self._opening_tag(prompts[number], encoded[number])
            results[number] = [Answer(tag + completion.text, completion.finish_reason, completion.logprob,
                                      Usage(0 if sample else len(encoded[number]), len(completion.token_ids)))
                               for sample, completion in enumerate(completions)]
            if on_answer is not None:
                on_answer(number, results[number])

        self.generator.generate([encoded[number] for number in numbers], sampling, adapter=self.adapter, seed=seed,
                                row_ids=[_row_id(prompts[number]) for number in numbers], stats=self.stats,
                                on_prompt=finished)
        return results

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """See `Judge.choose`; an option's probability is that of its spellings.

        A prompt is tokenized and prefilled once for all options and spellings. Where an option is the start of
        another, the probability of the longer one is not counted for the shorter one.

        Raises:
            UserError: a prompt with its options does not fit the context window and `on_failure` is not given, or
                options are the same tokens.
        """
        check_options(options)
        option_tokens = OptionTokens(self.model, options)
        encoded = self._encode(prompts, 0, on_failure)
        tokens: dict[int, dict[Ids, str]] = {}
        for number, ids in encoded.items():
            text = None if self._is_chat(prompts[number]) else str(prompts[number].content)
            try:
                own = option_tokens.after(text, ids)
            except NoAnswer as error:
                self._fail(number, error, on_failure)
                continue
            if self._fits(number, ids, max(map(len, own)), on_failure):
                tokens[number] = own
        numbers = list(tokens)
        results: list[Choice | None] = [None] * len(prompts)
        for start in range(0, len(numbers), PROMPTS_PER_SCORE_CALL):
            some = numbers[start:start + PROMPTS_PER_SCORE_CALL]
            pairs = [(number, continuation) for number in some for continuation in tokens[number]]
            scores = self.generator.score([(encoded[number], continuation) for number, continuation in pairs],
                                          adapter=self.adapter, stats=self.stats)
            probabilities = {pair: math.exp(score.logprob) for pair, score in zip(pairs, scores, strict=True)}
            for number in some:
                shares = _shares(tokens[number], {ids: probabilities[number, ids] for ids in tokens[number]}, options,
                                 self.spellings)
                results[number] = choice = choice_of(shares, Usage(len(encoded[number]), 0))
                if on_answer is not None:
                    on_answer(number, choice)
        warn_of_low_mass(results, options, self.identity)
        return results

    def unanswerable_reason(self, prompt: Prompt, max_tokens: int) -> str | None:
        """See `Judge.unanswerable_reason`: the prompt does not fit the context window, or the chat template refuses it.
        """
        try:
            check_prompt(self._ids(prompt), max_tokens, self.model.spec, "")
        except UserError as error:
            return _reason(error)
        return None

    def count_tokens(self, prompt: Prompt) -> int | None:
        """See `Judge.count_tokens`; None where the chat template refuses the prompt."""
        try:
            return len(self._ids(prompt))
        except UserError:
            return None

    def _is_chat(self, prompt: Prompt) -> bool:
        return self.chat_texts or not isinstance(prompt.content, str)

    def _opening_tag(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """Returns the opening tag of thinking that the chat template writes at the end of a prompt; empty without."""
        if not self._is_chat(prompt) or prompt.messages[-1].get("role") == "assistant":
            return ""
        return opening_tag_of(self.model.tokenizer, ids)

    def _ids(self, prompt: Prompt) -> list[int]:
        if self._is_chat(prompt):
            return self.model.tokenizer.chat_prompt(prompt.messages)
        warn_of_control_tokens(self.model, str(prompt.content))
        return self.model.prompt_ids(str(prompt.content))

    def _encode(self, prompts: Sequence[Prompt], max_tokens: int, on_failure: OnFailure | None) -> dict[int, list[int]]:
        """Encodes prompts that fit the context window with `max_tokens` tokens; the others fail."""
        encoded = {}
        for number, prompt in enumerate(prompts):
            try:
                ids = self._ids(prompt)
            except UserError as error:
                self._fail(number, error, on_failure)
                continue
            if self._fits(number, ids, max_tokens, on_failure):
                encoded[number] = ids
        return encoded

    def _fits(self, number: int, ids: Sequence[int], max_tokens: int, on_failure: OnFailure | None) -> bool:
        try:
            check_prompt(ids, max_tokens, self.model.spec, "")
        except UserError as error:
            self._fail(number, error, on_failure)
            return False
        return True

    def _fail(self, number: int, error: UserError | NoAnswer, on_failure: OnFailure | None) -> None:
        if on_failure is None:
            what = error.reason if isinstance(error, NoAnswer) else error.what
            raise UserError(what, f"prompt {number + 1}", error.fix) from None
        on_failure(number, _reason(error))


def _reason(error: UserError | NoAnswer) -> str:
    what = error.reason if isinstance(error, NoAnswer) else error.what
    return what if error.fix is None else f"{what} ({error.fix})"


def _row_id(prompt: Prompt) -> int:
    """The prompt's number in the random streams."""
    digest = prompt.sha256
    if prompt.sample:
        digest = hashlib.sha256(f"{digest}/{prompt.sample}".encode()).hexdigest()
    return int(digest[:8], 16)


def _shares(option_of: Mapping[Ids, str], probabilities: Mapping[Ids, float], options: Sequence[str],
            spellings: Spellings) -> dict[str, float]:
    """Sums the probability of every option over its token sequences, or takes the largest one.

    A sequence's probability includes that of all its continuations; those of other options are subtracted.
    """
    shares = dict.fromkeys(options, 0.0)
    for ids, option in option_of.items():
        longer = [other for other in option_of if len(other) > len(ids) and other[:len(ids)] == ids]
        nearest = [other for other in longer
                   if not any(other != middle and other[:len(middle)] == middle for middle in longer)]
        own = max(probabilities[ids] - sum(probabilities[other] for other in nearest), 0.0)
        shares[option] = shares[option] + own if spellings == "sum" else max(shares[option], own)
    return shares
