import dataclasses
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxllm import train
from jaxllm.errors import UserError
from jaxllm.train import Checkpointer


@pytest.fixture
def stepped():
    """A state after two steps, all its moments different from zero."""
    state = toy.new_state()
    for i in range(2):
        state, _ = toy.step_fn()(state, toy.FROZEN, toy.batch_fn(i))
    return state


def at(state, step):
    return dataclasses.replace(state, step=jnp.int32(step))


def test_restored_trees_equal_the_saved_ones(tmp_path, stepped):
    sidecar = {"config": {"lr": 0.1, "names": ["a", None]}}
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() is None
        assert checkpointer.save(2, stepped, sidecar)
        assert not checkpointer.save(2, stepped, {"config": "other"})
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() == 2
        got = checkpointer.restore(toy.new_state())
        shapes = checkpointer.restore(jax.eval_shape(lambda: stepped)).tree
    toy.assert_equal(got.tree, stepped)
    toy.assert_equal(shapes, stepped)
    assert got.sidecar == sidecar


def test_a_sidecar_of_an_earlier_version_has_no_count(tmp_path, stepped):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, stepped, {"a": 1}, nonfinite=4)
        checkpointer.wait()
        assert [checkpointer.nonfinite(step) for step in (1, 2)] == [0, 4]
        (tmp_path / "2" / "sidecar" / "metadata").write_text('{"a": 1}')
        assert checkpointer.nonfinite(2) == 0 and checkpointer.restore(stepped).sidecar == {"a": 1}


def test_the_sidecar_is_that_of_the_save(tmp_path, stepped):
    """The next steps change it while it is being written."""
    for number in range(6):
        sidecar = {"said": {str(n): [n] * 50 for n in range(500)}}
        with Checkpointer(tmp_path / str(number)) as checkpointer:
            checkpointer.save(2, stepped, sidecar)
            sidecar["said"]["7"] = []
            assert checkpointer.restore(stepped).sidecar["said"]["7"] == [7] * 50


def test_saving_is_not_disturbed_by_donation(tmp_path):
    # The save is still being written while the next steps reuse the memory of what is saved.
    state = toy.new_state()
    with Checkpointer(tmp_path) as checkpointer:
        for i in range(4):
            checkpointer.wait()
            expected = toy.leaves(state)
            checkpointer.save(i, state)
            state, _ = toy.step_fn()(state, toy.FROZEN, toy.batch_fn(i))
        restored = toy.leaves(checkpointer.restore(state, 3).tree)
    for x, y in zip(restored, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_latest_and_the_best_are_retained_over_restarts(tmp_path, stepped):
    retained = []
    for step, loss in [(1, 3.0), (2, 1.0), (3, np.nan), (4, None), (5, 2.0), (6, 1.0)]:
        with Checkpointer(tmp_path, best_metric="eval_loss") as checkpointer:
            checkpointer.save(step, at(stepped, step), metrics=None if loss is None else {"eval_loss": loss})
            checkpointer.wait()
            retained.append((checkpointer.best_step(), checkpointer.latest_step()))
    assert retained == [(1, 1), (2, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    with Checkpointer(tmp_path, best_metric="eval_loss") as checkpointer:
        assert int(checkpointer.restore(stepped, checkpointer.best_step()).tree.step) == 2
    assert sorted(os.listdir(tmp_path)) == ["2", "6"]


def test_the_best_may_be_the_largest_and_the_latest_alone_is_retained_without_a_metric(tmp_path, stepped):
    with Checkpointer(tmp_path / "a", best_metric="reward", best_mode="max") as checkpointer:
        for step, reward in [(1, 1.0), (2, 5.0), (3, 2.0)]:
            checkpointer.save(step, at(stepped, step), metrics={"reward": reward})
        checkpointer.wait()
        assert checkpointer.best_step() == 2
    with Checkpointer(tmp_path / "b") as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, at(stepped, step))
        checkpointer.wait()
        assert checkpointer.best_step() is None
    assert os.listdir(tmp_path / "b") == ["3"]


def with_kernel(state, kernel):
    params = {**state.params, "head": {"kernel": kernel}}
    return dataclasses.replace(state, params=params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: with_kernel(s, jnp.zeros((toy.WIDTH, 5), jnp.float32)),
            r"params/head/kernel is float32\[8, 16\] in the checkpoint and float32\[8, 5\] in this run",
        ),
        (
            lambda s: with_kernel(s, jnp.zeros((toy.WIDTH, toy.VOCAB), jnp.bfloat16)),
            r"params/head/kernel is float32\[8, 16\] in the checkpoint and bfloat16\[8, 16\] in this run",
        ),
        (
            lambda s: dataclasses.replace(s, extra={}),
            r"extra/kl_coef is float32\[\] in the checkpoint and absent in this run",
        ),
        (
            lambda s: dataclasses.replace(s, extra={**s.extra, "mean": jnp.float32(0)}),
            r"extra/mean is absent in the checkpoint and float32\[\] in this run",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_an_error(tmp_path, stepped, change, message, capfd):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, stepped)
        checkpointer.wait()
        with pytest.raises(UserError, match=message):
            checkpointer.restore(change(stepped))
    assert capfd.readouterr().err == ""


def cut_arrays(folder):
    for path in (folder / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_arrays, r"state/d/\w+ is cut, changed or missing"),
        (lambda folder: (folder / "state" / "_METADATA").unlink(), "its list of arrays is missing"),
        (lambda folder: (folder / "state" / "_METADATA").write_text("{"), "a file in it is not valid JSON"),
        (
            lambda folder: (folder / "sidecar" / "metadata").write_text('{"a": '),
            "a file in it is not valid JSON",
        ),
        (
            lambda folder: (folder / "state" / "manifest.ocdbt").write_bytes(b""),
            "state/manifest.ocdbt is cut, changed or missing",
        ),
        (lambda folder: shutil.rmtree(folder / "state"), "its arrays cannot be read"),
    ],
    ids=["arrays cut", "no list", "list cut", "sidecar cut", "manifest empty", "no arrays"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's other readers
def test_a_damaged_checkpoint_is_an_error(tmp_path, stepped, damage, reason, capfd):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, stepped, {"a": 1})
    damage(tmp_path / "2")
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(UserError) as error:
        checkpointer.restore(toy.new_state())
    fix = r"\n  fix: remove this folder to start again"
    assert re.fullmatch(f"{tmp_path / '2'}: the checkpoint is damaged: {reason}{fix}", str(error.value))
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_older_checkpoint_is_advised_where_there_is_one(tmp_path):
    """The files of large arrays are cut, of which the storage library's own message has many lines."""
    tree = {"kernel": jax.random.normal(jax.random.key(0), (300, 300))}
    with Checkpointer(tmp_path, best_metric="eval_loss") as checkpointer:
        for step in (3, 5):
            checkpointer.save(step, tree, metrics={"eval_loss": float(step)})
    for step in (3, 5):
        for path in (tmp_path / str(step) / "state").glob("ocdbt.process_0/d/*"):
            path.write_bytes(path.read_bytes()[:100])
    message = "{}: the checkpoint is damaged: its arrays cannot be read\n  fix: remove this folder to {}"
    with Checkpointer(tmp_path, best_metric="eval_loss") as checkpointer:
        for step, way_out in ((5, "resume from step 3"), (3, "start again")):
            with pytest.raises(UserError) as error:
                checkpointer.restore(tree, step)
            assert str(error.value) == message.format(tmp_path / str(step), way_out)


def test_a_missing_checkpoint_is_an_error(tmp_path, stepped):
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(UserError, match="no checkpoint\n"):
            checkpointer.restore(stepped)
        checkpointer.save(2, stepped)
        checkpointer.wait()
        with pytest.raises(UserError, match=r"no checkpoint of step 7\n.*choose one of \[2\]"):
            checkpointer.restore(stepped, 7)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints here"):
        Checkpointer(tmp_path / "file" / "checkpoints")


@pytest.mark.slow
def test_a_full_disk_is_a_storage_error_and_the_previous_checkpoint_stays(tmp_path, run_script):
    done = run_script("full_disk.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    where = tmp_path / "checkpoints"
    assert lines == [f"StorageError {where}: cannot be written: File too large"] * 2 + [
        "restored 1",
        "saved 3",
    ]
    assert "absl" not in done.stderr  # Orbax's log of the same error, with tracebacks


@pytest.mark.slow
def test_a_full_file_system(tmp_path, run_script):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=2m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        done = run_script("full_disk.py", folder, "no limit")
    finally:
        os.system(f"umount {folder}")
    assert done.returncode == 0, done.stderr[-3000:]
    where = folder / "checkpoints"
    line = f"StorageError {where}: cannot be written: No space left on device"
    assert done.stdout.splitlines() == [line] * 2 + ["restored 1", "saved 3"]


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_previous_checkpoint(tmp_path, run_script, stepped):
    done = run_script("killed_save.py", tmp_path)
    assert done.returncode == -9, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "saving 2"
    with Checkpointer(tmp_path) as checkpointer:
        step = checkpointer.latest_step()
        assert step in (1, 2)
        like = train.init_state({"kernel": jnp.zeros(2**24, jnp.float32)}, toy.optimizer(), 0)
        state = checkpointer.restore(like).tree
        assert int(state.step) == step
        np.testing.assert_array_equal(state.params["kernel"], np.full(2**24, step, np.float32))
        checkpointer.save(3, at(stepped, 3))
    assert os.listdir(tmp_path) == ["3"]
