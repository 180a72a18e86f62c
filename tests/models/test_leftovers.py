"""Files that a checkpoint or an adapter has left from an earlier form."""

import dataclasses
import json

import numpy as np
import pytest

from jaxllm.errors import UserError
from jaxllm.models import LoraConfig, load_model, load_spec, save_model
from jaxllm.models.peft import load_adapter, save_adapter
from jaxllm.models.tensors import save_tensors
from tests.networks import random_adapter


@pytest.fixture
def described(llama, tmp_path):
    """A checkpoint with full weights, and a method of quantization in its config."""
    def make(**quantization):
        config = save_model(tmp_path / "model", *llama) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": quantization}))
        return config.parent

    return make


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_a_description_of_quantization_without_quantized_weights(llama, described, capsys, method):
    folder = described(quant_method=method, bits=4)
    spec, params = load_model(folder)
    assert spec == llama[0] and np.array_equal(params["embed"], llama[1]["embed"])
    load_spec(folder)
    assert capsys.readouterr().err.count(f"describes weights quantized by {method}, but they are full") == 1


def test_quantized_weights_and_methods_of_the_forward_pass_are_refused(described):
    with pytest.raises(UserError, match="the checkpoint is quantized"):
        load_spec(described(quant_method="bitnet", quantization_mode="online"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_quantized_weights_are_refused(described, dtype):
    folder = described(quant_method="bitsandbytes")
    save_tensors(folder / "model.safetensors", {"model.embed_tokens.weight": np.zeros((2, 2), np.float32),
                                                "model.layers.0.mlp.up_proj.weight": np.zeros((4, 1), dtype)})
    with pytest.raises(UserError, match="the checkpoint is quantized"):
        load_spec(folder)


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_an_early_description_names_no_method(llama, described, capsys, kind):
    spec, params = load_model(described(**{kind: True}))
    assert spec == llama[0] and np.array_equal(params["embed"], llama[1]["embed"])
    assert "weights quantized by bitsandbytes, but they are full" in capsys.readouterr().err


def test_an_adapter_in_place_of_a_model(llama, tmp_path):
    spec, _ = llama
    save_adapter(tmp_path / "a", spec, random_adapter(spec, LoraConfig(rank=2), 0.1), base="org/base")
    for read in (load_spec, load_model):
        with pytest.raises(UserError, match="there is an adapter in it, of the model 'org/base', and no") as error:
            read(tmp_path / "a")
        assert "--adapter" in error.value.fix
    with pytest.raises(UserError, match="the file is missing"):
        load_spec(tmp_path)


def test_a_directory_of_gguf_files_in_place_of_a_model(tmp_path):
    for name in ("model-Q4_K_M.gguf", "model-Q8_0.GGUF", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="there are GGUF files in it, and no config.json") as error:
        load_spec(tmp_path)
    assert f"{tmp_path}/model-Q4_K_M.gguf" in error.value.fix


def test_an_adapter_of_a_model_with_fewer_layers(llama, tmp_path):
    spec, _ = llama
    smaller = dataclasses.replace(spec, layers=spec.layers - 1)
    save_adapter(tmp_path / "a", smaller, random_adapter(smaller, LoraConfig(rank=2), 0.1))
    with pytest.raises(UserError, match="only some layers") as error:
        load_adapter(tmp_path / "a", spec)
    assert error.value.fix.startswith("use the base model that it was trained on")


def test_a_pickled_adapter(llama, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    (tmp_path / "adapter_model.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match="adapter_model.bin is not read, it can run code") as error:
        load_adapter(tmp_path, llama[0])
    assert "PeftModel.from_pretrained" in error.value.fix
