"""The files of a job, and that they are complete after kills and full disks."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from jaxllm import __version__
from jaxllm.config import tunable
from jaxllm.errors import StorageError, UserError
from jaxllm.files import JsonlWriter, plain, read_jsonl, write_atomic
from jaxllm.job import open_job
from jaxllm.report import Section, Table


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-5


@dataclass(frozen=True)
class JobConfig:
    out: Path
    seed: int = 7
    api_key: str = "s3cret"
    train: Inner = Inner()


def test_a_job_from_start_to_end(tmp_path):
    out = tmp_path / "deep" / "run"
    job = open_job(out, JobConfig(out))
    assert not job.resumed and not job.finished and job.primary
    job.row({"id": 1, "score": np.float32(0.5), "tokens": jnp.arange(3), "path": Path("a")})
    job.row({"id": 2, "text": "é\ud800"})
    job.write_rejected([{"line": 3, "reason": "bad"}])
    found = {"loss": jnp.float32(0.25), "counts": {"used": np.int64(2)}, "text": "\ud83d"}
    assert job.write_result(found) == out / "result.json"

    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config == {"out": str(out), "seed": 7, "api_key": "(masked)", "train": {"lr": 1e-5}}
    lines = (out / "rows.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"id": 1, "score": 0.5, "tokens": [0, 1, 2], "path": "a"}
    assert json.loads(lines[1]) == {"id": 2, "text": "é\ud800"}
    assert (out / "rejected.jsonl").read_text() == '{"line": 3, "reason": "bad"}\n'
    result = json.loads((out / "result.json").read_text())
    assert (result["loss"], result["counts"], result["seed"]) == (0.25, {"used": 2}, 7)
    assert result["schema_version"] == 1 and result["text"] == "\ud83d"
    versions = result["versions"]
    assert (versions["jax"], versions["jaxllm"], versions["platform"]) == (jax.__version__, __version__, "cpu")
    assert set(versions) >= {"jaxlib", "flax", "optax", "python", "device_kind"} and None not in versions.values()
    with open_job(out, JobConfig(out)) as again:
        assert again.finished
    assert sorted(p.name for p in out.iterdir()) == [
        "config.yaml",
        "rejected.jsonl",
        "result.json",
        "rows.jsonl",
    ]
    assert stat.S_IMODE((out / "result.json").stat().st_mode) == stat.S_IMODE(
        (out / "rows.jsonl").stat().st_mode
    )


def test_rows_are_written_in_order(tmp_path):
    with open_job(tmp_path / "run", JobConfig(tmp_path)) as job:
        write = job.in_order(1)
        assert [write(number, {"id": number}) for number in (3, 1, 4, 2)] == [1, 2, 2, 5]
        assert [row["id"] for row in list(job.iter_rows())] == [1, 2, 3, 4]


def test_the_same_job_resumes_after_the_last_complete_row(tmp_path):
    job = open_job(tmp_path / "run", JobConfig(tmp_path / "run"))
    job.row({"id": 1})
    job.row({"id": 2})
    with open(tmp_path / "run" / "rows.jsonl", "a") as file:
        file.write('{"id": 3, "te')
    again = open_job(tmp_path / "run", JobConfig(Path("run"), api_key="another"))
    assert again.resumed and not again.finished and list(again.iter_rows()) == [{"id": 1}, {"id": 2}]
    again.row({"id": 3})
    assert list(again.iter_rows()) == [{"id": 1}, {"id": 2}, {"id": 3}]
    with pytest.raises(UserError, match="holds the run already"):
        open_job(tmp_path / "run", JobConfig(tmp_path / "run"), resume=False)


@dataclass(frozen=True)
class Device:
    compute: str = tunable("auto")
    bits: int = 16


@dataclass(frozen=True)
class LaterConfig:
    """`JobConfig` after some keys were added, with other tunable values."""

    out: Path
    seed: int = 7
    api_key: str = "s3cret"
    train: Inner = Inner()
    batch_size: int = tunable(32)
    device: Device = Device()
    mesh: Inner = tunable(default_factory=Inner)
    added: Inner | None = None


def test_a_run_resumes_with_other_tunable_keys(tmp_path):
    open_job(tmp_path, LaterConfig(tmp_path))
    saved = (tmp_path / "config.yaml").read_text()
    other = LaterConfig(tmp_path, batch_size=4, device=Device(compute="float32"), mesh=Inner(3.0))
    assert open_job(tmp_path, other).resumed
    assert (tmp_path / "config.yaml").read_text() == saved
    with pytest.raises(UserError, match="holds another run\n  device.bits: 16 there, 8 here\n  added: None"):
        open_job(tmp_path, LaterConfig(tmp_path, device=Device(bits=8), added=Inner()))


def test_a_run_of_an_earlier_version_resumes_when_new_keys_have_their_defaults(tmp_path):
    open_job(tmp_path, JobConfig(tmp_path))
    assert open_job(tmp_path, LaterConfig(tmp_path, batch_size=1, device=Device("float32"))).resumed
    with pytest.raises(UserError) as error:
        open_job(tmp_path, LaterConfig(tmp_path, device=Device(bits=8), added=Inner(1.0)))
    assert "\n  device.bits: 16 there, 8 here\n  added: None there, {'lr': 1.0} here\n" in str(error.value)
    with pytest.raises(UserError, match=r"train.lr: 1e-05 there, \(not set\) here"):
        open_job(tmp_path, OldKeys(tmp_path))


@dataclass(frozen=True)
class NoKeys:
    pass


@dataclass(frozen=True)
class OldKeys:
    out: Path
    seed: int = 7
    api_key: str = "s3cret"
    train: NoKeys = NoKeys()


def test_another_job_is_refused(tmp_path):
    open_job(tmp_path, JobConfig(tmp_path))
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError) as error:
        open_job(tmp_path, JobConfig(tmp_path, seed=8, train=Inner(2.0)))
    assert str(error.value) == (
        f"{tmp_path}: the directory holds another run\n"
        "  seed: 7 there, 8 here\n  train.lr: 1e-05 there, 2.0 here\n"
        "  fix: choose another --out; to resume that run give "
        f"--config {tmp_path}/config.yaml and no other keys"
    )
    assert (tmp_path / "config.yaml").read_text() == before


def test_a_run_of_another_verb_is_refused(tmp_path):
    with open_job(tmp_path / "run", JobConfig(tmp_path), "score") as job:
        job.row({"id": 1})
    before = (tmp_path / "run" / "inputs.json").read_bytes()
    with pytest.raises(UserError, match="holds a run of jaxllm score, not of jaxllm generate"):
        open_job(tmp_path / "run", JobConfig(tmp_path), "generate")
    assert (tmp_path / "run" / "inputs.json").read_bytes() == before
    with open_job(tmp_path / "run", JobConfig(tmp_path), "score") as job:
        assert job.resumed
    with open_job(tmp_path / "older", JobConfig(tmp_path)) as job:
        job.row({"id": 1})
    with open_job(tmp_path / "older", JobConfig(tmp_path), "generate") as job:
        assert job.resumed


def test_directories_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="there is a file where the directory should be"):
            open_job(out, JobConfig(out))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "result.json").write_text("{}")
    with pytest.raises(UserError, match="holds result.json but no run"):
        open_job(tmp_path / "full", JobConfig(tmp_path))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not the config of a run"):
        open_job(tmp_path / "broken", JobConfig(tmp_path))


@pytest.mark.parametrize("content", [
    b"", b'{"data": "0a', b"\xff\xfe", b"[]", b'{"data": 1}', b'{"started": "yesterday"}', b'{"started": null}'])
def test_hashes_of_inputs_that_are_damaged_are_an_error_with_a_way_out(tmp_path, content):
    with open_job(tmp_path, JobConfig(tmp_path)) as job:
        job.pin("data", [1])
    pinned = tmp_path / "inputs.json"
    before = pinned.read_bytes()
    pinned.write_bytes(content)
    with pytest.raises(UserError, match="not the hashes of a run's inputs") as caught, \
            open_job(tmp_path, JobConfig(tmp_path)):
        pass
    assert str(caught.value).startswith(f"{pinned}: ")
    assert not (tmp_path / ".lock").exists() and pinned.read_bytes() == content
    pinned.unlink()
    with open_job(tmp_path, JobConfig(tmp_path)) as job:
        job.pin("data", [1])
        assert job.resumed and json.loads(pinned.read_text())["data"] == json.loads(before)["data"]


def test_values_that_json_cannot_hold_are_refused_by_name(tmp_path):
    job = open_job(tmp_path, JobConfig(tmp_path))
    with pytest.raises(ValueError, match=r"metrics.loss\[1\] is nan, which JSON cannot hold"):
        job.write_result({"metrics": {"loss": [1.0, np.float32("nan")]}})
    with pytest.raises(ValueError, match="score is inf"):
        job.row({"score": float("inf")})
    with pytest.raises(ValueError, match="x is a set"):
        plain({"x": {1}})
    for taken in ("seed", "versions", "schema_version"):
        with pytest.raises(ValueError, match=f"result holds {taken}, which the job adds"):
            job.write_result({taken: 1})
    assert not job.result_path.exists() and list(job.iter_rows()) == []


PROCESS = """
import sys
from dataclasses import dataclass
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from jaxllm.errors import UserError
from jaxllm.job import open_job

@dataclass(frozen=True)
class Config:
    seed: int = 0

job = open_job(sys.argv[3], Config())
job.row({"process": int(sys.argv[2])})
job.write_result({"n": 1})
print(">", job.resumed, job.finished, job.primary, job.rejected_path is None)
again = open_job(sys.argv[3], Config())
print(">", again.resumed, again.finished)
try:
    open_job(sys.argv[3], Config(1))
except UserError as error:
    print(">", *str(error).splitlines())
"""


def test_two_processes_agree_and_only_the_first_writes(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(i), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    output = [process.communicate(timeout=60)[0].splitlines() for process in started]
    first, second = ([line[2:] for line in lines if line.startswith("> ")] for lines in output)
    assert first[:2] == ["False False True False", "True True"] and "seed: 0 there, 1 here" in first[2]
    assert second[:2] == ["False False False True", "True True"]
    assert "the first process could not open the directory" in second[2]
    assert (tmp_path / "run" / "rows.jsonl").read_text() == '{"process": 0}\n'


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_result_and_no_temporary_file(tmp_path, monkeypatch):
    job = open_job(tmp_path, JobConfig(tmp_path))
    job.write_result({"n": 1})
    before = (tmp_path / "result.json").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="result.json: cannot be written: No space left on device"):
        job.write_result({"n": 2})
    assert (tmp_path / "result.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "config.yaml", "result.json"]


def test_a_disk_that_fills_within_a_row_keeps_the_rows_before(tmp_path):
    """With a limit on the size of files in place of a full disk; in a process of its own, since it cannot be lifted."""
    code = f"""
import resource, signal
from jaxllm.errors import StorageError
from jaxllm.files import JsonlWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
writer = JsonlWriter({str(tmp_path / "rows.jsonl")!r})
writer.write({{"id": 1}})
try:
    writer.write({{"id": 3}}, {{"text": "x" * 200}})
except StorageError as error:
    print(error)
writer.write({{"id": 2}})
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == f"{tmp_path}/rows.jsonl: cannot be written: File too large\n"
    assert (tmp_path / "rows.jsonl").read_text() == '{"id": 1}\n{"id": 2}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="rows.jsonl: cannot be written: No space left on device"):
        JsonlWriter(tmp_path / "rows.jsonl").write({"id": 1})


def test_other_errors_are_not_reported_as_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "x", "")


def test_long_last_lines_are_read_completely(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = json.dumps({"text": "x" * 200_000}) + "\n"
    path.write_text(whole + "y" * 100_000)
    assert [len(r["text"]) for r in read_jsonl(path)] == [200_000]
    JsonlWriter(path).close()
    assert path.read_text() == whole
    path.write_text("y" * 100_000)
    assert read_jsonl(path) == [] == read_jsonl(tmp_path / "absent")


def test_the_directory_is_removed_after_a_user_error(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match="wrong"), open_job(out, JobConfig(out)) as job:
        job.pin("data", [1])
        job.write_rejected([])
        JsonlWriter(job.metrics_path).close()  # opened, and nothing written
        job.checkpoints.mkdir()
        raise UserError("wrong")
    assert not out.exists()
    with pytest.raises(UserError, match="wrong"), open_job(out, JobConfig(out)) as job:
        job.write_rejected([{"line": 1, "reason": "bad"}])
        raise UserError("wrong")
    assert [p.name for p in out.iterdir()] == ["rejected.jsonl"]
    with open_job(out, JobConfig(out)) as job:  # leftovers are no obstacle
        job.row({"n": 1})
    with pytest.raises(UserError, match="wrong"), open_job(out, JobConfig(out)) as job:
        raise UserError("wrong")
    assert list(job.iter_rows()) == [{"n": 1}]  # finished work stays
    with pytest.raises(UserError, match="wrong"), open_job(tmp_path / "other", JobConfig(out)) as job:
        (job.checkpoints / "1").mkdir(parents=True)
        raise UserError("wrong")
    assert open_job(tmp_path / "other", JobConfig(out)).resumed


def test_pairs_that_took_hours_stay_after_a_user_error(tmp_path):
    with pytest.raises(UserError, match="wrong"), open_job(tmp_path / "run", JobConfig(tmp_path)) as job:
        JsonlWriter(job.directory / "pairs.jsonl").write({"pairs": [], "dropped": []})
        raise UserError("wrong")
    assert open_job(tmp_path / "run", JobConfig(tmp_path)).resumed
    assert read_jsonl(tmp_path / "run" / "pairs.jsonl") == [{"pairs": [], "dropped": []}]


@pytest.mark.parametrize("error", [UserError("wrong"), KeyboardInterrupt(), ZeroDivisionError()])
def test_the_directory_is_free_after_an_end_before_any_result(tmp_path, error):
    (tmp_path / "mine").mkdir()
    for out, left in ((tmp_path / "run", False), (tmp_path / "mine", True)):
        with pytest.raises(type(error)), open_job(out, JobConfig(out)) as job:
            job.pin("data", [1])
            raise error
        assert out.exists() == left and not (left and list(out.iterdir()))
        assert not open_job(out, JobConfig(out, seed=8)).resumed


def test_files_of_a_kill_while_they_were_written_are_removed(tmp_path):
    """And no other file: the second is the user's."""
    (tmp_path / ".config.yaml.1a2b3c4d.partial").write_text("seed:")
    with open_job(tmp_path, JobConfig(tmp_path)) as job:
        job.row({"n": 1})
    (tmp_path / ".result.json.00000000.partial").write_text("{")
    (tmp_path / ".env.1a2b3c4d").write_text("x")
    with open_job(tmp_path, JobConfig(tmp_path)):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".env.1a2b3c4d", ".lock", "config.yaml", "inputs.json",
                                                              "rows.jsonl"]


def test_an_input_may_not_change_under_a_job(tmp_path):
    with open_job(tmp_path / "run", JobConfig(tmp_path)) as job:
        job.pin("data", [{"a": 1}])
        job.pin("data", [{"a": 1}])
        with pytest.raises(UserError, match="the data changed"):
            job.pin("data", [{"a": 2}])


@pytest.mark.parametrize("form", ["file", "folder", "files"])
def test_an_input_file_may_not_change_under_a_job(tmp_path, form):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "a.jsonl"
    file.write_text('{"a": 1}\n')
    given = {"file": file, "folder": str(tmp_path / "data"), "files": [file]}[form]
    with open_job(tmp_path / "run", JobConfig(tmp_path)) as job:
        job.pin_file("data", given)
        job.pin_file("data", given)
        with pytest.raises(UserError, match="the data changed since the run started"):
            job.pin_file("data", given, limit=3)
        file.write_text('{"a": 2}\n')
        with pytest.raises(UserError, match="the data changed since the run started"):
            job.pin_file("data", given)
        job.pin_file("packaged", "asset:tiny/documents.jsonl")
        with pytest.raises(UserError, match="absent: cannot be read: No such file"):
            job.pin_file("absent", tmp_path / "absent")


def test_rows_are_counted_without_being_parsed(tmp_path):
    with open_job(tmp_path / "run", JobConfig(tmp_path)) as job:
        assert job.rows_written() == 0 and list(job.iter_rows()) == []
        for number in range(3):
            job.row({"id": number})
        assert job.rows_written() == 3
        assert [row["id"] for row in job.iter_rows()] == [0, 1, 2]
        with open(job.rows_path, "a") as file:
            file.write("no JSON\n{\"id\": 3")
        assert job.rows_written() == 4
        rows = job.iter_rows()
        assert [next(rows)["id"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match="rows.jsonl:4: the line is damaged"):
            next(rows)


@pytest.mark.parametrize("last_step, left", [(None, 40), (40, 40), (39, 39), (7, 7), (0, 0), (-1, 0)])
def test_lines_after_a_step_are_dropped(tmp_path, last_step, left):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "note": "x" * 10_000}) + "\n" for step in range(1, 41)]
    path.write_text("".join(lines) + '{"step": 41, "no')
    with JsonlWriter(path, last_step) as writer:
        writer.write({"step": 99})
    assert path.read_text() == "".join(lines[:left]) + '{"step": 99}\n'


def test_a_report_is_a_page_and_a_markdown_table(tmp_path):
    with open_job(tmp_path / "run", JobConfig(tmp_path)) as job:
        sections = [Section("Counts", parts=[Table(["", "count"], [["rows", 12345]]), Table(["x"], [[1]])])]
        job.write_report("Rows", "Two rows.", sections)
        assert "<table>" in (job.directory / "report.html").read_text()
        assert (job.directory / "report.md").read_text() == (
            "# Rows\n\nTwo rows.\n\n|  | count |\n| --- | ---: |\n| rows | 12,345 |\n")
        job.write_report("Rows", "", sections, headline=Table(["F1"], [[0.5]]))
        assert (job.directory / "report.md").read_text() == "# Rows\n\n| F1 |\n| ---: |\n| 0.500 |\n"


def test_two_processes_do_not_share_a_directory(tmp_path):
    out = tmp_path / "run"
    with open_job(out, JobConfig(out)):
        code = ("import sys; from jaxllm.job import _hold; from pathlib import Path\n"
                "from jaxllm.errors import UserError\n"
                "try: _hold(Path(sys.argv[1]))\n"
                "except UserError as error: sys.exit(str(error))")
        done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True)
        assert done.returncode == 1 and "another process is at work" in done.stderr
    assert not (out / ".lock").exists()
