"""`jaxllm compare`: how often the answers of one model are better than those of another, by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.evaluate.comparison.answers import (
    PromptRow,
    SideAnswer,
    Text,
    generated_answers,
    prompt_refusal,
    prompt_rows,
    recorded_answers,
)
from jaxllm.evaluate.comparison.config import Config
from jaxllm.evaluate.comparison.measures import SIDES, Side, compared, higher, outcome, word_count
from jaxllm.evaluate.comparison.prompts import (
    OPTIONS,
    TEMPLATES,
    chosen_option,
    comparison_prompt,
    parse_ratings,
    parse_verdict,
    verdict_of,
)
from jaxllm.evaluate.comparison.report import sections
from jaxllm.files import iter_jsonl, write_jsonl
from jaxllm.generate.rows_job import ID
from jaxllm.job import Job, open_job
from jaxllm.judge import (
    Completions,
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
from jaxllm.text.rows import Message, Rejected, RowSet, as_text, check_share, data_files, read_rows

# Name of an order of presentation: the judge reads A's answer first, or B's.
ORDERS = ("ab", "ba")


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
    template = TEMPLATES[config.form] if verdict.template is None else verdict.template
    parse = parse_ratings if config.form == "rating" else parse_verdict
    task: Any = Options(OPTIONS) if config.form == "choice" else Completions(
        verdict.sampling, lambda _, answer: parse(answer.text), verdict.attempts)

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
    text = {"text": sample.text, "attempts": sample.attempts}
    if not isinstance(sample.value, list):
        return fields | {"verdict": verdict_of(sample.value, shown.swapped)} | text
    a, b = sample.value[::-1 if shown.swapped else 1]
    return fields | {"verdict": higher(a, b), "ratings": {"a": a, "b": b}} | text


def _outcomes(config: Config, pairs: Sequence[Pair], verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Builds the rows of rows.jsonl from the pairs and the verdicts, two a pair."""
    table = []
    for pair, *both in zip(pairs, verdicts[::2], verdicts[1::2], strict=True):
        own = [line["verdict"] for line in both]
        a, b, decided = None, None, own
        if config.form == "rating" and None not in own:
            a, b = (sum(line["ratings"][side] for line in both) / 2 for side in SIDES)
            decided = [higher(a, b)]
        table.append({"id": pair.row.id, "prompt": pair.row.prompt, "answer_a": pair.a, "answer_b": pair.b,
                      "verdicts": dict(zip(ORDERS, own, strict=True)), "score_a": a, "score_b": b,
                      "outcome": outcome(decided, config.verdict.disagreement),
                      "words_a": word_count(pair.a), "words_b": word_count(pair.b)})
    return table
