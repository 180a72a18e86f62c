"""`jaxllm compare`: how often the answers of one model are better than those of another, by a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.evaluate.comparison.answers import (
    PromptRow,
    Side,
    SideAnswer,
    Text,
    generated_answers,
    prompt_refusal,
    prompt_rows,
    recorded_answers,
)
from jaxllm.evaluate.comparison.measures import (
    SHARES,
    Disagreement,
    length_controlled,
    outcome,
    scores_of,
    shares,
    sign_test,
    word_count,
)
from jaxllm.evaluate.comparison.prompts import (
    CHOICE_TEMPLATE,
    OPTIONS,
    TEXT_TEMPLATE,
    chosen_option,
    comparison_prompt,
    parse_verdict,
    verdict_of,
)
from jaxllm.evaluate.comparison.report import sections
from jaxllm.files import iter_jsonl, write_jsonl
from jaxllm.generate.job import Config as GenerateConfig
from jaxllm.generate.rows_job import ID
from jaxllm.job import Job, open_job
from jaxllm.judge import (
    Completions,
    JudgeConfig,
    JudgedRow,
    JudgeSummary,
    Options,
    Prompt,
    Sample,
    judge_rows,
    open_judge,
)
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.progress import notice
from jaxllm.statistics import clustered
from jaxllm.text.rows import Message, Rejected, RowSet, as_text, check_share, data_files, read_rows

SIDES: tuple[Side, Side] = ("a", "b")
# Name of an order of presentation: the judge reads A's answer first, or B's.
ORDERS = ("ab", "ba")


@dataclass(frozen=True)
class VerdictConfig:
    """How the judge compares two answers.

    Args:
        form: choice takes the most probable of A, B and tie; text lets the judge write its reasons and parses the
            verdict at the end; auto is choice for a local judge, else text.
        template: prompt of the judge, with {prompt}, {first} and {second}, which are replaced by the quoted prompt and
            answers; it must request a verdict A, B or tie. Null takes one that suits the form.
        sampling: generation of verdicts as text.
        attempts: a text without a verdict is generated anew, this many times in all.
        disagreement: outcome where the verdict depends on the order of the answers; leave_out counts such prompts in
            no share.
    """

    form: Literal["auto", "choice", "text"] = "auto"
    template: str | None = None
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=512))
    attempts: int = 3
    disagreement: Disagreement = "tie"

    def __post_init__(self):
        for part in ("{prompt}", "{first}", "{second}"):
            check(self.template is None or part in self.template, "template", f"must hold {part}")
        check(self.sampling.n == 1, "sampling.n", f"one verdict an order, got {self.sampling.n}")
        check(self.attempts >= 1, "attempts", f"must be 1 or more, got {self.attempts}")


@dataclass(frozen=True)
class Config:
    """Compares the answers of two models to the same prompts: wins, ties and losses of A.

    A side is a model that generates its answers, or a file of answers. A judge reads both answers in both orders.

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
    def chooses(self) -> bool:
        """Whether verdicts are choices, not texts."""
        return self.verdict.form == "choice" or self.verdict.form == "auto" and self.judge.kind == "local"


@dataclass(frozen=True)
class Pair:
    """A prompt with both answers."""

    row: PromptRow
    a: str
    b: str


@dataclass(frozen=True)
class Presentation:
    """A pair in one of two orders; `swapped` shows B's answer first."""

    pair: Pair
    swapped: bool

    @property
    def order(self) -> str:
        """Name of the order."""
        return ORDERS[self.swapped]


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        found = read_rows(config.data.path, {}, {"id": ID, "prompt": Text, "messages": list[Message]},
                          config.data.limit_bad, job.rejected_path, config.data.limit, prompt_refusal)
        job.pin_file("data", data_files(config.data.path), config.data.limit)
        for side in SIDES:
            _pin_side(config, job, side)
        return job.already_done() if job.finished else _run(config, job, found)


def _pin_side(config: Config, job: Job, side: Side) -> None:
    model, adapter, answers = config.side(side)
    if answers is not None:
        job.pin_file(f"answers_{side}", data_files(answers))
        return
    job.pin(f"model_{side}", fingerprint(model_directory(model or "")))
    job.pin(f"adapter_{side}", None if adapter is None else fingerprint(Path(adapter)))


def _run(config: Config, job: Job, data: RowSet) -> Path:
    rows = prompt_rows(data)
    # Recorded answers are read first: they may not match, and generating the others may take hours.
    sides = {side: recorded_answers(answers, rows, data, config.data.limit is not None)
             for side in SIDES if (answers := config.side(side)[2]) is not None}
    sides |= {side: generated_answers(config.generation(side), job, rows, side) for side in SIDES if side not in sides}
    pairs, rejected = _pairs(config, data, rows, sides)
    job.write_rejected(rejected)
    check_share(len(pairs), rejected, config.data.limit_bad)
    summary = _judge(config, job, pairs)
    table = _outcomes(config, pairs, list(iter_jsonl(job.directory / "verdicts.jsonl")))
    write_jsonl(job.rows_path, table)
    if all(row["outcome"] is None for row in table):
        notice(f"none of {len(table)} prompts has an outcome; the reasons are in {job.directory / 'verdicts.jsonl'}")
    result = {"prompts": len(table), "rejected": len(rejected), **compared(table, config.seed),
              "prompt_tokens": summary.prompt_tokens, "completion_tokens": summary.completion_tokens,
              "cost": summary.cost}
    names = {side: config.name(side) for side in SIDES}
    job.write_report("Comparison", f"A is {names['a']}, B is {names['b']}: answers to {len(table):,} prompts.",
                     sections(result, table))
    return job.write_result(result)


def _pairs(config: Config, data: RowSet, rows: Sequence[PromptRow], sides: Mapping[Side, Sequence[SideAnswer]]
           ) -> tuple[list[Pair], list[Rejected]]:
    """Separates the prompts that both sides answered from those that a model cannot read."""
    pairs, rejected = [], list(data.rejected)
    for row, fields, a, b in zip(rows, data.rows, sides["a"], sides["b"], strict=True):
        if a.text is not None and b.text is not None:
            pairs.append(Pair(row, a.text, b.text))
            continue
        reason = "; ".join(f"side {name}: {one.reason}" for name, one in (("A", a), ("B", b)) if one.text is None)
        rejected.append(Rejected(config.data.path, row.line, reason, as_text(fields)))
    return pairs, sorted(rejected, key=lambda row: row.line)


def _judge(config: Config, job: Job, pairs: Sequence[Pair]) -> JudgeSummary:
    """Writes the verdicts on all pairs in both orders into verdicts.jsonl, or the rest of them."""
    judge, verdict = open_judge(config.judge, config.device), config.verdict
    template = verdict.template or (CHOICE_TEMPLATE if config.chooses else TEXT_TEMPLATE)
    task: Any = Options(OPTIONS) if config.chooses else Completions(
        verdict.sampling, lambda _, answer: parse_verdict(answer.text), verdict.attempts)

    def prompt(shown: Presentation) -> Prompt:
        pair, (first, second) = shown.pair, (shown.pair.a, shown.pair.b)[::-1 if shown.swapped else 1]
        return Prompt(comparison_prompt(template, pair.row.prompt, first, second), f"{pair.row.id}/{shown.order}")

    shown = [Presentation(pair, swapped) for pair in pairs for swapped in (False, True)]
    return judge_rows(job, judge, shown, prompt, task, seed=config.seed, prices=config.judge.prices,
                      fields=_verdict, file="verdicts.jsonl", name="judge", unit="verdicts")


def _verdict(shown: Presentation, outcome: JudgedRow) -> dict[str, Any]:
    """Builds the columns of verdicts.jsonl."""
    fields: dict[str, Any] = {"id": shown.pair.row.id, "order": shown.order}
    if outcome.samples is None:
        option = None if outcome.choice is None else chosen_option(outcome.choice)
        return fields | {"verdict": verdict_of(option, shown.swapped)} | outcome.fields()
    sample = outcome.samples[0] if outcome.samples else Sample(None, None, None, 0)
    return fields | {"verdict": verdict_of(sample.value, shown.swapped), "text": sample.text,
                     "attempts": sample.attempts}


def _outcomes(config: Config, pairs: Sequence[Pair], verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Builds the rows of rows.jsonl from the pairs and the verdicts, two a pair."""
    table = []
    for pair, *both in zip(pairs, verdicts[::2], verdicts[1::2], strict=True):
        own = [line["verdict"] for line in both]
        table.append({"id": pair.row.id, "prompt": pair.row.prompt, "answer_a": pair.a, "answer_b": pair.b,
                      "verdicts": dict(zip(ORDERS, own, strict=True)),
                      "outcome": outcome(own, config.verdict.disagreement),
                      "words_a": word_count(pair.a), "words_b": word_count(pair.b)})
    return table


def compared(table: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Computes the measures of a comparison.

    Args:
        table: rows `{prompt, answer_a, answer_b, verdicts, outcome, words_a, words_b}`, at least one.
        seed: seed of the resampling.

    Returns:
        The measures of `measures.shares` and others with intervals: `length_controlled_win_rate`;
        `position_consistency`, the share of prompts with the same verdict in both orders among those with two valid
        ones; `first_wins`, the share of verdicts for the answer that is read first among those for either;
        `invalid_verdicts`, a share of all verdicts; `words_a` and `words_b`. Counts: `outcomes`, `identical_answers`.
        `sign_test_p`: see `measures.sign_test`. A measure that no row has a value for is None.
    """
    mean = lambda pairs: clustered([float(value) for value, _ in pairs], [prompt for _, prompt in pairs], seed
                                   ) if pairs else None
    rows = [(row, json.dumps(row["prompt"])) for row in table]
    verdicts = [(verdict, order[0], prompt) for row, prompt in rows for order, verdict in row["verdicts"].items()]
    both = [(set(row["verdicts"].values()), prompt) for row, prompt in rows]
    return {
        **_rates([(row, prompt) for row, prompt in rows if row["outcome"] is not None], seed),
        "outcomes": {name: sum(row["outcome"] == value for row in table)
                     for name, value in (("win", "win"), ("tie", "tie"), ("loss", "loss"), ("none", None))},
        "position_consistency": mean([(len(own) == 1, prompt) for own, prompt in both if None not in own]),
        "first_wins": mean([(verdict == first, prompt) for verdict, first, prompt in verdicts if verdict in SIDES]),
        "invalid_verdicts": mean([(verdict is None, prompt) for verdict, _, prompt in verdicts]),
        **{f"words_{side}": mean([(row[f"words_{side}"], prompt) for row, prompt in rows]) for side in SIDES},
        "identical_answers": sum(row["answer_a"] == row["answer_b"] for row in table)}


def _rates(rows: Sequence[tuple[Mapping[str, Any], str]], seed: int) -> dict[str, Any]:
    """Computes the measures of rows with an outcome, given with their prompts."""
    if not rows:
        return dict.fromkeys((*SHARES, "length_controlled_win_rate", "sign_test_p"))
    outcomes, prompts = [row["outcome"] for row, _ in rows], [prompt for _, prompt in rows]
    differences = [row["words_a"] - row["words_b"] for row, _ in rows]
    return {**shares(outcomes, prompts, seed),
            "length_controlled_win_rate": length_controlled(scores_of(outcomes), differences, prompts),
            "sign_test_p": sign_test(outcomes, prompts)}
