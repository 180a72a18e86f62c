"""Models with short names: packaged files (the tiny model and its documents), and real models that were fetched."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from jaxllm.compile_cache import user_cache
from jaxllm.errors import UserError
from jaxllm.files import expanded

_PREFIX = "asset:"
# Pretrained models that scripts/get_models.py fetches and converts.
FETCHED = ("smollm2", "gemma270")


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


def fetched_path(name: str) -> Path:
    """Returns the directory of a fetched model in the user's cache; it may not exist yet."""
    return user_cache() / "models" / name


def resolve(source: str | Path) -> Path:
    """Resolves a user's source: ``"tiny"``, ``"smollm2"``, ``"asset:tiny/documents.jsonl"``, or a path.

    ``"tiny"`` is always the packaged model and ``"smollm2"`` the fetched one; directories of these names are
    ``"./tiny"`` and ``"./smollm2"``. A path is returned with ``~`` expanded and may not exist.

    Raises:
        UserError: there is no such packaged file, or a model has not been fetched.
    """
    if isinstance(source, str):
        if source == "tiny":
            return asset_path("tiny")
        if source in FETCHED:
            path = fetched_path(source)
            if not path.is_dir():
                raise UserError(f"the model {source!r} is not on this machine ({path})", fix=(
                    f"in a checkout of jaxllm: make models MODELS={source}; a directory of this name is ./{source}"))
            return path
        if source.startswith(_PREFIX):
            return asset_path(source.removeprefix(_PREFIX))
    return expanded(source)


def _listing(root: Path) -> list[str]:
    return sorted(
        p.name for p in root.iterdir() if p.name != "__pycache__" and p.suffix not in (".py", ".pyc")
    )
