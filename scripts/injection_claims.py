"""The claims about SELF-PARAM, each with a verdict, for one model and one file of passages.

    python scripts/injection_claims.py OUT --model MODEL --data passages.jsonl [--single CONFIG] [--batch CONFIG]
                                       [--sequential CONFIG] [--passages 10 25 20] [--seeds 0 1 2 3 4 5]
                                       [--only NAME ...] [--minutes 8] [-- --KEY VALUE ...]

Rows are {context, question, answers}. The configs are those of `jaxllm inject`, by default the recommended ones of
`configs/self_param`; what follows `--` are keys for all runs. Every seed orders the passages anew. Runs, in
OUT/NAME-SEED:

    single        one passage at a time; the baselines are next-token training, on the same targets, on the pairs and
                  on the passage
    batch         the second number of --passages together, with the baselines of its config
    sequential    the third number one after the other, likewise
    no_unrelated  sequential without unrelated text, in fewer steps, so that the others have as many targets; with
                  mixture.rehearsal the base model's questions are then rehearsed in all injections
    own, people   single, trained on two questions of a passage: the model's, or the file's; both are tested on the
                  file's others, on passages with four questions or more

A claim is that the mean of A - factor x B is above 0, over the seeds that both sides have. A and B are measures of
result.json; `gain` is F1 above closed-book, `after_gain` that right after a passage's injection, and `end_gain` that
after the last one, of all passages but the last. Independent units are passages in single, and runs in the other
settings, where the passages of a run share a model. A claim holds or fails if a two-sided sign-flip test over units has
p <= 0.05, which takes six of them; else it is open, as is one about a gain where B is not above 0 by the same test.
Claims are tested one by one, without a correction for their number. Intervals are bootstrap intervals over units.

The same command continues after --minutes; runs of another model, config or file are refused. Writes OUT/claims.md,
with the scores of all methods of every part.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from injection_table import passages, table, with_interval
from verbs import call_all, parse_with_keys

from jaxllm.evaluate.qa import normalize
from jaxllm.files import read_jsonl, write_atomic, write_jsonl
from jaxllm.parsing import parse
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import QA_ROW, Document, Question, group_rows
from jaxllm.self_param.metrics import Record, by_method, efficacy, method_values
from jaxllm.statistics import paired
from jaxllm.text.rows import read_rows

CONFIGS = Path(__file__).parents[1] / "configs" / "self_param"
SETTINGS = ("single", "batch", "sequential")
PARTS = {**{name: name for name in SETTINGS}, "no_unrelated": "sequential", "own": "single", "people": "single"}
# Claim, A, factor and B; a side is part, method and measure.
CLAIMS = (
    ("as good as open-book, single", "single self_param gain", 0.9, "single open_book gain"),
    ("as good as open-book, batch", "batch self_param gain", 0.9, "batch open_book gain"),
    ("KL is better than cross-entropy", "single self_param f1", 1, "single finetune f1"),
    ("KL changes other text less", "single finetune drift_kl", 1, "single self_param drift_kl"),
    ("60 % is left after a sequence", "sequential self_param end_gain", 0.6, "sequential self_param after_gain"),
    ("without unrelated text half is lost", "sequential self_param gain", 2, "no_unrelated self_param gain"),
    ("... and other text changes more", "no_unrelated self_param drift_kl", 1, "sequential self_param drift_kl"),
    ("own questions are as good as people's", "own self_param gain", 0.9, "people self_param gain"))

Values = Mapping[str, Mapping[int, Any]]
"""Values of "part method measure" by seed."""


def write_data(out: Path, documents: Sequence[Document], seed: int) -> None:
    """Writes the passages in the order of a seed, and their questions for the parts own and people.

    Of a passage with four questions or more two, drawn at random, are taught, and the others are tested. A question
    that repeats one up to case, punctuation and articles is left out.
    """
    files: dict[str, list[dict[str, Any]]] = {"passages": [], "taught": [], "tested": []}

    def add(name: str, document: Document, questions: Iterable[Question]) -> None:
        files[name] += [{"context": document.text, "question": one.question, "answers": list(one.answers)}
                        for one in questions]

    draw = random.Random(seed)
    for document in draw.sample(documents, len(documents)):
        add("passages", document, document.questions)
        distinct = list({normalize(one.question): one for one in document.questions}.values())
        if len(distinct) >= 4:
            draw.shuffle(distinct)
            add("taught", document, distinct[:2])
            add("tested", document, distinct[2:])
    for name, rows in files.items():
        write_jsonl(out / f"{name}-{seed}.jsonl", rows)


def keys(part: str, options: argparse.Namespace, seed: int) -> list[str]:
    """Returns the arguments of one run; those after `--` override the configs and baselines."""
    setting, split = PARTS[part], part in ("own", "people")
    path = lambda name: options.out / f"{name}-{seed}.jsonl"
    given = [f"--config={getattr(options, setting)}", f"--model={options.model}", f"--seed={seed}",
             f"--data.path={path('tested' if split else 'passages')}",
             f"--documents={options.passages[SETTINGS.index(setting)]}"]
    if part not in ("batch", "sequential"):
        given.append("--compare=[finetune,finetune_questions,finetune_context]" if part == "single" else "--compare=[]")
    given += [*(["--save=nothing"] if setting == "single" else []), *options.rest]
    if split:
        given += ["--qa_pairs.cloze=0", "--qa_pairs.per_document=2"]
    if part == "people":
        given += [f"--qa_pairs.source={path('taught')}", "--qa_pairs.examples=null", "--qa_pairs.answer_first=false",
                  "--qa_pairs.closed_book_share=0"]
    if part == "no_unrelated":
        config = parse(Config, [*given, "--out=x"])
        # As many texts are sampled as it takes to find those that drift is measured on.
        given += ["--mixture.unrelated=0", f"--unrelated.train={config.unrelated.drift}"]
        if config.train.epochs is None:  # an epoch ends with the QA pairs
            cycle, steps = config.mixture.cycle, config.train.resolve().steps or 0
            given.append(f"--train.steps={steps - round(steps * cycle.count('unrelated') / len(cycle))}")
    return given


def read_values(folder: Path) -> dict[str, Any]:
    """Reads a finished run.

    Returns:
        values of "method measure", by passage; in the settings batch and sequential drift_kl is one number. `passages`
        are named by their questions and answers.
    """
    setting = json.loads((folder / "result.json").read_text())["setting"]
    single = setting == "single"
    methods = by_method((Record(**line) for line in read_jsonl(folder / "records.jsonl")), single)
    values: dict[str, Any] = {f"{method} {measure}": np.array(own)
                              for measure, by in method_values(methods, single).items()
                              for method, own in by.items() if own}
    values |= {f"{method} gain": values[f"{method} f1"] - values["closed_book f1"] for method in methods}
    if setting == "sequential":
        matrix = methods["self_param"].matrix()
        before = values["closed_book f1"][:-1]
        values |= {"self_param end_gain": matrix[-1, :-1] - before,
                   "self_param after_gain": efficacy(matrix, range(1, len(matrix)))[:-1] - before}
    return values | {"passages": passages(folder)}


def claim_row(values: Values, claim: str, side: str, factor: float, other: str) -> list[str] | None:
    """Tests a claim on the seeds that both sides have; returns the cells of its row, None without a seed."""
    part, ours, theirs = side.split()[0], values.get(side, {}), values.get(other, {})
    pairs = {seed: np.stack([ours[seed], theirs[seed]], 1) for seed in sorted(ours.keys() & theirs.keys())}
    if not pairs:
        return None
    units = collections.defaultdict[Any, list[np.ndarray]](list)
    for seed, own in pairs.items():
        for name, pair in zip(values[f"{part} passages"][seed] if PARTS[part] == "single" else [seed] * len(own), own,
                              strict=True):
            units[name].append(pair)
    first, second = np.array([np.mean(own, 0) for own in units.values()]).T
    difference = paired(first, factor * second)
    adds = not other.endswith("gain") or _verdict(paired(second, np.zeros_like(second))) == "holds"
    verdict = _verdict(difference) if adds else "open"
    by_seed = ", ".join(f"{seed}: {own.mean(0) @ [1, -factor]:.3f}" for seed, own in pairs.items())
    return [claim, f"{side} {first.mean():.3f}", f"{factor:g} x {other} {second.mean():.3f}",
            with_interval(difference, len(units)), by_seed, str(len(units)), verdict]


def _verdict(difference: Mapping[str, float]) -> str:
    return "open" if difference["p"] > 0.05 else "holds" if difference["mean"] > 0 else "fails"


def report(values: Values, folders: Mapping[str, Sequence[Path]]) -> str:
    """Formats the claims that the runs allow to test, and the scores of all methods by part."""
    rows = [row for claim in CLAIMS if (row := claim_row(values, *claim)) is not None]
    head = ["claim", "A", "factor x B", "A - factor x B", "by seed", "units", "verdict"]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    for part, own in folders.items():
        lines += ["", f"## {part}", "", table(own, [json.loads((run / "result.json").read_text()) for run in own])]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    for name in SETTINGS:
        parser.add_argument(f"--{name}", type=Path, default=CONFIGS / f"recommended_{name}.yaml", help="config")
    parser.add_argument("--passages", type=int, nargs=3, default=(10, 25, 20), help="of single, batch, sequential")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, help="stop after this time")
    options = parse_with_keys(parser)
    options.out.mkdir(parents=True, exist_ok=True)
    documents = group_rows(read_rows(options.data, QA_ROW).rows)
    for seed in options.seeds:
        write_data(options.out, documents, seed)
    values = collections.defaultdict[str, dict[int, Any]](dict)
    folders = collections.defaultdict[str, list[Path]](list)
    runs = {options.out / f"{part}-{seed}": (part, seed)
            for seed, part in itertools.product(options.seeds, options.only)}
    finished, status = call_all("inject", {folder: keys(part, options, seed) for folder, (part, seed) in runs.items()},
                                options.minutes)
    for folder in finished:
        part, seed = runs[folder]
        folders[part].append(folder)
        for name, own in read_values(folder).items():
            values[f"{part} {name}"][seed] = own
    if folders:
        text = report(values, folders)
        write_atomic(options.out / "claims.md", text)
        print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
