"""The table of claims, on records that were written for it."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxllm.files import write_jsonl
from jaxllm.self_param.metrics import Record
from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
import injection_claims  # noqa: E402


def write_run(folder, setting, scores, rows=(), drift=0.1):
    """Writes a run with the scores {(method, step): [F1 by document]}."""
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"setting": setting}))
    documents = lambda step, f1: [step - 1] if setting == "single" and step else list(range(len(f1)))
    records = [Record(method, step, documents(step, f1), [], f1, f1, [], drift_kl=drift if step else None)
               for (method, step), f1 in scores.items()]
    write_jsonl(folder / "records.jsonl", map(dataclasses.asdict, records))
    write_jsonl(folder / "rows.jsonl", rows)
    return injection_claims.Run(folder)


BASE = {("closed_book", 0): [0.0, 0.0], ("open_book", 0): [1.0, 0.5]}


def test_differences_of_single_runs_are_paired(tmp_path):
    runs = [write_run(tmp_path / f"single{seed}", "single", BASE | {
        ("self_param", 1): [0.8 + seed / 10], ("self_param", 2): [0.4], ("finetune", 1): [0.6],
        ("finetune", 2): [0.2 + seed / 10]}) for seed in (0, 2)]
    rows = {claim: (values, difference) for claim, values, difference in injection_claims.claims({"single": runs})}
    values, difference = rows["equals open-book (single), F1"]
    assert values.startswith("injected 0.650") and "0.87 of open-book 0.750" in values
    assert difference == "-0.100 [-0.100, -0.100]"
    assert rows["KL is better than cross-entropy on the same targets, F1"][1] == "0.200 [0.100, 0.300]"


def test_decay_is_that_of_each_passage(tmp_path):
    run = write_run(tmp_path / "sequential", "sequential", BASE | {
        ("self_param", 1): [0.9, 0.0], ("self_param", 2): [0.5, 0.7]})
    claim, values, difference = injection_claims.claims({"sequential": [run]})[-1]
    assert claim == "decay over 2 injections, F1" and difference.startswith("-0.200 [-0.400, 0.000]")
    assert values.startswith("at the end 0.600") and "right after 0.800" in values


def test_questions_are_tested_on_those_that_neither_run_learned(tmp_path):
    rows = [{"document": 0, "self_param": {"f1": f1}} for f1 in (1.0, 0.0, 0.5)] + [
        {"document": 1, "self_param": {"f1": f1}} for f1 in (0.25, 1.0)]
    run = write_run(tmp_path / "single", "single", BASE | {("self_param", 1): [0.5], ("self_param", 2): [0.6]}, rows)
    np.testing.assert_allclose(run.even(), [0.75, 0.25])
    questions = [{"context": context, "question": str(i)} for i in range(3) for context in "ab"]
    assert injection_claims.odd_questions(questions) == [{"context": "a", "question": "1"},
                                                         {"context": "b", "question": "1"}]


@pytest.mark.parametrize(("part", "expected"), [
    ("single", ["--documents=3", "--save=nothing", "--compare=[finetune]"]), ("batch", ["--documents=4"]),
    ("no_unrelated", ["--documents=3", "--mixture.unrelated=0", "--mixture.qa=3"]),
    ("questions", ["--documents=3", "--qa_pairs.source=out/questions.jsonl"])])
def test_arguments_of_a_run(part, expected):
    configs = ROOT / "configs" / "self_param"
    options = argparse.Namespace(
        single=configs / "tiny.yaml", batch=configs / "tiny_batch.yaml", sequential=None, model="tiny",
        data="asset:tiny/documents.jsonl", passages=(3, 4, 5), out=Path("out"), rest=["--train.steps=6"])
    given = injection_claims.keys(part, options, 2)
    assert set(expected) <= set(given) and {"--seed=2", "--model=tiny", "--train.steps=6"} <= set(given)
