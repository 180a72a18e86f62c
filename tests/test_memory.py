"""Memory of a process on the host."""

import os
import platform
import subprocess
import sys

import pytest

from jaxllm.memory import VARIABLES

# Frees 64 arrays of 4 MiB, each of which lies before a small block that stays, and prints the memory left in MiB.
PROGRAM = """
import numpy as np
from jaxllm.memory import return_freed_arrays
if {call}:
    assert return_freed_arrays() is {expected}
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
large = np.ones(2**24, np.uint8)
del large  # glibc raises its threshold to this size
before, arrays, left = resident(), [], []
for _ in range(64):
    arrays.append(np.ones(2**22, np.uint8))
    left.append(np.ones(2**15, np.uint8))
del arrays
print(resident() - before)
"""


def left_over(call: bool, expected: bool = True, **variables: str) -> float:
    """Runs the program without settings of malloc's in its environment, except for `variables`."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    program = PROGRAM.format(call=call, expected=expected)
    return float(subprocess.run([sys.executable, "-c", program], env=environment, check=True, text=True,
                                stdout=subprocess.PIPE).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_of_freed_arrays_is_returned():
    assert left_over(False) > 200  # the fault is there
    assert left_over(True) < 20
    assert left_over(True, expected=False, MALLOC_MMAP_THRESHOLD_="33554432") > 200  # a setting of the user's stays
