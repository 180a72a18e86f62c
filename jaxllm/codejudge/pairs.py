"""Pairwise judging: which of two programs for one task is right, in both orders."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.codejudge.config import Config
from jaxllm.codejudge.data import Item
from jaxllm.codejudge.judging import retry_of
from jaxllm.codejudge.prompts import Prompts
from jaxllm.errors import UserError
from jaxllm.files import iter_jsonl
from jaxllm.job import Job
from jaxllm.judge import Completions, Judge, Options, Prompt, judge_rows
from jaxllm.judge.answers import short_option
from jaxllm.statistics import clustered

OPTIONS = ("A", "B")


@dataclass(frozen=True)
class Pair:
    """A right and a wrong program for the same task, in the same language."""

    right: Item
    wrong: Item

    def shown(self, swapped: bool) -> tuple[Item, Item]:
        """Returns the programs in the order in which the judge reads them; swapped shows the wrong one first."""
        return (self.wrong, self.right) if swapped else (self.right, self.wrong)


def pairs_of(items: Sequence[Item]) -> list[Pair]:
    """Pairs every right program with every wrong one of its group, language and task."""
    cells: dict[tuple[str, str | None, str], list[Item]] = {}
    for item in items:
        if item.label is not None:
            cells.setdefault((item.group, item.language, item.task.strip()), []).append(item)
    return [Pair(right, wrong) for own in cells.values()
            for right, wrong in itertools.product([item for item in own if item.label == 1],
                                                  [item for item in own if item.label == 0])]


def pair_prompt(prompts: Prompts, config: Config, pair: Pair, swapped: bool, chat: bool = True) -> Prompt:
    """Builds the prompt of a pair in one order; its id names the programs in that order, and nothing else differs."""
    first, second = pair.shown(swapped)
    fields = pair.right.fields | {"program": first.fields["program"], "other": second.fields["program"]}
    if not config.use_reference:
        fields["reference"] = None
    fields["note"] = prompts.note(config.protocol or pair.right.protocol, fields)
    return Prompt(prompts.build("pairwise", fields, chat), f"{first.id}/{second.id}/pairwise")


def judge_pairs(job: Job, judge: Judge, items: Sequence[Item], config: Config, prompts: Prompts
                ) -> list[dict[str, Any]]:
    """Judges all pairs in both orders; returns a row for each pair."""
    shown = [(pair, swapped) for pair in pairs_of(items) for swapped in (False, True)]
    ids = {pair_prompt(prompts, config, *row).id for row in shown}
    if len(ids) < len(shown):
        raise UserError("ids with '/' give two pairs the same id", "data.path", "use ids without it")
    task: Any = Options(OPTIONS) if config.decide == "probability" else Completions(
        config.sampling(config.answer_tokens), lambda _, answer: short_option(answer.text, OPTIONS, ("program",)),
        config.most_attempts, retry_of(judge))
    judge_rows(job, judge, shown, lambda row: pair_prompt(prompts, config, row[0], row[1], judge.reads_messages), task,
               seed=config.seed, prices=config.judge.prices, file="pairwise.jsonl", name="pairwise", unit="verdicts")
    lines = list(iter_jsonl(job.directory / "pairwise.jsonl"))
    return [_row(pair, own) for (pair, _), own in zip(shown[::2], zip(lines[::2], lines[1::2], strict=True),
                                                      strict=True)]


def _row(pair: Pair, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    letters = [_letter(line) for line in lines]
    valid = None not in letters
    reason = next((line["reason"] or "both programs have the same probability"
                   for line, letter in zip(lines, letters, strict=True) if letter is None), None)
    outcome = outcome_of(letters)
    return {"id": f"{pair.right.id}/{pair.wrong.id}", "right": pair.right.id, "wrong": pair.wrong.id,
            "outcome": outcome, "valid": valid, "reason": reason, "answers": letters,
            "probabilities": [line.get("probabilities") for line in lines], "group": pair.right.group,
            "language": pair.right.language}


def _letter(line: Mapping[str, Any]) -> str | None:
    if "samples" in line:
        return line["samples"][0]["value"] if line["samples"] else None
    shares = line["probabilities"]
    return None if shares is None or shares["A"] == shares["B"] else max(shares, key=shares.__getitem__)


def outcome_of(letters: Sequence[str | None]) -> str | None:
    """Combines the answers in both orders: win if both name the right program, loss if both name the wrong one, tie if
    they name the same slot; None where one is invalid.

    Args:
        letters: the answer where the right program is A, and where it is B.
    """
    if None in letters:
        return None
    return {("A", "B"): "win", ("B", "A"): "loss"}.get((str(letters[0]), str(letters[1])), "tie")


def pair_measures(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Computes shares of pairs with intervals from resampled groups.

    Returns:
        `accuracy`: wins; `ties`, `losses`; `win_rate`: wins and half of the ties; `consistent`: pairs with the same
        verdict in both orders; `first_slot`: answers that name the program shown first, a half without position bias;
        over the pairs with two valid answers. `valid_rate`: the share of such pairs.
    """
    own = [row for row in rows if row["outcome"] is not None]
    result: dict[str, Any] = {"n": len(rows), "n_valid": len(own),
                              "invalid_rate": 1 - len(own) / len(rows) if rows else None,
                              "valid_rate": len(own) / len(rows) if rows else None}
    groups = [row["group"] for row in own]
    share = lambda values: clustered(values, groups, seed) if own else None
    is_one = lambda *names: [float(row["outcome"] in names) for row in own]
    result |= {"accuracy": share(is_one("win")), "ties": share(is_one("tie")), "losses": share(is_one("loss")),
               "win_rate": share(np.add(is_one("win"), np.multiply(0.5, is_one("tie")))),
               "consistent": share(is_one("win", "loss")),
               "first_slot": share([row["answers"].count("A") / 2 for row in own])}
    return result
