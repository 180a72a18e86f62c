"""`jaxllm score`: log-probabilities of given completions, or scores of a classifier or reward model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxllm.errors import UserError
from jaxllm.generate.generator import Generator
from jaxllm.generate.report import classified, compared, prompt_text, scored
from jaxllm.generate.rows_job import ID, RowsConfig, encode_rows, load_generator, pin_inputs
from jaxllm.job import Job, open_job
from jaxllm.measures import class_measures, length_measures, pair_measures, reward_bench
from jaxllm.model import Model, warn_of_text_prompt
from jaxllm.models import Adapter, load_spec
from jaxllm.models.peft import adapter_head
from jaxllm.progress import bar
from jaxllm.text.examples import encode_example, reward_text_ids
from jaxllm.text.forms import class_number, split_pair
from jaxllm.text.rows import Message, RowSet, read_rows

T = TypeVar("T")
# Rows that are scored together and then written.
ROWS_PER_CHUNK = 512
# Columns of the rows for a model with a scoring head.
SCORED: dict[str, Any] = {"text": str, "text_pair": str, "messages": list[Message], "prompt": str | list[Message],
                          "completion": str, "label": int | str, "chosen": str | list[Message],
                          "rejected": str | list[Message], "subset": str}


@dataclass(frozen=True)
class Config(RowsConfig):
    """Computes the log-probability of each row's completion after its prompt, at temperature 1, or the scores of a
    classifier.

    A text prompt and its completion are tokenized as one text, and a token that spans the border counts with the
    completion; no end token is added. The completion of messages is the assistant's next turn in the chat template,
    with the token that ends it. With a model that has a scoring head (a sequence classifier, a reward model), its own
    or that of the adapter, the rows are texts, pairs of texts or conversations, read with the special tokens that the
    tokenizer adds. A prompt with a completion, or with a chosen and a rejected one, is read as in the training of a
    reward model: messages in the chat template, plain text with an end token. Chosen and rejected completions give the
    accuracy of a reward model, in total and per `subset`, as RewardBench does; labels give that of a classifier.

    Args:
        batch_size: texts that run together with a scoring head; changes speed and memory. Without one, completions are
            packed by their tokens instead.
        data: rows {id?, prompt, completion}, the prompt a text or messages; for a classifier {id?, text, label?},
            {id?, text, text_pair, label?}, {id?, messages, label?} or {id?, prompt, completion, label?}; for a reward
            model also {id?, prompt, chosen, rejected, subset?}.
        seed: seed of the resampling for intervals; nothing else here is random.
    """


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json."""
    with open_job(config.out, config, "score") as job:
        classifies = _classifies(config)
        required = {} if classifies else {"completion": str}
        optional = SCORED if classifies else {"prompt": str | list[Message], "messages": list[Message]}
        found = read_rows(config.data.path, required, optional | {"id": ID}, config.data.limit_bad,
                          job.rejected_path, config.data.limit)
        pin_inputs(config, job)
        if job.finished:
            return job.already_done()
        run_rows = _score
        if classifies:
            run_rows = _compare if any("chosen" in row for row in found.rows) else _classify
        return run_rows(config, job, found, *load_generator(config))


def _classifies(config: Config) -> bool:
    """Whether the model has a scoring head, its own or that of the adapter."""
    spec = load_spec(config.model)
    if config.adapter is not None:
        spec, _ = adapter_head(config.adapter, spec)
    return spec.head is not None


def _score(config: Config, job: Job, found: RowSet, generator: Generator, adapter: Adapter | None) -> Path:
    model = generator.model

    def encode(_: int, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        given = _prompt_of(row)
        if isinstance(given, str):
            warn_of_text_prompt(model, given)
            prompt, completion = model.pair_ids(given, row["completion"])
        else:
            example = encode_example(model.tokenizer, messages=given, completion=row["completion"])
            end = int(np.flatnonzero(example.loss_mask)[-1]) + 1
            prompt, completion = (part.tolist() for part in np.split(example.ids[:end], [example.prompt_length]))
        if not prompt:
            raise UserError("the prompt is empty, and the model has no begin token to start from")
        _check_length(model, len(prompt) + len(completion))
        return np.array(prompt, np.int32), np.array(completion, np.int32)

    rows, pairs, rejected = encode_rows(config, job, found, encode)
    score = lambda chunk, on_batch: [{"logprob": row.logprob, "tokens": row.tokens} for row in generator.score(
        chunk, adapter=adapter, on_batch=on_batch)]
    done = _by_chunks(job, rows, pairs, score)
    tokens, total = sum(row["tokens"] for row in done), sum(row["logprob"] for row in done)
    result = {"rows": len(rows), "rejected": len(rejected), "tokens": tokens, "mean_logprob": total / len(done),
              "nats_per_token": -total / max(tokens, 1)}
    job.write_report("Scored texts", f"{len(rows):,} completions scored by {config.model}.",
                     scored(result, done, [(prompt_text(_prompt_of(row)), row["completion"]) for _, row in rows]))
    return job.write_result(result)


def _prompt_of(row: dict[str, Any]) -> str | list[Message]:
    """Returns the prompt of a row: a text or messages."""
    given = [row[name] for name in ("prompt", "messages") if row.get(name) is not None]
    if len(given) != 1:
        raise UserError("a row has either prompt or messages")
    return given[0]


def _classify(config: Config, job: Job, found: RowSet, generator: Generator, adapter: Adapter | None) -> Path:
    model, labeled = generator.model, any("label" in row for row in found.rows)
    head = model.spec.head
    classes = head.label_names
    if head.labels == 1 and classes:  # the score is that of class 1 against class 0
        classes = (f"not {classes[0]}", *classes)
    class_of = lambda row: _class_of(row, head.labels, classes)

    def encode(_: int, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        if labeled:
            class_of(row)
        ids, types = _text_ids(model, row)
        if not ids:
            raise UserError("the text is empty, and the tokenizer adds no token to it")
        _check_length(model, len(ids))
        return np.array(ids, np.int32), np.array(types, np.int32)

    rows, texts, rejected = encode_rows(config, job, found, encode)
    classify = lambda chunk, on_batch: [{"score": scores, "tokens": len(ids)} for scores, (ids, _) in zip(
        generator.classify(chunk, adapter=adapter, on_batch=on_batch), chunk, strict=True)]
    done = _by_chunks(job, rows, texts, classify)
    scores = [row["score"] for row in done]
    labels = head.label_names or [f"score {i + 1}" for i in range(head.labels)]
    result = {"rows": len(rows), "rejected": len(rejected), "tokens": sum(row["tokens"] for row in done),
              "labels": list(labels), "mean_score": np.mean(scores, axis=0).tolist()}
    if head.labels > 1:
        result["highest"] = np.bincount(np.argmax(scores, axis=1), minlength=head.labels).tolist()
    if labeled:
        result |= class_measures(scores, [class_of(row) for _, row in rows], classes, config.seed)
    job.write_report("Scored texts", f"{len(rows):,} texts scored by {config.model}.",
                     classified(result, done, [row for _, row in rows]))
    return job.write_result(result)


def _class_of(row: dict[str, Any], labels: int, names: Sequence[str]) -> int:
    """Returns the number of a row's label, which may be a name; a single score distinguishes classes 0 and 1."""
    label, count = row.get("label"), max(labels, 2)
    number = class_number(label, names, count)
    if number is None:
        known = f", or one of {', '.join(names)}" if names else ""
        raise UserError(f"label must be a number from 0 to {count - 1}{known}; found {label!r}")
    return number


def _compare(config: Config, job: Job, found: RowSet, generator: Generator, adapter: Adapter | None) -> Path:
    model = generator.model
    if model.spec.head.labels != 1:
        raise UserError(f"answers are compared by one score, and the model gives {model.spec.head.labels}", "model",
                        "use a reward model")

    def encode(_: int, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        prompt, *answers = split_pair(row)
        chosen, rejected = (reward_text_ids(model.tokenizer, prompt, answer) for answer in answers)
        _check_length(model, max(len(chosen), len(rejected)))
        return chosen, rejected

    def compare(chunk: Sequence[tuple[list[int], list[int]]], on_batch: Callable[[int], None]) -> list[dict[str, Any]]:
        texts = [(ids, [0] * len(ids)) for pair in chunk for ids in pair]
        scores = [score for (score,) in generator.classify(texts, adapter=adapter,
                                                           on_batch=lambda done: on_batch(done // 2))]
        return [{"chosen": chosen, "rejected": rejected, "tokens": [len(ids) for ids in pair]}
                for chosen, rejected, pair in zip(scores[::2], scores[1::2], chunk, strict=True)]

    rows, pairs, rejected_rows = encode_rows(config, job, found, encode)
    done = _by_chunks(job, rows, pairs, compare)
    chosen, rejected = ([row[name] for row in done] for name in ("chosen", "rejected"))
    lengths, prompts = np.array([row["tokens"] for row in done]), {}
    # Pairs with equal prompts are dependent.
    groups = [prompts.setdefault(json.dumps(split_pair(row)[0]), len(prompts)) for _, row in rows]
    result = {"rows": len(rows), "rejected": len(rejected_rows), "tokens": int(lengths.sum()),
              **pair_measures(chosen, rejected, groups if len(prompts) < len(rows) else None, config.seed),
              "length": length_measures(lengths[:, 0], lengths[:, 1], np.greater(chosen, rejected))}
    if any("subset" in row for _, row in rows):
        result |= reward_bench(chosen, rejected, [row.get("subset", "") for _, row in rows])
    job.write_report("Compared answers", f"{len(rows):,} pairs of answers scored by {config.model}.",
                     compared(result, done, [row for _, row in rows]))
    return job.write_result(result)


def _by_chunks(job: Job, rows: Sequence[tuple[int, dict[str, Any]]], inputs: Sequence[T],
               measure: Callable[[Sequence[T], Callable[[int], None]], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Measures the inputs chunk by chunk, and writes each chunk's rows before the next one begins.

    A stopped job repeats the whole chunk in which it was stopped, so that its numbers are the same.

    Args:
        job: the job; rows are appended to its rows.jsonl.
        rows: line and row of every input.
        inputs: inputs of all rows.
        measure: from a chunk and a progress callback to the results of its rows.

    Returns:
        All rows, those written before a restart too.
    """
    start = job.rows_written()
    with bar(len(rows), "score", "rows", done=start) as show:
        listen = job.progress(show)
        for first in range(start - start % ROWS_PER_CHUNK, len(rows), ROWS_PER_CHUNK):
            chunk = range(first, min(first + ROWS_PER_CHUNK, len(rows)))
            measured = measure([inputs[i] for i in chunk], partial(_show_from, show, first, start))
            for i, result in zip(chunk, measured, strict=True):
                if i >= start:
                    line, row = rows[i]
                    job.row({"id": row.get("id", line), **result})
            listen(chunk.stop)
    return list(job.iter_rows())


def _show_from(show: Callable[[int], None], first: int, start: int, done: int) -> None:
    show(max(first + done, start))


def _text_ids(model: Model, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Encodes a text, a pair of texts, a conversation, or a prompt with its completion into ids and token types."""
    text, pair, messages, prompt = (row.get(name) for name in ("text", "text_pair", "messages", "prompt"))
    if (text, messages, prompt).count(None) != 2 or (pair is not None and text is None) or (
            prompt is not None and "completion" not in row):
        raise UserError("a row has either text (and perhaps text_pair) or messages or prompt and completion")
    if prompt is not None:
        ids = reward_text_ids(model.tokenizer, prompt, row["completion"])
        return ids, [0] * len(ids)
    if messages is not None:
        ids = model.tokenizer.chat(messages, add_generation_prompt=False)
        return ids, [0] * len(ids)
    return model.tokenizer.whole(str(text), pair)


def _check_length(model: Model, length: int) -> None:
    if length > model.spec.max_positions:
        raise UserError(f"{length} tokens do not fit the context window of {model.spec.max_positions}")
