"""Memory of a process on the host."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt's parameters in glibc's malloc.h, and the environment variables by which a user sets them.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
# Blocks from this size on are mapped one by one.
MAPPED_BYTES = 2**20


def return_freed_arrays() -> bool:
    """Makes this process return the memory of freed arrays to the system at once, on Linux with glibc.

    By default glibc raises the size from which on blocks are mapped one by one to 32 MiB after the first such block is
    freed. Arrays of a training on CPU are mostly smaller and come to lie between blocks that stay, so that their memory
    is not returned.

    Returns:
        Whether it was set: not on other systems, and not where the environment has settings of the user's.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all([mallopt(name, MAPPED_BYTES) for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)])
