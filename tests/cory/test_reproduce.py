"""The decision whether a run has collapsed, the area under a frontier, and the table, on numbers made for them."""

import argparse
import json
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
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


def finished(folder, rewards, passes):
    """Files of a run of two agents with these held-back rewards, and pass@k where there are numbers."""
    folder.mkdir()
    value = lambda mean: {"mean": mean, "ci_low": mean, "ci_high": mean, "n": 4}
    numbers = lambda reward: {"task_reward": value(reward), "kl": value(2.0), "length": value(5.0)}
    agents = {f"llm{i}": {"before": numbers(0.0), "after": numbers(reward) | (
        {"pass_at_k": {k: value(own[i - 1]) for k, own in passes.items()}} if passes else {})}
        for i, reward in enumerate(rewards, 1)}
    (folder / "result.json").write_text(json.dumps({"agents": agents, "iterations": 4,
                                                    "seconds_per_iteration": {"update": 15.0}}))
    line = {"agents": {name: {"task_reward": 0.5, "kl": 1.0} for name in agents}}
    (folder / "metrics.jsonl").write_text((json.dumps(line) + "\n") * 4)
    return folder


def test_pass_at_k_is_in_the_table_where_the_runs_have_it(tmp_path):
    run = measured(finished(tmp_path / "cory", [0.25, 0.75], {"1": [0.25, 0.75], "8": [0.5, 1.0]}))
    assert run["pass_at_k"] == {"1": 0.5, "8": 0.75} and run["task_reward"] == 0.5
    plain = measured(finished(tmp_path / "plain", [0.25, 0.75], {}))
    assert plain["pass_at_k"] == {} and plain["task_reward"] == 0.5
    both = table(summarize({("cory", 0.1, None, 0): run, ("ppo", 0.1, None, 0): plain}, argparse.Namespace()))
    header, _, first, second = both.splitlines()[:4]
    assert header.count("pass@") == 2 and "| pass@1 | pass@8 |" in header
    assert "| 0.50 [0.50, 0.50] | 0.50 [0.50, 0.50] | 0.75 [0.75, 0.75] | 2.00" in first
    assert "| 0.50 [0.50, 0.50] | – | – | 2.00" in second
    assert "pass@" not in table(summarize({("ppo", 0.1, None, 0): plain}, argparse.Namespace()))
