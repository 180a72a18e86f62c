"""Telling a full disk from every other failure."""

import errno
from pathlib import Path

from jaxllm.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_error(error: BaseException, where: Path) -> StorageError | None:
    """The `StorageError` that `error` amounts to (disk, quota or size limit full), or None."""
    if isinstance(error, StorageError):
        return error
    # Array writes fail inside a C++ library, which puts the code into the text of a ValueError.
    text = str(error)
    full = isinstance(error, OSError) and error.errno in _FULL
    if not full and not any(f"os_error_code='{code}'" in text for code in _FULL):
        return None
    reason = error.strerror if isinstance(error, OSError) else text.rsplit(": ", 1)[-1].split(" [")[0]
    return StorageError(f"{where}: no room to write: {reason}")
