"""`scripts/consistency_study.py`: its rows, and the tables that it prints."""

import argparse
import json
import sys

import pytest

from jaxllm.files import read_jsonl, write_jsonl
from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports others
import consistency_study as study  # noqa: E402


def test_training_on_comparisons_reads_summeval(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "measured", lambda *_: {"s_comm": 0.5})
    monkeypatch.setattr(study, "always_first", lambda _: {"s_comm": 0.0})
    monkeypatch.setattr(sys, "argv", ["x", str(shared / "consistency" / "summeval.jsonl"), str(tmp_path), "--documents",
                                      "0", "--held_back", "1", "--items", "3", "--variants", "untrained"])
    study.main()
    [row] = read_jsonl(tmp_path / "held_back.jsonl")
    assert len(row["items"]) == len(row["human"]) == 3
    assert "| untrained | 50.0 |\n| always the first | 0.0 |" in capsys.readouterr().out


def test_means_and_ranges_over_seeds():
    found = study.table({"noisy": [{"a": 0.5, "b": None}, {"a": 0.7, "b": 0.25}], "clean": [{"a": None, "b": 1.0}]})
    assert found.splitlines()[2:] == ["| noisy | 60.0 [50.0, 70.0] | 25.0 |", "| clean | – | 100.0 |"]


def test_differences_are_between_the_same_instances(tmp_path):
    """Two seeds of three instances; one has no s_neg."""
    for variant, gain in (("clean", 0.0), ("noisy", 0.0), ("repaired", 0.25)):
        for seed in (0, 1):
            (tmp_path / f"{variant}_{seed}" / "consistency").mkdir(parents=True)
            write_jsonl(tmp_path / f"{variant}_{seed}" / "consistency" / "rows.jsonl", [
                {"id": f"i{k}", "human_agreement": 0.5 + 0.1 * k, "human_agreement_debiased": 0.5 + gain,
                 "s_comm": 0.25 * k + gain, "s_neg": None if k == 2 else 0.5 + gain * k, "s_tran_debiased": {"5": {
                     "exact": None if seed else 0.5 + gain, "sampled": 0.5 + gain}}} for k in range(3)])
    lines = study.differences(tmp_path, ("clean", "noisy", "repaired"), (0, 1)).splitlines()
    assert lines[0] == "| difference | human_agreement | human_agreement_debiased | s_tran_debiased | s_comm | s_neg |"
    assert len(lines) == 4
    assert lines[2].startswith("| clean - noisy | +0.0 [+0.0, +0.0] |")
    assert lines[3] == ("| repaired - noisy | +0.0 [+0.0, +0.0] | +25.0 [+25.0, +25.0] | +25.0 [+25.0, +25.0] | "
                        "+25.0 [+25.0, +25.0] | +12.5 [+0.0, +25.0] |")


@pytest.mark.parametrize("rho", [None, 0.25])
def test_a_judge_that_always_picks_the_first_slot(tmp_path, rho):
    (tmp_path / "consistency").mkdir()
    (tmp_path / "consistency" / "result.json").write_text(json.dumps({"always_first": {
        "s_tran": {"5": 1.0}, "s_comm": 0.0, "s_neg": 0.0, "human_agreement": 0.5, "position_bias": 0.5}}))
    for name in ("pairs", "pairs_calibrated"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"always_first": {
            "spearman": None if rho is None else {"mean": rho}}}))
    assert study.always_first(tmp_path) == {
        "human_agreement": 0.5, "human_agreement_debiased": None, "s_tran": 1, "s_tran_debiased": None, "s_comm": 0,
        "s_neg": 0, "position_bias": 0.5, "answer_mass": None, "pairs": rho, "pairs_calibrated": rho}


def test_training_rows_by_what_people_decide(tmp_path):
    """Item 1 is best, items 0 and 2 are equal. Negated answers name the worse item."""
    for name, own in (("items", [{"id": "a/b", "items": ["x", "y", "z"], "human": [1.0, 2.0, 1.0]}]),
                      ("repaired/export", [
                          {"id": "a/b/0/1", "completion": " B"},           # right
                          {"id": "a/b/1/0", "completion": " B"},           # wrong
                          {"id": "a/b/0/1/negated", "completion": " A"},   # right
                          {"id": "a/b/2/1/negated", "completion": " B"},   # wrong
                          {"id": "a/b/1/2", "completion": [{"role": "assistant", "content": "A"}]},  # right
                          {"id": "a/b/0/2", "completion": " A"}])):        # neither
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / f"{name}.jsonl", own)
    found = study.labels(tmp_path)
    assert found == {"rows": 6, "right": 3, "wrong": 2, "equal": 1, "pairs": 3, "both_orders": 1}
    assert study.label_table({"noisy": [found, found | {"wrong": 4}]}).splitlines() == [
        "| training rows of | rows | right | wrong | equal | pairs | both_orders |", "|---|---|---|---|---|---|---|",
        "| noisy | 6 | 3 | 3 | 1 | 3 | 1 |"]


@pytest.mark.parametrize(("variant", "rows", "right", "all_rows"), [
    ("clean", 24, 24, False), ("noisy", 24, 22, False), ("repaired", 24, None, False), ("negated", 24, None, False),
    ("noisy", 24, 22, True), ("repaired", 102, None, True), ("negated", 204, None, True)])
def test_all_variants_have_as_many_rows(tmp_path, variant, rows, right, all_rows):
    options = argparse.Namespace(comparisons=12, flip=0.1, estimator="win_loss", format="plain", all_rows=all_rows)
    given = study.toy_rows("reviews", 2, 8, seed=7)
    template = str(ROOT / "configs" / "consistency" / "tiny_reviews.yaml")
    path = study.exported(tmp_path, given, variant, options, template, 0)
    found = study.labels(tmp_path)
    assert found["rows"] == rows == len(read_jsonl(path)) and found["right"] + found["wrong"] + found["equal"] == rows
    assert right is None or (found["right"], found["equal"], found["pairs"], found["both_orders"]) == (right, 0, 24, 0)
    assert not all_rows or right or found["both_orders"] == found["pairs"]
    negated = [row["id"].endswith("/negated") for row in read_jsonl(path)]
    assert any(negated) == (variant == "negated")
    assert all(("more negative" in row["prompt"]) == own for row, own in zip(read_jsonl(path), negated, strict=True))


def test_labels_are_shown_before_the_first_training(tmp_path, monkeypatch, capsys):
    call = study.call
    monkeypatch.setattr(study, "call", lambda verb, *rest: call(verb, *rest) if verb == "repair" else
                        print(verb, *rest[-2:]))
    monkeypatch.setattr(study, "measured", lambda *_: {"s_comm": 0.5})
    monkeypatch.setattr(study, "always_first", lambda _: {"s_comm": 0.0})
    monkeypatch.setattr(sys, "argv", ["x", "reviews", str(tmp_path), "--documents", "2", "--held_back", "1",
                                      "--variants", "clean", "noisy", "--seeds", "0", "--epochs", "4"])
    monkeypatch.setattr(study, "differences", lambda *_: "differences")
    study.main()
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("tune", "| clean", "| noisy"))]
    assert shown[:3] == ["| clean | 24 | 24 | 0 | 0 | 24 | 0 |", "| noisy | 24 | 22 | 2 | 0 | 24 | 0 |",
                         "tune --train.epochs 4.0"]


def test_too_few_rows_are_refused_before_training(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(shared / "consistency" / "summeval.jsonl"), str(tmp_path), "--documents",
                                      "70", "--held_back", "6", "--variants", "clean"])
    monkeypatch.setattr(study, "call", None)
    with pytest.raises(SystemExit):
        study.main()
    assert "75 rows: fewer than 70 documents and 6 held back" in capsys.readouterr().err
