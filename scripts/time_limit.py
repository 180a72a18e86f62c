"""Stops a script's jobs after some minutes; they save a checkpoint, and the same command continues them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stop_after(minutes: float | None) -> Iterator[None]:
    """Sends SIGTERM to this process after some minutes, as long as the block runs; None sends nothing."""
    timer = None if minutes is None else threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
