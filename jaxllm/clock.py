"""The current moment for chat templates: that of a job's first start, so that a resumed job has its prompts."""

from __future__ import annotations

from datetime import datetime

_pinned: datetime | None = None


def now() -> datetime:
    """Returns the pinned moment, or the current one."""
    return _pinned or datetime.now()


def pin(moment: datetime | None) -> None:
    """Pins the moment for this process; None lets time pass again."""
    global _pinned
    _pinned = moment
