"""The recipes of `configs/consistency`: the commands take them, and the templates can be loaded."""

import pytest

from jaxllm.consistency import job, rank_job
from jaxllm.consistency.templates import load_template
from jaxllm.finetune.tune.config import Config
from jaxllm.parsing import parse
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "consistency"


@pytest.mark.parametrize("name", ["paper", "study"])
def test_recipes(name, tmp_path):
    config = parse(Config, ["--config", str(FOLDER / f"{name}.yaml"), "--data.path", "rows.jsonl", "--out",
                            str(tmp_path)])
    assert config.method == "sft" and (config.lora.rank, config.lora.alpha) == (16, 64)
    assert config.train.batch_size == 8 and config.train.weight_decay == 0.01
    if name == "paper":
        assert config.train.epochs == 2 and config.train.lr == 5e-5 and config.train.accumulate == 2
    else:  # a step takes most of a minute with SmolLM2: a killed run must not begin again
        assert config.train.save_every == 10


@pytest.mark.parametrize(("name", "kind", "expected"), [
    ("judge", job.Config, {"sizes": [5], "subsets": 1000, "method": "probability"}),
    ("rank", rank_job.Config, {"orders": 100, "calibrated": False, "algorithm": "greedy"})])
def test_recipes_of_a_judge(name, kind, expected, tmp_path):
    config = parse(kind, ["--config", str(FOLDER / f"{name}.yaml"), "--data.path", "rows.jsonl", "--out",
                          str(tmp_path)])
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.template == "coherence" and config.judge.spellings == "max"


@pytest.mark.parametrize("name", ["tiny_numbers", "tiny_reviews"])
def test_templates_of_the_packaged_model(name):
    build = load_template(str(FOLDER / f"{name}.yaml")).builder("", ["12", "87"])
    assert build(0, 1, chat=False).startswith("Question: Which ") and build(0, 1).endswith(" A: 12 B: 87 Answer:")
