"""GGUF files: every architecture against the same network in the hub's layout, damaged files, tokenizers."""

import dataclasses
import json
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from gguf import dequantize
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from jaxllm.checkpoint.inspect_job import inspect
from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.models import load_model, load_spec
from jaxllm.models.gguf.header import read_header
from jaxllm.models.loading import stored_dtype
from jaxllm.ops.quantize import Quantized
from jaxllm.text.tokenizer import load_tokenizer
from scripts.family_fixtures import weights
from tests.models.gguf_files import Q4_0, Q8_0, write_gguf

FIXTURES = Path(__file__).parent / "families"
CASES = {"llama-2_grouped-heads": "llama", "llama_biases_linear-rope": "llama", "llama_yarn-rope": "llama",
         "mistral_window": "llama", "mixtral": "llama", "qwen2_window-in-upper-layers": "qwen2", "qwen3": "qwen3",
         "qwen3-moe": "qwen3moe", "gemma": "gemma", "gemma-2": "gemma2", "gemma-3": "gemma3", "phi": "phi2",
         "phi-3": "phi3", "gpt2": "gpt2", "gpt-neox": "gptneox", "gpt-neox_not-parallel": "gptneox",
         "olmo-2": "olmo2", "granite": "granite", "smollm-3": "smollm3"}
# Settings that a GGUF file cannot hold: the value that llama.cpp takes.
FIXED = {"qwen2": {"use_sliding_window": False, "layer_types": None}, "qwen3moe": {"norm_topk_prob": True},
         "gemma2": {"query_pre_attn_scalar": 24}, "gemma3": {"query_pre_attn_scalar": 24}}
ALPHABET = [*"abcdefgh", "Ġ", "1", "2"]
TOKENS = [*ALPHABET, "ab", "Ġa", "Ġab", "<|end|>", "<think>", "cafe"]


def hub(name):
    """Config and tensors of a fixture."""
    fixture = json.loads((FIXTURES / f"{name}.json").read_text())
    config, tensors = fixture["config"] | FIXED.get(CASES.get(name), {}), weights(fixture["shapes"])
    if name == "phi":  # llama.cpp knows no norms of queries and keys in this architecture
        config, tensors = config | {"qk_layernorm": False}, {
            name: tensor for name, tensor in tensors.items() if "self_attn" not in name or "layernorm" not in name}
    return config, tensors


def directory(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def llama(tmp_path):
    """`llama(**arguments of write_gguf)`: a small Llama file."""
    config, tensors = hub("llama-2_grouped-heads")
    return lambda **arguments: write_gguf(tmp_path / "model.gguf", "llama", config, tensors, **arguments)


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_the_network_that_was_converted(name, tmp_path):
    config, tensors = hub(name)
    spec, params = load_model(directory(tmp_path / "hub", config, tensors))
    file = write_gguf(tmp_path / "model.gguf", CASES[name], config, tensors)
    read_spec, read_params = load_model(file)
    ids = {"bos_id": None, "eos_ids": (), "pad_id": None}
    # Numbers in metadata have 32 bits.
    same = lambda value: dataclasses.asdict(jax.tree.map(
        lambda number: float(np.float32(number)) if isinstance(number, float) else number, value))
    assert same(read_spec) == same(dataclasses.replace(spec, **ids))
    assert jax.tree.structure(read_params) == jax.tree.structure(params)
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(read_params), jax.tree.leaves(params),
                                    strict=True):
        # 1 + weight, as Gemma's norms are stored, is rounded.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7 if spec.norm_offset else 0, err_msg=str(path))


@pytest.mark.parametrize(("name", "keys", "wanted"), [
    ("gemma-2", ("attn_logit_softcapping", "final_logit_softcapping"),
     {"attention_softcap": 50.0, "logit_softcap": 30.0}),
    ("gemma-3", ("attn_logit_softcapping", "final_logit_softcapping"),
     {"attention_softcap": None, "logit_softcap": None}),
    ("granite", ("attention_multiplier",), {"attention_scale": 16**-0.5})])
def test_a_key_that_is_missing_has_the_value_that_llama_cpp_takes(name, keys, wanted, tmp_path):
    config, tensors = hub(name)
    spec = load_spec(write_gguf(tmp_path / "model.gguf", CASES[name], config | dict.fromkeys(keys), tensors))
    assert {field: getattr(spec, field) for field in wanted} == wanted


def test_rotary_factors_in_tensors(tmp_path):
    config, tensors = hub("llama-3_llama3-rope_tied")
    rope = load_spec(directory(tmp_path / "hub", config, tensors)).rope
    assert rope.kind == "llama3"
    settings = config.get("rope_scaling") or config["rope_parameters"]
    low, high, original = settings["low_freq_factor"], settings["high_freq_factor"], 8192
    wavelengths = 2 * np.pi * rope.theta ** (np.arange(0, 24, 2) / 24)
    blend = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    factors = (1 / ((1 - blend) / rope.factor + blend)).astype(np.float32)
    write = lambda file, values: load_spec(write_gguf(
        tmp_path / file, "llama", config | {"rope_scaling": None, "rope_parameters": None, "rope_theta": rope.theta},
        tensors, more_tensors={"rope_freqs.weight": values})).rope
    assert write("a.gguf", factors) == dataclasses.replace(rope, original_positions=original)
    other = write("b.gguf", np.linspace(1, 3, 12, dtype=np.float32))
    assert other.kind == "longrope" and other.short_factors == other.long_factors and other.magnitude == 1
    np.testing.assert_allclose(other.short_factors, np.linspace(1, 3, 12), rtol=1e-6)


def test_long_rope(tmp_path):
    config, tensors = hub("phi-3_longrope_long")
    spec = load_spec(directory(tmp_path / "hub", config, tensors))
    file = write_gguf(tmp_path / "model.gguf", "phi3", config, tensors, extra={
        "phi3.rope.scaling.attn_factor": float(spec.rope.magnitude)}, more_tensors={
        f"rope_factors_{length}.weight": np.array(getattr(spec.rope, f"{length}_factors"), np.float32)
        for length in ("short", "long")})
    read = load_spec(file).rope
    assert (read.kind, read.original_positions) == ("longrope", spec.rope.original_positions)
    for name in ("short_factors", "long_factors", "magnitude"):
        np.testing.assert_allclose(getattr(read, name), getattr(spec.rope, name), rtol=1e-6)


@pytest.mark.parametrize("block", [Q8_0, Q4_0])
def test_blocks_are_dequantized(llama, block):
    file = llama(block=block)
    info = read_header(file).tensors["blk.1.ffn_up.weight"]
    data = np.frombuffer(file.read_bytes(), np.uint8, info.nbytes, info.start)
    wanted = dequantize(data.reshape(info.shape[0], -1), block)
    _, params = load_model(file)
    assert stored_dtype(file) == "float32"
    assert_array_equal(params["layers"]["mlp"]["up"]["kernel"][1], wanted.T)


def test_matrices_are_quantized_while_they_are_loaded(llama):
    _, params = load_model(llama(block=Q4_0), scheme="nf4")
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    assert isinstance(kernel, Quantized) and kernel.codes.dtype == np.uint8


def test_blocks_are_dequantized_to_the_dtype_of_the_parameters(llama):
    file = llama(block=Q8_0)
    whole, half = (load_model(file, dtype)[1]["layers"]["attn"] for dtype in ("float32", "bfloat16"))
    assert_array_equal(half["q"]["kernel"], whole["q"]["kernel"].astype("bfloat16"))


def test_half_precision_stays(tmp_path):
    config, tensors = hub("llama-2_grouped-heads")
    half = {name: tensor.astype(np.float16) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    file = write_gguf(tmp_path / "model.gguf", "llama", config, half)
    assert stored_dtype(file) == "float16"
    assert load_model(file)[1]["layers"]["attn"]["q"]["kernel"].dtype == np.float16


def tokenizer_keys(**changes):
    """Keys of a byte-level vocabulary."""
    keys = {"model": "gpt2", "pre": "qwen2", "tokens": TOKENS, "merges": ["a b", "Ġ a", "Ġ ab", "Ġa b"],
            "token_type": [1] * (len(TOKENS) - 3) + [3, 4, 1], "eos_token_id": TOKENS.index("<|end|>")} | changes
    return {f"tokenizer.ggml.{name}": value for name, value in keys.items()} | {
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"}


def test_a_converted_checkpoint_has_weights_config_and_tokenizer(llama, tmp_path, capsys):
    file, out = llama(extra=tokenizer_keys()), tmp_path / "converted"
    tokenizer = load_tokenizer(file)
    ids = [TOKENS.index(token) for token in ("ab", "Ġab", "<think>", "1", "2")]
    assert tokenizer.encode("ab ab<think>12") == ids and tokenizer.decode(ids) == "ab ab<think>12"
    assert tokenizer.eos_id == TOKENS.index("<|end|>") and tokenizer.stop_ids == (tokenizer.eos_id,)
    assert tokenizer.chat([{"role": "user", "content": "ab"}])[-1] == tokenizer.eos_id
    assert "<|end|>" not in tokenizer.decode(tokenizer.encode("<|end|>")) or tokenizer.encode("<|end|>") != [
        tokenizer.eos_id]
    assert main(["convert", "--model", str(file), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json",
                                                     "tokenizer_config.json", "chat_template.jinja"}
    converted = load_tokenizer(out)
    assert converted.encode("ab ab<think>12") == ids and converted.stop_ids == tokenizer.stop_ids
    assert load_spec(out) == load_spec(file)
    for ours, theirs in zip(*(jax.tree.leaves(load_model(path)[1]) for path in (file, out)), strict=True):
        assert_array_equal(ours, theirs)
    summary = inspect(str(file))
    assert summary["supported"] and summary["layout"] == "gguf" and summary["weights"]["formats"] == {"F32": 30}


def test_named_chat_templates_travel(llama, tmp_path):
    extra = tokenizer_keys() | {"tokenizer.chat_template.tool_use": "tools", "tokenizer.chat_template.../up": "outside"}
    file, out = llama(extra=extra), tmp_path / "converted"
    assert load_tokenizer(file).stop_ids
    assert main(["convert", "--model", str(file), "--out", str(out)]) == 0
    assert [path.name for path in (out / "additional_chat_templates").iterdir()] == ["tool_use.jinja"]
    assert (out / "additional_chat_templates/tool_use.jinja").read_text() == "tools" and load_tokenizer(out).stop_ids


def test_sentencepiece(llama):
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "<0xC3>", "<0xA9>", "\u2581", "h", "i", "hi", "\u2581h", "\u2581hi"]
    keys = {"model": "llama", "tokens": tokens, "token_type": [2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1],
            "scores": [0.0] * 6 + [-9.0, -8.0, -7.0, -1.0, -2.0, -3.0], "bos_token_id": 1, "eos_token_id": 2}
    tokenizer = load_tokenizer(llama(extra={f"tokenizer.ggml.{name}": value for name, value in keys.items()}))
    assert tokenizer.adds_bos and (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    # h + i has the better score, so it is made before a space + h.
    assert tokenizer.encode("hi h") == [11, 10] and tokenizer.decode([11, 10]) == "hi h"
    assert tokenizer.encode("é") == [6, 4, 5] and tokenizer.decode([6, 4, 5]) == "é"


@pytest.mark.parametrize(("change", "message"), [
    ({"pre": "unheard-of"}, "the way to split text 'unheard-of'"), ({"model": "bert"}, "a vocabulary of type 'bert'"),
    ({"tokens": [3, 4], "token_type": [1, 1]}, "its vocabulary is damaged"),
    ({"token_type": [1]}, "17 tokens and 1 types"), ({"merges": ["a  b"]}, "merges of its vocabulary")])
def test_vocabularies_that_are_refused(llama, change, message):
    with pytest.raises(UserError, match=message):
        load_tokenizer(llama(extra=tokenizer_keys(**change)))


@pytest.mark.parametrize(("extra", "message"), [
    ({"llama.attention.max_alibi_bias": 8.0}, "llama.attention.max_alibi_bias=8.0"),
    ({"llama.rope.scaling.yarn_ext_factor": 0.5}, "llama.rope.scaling.yarn_ext_factor=0.5"),
    ({"llama.rope.scaling.type": "spiral"}, "rotary positions of type 'spiral'"),
    ({"llama.rope.dimension_count": "many"}, "its metadata does not describe a network"),
    ({"split.count": 3}, "one part of a split GGUF file"),
    ({"llama.attention.causal": False}, "attention is bidirectional")])
def test_settings_that_are_refused(llama, extra, message):
    with pytest.raises(UserError, match=message):
        load_spec(llama(extra=extra))


def test_settings_that_are_computed_anyway(llama):
    extra = {"llama.rope.scaling.yarn_ext_factor": 1.0, "llama.rope.scaling.yarn_attn_factor": 1.0,
             "llama.expert_weights_norm": True}
    assert load_spec(llama(extra=extra)) == load_spec(llama())


def test_other_architectures_are_refused(tmp_path):
    config, tensors = hub("llama-2_grouped-heads")
    file = write_gguf(tmp_path / "model.gguf", "falcon", config, {})
    with pytest.raises(UserError, match="architecture 'falcon' of a GGUF file is not supported"):
        load_spec(file)


def test_a_tensor_without_parameter_is_named(llama):
    file = llama(more_tensors={"blk.0.attn_sinks.weight": np.ones(4, np.float32)})
    with pytest.raises(UserError, match="have no place .*blk.0.attn_sinks.weight"):
        load_model(file)


def test_damaged_files(llama, tmp_path):
    whole = llama().read_bytes()
    damaged = tmp_path / "damaged.gguf"
    for data, message in ((whole[:-4], "ends within the tensor"), (whole[:300], "ends within its header"),
                          (whole[:4] + struct.pack("<I", 9) + whole[8:], "version 9 is not supported"),
                          (whole[:24] + struct.pack("<Q", 2**62) + whole[32:], "ends within its header"),
                          (whole[:8] + struct.pack("<Q", 2**60) + whole[16:], "not a whole GGUF file")):
        damaged.write_bytes(data)
        with pytest.raises(UserError, match=message):
            load_spec(damaged)
    damaged.write_bytes(b"no")
    with pytest.raises(UserError, match="not a GGUF file"):
        load_spec(damaged)
