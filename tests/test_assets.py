"""Sources: packaged files, or paths of the user."""

import sys
from pathlib import Path

import pytest

from jaxllm import assets
from jaxllm.errors import UserError


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "documents.jsonl").write_text("{}")
    monkeypatch.setattr(assets.resources, "files", lambda package: tmp_path)
    return tmp_path


def test_names_of_packaged_files(packaged):
    assert assets.resolve("tiny") == assets.asset_path("tiny") == packaged / "tiny"
    assert assets.resolve("asset:tiny/documents.jsonl") == packaged / "tiny" / "documents.jsonl"


def test_a_fetched_model_is_in_the_cache_or_the_message_explains_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="'smollm2' is not on this machine .*\n.*make models MODELS=smollm2"):
        assets.resolve("smollm2")
    path = tmp_path / "jaxllm" / "models" / "smollm2"
    path.mkdir(parents=True)
    assert assets.resolve("smollm2") == path
    assert assets.resolve("./smollm2") == Path("smollm2")


def test_paths_stay_paths(packaged):
    assert assets.resolve("./tiny") == Path("tiny") == assets.resolve(Path("tiny"))
    assert assets.resolve("~/x") == Path.home() / "x"
    assert assets.resolve("tiny/other") == Path("tiny/other")


@pytest.mark.parametrize(
    "name", ["absent", "tiny/absent", "../secret", "tiny/../../secret", "/etc/passwd", ""]
)
def test_files_outside_the_package_and_absent_files_are_refused(packaged, name):
    (packaged.parent / "secret").write_text("x")
    with pytest.raises(UserError, match="no packaged file .*\n  fix: packaged files: tiny"):
        assets.resolve(f"asset:{name}")
