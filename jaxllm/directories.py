"""Directories that are created complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxllm.errors import UserError
from jaxllm.files import storage, storage_error


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Yields a temporary directory to fill; it is renamed to `path` when the block ends without an error.

    Raises:
        UserError: `path` exists and is not empty.
        StorageError: the disk is full; no file is left.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    with storage(path):
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError("already exists and is not empty; it is not overwritten", path,
                                "choose another directory")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
        except OSError as error:
            if storage_error(error, path) is not None:
                raise
            raise UserError(f"no directory can be made here: {error.strerror}", path,
                            "choose another directory") from None
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
