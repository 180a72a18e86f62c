"""Adapters with a scoring head: PEFT's files, and what is refused."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from jaxllm.errors import UserError
from jaxllm.models import Head, LoraConfig, sum_adapters, with_score_head
from jaxllm.models.peft import adapter_head, apply_head, load_adapter, load_adapters, save_adapter
from jaxllm.models.spec import Encoder
from tests.networks import GPT2, LLAMA, random_adapter, random_params

BERT = dataclasses.replace(GPT2, family="bert", norms="outside", final_norm=False, activation="gelu",
                           encoder=Encoder(token_types=2), head=Head(2, "first", True, "tanh", name="classifier"))
KEY = "base_model.model.score.weight"


def saved(folder, base, labels=1, names=()):
    """Saves an adapter with a new head; returns the adapter, the scoring spec and its parameters."""
    adapter = random_adapter(base, LoraConfig(rank=2), std=0.1)
    spec, params = with_score_head(base, random_params(base, seed=4), labels, names)
    save_adapter(folder, spec, adapter, head=params["score"])
    return adapter, spec, params


def rewrite(folder, change):
    """Changes the tensors of a saved adapter."""
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize("base", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_head_comes_back_on_a_language_model(base, tmp_path):
    adapter, spec, params = saved(tmp_path / "a", base, 3, ("no", "so so", "yes"))
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"] == ["score"]
    assert "score" not in config["target_modules"]
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert tensors[KEY].shape == (3, base.width) and tensors[KEY].dtype == np.float32
    assert [name for name in tensors if "score" in name] == [KEY]
    back, scoring = apply_head(tmp_path / "a", base, random_params(base, seed=4))
    assert back == spec
    jax.tree.map(assert_array_equal, scoring, params)
    once, twice = load_adapters(tmp_path / "a", back), load_adapter(tmp_path / "a", spec)
    jax.tree.map(assert_array_equal, once.params, twice.params)
    assert once.scale == adapter.scale


def test_a_new_head_replaces_that_of_the_base(tmp_path):
    _, spec, params = saved(tmp_path / "a", LLAMA, 2, ("bad", "good"))
    base, weights = with_score_head(LLAMA, random_params(LLAMA, seed=4), 1, seed=7)
    back, scoring = apply_head(tmp_path / "a", base, weights)
    assert back == spec
    assert_array_equal(scoring["score"]["out"]["kernel"], params["score"]["out"]["kernel"])


def test_the_hidden_layer_of_an_encoder_may_be_the_bases(tmp_path):
    """PEFT saves the classifier alone, and its pooler stays that of the base; here both are trained and saved."""
    _, spec, params = saved(tmp_path / "a", BERT, 3)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    base = random_params(BERT, seed=5)
    back, scoring = apply_head(tmp_path / "a", BERT, base)
    assert back == spec
    jax.tree.map(assert_array_equal, scoring["score"], params["score"])
    rewrite(tmp_path / "a", lambda tensors: {name: t for name, t in tensors.items() if "pooler" not in name})
    _, scoring = apply_head(tmp_path / "a", BERT, base)
    assert_array_equal(scoring["score"]["hidden"]["kernel"], base["score"]["hidden"]["kernel"])
    assert_array_equal(scoring["score"]["out"]["kernel"], params["score"]["out"]["kernel"])


@pytest.mark.parametrize("ranks", [{"down": 2}, {"q": 4, "o": 4, "down": 2}, {"q": 2, "o": 2, "down": 2}])
def test_targets_of_an_encoder_do_not_match_other_modules(tmp_path, ranks):
    """The name of its `down`, output.dense, is the end of that of `o`."""
    adapter = sum_adapters([random_adapter(BERT, LoraConfig(rank=rank, targets=(name,)), std=0.1)
                            for name, rank in ranks.items()])
    save_adapter(tmp_path / "a", BERT, adapter)
    jax.tree.map(assert_array_equal, load_adapter(tmp_path / "a", BERT).params, adapter.params)
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert isinstance(targets, list) == (set(ranks.values()) == {2} and "o" in ranks)
    names = {"q": "attention.self.query", "o": "attention.output.dense", "down": "output.dense"}
    for name, module in names.items():  # as PEFT matches them
        key = f"bert.encoder.layer.1.{module}"
        found = any(key.endswith(f".{t}") for t in targets) if isinstance(targets, list) else re.fullmatch(targets, key)
        assert bool(found) == (name in ranks)


def test_files_that_peft_wrote_have_no_names(tmp_path):
    """The padding token is then that of the base, as torch loads it."""
    saved(tmp_path / "a", LLAMA, 2, ("bad", "good"))
    (tmp_path / "a" / "score_head.json").unlink()
    base = dataclasses.replace(LLAMA, pad_id=2)
    spec, _ = adapter_head(tmp_path / "a", base)
    assert spec == dataclasses.replace(base, head=Head(2, "last", before_padding=True))


def test_an_adapter_without_a_head_changes_nothing(tmp_path):
    save_adapter(tmp_path / "a", LLAMA, random_adapter(LLAMA, LoraConfig(rank=2), std=0.1))
    params = random_params(LLAMA, seed=0)
    assert apply_head(tmp_path / "a", LLAMA, params) == (LLAMA, params)
    assert not (tmp_path / "a" / "score_head.json").exists()


@pytest.mark.parametrize("change", [
    lambda tensors: {name: t for name, t in tensors.items() if name != KEY},
    lambda tensors: {name.replace("score.weight", "score.modules_to_save.default.weight"): t
                     for name, t in tensors.items()},
], ids=["lost", "renamed"])
def test_a_missing_head_is_an_error(tmp_path, change):
    saved(tmp_path / "a", LLAMA)
    rewrite(tmp_path / "a", change)
    for base in (LLAMA, with_score_head(LLAMA, random_params(LLAMA, seed=0), 1)[0]):
        with pytest.raises(UserError, match=f"scoring head is missing: there is no tensor '{KEY}'"):
            adapter_head(tmp_path / "a", base)


def test_a_head_that_does_not_fit(tmp_path):
    saved(tmp_path / "a", LLAMA)
    with pytest.raises(UserError, match=r"is \[32, 1\], the base model's is \[24, 1\]"):
        adapter_head(tmp_path / "a", dataclasses.replace(LLAMA, width=24))
    (tmp_path / "a" / "score_head.json").write_text('{"label_names": ["x", "y"], "pad_token_id": null}')
    with pytest.raises(UserError, match="does not describe a head of 1 labels"):
        adapter_head(tmp_path / "a", LLAMA)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_other_modules_that_were_trained_whole(tmp_path, module):
    """They are no scoring head, whichever job reads them, and the way out is PEFT's."""
    config = save_adapter(tmp_path / "a", LLAMA, random_adapter(LLAMA, LoraConfig(rank=2), std=0.1))
    config = config / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"modules_to_save": [module]}))
    rewrite(tmp_path / "a", lambda tensors: tensors | {
        f"base_model.model.{module}.weight": np.zeros((4, 4), np.float32)})
    scoring = with_score_head(LLAMA, random_params(LLAMA, seed=0), 1)[0]
    for read, spec in ((adapter_head, LLAMA), (adapter_head, scoring), (load_adapter, LLAMA), (load_adapter, scoring)):
        with pytest.raises(UserError, match=rf"'modules_to_save' = \['{module}'\]: .* except for a") as error:
            read(tmp_path / "a", spec)
        assert "merge_and_unload" in error.value.fix


@pytest.mark.parametrize("task", ["TOKEN_CLS", "QUESTION_ANS"])
def test_a_head_with_labels_of_tokens_is_refused(tmp_path, task):
    """Its module has the name of the head that scores texts."""
    saved(tmp_path / "a", BERT, 3)
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {
        "task_type": task, "modules_to_save": ["classifier", "score"]}))
    for read in (adapter_head, load_adapter):
        with pytest.raises(UserError, match=f"'task_type' = '{task}'"):
            read(tmp_path / "a", BERT)


def test_a_head_is_never_dropped_silently(tmp_path):
    """A language model cannot use it, a sum of adapters has none, and other whole modules are refused."""
    adapter, spec, _ = saved(tmp_path / "several" / "a", LLAMA)
    with pytest.raises(UserError, match="use jaxllm score"):
        load_adapter(tmp_path / "several" / "a", LLAMA)
    save_adapter(tmp_path / "several" / "b", LLAMA, adapter)
    with pytest.raises(UserError, match="cannot be added to the others"):
        adapter_head(tmp_path / "several", LLAMA)
    rewrite(tmp_path / "several" / "a", lambda tensors: tensors | {"base_model.model.lm_head.weight": tensors[KEY]})
    with pytest.raises(UserError, match="no place in this llama model, for example 'base_model.model.lm_head.weight'"):
        load_adapter(tmp_path / "several" / "a", spec)
