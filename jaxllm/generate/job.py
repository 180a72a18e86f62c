"""`jaxllm generate`: a file of prompts in, a file of completions out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate.completion import Completion
from jaxllm.generate.engine import check_prompt, generate
from jaxllm.generate.report import generated
from jaxllm.generate.rows_job import ID, RowsConfig, encode_rows, load_adapted, open_mesh, pin_inputs
from jaxllm.job import Job, open_job
from jaxllm.model import Model
from jaxllm.progress import bar
from jaxllm.text.rows import Message, read_rows

# Rows between two lines of metrics.jsonl.
NOTED = 100


@dataclass(frozen=True)
class Config(RowsConfig):
    """Completes prompts or answers conversations.

    Args:
        data: rows {id?, prompt} or {id?, messages}; with max_tokens a row has a limit of its own.
        sampling: how tokens are drawn.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def prompt_ids(model: Model, row: dict[str, Any], where: str) -> list[int]:
    """Ids of a row's prompt or conversation."""
    given = [name for name in ("prompt", "messages") if row.get(name) is not None]
    if len(given) != 1:
        raise UserError(f"{'both' if given else 'neither'} prompt {'and' if given else 'nor'} messages", where,
                        "give every row one of the two")
    if given == ["messages"]:
        return model.tokenizer.chat(row["messages"])
    return model.prompt_ids(row["prompt"])


def writer(job: Job, rows: Sequence[tuple[int, dict[str, Any]]], start: int,
           show: Callable[..., None]) -> Callable[[int, list[Completion]], None]:
    """What takes a prompt's number, counted from `start`, and its completions, and writes and shows them."""
    write, listen, began = job.in_order(start), job.progress(show), time.monotonic()
    taken, tokens, noted = start, 0, start

    def take(number: int, completions: list[Completion]) -> None:
        nonlocal taken, tokens, noted
        line, row = rows[start + number]
        asked = row["prompt"] if row.get("messages") is None else row["messages"]
        written = write(start + number, {"id": row.get("id", line), "prompt": asked, "completions": completions})
        taken, tokens = taken + 1, tokens + sum(len(one.token_ids) for one in completions)
        show(taken, f"{tokens / max(time.monotonic() - began, 1e-9):,.0f} tokens/s")
        if written // NOTED > noted // NOTED or written == len(rows):
            listen(written)
        noted = written

    return take


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        fields = {"id": ID, "prompt": str, "messages": list[Message], "max_tokens": int}
        found = read_rows(config.data.path, {}, fields, config.data.limit_bad, job.rejected_path, config.data.limit)
        pin_inputs(config, job, found)
        return job.already_done() if job.finished else _run(config, job, found)


def _run(config: Config, job: Job, found) -> Path:
    model = load_adapted(config)
    if model.spec.head is not None:
        raise UserError("the model scores texts and does not continue them", config.model, "use jaxllm score")

    def encode(line: int, row: dict[str, Any]) -> list[int]:
        where = f"{config.data.path}:{line}"
        ids, limit = prompt_ids(model, row, where), row.get("max_tokens", config.sampling.max_tokens)
        if limit < 1:
            raise UserError(f"max_tokens must be 1 or more, got {limit}", where)
        check_prompt(ids, limit, model.spec.max_positions, where)
        return ids

    rows, prompts, rejected = encode_rows(config, job, found, encode)
    start = len(job.rows_done())
    with bar(len(rows), "generate", "rows", done=start) as show:
        generate(model, prompts[start:], config.sampling, seed=config.seed, places=range(start, len(rows)),
                 batch_size=config.batch_size, dtype=config.device.compute_dtype, mesh=open_mesh(config),
                 on_prompt=writer(job, rows, start, show),
                 max_tokens=[row.get("max_tokens", config.sampling.max_tokens) for _, row in rows[start:]])
    done = job.rows_done()
    everything = [completion for row in done for completion in row["completions"]]
    result = {
        "rows": len(rows), "rejected": len(rejected),
        "tokens": sum(len(completion["token_ids"]) for completion in everything),
        "finished": {reason: sum(c["finish_reason"] == reason for c in everything) for reason in ("stop", "length")}}
    job.write_report("Completions", f"{len(rows):,} prompts completed by {config.model}.", generated(result, done))
    return job.write_result(result)
