"""`jaxllm evaluate`: how often a model solves arithmetic problems, or answers questions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxllm.config import SamplingConfig, check
from jaxllm.errors import UserError
from jaxllm.evaluate.gsm8k import STOP_TEXT, is_right
from jaxllm.evaluate.qa import score_answer
from jaxllm.generate.completion import Completion
from jaxllm.generate.rows_job import ID, RowsConfig, encode_rows, load_generator, pin_inputs
from jaxllm.generate.scheduler import check_prompt
from jaxllm.job import Job, open_job
from jaxllm.measures import pass_at_k
from jaxllm.model import Model, check_lm
from jaxllm.progress import bar
from jaxllm.report import Section, Table
from jaxllm.statistics import rate
from jaxllm.text.rows import RowSet, read_rows
from jaxllm.text.templates import fields_of, fill
from jaxllm.text.thinking import opening_tag_of, without_thinking

# A worked example of ours, in the form of the data set's prompts.
EXAMPLE = """\
Question: A gardener plants 4 rows of 6 tulips and 5 roses. How many flowers does she plant?
Answer: 4 rows of 6 tulips are 4 * 6 = 24 tulips. With the roses these are 24 + 5 = 29 flowers. The answer is 29.

"""
TEMPLATES = {"gsm8k": {"plain": EXAMPLE + "Question: {question}\nAnswer:",
                       "chat": "{question}\nThink step by step, and end with the sentence: The answer is N."},
             "qa": {"plain": "{context}\nQuestion: {question} Answer:", "chat": "{context}\n\n{question}"}}
STOPS = {"gsm8k": {"plain": [STOP_TEXT], "chat": []}, "qa": {"plain": ["\n"], "chat": []}}
_COLUMNS: dict[str, dict[str, Any]] = {"gsm8k": {"question": str, "answer": str},
                                       "qa": {"question": str, "answers": list[str]}}
# Rows that the report shows.
_SHOWN = 100


@dataclass(frozen=True)
class Config(RowsConfig):
    """Measures how often a model solves arithmetic problems (gsm8k), or answers questions (qa).

    Args:
        task: gsm8k, rows {question, answer} with the right number after ####; or qa, rows {question, answers} and
            perhaps {context}.
        template: prompt, with columns of a row in braces; null takes that of the task, with one worked example for
            gsm8k where prompts are plain.
        format: encoding of prompts. chat: one user message in the model's chat template; plain: text that the model
            continues; auto: chat where the model has a chat template.
        sampling: decoding settings; stop texts of the task are added.
        k: numbers of samples for pass@k, at most sampling.n.
    """

    task: Literal["gsm8k", "qa"] = "gsm8k"
    template: str | None = None
    format: Literal["auto", "chat", "plain"] = "auto"
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=256))
    k: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self):
        super().__post_init__()
        check(all(1 <= k <= self.sampling.n for k in self.k), "k",
              f"pass@k is known for k from 1 to sampling.n, which is {self.sampling.n}, got {self.k}",
              "raise sampling.n, or lower k")
        check(self.template is None or bool(fields_of(self.template)), "template", "has no column in braces")


def run(config: Config) -> Path:
    """Runs the job, or resumes it; returns the path of its result.json."""
    with open_job(config.out, config, "evaluate") as job:
        columns = _COLUMNS[config.task]
        if config.template is not None:
            columns = columns | {name: Any for name in fields_of(config.template) if name not in columns}
        found = read_rows(config.data.path, columns, {"id": ID, "context": str}, config.data.limit_bad,
                          job.rejected_path, config.data.limit)
        pin_inputs(config, job)
        return job.already_done() if job.finished else _run(config, job, found)


def _run(config: Config, job: Job, found: RowSet) -> Path:
    check_lm(config.model, config.adapter, "answer")
    generator, adapter = load_generator(config)
    model = generator.model
    mode, template = prompt_form(config, model)
    stops = [*config.sampling.stop, *STOPS[config.task][mode]]
    sampling = replace(config.sampling, stop=list(dict.fromkeys(stops)))

    def encode(line: int, row: dict[str, Any]) -> np.ndarray:
        if config.task == "gsm8k":
            is_right("", row["answer"])  # an answer without a number is an error of the row
        text = fill(template, {"context": ""} | row).strip("\n")
        ids = model.prompt_ids(text) if mode == "plain" else model.tokenizer.chat_prompt(
            [{"role": "user", "content": text}])
        check_prompt(ids, sampling.max_tokens, model.spec, f"{config.data.path}:{line}")
        return np.array(ids, np.int32)

    def checked(line: int, row: dict[str, Any]) -> np.ndarray:
        try:
            return encode(line, row)
        except ValueError as error:
            raise UserError(str(error)) from None

    rows, prompts, rejected = encode_rows(config, job, found, checked)
    start = job.rows_written()
    write = job.in_order(start)

    def take(number: int, completions: list[Completion]) -> None:
        line, row = rows[start + number]
        tag = opening_tag_of(model.tokenizer, prompts[start + number]) if mode == "chat" else ""
        done = write(start + number, {"id": row.get("id", line), "question": row["question"], "answers": [
            {"text": one.text, "finish_reason": one.finish_reason, "tokens": len(one.token_ids),
             **score(config.task, tag + one.text, row)} for one in completions]})
        show(done)

    with bar(len(rows), "evaluate", "rows", done=start) as show:
        generator.generate(prompts[start:], sampling, adapter=adapter, seed=config.seed,
                           row_ids=[line - 1 for line, _ in rows[start:]], on_prompt=take)
    result = summarize(config, list(job.iter_rows())) | {"rejected": len(rejected)}
    name = config.model if config.adapter is None else f"{config.model} with {config.adapter}"
    job.write_report("GSM8K" if config.task == "gsm8k" else "Question answering",
                     f"{name}: {len(rows):,} questions, {config.sampling.n} answers each.",
                     _sections(result, list(itertools.islice(job.iter_rows(), _SHOWN))))
    return job.write_result(result)


def prompt_form(config: Config, model: Model) -> tuple[str, str]:
    """Returns plain or chat, and the template.

    Raises:
        UserError: chat is demanded of a model without a chat template.
    """
    has_template = model.tokenizer.has_chat_template
    if config.format == "chat" and not has_template:
        raise UserError("is chat, and the model has no chat template", "format", "use plain")
    mode = "chat" if config.format == "chat" or config.format == "auto" and has_template else "plain"
    return mode, TEMPLATES[config.task][mode] if config.template is None else config.template


def score(task: str, text: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Scores one answer: `right` for the final number and `strict` for that after ####; or `f1` and `accuracy`.

    Thinking at its start does not count; an answer that ends within it is scored as an empty one.
    """
    if task == "gsm8k":
        return {"right": is_right(text, row["answer"]), "strict": is_right(text, row["answer"], strict=True)}
    scored = score_answer((without_thinking(text) or "").strip(), row["answers"])
    return {"f1": scored.f1, "accuracy": scored.accuracy, "right": bool(scored.accuracy)}


def summarize(config: Config, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Computes the contents of result.json: means over questions, with intervals.

    Args:
        config: settings.
        rows: lines of rows.jsonl.
    """
    mean = lambda name: rate([np.mean([answer[name] for answer in row["answers"]]) for row in rows], None, config.seed)
    names = ("right", "strict") if config.task == "gsm8k" else ("f1", "accuracy")
    labels = {"right": "exact_match", "strict": "exact_match_strict"}
    result: dict[str, Any] = {"task": config.task, "rows": len(rows), "samples": config.sampling.n}
    result |= {labels.get(name, name): mean(name) for name in names}
    result["pass_at_k"] = {str(k): rate([pass_at_k(
        len(row["answers"]), sum(answer["right"] for answer in row["answers"]), k) or 0.0 for row in rows],
        None, config.seed) for k in config.k}
    answers = [answer for row in rows for answer in row["answers"]]
    result["finished"] = {reason: sum(answer["finish_reason"] == reason for answer in answers)
                          for reason in ("stop", "length")}
    result["empty"] = sum(not answer["text"].strip() for answer in answers)
    result["tokens"] = sum(answer["tokens"] for answer in answers)
    return result


def _sections(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    measures = [name for name in ("exact_match", "exact_match_strict", "f1", "accuracy") if name in result]
    table = Table(["", "mean"], [*([name, result[name]] for name in measures),
                                 *([f"pass@{k}", value] for k, value in result["pass_at_k"].items())],
                  "Means over questions with 95 % intervals, bootstrap ones unless all are equal.")
    counts = Table(["answers", "count"], [*([f"ended by {name}", n] for name, n in result["finished"].items()),
                                          ["empty", result["empty"]]])
    shown = [[row["id"], row["question"], answer["text"], "yes" if answer["right"] else "no"]
             for row in rows for answer in row["answers"][:1]]
    return [Section("Scores", parts=[table, counts]),
            Section("Answers", parts=[Table(["id", "question", "first answer", "right"], shown)])]
