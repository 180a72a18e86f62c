"""Judge real programs with a small model, and print the table of docs/codejudge.md.

    python scripts/judge_table.py ROWS OUT [--model smollm2] [--groups 60] [--max_tokens 256] [--methods ...]

ROWS has HumanEval-X programs in the form of `jaxllm judge`, five languages a problem; the first problems of the
subset test are judged, by each method with and without the reference. Every run is a job in OUT that a second start
resumes. At most `--max_tokens` tokens an answer; answers that cannot be parsed are not generated anew, and are left out
of the measures but for `judged right, of all`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from verbs import check_files

from jaxllm.codejudge.config import Config
from jaxllm.codejudge.job import run
from jaxllm.config import DataConfig
from jaxllm.files import iter_jsonl, write_jsonl
from jaxllm.judge import JudgeConfig
from jaxllm.report.page import show

METHODS = ("analyze_then_summarize", "fault_localization")
COLUMNS = {"accuracy": "accuracy of valid answers", "balanced_accuracy": "balanced accuracy of valid answers",
           "kendall": "tau-b of valid answers"}


def line(method: str, use_reference: bool, result: dict[str, Any]) -> list[str]:
    """Formats the figures of a run."""
    own = result["probability"]
    probability = [show(own["auroc"]), show(result["calibration"]["ece"])] if own["n"] else ["–", "–"]
    cut = ", ".join(f"{step} {share:.0%}" for step, share in result["cut_off"].items() if share is not None)
    return [method, "yes" if use_reference else "no", f"{result['n']}", f"{result['n_valid']}",
            f"{result['invalid_rate']:.1%}",
            *(show(result[name]) for name in COLUMNS), show(result["accepted"]), *probability, cut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    for name, value in (("groups", 60), ("max_tokens", 256), ("batch_size", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    options = parser.parse_args()
    check_files(parser, options.rows)
    rows = [row for row in iter_jsonl(options.rows) if row.get("subset") == "test"]
    if not rows or any("group" not in row for row in rows):
        parser.error(f"{options.rows} needs rows of the subset test, each with a group")
    groups = sorted({row["group"] for row in rows})[:options.groups]
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = options.out / "rows.jsonl"
    write_jsonl(chosen, [row for row in rows if row["group"] in groups])
    table = []
    for method in options.methods:
        for use_reference in (False, True):
            out = options.out / f"{method}_{'with' if use_reference else 'without'}"
            path = run(Config(out, DataConfig(str(chosen)), method=method, use_reference=use_reference, attempts=1,
                              judge=JudgeConfig(model=options.model, batch_size=options.batch_size),
                              max_tokens=options.max_tokens, invalid_policy="drop"))
            assert path is not None
            table.append(line(method, use_reference, json.loads(path.read_text())))
    never = json.loads(path.read_text())["anchors"]["always_no"]
    header = ["method", "reference", "programs", "valid", "invalid", *COLUMNS.values(), "judged right, of all",
              "AUROC of P(right)", "ECE", "cut off"]
    for row in [header, ["---"] * len(header), *table]:
        print(f"| {' | '.join(row)} |")
    print(f"\nAlways No, of all: accuracy {show(never['accuracy'])}, balanced accuracy "
          f"{show(never['balanced_accuracy'])}.")


if __name__ == "__main__":
    main()
