"""Exit statuses, messages, and the cost of imports."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from jaxllm import cli, parsing
from jaxllm.errors import LimitError, StorageError, UserError


@dataclass(frozen=True)
class Config:
    """A job.

    Args:
        out: where it writes.
        fail: how it fails.
    """

    out: Path
    fail: str = "no"
    seed: int = 0


FAILURES = {
    "user": UserError("no such file", "x.jsonl", "check the path"),
    "storage": StorageError("rows.jsonl: cannot be written: No space left on device"),
    "enospc": OSError(28, "No space left on device"),
    "tensorstore": ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']"),
    "safetensors": RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
    "oserror": OSError(13, "Permission denied"),
    "bug": ZeroDivisionError("a fault of ours"),
    "stop": KeyboardInterrupt(),
    "limit": LimitError("accuracy is 0.5000, below --fail_under 0.7"),
    "limit_after_result": LimitError("accuracy is 0.5000, below --fail_under 0.7", Path("runs/result.json")),
}


def run(config: Config) -> Path:
    from jaxllm.job import open_job

    if config.fail in FAILURES:
        raise FAILURES[config.fail]
    job = open_job(config.out, config)
    print("chatter")
    return job.write_result({"n": 1})


@pytest.fixture(autouse=True)
def verbs(monkeypatch):
    module = types.ModuleType("fake_verb")
    module.Config, module.run = Config, run
    monkeypatch.setitem(sys.modules, "fake_verb", module)
    monkeypatch.setitem(cli.VERBS, "work", cli.Verb("fake_verb", "does some work"))


def test_a_job_ends_with_the_path_of_its_result(tmp_path, capsys):
    assert cli.main(["work", "--out", str(tmp_path / "run"), "--seed", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["chatter", str(tmp_path / "run" / "result.json")]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["seed"] == 3


@pytest.mark.parametrize(
    "fail, status, message",
    [
        ("user", 2, "jaxllm: x.jsonl: no such file\n  fix: check the path\n"),
        (
            "storage",
            1,
            "jaxllm: rows.jsonl: cannot be written: No space left on device\n  fix: free some space",
        ),
        ("enospc", 1, "jaxllm: {out}: cannot be written: No space left on device\n"),
        ("tensorstore", 1, "jaxllm: {out}: cannot be written: No space left on device\n"),
        ("safetensors", 1, "jaxllm: {out}: cannot be written: File too large\n"),
        ("stop", 130, "jaxllm: stopped\n"),
        ("limit", 3, "jaxllm: accuracy is 0.5000, below --fail_under 0.7\n"),
    ],
)
def test_expected_failures_show_no_traceback(tmp_path, capsys, fail, status, message):
    assert cli.main(["work", "--out", str(tmp_path), "--fail", fail]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(message.format(out=tmp_path)) and captured.out == ""
    assert "Traceback" not in captured.err


def test_a_limit_that_is_not_met_leaves_the_path_on_stdout(tmp_path, capsys):
    assert cli.main(["work", "--out", str(tmp_path), "--fail", "limit_after_result"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "runs/result.json\n"
    assert captured.err == "jaxllm: accuracy is 0.5000, below --fail_under 0.7\n  the result is in runs/result.json\n"


@pytest.mark.parametrize("fail", ["bug", "oserror"])
def test_bugs_show_their_traceback(tmp_path, capsys, fail):
    assert cli.main(["work", "--out", str(tmp_path), "--fail", fail]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and str(FAILURES[fail]) in error


@pytest.mark.parametrize(
    "args, message",
    [
        (["wrok"], "jaxllm: there is no verb 'wrok'\n  fix: did you mean 'work'?\n"),
        (["--verson"], "jaxllm: there is no verb '--verson'\n  fix: did you mean '--version'?\n"),
        (["qqq"], "jaxllm: there is no verb 'qqq'\n  fix: verbs are inject, "),
        (
            ["work", "--sed", "1"],
            "jaxllm: command line: there is no key --sed\n  fix: did you mean --seed?\n",
        ),
        (["work"], "jaxllm: required key missing: out\n"),
        (["work", "--out", "x", "--seed", "x"], "jaxllm: command line: seed: expected int, got 'x'\n"),
    ],
)
def test_errors_in_the_command(capsys, args, message):
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and "Traceback" not in captured.err and captured.out == ""


def test_jobs_are_opened_with_their_verb():
    for name in set(cli.VERBS) - {"work"}:
        module = cli.VERBS[name].module.replace(".", "/")
        source = (Path(cli.__file__).parents[1] / f"{module}.py").read_text()
        opened = re.findall(r'open_job\([\w.]+, \w+(?:, "(\w+)")?', source)
        assert opened in ([], ["inject" if name == "remove" else name]), name


def test_several_processes_are_refused_before_the_directory_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setitem(cli.VERBS, "work", cli.Verb("fake_verb", "does some work", single_process=True))
    assert cli.main(["work", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == ("jaxllm: work: runs in one process, and there are 4\n"
                                       "  fix: start it once, on a host with all its devices\n")
    assert not (tmp_path / "run").exists()
    single = {name for name, verb in cli.VERBS.items() if verb.single_process}
    assert single == {"inject", "tune", "remove", "recommend", "compare", "generate", "score", "check", "convert",
                      "demo", "rl", "evaluate", "judge", "consistency", "repair", "rank", "audit", "clean",
                      "work"}


def test_another_run_in_the_directory(tmp_path, capsys):
    assert cli.main(["work", "--out", str(tmp_path)]) == cli.main(["work", "--out", str(tmp_path)]) == 0
    assert cli.main(["work", "--out", str(tmp_path), "--seed", "1"]) == 2
    assert "seed: 0 there, 1 here" in capsys.readouterr().err


def test_help(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text and verb.help in text for name, verb in cli.VERBS.items())
    assert cli.main([]) == 2
    assert capsys.readouterr().out == text
    assert cli.main(["work", "--help"]) == 0
    text = capsys.readouterr().out
    assert (
        "usage: jaxllm work" in text
        and "...]\n\nA job.\n" in text
        and "how it fails. (type: str, default: no)" in text
    )
    assert cli.main(["work", "--out", "x", "--print_config"]) == 0
    assert capsys.readouterr().out == "out: x\nfail: no\nseed: 0\n".replace("fail: no", "fail: 'no'")


@pytest.mark.parametrize("name", [name for name in cli.VERBS if name != "work"])
def test_the_help_of_a_verb_is_whole_sentences(name, capsys):
    verb = cli.VERBS[name]
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    job = importlib.import_module(verb.module).Config
    described = " ".join(inspect.cleandoc(job.__doc__).partition("Args:")[0].split())
    assert re.fullmatch(r"[A-Z].*[.]", described)
    usage = f"usage: jaxllm {name} [--config FILE] [--KEY VALUE ...]"
    without_blanks = lambda text: "".join(text.split())  # lines are broken after hyphens too
    start = without_blanks(f"{usage} {described} options:")
    assert without_blanks(text).startswith(start)
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert titles[:2] == ["options", "keys"]
    assert all(re.fullmatch(r"[a-z_.]+ \([^\n]+\)", title) for title in titles[2:]), titles
    leaves = {key for key, hint in parsing._keys(job).items() if not parsing._section(hint)}
    assert leaves <= set(re.findall(r"--([\w.]+)", flat))
    keys = flat.partition(" keys: ")[2]
    helps = re.findall(r"--[\w.+]+(?: (?:[A-Z_]+|\{[^}]*\}|\[ITEM,...\]),?)* (.*?) \((?:required, )?type: ", keys)
    assert len(helps) > 1 and not [text for text in helps if not text.endswith(".") or text == "."]


def test_every_verb_is_described_in_one_line():
    assert all("\n" not in verb.help and len(verb.help) < 90 for verb in cli.VERBS.values())


def command(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True)


def test_exit_statuses_of_the_process():
    assert command("-m", "jaxllm", "--help").returncode == 0
    unknown = command("-m", "jaxllm", "generat")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "jaxllm: there is no verb 'generat'\n  fix: did you mean 'generate'?\n"
    version = command("-m", "jaxllm", "--version")
    assert version.returncode == 0 and version.stdout.startswith("jaxllm ")


def test_help_is_quick():
    def seconds():
        start = time.perf_counter()
        command("-m", "jaxllm", "--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.8


@pytest.mark.parametrize("what", ["import jaxllm", "from jaxllm import cli; cli.main(['--help'])"])
def test_imports_are_light_and_do_not_change_the_environment(what):
    code = (
        f"import os, sys; before = dict(os.environ); {what}\n"
        "heavy = {'torch', 'tensorflow', 'transformers', 'datasets', 'orbax', 'jax'} & set(sys.modules)\n"
        "print(sorted(heavy), dict(os.environ) == before)"
    )
    assert command("-c", code).stdout.splitlines()[-1] == "[] True"


def test_messages_of_other_packages_are_hidden():
    """In a process of its own: transformers sets its own levels when imported, after ours."""
    code = (
        "import logging, sys; from jaxllm import cli; cli.main(['--version'])\n"
        "import transformers\n"
        "logging.getLogger('transformers').warning('advice')\n"
        "logging.getLogger('absl').info('chatter'); logging.getLogger('orbax').info('chatter')\n"
        "logging.getLogger('transformers').error('a real one')\n"
    )
    error = command("-c", code).stderr
    assert (
        "advice" not in error and "chatter" not in error and "a real one" in error and "PyTorch" not in error
    )
