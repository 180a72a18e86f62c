"""The table of injection runs: before, after, with the document, and what else was run beside it; drift.

    jaxllm inject --config configs/self_param/tiny.yaml --out runs/tiny
    python scripts/injection_table.py runs/tiny

Several runs that differ in their seed are one table: means over their documents, with 95 % bootstrap intervals that
draw documents, each with all of its seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.files import read_jsonl
from jaxllm.statistics import clustered

Result = dict[str, Any]
MEASURES = {"token F1": "f1", "in other words": "f1_paraphrased", "KL to the reader, nats/token": "kl",
            "near questions as before": "locality", "drift, nats/token": "drift_kl"}
SINGLE = {"before": "base model, question alone", "with_document": "base model, document and question",
          "after": "injected (SELF-PARAM)", "finetune": "plain fine-tuning, same texts",
          "finetune_questions": "plain fine-tuning, pairs alone"}
ARMS = {"after": "injected", "replay": "injected, with replay", "finetune": "plain fine-tuning, same targets",
        "finetune_questions": "plain fine-tuning, pairs alone", "finetune_context": "plain fine-tuning, the text alone",
        "retrieval": "BM25 and the document"}


def cell(value: dict[str, float] | None) -> str:
    """Mean with its interval, or a dash where the run has no such number."""
    return "–" if value is None else f"{value['mean']:.3f} [{value['ci_low']:.3f}, {value['ci_high']:.3f}]"


def single(runs: Sequence[Path], results: Sequence[Result]) -> str:
    """Runs of the setting single, which differ in their seed, as one Markdown table."""
    records = [record for run in runs for record in read_jsonl(run / "documents.jsonl")]

    def mean(name: str) -> dict[str, float] | None:
        found = [record for record in records if name in record]
        return clustered([one[name] for one in found], [one["document"] for one in found]) if found else None

    lines = [f"| | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(cell(mean(f'{measure}_{arm}')) for measure in MEASURES.values())} |"
              for arm, label in SINGLE.items() if mean(f"f1_{arm}")]
    shares = ", ".join(f"{one['f1_after']['mean'] / one['f1_with_document']['mean']:.3f}"
                       if one["f1_with_document"]["mean"] else "–" for one in results)
    return "\n".join([*lines, "", f"{_about(results)}; injected / with document, by seed: {shares}."])


def together(results: Sequence[Result]) -> str:
    """Runs of the setting batch or sequential, which differ in their seed, as one Markdown table."""
    documents = range(results[0]["documents"])

    def row(name: str, arms: Sequence[Result]) -> str:
        shares = [arm["f1_matrix"][-1][i] / result["f1_with_document"]["mean"]
                  for arm, result in zip(arms, results, strict=True) for i in documents]
        mean = lambda take: _mean([take(arm) for arm in arms])
        return " | ".join([
            f"| {name}", cell(clustered(shares, [*documents] * len(arms))),
            mean(lambda arm: arm.get("f1_paraphrased") and arm["f1_paraphrased"]["mean"]),
            mean(lambda arm: arm["efficacy"]["mean"]), mean(lambda arm: arm["locality"] and arm["locality"][-1]),
            mean(lambda arm: arm["drift_kl"][-1]) + " |"])

    found = [arm for arm in ARMS if arm == "after" or all(arm in result["baselines"] for result in results)]
    lines = ["| | share of the reader's F1, at the end | F1 in other words | F1 right after writing | "
             "near questions as before | drift, nats/token |", "|---|---|---|---|---|---|"]
    lines += [row(ARMS[arm], results if arm == "after" else [result["baselines"][arm] for result in results])
              for arm in found]
    each = ", ".join(f"{result['share_of_reader']:.3f}" for result in results)
    return "\n".join([*lines, "", f"{_about(results)}; injected, by seed: {each}."])


def _mean(values: Sequence[float | None]) -> str:
    return "–" if any(value is None for value in values) else f"{sum(values) / len(values):.3f}"


def _about(results: Sequence[Result]) -> str:
    first = results[0]
    seeds = ", ".join(str(result["seed"]) for result in results)
    return (f"{first['documents']} documents, {first['questions']} questions; means over documents with 95 % bootstrap "
            f"intervals; seed {seeds}, {first['versions']['device_kind']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of finished runs")
    runs = parser.parse_args().runs
    if unfinished := [str(run) for run in runs if not (run / "result.json").is_file()]:
        parser.error(f"no finished run in {', '.join(unfinished)}")
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    if len({one["setting"] for one in results}) > 1:
        parser.error("the runs are of different settings")
    print(single(runs, results) if results[0]["setting"] == "single" else together(results))


if __name__ == "__main__":
    main()
