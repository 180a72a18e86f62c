"""`jaxllm inspect`: its output for supported and for unsupported checkpoints."""

import json
import shutil

import jax
import pytest

from jaxllm.assets import asset_path
from jaxllm.checkpoint.inspect_job import inspect
from jaxllm.checkpoint.sizes import cache_bytes, count_parameters, weight_bytes
from jaxllm.cli import main
from jaxllm.models.quantized import quantize_params
from tests.networks import GPT2, LLAMA, random_params


@pytest.fixture
def copy(tmp_path):
    """A copy of the packaged model to break, with some keys of its config changed."""
    def make(**changes):
        shutil.copytree(asset_path("tiny"), tmp_path / "model")
        path = tmp_path / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return tmp_path / "model"
    return make


def test_the_packaged_model(capsys):
    summary = inspect("tiny")
    assert summary["supported"] and summary["problems"] == []
    assert summary["parameters"]["total"] == 1_180_800 == sum(
        count for name, count in summary["parameters"].items() if name != "total")
    assert summary["bytes"]["float32"] == 4 * 1_180_800 and summary["bytes"]["bfloat16"] == 2 * 1_180_800
    assert summary["cache_bytes_per_token"] == 2 * 2 * 4 * 4 * 32  # keys and values, 2 bytes, layers, heads, head_dim
    assert summary["weights"]["dtype"] == "float32" and summary["weights"]["missing"] == []
    assert summary["tokenizer"]["tokens"] == 1280 and summary["tokenizer"]["chat_template"] is True
    assert summary["spec"]["rope"] == {"theta": 500.0}
    assert main(["inspect", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert main(["inspect", "tiny"]) == 0
    assert "1,180,800" in (text := capsys.readouterr().out) and text.splitlines()[-1].split() == ["supported", "yes"]


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["float32", "int8", "nf4"])
def test_sizes_are_those_of_the_arrays(spec, kind):
    params = random_params(spec, 0)
    assert count_parameters(spec)["total"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    if kind == "float32":
        assert weight_bytes(spec, kind) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        return
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params)
    assert weight_bytes(spec, kind) == sum(leaf.nbytes for leaf in jax.tree.leaves(quantize_params(half, kind)))
    assert cache_bytes(spec) == 4 * spec.layers * spec.kv_heads * spec.head_dim


@pytest.mark.parametrize(("changes", "problem"), [
    ({"model_type": "mamba"}, "architecture 'mamba' is not supported"),
    ({"hidden_act": "xielu"}, "activation 'xielu' is not supported"),
    ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "rotary positions of type 'proportional'"),
    ({"attn_logit_softcapping": 4.0}, "attn_logit_softcapping=4.0"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}}, "class 'XForCausalLM' is the repository's own"),
    ({"quantization_config": {"quant_method": "bitnet"}}, "the checkpoint is quantized"),
    ({"num_hidden_layers": 5}, "9 tensors are missing"),
    ({"num_hidden_layers": 3}, "9 tensors are unused"),
    ({"intermediate_size": 100}, "12 tensors are reshaped"),
])
def test_reasons_why_a_checkpoint_is_not_supported(copy, capsys, changes, problem):
    path = copy(**changes)
    summary = inspect(str(path))
    assert not summary["supported"] and any(problem in reason for reason in summary["problems"])
    assert main(["inspect", str(path)]) == 0  # the inspection itself succeeded
    assert problem in capsys.readouterr().out


def test_keys_that_are_passed_over_are_listed(copy, capsys):
    path = copy(tie_weights_=True, sentence_transformers={"version": "5.1.2"})
    assert inspect(str(path))["config_passed_over"] == {
        "sentence_transformers": '{"version": "5.1.2"}', "tie_weights_": "true"}
    assert main(["inspect", str(path)]) == 0
    assert ["tie_weights_", "true"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_damaged_file_and_a_missing_tokenizer(copy):
    path = copy()
    (path / "tokenizer.json").unlink()
    with open(path / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    problems = inspect(str(path))["problems"]
    for part in ("not a whole safetensors file", "tokenizer"):
        assert any(part in problem for problem in problems)


def test_no_checkpoint_at_all(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "config.json: the file is missing" in capsys.readouterr().err
    assert main(["inspect"]) == 2 and "required key missing: model" in capsys.readouterr().err
