"""`jaxllm score`: log-probabilities of given completions, or what a classifier makes of given texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.generate.classify import classify
from jaxllm.generate.common import ID, RowsConfig, encode_rows, load_adapted, pin_inputs
from jaxllm.generate.report import classified, scored
from jaxllm.generate.scoring import score
from jaxllm.job import Job, open_job
from jaxllm.models import load_spec
from jaxllm.progress import bar
from jaxllm.text.model import Model
from jaxllm.text.rows import Message, RowSet, read_rows


@dataclass(frozen=True)
class Config(RowsConfig):
    """Log-probability of each row's completion after its prompt, at temperature 1; or the scores of a classifier.

    Prompt and completion are tokenised as one text, and a token that spans the border counts with the completion; no
    end token is added. With a model that has a scoring head (a sequence classifier, a reward model) the rows are texts,
    pairs of texts or conversations, read with the special tokens that the tokenizer adds.

    Args:
        data: rows {id?, prompt, completion}; for a classifier {id?, text}, {id?, text, text_pair} or {id?, messages}.
        seed: recorded only; nothing here is random.
    """


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        classifies = load_spec(config.model).head is not None
        required = {} if classifies else {"prompt": str, "completion": str}
        optional = {"text": str, "text_pair": str, "messages": list[Message]} if classifies else {}
        found = read_rows(config.data.path, required, optional | {"id": ID}, config.data.limit_bad,
                          job.rejected_path, config.data.limit)
        pin_inputs(config, job, found)
        if job.finished:
            return job.already_done()
        return (_classify if classifies else _score)(config, job, found, load_adapted(config))


def _score(config: Config, job: Job, found: RowSet, model: Model) -> Path:
    def encode(_: int, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        prompt, completion = model.pair_ids(row["prompt"], row["completion"])
        if not prompt:
            raise UserError("nothing stands before the completion's first token, and the model has no begin token")
        _check_length(model, len(prompt) + len(completion))
        return prompt, completion

    rows, pairs, rejected = encode_rows(config, job, found, encode)
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


def _classify(config: Config, job: Job, found: RowSet, model: Model) -> Path:
    def encode(_: int, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        ids, types = _text_ids(model, row)
        if not ids:
            raise UserError("the text is empty, and the tokenizer adds no token to it")
        _check_length(model, len(ids))
        return ids, types

    rows, texts, rejected = encode_rows(config, job, found, encode)
    with bar(len(texts), "score", "rows") as show:
        scores = classify(model, texts, batch_size=config.batch_size, dtype=config.device.compute_dtype,
                          on_batch=job.progress(show))
    done = [{"id": row.get("id", line), "score": one, "tokens": len(ids)}
            for (line, row), one, (ids, _) in zip(rows, scores, texts, strict=True)]
    write_jsonl(job.directory / "rows.jsonl", done)
    head = model.spec.head
    labels = head.label_names or [f"score {i + 1}" for i in range(head.labels)]
    result = {"rows": len(rows), "rejected": len(rejected), "tokens": sum(row["tokens"] for row in done),
              "labels": list(labels), "mean_score": np.mean(scores, axis=0).tolist(),
              "highest": np.bincount(np.argmax(scores, axis=1), minlength=head.labels).tolist()}
    job.write_report("Scored texts", f"{len(rows):,} texts scored by {config.model}.",
                     classified(result, done, [row for _, row in rows]))
    return job.write_result(result)


def _text_ids(model: Model, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Ids and types of a text, a pair of texts, or a conversation."""
    text, pair, messages = row.get("text"), row.get("text_pair"), row.get("messages")
    if (text is None) == (messages is None) or (messages is not None and pair is not None):
        raise UserError("a row has either text (and perhaps text_pair) or messages")
    if messages is not None:
        ids = model.tokenizer.chat(messages, add_generation_prompt=False)
        return ids, [0] * len(ids)
    return model.tokenizer.whole(text, pair)


def _check_length(model: Model, length: int) -> None:
    if length > model.spec.max_positions:
        raise UserError(f"{length} tokens do not fit the context window of {model.spec.max_positions}")
