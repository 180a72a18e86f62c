"""Directories that appear whole, made by one process at a time."""

import subprocess
import sys

import pytest

from jaxllm.cli import main
from jaxllm.directories import new_directory
from jaxllm.errors import UserError
from tests.processes import ROOT

MAKER = """
import sys
from jaxllm.directories import new_directory
with new_directory(sys.argv[1]) as target:
    (target / "file").write_text("theirs")
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process in the middle of making a directory, and the path of it; it goes on when its input ends."""
    path = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", MAKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               cwd=ROOT, text=True)
    assert process.stdout.readline() == "begun\n"
    yield process, path
    process.kill()
    process.wait()


def test_two_processes_do_not_make_the_same_directory(other, monkeypatch, capsys):
    from jaxllm.checkpoint import convert_job

    process, path = other
    monkeypatch.setattr(convert_job, "load_model", lambda *_: pytest.fail("the work began"))
    assert main(["convert", "--model", "tiny", "--out", str(path)]) == 2
    assert "another process is at work in this directory" in capsys.readouterr().err
    process.communicate("")
    assert process.returncode == 0 and (path / "file").read_text() == "theirs"
    assert main(["convert", "--model", "tiny", "--out", str(path)]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err
    assert [file.name for file in path.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_job_does_not_start_in_a_directory_that_is_being_made(other, tmp_path, capsys, exists):
    process, path = other
    if exists:
        path.mkdir()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    words = ["generate", "--data.path", str(tmp_path / "rows.jsonl"), "--out", str(path)]
    assert main(words) == 2
    assert "another process is at work in this directory" in capsys.readouterr().err
    process.communicate("")
    assert process.returncode == 0 and [file.name for file in path.iterdir()] == ["file"]
    assert main(words) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "rows.jsonl"]


def test_a_killed_process_holds_no_lock(other):
    process, path = other
    process.kill()
    process.wait()
    with new_directory(path) as target:
        (target / "file").write_text("ours")
    assert (path / "file").read_text() == "ours"


@pytest.mark.parametrize("absolute", [False, True])
def test_the_current_directory_is_refused_before_the_work(tmp_path, monkeypatch, absolute):
    """Another one would take its place, and a shell in it would not see the files."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the current directory"), new_directory(tmp_path if absolute else "."):
        pytest.fail("the work began")
    assert not any(tmp_path.iterdir())


def test_a_directory_that_was_filled_meanwhile(tmp_path):
    """By a process without a lock, as on a file system that has none."""
    with pytest.raises(UserError, match="already exists and is not empty"), new_directory(tmp_path / "out") as target:
        (target / "file").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("theirs")
    assert (tmp_path / "out" / "file").read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_names_with_the_same_start_are_independent(tmp_path):
    name = "n" * 255
    with new_directory(tmp_path / name), new_directory(tmp_path / (name[:-1] + "m")):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [name[:-1] + "m", name]
