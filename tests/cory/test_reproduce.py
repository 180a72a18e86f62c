"""The decision whether a run has collapsed, the area under a frontier, and the table, on numbers made for them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
import reproduce_cory  # noqa: E402
import verbs  # noqa: E402
from reproduce_cory import collapsed, hypervolume, measured, summarize, table  # noqa: E402


def noisy(curve, seed=0, scale=0.2):
    return np.asarray(curve) + scale * np.random.default_rng(seed).normal(size=len(curve))


def test_noise_is_no_collapse():
    assert np.mean([collapsed(np.random.default_rng(seed).normal(size=60)) for seed in range(200)]) < 0.05


@pytest.mark.parametrize(("curve", "expected"), [
    (np.linspace(0, 3, 60), False), (np.minimum(np.linspace(0, 6, 60), 3), False), (np.linspace(2, -5, 60), True),
    (np.r_[np.linspace(0, 3, 30), np.linspace(3, 0.5, 30)], True),
    (np.r_[np.linspace(0, 3, 40), np.full(20, 2.4)], False),
    (np.r_[np.zeros(59), np.nan], True)])
def test_collapse(curve, expected):
    assert all(collapsed(noisy(curve, seed)) is expected for seed in range(5))


def test_hypervolume():
    assert hypervolume([(2.0, 1.0), (3.0, 4.0)], 1.0, 5.0) == 1 * 4 + 1 * 1
    assert hypervolume([(2.0, 1.0), (1.5, 3.0)], 1.0, 5.0) == 4.0, "a dominated point adds nothing"
    assert hypervolume([(0.5, 1.0)], 1.0, 5.0) == 0.0


def finished(folder, rewards, passes, trained=((0.5,) * 4,) * 2):
    """Files of a run of two agents with these held-back and training rewards, and pass@k where there are numbers."""
    folder.mkdir()
    value = lambda mean: {"mean": mean, "ci_low": mean, "ci_high": mean, "n": 4}
    numbers = lambda reward: {"task_reward": value(reward), "kl": value(2.0), "length": value(5.0)}
    agents = {f"llm{i}": {"before": numbers(0.0), "after": numbers(reward) | (
        {"pass_at_k": {k: value(own[i - 1]) for k, own in passes.items()}} if passes else {})}
        for i, reward in enumerate(rewards, 1)}
    (folder / "result.json").write_text(json.dumps({"agents": agents, "iterations": 4,
                                                    "seconds_per_iteration": {"update": 15.0}}))
    lines = [{"agents": {name: {"task_reward": reward, "kl": 1.0} for name, reward in zip(agents, own, strict=True)}}
             for own in zip(*trained, strict=True)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


RISE, FALL = np.linspace(0, 3, 60).tolist(), np.r_[np.linspace(0, 3, 30), np.linspace(3, 0, 30)].tolist()


@pytest.mark.parametrize(("trained", "expected"), [
    ((RISE, RISE), False), ((RISE, FALL), True), ((FALL, RISE), True), ((RISE, [None, *RISE[1:]]), True)])
def test_a_run_has_collapsed_where_one_agent_has(trained, expected, tmp_path):
    """Numbers that were not finite are null in the file."""
    assert measured(finished(tmp_path / "cory", [1, 1], {}, trained))["collapsed"] is expected


def test_runs_without_held_back_queries_are_refused(tmp_path):
    folder = finished(tmp_path / "cory", [1, 1], {})
    result = json.loads((folder / "result.json").read_text())
    for own in result["agents"].values():
        own["before"], own["after"] = {}, {}
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="set held_back.rows above 0"):
        measured(folder)


def run(reward, kl, start=0.0):
    return {"start": start, "task_reward": reward, "kl": kl, "length": 1.0, "collapsed": False, "pass_at_k": {},
            "kl_growth": 1.0, "seconds": 60.0}


def test_hypervolumes_are_of_the_runs_that_all_variants_have():
    """A stopped job has more runs of one variant; and each variant starts at its own model."""
    runs = {("ppo", 0.1, None, 0): run(3.0, 2.0), ("ppo", 0.3, None, 0): run(1.0, 1.0),
            ("ppo", 0.1, None, 1): run(9.0, 0.0), ("ppo_big", 0.1, None, 0): run(3.0, 4.0, 1.5)}
    summary = summarize(runs)
    assert summary["runs"] == 4 and summary["runs_left_out"] == 2 and len(summary["rows"]) == 3
    volumes = summary["hypervolume"]
    assert {name: (own["mean"], own["start"], own["n"]) for name, own in volumes.items()} == {
        "ppo": (3 * (4 - 2), 0.0, 1), "ppo_big": (0.0, 1.5, 1)}
    assert "2 runs with settings and seeds" in table(summary)
    nothing = summarize({("ppo", 0.1, None, 0): run(1, 1), ("cory", 0.3, None, 0): run(1, 1)})
    assert not nothing["hypervolume"] and nothing["runs_left_out"] == 2


def test_no_setting_is_lost_where_it_has_fewer_seeds():
    """The second coefficient has one seed: it is in every resampling, so that the interval holds the mean."""
    runs = {("ppo", 0.1, None, seed): run(2.0, 2.0) for seed in range(3)} | {("ppo", 0.3, None, 0): run(1.0, 0.0)}
    volume = summarize(runs)["hypervolume"]["ppo"]
    assert volume["ci_low"] == volume["mean"] == volume["ci_high"] == 2.0


def test_pass_at_k_is_in_the_table_where_the_runs_have_it(tmp_path):
    run = measured(finished(tmp_path / "cory", [0.25, 0.75], {"1": [0.25, 0.75], "8": [0.5, 1.0]}))
    assert run["pass_at_k"] == {"1": 0.5, "8": 0.75} and run["task_reward"] == 0.5
    plain = measured(finished(tmp_path / "plain", [0.25, 0.75], {}))
    assert plain["pass_at_k"] == {} and plain["task_reward"] == 0.5
    both = table(summarize({("cory", 0.1, None, 0): run, ("ppo", 0.1, None, 0): plain}))
    header, _, first, second = both.splitlines()[:4]
    assert header.count("pass@") == 2 and "| pass@1 | pass@8 |" in header
    assert "| 0.50 [0.50, 0.50] | 0.50 [0.50, 0.50] | 0.75 [0.75, 0.75] | 2.00" in first
    assert "| 0.50 [0.50, 0.50] | – | – | 2.00" in second
    assert "pass@" not in table(summarize({("ppo", 0.1, None, 0): plain}))


def test_a_finished_run_is_checked_too(tmp_path, monkeypatch):
    """It may be of another command: the verb decides, and what it refuses is not in the table."""
    called = []

    def rl(arguments):
        called.append(arguments)
        return 2 * (len(called) == 3)

    names = ["ppo_kl0.3_seed0", "cory_kl0.3_seed0", "ppo_kl0.3_seed1", "cory_kl0.3_seed1"]
    for name in names:
        finished(tmp_path / name, [1, 1], {})
    monkeypatch.setattr(verbs, "jaxllm", rl)
    monkeypatch.setattr(sys, "argv", ["x", "config.yaml", str(tmp_path), "--variants", "ppo", "cory", "--kl", "0.3",
                                      "--seeds", "0", "1", "--", "--iterations=7"])
    assert reproduce_cory.main() == 2
    assert [Path(words[-1]).name for words in called] == names
    assert all("--iterations=7" in words for words in called)
    assert json.loads((tmp_path / "results.json").read_text())["runs"] == 3
