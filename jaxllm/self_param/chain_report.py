"""The page about documents in one model: what is remembered of each, and what it costs elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.report import Bars, Heat, Lines, Section, Table
from jaxllm.self_param.report import ARMS, COLORED, answers, training


def sections(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
             metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The page's sections.

    Args:
        result: what result.json has.
        rows: every question with the answers of all arms.
        metrics: lines of metrics.jsonl.
    """
    arms = {"after": {**result, "f1": result["f1_after"]}, **result["baselines"]}
    names = {arm: ARMS[arm] for arm in ("before", "with_document", *arms)}
    parts = [_scores(result, arms)]
    if result["setting"] == "sequential":
        parts.append(_memory(arms))
    return [*parts, _elsewhere(arms), training(metrics, names), answers(rows, names)]


def _scores(result: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> Section:
    rest = lambda one: [one["f1_paraphrased"], one["efficacy"], one["share_of_reader"],
                        *(_last(one[name]) for name in ("locality", "drift_kl", "perplexity"))]
    table = Table(
        ["", "F1 at the end", "the same in other words", "F1 right after writing", "share of the reader's F1",
         "near questions unchanged", "drift, nats/token", "perplexity elsewhere"],
        [[ARMS["before"], result["f1_before"], result["f1_paraphrased_before"], *[None] * 4, result["perplexity"][0]],
         [ARMS["with_document"], result["f1_with_document"], result["f1_paraphrased_with_document"], *[None] * 5],
         *[[ARMS[arm], one["f1"], *rest(one)] for arm, one in arms.items()]],
        "Means over documents with 95 % bootstrap intervals. Drift is the KL on unrelated text from the first model.")
    bars = {ARMS[arm]: result[f"f1_{arm}"] for arm in ("before", "with_document")}
    return Section("Scores", parts=[table, Bars("Answers at the end", "token F1", bars | {
        ARMS[arm]: one["f1"] for arm, one in arms.items()}, top=1.05, order=COLORED)])


def _memory(arms: Mapping[str, Mapping[str, Any]]) -> Section:
    curves = lambda key, first: {ARMS[arm]: (list(range(first, first + len(one[key]))), one[key])
                                 for arm, one in arms.items()}
    return Section("What is remembered", parts=[
        *[Heat(f"Token F1 by document and injections made: {ARMS[arm]}", "document", "injections", one["f1_matrix"])
          for arm, one in arms.items()],
        Lines("By how many injections ago", "injections since", "token F1", curves("retention_by_lag", 0),
              order=COLORED),
        Lines("Over all documents written so far", "injections", "token F1", curves("mean_seen", 1), order=COLORED)])


def _elsewhere(arms: Mapping[str, Mapping[str, Any]]) -> Section:
    curve = lambda key: {ARMS[arm]: (list(range(1, len(one[key]) + 1)), one[key])
                         for arm, one in arms.items() if one[key]}
    return Section("Elsewhere", "What should have stayed as it was.", [
        Lines("Movement on unrelated text", "injections", "nats/token", curve("drift_kl"), order=COLORED),
        *([Lines("Near questions answered as before", "injections", "share", found, order=COLORED)]
          if (found := curve("locality")) else [])])


def _last(values: Sequence[float] | None) -> float | None:
    return values[-1] if values else None
