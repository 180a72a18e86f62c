"""Directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxllm.errors import UserError
from jaxllm.files import FULL, storage


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A directory to fill that takes its name only when the block ends well.

    Raises:
        UserError: `path` exists and is not empty.
        StorageError: the disk is full; nothing is left behind.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    with storage(path):
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError("already exists and is not empty; it is not overwritten", path,
                                "name another directory")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
        except OSError as error:
            if error.errno in FULL:
                raise
            raise UserError(f"no directory can be made here: {error.strerror}", path,
                            "name another directory") from None
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
