"""Verdicts of a judge on pairs of answers, in both orders, or scores of a reward model; and the outcomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxllm.errors import UserError
from jaxllm.evaluate.comparison.answers import PromptRow
from jaxllm.evaluate.comparison.config import Config, JudgingConfig
from jaxllm.evaluate.comparison.measures import SIDES, Verdict, higher, outcome, word_count
from jaxllm.evaluate.comparison.prompts import (
    OPTIONS,
    TEMPLATES,
    chosen_option,
    comparison_prompt,
    parse_ratings,
    parse_verdict,
    verdict_of,
)
from jaxllm.files import JsonlWriter, count_lines, iter_jsonl
from jaxllm.job import Job
from jaxllm.judge import (
    Completions,
    JudgedRow,
    JudgeSummary,
    Options,
    Prompt,
    RewardJudge,
    Sample,
    judge_rows,
    open_judge,
)
from jaxllm.judge.job import summarize
from jaxllm.progress import bar

VERDICTS = "verdicts.jsonl"
# Name of an order of presentation: the judge reads A's answer first, or B's. A reward model reads one answer at a time.
ORDERS = ("ab", "ba")
# Pairs that a reward model scores together, and then writes.
PAIRS_PER_CALL = 128


@dataclass(frozen=True)
class Pair:
    """A prompt with both answers."""

    row: PromptRow
    a: str
    b: str


@dataclass(frozen=True)
class Presentation:
    """A pair in one of two orders; `swapped` shows B's answer first."""

    pair: Pair
    swapped: bool

    @property
    def order(self) -> str:
        """Name of the order."""
        return ORDERS[self.swapped]


def judge_pairs(config: JudgingConfig, job: Job, pairs: Sequence[Pair], file: str = VERDICTS) -> JudgeSummary:
    """Writes the verdicts on all pairs in both orders into a file of the job, or the rest of them."""
    judge, settings = open_judge(config.judge, config.device, job.directory), config.verdict
    template = TEMPLATES[config.form] if settings.template is None else settings.template
    parse = parse_ratings if config.form == "rating" else parse_verdict
    task: Any = Options(OPTIONS) if config.form == "choice" else Completions(
        settings.sampling, lambda _, answer: parse(answer.text), settings.attempts)

    def prompt(shown: Presentation) -> Prompt:
        pair, (first, second) = shown.pair, (shown.pair.a, shown.pair.b)[::-1 if shown.swapped else 1]
        return Prompt(comparison_prompt(template, pair.row.prompt, first, second), f"{pair.row.id}/{shown.order}")

    shown = [Presentation(pair, swapped) for pair in pairs for swapped in (False, True)]
    return judge_rows(job, judge, shown, prompt, task, seed=config.seed, prices=config.judge.prices,
                      fields=_columns, file=file, name="judge", unit="verdicts")


def _columns(shown: Presentation, judged: JudgedRow) -> dict[str, Any]:
    """Builds the columns of a verdict: the preferred side, scores where the form has them, text or probabilities."""
    verdict: Verdict | None
    scores = None
    if judged.samples is None:
        option = None if judged.choice is None else chosen_option(judged.choice)
        verdict, origin = verdict_of(option, shown.swapped), judged.fields()
        if judged.choice is not None and judged.reason is None:
            first, second, tie = (judged.choice.probabilities[name] for name in OPTIONS)
            scores = _by_side(first, second, shown.swapped) | {"tie": tie}
    else:
        sample = judged.samples[0] if judged.samples else Sample(None, None, None, 0)
        origin = {"text": sample.text, "attempts": sample.attempts}
        if isinstance(sample.value, list):
            first, second = sample.value
            scores = _by_side(first, second, shown.swapped)
            verdict = higher(scores["a"], scores["b"])
        else:
            verdict = verdict_of(sample.value, shown.swapped)
    return {"id": shown.pair.row.id, "order": shown.order, "verdict": verdict, "scores": scores, **origin}


def _by_side(first: float, second: float, swapped: bool) -> dict[str, float]:
    return {"a": second, "b": first} if swapped else {"a": first, "b": second}


def score_pairs(config: Config, job: Job, pairs: Sequence[Pair]) -> JudgeSummary:
    """Writes the scores that a reward model gives to the answers into verdicts.jsonl, a line per pair."""
    judge = open_judge(config.judge, config.device)
    assert isinstance(judge, RewardJudge)
    job.pin("judge", judge.identity)
    path = job.directory / VERDICTS
    start = count_lines(path)
    with bar(len(pairs), "score", "pairs", done=start) as show, JsonlWriter(path) as writer:
        # A stopped job repeats the call in which it was stopped, so that its numbers are the same.
        for first in range(start - start % PAIRS_PER_CALL, len(pairs), PAIRS_PER_CALL):
            some = pairs[first:first + PAIRS_PER_CALL]
            for pair, scores in list(zip(some, _scores(judge, some), strict=True))[max(start - first, 0):]:
                reason = scores if isinstance(scores, str) else None
                verdict = higher(scores["a"], scores["b"]) if isinstance(scores, dict) else None
                writer.write({"id": pair.row.id, "valid": reason is None, "reason": reason, "verdict": verdict,
                              "scores": scores if reason is None else None})
            show(first + len(some))
    return summarize(iter_jsonl(path))


def _scores(judge: RewardJudge, pairs: Sequence[Pair]) -> list[dict[str, float] | str]:
    """Scores both answers of every pair; gives the reason for a pair that the model cannot read."""
    prompts = [Prompt(pair.row.prompt) for pair in pairs for _ in SIDES]
    try:
        scores = judge.scores(prompts, [text for pair in pairs for text in (pair.a, pair.b)])
    except UserError as error:
        if len(pairs) == 1:
            return [error.what]
        half = len(pairs) // 2
        return _scores(judge, pairs[:half]) + _scores(judge, pairs[half:])
    # Equal answers tie, in batches of different shapes too.
    return [{"a": a, "b": a if pair.a == pair.b else b}
            for pair, a, b in zip(pairs, scores[::2], scores[1::2], strict=True)]


def outcome_rows(config: Config, pairs: Sequence[Pair], lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Builds the rows of rows.jsonl.

    Args:
        config: config of the job.
        pairs: the pairs.
        lines: lines of verdicts.jsonl: two a pair, or one of a reward model.
    """
    orders = ORDERS if config.form != "score" else ("scores",)
    return [_outcome_row(config, pair, dict(zip(orders, own, strict=True)))
            for pair, own in zip(pairs, _groups(lines, len(orders)), strict=True)]


def _groups(lines: Iterable[Mapping[str, Any]], size: int) -> Iterator[tuple[Mapping[str, Any], ...]]:
    return zip(*[iter(lines)] * size, strict=True)


def _outcome_row(config: Config, pair: Pair, lines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    verdicts = {order: line["verdict"] for order, line in lines.items()}
    decided, mean = list(verdicts.values()), {}
    if None not in decided and all(line["scores"] is not None for line in lines.values()):
        scores = [line["scores"] for line in lines.values()]
        mean = {name: sum(own[name] for own in scores) / len(scores) for name in scores[0]}
        if config.disagreement == "mean":
            decided = ["tie" if mean.get("tie", -1.0) >= max(mean["a"], mean["b"]) else higher(mean["a"], mean["b"])]
    return {"id": pair.row.id, "prompt": pair.row.prompt, "answer_a": pair.a, "answer_b": pair.b,
            "verdicts": verdicts, "score_a": mean.get("a"), "score_b": mean.get("b"),
            "outcome": outcome(decided, config.disagreement),
            "words_a": word_count(pair.a), "words_b": word_count(pair.b)}
