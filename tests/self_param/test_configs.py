"""The recipes of `configs/self_param`: the command takes each, and some have the paper's numbers."""

import json

import pytest

from jaxllm.assets import asset_path, resolve
from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.finetune.distill import DivergenceConfig
from jaxllm.finetune.tune.config import Config as TuneConfig
from jaxllm.parsing import parse
from jaxllm.self_param import demo
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import group_rows
from tests.conftest import ROOT

SETTINGS = ("single", "batch", "sequential")
READING = ROOT / "configs" / "self_param" / "reader.yaml"
RECIPES = sorted(set((ROOT / "configs" / "self_param").glob("*.yaml")) - {READING})
# Name -> model, setting, documents, pairs a document, steps of an injection, entries of the vocabulary.
PAPER = {"paper_single": ("openlm-research/open_llama_3b_v2", "single", 100, 500, 1500, 32000),
         "paper_batch500": ("mistralai/Mistral-7B-v0.1", "batch", 500, 500, 750000, 32000),
         "paper_sequential20": ("meta-llama/Meta-Llama-3-8B", "sequential", 20, 200, 600, 128256)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(path):
    config = parse(Config, [f"--config={path}", "--out=x"])
    if path.stem.startswith("paper"):
        model, setting, documents, pairs, steps, vocabulary = PAPER[path.stem]
        assert (config.model, config.setting, config.documents) == (model, setting, documents)
        assert (config.qa_pairs.per_document, config.train.steps, config.train.batch_size) == (pairs, steps, 1)
        injected = documents if setting == "batch" else 1
        assert config.train.steps == injected * pairs * len(config.mixture.cycle)
        assert config.train.eps == pytest.approx(1e-8 * vocabulary) and config.train.lr == 2e-5
        assert (config.lora.rank, config.lora.alpha, "o" in config.lora.targets) == (8, 32.0, False)
        assert config.mixture.cycle == ("qa", "continuation", "unrelated") and config.unrelated.with_document
        assert config.divergence == DivergenceConfig(top_k=None)
        assert (config.train.weight_decay, config.train.clip_norm, config.sampling.max_tokens) == (0.01, None, 10)
        assert not config.sampling.stop and config.device.params == config.device.compute == "float32"


def test_recommended_settings_differ_where_a_comment_gives_the_reason():
    """Same checks of the questions, decoding, teacher cache, packing and optimizer; batch has twice the rank."""
    single, batch, sequential = (parse(Config, [f"--config={path}", "--out=x"]) for path in (
        ROOT / "configs" / "self_param" / f"recommended_{setting}.yaml" for setting in SETTINGS))
    names = ("lr", "schedule", "clip_norm", "packing", "remat")
    same = lambda config: (config.qa_pairs, config.sampling, config.divergence, config.lora.targets,
                           config.lora.alpha / config.lora.rank, config.generation_batch_size,
                           *(getattr(config.train, name) for name in names))
    assert same(single) == same(batch) == same(sequential) and single.train.packing
    assert [config.lora.rank for config in (single, batch, sequential)] == [16, 32, 16]
    assert [config.setting for config in (single, batch, sequential)] == list(SETTINGS)


# Shapes in the checkpoints' config.json.
SHAPES = {
    "paper_single": dict(model_type="llama", hidden_size=3200, intermediate_size=8640, num_hidden_layers=26,
                         num_attention_heads=32, max_position_embeddings=2048, vocab_size=32000),
    "paper_batch500": dict(model_type="mistral", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                           num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=32768,
                           sliding_window=4096, vocab_size=32000),
    "paper_sequential20": dict(model_type="llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                               num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
                               vocab_size=128256)}
# Weights in bfloat16 and trained parameters, by hand from the shapes: the paper's LoRA is on q, k, v, up, gate, down.
WEIGHTS = {"paper_single": 3_426_473_600, "paper_batch500": 7_241_732_096, "paper_sequential20": 8_030_261_248}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_papers_size_compile_on_shapes(name, tmp_path, capsys):
    shape = SHAPES[name]
    (tmp_path / "config.json").write_text(json.dumps(shape | {"tie_word_embeddings": False}))
    path = ROOT / "configs" / "self_param" / f"{name}.yaml"
    assert main(["inject", "--config", str(path), "--model", str(tmp_path), "--dry_run", "256", "--device.params",
                 "bfloat16", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    keys = shape["hidden_size"] // shape["num_attention_heads"] * shape.get("num_key_value_heads", 32)
    width, mlp = shape["hidden_size"], shape["intermediate_size"]
    trained = shape["num_hidden_layers"] * 8 * (2 * width + 2 * (width + keys) + 3 * (width + mlp))
    assert f"trained               {trained:,} parameters" in printed
    assert f"{WEIGHTS[name] * 2 / 2**20:,.1f} MiB" in printed and "student 384 tokens, teacher 768 tokens" in printed
    assert not (tmp_path / "out").exists()


def test_the_model_that_reads_is_fine_tuned_first():
    assert parse(TuneConfig, [f"--config={READING}", "--out=x"]).save == "model"


def test_all_of_the_papers_recipes_are_there():
    assert {path.stem for path in RECIPES} >= set(PAPER)


def test_the_demonstration_injects_three_passages_with_their_answers(tmp_path, monkeypatch):
    jobs = []

    def run(config):
        jobs.append(config)
        raise UserError("not in this test")

    monkeypatch.setattr(demo.job, "run", run)
    monkeypatch.setattr(demo, "enable_compile_cache", lambda: None)
    for name in demo.SETTINGS:
        with pytest.raises(UserError, match="not in this test"):
            demo.run(demo.Config(tmp_path, name))
    assert [(job.model, job.documents) for job in jobs] == [("tiny", 3), ("smollm2", 3)]
    assert resolve(jobs[1].data.path) == asset_path("smollm2/passages.jsonl")
    passages = group_rows(read_jsonl(asset_path("smollm2/passages.jsonl")))
    assert [len(passage.questions) for passage in passages] == [8, 6, 6]
    assert all(pair.answers[0].lower() in passage.text.lower() for passage in passages for pair in passage.questions)
    needing_more = group_rows(read_jsonl(asset_path("smollm2/portability.jsonl")))
    assert [one.text for one in needing_more] == [passage.text for passage in passages]
    assert [len(one.questions) for one in needing_more] == [3, 3, 3]
