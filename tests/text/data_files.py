"""Data files for tests of readers, and the schema of rows with a text."""

from __future__ import annotations

from pathlib import Path

TEXT = {"text": str}


def write(path: Path, *lines: str | bytes, end: str = "\n") -> Path:
    """Writes lines, of which some may be bytes that are no UTF-8, and returns the path."""
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + end.encode() for x in lines))
    return path
