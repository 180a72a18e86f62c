"""Comparison of two runs of a judge on the same programs, and of its verdicts before and after an edit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm import agreement
from jaxllm.agreement import bootstrap, mean_over_groups
from jaxllm.codejudge.config import Config
from jaxllm.codejudge.data import Item
from jaxllm.codejudge.results import (
    CORRELATIONS,
    GRADED,
    SCORED,
    VERDICTS,
    Row,
    as_rows,
    counted,
    held_for_validation,
    judged,
    missing,
    protocol_of,
    runs_of,
    truth_of,
    values_by_group,
)
from jaxllm.errors import UserError
from jaxllm.statistics import clustered

COMPARED = ("accuracy", "balanced_accuracy", "mcc", "kendall", "spearman", "auroc")
# Rows of a pair of runs with their values, for those that both have.
Both = list[tuple[tuple[Row, float], tuple[Row, float]]]


def flips(config: Config, items: Sequence[Item], rows: Sequence[Row], edited: Sequence[Item], changed: Sequence[Row]
          ) -> dict[str, Any]:
    """Measures how often an edit of the program changes the verdict.

    Returns:
        Per edit `n`, programs with a verdict before and after; `flip_rate` with its interval; `accepted_before` and
        `accepted_after`, shares of verdicts that the program is right; `still_accepted`, of the programs accepted
        before; and `keeps_meaning`: whether a flip is an error. Where the edit breaks the program, `still_accepted` is.
    """
    from jaxllm.codejudge.robustness import EDITS

    before = {str(item.id): row for item, row in zip(items, rows, strict=True)}
    result: dict[str, Any] = {}
    for name in config.robustness:
        pairs = [(before[str(item.id).removesuffix(f"/{name}")], row)
                 for item, row in zip(edited, changed, strict=True) if item.edit == name]
        known = [(old, new) for old, new in pairs if old["verdict"] is not None and new["verdict"] is not None]
        share = lambda values, known=known: clustered(
            values, [old["group"] for old, _ in known], config.seed) if known else None
        result[name] = {"n": len(known), "edited": len(pairs), "keeps_meaning": EDITS[name].keeps_meaning,
                        "flip_rate": share([float(old["verdict"] != new["verdict"]) for old, new in known]),
                        "accepted_before": share([float(old["verdict"]) for old, _ in known]),
                        "accepted_after": share([float(new["verdict"]) for _, new in known])}
        kept = [(old, new) for old, new in known if old["verdict"]]
        result[name]["still_accepted"] = clustered([float(new["verdict"]) for _, new in kept],
                                                   [old["group"] for old, _ in kept], config.seed) if kept else None
    return result


def check_compared(items: Sequence[Item], others: Sequence[Row], where: str) -> None:
    """Raises a `UserError` where no program is in another run, or one has another label, grade, group or language."""
    by_id = {str(row["id"]): row for row in others}
    if not any(str(item.id) in by_id for item in items):
        raise UserError("none of its rows has the id of a row here", where, "compare runs on the same rows")
    for item in items:
        other = by_id.get(str(item.id), {})
        for name in ("label", "grade", "group", "language"):
            if name in other and other[name] != getattr(item, name):
                own = getattr(item, name)
                raise UserError(f"the row {item.id!r} has the {name} {other[name]!r} there, and {own!r} here", where,
                                "compare runs on the same rows")


def compared(config: Config, items: Sequence[Item], rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """Compares two runs on the rows that both have, this one less the other, from the same resamples of groups.

    By the protocol of this run; validation rows are left out. Of several runs of either side the mean is compared.
    """
    by_id = {str(row["id"]): row for row in others}
    held_back = held_for_validation(config, rows)
    common = [(runs_of(row), runs_of({**by_id[str(row["id"])], **{name: row[name] for name in (
        "label", "grade", "group", "language")}})) for row, held in zip(rows, held_back, strict=True)
        if str(row["id"]) in by_id and not held and truth_of(row) is not None]
    protocol, result = protocol_of(config, items), dict[str, Any](n=len(common))
    if not common:
        return result | missing(COMPARED, "no row with a label or a grade is in both runs")
    # A valid row without a verdict, and without a reason for that, is of a method that gives none.
    decides = not any(row["valid"] and row["verdict"] is None and row["reason"] is None for row in others)
    policy, verdicts, scores = config.policy, list[Both](), list[Both]()
    for ours, theirs in itertools.product(*(range(len(side)) for side in common[0])):
        sides = [(judged([one[ours]], policy, config.gives_verdicts), judged([two[theirs]], policy, decides))
                 for one, two in common]
        for number, found in enumerate((verdicts, scores)):
            found.append([(one[number][0], two[number][0]) for one, two in sides if one[number] and two[number]])
    graded, labelled = ([[pair for pair in both if pair[0][0][truth] is not None] for both in scores]
                        for truth in ("grade", "label"))
    # A language in which no row has both is undefined rather than left out of the mean.
    languages = sorted({ours[0]["language"] for ours, _ in common if ours[0]["label"] is not None}, key=str) \
        if protocol == "humanevalx" else None
    result |= _differences(verdicts, VERDICTS, languages, config.seed, "no row has both verdicts")
    result |= _differences(labelled, SCORED, languages, config.seed) if any(labelled) else \
        missing(SCORED, "no row has both scores") | _differences(graded, GRADED, None, config.seed)
    if protocol == "conala" and any(graded):
        groups = sorted({pair[0][0]["group"] for both in graded for pair in both})
        within = lambda both, side, statistic: values_by_group([pair[side] for pair in both], groups, statistic)
        result |= {name: mean_over_groups([within(both, 0, statistic) - within(both, 1, statistic) for both in graded],
                                          seed=config.seed) for name, statistic in CORRELATIONS.items()}
    return {name: value for name, value in result.items() if name == "n" or name in COMPARED}


def _differences(runs: Sequence[Both], statistics: Mapping[str, agreement.Statistic],
                 languages: Sequence[str | None] | None, seed: int, reason: str = "no row has both scores"
                 ) -> dict[str, Any]:
    """Computes paired differences, the mean over the pairs of runs and over `languages`; None pools all rows."""
    statistics = {name: statistic for name, statistic in statistics.items() if name in COMPARED}
    if not any(runs):
        return missing(statistics, reason)
    name = lambda language, run: f"{language}, {run}" if languages is not None else run if len(runs) > 1 else ""
    sliced = lambda side: {name(language, f"run {number}"): as_rows(
        [pair[side] for pair in both if languages is None or pair[side][0]["language"] == language])
        for number, both in enumerate(runs, 1) for language in languages or [None]}
    return counted(bootstrap(sliced(0), statistics, sliced(1), seed=seed), len(runs))
