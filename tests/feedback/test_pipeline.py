"""The pipeline of PrefCleanBench on the packaged model: audit, clean, fine-tune by its presets, answer, compare."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.feedback.rows import read

CONFIG = """
pairs: 24
methods: [vote_maj_r]
force: true
stop: ["\\n"]
sft: configs/feedback/prefcleanbench_sft.yaml
dpo: configs/feedback/prefcleanbench_dpo.yaml
compare: configs/feedback/prefcleanbench_compare.yaml
judge: tiny
seeds: [0]
"""


def pipeline(tmp_path, config):
    (tmp_path / "config.yaml").write_text(config)
    return subprocess.run([sys.executable, str(ROOT / "scripts" / "feedback_pipeline.py"), "--config",
                           str(tmp_path / "config.yaml"), "--out", str(tmp_path / "out")], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)


@pytest.mark.long
def test_the_presets_of_prefcleanbench_from_rows_to_a_table(tmp_path):
    done = pipeline(tmp_path, CONFIG)
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    left = len(read(out / "cleaned" / "vote_maj_r" / "cleaned.jsonl"))
    assert {name: own["pairs"] for name, own in results.items()} == {
        "noisy": 24, "clean": 24, "vote_maj_r": left, "random for vote_maj_r": left} and 0 < left < 24
    for name, own in results.items():
        run = out / "runs" / f"{name.replace(' ', '_')}_0"
        for stage in ("sft", "dpo"):  # one epoch of all rows
            tuned = json.loads((run / stage / "result.json").read_text())
            assert (tuned["method"], tuned["rows"], tuned["held_back_rows"]) == (stage, own["pairs"], 0)
        assert len(read(run / "answers" / "rows.jsonl")) == 100
        assert own["wins"] + own["ties"] + own["losses"] == pytest.approx(1)
        # The packaged model writes no ratings: no outcome is made up.
        expected = [] if name == "noisy" else [{"win": 0, "tie": 0, "loss": 0, "none": 100}]
        assert [one["outcomes"] for one in own["judged"]] == expected
    assert results["noisy"]["less_noisy"]["mean"] == 0 and "| noisy | 24 |" in done.stdout


def test_comparing_needs_a_judge(tmp_path):
    done = pipeline(tmp_path, CONFIG.replace("judge: tiny\n", ""))
    assert done.returncode == 1 and "compare and judge go together" in done.stderr
