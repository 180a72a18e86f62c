"""Table of injection runs: every method's scores, locality and drift at the end of the run.

    jaxllm inject --config configs/self_param/tiny.yaml --out runs/tiny
    python scripts/injection_table.py runs/tiny

Runs of one setting that differ in their seed are one table: means over documents, with 95 % bootstrap intervals that
resample documents together with all their seeds; a document is known by its questions and answers. In the settings
batch and sequential, where the documents of a run share one model, they leave out the variance between runs: compare
the shares by seed. There drift is a mean over runs, without an interval, since it is one number for a run, and locality
one over probes, without an interval where the runs have other documents, or another order, and so other probes. A
method that only some runs have names their seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.files import read_jsonl
from jaxllm.self_param.metrics import Record, by_method, method_values
from jaxllm.self_param.report import LABELS
from jaxllm.statistics import clustered

Result = dict[str, Any]
MEASURES = {"f1": "token F1", "f1_share": "F1 / open-book F1", "accuracy": "contains a reference",
            "accuracy_share": "contains a reference / open-book", "f1_paraphrased": "F1, paraphrases",
            "f1_portability": "F1, portability", "kl": "KL to the open-book teacher, nats/token",
            "locality": "locality", "locality_tokens": "locality, tokens", "drift_kl": "drift KL, nats/token"}
PROBED = ("locality", "locality_tokens")

Values = dict[str, dict[str, list[tuple[str, float]]]]
"""Values of a run by measure and method, each with the name of its independent unit."""


def passages(run: Path) -> list[str]:
    """Lists the test questions of a run's documents with their answers, as names of these."""
    names: dict[int, str] = {}
    for row in read_jsonl(run / "rows.jsonl"):
        names[row["document"]] = f"{names.get(row['document'], '')}{row['question']} {row['answers']}\n"
    return [names[number] for number in sorted(names)]


def named_values(run: Path, single: bool) -> Values:
    """Reads the values that the table shows means of.

    Units are documents; of locality and drift, in the settings batch and sequential, the numbers of probes and the run.
    """
    methods, names = by_method((Record(**line) for line in read_jsonl(run / "records.jsonl")), single), passages(run)
    values = method_values(methods, single)
    for score in ("f1", "accuracy"):
        open_book = sum(values[score]["open_book"]) / len(names)
        values[f"{score}_share"] = {name: [value / open_book for value in own]
                                    for name, own in values[score].items() if open_book}

    def units(measure: str, method: str, count: int) -> Sequence[str]:
        if measure in (*PROBED, "drift_kl") and (not single or count < len(names)):
            return [str(number) for number in range(count)]
        if count == len(names):
            return names
        return [name for name, value in zip(names, methods[method].final(measure), strict=True) if value is not None]

    return {measure: {method: list(zip(units(measure, method, len(own)), own, strict=True)) if own else []
                      for method, own in by.items()} for measure, by in values.items()}


def cell(values: Sequence[Sequence[tuple[str, float]]], intervals: bool = True) -> str:
    """Formats the mean of the values of all runs with its interval over units; a dash where a run has none."""
    if not values or not all(values):
        return "–"
    units, numbers = zip(*(pair for own in values for pair in own), strict=True)
    return with_interval(clustered(numbers, units), len(set(units)) if intervals else 1)


def with_interval(mean: Mapping[str, Any], units: int) -> str:
    """Formats a mean with its interval, which takes two independent units."""
    return f"{mean['mean']:.3f}" + (f" [{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]" if units > 1 else "")


def table(runs: Sequence[Path], results: Sequence[Result]) -> str:
    """Formats runs of one setting as a Markdown table."""
    single = results[0]["setting"] == "single"
    values = [named_values(run, single) for run in runs]
    alike = single or len({tuple(passages(run)) for run in runs}) == 1
    measures = {name: label for name, label in MEASURES.items() if any(any(own[name].values()) for own in values)}

    def row(method: str) -> str:
        own = [number for number, one in enumerate(values) if method in one["f1"]]
        seeds = "" if len(own) == len(runs) else f" (seed {', '.join(str(results[number]['seed']) for number in own)})"
        cells = (cell([values[number][measure].get(method, []) for number in own], alike or measure not in PROBED)
                 for measure in measures)
        return " | ".join([f"| {LABELS[method]}{seeds}", *cells,
                           retention([results[number] for number in own], method) + " |"])

    lines = [f"| | {' | '.join(measures.values())} | F1 right after injection |", "|---" * (len(measures) + 2) + "|",
             *(row(method) for method in LABELS if any(method in own["f1"] for own in values))]
    shares = ", ".join("–" if (share := result["share_of_open_book"]) is None else f"{share:.3f}" for result in results)
    first = results[0]
    seeds = ", ".join(str(result["seed"]) for result in results)
    return "\n".join([*lines, "", f"{first['documents']} documents, {first['questions']} questions; seed {seeds}, "
                      f"{first['versions']['device_kind']}; SELF-PARAM / open-book F1, by seed: {shares}."])


def retention(results: Sequence[Result], method: str) -> str:
    """Formats the mean F1 right after injection, over the runs."""
    own = [result if method == "self_param" else result["baselines"].get(method) for result in results]
    return "–" if None in own else f"{sum(numbers['efficacy']['mean'] for numbers in own) / len(own):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of finished runs")
    runs = parser.parse_args().runs
    if unfinished := [str(run) for run in runs if not (run / "result.json").is_file()]:
        parser.error(f"no finished run in {', '.join(unfinished)}")
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    if len({result["setting"] for result in results}) > 1:
        parser.error("the runs have different settings")
    print(table(runs, results))


if __name__ == "__main__":
    main()
