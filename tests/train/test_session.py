"""A loop of one's own on the services of a Session."""

import os
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
import rollouts
import toy

from jaxllm import train
from jaxllm.train.session import _Rates


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *rollouts.run(folder)


def numbers(folder):
    lines = train.read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith("_per_s")} for line in lines]


def test_a_loop_of_rollouts_and_updates(whole):
    folder, tree, sidecar, session = whole
    assert not session.interrupted and int(tree["agents"][1].step) == rollouts.ROUNDS * rollouts.UPDATES
    lines = train.read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, rollouts.ROUNDS + 1))
    assert [line["rollout"]["mean_token"] for line in lines] == sidecar["mean_tokens"]
    assert lines[-1]["tokens_per_s"] == pytest.approx(toy.BATCH * toy.LENGTH * lines[-1]["steps_per_s"])


def test_rates_of_a_short_run_are_over_the_time_of_its_steps(tmp_path):
    """Numbers of the last steps are fetched together, at once after the last one."""
    with train.MetricsWriter(tmp_path / "metrics.jsonl") as metrics, train.Session(0, 3, metrics=metrics) as session:
        for step in session.steps():
            time.sleep(0.05)
            session.log(step, {"loss": jnp.float32(1.0)}, host={"reward": 1.0}, tokens=100)
        session.finish({})
    first, *later = train.read_metrics(tmp_path / "metrics.jsonl")
    assert "tokens_per_s" not in first and len(later) == 2
    assert all(line["steps_per_s"] <= 20 and line["tokens_per_s"] <= 2000 for line in later)


def test_steps_that_are_seen_to_end_at_once_begin_the_time_of_rates():
    rates = _Rates()
    assert rates.advance(1, 100, 5.0) == rates.advance(2, 100, 5.0) == {}
    assert rates.advance(3, 100, 6.0) == {"steps_per_s": 1.0, "tokens_per_s": 100.0}


def test_numbers_of_the_host_alone_are_written_at_once(tmp_path):
    with train.MetricsWriter(tmp_path / "metrics.jsonl") as metrics, train.Session(0, 3, metrics=metrics) as session:
        for step in session.steps():
            session.log(step, {}, host={"reward": 1.0})
            assert len(train.read_metrics(tmp_path / "metrics.jsonl")) == step + 1


@pytest.mark.slow
def test_a_killed_loop_resumes_bit_for_bit(tmp_path, run_script, whole):
    """Both agents, the rollout that the next update needs, the sidecar and the numbers."""
    killed = run_script("rollouts.py", tmp_path)
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert {"3", "6"} & set(os.listdir(tmp_path / "checkpoints"))
    tree, sidecar, _ = rollouts.run(tmp_path)
    toy.assert_equal(tree, whole[1])
    assert sidecar == whole[2] and numbers(tmp_path) == numbers(whole[0])


def test_a_signal_ends_the_steps_and_finish_saves(tmp_path, whole):
    stop = lambda step: step == 4 and os.kill(os.getpid(), signal.SIGTERM)
    _, _, session = rollouts.run(tmp_path, stop, save_last=False)
    assert session.interrupted and os.listdir(tmp_path / "checkpoints") == ["5"]
    tree, sidecar, session = rollouts.run(tmp_path, save_last=False)
    assert not session.interrupted
    toy.assert_equal(tree, whole[1])
    assert sidecar == whole[2] and numbers(tmp_path) == numbers(whole[0])
    # A complete run is not saved once more; a kill before its result is recorded repeats the steps after step 9.
    assert os.listdir(tmp_path / "checkpoints") == ["9"]
    toy.assert_equal(rollouts.run(tmp_path, save_last=False)[0], whole[1])
    assert numbers(tmp_path) == numbers(whole[0])


def test_a_loop_that_breaks_saves_the_step_it_made(tmp_path):
    tree = {"weights": np.zeros(2)}
    with train.Checkpointer(tmp_path) as checkpointer, train.Session(0, 5, checkpointer=checkpointer,
                                                                     progress=False) as session:
        for step in session.steps():
            session.log(step, {"loss": jnp.float32(1.0)})
            if step == 2:
                break
        session.finish(tree)
        assert session.interrupted and checkpointer.latest_step() == 3
