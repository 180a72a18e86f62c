"""Directories that are created complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.files import storage, storage_error


def lock_file(file: Path, directory: Path) -> Any:
    """Locks a file, created if absent, for this process; the operating system releases the lock when the process ends.

    Returns:
        The open file, to be closed after it is removed; None on a file system without locks.

    Raises:
        UserError: another process holds the lock; `directory` is the one that it works in.
        OSError: the file cannot be opened.
    """
    import fcntl

    lock = open(file, "w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not file.exists() or os.fstat(lock.fileno()).st_ino != file.stat().st_ino:
            raise BlockingIOError  # its owner removed it meanwhile, and another process may hold a new one
    except (BlockingIOError, PermissionError):
        lock.close()
        raise UserError("another process is at work in this directory", directory,
                        "wait for it, or choose another --out") from None
    except OSError:  # a file system without locks
        lock.close()
        return None
    return lock


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Yields a temporary directory to fill; it is renamed to `path` when the block ends without an error.

    Raises:
        UserError: `path` exists and is not empty, is the current directory, or another process is making it.
        StorageError: the disk is full; no file is left.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    with storage(path), contextlib.ExitStack() as stack:
        try:
            _check_absent(path)
            if path.exists() and path.samefile(Path.cwd()):
                raise UserError("is the current directory, which another one cannot replace", path,
                                "choose another directory")
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
            _check_absent(path)  # another process may have made it meanwhile
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
        except OSError as error:
            if storage_error(error, path) is not None:
                raise
            raise UserError(f"no directory can be made here: {error.strerror}", path,
                            "choose another directory") from None
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            _check_absent(path)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _check_absent(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError("already exists and is not empty; it is not overwritten", path, "choose another directory")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on a directory that may not exist yet, by a hidden file next to it.

    Raises:
        UserError: another process holds it.
        OSError: the file cannot be made.
    """
    path = path.resolve()
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # a name may be too long for an addition
    file = path.with_name(f".{digest}.lock")
    lock = lock_file(file, path)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        if lock is not None:
            lock.close()
