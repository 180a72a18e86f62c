"""The direction of imports, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jaxllm"
LEAVES = {"errors", "files", "directories", "config", "assets", "statistics", "progress", "devices", "job", "report"}
# A package may import those before it in its own line and everything they may import.
ALLOWED = {
    "ops": set(),
    "models": {"ops"},
    "text": {"models", "ops"},
    "model": {"text", "models", "ops"},
    "train": {"models", "ops"},
    "generate": {"model", "text", "models", "ops"},
    "finetune": {"generate", "model", "text", "train", "models", "ops"},
    "judge": {"generate", "model", "text", "models", "ops"},
    "evaluate": {"judge", "generate", "model", "text", "models", "ops"},
    "checkpoint": {"model", "text", "models", "ops"},
    "self_param": {"evaluate", "judge", "finetune", "train", "generate", "model", "text", "models", "ops"},
}


def imported(path: Path) -> set[str]:
    """First names below `jaxllm` that a file imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("jaxllm.")}
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package):
    leaves = set() if package == "ops" else LEAVES
    module = PACKAGE / f"{package}.py"
    for path in [module] if module.exists() else (PACKAGE / package).rglob("*.py"):
        wrong = imported(path) - {package} - leaves - ALLOWED[package]
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


def test_leaves_import_only_leaves():
    for name in LEAVES:
        files = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else (PACKAGE / name).glob("*.py")
        for path in files:
            assert not imported(path) - LEAVES - {"__version__"}, path


def test_every_package_is_in_the_table():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))} - LEAVES
    assert packages <= set(ALLOWED)


def test_nobody_imports_what_is_being_rebuilt_or_removed():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "flax.nnx" not in text and "pmap" not in text and "import pickle" not in text, path


def test_masks_are_never_made_from_token_values():
    """But for the place of a classifier's score, which transformers finds that way; padding is told by segments there
    as well."""
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "models" / "heads.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                assert "pad_id" not in ast.unparse(node), f"{path}: {ast.unparse(node)}"
