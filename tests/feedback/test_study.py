"""The measurement of `scripts/feedback_study.py`: rows of a method that belong together, and results of one model."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxllm.files import read_jsonl, write_jsonl
from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
import feedback_study  # noqa: E402
from feedback_study import FOLD, MEMBERS, VALIDATION, Split  # noqa: E402


@pytest.fixture
def split():
    """Ten training pairs of random features."""
    count = MEMBERS * FOLD + VALIDATION + 10
    states = np.random.default_rng(0).normal(0, 1, (count, 2, 3))
    return Split(0, states, states[:4], *[[f"{side} {number}" for number in range(count)]
                                          for side in ("positive", "negative")])


def test_difficulties_are_those_of_the_answers_in_the_rows(split):
    """An exchanged label exchanges the difficulties too; an answer without one is not ranked."""
    both = np.arange(2.0 * len(split.train)).reshape(-1, 2)
    both[split.training[3], 1] = np.nan
    known = {name: None if np.isnan(value) else value
             for own, values in zip((split.positive, split.negative), both.T, strict=True)
             for name, value in zip(own, values.tolist(), strict=True)}
    flipped = np.arange(10) % 2 > 0
    rows, found = split.rows(flipped), split.difficulties(flipped, both)
    assert [row["chosen"].split()[0] for row in rows[:2]] == ["positive", "negative"]
    assert found == [{"id": row["id"], "chosen": known[row["chosen"]], "rejected": known[row["rejected"]]}
                     for row in rows]
    assert found[3]["chosen"] is None


def test_the_pairs_of_dpo_are_those_it_trains_on(split, tmp_path, monkeypatch):
    """A method that removes pairs is compared with as many noisy ones, which make as many steps."""
    rows = split.rows(np.arange(10) % 2 > 0)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for name, left in (("sac_1", rows), ("rwgap_r_0.4", [rows[3], *rows[5:]]), ("random_r", rows[::2])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "cleaned.jsonl", left)

    def tune(*words):
        out = Path(words[words.index("--out") + 1])
        out.mkdir(exist_ok=True)
        (out / "result.json").write_text('{"eval": {}}')

    monkeypatch.setattr(feedback_study, "call", tune)
    best = {"SAC": "sac_1", "PrefCleanBench": "rwgap_r_0.4"}
    again = []
    for _ in range(2):
        found = feedback_study.preference_optimization(split, tmp_path, "tiny", 8, best, (["a"], ["b"]), 0)
        assert {name: own["pairs"] for name, own in found.items()} == {
            "clean": 8, "noisy": 8, "sac_1": 8, "rwgap_r_0.4": 4, "random_r": 4, "random for rwgap_r_0.4": 4}
        again.append(read_jsonl(tmp_path / "dpo_random for rwgap_r_0.4.jsonl"))
    noisy = read_jsonl(tmp_path / "dpo_noisy.jsonl")
    assert again[0] == again[1] == [row for row in noisy if row in again[0]] != noisy[:4]


def test_results_of_dpo_stay_where_a_later_run_has_none(tmp_path, monkeypatch):
    for name in ("train", "test"):
        with gzip.open(tmp_path / f"mr_sentences_{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"text": f"{number}", "label": number % 2}) + "\n" for number in range(8))
    one = {"right": [False] * 8, "validation": 0.5, "rows": 4}
    methods = ["_".join([method, *map(str, keys.values())]) for method, keys in [*feedback_study.SAC,
                                                                                 *feedback_study.BENCH]]
    found = {name: one for name in methods} | {"noisy": one, "clean": one | {"right": [True] * 8}}
    made = {"enable_compile_cache": lambda: None, "states": lambda *own: np.ones((4, 2, 3)),
            "of_rows": lambda *own: np.ones((4, 2)), "one_seed": lambda split, folder, *own: (
                folder.mkdir(), found)[1], "preference_optimization": lambda *own: {"clean": {"pairs": 4}}}
    for name, function in made.items():
        monkeypatch.setattr(feedback_study, name, function)
    monkeypatch.setattr(feedback_study.jaxllm, "load", lambda name: None)
    monkeypatch.setattr(feedback_study.jaxllm, "Generator", lambda model: None)
    for more in (["--dpo=4"], []):
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), str(tmp_path / "out"), "--seeds=0", *more])
        feedback_study.main()
    assert json.loads((tmp_path / "out" / "dpo_uniform_0.4.json").read_text()) == {"0": {"clean": {"pairs": 4}}}
    assert "best" in json.loads((tmp_path / "out" / "summary_uniform_0.4.json").read_text())


def test_random_removal_of_a_size_of_its_own(tmp_path, monkeypatch):
    """A count that a method is given comes before the number of pairs that the best cleaning acts on."""
    seen = []

    def clean(*words):
        seen.append(dict(zip(words[1::2], words[2::2], strict=True)))
        seen[-1]["--out"].mkdir()
        write_jsonl(seen[-1]["--out"] / "cleaned.jsonl", [])

    monkeypatch.setattr(feedback_study, "call", clean)
    for keys in ({}, {"count": 3}):
        feedback_study.cleaned(tmp_path, tmp_path / "rows.jsonl", "random_r", keys, 0, 7)
    assert [(own["--count"], own["--out"].name) for own in seen] == [(7, "random_r"), (3, "random_r_3")]


@pytest.mark.parametrize("change", [["--model=smollm2"], ["--pairs=7"], []])
def test_results_of_another_model_or_other_data_are_refused(change, tmp_path, monkeypatch):
    for name in ("train", "test"):
        (tmp_path / f"mr_sentences_{name}.jsonl.gz").write_bytes(b"one")
    monkeypatch.setattr(feedback_study, "enable_compile_cache", lambda: sys.exit("pinned"))
    given = ["x", str(tmp_path), str(tmp_path / "out"), "--model=tiny"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit, match="pinned"):
            feedback_study.main()
    if not change:
        (tmp_path / "mr_sentences_test.jsonl.gz").write_bytes(b"two")
    monkeypatch.setattr(sys, "argv", given + change)
    with pytest.raises(SystemExit, match="give another folder"):
        feedback_study.main()
