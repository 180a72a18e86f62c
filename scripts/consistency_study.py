r"""Judges trained on noisy, repaired and negated comparisons: consistency on instances that were held back.

    python scripts/consistency_study.py reviews OUT --model tiny
    python scripts/consistency_study.py numbers OUT --model tiny
    python scripts/consistency_study.py summeval.jsonl OUT --model smollm2 --context_tokens 256
    python scripts/consistency_study.py imdb_train.jsonl.gz OUT --model smollm2 \
        --template configs/consistency/reviews.yaml

Every variant trains on the same number of rows for `--epochs` (table 6 of the paper), or with `--all_rows` on all rows
of a repair (table 3): `clean` labels, labels of which `--flip` are exchanged (`noisy`), their repair in both orders
(`repaired`), and the repair with negated questions (`negated`). `untrained` is the model itself; where `clean` is no
better, the training is too short to compare labels. Finished steps are not repeated: the same command resumes a stopped
study, and one with more variants or seeds goes on with it. Prints Markdown tables: first, how many training rows of
each variant have the label of people; then means over the seeds, with what a judge that always picks the first slot
has; and differences between variants on the same instances, with intervals.
`--estimator` is the repair's (table 7 of the paper: win_loss, elo, bradley_terry).
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from consistency_rows import rows_of
from tiny_world import World
from verbs import call

from jaxllm.consistency.measuring import column
from jaxllm.consistency.results import best_values
from jaxllm.files import read_jsonl, write_atomic, write_jsonl
from jaxllm.statistics import crossed

VARIANTS = ("untrained", "clean", "noisy", "repaired", "negated")
ROOT = Path(__file__).resolve().parent.parent
ORDERS = 100  # orders to begin with, for the ranks
# Variants that are compared, and in which measures: s_tran alone may be that of a judge that picks the first slot.
# Where right labels gain nothing over noisy ones, a repair of the labels cannot either.
COMPARED = (("clean", "noisy"), ("repaired", "noisy"), ("negated", "noisy"), ("negated", "repaired"))
MEASURES = ("human_agreement", "human_agreement_debiased", "s_tran_debiased", "s_comm", "s_neg")


def toy_rows(task: str, documents: int, items: int, seed: int) -> list[dict[str, Any]]:
    """Draws instances of the packaged model's tasks: reviews of four levels, or numbers."""
    world, rows = World(seed, heldout=True), []
    for number in range(documents):
        if task == "numbers":
            values = world.rng.sample(range(100), items)
            texts = [str(value) for value in values]
        else:
            values = [(-2, -1, 1, 2)[i % 4] for i in range(items)]
            world.rng.shuffle(values)
            texts = []
            while len(texts) < items:
                text = world.review(values[len(texts)], 1)[0]
                texts += [text] if text not in texts else []
        rows.append({"id": str(number), "items": texts, "human": values})
    return rows


def comparisons(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Draws comparisons of untied pairs, in random orders of presentation."""
    rng, found = random.Random(seed), []
    for row in rows:
        human = row["human"]
        pairs = [(i, j) for i in range(len(human)) for j in range(len(human)) if i < j and human[i] != human[j]]
        for pair in rng.sample(pairs, min(count, len(pairs))):
            first, second = pair if rng.random() < 0.5 else pair[::-1]
            found.append({"instance": row["id"], "first": first, "second": second,
                          "winner": "first" if human[first] > human[second] else "second"})
    return found


def exported(folder: Path, rows: list[dict[str, Any]], variant: str, options: argparse.Namespace, template: str,
             seed: int) -> Path:
    """Writes the training rows of a variant with `jaxllm repair`; returns their file.

    The labels of `clean` and `noisy` go through it with an estimator that changes none: one instance a comparison.
    """
    given = comparisons(rows, options.comparisons, seed)
    settings = ["--seed", seed, "--export", "sft", "--template", template, "--format", options.format]
    if variant in ("clean", "noisy"):
        single = [{**row, "instance": str(number)} for number, row in enumerate(given)]
        by_id = {row["id"]: row for row in rows}
        items = [by_id[row["instance"]] | {"id": str(number)} for number, row in enumerate(given)]
        settings += ["--both_orders", "false", "--flip", options.flip if variant == "noisy" else 0]
    else:
        single, items = given, rows
        settings += ["--both_orders", "true", "--flip", options.flip, "--estimator", options.estimator]
        settings += [] if options.all_rows else ["--rows", len(given)]
        if variant == "negated":
            settings += ["--negations", "true"]
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "comparisons.jsonl", single)
    write_jsonl(folder / "items.jsonl", items)
    call("repair", "--data.path", folder / "comparisons.jsonl", "--items.path", folder / "items.jsonl", "--out",
         folder / "repaired", *settings)
    return folder / "repaired" / "export.jsonl"


def labels(folder: Path) -> dict[str, int]:
    """Counts the training rows of a variant by what people decide, and its pairs.

    Args:
        folder: folder of the variant, with the files of `exported`.

    Returns:
        `rows`; `right` and `wrong`, with the label of people's scores or the other one; `equal`, between items of the
        same score, which have no right label; `pairs` of items; `both_orders`, pairs that one of the two questions
        shows in both orders.
    """
    human = {str(row["id"]): row["human"] for row in read_jsonl(folder / "items.jsonl")}
    counts, shown = Counter(dict.fromkeys(("rows", "right", "wrong", "equal"), 0)), set()
    for row in read_jsonl(folder / "repaired" / "export.jsonl"):
        negated = row["id"].endswith("/negated")
        name, *slots = row["id"].removesuffix("/negated").rsplit("/", 2)
        first, second = map(int, slots)
        answer = row["completion"] if isinstance(row["completion"], str) else row["completion"][0]["content"]
        better, worse = (first, second) if (answer.strip() == "A") != negated else (second, first)
        gain = human[name][better] - human[name][worse]
        counts.update(["rows", "right" if gain > 0 else "wrong" if gain < 0 else "equal"])
        shown.add((name, first, second, negated))
    return {**counts, "pairs": len({(name, frozenset(pair)) for name, *pair, _ in shown}),
            "both_orders": len({(name, frozenset((first, second))) for name, first, second, negated in shown
                                if (name, second, first, negated) in shown})}


def measured(folder: Path, test: Path, adapter: Path | None, options: argparse.Namespace, template: str
             ) -> dict[str, float | None]:
    """Measures a judge on the held-back instances, and the ranks by its answers."""
    judge = ["--judge.model", options.model, "--judge.format", "auto" if options.format == "chat" else "plain"]
    judge += [] if adapter is None else ["--judge.adapter", adapter]
    call("consistency", "--data.path", test, "--template", template, "--out", folder / "consistency", *judge)
    found = json.loads((folder / "consistency" / "result.json").read_text())
    ranks = {}
    for name, calibrated in (("pairs", "false"), ("pairs_calibrated", "true")):
        call("rank", "--data.path", folder / "consistency" / "rows.jsonl", "--judge.kind", "matrix", "--orders", ORDERS,
             "--calibrated", calibrated, "--out", folder / name)
        own = json.loads((folder / name / "result.json").read_text())["spearman"]
        ranks[name] = None if own is None else own["mean"]
    mean = lambda own: None if own is None else own["mean"]
    return {**{name: mean(found[name]) for name in MEASURES[:2]}, "s_tran": mean(found["s_tran"]["5"]["exact"]),
            "s_tran_debiased": mean(found["s_tran_debiased"]["5"]["exact"]), "s_comm": mean(found["s_comm"]),
            "s_neg": mean(found["s_neg"]), "position_bias": mean(found["position_bias"]),
            "answer_mass": mean(found["answer_mass"]), **ranks}


def always_first(folder: Path) -> dict[str, float | None]:
    """Reads the measures of a judge that always picks the first slot from those of a measured judge."""
    read = lambda name: json.loads((folder / name / "result.json").read_text())["always_first"]
    found = read("consistency")
    ranks = {name: read(name)["spearman"] for name in ("pairs", "pairs_calibrated")}
    return {"human_agreement": found["human_agreement"], "human_agreement_debiased": None,
            "s_tran": found["s_tran"]["5"], "s_tran_debiased": None, "s_comm": found["s_comm"],
            "s_neg": found["s_neg"], "position_bias": found["position_bias"], "answer_mass": None,
            **{name: None if own is None else own["mean"] for name, own in ranks.items()}}


def differences(out: Path, variants: Sequence[str], seeds: Sequence[int]) -> str:
    """Formats differences between variants on the same held-back instances, in percent.

    Intervals are over seeds and instances: the same labels with another seed may differ more than two variants do.
    """
    lines = ["| difference | " + " | ".join(MEASURES) + " |", "|---|" + "---|" * len(MEASURES)]
    for ours, theirs in COMPARED:
        if not {ours, theirs} <= set(variants):
            continue
        rows = [[read_jsonl(out / f"{variant}_{seed}" / "consistency" / "rows.jsonl") for seed in seeds]
                for variant in (ours, theirs)]
        cells = []
        for name in MEASURES:
            first, second = (np.stack([_values(own, name) for own in variant]) for variant in rows)
            if np.isnan(first - second).all():
                cells.append("–")
                continue
            own = crossed(100 * (first - second))
            cells.append(f"{own['mean']:+.1f} [{own['ci_low']:+.1f}, {own['ci_high']:+.1f}]")
        lines.append(f"| {ours} - {theirs} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return best_values(rows, (name, "5")) if name.startswith("s_tran") else column(rows, name)


def table(results: dict[str, list[dict[str, float | None]]]) -> str:
    """Formats means and ranges over seeds, in percent; measures without a value are left blank."""
    names = list(next(iter(results.values()))[0])
    lines = ["| variant | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for variant, own in results.items():
        cells = []
        for name in names:
            values = np.array([100 * one[name] for one in own if one[name] is not None])
            spread = f" [{values.min():.1f}, {values.max():.1f}]" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}" if values.size else "–")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def label_table(counts: Mapping[str, Sequence[Mapping[str, int]]]) -> str:
    """Formats the results of `labels` for each variant, means over the seeds."""
    names = ("rows", "right", "wrong", "equal", "pairs", "both_orders")
    lines = ["| training rows of | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    return "\n".join(lines + [f"| {variant} | " + " | ".join(f"{np.mean([one[name] for one in own]):.0f}"
                                                             for name in names) + " |"
                              for variant, own in counts.items()])


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="reviews, numbers, or a file of scripts/consistency_rows.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--format", choices=("chat", "plain"), help="plain for tiny by default, else chat")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--held_back", type=int, default=10)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--comparisons", type=int, default=12)
    parser.add_argument("--flip", type=float, default=0.1)
    parser.add_argument("--estimator", default="win_loss")
    parser.add_argument("--all_rows", action="store_true", help="train on all rows of a repair")
    parser.add_argument("--template", help="question of a file's rows (coherence)")
    parser.add_argument("--characters", type=int, default=300, help="longer reviews of a file are left out (300)")
    parser.add_argument("--context_tokens", type=int)
    parser.add_argument("--dimension", default="coherence")
    parser.add_argument("--lr", type=float, default=2e-4, help="learning rate; 2e-3 for tiny")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the rows; 2 in the paper")
    options = parser.parse_args()
    options.format = options.format or ("plain" if options.model == "tiny" else "chat")
    toy = options.task in ("reviews", "numbers")
    template = options.template or (str(ROOT / f"configs/consistency/tiny_{options.task}.yaml") if toy else "coherence")
    total = options.documents + options.held_back
    if toy:
        rows = toy_rows(options.task, total, options.items, seed=7)
    else:
        own = argparse.Namespace(**vars(options) | {"seed": 0, "skip": 0, "documents": total, "simulate": None})
        rows = list(rows_of(options.task, own))
    if len(rows) < total:
        parser.error(f"{options.task} has {len(rows)} rows: fewer than {options.documents} documents and "
                     f"{options.held_back} held back")
    options.out.mkdir(parents=True, exist_ok=True)
    test = options.out / "held_back.jsonl"
    write_jsonl(test, rows[options.documents:])
    data = {(variant, seed): exported(options.out / f"{variant}_{seed}", rows[:options.documents], variant, options,
                                      template, seed)
            for variant in options.variants if variant != "untrained" for seed in options.seeds}
    if data:
        print(label_table({variant: [labels(options.out / f"{variant}_{seed}") for seed in options.seeds]
                           for variant in options.variants if variant != "untrained"}), flush=True)
    results: dict[str, list[dict[str, float | None]]] = {}
    for variant in options.variants:
        for seed in options.seeds if variant != "untrained" else options.seeds[:1]:
            folder, adapter = options.out / f"{variant}_{seed}", None
            if variant != "untrained":
                call("tune", "--config", ROOT / "configs/consistency/study.yaml", "--model", options.model,
                     "--data.path", data[variant, seed], "--out", folder / "tuned", "--seed", seed,
                     "--train.lr", options.lr, "--train.epochs", options.epochs)
                adapter = folder / "tuned" / "adapter"
            results.setdefault(variant, []).append(measured(folder, test, adapter, options, template))
            write_atomic(options.out / "results.json", json.dumps(results, indent=2))
            print(table(results), flush=True)
    first = options.out / f"{options.variants[0]}_{options.seeds[0]}"
    print(table(results | {"always the first": [always_first(first)]}))
    if any({*pair} <= {*options.variants} for pair in COMPARED):
        print(differences(options.out, options.variants, options.seeds))


if __name__ == "__main__":
    main()
