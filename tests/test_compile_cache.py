"""The compile cache of jobs: its directory, its switch, and that a second process compiles nothing."""

import os
import subprocess
import sys

import pytest

from jaxllm import compile_cache
from jaxllm.compile_cache import VARIABLE, cache_directory, enable_compile_cache
from jaxllm.self_param import demo
from tests.processes import ROOT

PROGRAM = """
import sys, jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
from jaxllm import compile_cache
assert jax.config.jax_compilation_cache_dir is None, "importing enabled it"
compile_cache.SMALLEST_COMPILE_SECONDS = 0.0
print(compile_cache.enable_compile_cache())
jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((8, 8)))
print(len(hits))
"""


def run(program=PROGRAM, *arguments, **environment):
    """Runs a program in a process without a configured cache."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", "JAX_PERSISTENT"))}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run([sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True,
                          timeout=300)


def test_directory(monkeypatch, tmp_path):
    import jax
    import jaxlib

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory().parent == tmp_path / "xdg" / "jaxllm" / "xla"
    assert cache_directory().name == f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory().parent == tmp_path / "home" / ".cache" / "jaxllm" / "xla"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_directory().parent == tmp_path / "home" / "Library" / "Caches" / "jaxllm" / "xla"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    assert cache_directory().parent == tmp_path / "own"


def test_a_second_process_compiles_nothing(tmp_path):
    first, second = (run(**{VARIABLE: str(tmp_path)}).stdout.split() for _ in range(2))
    assert first[0] == second[0] and first[0].startswith(str(tmp_path))
    assert int(first[1]) == 0 and int(second[1]) > 0


@pytest.mark.slow
def test_processes_share_it(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: run(**{VARIABLE: str(tmp_path)}), range(2)))
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    assert int(run(**{VARIABLE: str(tmp_path)}).stdout.split()[1]) > 0


def test_an_unwritable_directory_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    process = run(**{VARIABLE: str(tmp_path / "file")})
    assert process.returncode == 0 and process.stdout.split() == ["None", "0"]
    assert "no compile cache" in process.stderr


def test_no_home_directory_is_no_error(monkeypatch, capsys):
    import jax

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(compile_cache.Path, "home", no_home)
    for name in (VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert enable_compile_cache() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert capsys.readouterr().err.startswith("jaxllm: no compile cache: the user has no home directory\n")


def test_a_configured_cache_is_not_replaced(tmp_path):
    process = run(PROGRAM.replace('assert jax.config.jax_compilation_cache_dir is None, "importing enabled it"', ""),
                  JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs"), **{VARIABLE: str(tmp_path / "ours")})
    assert process.stdout.split()[0] == str(tmp_path / "theirs") and not (tmp_path / "ours").exists()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.slow
def test_jobs_use_it_unless_switched_off(tmp_path, wanted):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    process = run("from jaxllm.cli import entry; entry()", "score", "--data.path", str(rows), "--out", str(out),
                  "--device.compile_cache", str(wanted).lower(), **{VARIABLE: str(tmp_path / "cache")})
    assert process.returncode == 0, process.stderr
    assert bool(list((tmp_path / "cache").glob("*/*-cache"))) == wanted


def test_the_demo_uses_it(tmp_path, monkeypatch):
    """It has no section `device` of its own."""
    calls = []
    monkeypatch.setattr(demo, "enable_compile_cache", lambda: calls.append("cache"))
    monkeypatch.setattr(demo.job, "run", lambda config: calls.append(config.documents) or tmp_path)
    monkeypatch.setattr(demo, "describe", lambda path: "")
    demo.run(demo.Config(tmp_path, documents=2))
    assert calls == ["cache", 2]
