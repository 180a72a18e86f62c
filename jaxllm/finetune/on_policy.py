"""On-policy distillation: the student's own completions in place of some stored ones. Not in the paper.

    s = question ++ y,  y drawn from p_student( . | question)

The divergence from the open-book teacher is then taken along the student's own completions, its errors included,
which texts made by the teacher never show it; ending too early is one of them. The draws of a target depend on its
number, the seed and the current student, so that a resumed run repeats them. The teacher is the model before the
injection, the student itself (on-policy self-distillation), or the student with the average of its adapter's matrices
over the steps (as SDFT, 2601.19897, averages weights).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxllm.config import SamplingConfig, check
from jaxllm.finetune.targets import Target, TargetSource, purpose_seed
from jaxllm.generate import Generator
from jaxllm.models import Adapter
from jaxllm.models.network import Params

TeacherWeights = Literal["frozen", "latest", "average"]
Completions = dict[str, list[int]]
"""Number of a target -> ids of the student's completion; keys are strings, as in JSON."""


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """On-policy distillation on the student's own answers; not in the paper.

    Args:
        share: share of the question-answer targets that the closed-book student answers itself; the open-book teacher
            corrects these answers token by token.
        every: steps between two rounds of sampling; a round samples for all steps up to the next one.
        temperature: sampling temperature of the answers.
        teacher: weights of the open-book teacher: frozen are those before the injection, latest the student's own,
            average those with the exponential moving average of each of the adapter's matrices. Targets without a
            document have the frozen teacher always.
        decay: share of the average that remains after a step.
    """

    share: float = 0.0
    every: int = 20
    temperature: float = 1.0
    teacher: TeacherWeights = "frozen"
    decay: float = 0.95

    def __post_init__(self):
        check(0 <= self.share <= 1, "share", f"must be within 0 and 1, got {self.share:g}")
        check(self.every >= 1, "every", f"must be 1 or more, got {self.every}")
        check(self.temperature >= 0, "temperature", f"must be 0 or more, got {self.temperature:g}")
        check(0 < self.decay < 1, "decay", f"must be between 0 and 1, got {self.decay:g}")
        check(self.share > 0 or self.teacher == "frozen", "teacher",
              f"{self.teacher} is for the student's own answers, and share is 0", "raise share, or set it to frozen")


class OnPolicyTargets:
    """The targets of a run, with the student's own completions where they have been sampled.

    Args:
        generator: the base model of the student.
        source: the stored targets.
        config: share and frequency of sampling.
        sampling: sampling of the completions.
        batch_size: targets of a step.
        lengths: lengths of the student's and the teacher's view; completions are cut to fit.
        completions: sampled before the run was interrupted; updated in place.
    """

    def __init__(self, generator: Generator, source: TargetSource, config: OnPolicyConfig, sampling: SamplingConfig,
                 batch_size: int, lengths: tuple[int, int], completions: Completions):
        self._generator, self._source, self._config, self._sampling = generator, source, config, sampling
        self._batch_size, self._lengths, self.completions = batch_size, lengths, completions
        self._sampling_seed = purpose_seed(source.seed, "on-policy")

    def target(self, number: int) -> Target:
        """Returns target `number` of the run; see `TargetSource.target`."""
        stored, completion = self._source.target(number), self.completions.get(str(number))
        return stored if completion is None else with_completion(stored, completion)

    def sample(self, steps: range, student: Params | None = None, adapter: Adapter | None = None) -> None:
        """Samples the student's completions for `steps`, and drops those from before the last two steps.

        Args:
            steps: steps to sample for.
            student: weights of the student; None takes the base model's.
            adapter: adapter applied next to them.
        """
        size = self._batch_size
        for number in [number for number in self.completions if int(number) < (steps.start - 1) * size]:
            del self.completions[number]
        numbers = [number for number in range(steps.start * size, steps.stop * size) if self._is_sampled(number)]
        targets = [self._source.target(number) for number in numbers]
        limits = [min(self._sampling.max_tokens, self._completion_budget(target)) for target in targets]
        if not numbers:
            return
        generator = self._generator if student is None else self._generator.replace_params(student)
        answers = generator.generate([target.student[:target.prompt_tokens] for target in targets], self._sampling,
                                     adapter=adapter, seed=self._sampling_seed, row_ids=numbers, max_tokens=limits)
        stop_ids = set(generator.model.stop_ids)
        for row, target, (answer,) in zip(numbers, targets, answers, strict=True):
            # The stop token is part of the completion: the student also learns where to end.
            ended = answer.finish_reason == "length" or answer.token_ids[-1] in stop_ids
            ending = [] if ended else [token for token in target.student[-1:] if token in stop_ids]
            self.completions[str(row)] = [*answer.token_ids, *ending][:self._completion_budget(target)]

    def _is_sampled(self, number: int) -> bool:
        """Decides whether the student completes this target itself."""
        draw = np.random.default_rng((self._sampling_seed, number)).random()
        return bool(self._source.target(number).prompt_tokens) and draw < self._config.share

    def _completion_budget(self, target: Target) -> int:
        student, teacher = self._lengths
        return min(student - target.prompt_tokens, teacher - target.prompt_tokens - target.offset)


def with_completion(target: Target, ids: Sequence[int]) -> Target:
    """Replaces the completion of a target."""
    return dataclasses.replace(target, student=(*target.student[:target.prompt_tokens], *ids),
                               teacher=(*target.teacher[:target.prompt_tokens + target.offset], *ids))


def on_policy_sampling(config: OnPolicyConfig, test: SamplingConfig, stop: list[str]) -> SamplingConfig:
    """Builds the sampling settings: answers as long as in the test, up to one of the strings `stop`."""
    return SamplingConfig(temperature=config.temperature, max_tokens=test.max_tokens, stop=stop)


def longest_completions(targets: Sequence[Target], max_tokens: int, window: int) -> list[Target]:
    """Returns targets as long as any that sampled completions, with their end token, make of `targets`."""
    return [with_completion(target, (0,) * max(1, min(max_tokens + 1, window - target.prompt_tokens - target.offset)))
            for target in targets if target.prompt_tokens]
