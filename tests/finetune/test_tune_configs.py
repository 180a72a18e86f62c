"""The recipes of `configs/tune`: the command takes each."""

import pytest

from jaxllm.finetune.objectives import metric_names
from jaxllm.finetune.tune.config import Config, HeldBackConfig, TuneConfig
from jaxllm.finetune.tune.tuning import train_settings
from jaxllm.parsing import parse
from jaxllm.train import TrainConfig, make_mesh
from tests.conftest import ROOT
from tests.networks import LLAMA


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


@pytest.mark.parametrize(("keep", "save_every", "saved"), [("last", None, None), ("last", 8, 8), ("best", None, 20),
                                                           ("best", 5, 5)])
def test_evaluated_states_that_may_be_the_best_are_saved(keep, save_every, saved):
    config = TuneConfig(method="sft", held_back=HeldBackConfig(every=20, keep=keep),
                        train=TrainConfig(steps=100, save_every=save_every))
    assert train_settings(config, LLAMA, 10, make_mesh()).save_every == saved
