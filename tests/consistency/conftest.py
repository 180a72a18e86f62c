"""Instances, judges and runs of the verbs about pairs."""

import itertools
import json
import warnings

import numpy as np
import pytest

from jaxllm.cli import main
from jaxllm.files import read_jsonl, write_jsonl


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def instances(count=4, size=5, seed=0, **extra):
    """Items with numbers as texts; people prefer larger ones."""
    rng = np.random.default_rng(seed)
    values = [rng.permutation(20)[:size].tolist() for _ in range(count)]
    return [{"id": f"i{k}", "context": f"Numbers {k}", "items": [f"number {v}" for v in own], "human": own, **extra}
            for k, own in enumerate(values)]


def answers(rows, pick, options=("A", "B"), negated=True, mass=0.9, **extra):
    """Recorded probabilities; `pick(i, j, row, negated)` is that of the item shown first."""
    found = []
    for row in rows:
        for i, j in itertools.permutations(range(len(row["items"])), 2):
            for negative in (False, True)[:1 + negated]:
                p = pick(i, j, row, negative)
                name = f"{row['id']}/{i}/{j}" + ("/negated" if negative else "")
                if p is not None:
                    found.append({"id": name, "probabilities": {options[0]: mass * p, options[1]: mass * (1 - p)}})
    return found


def oracle(i, j, row, negative):
    """Prefers larger numbers, in both orders and for both questions."""
    return float((row["human"][i] > row["human"][j]) != negative)


class Verb:
    """Runs a verb on files in a directory."""

    def __init__(self, name, folder):
        self.name, self.folder, self.runs = name, folder, 0

    def __call__(self, rows, *options, recorded=None, out=None):
        self.runs += 1
        write_jsonl(self.folder / "rows.jsonl", rows)
        words = ["--data.path", str(self.folder / "rows.jsonl"), *map(str, options)]
        if recorded is not None:
            write_jsonl(self.folder / "answers.jsonl", recorded)
            words += ["--judge.kind", "recorded", "--judge.path", str(self.folder / "answers.jsonl")]
        self.out = self.folder / (out or f"{self.name}{self.runs}")
        self.status = main([self.name, "--out", str(self.out), *words])
        path = self.out / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def rows(self, file="rows.jsonl"):
        return read_jsonl(self.out / file)


@pytest.fixture
def consistency(tmp_path):
    return Verb("consistency", tmp_path)


@pytest.fixture
def rank(tmp_path):
    return Verb("rank", tmp_path)


@pytest.fixture
def repair(tmp_path):
    return Verb("repair", tmp_path)


@pytest.fixture
def strict_floats():
    """Makes every warning of numpy and scipy an error."""
    with warnings.catch_warnings(), np.errstate(divide="raise", over="raise", invalid="raise"):
        warnings.simplefilter("error")
        yield
