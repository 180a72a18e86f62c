"""Metrics go to the JSONL file and to trackers."""

import shutil
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


@pytest.mark.parametrize("first", [0, 1])
def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(tmp_path, first):
    pytest.importorskip("tensorboardX")
    for made, steps in ((0, 3), (1, 2)):
        with open_metrics(tmp_path / "metrics.jsonl", made, ["tensorboard"], first=first) as metrics:
            for step in range(made, steps):
                metrics.write(step + first, {"loss": 0.5})
    starts = [event.step for file in sorted((tmp_path / "tensorboard").iterdir()) for event in events(file)
              if event.session_log.status == event.session_log.START]
    assert starts == [first, 1 + first]


def events(file):
    """The records of an event file: a length of 8 bytes, its checksum of 4, the event, and its checksum of 4."""
    from tensorboardX.proto.event_pb2 import Event

    content, at = file.read_bytes(), 0
    while at < len(content):
        size = int.from_bytes(content[at:at + 8], "little")
        yield Event.FromString(content[at + 12:at + 12 + size])
        at += size + 16


@pytest.fixture
def wandb(monkeypatch):
    """What a stand-in for the package was called with."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    fake = types.SimpleNamespace(init=lambda **settings: calls.append(settings) or Run())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return calls


def test_a_resumed_run_continues_the_same_run_of_wandb(tmp_path, wandb):
    for made in (0, 1):
        with open_metrics(tmp_path / "metrics.jsonl", made, ["wandb"], {"seed": 3}) as metrics:
            metrics.write(made + 1, {"loss": 0.5})
    assert wandb[0]["id"] == wandb[3]["id"] and wandb[0]["config"] == {"seed": 3} and wandb[0]["resume"] == "allow"
    assert wandb[1:3] == [(1, {"loss": 0.5}), "finished"] and len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_runs_with_one_path_are_different_runs_of_wandb(tmp_path, wandb):
    """On other machines, after the directory was removed, and where nothing was saved to resume from."""
    path = tmp_path / "run" / "metrics.jsonl"
    for attempt in range(3):
        with open_metrics(path, 0, ["wandb"]) as metrics:
            metrics.write(1, {"loss": 0.5})
        if not attempt:
            shutil.rmtree(path.parent)
    assert len({call["id"] for call in wandb if isinstance(call, dict)}) == 3


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb"), open_metrics(tmp_path / "metrics.jsonl", 0, ["wandb"]):
        pass
