"""What a judge is asked and what it answers."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError

T = TypeVar("T")
# Answers that hold less of the probability than this are not what the judge wants to say.
LOW_MASS = 0.5


@dataclass(frozen=True)
class Prompt:
    """A text to complete, or a conversation to answer.

    Attributes:
        content: the text, or messages `{"role", "content"}`, oldest first.
        id: a name by which recorded answers may know it.
    """

    content: str | Sequence[Mapping[str, Any]]
    id: str | None = None

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8, or of the messages as JSON with sorted keys and no blanks."""
        text = self.content if isinstance(self.content, str) else json.dumps(
            [dict(message) for message in self.content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """As a conversation; a text is what the user says."""
        if isinstance(self.content, str):
            return [{"role": "user", "content": self.content}]
        return [dict(message) for message in self.content]


@dataclass(frozen=True)
class Answer:
    """One completion.

    Attributes:
        text: what the judge said.
        finish_reason: `stop` or `length`; None where it is not known.
        logprob: nats, where the judge tells.
    """

    text: str
    finish_reason: str | None = None
    logprob: float | None = None


@dataclass(frozen=True)
class Choice:
    """How likely a judge finds each of several answers.

    Attributes:
        probabilities: answer -> its share; they sum to 1.
        mass: what the answers together have of all that the judge might say, between 0 and 1. Shares of a small mass
            say little: the judge wanted to say something else.
    """

    probabilities: Mapping[str, float]
    mass: float

    @property
    def answer(self) -> str:
        """The likeliest; of equally likely ones the first."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class Judge(Protocol):
    """Answers prompts; made to be inherited from.

    Attributes:
        identity: all that its answers depend on beside prompt and settings, for caches.
    """

    identity: str

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """`sampling.n` completions of every prompt, in order.

        Draws depend on the seed and on the prompt itself, not on where it stands.

        Args:
            prompts: what is asked.
            sampling: how.
            seed: of the draws.
            on_answer: called with a prompt's number and its completions as soon as they are there.
        """

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """How likely the judge finds each of `answers` after every prompt, by log-probabilities."""

    def obstacle(self, prompt: Prompt, tokens: int) -> str | None:
        """Why it could not answer a prompt with `tokens` tokens, so that a job can put the row aside before it begins;
        None if it can, or cannot know."""
        return None


def choice_of(found: Mapping[str, float]) -> Choice:
    """A choice from the probability that each answer was found to have.

    Raises:
        ValueError: a probability is negative or not finite, or they sum to more than 1.
    """
    if not found or any(not math.isfinite(p) or p < 0 for p in found.values()):
        raise ValueError(f"probabilities must be finite and not negative, got {dict(found)}")
    mass = math.fsum(found.values())
    if mass > 1.001:
        raise ValueError(f"probabilities of different answers sum to {mass:.4f}")
    if mass == 0.0:
        return Choice({answer: 1 / len(found) for answer in found}, 0.0)
    return Choice({answer: p / mass for answer, p in found.items()}, min(mass, 1.0))


def one_by_one(prompts: Sequence[Prompt], ask: Callable[[int, Prompt], T],
               on_answer: Callable[[int, T], None] | None) -> list[T]:
    """What `ask` makes of every prompt and its number, told of as it comes."""
    found = []
    for number, prompt in enumerate(prompts):
        found.append(ask(number, prompt))
        if on_answer is not None:
            on_answer(number, found[-1])
    return found


def plain_answer(text: str) -> str:
    """What spellings of an answer have in common."""
    return text.strip().casefold()


def check_answers(answers: Sequence[str]) -> None:
    """Raises a `UserError` unless there are several answers, different in more than case and blanks."""
    plain = [plain_answer(answer) for answer in answers]
    if len(answers) < 2 or not all(plain) or len(set(plain)) < len(plain):
        raise UserError(f"two or more different answers with text in them are needed, got {list(answers)}", "answers",
                        "case and blanks make no difference")


def variants(answer: str) -> list[str]:
    """How an answer may be spelled: as given, in lower and upper case, capitalized; with and without a blank."""
    answer = answer.strip()
    cased = dict.fromkeys([answer, answer.lower(), answer.upper(), answer[:1].upper() + answer[1:].lower()])
    return [blank + spelled for spelled in cased for blank in ("", " ")]


def warn_of_low_mass(choices: Sequence[Choice], answers: Sequence[str], identity: str) -> None:
    """Says on standard error how often a judge would rather have said something else."""
    if low := sum(one.mass < LOW_MASS for one in choices):
        mean = math.fsum(one.mass for one in choices) / len(choices)
        print(f"jaxllm: after {low} of {len(choices)} prompts the answers {', '.join(map(repr, answers))} have less "
              f"than {LOW_MASS:.0%} of the probability of {identity} ({mean:.1%} on average over all); it would "
              "rather say something else, so compare their shares with care", file=sys.stderr)
