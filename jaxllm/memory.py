"""Memory of a process on the host."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# mallopt's parameters in glibc's malloc.h, and the environment variables by which a user sets them.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
# Blocks from this size on are mapped one by one.
MAPPED_BYTES = 2**20
COMPILED = "/jax/core/compile/backend_compile_duration"


@functools.cache
def return_freed_memory() -> bool:
    """Makes this process return freed memory to the system, on Linux with glibc.

    By default glibc raises the size from which on blocks are mapped one by one to that of the largest freed one, up to
    32 MiB. Arrays of a training on CPU are mostly smaller; their memory, and what the compiler frees, is then between
    blocks that stay, and is not returned. Here arrays of 1 MiB and more are mapped one by one, and what is free
    between other blocks is returned after every compilation.

    Returns:
        Whether it was set: not on other systems, and not where the environment has settings of the user's.
    """
    import jax

    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):  # musl has neither
        return False

    def trim(event: str, *_: object, **__: object) -> None:
        if event == COMPILED:
            libc.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(trim)
    return all([libc.mallopt(name, MAPPED_BYTES) for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)])
