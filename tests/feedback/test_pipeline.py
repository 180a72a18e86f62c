"""The pipeline of PrefCleanBench on the packaged model: audit, clean, fine-tune by its presets, answer, compare."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.comparison.config import VerdictConfig
from jaxllm.feedback.cleaning_config import Config as CleanConfig
from jaxllm.feedback.config import AuditConfig, CommitteeConfig, MemberConfig
from jaxllm.judge import JudgeConfig
from jaxllm.parsing import parse
from tests.conftest import ROOT
from tests.feedback.rows import read, write

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
import feedback_pipeline  # noqa: E402

CONFIG = """
pairs: 24
methods: [vote_maj_r]
force: true
stop: ["\\n"]
max_tokens: 32
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


def config_of(folder, committee, **keys):
    given = {"gold": "gold", "methods": []} | keys
    return feedback_pipeline.Config(folder, data=DataConfig("rows.jsonl", limit=7, limit_bad=0.5),
                                    prompts=DataConfig("prompts.jsonl"), committee=committee, **given)


def test_verbs_take_the_committee_and_the_data_as_they_are_given(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(feedback_pipeline, "call", lambda *words: calls.append([*map(str, words)]))
    committee = CommitteeConfig(members=[
        MemberConfig("judge", "judge", model="tiny", verdict=VerdictConfig(form="rating")),
        MemberConfig("recorded", "judge", judge=JudgeConfig(kind="recorded", path="answers.jsonl")),
        MemberConfig("policy", "dpo", model="tiny", reference="sft", beta=0.5)],
        cache="cache", tolerance=0.1, edges=[0.25, 0.5], noise=0.3)
    config = config_of(tmp_path, committee)
    feedback_pipeline.variants(config)
    parsed = [parse(job, words[1:]) for job, words in zip((AuditConfig, CleanConfig), calls, strict=True)]
    assert parsed[0].committee == committee and [own.data for own in parsed] == [config.data] * 2


def test_truth_is_read_as_clean_reads_it(tmp_path, monkeypatch):
    """Ids are compared as text, and a text "false" is no wrong label."""
    monkeypatch.setattr(feedback_pipeline, "call", lambda *words: None)
    noisy = tmp_path / "cleaned" / "none" / "cleaned.jsonl"
    noisy.parent.mkdir(parents=True)
    write(noisy, [{"id": number, "prompt": "p", "chosen": "a", "rejected": "b"} for number in range(3)])
    truth = tmp_path / "truth.csv"
    truth.write_text("id,flipped\n0,false\n1,true\n")
    found = feedback_pipeline.variants(config_of(tmp_path, CommitteeConfig("votes.jsonl"), truth=str(truth)))
    assert [row["chosen"] for row in read(found["clean"])] == ["a", "b", "a"]
    write(truth.with_suffix(".jsonl"), [{"id": "0", "flipped": "false"}, {"id": "1", "flipped": True}])
    found = feedback_pipeline.variants(config_of(tmp_path, CommitteeConfig("votes.jsonl"),
                                                 truth=str(truth.with_suffix(".jsonl"))))
    assert [row["chosen"] for row in read(found["clean"])] == ["a", "b", "a"]


def test_methods_may_have_keys_of_their_own(tmp_path, monkeypatch):
    calls = []

    def call(*words):
        calls.append([*map(str, words)])
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "result.json").write_text('{"actions": {"remove": 3}}')

    monkeypatch.setattr(feedback_pipeline, "call", call)
    method = "ifd_r --ifd.model a/b --fraction 0.2"
    found = feedback_pipeline.variants(config_of(tmp_path, CommitteeConfig("votes.jsonl"), methods=[method]))
    own, drawn = (parse(CleanConfig, words[1:]) for words in calls[2:])
    assert (own.method, own.ifd.model, own.fraction) == ("ifd_r", "a/b", 0.2)
    assert (drawn.method, drawn.count) == ("random_r", 3)
    assert list(found) == ["noisy", method, f"random for {method}"]
    assert [path.parent.parent for path in found.values()] == [tmp_path / "cleaned"] * 3


def test_the_length_of_the_answers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(feedback_pipeline, "call", lambda *words: seen.append(words) or (
        sys.exit() if words[0] == "generate" else None))
    with pytest.raises(SystemExit):
        feedback_pipeline.measured(config_of(tmp_path, CommitteeConfig("votes.jsonl"), max_tokens=200), "noisy",
                                   tmp_path / "rows.jsonl", 0)
    assert seen[-1][seen[-1].index("--sampling.max_tokens") + 1] == 200


@pytest.mark.parametrize("spelled", ["{}", "{}/", "{}/../model", "link"])
@pytest.mark.parametrize("member", [
    lambda name: MemberConfig("m", "reward", model=name), lambda name: MemberConfig("m", "judge", judge=JudgeConfig(
        model=name)), lambda name: MemberConfig("m", "dpo", model="tiny", reference=name)])
def test_a_model_of_the_committee_does_not_evaluate(tmp_path, spelled, member):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    other = str(tmp_path / "link") if spelled == "link" else spelled.format(folder)
    committee = CommitteeConfig(members=[member(str(folder))])
    for keys, match in (({"gold": other}, "gold reward model"), ({"judge": other, "compare": "c.yaml"}, "the judge")):
        with pytest.raises(UserError, match=match):
            config_of(tmp_path, committee, **keys)
    config_of(tmp_path, committee, judge="other", compare="c.yaml")


def test_the_noise_of_the_packaged_world_has_the_kinds_that_it_can_make(tmp_path, capsys):
    with pytest.raises(UserError, match="noise.kind"):
        parse(feedback_pipeline.Config, ["--out", str(tmp_path), "--noise.kind", "margin"])


def test_comparing_needs_a_judge(tmp_path):
    done = pipeline(tmp_path, CONFIG.replace("judge: tiny\n", ""))
    assert done.returncode == 1 and "compare and judge go together" in done.stderr
