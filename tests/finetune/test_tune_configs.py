"""The recipes of `configs/tune`: the command takes each."""

import pytest

from jaxllm.errors import UserError
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


@pytest.mark.parametrize(("given", "words", "expected"), [
    ("", [], (None, 1)), ("", ["--train.steps=3"], (3, None)), ("steps: 5", [], (5, None)),
    ("epochs: 2", ["--train.steps=3"], (3, None)), ("steps: 5", ["--train.epochs=2"], (None, 2)),
    ("epochs: 2", ["--train={steps: 3}"], (3, None)), ("epochs: 2", ["--train.steps=null"], (None, 2))])
def test_steps_and_epochs_replace_one_another(tmp_path, given, words, expected):
    """In the order default, file, command line; two of one place do not."""
    path = tmp_path / "config.yaml"
    path.write_text(f"train: {{log_every: 5, {given}}}\n")
    parsed = lambda *more: parse(Config, [f"--config={path}", "--method=sft", "--data.path=x", "--out=y", *more]).train
    assert (parsed(*words).steps, parsed(*words).epochs) == expected
    path.write_text("train: {steps: 5, epochs: 2}\n")
    for both in ([], ["--train.steps=3", "--train.epochs=2"]):
        with pytest.raises(UserError, match="steps is . already"):
            parsed(*both)


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
