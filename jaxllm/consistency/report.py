"""Report of a judge's consistency: scores and chance levels, contradictions, and one instance as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.consistency.data import Instance
from jaxllm.consistency.results import best, best_values
from jaxllm.judge.protocol import LOW_MASS
from jaxllm.report import Bars, Graph, Heat, Lines, Section, Table

# Contradictions, cycles as graphs, and characters of a text and of an id that the page shows.
SHOWN, GRAPHS, LONG, LONG_ID = 60, 2, 400, 24
# From this first-slot excess on, and below this mass, the page warns at its head.
BIASED = 0.1
_NAMES = {"s_comm": "commutativity s_comm", "s_neg": "negation invariance s_neg", "human_agreement":
          "agreement with people (H.)", "human_agreement_debiased": "H., both orders averaged", "self_agreement":
          "self-agreement of samples", "position_bias": "first-slot excess", "zeta": "Kendall's zeta", "hodge":
          "HodgeRank inconsistency", "longer_wins": "the longer item wins",
          "answer_mass": "probability mass of both answers", "coverage": "share answered",
          "coverage_negated": "share answered, negated question"}
_KINDS = {"cycle": "cycle", "order_flip": "order decides", "negation_failure": "negation ignored"}


def findings(result: Mapping[str, Any]) -> str:
    """Describes in a few sentences what must not be missed."""
    bias, mass, comm = (result[name] for name in ("position_bias", "answer_mass", "s_comm"))
    found = []
    if bias is not None and abs(bias["mean"]) >= BIASED:
        slot, share = ("first", 0.5 + bias["mean"]) if bias["mean"] > 0 else ("second", 0.5 - bias["mean"])
        known = any(best(own) for own in result["s_tran_debiased"].values())
        found.append(f"The judge picks the item that is shown {slot} in {share:.0%} of all comparisons, whichever it "
                     "is: compare s_tran with that of a judge that always picks the first one"
                     + (", and with s_tran_debiased." if known else ".")
                     + (" Its opinion of the items is in human_agreement_debiased." if
                        result["human_agreement_debiased"] is not None else ""))
    if mass is not None and mass["mean"] < LOW_MASS:
        found.append(low_mass(mass["mean"]))
    if comm is not None and comm["ci_high"] < 0.5:
        found.append("Its answers agree in both orders less often than those of a coin.")
    elif comm is not None and comm["ci_low"] <= 0.5:
        found.append("It is not clear that its answers agree in both orders more often than those of a coin, which do "
                     f"in half of the pairs: they do in {comm['mean']:.0%}, with an interval from "
                     f"{comm['ci_low']:.0%}.")
    if result["coverage"] is not None and result["coverage"]["mean"] < 1:
        found.append(f"{1 - result['coverage']['mean']:.1%} of the comparisons have no answer.")
    samples = result["samples"]
    if samples is not None and samples["valid"] < samples["drawn"]:
        found.append(f"{1 - samples['valid'] / samples['drawn']:.1%} of the samples have no valid answer.")
    return " ".join(found)


def low_mass(mean: float) -> str:
    """Describes a mean probability mass of both answers that is below `LOW_MASS`."""
    return (f"Both answers together have {mean:.0%} of the probability mass: the judge would rather write something "
            "else, and its probabilities mean little.")


def sections(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], instances: Sequence[Instance],
             graphs: Mapping[int, np.ndarray]) -> list[Section]:
    """Builds the sections.

    Args:
        result: contents of result.json.
        rows: measures of each instance.
        instances: the instances, with their matrices.
        graphs: preference graphs of some instances, by number.
    """
    found = [Section("Consistency", findings(result), [_scores(result), _drawn(result)])]
    if len(result["confidence"]) > 1:
        found.append(_confidence(result["confidence"]))
    found += _pictures(rows, instances, graphs)
    found.append(_contradictions(rows, instances))
    if "paraphrases" in result:
        found.append(_paraphrases(result["paraphrases"]))
    found += _correlations(result["correlations"])
    if "compared" in result:
        own = result["compared"]
        found.append(Section("Compared with the other run", f"{own['n']:,} instances, this run less the other.", [
            Table(["", "difference", "p"], [[_NAMES.get(name, name), value, value["p"]] for name, value in own.items()
                                            if isinstance(value, Mapping)])]))
    last = list(result["s_tran"])[-1]
    transitive = [best_values(rows, (name, last)) for name in ("s_tran", "s_tran_debiased")]
    lines = [[str(instance.id), row["n"], *(None if np.isnan(value) else float(value) for value in own),
              row["s_comm"], row["s_neg"], row["human_agreement"], row["position_bias"], row["answer_mass"]]
             for instance, row, *own in zip(instances, rows, *transitive, strict=True)]
    note = "" if len(lines) <= SHOWN else f"The first {SHOWN} of {len(lines):,}; rows.jsonl has all."
    found.append(Section("Instances", parts=[Table(
        ["instance", "items", f"s_tran({last})", "debiased", "s_comm", "s_neg", "H.", "first-slot excess", "mass"],
        lines[:SHOWN], note)]))
    return found


def _scores(result: Mapping[str, Any]) -> Table:
    chance, always, lines = result["chance"], result["always_first"], []
    for name, label in (("s_tran", "transitivity s_tran({k})"),
                        ("s_tran_debiased", "s_tran({k}), both orders averaged")):
        lines += [[label.format(k=k), best(own), chance[name][k], always["s_tran"][k] if name == "s_tran" else None,
                   result["adjusted"][name][k]] for k, own in result[name].items()]
    lines += [[label, result[name], chance.get(name), always.get(name), result["adjusted"].get(name)]
              for name, label in _NAMES.items() if result[name] is not None]
    reasons = {own["reason"] for own in result["s_tran"].values() if own["reason"] and own["exact"] is None}
    note = "95 % intervals from resampled instances. Adjusted: 0 by chance, 1 at best."
    return Table(["", "measure", "chance", "always the first", "adjusted"], lines,
                 note + "".join(f" Transitivity is sampled: {reason}." for reason in sorted(reasons)))


def _drawn(result: Mapping[str, Any]) -> Bars:
    values: dict[str, Any] = {}
    for name, label in (("s_tran", "s_tran({k})"), ("s_tran_debiased", "debiased s_tran({k})")):
        last = list(result[name])[-1]
        values[label.format(k=last)] = best(result[name][last])
    values |= {name: result[name] for name in ("s_comm", "s_neg", "human_agreement")}
    return Bars("Consistency", "share", {name: own for name, own in values.items() if own is not None}, top=1.0)


def _confidence(curve: Sequence[Mapping[str, Any]]) -> Section:
    def line(name: str) -> tuple[list[float], list[float]]:
        known = [one for one in curve if one[name] is not None]
        return [one["threshold"] for one in known], [one[name] for one in known]

    series = {label: line(name) for name, label in (("s_comm", "s_comm"), ("human_agreement", "agreement with people"),
                                                    ("coverage", "share of the answers"))}
    return Section("Confident answers", "Measures of those answers alone that are far from 0.5.", [Lines(
        "Consistency of confident answers", "least |p - 0.5|", "share",
        {name: own for name, own in series.items() if own[0]})])


def _pictures(rows: Sequence[Mapping[str, Any]], instances: Sequence[Instance], graphs: Mapping[int, np.ndarray]
              ) -> list[Section]:
    """Draws the least commutative instance as a heat map, and the strongest cycles as graphs."""
    parts: list[Any] = []
    known = [i for i, row in enumerate(rows) if row["s_comm"] is not None and row["n"] <= 64]
    text = ""
    if known:
        worst = min(known, key=lambda i: rows[i]["s_comm"])
        text = (f"Instance {instances[worst].id}, with the least commutativity. For a judge that is commutative, "
                "cells that mirror each other at the diagonal add up to 1. Blank cells are unanswered.")
        parts.append(Heat("P(the item shown first)", "item shown second", "item shown first",
                          instances[worst].answers.tolist()))
    for number, violation in _strongest_cycles(rows):
        items = violation["items"]
        edges = [(int(first), int(second)) for first, second in np.argwhere(graphs[number])]
        names = [str(one) for one in range(rows[number]["n"])]
        title = f"A cycle of instance {_clipped(str(instances[number].id), LONG_ID)}"
        parts.append(Graph(title, names, edges, list(zip(items, [*items[1:], items[0]], strict=True))))
    return [Section("Pictures", text, parts)] if parts else []


def _strongest_cycles(rows: Sequence[Mapping[str, Any]], most_items: int = 20) -> list[tuple[int, Mapping[str, Any]]]:
    cycles = [(number, next(one for one in row["violations"] if one["kind"] == "cycle"))
              for number, row in enumerate(rows) if row["n"] <= most_items
              and any(one["kind"] == "cycle" for one in row["violations"])]
    return sorted(cycles, key=lambda pair: -pair[1]["strength"])[:GRAPHS]


def instances_to_draw(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Lists the instances of which the page draws the graphs."""
    return [number for number, _ in _strongest_cycles(rows)]


def _contradictions(rows: Sequence[Mapping[str, Any]], instances: Sequence[Instance]) -> Section:
    by_kind: dict[str, list[tuple[int, Mapping[str, Any]]]] = {kind: [] for kind in _KINDS}
    for number, row in enumerate(rows):
        for one in row["violations"]:
            by_kind[one["kind"]].append((number, one))
    lines = []
    for kind, own in by_kind.items():
        for number, one in sorted(own, key=lambda pair: -pair[1]["strength"])[:SHOWN // 3]:
            instance = instances[number]
            shown = "\n".join(f"{i}: {_clipped(instance.items[i])}" for i in one["items"])
            lines.append([_KINDS[kind], str(instance.id), " > ".join(map(str, one["items"])) if kind == "cycle" else
                          ", ".join(map(str, one["items"])), one["strength"], shown])
    total = {kind: len(own) for kind, own in by_kind.items()}
    text = ("No contradictions are listed." if not lines else
            "The clearest ones; strength is the least |p - 0.5| of the answers that contradict each other. "
            "violations.jsonl has " + ", ".join(f"{total[kind]:,} ({name})" for kind, name in _KINDS.items()) + ".")
    return Section("Contradictions", text, [Table(["kind", "instance", "items", "strength", "texts"], lines,
                                                  filters=(0,))] if lines else [])


def _paraphrases(own: Mapping[str, Any]) -> Section:
    lines = [[one["question"], one["s_tran"], one["s_comm"], one["s_neg"], one["human_agreement"], one["position_bias"]]
             for one in own["wordings"]]
    related = own["s_comm_and_human_agreement"]
    note = "" if related is None else (f"Over wordings, s_comm and H. correlate with r = {related['pearson']:.2f} "
                                       f"(rho = {related['spearman']:.2f}, n = {related['n']}).")
    return Section("Wordings of the question", parts=[Table(
        ["question", "s_tran", "s_comm", "s_neg", "H.", "first-slot excess"], lines, note)])


def _correlations(own: Mapping[str, Any]) -> list[Section]:
    labels = {"s_tran_and_self_agreement": "s_tran and self-agreement",
              "s_tran_debiased_and_human_agreement": "debiased s_tran and H.",
              "s_comm_and_human_agreement": "s_comm and H."}
    lines = [[label, own[name]["pearson"], own[name]["spearman"], own[name]["n"]] for name, label in labels.items()
             if own[name] is not None]
    return [Section("Correlations over instances", parts=[Table(
        ["", "Pearson's r", "Spearman's rho", "instances"], lines)])] if lines else []


def _clipped(text: str, length: int = LONG) -> str:
    return text if len(text) <= length else f"{text[:length]} ..."
