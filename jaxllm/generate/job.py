"""`jaxllm generate`: completes a file of prompts."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate.completion import Completion
from jaxllm.generate.report import SHOWN_ROWS, generated
from jaxllm.generate.rows_job import ID, RowsConfig, encode_rows, load_generator, pin_inputs
from jaxllm.generate.scheduler import check_prompt
from jaxllm.job import Job, open_job
from jaxllm.model import Model, check_lm, warn_of_text_prompt
from jaxllm.progress import bar
from jaxllm.text.rows import Message, RowSet, read_rows

# Rows between two lines of metrics.jsonl.
METRICS_ROWS = 100


@dataclass(frozen=True)
class Config(RowsConfig):
    """Completes prompts or answers conversations.

    Args:
        data: rows {id?, prompt} or {id?, messages}; max_tokens in a row overrides sampling.max_tokens.
        sampling: decoding settings.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def prompt_ids(model: Model, row: dict[str, Any], where: str) -> list[int]:
    """Encodes a row's prompt or conversation."""
    given = [name for name in ("prompt", "messages") if row.get(name) is not None]
    if len(given) != 1:
        raise UserError(f"{'both' if given else 'neither'} prompt {'and' if given else 'nor'} messages", where,
                        "give every row one of the two")
    if given == ["messages"]:
        return model.tokenizer.chat_prompt(row["messages"])
    warn_of_text_prompt(model, row["prompt"])
    return model.prompt_ids(row["prompt"])


def row_writer(job: Job, rows: Sequence[tuple[int, dict[str, Any]]], start: int,
               show: Callable[..., None]) -> Callable[[int, list[Completion]], None]:
    """Returns a function that writes and shows the completions of a prompt, given its index from row `start` on."""
    # The bar counts finished rows; the metrics, those that are written, which may be fewer.
    write, listen, began = job.in_order(start), job.progress(lambda _: None), time.monotonic()
    taken, tokens, noted = start, 0, start

    def take(number: int, completions: list[Completion]) -> None:
        nonlocal taken, tokens, noted
        line, row = rows[start + number]
        prompt = row["prompt"] if row.get("messages") is None else row["messages"]
        written = write(start + number, {"id": row.get("id", line), "prompt": prompt, "completions": [
            {"text": c.text, "token_ids": c.token_ids, "logprob": c.logprob, "finish_reason": c.finish_reason}
            for c in completions]})
        taken, tokens = taken + 1, tokens + sum(len(completion.token_ids) for completion in completions)
        show(taken, f"{tokens / max(time.monotonic() - began, 1e-9):,.0f} tokens/s")
        if written // METRICS_ROWS > noted // METRICS_ROWS or written == len(rows):
            listen(written)
        noted = written

    return take


def run(config: Config) -> Path:
    """Runs the job, or resumes it; returns the path of its result.json."""
    with open_job(config.out, config, "generate") as job:
        fields = {"id": ID, "prompt": str, "messages": list[Message], "max_tokens": int}
        found = read_rows(config.data.path, {}, fields, config.data.limit_bad, job.rejected_path, config.data.limit)
        pin_inputs(config, job)
        return job.already_done() if job.finished else _run(config, job, found)


def _run(config: Config, job: Job, found: RowSet) -> Path:
    check_lm(config.model, config.adapter, "generate text")
    generator, adapter = load_generator(config)
    model = generator.model

    def encode(line: int, row: dict[str, Any]) -> np.ndarray:
        where = f"{config.data.path}:{line}"
        ids, limit = prompt_ids(model, row, where), row.get("max_tokens", config.sampling.max_tokens)
        if limit < 1:
            raise UserError(f"max_tokens must be 1 or more, got {limit}", where)
        check_prompt(ids, limit, model.spec, where)
        return np.array(ids, np.int32)

    rows, prompts, rejected = encode_rows(config, job, found, encode)
    start = job.rows_written()
    with bar(len(rows), "generate", "rows", done=start) as show:
        generator.generate(prompts[start:], config.sampling, adapter=adapter, seed=config.seed,
                           row_ids=[line - 1 for line, _ in rows[start:]], on_prompt=row_writer(job, rows, start, show),
                           max_tokens=[row.get("max_tokens", config.sampling.max_tokens) for _, row in rows[start:]])
    lengths, reasons = [], collections.Counter()
    for row in job.iter_rows():
        lengths += [len(completion["token_ids"]) for completion in row["completions"]]
        reasons.update(completion["finish_reason"] for completion in row["completions"])
    result = {"rows": len(rows), "rejected": len(rejected), "tokens": sum(lengths),
              "finished": {reason: reasons[reason] for reason in ("stop", "length")}}
    job.write_report("Completions", f"{len(rows):,} prompts completed by {config.model}.",
                     generated(result, lengths, itertools.islice(job.iter_rows(), SHOWN_ROWS)))
    return job.write_result(result)
