"""Fixtures of all tests: a compile cache, a tiny random network, and the real data where it is present."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Networks are so small here that compiling them takes longer than running them.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # later ones have no such flag, and end at an unknown one
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxllm.assets import fetched_path  # noqa: E402
from jaxllm.progress import notice  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

# Compiling takes most of the tests' time; a second run loads the programs from here.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_lowered: list[float] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: _lowered.append(seconds) if name.endswith("jaxpr_to_mlir_module_duration") else None)
_cleared = [0]  # how many of them there were when the programs were last freed


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_freed():
    """Frees the programs of earlier files: each has memory maps, of which Linux gives a process 65,530."""
    if len(_lowered) > _cleared[-1] + 2000:
        jax.clear_caches()
        _cleared.append(len(_lowered))


@pytest.fixture(autouse=True)
def each_test_sees_notices():
    """A notice is printed once a process, and many tests share one."""
    notice.cache_clear()


def pytest_collection_modifyitems(items):
    """Puts files with slow tests first, so that no worker is left alone with one of them at the end."""
    slow = {}
    for item in items:
        slow[item.path] = slow.get(item.path, 0) + (any(map(item.get_closest_marker, ("slow", "long"))))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def programs():
    """`programs()`: number of programs that jax has lowered so far; a cached one is not lowered again."""
    return lambda: len(_lowered)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and the real checkpoint."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared data is not at hand ({SHARED})")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of SmolLM2-135M-Instruct, a real pretrained model with a chat template."""
    path = fetched_path("smollm2")
    if not path.is_dir():
        pytest.skip(f"the model smollm2 is not at hand ({path}); `make models` fetches it")
    return path


@pytest.fixture(scope="session")
def stories(shared):
    """A real trained checkpoint of 260k parameters, with its tokenizer."""
    from jaxllm.model import load

    return load(shared / "models" / "stories260k")


@pytest.fixture(scope="session")
def llama():
    """`(spec, params)` of a small random Llama: grouped heads, head_dim apart from width / heads, untied."""
    from tests.networks import LLAMA, random_params

    return LLAMA, random_params(LLAMA, seed=0)


@pytest.fixture(scope="session")
def gpt2():
    """`(spec, params)` of a small random GPT-2."""
    from tests.networks import GPT2, random_params

    return GPT2, random_params(GPT2, seed=1)
