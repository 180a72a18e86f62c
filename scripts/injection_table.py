"""The table of an injection run: before, after, with the document, plain fine-tuning; drift.

    jaxllm inject --config configs/self_param/tiny.yaml --out runs/tiny
    python scripts/injection_table.py runs/tiny
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROWS = {
    "base model, question alone": ("f1_before", "accuracy_before", "kl_before", None),
    "base model, document and question": ("f1_with_document", "accuracy_with_document", None, None),
    "injected (SELF-PARAM)": ("f1_after", "accuracy_after", "kl_after", "drift_kl"),
    "plain fine-tuning, same texts": ("f1_finetune", "accuracy_finetune", "kl_finetune", "drift_kl_finetune"),
}


def cell(result: dict, name: str | None) -> str:
    """Mean with its interval, or a dash where the run has no such number."""
    if name is None or name not in result:
        return "–"
    value = result[name]
    return f"{value['mean']:.3f} [{value['ci_low']:.3f}, {value['ci_high']:.3f}]"


def table(result: dict) -> str:
    """The run as a Markdown table."""
    lines = ["| | token F1 | accuracy | KL to the reader, nats/token | drift, nats/token |", "|---|---|---|---|---|"]
    for label, names in ROWS.items():
        if names[0] in result:
            lines.append(f"| {label} | {' | '.join(cell(result, name) for name in names)} |")
    share = result["f1_after"]["mean"] / result["f1_with_document"]["mean"] if result["f1_with_document"]["mean"] else 0
    lines.append("")
    lines.append(f"{result['documents']} documents, {result['questions']} questions; means over documents with 95 % "
                 f"bootstrap intervals; injected / with document = {share:.3f}; seed {result['seed']}, "
                 f"{result['versions']['device_kind']}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    options = parser.parse_args()
    print(table(json.loads((options.run / "result.json").read_text())))


if __name__ == "__main__":
    main()
