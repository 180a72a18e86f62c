"""Packaged files: the tiny model and its documents."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from jaxllm.errors import UserError

_PREFIX = "asset:"


def asset_path(name: str) -> Path:
    """Returns the path of a packaged file or directory, such as ``"tiny"`` or ``"tiny/documents.jsonl"``.

    Raises:
        UserError: there is no such file in the package, or `name` leaves the package.
    """
    root = Path(str(resources.files(__name__)))
    path = root / name
    if not name or ".." in Path(name).parts or Path(name).is_absolute() or not path.exists():
        raise UserError(
            f"no packaged file {name!r}", fix=f"packaged files: {', '.join(_listing(root)) or 'none'}"
        )
    return path


def resolve(source: str | Path) -> Path:
    """Resolves a user's source: ``"tiny"``, ``"asset:tiny/documents.jsonl"``, or a path.

    ``"tiny"`` is always the packaged model; a directory of that name is ``"./tiny"``. A path is returned with
    ``~`` expanded and may not exist.
    """
    if isinstance(source, str):
        if source == "tiny":
            return asset_path("tiny")
        if source.startswith(_PREFIX):
            return asset_path(source.removeprefix(_PREFIX))
    return Path(source).expanduser()


def _listing(root: Path) -> list[str]:
    return sorted(
        p.name for p in root.iterdir() if p.name != "__pycache__" and p.suffix not in (".py", ".pyc")
    )
