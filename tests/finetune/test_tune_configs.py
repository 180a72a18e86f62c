"""The recipes of `configs/tune`: the command takes each."""

import pytest

from jaxllm.finetune.objectives import metric_names
from jaxllm.finetune.tune.config import Config
from jaxllm.parsing import parse
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "tune").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path):
    config = parse(Config, [f"--config={path}", "--data.path=x", "--out=y"])
    assert config.method == path.stem.split("_")[-1]
    assert config.held_back.metric in metric_names(config.objective)


@pytest.mark.parametrize("method", ["ipo", "simpo", "orpo"])
def test_the_config_of_dpo_suits_the_other_methods_that_it_names(method):
    path = ROOT / "configs" / "tune" / "dpo.yaml"
    config = parse(Config, [f"--config={path}", "--data.path=x", "--out=y", f"--method={method}"])
    assert method in path.read_text() and config.held_back.metric in metric_names(config.objective)
