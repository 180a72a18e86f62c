"""The claims about SELF-PARAM, each as a difference with its interval, for one model and one file of passages.

    python scripts/injection_claims.py OUT --model MODEL --data passages.jsonl [--single CONFIG] [--batch CONFIG]
                                       [--sequential CONFIG] [--passages 10 25 20] [--seeds 0 1 2] [--only NAME ...]
                                       [--minutes 8] [-- --KEY VALUE ...]

Rows are {context, question, answers}. The configs are those of `jaxllm inject`, by default the recommended ones of
`configs/self_param`; what follows `--` are keys for all runs. Runs, in OUT/NAME-SEED:

    single        one passage at a time, and next-token training on the same targets
    batch         the second number of --passages together
    sequential    the third number one after the other
    no_unrelated  single without unrelated text
    questions     single, trained on the second, fourth, ... question of a passage in place of the model's own; both
                  are tested on the first, third, ...

Finished runs are not repeated; after --minutes the running one is stopped with a checkpoint, and the same command
continues. Intervals resample passages, each with all its seeds. Writes OUT/claims.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from time_limit import stop_after

from jaxllm.cli import main as jaxllm
from jaxllm.files import read_jsonl, write_atomic, write_jsonl
from jaxllm.parsing import parse
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import QA_ROW
from jaxllm.self_param.metrics import MethodRecords, Record, by_method
from jaxllm.statistics import interval
from jaxllm.text.rows import read_rows

CONFIGS = Path(__file__).parents[1] / "configs" / "self_param"
PARTS = ("single", "batch", "sequential", "no_unrelated", "questions")


def odd_questions(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the second, fourth, ... row of each passage."""
    seen = collections.Counter[str]()
    odd = []
    for row in rows:
        seen[row["context"]] += 1
        if seen[row["context"]] % 2 == 0:
            odd.append(row)
    return odd


def keys(part: str, options: argparse.Namespace, seed: int) -> list[str]:
    """Returns the arguments of one run."""
    setting = part if part in ("batch", "sequential") else "single"
    config = getattr(options, setting)
    number = options.passages[("single", "batch", "sequential").index(setting)]
    own = [f"--config={config}", f"--model={options.model}", f"--data.path={options.data}", f"--documents={number}",
           f"--seed={seed}", *(["--save=nothing"] if setting == "single" else []), *options.rest]
    if part == "single":
        return [*own, "--compare=[finetune]"]
    own.append("--compare=[]")
    if part == "no_unrelated":
        mixture = parse(Config, [*own, "--out=x"]).mixture
        own += ["--mixture.unrelated=0", f"--mixture.qa={mixture.qa + mixture.unrelated}"]
    if part == "questions":
        own += [f"--qa_pairs.source={options.out / 'questions.jsonl'}", "--qa_pairs.samples=null"]
    return own


class Run:
    """Records of a finished run.

    Attributes:
        single: its setting is single.
        methods: records by method.
        rows: every test question with its scores.
    """

    def __init__(self, folder: Path):
        self.single = json.loads((folder / "result.json").read_text())["setting"] == "single"
        lines = read_jsonl(folder / "records.jsonl")
        self.methods: dict[str, MethodRecords] = by_method((Record(**line) for line in lines), self.single)
        self.rows = read_jsonl(folder / "rows.jsonl")

    def scores(self, method: str, field: str = "f1") -> np.ndarray:
        """Returns the values of a method by passage `[J]`."""
        return np.array(self.methods[method].final(field), float)

    def drift(self, method: str = "self_param") -> np.ndarray:
        """Returns the drift KL, by passage in the setting single and else a single one."""
        records = self.methods[method].records
        return np.array([record.drift_kl for record in (records if self.single else records[-1:])], float)

    def even(self, method: str = "self_param") -> np.ndarray:
        """Returns the mean F1 of every second question by passage `[J]`, from the first on."""
        by_passage: dict[int, list[float]] = {}
        for row in self.rows:
            by_passage.setdefault(row["document"], []).append(row[method]["f1"])
        return np.array([np.mean(values[::2]) for _, values in sorted(by_passage.items())])


def of_seeds(runs: Sequence[Run], value: Callable[[Run], np.ndarray]) -> np.ndarray:
    """Averages the values of a passage over runs that differ in their seed."""
    return np.mean([value(run) for run in runs], 0)


def cell(values: np.ndarray, digits: int = 3) -> str:
    """Formats a mean with its interval."""
    mean = interval(values)
    if len(values) < 2:
        return f"{mean['mean']:.{digits}f}"
    return f"{mean['mean']:.{digits}f} [{mean['ci_low']:.{digits}f}, {mean['ci_high']:.{digits}f}]"


def claims(runs: dict[str, list[Run]]) -> list[tuple[str, str, str]]:
    """Lists the claims that the finished runs allow to test: claim, values, difference."""
    lines = []
    f1 = lambda part, method: of_seeds(runs[part], lambda run: run.scores(method))

    def add(claim: str, names: tuple[str, str], first: np.ndarray, second: np.ndarray) -> None:
        lines.append((claim, f"{names[0]} {cell(first)}, {names[1]} {cell(second)}", cell(first - second)))

    for part in ("single", "batch", "sequential"):
        if part in runs:
            injected, open_book = f1(part, "self_param"), f1(part, "open_book")
            share = injected.mean() / max(open_book.mean(), 1e-9)
            add(f"equals open-book ({part}), F1", ("injected", f"{share:.2f} of open-book"), injected, open_book)
    if "single" in runs:
        add("KL is better than cross-entropy on the same targets, F1", ("KL", "cross-entropy"),
            f1("single", "self_param"), f1("single", "finetune"))
        drift = lambda method: of_seeds(runs["single"], lambda run: run.drift(method))
        add("... and changes other text less, drift KL", ("KL", "cross-entropy"), drift("self_param"),
            drift("finetune"))
    if {"single", "no_unrelated"} <= runs.keys():
        add("unrelated text prevents collapse, F1", ("with", "without"), f1("single", "self_param"),
            f1("no_unrelated", "self_param"))
        drift_of = lambda part: of_seeds(runs[part], lambda run: run.drift())
        add("... drift KL", ("with", "without"), drift_of("single"), drift_of("no_unrelated"))
    if {"single", "questions"} <= runs.keys():
        even = lambda part: of_seeds(runs[part], lambda run: run.even())
        add("the model's own questions suffice, F1", ("own", "people's"), even("single"), even("questions"))
    if "sequential" in runs:
        matrices = [run.methods["self_param"].matrix() for run in runs["sequential"]]
        after = np.mean([np.diagonal(matrix[1:]) for matrix in matrices], 0)
        add(f"decay over {len(after)} injections, F1", ("at the end", "right after"),
            np.mean([matrix[-1] for matrix in matrices], 0), after)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    for name in ("single", "batch", "sequential"):
        parser.add_argument(f"--{name}", type=Path, default=CONFIGS / f"recommended_{name}.yaml", help="config")
    parser.add_argument("--passages", type=int, nargs=3, default=(10, 25, 20), help="of single, batch, sequential")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, help="stop after this time")
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:split])
    options.rest = given[split + 1:]
    options.out.mkdir(parents=True, exist_ok=True)
    write_jsonl(options.out / "questions.jsonl", odd_questions(read_rows(options.data, QA_ROW).rows))
    runs: dict[str, list[Run]] = {}
    status = 0
    with stop_after(options.minutes):
        for seed in options.seeds:
            for part in options.only:
                folder = options.out / f"{part}-{seed}"
                if status == 0 and not (folder / "result.json").is_file():
                    print(f"run {folder.name}", flush=True)
                    status = jaxllm(["inject", *keys(part, options, seed), f"--out={folder}"])
                if (folder / "result.json").is_file():
                    runs.setdefault(part, []).append(Run(folder))
    rows = claims(runs)
    if rows:
        table = "\n".join(["| claim | values | difference |", "|---|---|---|",
                           *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
        write_atomic(options.out / "claims.md", table)
        print(table)
    return 0 if status in (0, 130) else status


if __name__ == "__main__":
    sys.exit(main())
