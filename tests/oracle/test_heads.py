"""Torch and PEFT as the oracle of new scoring heads: merged checkpoints and adapters, in both directions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from jaxllm.models import (  # noqa: E402
    LoraConfig,
    forward,
    load_model,
    merge_adapter,
    save_model,
    text_scores,
    with_score_head,
)
from jaxllm.models.peft import apply_head, load_adapters, save_adapter  # noqa: E402
from scripts.parity import LIMIT, relative  # noqa: E402
from scripts.parity_networks import networks, torch_model  # noqa: E402
from tests.networks import random_adapter  # noqa: E402

CLASSIFIER = transformers.AutoModelForSequenceClassification
PAD, END = 0, 2
# Texts of 9 and 5 tokens, with the end token inside and at the end.
TOKENS = np.random.default_rng(4).integers(3, 160, (2, 9))
TOKENS[0, 4] = TOKENS[0, 8] = TOKENS[1, 4] = END
TOKENS[1, 5:] = PAD
SEGMENTS = np.array([[1] * 9, [1] * 5 + [0] * 4])
DECODERS = ("llama 2, grouped heads", "llama 3, llama3 rope, tied", "mistral, window", "qwen2, window in upper layers",
            "qwen3", "gemma", "gemma 2", "gemma 3", "phi", "phi 3", "olmo 2", "smollm 3", "gpt-neox", "opt",
            "opt, norms outside, projected", "gpt2")


def our_scores(spec, params, adapter=None):
    hidden = forward(spec, params, jnp.asarray(TOKENS), segments=jnp.asarray(SEGMENTS), adapter=adapter).hidden
    return text_scores(spec, params, hidden, jnp.asarray(SEGMENTS), jnp.asarray(TOKENS))


def their_scores(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS), attention_mask=torch.tensor(SEGMENTS)).logits.numpy()


def language_model(name, folder):
    """Saves a language model of torch, with padding apart from the end token; returns its spec and parameters."""
    theirs = torch_model(networks()[name])
    theirs.config.pad_token_id = PAD
    theirs.save_pretrained(folder)
    spec, params = load_model(folder)
    return dataclasses.replace(spec, pad_id=PAD), params


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DECODERS)
def test_torch_reads_the_checkpoint(name, tmp_path):
    """All tensors have a place, no head is drawn, and the scores are ours."""
    spec, params = with_score_head(*language_model(name, tmp_path / "base"), 1)
    save_model(tmp_path / "model", spec, params)
    theirs, info = CLASSIFIER.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert theirs.config.num_labels == len(theirs.config.id2label) == 1
    assert type(theirs).__name__ == theirs.config.architectures[0]
    ours = our_scores(spec, params)
    assert ours.shape == (2, 1) and relative(ours, their_scores(theirs)) < LIMIT


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama 3, llama3 rope, tied", "gemma 3", "gpt2", "opt, norms outside, projected"])
def test_adapters_with_a_head_travel_both_ways(name, tmp_path):
    spec, params = language_model(name, tmp_path / "base")
    fresh = lambda: CLASSIFIER.from_pretrained(tmp_path / "base", num_labels=2)
    adapter = random_adapter(spec, LoraConfig(rank=4, alpha=6.0), std=0.1)
    scoring, weights = with_score_head(spec, params, 2, ("bad", "good"), seed=3)
    save_adapter(tmp_path / "ours", scoring, adapter, head=weights["score"])
    expected = our_scores(scoring, weights, adapter)
    assert relative(expected, their_scores(peft.PeftModel.from_pretrained(fresh(), tmp_path / "ours"))) < LIMIT
    back = apply_head(tmp_path / "ours", spec, params)
    assert back[0] == scoring
    assert relative(our_scores(*back, load_adapters(tmp_path / "ours", scoring)), expected) < LIMIT

    merged = merge_adapter(weights, adapter)
    save_model(tmp_path / "merged", scoring, merged)
    theirs = CLASSIFIER.from_pretrained(tmp_path / "merged")
    assert relative(expected, their_scores(theirs)) < LIMIT
    assert theirs.config.id2label == {0: "bad", 1: "good"}

    made = peft.get_peft_model(fresh(), peft.LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=5, init_lora_weights=False, target_modules="all-linear",
        exclude_modules=["project_in", "project_out"]))
    made.save_pretrained(tmp_path / "theirs")
    found, scored = apply_head(tmp_path / "theirs", spec, params)
    assert found.head.labels == 2
    assert relative(our_scores(found, scored, load_adapters(tmp_path / "theirs", found)), their_scores(made)) < LIMIT


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "deberta 3"])
def test_encoders_with_another_number_of_labels(name, tmp_path):
    torch_model(networks()[name]).save_pretrained(tmp_path / "model")
    spec, params = load_model(tmp_path / "model")
    scoring, weights = with_score_head(spec, params, 4)
    save_model(tmp_path / "new", scoring, weights)
    theirs, info = CLASSIFIER.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and theirs.config.num_labels == 4
    assert relative(our_scores(scoring, weights), their_scores(theirs)) < LIMIT

    fresh = lambda: CLASSIFIER.from_pretrained(tmp_path / "model", num_labels=4, ignore_mismatched_sizes=True)
    adapter = random_adapter(spec, LoraConfig(rank=2, targets=("q", "v", "up")), std=0.1)
    changed = jax.tree.map(lambda leaf: leaf + 0.1, weights["score"])
    save_adapter(tmp_path / "ours", scoring, adapter, head=changed)
    expected = our_scores(scoring, weights | {"score": changed}, adapter)
    assert relative(expected, their_scores(peft.PeftModel.from_pretrained(fresh(), tmp_path / "ours"))) < LIMIT
    back = apply_head(tmp_path / "ours", spec, params)
    assert relative(our_scores(*back, load_adapters(tmp_path / "ours", scoring)), expected) < LIMIT

    linears = {"distilbert": ["q_lin", "v_lin"], "deberta 3": ["query_proj", "value_proj"]}
    made = peft.get_peft_model(fresh(), peft.LoraConfig(
        task_type="SEQ_CLS", r=3, init_lora_weights=False, target_modules=linears.get(name, ["query", "value"])))
    made.save_pretrained(tmp_path / "theirs")
    found, scored = apply_head(tmp_path / "theirs", spec, params)
    assert relative(our_scores(found, scored, load_adapters(tmp_path / "theirs", found)), their_scores(made)) < LIMIT
