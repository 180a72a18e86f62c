"""Held-back accuracy of a finished `jaxllm tune` on pairs, with what length and words alone reach on the same pairs.

    python scripts/preference_baselines.py RUN pairs.jsonl

Baselines learn from all other pairs of the file {id, prompt, chosen, rejected}: the length that wins more often there,
and naive Bayes on the presence of words. Equal values count one half. Intervals resample prompts. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
from pathlib import Path

import numpy as np
from verbs import check_files

from jaxllm.errors import UserError
from jaxllm.files import iter_jsonl
from jaxllm.generate.rows_job import ID
from jaxllm.statistics import clustered, resampled_units
from jaxllm.text.rows import read_rows


def wins(differences: np.ndarray) -> np.ndarray:
    """Returns 1 where the chosen answer has the higher value, one half where both are equal."""
    return (np.sign(differences) + 1) / 2


def length_differences(rows: list[dict]) -> np.ndarray:
    """Returns by how many characters the chosen answer is longer, `[N]`."""
    return np.array([len(row["chosen"]) - len(row["rejected"]) for row in rows], float)


def word_scores(train: list[dict], rows: list[dict]) -> np.ndarray:
    """Returns the difference in log-odds of both answers of `rows` by naive Bayes on the words of `train`, `[N]`."""
    counts = {side: collections.Counter(word for row in train for word in set(row[side].split()))
              for side in ("chosen", "rejected")}
    ratio = lambda word: math.log((counts["chosen"][word] + 1) / (counts["rejected"][word] + 1))
    score = lambda text: sum(ratio(word) for word in sorted(set(text.split())))
    return np.array([score(row["chosen"]) - score(row["rejected"]) for row in rows])


def baselines(train: list[dict], held_back: list[dict]) -> dict[str, np.ndarray]:
    """Returns for every held-back pair whether a baseline prefers the chosen answer, `[N]` each."""
    longer = wins(length_differences(train)).mean() >= 0.5
    name = "longer answer" if longer else "shorter answer"
    return {name: wins(length_differences(held_back) * (1 if longer else -1)),
            "bag of words (naive Bayes)": wins(word_scores(train, held_back))}


def cell(value: dict) -> str:
    return f"{value['mean']:.3f} [{value['ci_low']:.3f}, {value['ci_high']:.3f}]"


def table(pairs: dict[str, dict], accuracies: dict[str, float]) -> str:
    """Formats accuracies of a model, by the id of held-back pairs, next to those of the baselines."""
    train = [row for name, row in pairs.items() if name not in accuracies]
    held_back = [pairs[name] for name in accuracies]
    prompts = resampled_units([json.dumps(row["prompt"]) for row in held_back])
    own = np.array(list(accuracies.values()))
    lines = ["| | pairs | accuracy | model less baseline |", "|---|---|---|---|",
             f"| model | {len(own)} | {cell(clustered(own, prompts))} | |"]
    for name, won in baselines(train, held_back).items():
        less = cell(clustered(own - won, prompts))
        lines.append(f"| {name} | {len(own)} | {cell(clustered(won, prompts))} | {less} |")
    longer = length_differences(held_back)
    for name, part in (("longer", longer > 0), ("shorter", longer < 0)):
        if part.any():
            some = clustered(own[part], prompts[part])
            lines.append(f"| model, where the chosen answer is {name} | {part.sum()} | {cell(some)} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("pairs", type=Path)
    options = parser.parse_args()
    check_files(parser, options.run / "rows.jsonl", options.pairs)
    try:
        rows = read_rows(options.pairs, {"id": ID, "prompt": str | list, "chosen": str, "rejected": str}, limit_bad=0)
    except UserError as error:
        parser.error(str(error))
    pairs = {row["id"]: row for row in rows.rows}
    held_back = list(iter_jsonl(options.run / "rows.jsonl"))
    if strangers := [row["id"] for row in held_back if row["id"] not in pairs]:
        parser.error(f"{options.pairs} has no pair {strangers[0]}, which {options.run} held back")
    print(table(pairs, {row["id"]: row.get("rewards/accuracies", row.get("accuracy")) for row in held_back}))


if __name__ == "__main__":
    main()
