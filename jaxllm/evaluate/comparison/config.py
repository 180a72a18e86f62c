"""Config of `jaxllm compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.evaluate.comparison.measures import SIDES, Disagreement, Side
from jaxllm.generate.job import Config as GenerateConfig
from jaxllm.judge import JudgeConfig


@dataclass(frozen=True)
class VerdictConfig:
    """How the judge compares two answers.

    Args:
        form: choice takes the most probable of A, B and tie; text lets the judge write its reasons and parses the
            verdict at the end; rating parses two ratings from 1 to 10; auto is choice for a local judge, else text.
        template: prompt of the judge, with {prompt}, {first} and {second}, which are replaced by the quoted prompt and
            answers; it must request a verdict of the form. Null takes one that suits the form.
        sampling: generation of verdicts as text.
        attempts: a text without a verdict is generated anew, this many times in all.
        disagreement: outcome where the verdict depends on the order of the answers: a tie; none with leave_out; that of
            the mean ratings or probabilities of both orders with mean; auto is mean for ratings, else tie.
    """

    form: Literal["auto", "choice", "text", "rating"] = "auto"
    template: str | None = None
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=512))
    attempts: int = 3
    disagreement: Literal["auto"] | Disagreement = "auto"

    def __post_init__(self):
        for part in ("{prompt}", "{first}", "{second}"):
            check(self.template is None or part in self.template, "template", f"must hold {part}")
        check(self.sampling.n == 1, "sampling.n", f"one verdict an order, got {self.sampling.n}")
        check(self.attempts >= 1, "attempts", f"must be 1 or more, got {self.attempts}")


@dataclass(frozen=True)
class JudgingConfig:
    """A judge that compares pairs of answers, whichever job needs it.

    Args:
        judge: the judge.
        verdict: how it compares.
        device: number formats of a local judge.
        seed: base of all random draws.
    """

    judge: JudgeConfig
    verdict: VerdictConfig
    device: DeviceConfig
    seed: int

    @property
    def form(self) -> Literal["choice", "text", "rating", "score"]:
        """Form of the verdicts; a reward model scores."""
        if self.judge.kind == "reward":
            return "score"
        if self.verdict.form == "auto":
            return "choice" if self.judge.kind == "local" else "text"
        return self.verdict.form


@dataclass(frozen=True)
class Config:
    """Compares the answers of two models to the same prompts: wins, ties and losses of A.

    A side is a model that generates its answers, or a file of answers. A judge reads both answers in both orders; a
    reward model scores each.

    Args:
        data: rows {id?, prompt} or {id?, messages}; a prompt is a text, which a model continues, or messages.
        out: directory for the results.
        model_a: model of side A, a checkpoint directory, GGUF file, Hub id, or tiny.
        adapter_a: directory of a LoRA adapter for model_a, or of several that are applied as their sum.
        answers_a: file with the answers of side A, {id?, prompt?, completion} or rows.jsonl of generate.
        model_b: model of side B.
        adapter_b: directory of adapters for model_b.
        answers_b: file with the answers of side B.
        sampling: generation of the answers.
        judge: the judge.
        verdict: how the judge compares.
        batch_size: answers generated together.
        device: number formats of the models and of a local judge.
        mesh: how devices share the work of the models.
        seed: base of all random draws.
    """

    data: DataConfig
    out: Path
    model_a: str | None = None
    adapter_a: str | None = None
    answers_a: str | None = None
    model_b: str | None = None
    adapter_b: str | None = None
    answers_b: str | None = None
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_tokens=256))
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    verdict: VerdictConfig = field(default_factory=VerdictConfig)
    batch_size: int = tunable(32)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    mesh: MeshConfig = tunable(MeshConfig())
    seed: int = 0

    def __post_init__(self):
        for side in SIDES:
            model, adapter, answers = self.side(side)
            has = "neither a model nor" if model is None else "both a model and"
            check((model is None) != (answers is None), f"model_{side}", f"side {side.upper()} has {has} answers",
                  f"give either --model_{side} or --answers_{side}")
            check(adapter is None or model is not None, f"adapter_{side}", "an adapter needs its model",
                  f"give --model_{side}")
        check(self.judge.kind != "reward" or self.verdict == VerdictConfig(), "verdict",
              "does not apply to a reward model, which scores one answer at a time", "leave it out")
        check(self.judge.kind != "reward" or self.judge.cache in (None, "auto"), "judge.cache",
              "does not apply here to a reward model: its scores are not cached", "leave it out")
        check(self.form != "text" or self.verdict.disagreement != "mean", "verdict.disagreement",
              "is mean, and verdicts as text have no scores", "set verdict.form to choice or rating")
        check(self.sampling.n == 1, "sampling.n", f"one answer a prompt, got {self.sampling.n}")
        check(self.batch_size >= 1, "batch_size", f"must be 1 or more, got {self.batch_size}")
        check_seed(self.seed)

    def side(self, side: Side) -> tuple[str | None, str | None, str | None]:
        """Returns model, adapter and file of answers of a side."""
        if side == "a":
            return self.model_a, self.adapter_a, self.answers_a
        return self.model_b, self.adapter_b, self.answers_b

    def generation(self, side: Side) -> GenerateConfig:
        """Returns the config with which a side's model generates its answers."""
        model, adapter, _ = self.side(side)
        return GenerateConfig(self.data, self.out, model or "", adapter, self.batch_size, self.device, self.mesh,
                              self.seed, self.sampling)

    def name(self, side: Side) -> str:
        """Returns the name of a side for the report."""
        return " + ".join(part for part in self.side(side) if part is not None)

    @property
    def judging(self) -> JudgingConfig:
        """The judge and how it compares."""
        return JudgingConfig(self.judge, self.verdict, self.device, self.seed)

    @property
    def form(self) -> Literal["choice", "text", "rating", "score"]:
        """Form of the verdicts; a reward model scores."""
        return self.judging.form

    @property
    def disagreement(self) -> Disagreement:
        """Rule for verdicts that depend on the order."""
        if self.verdict.disagreement == "auto":
            return "mean" if self.form == "rating" else "tie"
        return self.verdict.disagreement
