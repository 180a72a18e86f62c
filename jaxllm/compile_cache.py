"""A persistent cache of compiled programs for jobs, so that the second start of a job compiles nothing."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from jaxllm.errors import UserError
from jaxllm.files import expanded

# Overrides the directory; the cache of each pair of versions is a subdirectory.
VARIABLE = "JAXLLM_COMPILE_CACHE"
# Programs that compile faster than this are not worth a file.
SMALLEST_COMPILE_SECONDS = 0.05
# The least recently used programs are removed beyond this size.
LARGEST_BYTES = 2**32


def user_cache() -> Path:
    """Returns the user's directory for files that can be made again.

    By convention of the platform: `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS,
    `%LOCALAPPDATA%` on Windows.

    Raises:
        UserError: the user has no home directory.
    """
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "jaxllm"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "jaxllm"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"
    except RuntimeError:
        raise UserError("the user has no home directory", fix="set the environment variable HOME") from None


def cache_directory() -> Path:
    """Returns the directory of the cache for the installed versions of jax and jaxlib.

    It is in `user_cache()`, unless the environment variable `JAXLLM_COMPILE_CACHE` names another directory.
    """
    override = os.environ.get(VARIABLE)
    base = expanded(override) if override else user_cache() / "xla"
    return base / f"jax-{metadata.version('jax')}-jaxlib-{metadata.version('jaxlib')}"


def enable_compile_cache() -> Path | None:
    """Makes jax keep compiled programs on disk, for this process.

    A cache that is configured already (such as by `JAX_COMPILATION_CACHE_DIR`) stays as it is. Several processes may
    share the directory: a lock file guards its entries.

    Returns:
        The directory of the cache; None where it cannot be written, which costs time but fails no job.
    """
    import jax

    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    try:
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, UserError) as error:
        print(f"jaxllm: no compile cache: {error}", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_COMPILE_SECONDS)
    if importlib.util.find_spec("filelock") is not None:
        jax.config.update("jax_compilation_cache_max_size", LARGEST_BYTES)
    return directory
