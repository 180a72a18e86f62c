"""The judge protocol: prompts, answers, choices, and helpers that the backends share."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError

T = TypeVar("T")
# Below this probability mass of the options their normalized probabilities are unreliable.
LOW_MASS = 0.5
# Judges and options for which `warn_of_low_mass` has printed its warning.
_WARNED: set[tuple[str, ...]] = set()


@dataclass(frozen=True)
class Prompt:
    """A prompt for a judge.

    A text is one user message, for every backend: a server receives it as such, and a local model through its chat
    template. Only a local model without a chat template, or one with `format: plain` in its config, continues it as raw
    text.

    Attributes:
        content: the text, or messages `{"role", "content"}`, oldest first.
        id: id by which recorded answers are looked up; not part of the content.
        sample: number of the first completion to return: of `n` completions, those numbered from `sample` to
            `sample + n - 1`. Completions of different numbers are drawn independently.
    """

    content: str | Sequence[Mapping[str, Any]]
    id: str | None = None
    sample: int = 0

    @property
    def sha256(self) -> str:
        """Hash of the text in UTF-8, or of the messages as JSON with sorted keys and no blanks."""
        text = self.content if isinstance(self.content, str) else json.dumps(
            [dict(message) for message in self.content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The content as messages; a text is one user message."""
        if isinstance(self.content, str):
            return [{"role": "user", "content": self.content}]
        return [dict(message) for message in self.content]


@dataclass(frozen=True)
class Usage:
    """Token counts; add them up with `+`.

    Attributes:
        prompt_tokens: tokens of the prompt.
        completion_tokens: generated tokens, end tokens included.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, usage: Usage) -> float:
        """Computes the cost of some tokens."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Answer:
    """One completion of a prompt.

    Attributes:
        text: the generated text; of a local judge, after the opening tag of thinking that its chat template writes.
        finish_reason: `stop` or `length`; None where it is not known.
        logprob: log-probability in nats; None where it is not known.
        usage: tokens; None where they are not known. Summed over the completions of a prompt they are those of the
            request: only the first counts the prompt, and where a server counts the completions together, those too.
    """

    text: str
    finish_reason: str | None = None
    logprob: float | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Choice:
    """Probabilities of several options.

    Attributes:
        probabilities: option -> probability, normalized over the options.
        mass: probability of all options together before the normalization. Where it is small,
            `probabilities` are unreliable.
        usage: tokens; None where they are not known.
    """

    probabilities: Mapping[str, float]
    mass: float
    usage: Usage | None = None

    @property
    def answer(self) -> str:
        """The most probable option; the first of equally probable ones."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class NoAnswer(Exception):
    """A judge has no answer to one prompt; others may have one.

    Attributes:
        reason: why, as it is reported.
        fix: advice to the user.
    """

    def __init__(self, reason: str, fix: str | None = None):
        super().__init__(reason)
        self.reason, self.fix = reason, fix


OnFailure = Callable[[int, str], None]
Spellings = Literal["sum", "max"]
"""How the probability of an option is found from those of its spellings."""
MOST_PROBABLE = ", most probable spellings"
"""End of the identity of a judge that takes the most probable spelling of each option."""


class Judge(Protocol):
    """Base class of the backends.

    Attributes:
        identity: describes everything that the answers depend on besides prompt and settings; part of cache keys.
        reads_messages: a prompt may be messages; False for a base model, which continues raw text.
        can_choose: `choose` can have answers.
    """

    identity: str
    reads_messages: bool = True
    can_choose: bool = True

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """Generates `sampling.n` completions of every prompt, in order.

        Draws depend on the seed, the prompt and the number of the completion, not on the order of the prompts.

        Args:
            prompts: the prompts.
            sampling: settings of all prompts.
            seed: base of the random draws.
            on_answer: called with a prompt's index and completions as soon as they are there.
            on_failure: called with the index of a prompt that has no answer, and the reason; its completions are an
                empty list. Without it such a prompt is a UserError, raised after the others were answered.

        Raises:
            UserError: nothing more can be answered, or a prompt has no answer and `on_failure` is not given.
        """

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """Computes the probability of each of `options` as the answer to every prompt, from log-probabilities.

        Args:
            prompts, on_answer, on_failure: as in `complete`; a prompt without an answer has None.
            options: texts that differ in more than case and blanks.
        """

    def unanswerable_reason(self, prompt: Prompt, max_tokens: int) -> str | None:
        """Returns why the judge could not answer a prompt with `max_tokens` tokens, so that a job can reject the row
        before it starts; None if it can, or if that is not known."""
        return None

    def count_tokens(self, prompt: Prompt) -> int | None:
        """Counts the tokens of a prompt; None where they are not known before it is sent."""
        return None


def choice_of(options: Mapping[str, float], usage: Usage | None = None) -> Choice:
    """Builds a choice from the probability of each option.

    Raises:
        ValueError: a probability is negative or not finite, or they sum to more than 1.
    """
    if not options or any(not math.isfinite(p) or p < 0 for p in options.values()):
        raise ValueError(f"probabilities must be finite and not negative, got {dict(options)}")
    mass = math.fsum(options.values())
    if mass > 1.001:
        raise ValueError(f"probabilities of different options sum to {mass:.4f}")
    if mass == 0.0:
        return Choice({option: 1 / len(options) for option in options}, 0.0, usage)
    return Choice({option: p / mass for option, p in options.items()}, min(mass, 1.0), usage)


def one_by_one(prompts: Sequence[Prompt], answer: Callable[[Prompt], Any], missing: T,
               on_answer: Callable[[int, Any], None] | None, on_failure: OnFailure | None, where: str) -> list[T]:
    """Calls `answer` for every prompt in order.

    Args:
        prompts, on_answer, on_failure: as in `Judge.complete`.
        answer: answers one prompt, or raises `NoAnswer`.
        missing: result of a prompt without an answer.
        where: where the error is, for its message.
    """
    results, first = [], None
    for number, prompt in enumerate(prompts):
        try:
            results.append(answer(prompt))
        except NoAnswer as failure:
            results.append(missing)
            if on_failure is not None:
                on_failure(number, failure.reason)
            elif first is None:
                first = number, failure
            continue
        if on_answer is not None:
            on_answer(number, results[-1])
    if first is not None:
        raise UserError(f"prompt {first[0] + 1}: {first[1].reason}", where, first[1].fix)
    return results


def normalized(text: str) -> str:
    """Removes what the spellings of one option differ in: case, outer blanks, and composed or decomposed letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).strip().casefold())


def check_options(options: Sequence[str]) -> None:
    """Raises a `UserError` unless there are two or more options that differ in more than case and blanks."""
    plain = [normalized(option) for option in options]
    if len(options) < 2 or not all(plain) or len(set(plain)) < len(plain):
        raise UserError(f"two or more different options are needed, got {list(options)}", "options",
                        "case and blanks make no difference")


def spellings(option: str) -> list[str]:
    """Spells an option as given, in lower case, in upper case and capitalized; each with and without a blank."""
    option = option.strip()
    cased = dict.fromkeys([option, option.lower(), option.upper(), option[:1].upper() + option[1:].lower()])
    return [blank + spelled for spelled in cased for blank in ("", " ")]


def warn_of_low_mass(choices: Sequence[Choice | None], options: Sequence[str], identity: str) -> None:
    """Warns on standard error about prompts after which the options have little probability mass: once a process for
    each judge and its options, for jobs make many calls.
    """
    masses = [choice.mass for choice in choices if choice is not None]
    low = sum(mass < LOW_MASS for mass in masses)
    if low and (identity, *options) not in _WARNED:
        _WARNED.add((identity, *options))
        print(f"jaxllm: warning: the options {', '.join(map(repr, options))} received less than {LOW_MASS:.0%} of the "
              f"probability mass on {low} of {len(masses)} prompts (mean {math.fsum(masses) / len(masses):.1%}) from "
              f"{identity}; normalized option probabilities may be unreliable", file=sys.stderr)
