"""`jaxllm judge`: whether programs are right, without running them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxllm.codejudge.comparing import check_compared, compared, flips
from jaxllm.codejudge.config import Config
from jaxllm.codejudge.data import Item, read_code, read_items, with_edits
from jaxllm.codejudge.export import export_rows
from jaxllm.codejudge.judging import CodeJudge
from jaxllm.codejudge.pairs import judge_pairs, pair_measures
from jaxllm.codejudge.prompts import Prompts, load_prompts
from jaxllm.codejudge.report import pair_sections, sections, verdict_text
from jaxllm.codejudge.results import check_validation, summarize
from jaxllm.errors import UserError
from jaxllm.files import expanded, iter_jsonl, write_jsonl
from jaxllm.job import Job, open_job
from jaxllm.judge import open_judge
from jaxllm.limits import require_limits
from jaxllm.progress import notice
from jaxllm.text.rows import Rejected, data_files

__all__ = ["Config", "run"]


def run(config: Config) -> Path | None:
    """Runs the job, or resumes it; returns the path of its result.json, or None where nothing is written.

    Raises:
        UserError: the programs, the prompts or the judge cannot be used.
        LimitError: a measure is below `fail_under`.
    """
    if config.out is not None:
        return _run(config, config.out)
    with tempfile.TemporaryDirectory() as folder:
        _run(config, Path(folder) / "judged")
    return None


def _run(config: Config, out: Path) -> Path:
    prompts = load_prompts(config.prompts)
    if unknown := set(config.weights) - set(prompts.weights):
        raise UserError(f"there is no severity {sorted(unknown)[0]!r}", "weights",
                        f"severities are {', '.join(prompts.weights)}")
    others = None if config.compare is None else _other_rows(config.compare)
    with open_job(out, config, "judge") as job:
        items, rejected = _read(config, job)
        if others is not None and config.compare is not None:
            check_compared(items, others, config.compare)
        job.pin("prompts", prompts.sha256)
        if job.finished:
            path, result = job.already_done(), job.result()
        else:
            result = _judge(config, job, prompts, items, rejected, others)
            path = job.write_result(result)
        if config.code:
            for row in job.iter_rows():
                print(verdict_text(row))
        require_limits(config.fail_under, result, None if config.out is None else path)
        return path


def _read(config: Config, job: Job) -> tuple[list[Item], list[Rejected]]:
    """Reads the programs; those of a stopped job must be the same."""
    if config.data is None:
        items, rejected = read_code(config.task or "", config.code, config.language)
        job.pin("code", [(item.id, item.candidate) for item in items])
        job.write_rejected(map(asdict, rejected))
        for one in rejected:
            notice(f"{one.file}: {one.reason}")
        return items, rejected
    data = config.data
    validation = [config.validation.subset] if config.validation.subset is not None else []
    subsets = None if config.subset is None else [config.subset, *validation]
    items, found = read_items(data.path, data.limit, data.limit_bad, subsets, config.problems, job.rejected_path)
    check_validation(config, items)
    job.pin_file("data", data_files(data.path), data.limit)
    if config.problems is not None:
        job.pin_file("problems", data_files(config.problems))
    return items, found.rejected


def _judge(config: Config, job: Job, prompts: Prompts, items: Sequence[Item], rejected: Sequence[Rejected],
           others: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    judge = open_judge(config.judge, config.device, job.directory)
    common = {"method": config.method, "prompts_sha256": prompts.sha256, "rejected": len(rejected)}
    title = f"Verdicts by {config.method}"
    if config.method == "pairwise":
        rows = judge_pairs(job, judge, items, config, prompts)
        if not rows:
            raise UserError("there is no group with a right and a wrong program in one language",
                            "data.path" if config.data else "code", "pairwise needs rows with labels")
        write_jsonl(job.rows_path, rows)
        result = common | pair_measures(rows, config.seed)
        job.write_report(title, f"{len(rows):,} pairs of a right and a wrong program, in both orders.",
                         pair_sections(result, rows, items))
        return result
    asker = CodeJudge(judge, config, prompts)
    rows = list(asker.run(job, items))
    write_jsonl(job.rows_path, rows)
    result = common | summarize(config, items, rows, len(rejected) if config.code else 0)
    if config.robustness:
        edited = with_edits(items, config.robustness)
        changed = list(asker.run(job, edited, "robustness_"))
        write_jsonl(job.directory / "robustness.jsonl", changed)
        result["robustness"] = flips(config, items, rows, edited, changed)
    if others is not None:
        result["compared"] = compared(config, items, rows, others)
    if config.export is not None:
        exported = list(export_rows(asker, items, rows, config.export))
        write_jsonl(job.directory / "export.jsonl", exported)
        result["exported"] = len(exported)
        if not exported:
            notice(f"export.jsonl is empty: no row has a label and "
                   f"{'a right answer' if config.export == 'sft' else 'both a right and a wrong answer'}")
    undecided = sum(row["reason"] is not None for row in rows)
    if undecided:
        where = "" if config.out is None else f"; the reasons are in {job.rows_path}"
        notice(f"{undecided} of {len(rows)} programs have no verdict{where}")
    job.write_report(title, f"{len(rows):,} programs, judged by {judge.identity}.", sections(result, items, rows))
    return result


def _other_rows(directory: str) -> list[dict[str, Any]]:
    path = expanded(directory) / "rows.jsonl"
    if not path.is_file():
        raise UserError("there is no rows.jsonl", directory, "give the --out of another run of jaxllm judge")
    rows = list(iter_jsonl(path))
    if not rows or not {"id", "verdict", "score", "valid"} <= set(rows[0]):
        raise UserError("its rows have no verdicts", path, "give the --out of another run of jaxllm judge")
    return rows
