"""Writes programs of the packaged model's own task, labelled right or wrong, to train it as a judge and to test it.

    python scripts/make_toy_programs.py OUT.jsonl [--train 6000] [--test 1000] [--seed 0]

Rows are {id, task, language, candidate, label, subset}. A wrong program does another task with the same arguments.
Arguments of subset `test` have the names that the packaged model has never seen in a program; those of `train` are
random words, none of them such a name, so that a judge cannot go by names. Toy scale: tasks and ways to program them
are the same in both subsets. `make_programs.py` has programs for models of a real size.
"""

from __future__ import annotations

import argparse
import builtins
import keyword
import random
import re
import string
from pathlib import Path
from typing import Any

from tiny_world import LIST_NAMES, NUMBER_NAMES, World

from jaxllm.files import write_jsonl

FORM = re.compile(r"Task: (.*)\nProgram:\n(.*)", re.DOTALL)
TAKEN = {*keyword.kwlist, *dir(builtins), *NUMBER_NAMES[True], *LIST_NAMES[True], "item", "total"}


def words(rng: random.Random, count: int) -> list[str]:
    """Draws different names of one to seven letters."""
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 7)))
        names += [] if name in TAKEN or name in names else [name]
    return names


def make_rows(train: int, test: int, seed: int) -> list[dict[str, Any]]:
    """Draws distinct rows, those of `train` first."""
    rng, rows, seen = random.Random(seed), list[dict[str, Any]](), set[tuple[str, str]]()
    for subset, count, world in (("train", train, World(seed)), ("test", test, World(seed, heldout=True))):
        while sum(row["subset"] == subset for row in rows) < count:
            if subset == "train":
                world.number_names, world.list_names = words(rng, 2), words(rng, 1)
            (text, _), *_, (answer, _) = world.program_judge()
            parts = FORM.fullmatch(text)
            assert parts is not None
            if parts.groups() not in seen:
                seen.add(parts.groups())
                rows.append({"id": f"{subset}-{len(rows)}", "task": parts[1], "language": "python",
                             "candidate": parts[2], "label": int(answer.strip() == "Yes"), "subset": subset})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=6000, help="rows of subset train")
    parser.add_argument("--test", type=int, default=1000, help="rows of subset test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_jsonl(options.out, make_rows(options.train, options.test, options.seed))


if __name__ == "__main__":
    main()
