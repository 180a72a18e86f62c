"""Makes the toy model importable from tests and from the processes they start."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def run_script():
    """Runs a file of this folder in a fresh process; returns the `CompletedProcess`."""

    def run(name: str, *args: object, devices: int = 1) -> subprocess.CompletedProcess:
        env = dict(os.environ, JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1")
        env["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
        if devices > 1:
            env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        if jax.config.jax_compilation_cache_dir:
            env["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
            env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            env["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        command = [sys.executable, str(HERE / name), *map(str, args)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

    return run
