"""Results of a run: means over instances with intervals, chance levels, and the judge that picks the first slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.consistency.measuring import PARTIAL, column
from jaxllm.judge.protocol import LOW_MASS
from jaxllm.ops.consistency import CHANCE, adjusted
from jaxllm.ops.preference_graphs import chance_transitivity
from jaxllm.statistics import interval, paired

# Measures of an instance that are numbers.
MEANS = ("s_comm", "s_neg", "human_agreement", "human_agreement_debiased", "position_bias", "answer_mass",
         "coverage", "coverage_negated", "zeta", "hodge", "self_agreement", "longer_wins")
# Measures that are compared with another run.
COMPARED = ("s_comm", "s_neg", "human_agreement", "human_agreement_debiased", "position_bias")
TRANSITIVE = ("s_tran", "s_tran_debiased")


def mean(values: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
    """Returns the mean over the instances that have a value, with its interval; None where there are none."""
    known = values[~np.isnan(values)]
    return dict(interval(known, seed)) if known.size else None


def summarize(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int], seed: int = 0, ties: bool = False
              ) -> dict[str, Any]:
    """Builds result.json from the measures of all instances.

    Args:
        rows: results of `measuring.measure`.
        sizes: numbers of items of s_tran.
        seed: seed of the bootstrap over instances.
        ties: items may be equal. Chance levels are not known then, nor those of s_tran on partial graphs.
    """
    result: dict[str, Any] = {"n": len(rows), "items": sorted({row["n"] for row in rows})}
    for name in TRANSITIVE:
        result[name] = {str(k): _transitivity(rows, name, str(k), seed) for k in sizes}
    result |= {name: mean(column(rows, name), seed) for name in MEANS}
    for name in ("human_answers", "human_tied_answers"):
        known = column(rows, name)
        result[name] = None if np.isnan(known).all() else int(np.nansum(known))
    result["low_mass"] = _share_below(column(rows, "answer_mass"), LOW_MASS)
    chance: dict[str, Any] = {
        **{name: {k: None if own["partial"] else chance_transitivity(int(k)) for k, own in result[name].items()}
           for name in TRANSITIVE},
        "s_comm": None if ties else CHANCE, "s_neg": None if ties else CHANCE, "human_agreement": CHANCE,
        "human_agreement_debiased": CHANCE, "position_bias": 0.0, "longer_wins": CHANCE,
        "self_agreement": _plain_mean(column(rows, "chance_self_agreement"))}
    result["chance"] = chance
    result["always_first"] = {"s_tran": {str(k): 1.0 for k in sizes}, "s_comm": 0.0, "s_neg": 0.0,
                              "human_agreement": CHANCE, "position_bias": 0.5, "longer_wins": CHANCE}
    result["adjusted"] = {
        **{name: {k: _adjusted(best(own), chance[name][k]) for k, own in result[name].items()} for name in TRANSITIVE},
        **{name: _adjusted(result[name], chance[name]) for name in (
            "s_comm", "s_neg", "human_agreement", "human_agreement_debiased", "self_agreement")}}
    result["listed"] = {kind: sum(one["kind"] == kind for row in rows for one in row["violations"])
                        for kind in ("cycle", "order_flip", "negation_failure")}
    result["correlations"] = {
        "s_tran_and_self_agreement": _correlation(best_values(rows, ("s_tran", str(sizes[-1]))),
                                                  column(rows, "self_agreement")),
        "s_tran_debiased_and_human_agreement": _correlation(
            best_values(rows, ("s_tran_debiased", str(sizes[-1]))), column(rows, "human_agreement")),
        "s_comm_and_human_agreement": _correlation(column(rows, "s_comm"), column(rows, "human_agreement"))}
    return result


def best(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the exact s_tran of all instances if there is one, else the sampled one."""
    return own["exact"] or own["sampled"]


def limited(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the measures that `fail_under` may name; of s_tran that of the last size."""
    return {**result, **{name: best(list(result[name].values())[-1]) for name in TRANSITIVE}}


def compared(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], size: int, seed: int = 0
             ) -> dict[str, Any]:
    """Compares two runs on the instances that both have, by paired differences (this one less the other)."""
    by_id = {str(row["id"]): row for row in others}
    pairs = [(row, by_id[str(row["id"])]) for row in rows if str(row["id"]) in by_id]
    result: dict[str, Any] = {"n": len(pairs)}
    for name in (*COMPARED, *TRANSITIVE):
        values = lambda own, name=name: best_values(own, (name, str(size))) if name in TRANSITIVE else column(own, name)
        ours, theirs = (values([pair[side] for pair in pairs]) for side in (0, 1))
        both = ~np.isnan(ours) & ~np.isnan(theirs)
        result[name] = dict(paired(ours[both], theirs[both], seed)) if both.any() else None
    return result


def over_paraphrases(measures: Sequence[Sequence[Mapping[str, Any]]], size: int) -> dict[str, Any]:
    """Summarizes the same instances under several wordings of the question.

    Args:
        measures: for each wording, the original first, the measures of all instances.
        size: number of items of s_tran.
    """
    wordings = []
    for number, rows in enumerate(measures):
        values = {name: column(rows, name) for name in (*COMPARED, "coverage", "coverage_negated")}
        values["s_tran"] = best_values(rows, ("s_tran", str(size)))
        wordings.append({"paraphrase": number, **{name: _plain_mean(own) for name, own in values.items()}})
    of = lambda name: np.array([np.nan if one[name] is None else one[name] for one in wordings])
    spread = {name: None if np.isnan(of(name)).all() else float(np.nanstd(of(name)))
              for name in ("s_comm", "s_neg", "human_agreement", "s_tran")}
    return {"wordings": wordings, "deviation": spread,
            "s_comm_and_human_agreement": _correlation(of("s_comm"), of("human_agreement"))}


def _transitivity(rows: Sequence[Mapping[str, Any]], name: str, k: str, seed: int) -> dict[str, Any]:
    exact, sampled = (column(rows, name, k, kind) for kind in ("exact", "sampled"))
    lacking = Counter(row[name][k]["reason"] for row in rows if row[name][k]["reason"] is not None)
    reason = "; ".join(f"{count} of {len(rows)} instances: {why}" for why, count in lacking.most_common()) or None
    # A mean over complete graphs only would be one of other instances than the sampled one.
    uncounted = np.isnan(exact) & ~np.isnan(sampled)
    return {"exact": None if uncounted.any() else mean(exact, seed), "sampled": mean(sampled, seed), "reason": reason,
            "partial": lacking[PARTIAL]}


def best_values(rows: Sequence[Mapping[str, Any]], path: Sequence[str]) -> np.ndarray:
    """Returns s_tran of all instances, exact where it is known, else sampled."""
    exact, sampled = (column(rows, *path, kind) for kind in ("exact", "sampled"))
    return np.where(np.isnan(exact), sampled, exact)


def _plain_mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _share_below(values: np.ndarray, limit: float) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.mean(known < limit)) if known.size else None


def _adjusted(value: Mapping[str, Any] | None, chance: float | None) -> float | None:
    return None if value is None or chance is None else float(adjusted(value["mean"], chance))


def _correlation(first: np.ndarray, second: np.ndarray) -> dict[str, Any] | None:
    """Computes Pearson's r and Spearman's rho of two columns; None with fewer than three pairs or without spread."""
    from scipy import stats

    both = ~np.isnan(first) & ~np.isnan(second)
    x, y = first[both], second[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return {"pearson": float(stats.pearsonr(x, y).statistic), "spearman": float(stats.spearmanr(x, y).statistic),
            "n": len(x)}
