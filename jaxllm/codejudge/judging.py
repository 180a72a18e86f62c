"""From programs to verdicts: the steps of every method, batch by batch, and the verdict on each program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jaxllm.codejudge.answers import GRADES, PARSERS, Fault, Parser, Taxonomy, fault_score, majority
from jaxllm.codejudge.config import Config
from jaxllm.codejudge.data import Item
from jaxllm.codejudge.prompts import Prompts
from jaxllm.files import iter_jsonl
from jaxllm.job import Job
from jaxllm.judge import (
    Answer,
    Choice,
    Completions,
    Invalid,
    Judge,
    Options,
    Prompt,
    judge_rows,
    retry_in_conversation,
)
from jaxllm.judge.answers import UNFINISHED
from jaxllm.text.thinking import without_thinking

YES_NO = ("Yes", "No")


@dataclass(frozen=True)
class Step:
    """One call of the judge.

    Attributes:
        name: name of the step, in ids of prompts and in `texts`.
        prompt: name of its prompt.
        value: kind of its answers: an analysis (text), yes_no, faults, grade or rating.
        options: answers that get probabilities.
    """

    name: str
    prompt: str
    value: str
    options: tuple[str, ...] = ()


_ANALYZE, _SUMMARIZE = Step("analyze", "analyze", "text"), Step("summarize", "summarize", "yes_no", YES_NO)
METHODS: Mapping[str, tuple[Step, ...]] = {
    "analyze_then_summarize": (_ANALYZE, _SUMMARIZE),
    "chain_of_thought": (Step("analyze", "chain_of_thought", "text"), _SUMMARIZE),
    "fault_localization": (Step("faults", "faults", "faults"),),
    "direct": (Step("direct", "direct", "yes_no", YES_NO),),
    "ice_score": (Step("ice_score", "ice_score", "grade", tuple(map(str, GRADES))),),
    "helpfulness": (Step("helpfulness", "helpfulness", "rating"),),
    "analyze_then_rate": (_ANALYZE, Step("helpfulness", "helpfulness", "rating"))}
"""Steps of every method; in a method of two steps the second sees only the analysis of the first."""


@dataclass(frozen=True)
class Vote:
    """The verdict of one sample.

    Attributes:
        value: True or False, or a score from 0 to 1, which faults have too; None where it is invalid.
        reason: why it is invalid.
        faults: the faults, with fault localization.
    """

    value: bool | float | None
    reason: str | None
    faults: list[Fault] | None = None


class CodeJudge:
    """Judges programs with a method.

    Args:
        judge: answers prompts.
        config: settings.
        prompts: instructions, faults and weights.
    """

    def __init__(self, judge: Judge, config: Config, prompts: Prompts):
        self.judge, self.config, self.prompts = judge, config, prompts
        self.steps = METHODS[config.method]
        self.parser: Parser = PARSERS[config.parser]

    def prompt(self, step: Step, item: Item, analysis: str | None = None, sample: int = 0) -> Prompt:
        """Builds the prompt of a step; one that has an analysis sees nothing else of the program."""
        config = self.config
        protocol = config.protocol or item.protocol
        content = step_content(self.prompts, step, item, analysis, chat=self.judge.reads_messages, protocol=protocol,
                               use_reference=config.use_reference, catalogue=config.catalogue_for(protocol),
                               settings=[name for name, on in vars(config.variant).items() if on])
        return Prompt(content, f"{item.id}/{step.name}", sample)

    def taxonomy(self, item: Item) -> Taxonomy:
        """Returns the kinds and weights of faults for a program."""
        return self.prompts.taxonomy(self.config.catalogue_for(self.config.protocol or item.protocol),
                                     self.config.weights)

    def parse(self, step: Step, item: Item, answer: Answer) -> Any | Invalid:
        """Parses an answer to a value that JSON can hold, or returns the reason why it is invalid."""
        if step.value == "text":
            own = without_thinking(answer.text) if self.config.parser == "strict" else answer.text
            return UNFINISHED if own is None else own if own.strip() else Invalid("it is empty")
        if step.value == "yes_no":
            return self.parser.verdict(answer.text)
        if step.value == "grade":
            grade = self.parser.grade(answer.text)
            return grade if isinstance(grade, Invalid) else _on_scale(grade / GRADES[-1])
        if step.value == "rating":
            rating = self.parser.helpfulness(answer.text)
            return rating if isinstance(rating, Invalid) else _on_scale(rating)
        faults = self.parser.faults(answer.text, self.taxonomy(item), answer.finish_reason == "length")
        return faults if isinstance(faults, Invalid) else [vars(fault) for fault in faults]

    def run(self, job: Job, items: Sequence[Item], name: str = "") -> Iterator[dict[str, Any]]:
        """Judges all programs, or those that a stopped job left; yields the row of each.

        Args:
            job: the job; answers are in its directory, a file a step.
            items: the programs.
            name: prefix of the files.
        """
        config, files = self.config, {step.name: f"{name}{step.name}.jsonl" for step in self.steps}
        *before, last = self.steps
        if before:
            self._ask(job, items, before[0], partial(self.prompt, before[0]), _itself, config.max_tokens,
                      config.answers, files[before[0].name])
            rows: Sequence[Any] = [(item, number, sample["value"])
                                   for item, line in zip(items, iter_jsonl(job.directory / files[before[0].name]),
                                                         strict=True)
                                   for number, sample in enumerate(line["samples"]) if sample["value"] is not None]
            prompt: Callable[[Any], Prompt] = lambda row: self.prompt(last, row[0], row[2], row[1])
            item_of: Callable[[Any], Item] = lambda row: row[0]
            each = 1
        else:
            rows, prompt, item_of, each = items, partial(self.prompt, last), _itself, config.answers
        if config.decide == "text":
            long = last.value == "faults"
            self._ask(job, rows, last, prompt, item_of, config.max_tokens if long else config.answer_tokens, each,
                      files[last.name])
        wanted = config.probability
        if wanted is None:  # a server may have no log-probabilities, which shows only when all answers are paid for
            wanted = self.judge.can_choose and config.judge.kind != "openai"
        has_probability = bool(last.options) and (wanted or config.decide == "probability")
        if has_probability:
            judge_rows(job, self.judge, rows, prompt, Options(last.options), seed=config.seed,
                       prices=config.judge.prices, file=f"{name}probability.jsonl", name="probabilities",
                       unit="programs")
        yield from self._rows(job, items, name, bool(before), has_probability)

    def _ask(self, job: Job, rows: Sequence[Any], step: Step, prompt: Callable[[Any], Prompt],
             item_of: Callable[[Any], Item], max_tokens: int, n: int, file: str) -> None:
        task: Completions[Any] = Completions(
            self.config.sampling(max_tokens, n), lambda row, answer: self.parse(step, item_of(row), answer),
            self.config.most_attempts, retry_of(self.judge))
        judge_rows(job, self.judge, rows, prompt, task, seed=self.config.seed, prices=self.config.judge.prices,
                   file=file, name=step.name, unit="programs")

    def _rows(self, job: Job, items: Sequence[Item], name: str, two_steps: bool, has_probability: bool
              ) -> Iterator[dict[str, Any]]:
        *before, last = self.steps
        lines = lambda file: iter_jsonl(job.directory / f"{name}{file}.jsonl")
        first = lines(before[0].name) if two_steps else itertools.repeat(None)
        answers = lines(last.name) if self.config.decide == "text" else None
        choices = lines("probability") if has_probability else None
        for item, analysis in zip(items, first):  # noqa: B905 - repeat has no end
            count = 1 if analysis is None else sum(sample["value"] is not None for sample in analysis["samples"])
            own = [] if answers is None else list(itertools.islice(answers, count))
            chosen = [] if choices is None else list(itertools.islice(choices, count))
            yield self._row(item, analysis, own, chosen)

    def _row(self, item: Item, analysis: Mapping[str, Any] | None, answers: Sequence[Mapping[str, Any]],
             choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Builds the row of a program from the lines of its steps."""
        config, last = self.config, self.steps[-1]
        probability, mass = self._probability(choices)
        texts: dict[str, list[str | None]] = {}
        finish: dict[str, list[str | None]] = {}
        samples: list[Mapping[str, Any]] = []
        if analysis is not None:
            texts["analyze"] = [sample["text"] for sample in analysis["samples"]]
            finish["analyze"] = [sample["finish_reason"] for sample in analysis["samples"]]
            follow = iter(answers if config.decide == "text" else choices)
            for sample in analysis["samples"]:
                if sample["value"] is None:
                    samples.append({"value": None, "reason": f"the analysis cannot be used: {sample['reason']}"})
                else:
                    samples.append(self._sample(next(follow)))
            failed = analysis["reason"] if not analysis["samples"] else None
        else:
            line = (answers if config.decide == "text" else choices)[0]
            failed = line["reason"] if not line.get("samples", [True]) else None
            samples = line["samples"] if config.decide == "text" else [self._sample(line)]
        if config.decide == "text":
            texts[last.name] = [sample.get("text") for sample in samples]
            finish[last.name] = [sample.get("finish_reason") for sample in samples]
        attempts = [sample.get("attempts", 0) for sample in [*samples, *(analysis or {"samples": []})["samples"]]]
        votes = [self._vote(item, sample) for sample in samples]
        runs = [self._verdict(votes[run * config.samples:(run + 1) * config.samples], failed)
                for run in range(config.runs)]
        row: dict[str, Any] = {
            "id": item.id, **runs[0], "probability": probability, "mass": mass, "faults": None, "texts": texts,
            "attempts": max(attempts, default=0), "tokens": _tokens([analysis, *answers, *choices]),
            "values": [vote.value for vote in votes], "finish": finish}
        if last.value == "faults":
            # Those of the first sample that agrees with the verdict.
            shown = next((vote.faults for vote in votes[:config.samples] if vote.faults is not None
                          and vote.value is not None and is_right(config, vote.value) == row["verdict"]), None)
            row["faults"] = None if shown is None else [vars(fault) for fault in shown]
        if config.runs > 1:
            row["runs"] = runs
        order = ("id", "verdict", "score", "probability", "mass", "valid", "reason", "faults", "texts", "attempts")
        known = {"label": item.label, "grade": item.grade, "group": item.group, "language": item.language,
                 "dataset": item.dataset or None, "subset": item.subset}
        return {name: row[name] for name in order} | row | known | ({"edit": item.edit} if item.edit else {})

    def _sample(self, line: Mapping[str, Any]) -> Mapping[str, Any]:
        """The single sample of a line: a text, or with `decide: probability` the choice."""
        if "samples" in line:
            return line["samples"][0] if line["samples"] else {"value": None, "reason": line["reason"]}
        value, _ = self._probability([line])
        return {"value": value, "reason": line["reason"], "attempts": 1}

    def _probability(self, choices: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
        """Computes the mean probability of Yes over the samples, or the mean expected grade; and the mean mass."""
        known = [line for line in choices if line["probabilities"] is not None]
        masses = [line["mass"] for line in choices if line["mass"] is not None]
        mass = float(np.mean(masses)) if masses else None
        if not known:
            return None, mass
        return float(np.mean([expected(line["probabilities"]) for line in known])), mass

    def _vote(self, item: Item, sample: Mapping[str, Any]) -> Vote:
        value, last = sample["value"], self.steps[-1]
        if value is None:
            return Vote(None, sample["reason"])
        if self.config.decide == "probability":
            return Vote(value, None)
        if last.value == "faults":
            faults = [Fault(**fault) for fault in value]
            return Vote(fault_score([fault.severity for fault in faults], self.taxonomy(item).weights), None, faults)
        return Vote(value, None)

    def _verdict(self, votes: Sequence[Vote], failed: str | None) -> dict[str, Any]:
        """Combines the samples of a run: the majority of their verdicts, and the mean of their scores.

        An even split has the score and a reason, and no verdict.
        """
        config = self.config
        valid = [vote.value for vote in votes if vote.value is not None]
        nothing = {"verdict": None, "score": None, "valid": False, "valid_samples": len(valid), "agreement": None}
        if not valid:
            reasons = [vote.reason for vote in votes if vote.reason is not None]
            return nothing | {"reason": failed or next(iter(reasons), "there is no answer")}
        score = float(np.mean([float(value) for value in valid]))
        verdicts = [is_right(config, float(value)) for value in valid]
        verdict, share = majority([one for one in verdicts if one is not None])
        tie = f"tie: {len(valid)} votes are split evenly" if verdict is None and None not in verdicts else None
        return {"verdict": verdict, "score": score, "valid": True, "reason": tie, "valid_samples": len(valid),
                "agreement": share}


def step_content(prompts: Prompts, step: Step, item: Item, analysis: str | None = None, *, chat: bool = True,
                 protocol: str = "pooled", use_reference: bool = True, catalogue: str = "default",
                 settings: Sequence[str] = ()) -> str | list[dict[str, str]]:
    """Builds the content of a prompt.

    Args:
        prompts: instructions.
        step: the step.
        item: the program.
        analysis: an analysis, which replaces the task and the program.
        chat: False makes one text of all.
        protocol: data set, by which the task is described.
        use_reference: the judge sees the reference.
        catalogue: faults that are listed.
        settings: settings of `VariantConfig` that are on.
    """
    fields: dict[str, str | None] = item.fields
    if not use_reference:
        fields["reference"] = None
    if analysis is not None:
        fields = {"analysis": analysis, "language": fields["language"]}
    fields |= {"note": prompts.note(protocol, fields),
               "faults": prompts.fault_list(catalogue, bool(fields.get("reference"))),
               **{name: prompts.settings[name] for name in settings}}
    return prompts.build(step.prompt, fields, chat)


def is_right(config: Config, score: float) -> bool | None:
    """Returns the verdict of the score of one sample; None for ratings of helpfulness without a threshold."""
    threshold, kind = config.threshold, METHODS[config.method][-1].value
    if threshold is None:
        if kind == "rating":
            return None
        threshold = 1.0
        if config.decide == "probability":
            threshold = 0.5 if kind == "yes_no" else 1 - 0.5 / GRADES[-1]  # expected grades nearest to the highest one
    return bool(score >= threshold - 1e-9)


def expected(probabilities: Mapping[str, float]) -> float:
    """Computes the probability of Yes, or the expected grade divided by the highest."""
    if set(probabilities) == set(YES_NO):
        return float(probabilities[YES_NO[0]])
    return sum(float(grade) * share for grade, share in probabilities.items()) / GRADES[-1]


def _on_scale(score: float) -> float | Invalid:
    return score if 0 <= score <= 1 else Invalid("its number is outside of the scale")


def retry_of(judge: Judge) -> Callable[[Prompt, Answer, str], Prompt]:
    """Returns how a prompt is repeated: in the conversation or, for a base model, as a continued text."""
    def as_text(prompt: Prompt, answer: Answer, reason: str) -> Prompt:
        return Prompt(f"{prompt.content}{answer.text}\n\nThis answer cannot be used: {reason}. The answer again:")

    return retry_in_conversation if judge.reads_messages else as_text


def _itself(item: Item) -> Item:
    return item


def _tokens(lines: Sequence[Mapping[str, Any] | None]) -> dict[str, int | None]:
    """Sums the tokens of all calls for a program; None where none is known."""
    total: dict[str, int | None] = {}
    for name in ("prompt", "completion"):
        known = [line[f"{name}_tokens"] for line in lines if line is not None and line[f"{name}_tokens"] is not None]
        total[name] = sum(known) if known else None
    return total


def choice_probability(choice: Choice | None) -> float | None:
    """Returns the probability of Yes in a choice; None without one."""
    return None if choice is None or choice.mass == 0.0 else expected(choice.probabilities)
