"""`scripts/consistency_study.py`: its rows, and the tables that it prints."""

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
    """Two seeds of three instances; one has no s_neg. An interval is over instances, not over seeds."""
    for variant, gain in (("noisy", 0.0), ("repaired", 0.25)):
        for seed in (0, 1):
            (tmp_path / f"{variant}_{seed}" / "consistency").mkdir(parents=True)
            write_jsonl(tmp_path / f"{variant}_{seed}" / "consistency" / "rows.jsonl", [
                {"id": f"i{k}", "human_agreement": 0.5 + 0.1 * k, "s_comm": 0.25 * k + gain,
                 "s_neg": None if k == 2 else 0.5 + gain * k, "s_tran_debiased": {"5": {
                     "exact": None if seed else 0.5 + gain, "sampled": 0.5 + gain}}} for k in range(3)])
    lines = study.differences(tmp_path, ("clean", "noisy", "repaired"), (0, 1)).splitlines()
    assert lines[0] == "| difference | human_agreement | s_tran_debiased | s_comm | s_neg |" and len(lines) == 3
    assert lines[2] == ("| repaired - noisy | +0.0 [+0.0, +0.0] | +25.0 [+25.0, +25.0] | +25.0 [+25.0, +25.0] | "
                        "+12.5 [+0.0, +25.0] |")


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
        "human_agreement": 0.5, "s_tran": 1, "s_tran_debiased": None, "s_comm": 0, "s_neg": 0, "position_bias": 0.5,
        "answer_mass": None, "pairs": rho, "pairs_calibrated": rho}
