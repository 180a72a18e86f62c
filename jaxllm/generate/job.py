"""`jaxllm generate`: a file of prompts in, a file of completions out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate.common import RowsConfig, encode_rows, load_adapted
from jaxllm.generate.engine import check_prompts, generate
from jaxllm.generate.report import generated
from jaxllm.job import Job, open_job
from jaxllm.progress import bar
from jaxllm.text.model import Model
from jaxllm.text.rows import Message, read_rows

# Batches that are generated between two writes: enough for batches of similar length, few enough to lose.
BATCHES_AT_ONCE = 16


@dataclass(frozen=True)
class Config(RowsConfig):
    """Completes prompts or answers conversations.

    Args:
        data: rows {id?, prompt} or {id?, messages}.
        sampling: how tokens are drawn.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def prompt_ids(model: Model, row: dict[str, Any], where: str) -> list[int]:
    """Ids of a row's prompt or conversation."""
    if row.get("messages") is not None:
        return model.tokenizer.chat(row["messages"])
    if row.get("prompt") is None:
        raise UserError("neither prompt nor messages", where, "give every row one of the two")
    return model.prompt_ids(row["prompt"])


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        found = read_rows(config.data.path, {}, {"id": Any, "prompt": str, "messages": list[Message]},
                          config.data.limit_bad, job.rejected_path, config.data.limit)
        job.pin("data", found.rows)
        return job.already_done() if job.finished else _run(config, job, found)


def _run(config: Config, job: Job, found) -> Path:
    model = load_adapted(config)
    if model.spec.head is not None:
        raise UserError("the model scores texts and does not continue them", config.model, "use jaxllm score")

    def encode(line: int, row: dict[str, Any]) -> list[int]:
        ids = prompt_ids(model, row, f"{config.data.path}:{line}")
        check_prompts([ids], config.sampling.max_tokens, model.spec.max_positions)
        return ids

    rows, prompts, rejected = encode_rows(config, job, found, encode)
    written = len(job.rows_done())
    chunk = max(BATCHES_AT_ONCE * config.batch_size // config.sampling.n, 1)
    with bar(len(rows), "generate", "rows") as show:
        listen = job.progress(show)
        for start in range(written, len(rows), chunk):
            results = generate(model, prompts[start:start + chunk], config.sampling, seed=config.seed, first=start,
                               batch_size=config.batch_size, dtype=config.device.compute_dtype,
                               on_batch=lambda done, start=start: show(start + done // config.sampling.n))
            for (line, row), completions in zip(rows[start:start + chunk], results, strict=True):
                asked = row["prompt"] if row.get("messages") is None else row["messages"]
                job.row({"id": row.get("id", line), "prompt": asked, "completions": completions})
            listen(start + len(results))
    done = job.rows_done()
    everything = [completion for row in done for completion in row["completions"]]
    result = {
        "rows": len(rows), "rejected": len(rejected),
        "tokens": sum(len(completion["token_ids"]) for completion in everything),
        "finished": {reason: sum(c["finish_reason"] == reason for c in everything) for reason in ("stop", "length")}}
    job.write_report("Completions", f"{len(rows):,} prompts completed by {config.model}.", generated(result, done))
    return job.write_result(result)
