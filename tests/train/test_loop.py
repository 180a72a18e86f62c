import contextlib
import dataclasses
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from jaxllm import train
from jaxllm.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The toy run from start to end, without a stop: its folder and result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, toy.run(folder, progress=False)


def numbers(folder):
    """Lines of the metrics file without what depends on the clock."""
    lines = train.read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.endswith("_per_s")} for line in lines]


def kill_at(step, number=signal.SIGTERM):
    def hook(now, state):
        if now == step:
            os.kill(os.getpid(), number)

    return hook


def test_a_whole_run(whole):
    folder, result = whole
    assert not result.interrupted
    assert int(result.state.step) == toy.TOTAL
    lines = numbers(folder)
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8, 10, 12]
    assert lines[-1] == {"step": 12, **result.metrics}
    np.testing.assert_allclose([line["lr"] for line in lines[:2]], [0.01 / 3, 0.02 / 3], rtol=1e-6)
    timed = train.read_metrics(folder / "metrics.jsonl")[-1]
    # Real tokens, of the steps after the first, which compiles.
    tokens = sum(toy.batch_fn(step)["mask"].sum() for step in range(1, toy.TOTAL)) / (toy.TOTAL - 1)
    np.testing.assert_allclose(timed["tokens_per_s"], tokens * timed["steps_per_s"], rtol=1e-6)


def test_the_loop_is_the_steps_one_after_the_other(whole):
    state = toy.new_state()
    for i in range(toy.TOTAL):
        state, metrics = toy.step_fn()(state, toy.FROZEN, toy.batch_fn(i))
    toy.assert_equal(whole[1].state, state)
    assert whole[1].metrics == {name: float(x) for name, x in metrics.items()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_equals_the_whole_one(tmp_path, whole, number):
    before = signal.getsignal(number)
    result = toy.run(tmp_path, hooks=[kill_at(5, number)], progress=False)
    assert result.interrupted
    assert int(result.state.step) == 5
    assert signal.getsignal(number) is before
    assert os.listdir(tmp_path / "checkpoints") == ["5"]
    resumed = toy.run(tmp_path, progress=False)
    assert not resumed.interrupted
    toy.assert_equal(resumed.state, whole[1].state)
    assert numbers(tmp_path) == numbers(whole[0])
    # a finished run that is started again does nothing
    again = toy.run(tmp_path, progress=False)
    toy.assert_equal(again.state, whole[1].state)
    assert not again.interrupted and again.metrics == {}
    assert numbers(tmp_path) == numbers(whole[0])


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path, run_script, whole):
    done = run_script("killed_run.py", tmp_path)
    assert done.returncode == -9, done.stderr[-3000:]
    assert (tmp_path / "checkpoints" / "3").exists() or (tmp_path / "checkpoints" / "6").exists()
    resumed = toy.run(tmp_path, progress=False)
    toy.assert_equal(resumed.state, whole[1].state)
    assert numbers(tmp_path) == numbers(whole[0])


def test_a_second_signal_acts_as_usual(tmp_path):
    def twice(step, state):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not before:  # the system may make one of two equal signals
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

    before, outside = signal.default_int_handler, signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)  # a shell's background jobs are started deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            toy.run(tmp_path, hooks=[twice], progress=False)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, outside)


def test_fit_runs_outside_the_main_thread():
    results = []

    def work():
        results.append(
            train.fit(toy.new_state(), toy.step_fn(), toy.batch_fn, 2, frozen=toy.FROZEN, progress=False)
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert int(results[0].state.step) == 2


def test_hooks_are_logged_at_their_step_and_choose_the_best_checkpoint(tmp_path):
    def evaluate(step, state):
        return {"eval_loss": abs(step - 5.0)} if step % 5 == 0 else None

    with (
        train.Checkpointer(tmp_path / "c", best_metric="eval_loss") as checkpointer,
        train.MetricsWriter(tmp_path / "m.jsonl") as metrics,
    ):
        train.fit(
            toy.new_state(), toy.step_fn(), toy.batch_fn, toy.TOTAL, frozen=toy.FROZEN, hooks=[evaluate],
            log_every=100, save_every=5, checkpointer=checkpointer, metrics=metrics, progress=False,
        )  # fmt: skip
        assert (checkpointer.best_step(), checkpointer.latest_step()) == (5, 12)
    lines = train.read_metrics(tmp_path / "m.jsonl")
    assert [(line["step"], line.get("eval_loss")) for line in lines] == [
        (1, None),
        (5, 0.0),
        (10, 5.0),
        (12, None),
    ]


def nan_from(first, last):
    """Returns state, step and batches of one parameter with a loss that is not finite in the given steps."""

    def loss(params, frozen, batch, key, extra):
        return ((params["kernel"] * batch["x"]).sum(), jnp.float32(1)), {}

    optimizer = optax.sgd(0.1)
    state = train.init_state({"kernel": jnp.float32(1)}, optimizer, 0)

    def batch(step):
        return {"x": np.float32([np.nan if first <= step + 1 <= last else 1.0])}

    return state, train.make_train_step(loss, optimizer), batch


def test_a_run_of_steps_that_are_not_finite_stops(tmp_path):
    with (
        pytest.raises(UserError, match="4 steps in a row, up to step 6"),
        train.MetricsWriter(tmp_path / "m.jsonl") as metrics,
    ):
        train.fit(*nan_from(3, 100), 20, max_nonfinite=4, log_every=100, metrics=metrics, progress=False)
    lines = train.read_metrics(tmp_path / "m.jsonl")
    assert [line["step"] for line in lines] == [1, 3, 4, 5, 6]
    assert lines[1]["loss"] is None and lines[1]["nonfinite"]["loss"] == "nan" and lines[1]["skipped"] == 1.0


def test_steps_that_are_not_finite_count_on_in_a_resumed_run(tmp_path):
    for hooks, end in (([kill_at(3)], contextlib.nullcontext()),
                       ([], pytest.raises(UserError, match="5 steps in a row, up to step 5"))):
        state, *rest = nan_from(1, 5)
        with train.Checkpointer(tmp_path) as checkpointer, end:
            if checkpointer.latest_step() is not None:
                state, sidecar = checkpointer.restore(state)
                assert sidecar == {"of": "the caller"}
            train.fit(state, *rest, 5, hooks=hooks, checkpointer=checkpointer, sidecar={"of": "the caller"},
                      progress=False)


def test_skipped_steps_are_logged_and_stop_no_run(tmp_path):
    """Of weight zero, or skipped by the method: a decision, not an error."""
    optimizer = optax.sgd(0.1)
    loss = lambda params, frozen, batch, key, extra: (((params["kernel"] * batch["x"]).sum(), batch["x"].sum()), {})
    with train.MetricsWriter(tmp_path / "m.jsonl") as metrics:
        result = train.fit(train.init_state({"kernel": jnp.float32(1)}, optimizer, 0),
                           train.make_train_step(loss, optimizer), lambda step: {"x": np.float32([step not in (3, 4)])},
                           8, max_nonfinite=1, log_every=100, metrics=metrics, progress=False)
    lines = train.read_metrics(tmp_path / "m.jsonl")
    assert [(line["step"], line["skipped"]) for line in lines] == [(1, 0), (4, 1), (5, 1), (8, 0)]
    assert [{"loss", "grad_norm"} <= line.keys() for line in lines] == [True, False, False, True]
    np.testing.assert_allclose(float(result.state.params["kernel"]), 1 - 0.1 * 6, rtol=1e-6)


def test_steps_of_weight_zero_do_not_interrupt_those_that_are_not_finite():
    optimizer = optax.sgd(0.1)
    loss = lambda params, frozen, batch, *_: (((params["kernel"] * batch["x"]).sum(), batch["weight"].sum()), {})
    batch = lambda step: {"x": np.float32([0.0 if step % 2 else np.nan]), "weight": np.float32([step % 2 == 0])}
    with pytest.raises(UserError, match="4 steps in a row, up to step 7"):
        train.fit(train.init_state({"kernel": jnp.float32(1)}, optimizer, 0), train.make_train_step(loss, optimizer),
                  batch, 20, max_nonfinite=4, progress=False)


def test_a_few_steps_that_are_not_finite_are_skipped():
    result = train.fit(*nan_from(3, 5), 10, max_nonfinite=4, progress=False)
    np.testing.assert_allclose(float(result.state.params["kernel"]), 1 - 0.1 * 7, rtol=1e-6)


def test_the_next_batch_is_made_before_a_step_is_waited_for():
    events = []

    def batch(step):
        events.append(f"batch {step}")
        return toy.batch_fn(step)

    def step(state, frozen, batch):
        events.append(f"step {int(state.step)}")
        return toy.step_fn()(state, frozen, batch)

    train.fit(toy.new_state(), step, batch, 3, frozen=toy.FROZEN, progress=False)
    assert events == ["batch 0", "step 0", "batch 1", "step 1", "batch 2", "step 2"]


def test_no_implicit_transfer_in_the_loop():
    """Batches are put and numbers are fetched explicitly; nothing else crosses between host and device."""
    frozen = jax.device_put(toy.FROZEN)
    train.fit(toy.new_state(), toy.step_fn(), toy.batch_fn, 2, frozen=frozen, progress=False)  # compiles
    state = toy.new_state()
    with jax.transfer_guard("disallow"):
        result = train.fit(state, toy.step_fn(), toy.batch_fn, 6, frozen=frozen, log_every=1, progress=False)
    assert result.metrics["loss"] > 0


def test_progress_lines_where_there_is_no_terminal(capfd):
    train.fit(toy.new_state(), toy.step_fn(), toy.batch_fn, 3, frozen=toy.FROZEN)
    captured = capfd.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("train: 100%") and " 3/3 " in last and "loss " in last and last.endswith(" tokens/s]")


def test_batches_go_to_the_mesh():
    mesh = train.make_mesh(1)
    seen = []

    def step(state, frozen, batch):
        seen.append(batch["tokens"].sharding)
        return dataclasses.replace(state, step=state.step + 1), {"loss": jnp.float32(0)}

    train.fit(toy.new_state(), step, toy.batch_fn, 1, mesh=mesh, progress=False)
    assert seen == [train.batch_sharding(mesh)]


def test_a_metric_without_weight_is_not_logged():
    """One that is infinite is."""
    def loss(params, frozen, batch, key, extra):
        weight = jnp.sum(batch["row"] < 0).astype(jnp.float32)
        return (jnp.sum(params["w"] ** 2), jnp.float32(1)), {
            "absent": (jnp.float32(0), weight), "present": (jnp.float32(0), jnp.float32(2)),
            "infinite": (weight + jnp.inf, jnp.float32(1))}

    optimizer = train.make_optimizer(train.OptimizerConfig(), 2)
    state = train.init_state({"w": jnp.ones(3)}, optimizer, 0)
    result = train.fit(state, train.make_train_step(loss, optimizer), lambda step: {"row": np.arange(4)}, 2,
                       progress=False)
    assert result.metrics["present"] == 0 and "absent" not in result.metrics
    assert result.metrics["infinite"] == np.inf
