"""Table of injection runs: every method's scores, locality and drift at the end of the run.

    jaxllm inject --config configs/self_param/tiny.yaml --out runs/tiny
    python scripts/injection_table.py runs/tiny

Runs of one setting that differ in their seed are one table: means over documents, with 95 % bootstrap intervals that
resample documents together with all their seeds. In the settings batch and sequential, where the documents of a run
share one model, they leave out the variance between runs: compare the shares by seed. Locality is a mean over probes
there, and drift over runs, without an interval, since it is one number for a run.
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
MEASURES = {"f1": "token F1", "f1_paraphrased": "F1, paraphrases", "f1_portability": "F1, portability",
            "kl": "KL to the open-book teacher, nats/token", "locality": "locality", "drift_kl": "drift KL, nats/token"}


def cell(values: Sequence[Sequence[float]]) -> str:
    """Formats the mean of the values of all runs with its interval; a dash where a run has none."""
    if not all(values):
        return "–"
    units = [i for own in values for i in range(len(own))]
    return with_interval(clustered([value for own in values for value in own], units), len(set(units)))


def with_interval(mean: Mapping[str, Any], units: int) -> str:
    """Formats a mean with its interval, which takes two independent units."""
    return f"{mean['mean']:.3f}" + (f" [{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]" if units > 1 else "")


def table(runs: Sequence[Path], results: Sequence[Result]) -> str:
    """Formats runs of one setting as a Markdown table."""
    single = results[0]["setting"] == "single"
    values = [method_values(by_method((Record(**line) for line in read_jsonl(run / "records.jsonl")), single), single)
              for run in runs]
    methods = [method for method in LABELS if all(method in own["f1"] for own in values)]
    measures = {name: label for name, label in MEASURES.items()
                if any(own[name][method] for own in values for method in methods)}
    row = lambda method: " | ".join([
        f"| {LABELS[method]}", *(cell([own[measure][method] for own in values]) for measure in measures),
        retention(results, method) + " |"])
    lines = [f"| | {' | '.join(measures.values())} | F1 right after injection |", "|---" * (len(measures) + 2) + "|",
             *map(row, methods)]
    shares = ", ".join(f"{result['share_of_open_book']:.3f}" for result in results)
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
