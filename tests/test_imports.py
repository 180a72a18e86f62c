"""The direction of imports, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jaxllm"
LEAVES = {"errors", "files", "directories", "config", "parsing", "assets", "statistics", "measures", "agreement",
          "raters", "limits", "progress", "devices", "job", "report", "compile_cache", "clock", "memory", "parallel"}
# A package imports packages of its own row and the leaves.
ALLOWED = {
    "ops": set(),
    "models": {"ops"},
    "text": {"models", "ops"},
    "model": {"text", "models", "ops"},
    "train": {"models", "ops"},
    "generate": {"model", "text", "models", "ops"},
    "finetune": {"generate", "model", "text", "train", "models", "ops"},
    "judge": {"generate", "model", "text", "models", "ops"},
    "evaluate": {"judge", "finetune", "train", "generate", "model", "text", "models", "ops"},
    "rl": {"evaluate", "judge", "finetune", "train", "generate", "model", "text", "models", "ops"},
    "cory": {"rl", "evaluate", "judge", "finetune", "train", "generate", "model", "text", "models", "ops"},
    "codejudge": {"judge", "generate", "model", "text", "models", "ops"},
    "feedback": {"evaluate", "judge", "finetune", "train", "generate", "model", "text", "models", "ops"},
    "consistency": {"judge", "generate", "model", "text", "models", "ops"},
    "checkpoint": {"model", "text", "models", "ops"},
    "self_param": {"evaluate", "judge", "finetune", "train", "generate", "model", "text", "models", "ops"},
}
ABOVE_ALL = {"__init__", "__main__", "cli"}  # these import what they start


def sources(package: str) -> list[Path]:
    module = PACKAGE / f"{package}.py"
    return [module] if module.exists() else sorted((PACKAGE / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First names below `jaxllm` that a file imports, at module level or inside functions."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        packages |= {name.split(".")[1] for name in names if name.startswith("jaxllm.")}
    return packages


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package):
    leaves = set() if package == "ops" else LEAVES
    for path in sources(package):
        wrong = imported(path) - {package} - leaves - ALLOWED[package]
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


def test_leaves_import_only_leaves():
    for path in (path for name in LEAVES for path in sources(name)):
        assert not imported(path) - LEAVES - {"__version__"}, path


def test_the_table_has_no_cycle():
    """Packages that import one another in both directions, directly or through others, are one package."""
    reached = {package: set(others) for package, others in ALLOWED.items()}
    for _ in reached:
        for others in reached.values():
            others |= {further for other in others for further in reached[other]}
    assert not [package for package, others in reached.items() if package in others]


def test_every_package_and_module_is_in_the_table():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert packages | modules <= set(ALLOWED) | LEAVES | ABOVE_ALL


def test_unstable_and_unsafe_modules_are_never_imported():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "flax.nnx" not in text and "pmap" not in text and "import pickle" not in text, path


def test_masks_are_never_made_from_token_values():
    """Padding may be a real token. Only a classifier's pooling position is searched by id, as in transformers."""
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "models" / "heads.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                assert "pad_id" not in ast.unparse(node), f"{path}: {ast.unparse(node)}"
