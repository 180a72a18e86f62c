"""The recipes of `configs/tune`: the command takes each."""

import pytest

from jaxllm.finetune.tune.config import Config
from jaxllm.parsing import parse
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "tune").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path):
    assert parse(Config, [f"--config={path}", "--data.path=x", "--out=y"]).method == path.stem.split("_")[-1]
