"""`jaxllm compare`: how often the answers of one model are better than those of another, by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
from jaxllm.evaluate.comparison.measures import SIDES, Side, compared
from jaxllm.evaluate.comparison.report import sections
from jaxllm.evaluate.comparison.verdicts import VERDICTS, Pair, judge_pairs, outcome_rows, score_pairs
from jaxllm.files import iter_jsonl, write_jsonl
from jaxllm.generate.rows_job import ID
from jaxllm.job import Job, open_job
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.progress import notice
from jaxllm.text.rows import Message, Rejected, RowSet, as_text, check_share, data_files, read_rows


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    with open_job(config.out, config, "compare") as job:
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
    summary = (score_pairs(config, job, pairs) if config.form == "score" else
               judge_pairs(config.judging, job, pairs))
    table = outcome_rows(config, pairs, iter_jsonl(job.directory / VERDICTS))
    write_jsonl(job.rows_path, table)
    if all(row["outcome"] is None for row in table):
        notice(f"none of {len(table)} prompts has an outcome; the reasons are in {job.directory / VERDICTS}")
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
