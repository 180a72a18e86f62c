"""Memory of a process on the host."""

import os
import platform
import subprocess
import sys

import pytest

from jaxllm.memory import VARIABLES

# Frees arrays between blocks that stay, and compiles; prints the MiB that are left.
PROGRAM = """
import jax
import numpy as np
from jaxllm.memory import return_freed_memory
if {call}:
    assert return_freed_memory() is {expected}
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
large = np.ones(2**24, np.uint8)
del large  # glibc raises its threshold to this size
jax.block_until_ready(jax.jit(lambda x: x + 3)(1))
before, arrays, left = resident(), [], []
for _ in range({count}):
    arrays.append(np.ones({size}, np.uint8))
    left.append(np.ones({stays}, np.uint8))
del arrays
if {compiles}:
    jax.block_until_ready(jax.jit(lambda x: x * 3)(1))
print(resident() - before)
"""
# Large arrays are returned at once, small ones after the next compilation.
CASES = {"large": {"size": 2**22, "count": 64, "stays": 2**16, "compiles": False},
         "small": {"size": 2**15, "count": 2**13, "stays": 2**11, "compiles": True}}


def left_over(case: str, call: bool, expected: bool = True, **variables: str) -> float:
    """Runs the program without settings of malloc's in its environment, except for `variables`."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    program = PROGRAM.format(call=call, expected=expected, **CASES[case])
    return float(subprocess.run([sys.executable, "-c", program], env=environment, check=True, text=True,
                                stdout=subprocess.PIPE).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("case", CASES)
def test_freed_memory_is_returned(case):
    assert left_over(case, False) > 200  # the fault is there
    assert left_over(case, True) < 80


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_settings_of_the_environment_stay():
    assert left_over("large", True, expected=False, MALLOC_MMAP_THRESHOLD_="33554432") > 200
