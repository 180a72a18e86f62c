"""The recipes of `configs/self_param`: the command takes each, and some have the paper's numbers."""

import pytest

from jaxllm.config import parse
from jaxllm.self_param.config import Config
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "configs" / "self_param").glob("*.yaml"))
# Name -> model, setting, documents, pairs a document, steps of an injection, entries of the vocabulary.
PAPER = {"paper_single": ("openlm-research/open_llama_3b_v2", "single", 100, 500, 1500, 32000),
         "paper_batch500": ("mistralai/Mistral-7B-v0.1", "batch", 500, 500, 750000, 32000),
         "paper_sequential20": ("meta-llama/Meta-Llama-3-8B", "sequential", 20, 200, 600, 128256)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_taken(path):
    config = parse(Config, [f"--config={path}", "--out=x"])
    if path.stem.startswith("paper"):
        model, setting, documents, pairs, steps, vocabulary = PAPER[path.stem]
        assert (config.model, config.setting, config.documents) == (model, setting, documents)
        assert (config.questions.per_document, config.train.steps, config.train.batch_size) == (pairs, steps, 1)
        injected = documents if setting == "batch" else 1
        assert config.train.steps == injected * pairs * len(config.mixture.turns)
        assert config.train.eps == pytest.approx(1e-8 * vocabulary) and config.train.lr == 2e-5
        assert (config.lora.rank, config.lora.alpha, "o" in config.lora.targets) == (8, 32.0, False)
        assert config.mixture.turns == ("qa", "continuation", "unrelated") and config.unrelated.with_document
        assert (config.train.weight_decay, config.train.clip_norm, config.sampling.max_tokens) == (0.01, None, 10)


def test_all_of_the_papers_recipes_are_there():
    assert {path.stem for path in RECIPES} >= set(PAPER)
