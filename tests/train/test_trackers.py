"""Metrics go to the JSONL file and to trackers."""

import sys
import types

import pytest

from jaxllm.errors import UserError
from jaxllm.train import open_metrics, read_metrics


def test_tensorboard_has_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with open_metrics(tmp_path / "metrics.jsonl", 0, ["tensorboard"]) as metrics:
        metrics.write(1, {"loss": 0.5, "rewards/margins": 1.25, "note": "text"})
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["note"] == "text"
    [file] = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"rewards/margins" in content and b"note" not in content


def test_a_resumed_run_continues_the_same_run_of_wandb(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    fake = types.SimpleNamespace(init=lambda **settings: calls.append(settings) or Run())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for made in (0, 1):
        with open_metrics(tmp_path / "metrics.jsonl", made, ["wandb"], {"seed": 3}) as metrics:
            metrics.write(made + 1, {"loss": 0.5})
    assert calls[0]["id"] == calls[3]["id"] and calls[0]["config"] == {"seed": 3} and calls[0]["resume"] == "allow"
    assert calls[1:3] == [(1, {"loss": 0.5}), "finished"] and len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb"), open_metrics(tmp_path / "metrics.jsonl", 0, ["wandb"]):
        pass
