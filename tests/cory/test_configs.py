"""The recipes of `configs/cory`: the command takes each, and some have the paper's numbers."""

import json
import shutil

import pytest

from jaxllm.cli import main
from jaxllm.cory import Config
from jaxllm.parsing import parse
from jaxllm.rl import ALGORITHMS
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "configs" / "cory").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(path):
    config = parse(Config, [f"--config={path}", "--out=x"])
    assert (config.agents, config.exchange_every, config.algorithm) == (2, 5, "ppo")
    assert (config.policy.gamma, config.policy.lam, config.settings.clip_low, config.policy.value_clip,
            config.policy.value_coef) == (1.0, 0.95, 0.2, 0.2, 0.1)
    if path.stem == "imdb_paper":
        assert (config.train.lr, config.rows, config.passes, config.iterations) == (1.41e-5, 256, 4, 100)
        assert (config.kl_coef, config.kl_kind, config.kl.adaptive) == (0.3, "full", False)
        assert config.query.tokens == [2, 8] and config.response_tokens == [4, 15] and config.lora is None
    if path.stem == "gsm8k_paper":
        assert (config.train.lr, config.rows, config.train.accumulate, config.kl_coef) == (1e-4, 32, 16, 0.01)
    if config.kl_kind == "full":
        assert "adaptive:" in path.read_text(), "the paper leaves it open, so that each config is explicit"
    assert config.kl_kind == ("k1" if path.stem in ("tiny", "smollm2_imdb") else "full")
    if path.stem == "imdb_code_parity":
        assert config.kl.adaptive and config.scores.scale and config.scores.center
        assert config.cory.exchange_resets == "all" and config.sampling.repetition_penalty == 1.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_tiny_config_takes_every_algorithm(algorithm):
    path = ROOT / "configs" / "cory" / "tiny.yaml"
    config = parse(Config, [f"--config={path}", "--out=x", f"--algorithm={algorithm}"])
    assert config.kl_kind == ("k1" if config.kl_place == "reward" else "k3") and config.kl_coef == 0.3


GPT2 = dict(model_type="gpt2", n_embd=1280, n_layer=36, n_head=20, n_positions=1024, vocab_size=50257)
SHAPES = {"imdb_paper": GPT2, "imdb_code_parity": GPT2 | dict(n_embd=768, n_layer=12, n_head=12),
          "gsm8k_paper": dict(model_type="llama", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                              num_attention_heads=32, max_position_embeddings=4096, vocab_size=32000,
                              tie_word_embeddings=False)}
# Trained parameters of an agent, by hand: all weights of GPT-2, or LoRA on q and v; and the value head.
TRAINED = {"imdb_paper": 774_030_080 + 1281, "imdb_code_parity": 124_439_808 + 769,
           "gsm8k_paper": 32 * 2 * 16 * 2 * 4096 + 4097}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_recipes_of_the_papers_size_compile_on_shapes(name, shared, tmp_path, capsys):
    shutil.copytree(shared / "tokenizers" / ("mistral_v1" if name.startswith("gsm8k") else "gpt2"), tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(SHAPES[name]))
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": f"What is {i} + 3?", "answer": f"#### {i + 3}",
                                        "text": f"{i} stars for a film with a fine story and a good cast"}) + "\n"
                            for i in range(2)))
    assert main(["rl", "--config", str(ROOT / "configs" / "cory" / f"{name}.yaml"), "--model", str(tmp_path / "model"),
                 "--data.path", str(data), "--dry_run=true", "--out", str(tmp_path / "out"),
                 *(["--device.params=bfloat16"] if name == "gsm8k_paper" else [])]) == 0
    out = capsys.readouterr().out
    assert f"trained               {TRAINED[name]:,} parameters of an agent" in out
    assert ("reward model          not counted" in out) == name.startswith("imdb")  # the classifier is on the Hub
