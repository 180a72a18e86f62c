"""Answers that the student gives itself while it learns, in place of some that were made beforehand.

    s = question ++ y,  y drawn from p_student( . | question)        (on-policy distillation; ours, not the paper's)

The divergence from the reading teacher is taken along what the student says by itself, its errors included, which texts
made by the teacher never show it; that it ended too early is one of them. The draws of a target depend on its number,
the seed and the student of the moment, so that a run that was stopped goes on as it would have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxllm.config import SamplingConfig, check
from jaxllm.generate.engine import generate
from jaxllm.model import Model
from jaxllm.models.network import Params
from jaxllm.self_param.streams import TargetSource, purpose_seed
from jaxllm.self_param.targets import Target

Said = dict[str, list[int]]
"""Number of a target -> ids of the student's answer; keys are as JSON has them."""


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """Answers of the student's own to learn from; the paper has none.

    Args:
        share: of the pairs' turns, that ask the student itself, which reads nothing; the teacher that reads says what
            it should have answered. Not with divergence.top_k.
        every: steps from one time that it is asked to the next, of all these steps' questions. It is asked with its
            adapter merged into a copy of the weights.
        temperature: of its answers.
    """

    share: float = 0.0
    every: int = 20
    temperature: float = 1.0

    def __post_init__(self):
        check(0 <= self.share <= 1, "share", f"must be within 0 and 1, got {self.share:g}")
        check(self.every >= 1, "every", f"must be 1 or more, got {self.every}")
        check(self.temperature >= 0, "temperature", f"must be 0 or more, got {self.temperature:g}")


class OnPolicy:
    """The targets of a run, with the student's own answers where it has been asked.

    Args:
        model: that the student is a change of.
        streams: targets as they were made beforehand.
        config: how often the student is asked.
        sampling: of its answers.
        rows: targets of a step.
        lengths: of the student's and the teacher's view; answers end where they would not fit.
        dtype: of the forward passes.
        said: what it said before the run was stopped. Filled in, and what is no longer needed taken out.
    """

    def __init__(self, model: Model, streams: TargetSource, config: OnPolicyConfig, sampling: SamplingConfig, rows: int,
                 lengths: tuple[int, int], dtype: jnp.dtype, said: Said):
        self._model, self._streams, self._config, self._sampling = model, streams, config, sampling
        self._rows, self._lengths, self._dtype, self.said = rows, lengths, dtype, said
        self._draws = purpose_seed(streams.seed, "on-policy")

    def target(self, number: int) -> Target:
        """Target `number` of the run; see `TargetSource.target`."""
        made, said = self._streams.target(number), self.said.get(str(number))
        return made if said is None else answered(made, said)

    def ask(self, steps: range, student: Params) -> None:
        """Lets the student answer the questions of some steps; what it said for those two before them is forgotten."""
        for number in [number for number in self.said if int(number) < (steps.start - 1) * self._rows]:
            del self.said[number]
        numbers = [number for number in range(steps.start * self._rows, steps.stop * self._rows) if self._its(number)]
        made = [self._streams.target(number) for number in numbers]
        limits = [min(self._sampling.max_tokens, self._room(target)) for target in made]
        if not numbers:
            return
        answers = generate(dataclasses.replace(self._model, params=student),
                           [target.student[:target.asked] for target in made], self._sampling, seed=self._draws,
                           batch_size=64, dtype=self._dtype, places=numbers, max_tokens=limits)
        ends = set(self._model.stop_ids)
        for number, target, (answer,) in zip(numbers, made, answers, strict=True):
            # Whatever ends it is kept: that it ended there is learned from too.
            ended = answer.finish_reason == "length" or answer.token_ids[-1] in ends
            ending = [] if ended else [token for token in target.student[-1:] if token in ends]
            self.said[str(number)] = [*answer.token_ids, *ending][:self._room(target)]

    def _its(self, number: int) -> bool:
        """Whether a target is the student's to answer."""
        drawn = np.random.default_rng((self._draws, number)).random()
        return bool(self._streams.target(number).asked) and drawn < self._config.share

    def _room(self, target: Target) -> int:
        student, teacher = self._lengths
        return min(student - target.asked, teacher - target.asked - target.offset)


def answered(target: Target, ids: Sequence[int]) -> Target:
    """A question with another answer."""
    return dataclasses.replace(target, student=(*target.student[:target.asked], *ids),
                               teacher=(*target.teacher[:target.asked + target.offset], *ids))


def own_sampling(config: OnPolicyConfig, test: SamplingConfig, end: str) -> SamplingConfig:
    """How the student answers: as long as in the test, up to what ends an answer."""
    return SamplingConfig(temperature=config.temperature, max_tokens=test.max_tokens, stop=[end or "\n"])


def longest_answers(targets: Sequence[Target], max_tokens: int, window: int) -> list[Target]:
    """Views as long as any that the student's answers, with their end, make of `targets`."""
    return [answered(target, (0,) * max(1, min(max_tokens + 1, window - target.asked - target.offset)))
            for target in targets if target.asked]
