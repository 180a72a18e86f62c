"""`jaxllm score`: log-probabilities of given completions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.files import write_jsonl
from jaxllm.generate.adapted import RowsConfig, load_adapted
from jaxllm.generate.report import scored
from jaxllm.generate.scoring import score
from jaxllm.job import Job, open_job
from jaxllm.progress import bar
from jaxllm.text.rows import Rejected, check_share, read_rows


@dataclass(frozen=True)
class Config(RowsConfig):
    """Log-probability of each row's completion after its prompt, at temperature 1.

    Both are tokenised as one text, and a token that spans the border counts with the completion; no end token
    is added.

    Args:
        data: rows {id?, prompt, completion}.
        seed: recorded only; nothing here is random.
    """


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        found = read_rows(config.data.path, {"prompt": str, "completion": str}, {"id": Any}, config.data.limit_bad,
                          job.rejected_path, config.data.limit)
        job.pin("data", found.rows)
        return job.already_done() if job.finished else _run(config, job, found)


def _run(config: Config, job: Job, found) -> Path:
    model = load_adapted(config)
    window = model.spec.max_positions
    rows, pairs, rejected = [], [], list(found.rejected)
    for line, row in zip(found.lines, found.rows, strict=True):
        prompt, completion = model.pair_ids(row["prompt"], row["completion"])
        reason = None
        if not prompt:
            reason = "nothing stands before the completion's first token, and the model has no begin token"
        elif len(prompt) + len(completion) > window:
            reason = f"{len(prompt) + len(completion)} tokens do not fit the context window of {window}"
        if reason is None:
            rows.append((line, row))
            pairs.append((prompt, completion))
        else:
            rejected.append(Rejected(config.data.path, line, reason, json.dumps(row, ensure_ascii=False)[:1000]))
    job.write_rejected(rejected)
    check_share(len(rows), rejected, config.data.limit_bad)
    with bar(len(pairs), "score", "rows") as show:
        scores = score(model, pairs, batch_size=config.batch_size, dtype=config.device.compute_dtype,
                       on_batch=job.progress(show))
    done = [{"id": row.get("id", line), "logprob": one.logprob, "tokens": one.tokens}
            for (line, row), one in zip(rows, scores, strict=True)]
    write_jsonl(job.directory / "rows.jsonl", done)
    tokens = sum(one.tokens for one in scores)
    result = {
        "rows": len(rows), "rejected": len(rejected), "tokens": tokens,
        "mean_logprob": float(np.mean([one.logprob for one in scores])),
        "nats_per_token": -sum(one.logprob for one in scores) / max(tokens, 1)}
    job.write_report("Scored texts", f"{len(rows):,} completions scored by {config.model}.",
                     scored(result, done, [(row["prompt"], row["completion"]) for _, row in rows]))
    return job.write_result(result)
