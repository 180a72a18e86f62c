"""Judge jobs: rows to prompts to answers or choices to a JSONL file, in input order and resumable."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.files import JsonlWriter, count_lines, iter_jsonl
from jaxllm.job import Job
from jaxllm.judge.protocol import Answer, Choice, Judge, Prices, Prompt, Usage
from jaxllm.progress import bar
from jaxllm.text.rows import Rejected

Row = TypeVar("Row")
# Rows with prompts in memory at a time. Retries of a block run before the next block, so that a row that needs
# several attempts holds back this many rows of the file at most.
ROWS_PER_BLOCK = 1024
# Least seconds between two lines in metrics.jsonl.
METRICS_SECONDS = 10.0


@dataclass(frozen=True)
class Invalid:
    """Result of a parser for an answer that it cannot parse.

    Attributes:
        reason: a phrase such as "there is no JSON list in it"; part of the prompt of a retry.
    """

    reason: str


def retry_in_conversation(prompt: Prompt, answer: Answer, reason: str) -> Prompt:
    """Appends the invalid answer and the reason to the conversation."""
    request = f"This answer cannot be used: {reason}. Answer again, in the required form and nothing else."
    return Prompt([*prompt.messages, {"role": "assistant", "content": answer.text},
                   {"role": "user", "content": request}])


def retry_same_prompt(prompt: Prompt, answer: Answer, reason: str) -> Prompt:
    """Repeats the prompt; with a temperature above 0 the next answer differs."""
    return prompt


@dataclass(frozen=True)
class Completions(Generic[Row]):
    """Task of `judge_rows`: generate and parse `sampling.n` completions of every prompt.

    Attributes:
        sampling: settings.
        parse: maps row and completion to a value that JSON can hold, or to `Invalid`. By default the text itself.
        attempts: a completion that cannot be parsed is generated anew until it can, this many times in all.
        retry: maps prompt, invalid completion and reason to the prompt of the next attempt. The prompt is that of the
            attempt before, so that greedy attempts differ; the first one where the longer one cannot be answered.
    """

    sampling: SamplingConfig
    parse: Callable[[Row, Answer], Any | Invalid] = lambda row, answer: answer.text
    attempts: int = 1
    retry: Callable[[Prompt, Answer, str], Prompt] = retry_in_conversation


@dataclass(frozen=True)
class Options:
    """Task of `judge_rows`: compute the probability of each option after every prompt.

    Attributes:
        options: the options, the same for all rows.
    """

    options: Sequence[str]


@dataclass(frozen=True)
class Sample:
    """One completion of a row, after all attempts.

    Attributes:
        text: the last completion; None without one.
        value: its parsed value; None where it is invalid.
        reason: why it is invalid; None where it is valid.
        attempts: number of attempts made.
        finish_reason, logprob: as in `Answer`.
    """

    text: str | None
    value: Any
    reason: str | None
    attempts: int
    finish_reason: str | None = None
    logprob: float | None = None


@dataclass(frozen=True)
class JudgedRow:
    """Outcome of one row.

    Attributes:
        samples: its completions, in order, empty where the judge has no answer; None for `Options`.
        choice: its choice; None for `Completions`, or where the judge has no answer. With a mass of 0 it is invalid.
        reason: why the row is invalid: it has neither a valid completion nor a choice; None where it is valid.
        usage: tokens of all attempts; None where they are not known.
    """

    samples: Sequence[Sample] | None
    choice: Choice | None
    reason: str | None
    usage: Usage | None

    def fields(self) -> dict[str, Any]:
        """Returns the columns of completions or of the choice, the same for valid and invalid rows."""
        if self.samples is not None:
            return {"samples": [vars(sample) for sample in self.samples]}
        if self.choice is None or self.choice.mass == 0.0:
            mass = None if self.choice is None else 0.0
            return {"answer": None, "probabilities": None, "mass": mass}
        return {"answer": self.choice.answer, "probabilities": dict(self.choice.probabilities),
                "mass": self.choice.mass}


@dataclass(frozen=True)
class JudgeSummary:
    """Counts of all rows in a file that `judge_rows` wrote.

    Attributes:
        rows, invalid: rows in all, and those that are invalid.
        prompt_tokens, completion_tokens: their tokens, of all attempts; None where they are not known.
        cost: their cost; None without prices.
    """

    rows: int
    invalid: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None


def split_answerable(judge: Judge, rows: Iterable[Row], prompt: Callable[[Row], Prompt], max_tokens: int,
                     reject: Callable[[Row, str], Rejected]) -> tuple[list[Row], list[Rejected]]:
    """Separates the rows that a judge can answer from those for rejected.jsonl.

    Args:
        judge: the judge; see `Judge.unanswerable_reason`.
        rows: the rows.
        prompt: builds the prompt of a row.
        max_tokens: length of an answer.
        reject: builds the entry for rejected.jsonl from a row and the reason.
    """
    answerable, rejected = [], []
    for row in rows:
        reason = judge.unanswerable_reason(prompt(row), max_tokens)
        if reason is None:
            answerable.append(row)
        else:
            rejected.append(reject(row, reason))
    return answerable, rejected


def judge_rows(job: Job, judge: Judge, rows: Sequence[Row], prompt: Callable[[Row], Prompt],
               task: Completions[Row] | Options, *, seed: int = 0, prices: Prices | None = None,
               fields: Callable[[Row, JudgedRow], Mapping[str, Any]] | None = None, file: str = "rows.jsonl",
               name: str = "judge", unit: str = "rows", shown: bool = True) -> JudgeSummary:
    """Judges every row and writes the outcomes, one line a row, in the order of the rows.

    Lines are `{id, valid, reason, ..., prompt_tokens, completion_tokens, cost}`, with the columns of `fields` between
    them. A stopped job continues after the last line; draws depend on seed, prompt and attempt only, so that the lines
    are those of a job that was not stopped. A prompt that the judge cannot answer makes its row invalid; an error that
    concerns all prompts ends the job. A retry has the prompt's id with `/retry1`, `/retry2`, ... appended.

    Args:
        job: the job; its directory holds the file, and the judge is pinned in it.
        judge: the judge.
        rows: the rows. A resumed job must pass the same ones.
        prompt: builds the prompt of a row; its `id` is written with the outcome.
        task: `Completions` or `Options`.
        seed: base of the random draws.
        prices: for the column `cost`.
        fields: builds further columns; by default `JudgedRow.fields`.
        file: name of the file in the job's directory.
        name, unit: shown with the progress.
        shown: show the progress.

    Returns:
        Counts of all rows in the file, those of earlier starts included.

    Raises:
        UserError: the judge fails, or is not the one that the job was started with.
        StorageError: the disk is full.
    """
    job.pin("judge" if file == "rows.jsonl" else f"judge of {file}", judge.identity)
    path = job.directory / file
    start = count_lines(path)
    fields = fields or (lambda row, outcome: outcome.fields())
    with (bar(len(rows), name, unit, shown, start) as show, JsonlWriter(path) as writer,
          JsonlWriter(job.metrics_path) as metrics):
        progress = _Progress(metrics, show, start)
        for first in range(start, len(rows), ROWS_PER_BLOCK):
            block = rows[first:first + ROWS_PER_BLOCK]
            prompts = [prompt(row) for row in block]
            finish = _Lines(block, prompts, fields, prices, writer, progress).finish
            if isinstance(task, Options):
                _choose(judge, prompts, task, finish)
            else:
                _Attempts(judge, block, prompts, task, seed, finish).run()
        progress.note()
    return summarize(iter_jsonl(path))


def summarize(lines: Iterable[Mapping[str, Any]]) -> JudgeSummary:
    """Counts the lines of a file that `judge_rows` wrote."""
    rows = invalid = 0
    totals: dict[str, Any] = dict.fromkeys(("prompt_tokens", "completion_tokens", "cost"))
    for line in lines:
        rows, invalid = rows + 1, invalid + (not line["valid"])
        for name in totals:
            if (value := line.get(name)) is not None:
                totals[name] = (totals[name] or 0) + value
    return JudgeSummary(rows, invalid, **totals)


class _Lines(Generic[Row]):
    """Writes the outcomes of a block, each as soon as all earlier ones are written."""

    def __init__(self, rows: Sequence[Row], prompts: Sequence[Prompt],
                 fields: Callable[[Row, JudgedRow], Mapping[str, Any]], prices: Prices | None, writer: JsonlWriter,
                 progress: _Progress):
        self._rows, self._prompts, self._fields, self._prices = rows, prompts, fields, prices
        self._writer, self._progress = writer, progress
        self._waiting: dict[int, dict[str, Any]] = {}
        self._written = 0

    def finish(self, index: int, outcome: JudgedRow) -> None:
        """Takes the outcome of a row."""
        usage, valid = outcome.usage, outcome.reason is None
        line = {"id": self._prompts[index].id, "valid": valid, "reason": outcome.reason,
                **self._fields(self._rows[index], outcome),
                "prompt_tokens": None if usage is None else usage.prompt_tokens,
                "completion_tokens": None if usage is None else usage.completion_tokens}
        if self._prices is not None:
            line["cost"] = None if usage is None else self._prices.cost(usage)
        self._waiting[index] = line
        while self._written in self._waiting:
            self._writer.write(self._waiting.pop(self._written))
            self._written += 1
        self._progress.add(usage, valid)


def _choose(judge: Judge, prompts: Sequence[Prompt], task: Options, finish: Callable[[int, JudgedRow], None]) -> None:
    def reason(choice: Choice) -> str | None:
        return "no option has any probability" if choice.mass == 0.0 else None

    judge.choose(prompts, task.options,
                 on_answer=lambda i, choice: finish(i, JudgedRow(None, choice, reason(choice), choice.usage)),
                 on_failure=lambda i, reason: finish(i, JudgedRow(None, None, reason, None)))


class _Attempts(Generic[Row]):
    """Completes and parses the prompts of a block, attempt by attempt."""

    def __init__(self, judge: Judge, rows: Sequence[Row], prompts: Sequence[Prompt], task: Completions[Row], seed: int,
                 finish: Callable[[int, JudgedRow], None]):
        self._judge, self._rows, self._prompts, self._task, self._finish = judge, rows, prompts, task, finish
        self._seed = seed if task.sampling.seed is None else task.sampling.seed
        self._samples: list[list[Sample]] = [[] for _ in rows]
        self._usage: list[Usage | None] = [None] * len(rows)
        self._retries: dict[tuple[int, int], Prompt] = {}  # (row, sample) -> prompt of the next attempt

    def run(self) -> None:
        sampling = replace(self._task.sampling, seed=None)
        self._judge.complete(self._prompts, sampling, seed=self._seed, on_answer=self._first,
                             on_failure=lambda i, reason: self._finish(i, JudgedRow((), None, reason, None)))
        for attempt in range(1, self._task.attempts):
            retries, self._retries = self._retries, {}
            keys, left = list(retries), {}
            for row, _ in keys:
                left[row] = left.get(row, 0) + 1

            def answered(number: int, answers: list[Answer] | None, keys=keys, left=left, attempt=attempt,
                         retries=retries) -> None:
                row, sample = keys[number]
                if answers is not None:
                    self._samples[row][sample] = self._parsed(row, sample, answers[0], attempt, retries[row, sample])
                left[row] -= 1
                if not left[row]:
                    self._finish_unless_retried(row)

            if keys:
                self._judge.complete([retries[key] for key in keys], replace(sampling, n=1),
                                     seed=_attempt_seed(self._seed, attempt), on_answer=answered,
                                     on_failure=partial(_without_reason, answered))

    def _first(self, row: int, answers: list[Answer]) -> None:
        self._samples[row] = [self._parsed(row, number, answer, 0, self._prompts[row])
                              for number, answer in enumerate(answers)]
        self._finish_unless_retried(row)

    def _parsed(self, row: int, sample: int, answer: Answer, attempt: int, prompt: Prompt) -> Sample:
        if answer.usage is not None:
            self._usage[row] = (self._usage[row] or Usage()) + answer.usage
        value = self._task.parse(self._rows[row], answer)
        if isinstance(value, Invalid) and attempt + 1 < self._task.attempts:
            self._plan_retry(row, sample, prompt, answer, value.reason, attempt + 1)
        value, reason = (None, value.reason) if isinstance(value, Invalid) else (value, None)
        return Sample(answer.text, value, reason, attempt + 1, answer.finish_reason, answer.logprob)

    def _plan_retry(self, row: int, sample: int, last: Prompt, answer: Answer, reason: str, attempt: int) -> None:
        first = self._prompts[row]
        own = None if first.id is None else f"{first.id}/retry{attempt}"
        for prompt in [last] if last is first else [last, first]:
            retry = replace(self._task.retry(prompt, answer, reason), id=own, sample=first.sample + sample)
            if self._judge.unanswerable_reason(retry, self._task.sampling.max_tokens) is None:
                self._retries[row, sample] = retry
                return

    def _finish_unless_retried(self, row: int) -> None:
        samples = self._samples[row]
        if not any((row, number) in self._retries for number in range(len(samples))):
            reasons = [sample.reason for sample in samples]
            self._finish(row, JudgedRow(samples, None, None if None in reasons else reasons[0], self._usage[row]))


def _attempt_seed(seed: int, attempt: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/retry{attempt}".encode()).digest()[:4], "big") % 2**31


class _Progress:
    """Shows the progress and appends to metrics.jsonl, seldom enough for any number of rows."""

    def __init__(self, metrics: JsonlWriter, show: Callable[..., None], done: int):
        self._metrics, self._show, self._done, self._noted = metrics, show, done, done
        self._start = self._last = time.monotonic()
        self._invalid, self._usage = 0, Usage()

    def add(self, usage: Usage | None, valid: bool) -> None:
        """Counts one row."""
        self._done += 1
        self._invalid += not valid
        self._usage += usage or Usage()
        self._show(self._done)
        if time.monotonic() - self._last >= METRICS_SECONDS:
            self.note()

    def note(self) -> None:
        """Appends a line, unless nothing changed: rows done, and seconds, invalid rows and tokens of this start."""
        self._last = time.monotonic()
        if self._done > self._noted:
            self._noted = self._done
            self._metrics.write({"step": self._done, "seconds": round(self._last - self._start, 3),
                                 "invalid": self._invalid, **vars(self._usage)})


def _without_reason(answered: Callable[[int, Any], None], number: int, _: str) -> None:
    answered(number, None)
