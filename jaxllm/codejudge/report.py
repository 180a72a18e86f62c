"""Report of a judge: measures, calibration, and verdicts with the programs; and verdicts as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.codejudge.data import Item
from jaxllm.progress import printable
from jaxllm.report import Bars, Lines, Section, Table

_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "precision": "precision",
          "recall": "recall", "f1": "F1", "mcc": "Matthews correlation", "cohen_kappa": "Cohen's kappa",
          "kendall": "Kendall's tau-b", "spearman": "Spearman's rho", "pearson": "Pearson's r", "auroc": "AUROC",
          "brier": "Brier score", "rmse": "root mean squared error"}
_PROTOCOLS = {"humanevalx": "Means over languages.", "conala": "Correlations within requests, means over requests.",
              "pooled": "All rows together.", "apps": "All rows together.", "bigcodebench": "All rows together."}
_POLICIES = {"drop": "are left out of the measures", "opposite": "count as the opposite of the label",
             "wrong": "count as wrong verdicts and are left out of correlations", "zero": "have the score 0"}
# Programs that the report shows.
SHOWN = 150
_LONG = 4000


def sections(result: Mapping[str, Any], items: Sequence[Item], rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Builds the sections: measures, languages, calibration, robustness, and programs.

    Args:
        result: contents of result.json.
        items, rows: the programs, and their rows.
    """
    first = " in the first run" if "runs" in result else ""
    valid = f"{result['n_valid']:,} of {result['n']:,} programs have a valid answer{first}."
    shown = [name for name in _NAMES if isinstance(result.get(name), Mapping)]
    never = (result["anchors"] or {}).get("always_no", {})
    short, people = (result["anchors"] or {}).get("shorter", {}), result.get("human_ceiling", {})
    zeros = {name: result[name].get("mean_with_zeros") for name in shown}
    columns = {"always No": never, "shorter is right": short, "a random person": people, "undefined as 0": zeros}
    used = {title: own for title, own in columns.items() if any(own.get(name) is not None for name in shown)}
    table = Table(["", "measure", *used], [[_NAMES[name], result[name], *(own.get(name) for own in used.values())]
                                           for name in shown],
                  f"{_PROTOCOLS[result['protocol']]} 95 % intervals from resampled groups; "
                  f"{result['n_groups_valid']:,} groups have a value; {result['invalid_rate'] or 0:.1%} of the answers "
                  f"are invalid; they {_POLICIES[result['invalid_policy']]}.")
    found = [Section("Measures", valid, [table, *_drawn(result)])]
    found.append(Section("Languages", parts=[_languages(result)]))
    found += _probability_sections(result)
    if "fitted" in result and result["fitted"]["threshold"] is not None:
        found.append(_fitted(result["fitted"]))
    if "human_ceiling" in result:
        found.append(_ceiling(result))
    if "runs" in result:
        lines = [[_NAMES[name], own["mean"], own["std"], *own["values"]] for name, own in result["runs"].items()
                 if name in _NAMES]
        found.append(Section("Runs", "Mean and deviation over runs.", [Table(
            ["", "mean", "deviation", *(f"run {number + 1}" for number in range(result["runs"]["count"]))], lines)]))
    if "surface" in result:
        lines = [[name, own["kendall"], own["spearman"], own["auroc"]] for name, own in result["surface"].items()
                 if isinstance(own, Mapping)]
        found.append(Section("Surface metrics", "Programs against their references, without a judge.", [Table(
            ["metric", "tau-b", "rho", "AUROC"], [["judge", result["kendall"], result["spearman"], result["auroc"]],
                                                  *lines])]))
    if "robustness" in result:
        lines = [[name, own["n"], *(own[key] for key in ("flip_rate", "accepted_before", "accepted_after",
                                                         "still_accepted", "keeps_meaning"))]
                 for name, own in result["robustness"].items()]
        found.append(Section("Robustness", parts=[Table(
            ["edit", "programs", "verdict changes", "accepted before", "accepted after", "of those accepted before",
             "same meaning"], lines)]))
    if "compared" in result:
        found.append(Section("Compared with the other run", parts=[Table(
            ["", "difference", "p"], [[_NAMES[name], own, own.get("p")] for name, own in result["compared"].items()
                                      if isinstance(own, Mapping)])]))
    found.append(_programs(items, rows))
    return found


def _drawn(result: Mapping[str, Any]) -> list[Bars]:
    drawn = {name: own["accuracy"] for name, own in result["by_language"].items()
             if own["accuracy"].get("ci_low") is not None}
    return [Bars("Accuracy by language", "accuracy", drawn, top=1.0)] if drawn else []


def _languages(result: Mapping[str, Any]) -> Table:
    kinds = ["right judged right", "right judged wrong", "right judged nothing", "wrong judged wrong",
             "wrong judged right", "wrong judged nothing"]
    lines = [[name, own["n"], own["invalid_rate"], own["accuracy"], own["kendall"],
              *(own["confusion"].get(kind, 0) for kind in kinds)] for name, own in result["by_language"].items()]
    return Table(["language", "programs", "invalid", "accuracy", "tau-b", *kinds], lines)


def _probability_sections(result: Mapping[str, Any]) -> list[Section]:
    own, calibration = result["probability"], result["calibration"]
    if own["n"] == 0:
        return []
    text = "Over all rows."
    if own["mass"] is not None:
        text += f" The answers hold {own['mass']:.0%} of the probability mass."
    if own["mass"] is not None and own["mass"] < 0.5:
        text += " The judge would rather have written something else: its probabilities mean little."
    if calibration["ece"] is None:
        return [Section("Probabilities", text)]
    table = Table(["", "measure"], [[_NAMES[name], own[name]] for name in ("auroc", "brier", "kendall") if name in own]
                  + [["expected calibration error", calibration["ece"]], ["log loss", calibration["log_loss"]]])
    bins = calibration["bins"]
    probabilities, shares = [one["probability"] for one in bins], [one["right"] for one in bins]
    curve = calibration["selective"]["curve"]
    parts: list[Any] = [table, Lines("Calibration", "probability that the program is right", "share that is right", {
        "judge": (probabilities, shares), "calibrated": ([0.0, 1.0], [0.0, 1.0])})]
    parts.append(Lines("Accuracy of the most confident verdicts", "share of programs that are judged", "accuracy", {
        "judge": ([one["coverage"] for one in curve], [one["accuracy"] for one in curve])}))
    return [Section("Probabilities", text, parts)]


def _fitted(fitted: Mapping[str, Any]) -> Section:
    lines = [["threshold", fitted["threshold"]], ["accuracy", fitted["accuracy"]],
             ["balanced accuracy", fitted["balanced_accuracy"]]]
    if fitted["temperature"] is not None:
        lines += [["temperature", fitted["temperature"]], ["calibration error before", fitted["ece_before"]],
                  ["calibration error", fitted["ece"]]]
    return Section("Fitted on validation rows", f"For the {fitted['of']}; measured on the other rows.",
                   [Table(["", "measure"], lines)])


def _ceiling(result: Mapping[str, Any]) -> Section:
    own = result["human_ceiling"]
    lines = [["tau-b of one person", own["kendall"]], ["rho of one person", own["spearman"]],
             ["tau-b of the mean of all", own["mean_kendall"]], ["exact grades of one person", own["exact"]],
             ["mean absolute error of one person", own["mae"]]]
    return Section("People", "Single people against the aggregated grade, by which the judge is measured.",
                   [Table(["", "measure"], lines)])


def outcome(row: Mapping[str, Any]) -> str:
    """Names the outcome of a row: no verdict, or the verdict, and whether it is wrong where there is a label."""
    if row["verdict"] is None:
        return "no verdict" if row["reason"] is not None else "scored"
    named = "right" if row["verdict"] else "wrong"
    if row["label"] is None:
        return f"judged {named}"
    return f"judged {named}" + ("" if bool(row["label"]) == row["verdict"] else ", mistaken")


def _programs(items: Sequence[Item], rows: Sequence[Mapping[str, Any]]) -> Section:
    kinds: dict[Any, int] = {}
    turn = []  # the how manieth of its language and outcome a program is
    for item, row in zip(items, rows, strict=True):
        kind = item.language, outcome(row)
        kinds[kind] = kinds.get(kind, -1) + 1
        turn.append(kinds[kind])
    order = sorted(range(len(rows)), key=lambda i: turn[i])[:SHOWN]
    lines = [[str(items[i].id), items[i].language or "–", outcome(rows[i]), rows[i]["score"], rows[i]["probability"],
              _clipped(items[i].task), _clipped(items[i].program), _explained(rows[i])] for i in sorted(order)]
    note = "" if len(order) == len(rows) else (
        f"{len(order)} of {len(rows):,} programs, as many of each language and outcome; rows.jsonl has all.")
    return Section("Programs", parts=[Table(
        ["id", "language", "outcome", "score", "P(right)", "task", "program", "faults and answers"], lines, note,
        filters=(1, 2))])


def _explained(row: Mapping[str, Any]) -> str:
    """Lists faults or the reason, and the texts of the judge."""
    parts = [f"{fault['severity']}: {fault['inconsistency']}" for fault in row["faults"] or []]
    if row["reason"]:
        parts.append(f"({row['reason']})")
    for step, texts in row["texts"].items():
        if step != "faults" or row["faults"] is None:
            parts += [f"{step}: {text}" for text in texts[:1] if text]
    return _clipped("\n".join(parts))


def _clipped(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]} ... ({len(text) - _LONG:,} characters more)"


def pair_sections(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], items: Sequence[Item]
                  ) -> list[Section]:
    """Builds the sections of pairwise judging."""
    names = {"accuracy": "names the right program in both orders", "ties": "depends on the order",
             "losses": "names the wrong program in both orders", "win_rate": "wins and half of the ties",
             "consistent": "same program in both orders", "first_slot": "names the program shown first"}
    table = Table(["", "share"], [[text, result[name]] for name, text in names.items()],
                  "95 % intervals from resampled groups.")
    programs = {item.id: item for item in items}
    lines = [[row["language"], str(row["outcome"]), _clipped(programs[row["right"]].task),
              _clipped(programs[row["right"]].program), _clipped(programs[row["wrong"]].program)]
             for row in rows[:SHOWN]]
    return [Section("Pairs", f"{result['n_valid']:,} of {result['n']:,} pairs have two valid answers.", [table]),
            Section("Programs", parts=[Table(["language", "outcome", "task", "right program", "wrong program"], lines,
                                             filters=(0, 1))])]


def verdict_text(row: Mapping[str, Any]) -> str:
    """Formats the verdict on a file for a terminal."""
    verdict = {True: "right", False: "wrong", None: "no verdict"}[row["verdict"]]
    numbers = [f"score {row['score']:.2f}"] if row["score"] is not None else []
    if row["probability"] is not None:
        numbers.append(f"P(right) {row['probability']:.2f}")
    lines = [f"{row['id']}: {verdict}" + (f" ({', '.join(numbers)})" if numbers else "")]
    if row["reason"]:
        lines.append(f"  {row['reason']}")
    lines += [f"  {fault['severity']}: {' '.join(fault['inconsistency'].split())}" for fault in row["faults"] or []]
    analysis = next(iter(row["texts"].get("analyze", [])), None)
    if analysis:
        lines += [f"  {line}" for line in analysis.strip().splitlines()]
    return printable("\n".join(lines))
