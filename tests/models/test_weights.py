"""Round trips of checkpoints, and errors of damaged ones."""

import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGUFWriter
from numpy.testing import assert_allclose
from safetensors.numpy import save_file

from jaxllm.devices import DeviceConfig
from jaxllm.errors import StorageError, UserError
from jaxllm.models import compute_logits, load_model, load_spec, save_model
from jaxllm.models.families import read_config
from jaxllm.models.rope import inverse_frequencies
from jaxllm.models.tensors import fingerprint
from tests.networks import forward


@pytest.fixture(params=["llama", "gpt2"])
def network(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def checkpoint(llama, tmp_path):
    spec, params = llama
    return save_model(tmp_path / "model", spec, params)


def edit(checkpoint, **changes):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


@pytest.mark.parametrize("shard", [5 * 2**30, 20_000])
def test_round_trip_is_exact(network, tmp_path, shard):
    spec, params = network
    save_model(tmp_path / "model", spec, params, max_shard_bytes=shard)
    assert (tmp_path / "model" / "model.safetensors.index.json").exists() == (shard == 20_000)
    again_spec, again = load_model(tmp_path / "model")
    assert again_spec == spec
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True))


def test_bfloat16_round_trip(llama, tmp_path):
    spec, params = llama
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    save_model(tmp_path / "model", spec, half)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    _, again = load_model(tmp_path / "model", jnp.bfloat16)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(half), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("layout", ["hf", "orbax"])
def test_weights_load_in_the_stored_dtype(llama, tmp_path, dtype, layout):
    """Bit for bit and without a copy in another dtype; a named dtype and float32 for training override it."""
    spec, params = llama
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    save_model(tmp_path / "model", spec, stored, layout=layout)
    _, again = load_model(tmp_path / "model", DeviceConfig().param_dtype)
    jax.tree.map(np.testing.assert_array_equal, again, stored)
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {jnp.dtype(dtype)}
    for wanted in (DeviceConfig(params="bfloat16").param_dtype, DeviceConfig().trained_dtype):
        assert {leaf.dtype for leaf in jax.tree.leaves(load_model(tmp_path / "model", wanted)[1])} == {wanted}


def test_real_checkpoint_reproduces_its_reference(stories, shared):
    reference = json.loads((shared / "models/stories260k/reference.json").read_text())
    for case in reference["cases"]:
        prompt = case["prompt_ids"]
        ids = jnp.asarray([prompt + case["greedy_ids"]])
        scores = compute_logits(stories.spec, stories.params, forward(stories.spec, stories.params, ids).hidden)[0]
        assert np.asarray(scores[len(prompt) - 1:-1].argmax(-1)).tolist() == case["greedy_ids"]
        for top in case["last_prompt_logits_top5"]:
            index, value = top if isinstance(top, list) else (top["id"], top["logit"])
            assert_allclose(scores[len(prompt) - 1, index], value, atol=1e-4)


def test_prefixless_names_are_found(gpt2, tmp_path):
    """The original GPT-2 files have no `transformer.` in front, and hold the causal mask as a tensor."""
    from safetensors.numpy import load_file, save_file

    spec, params = gpt2
    path = save_model(tmp_path / "model", spec, params)
    tensors = {name.removeprefix("transformer."): value
               for name, value in load_file(path / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    save_file(tensors, path / "model.safetensors")
    _, again = load_model(path)
    assert np.array_equal(again["layers"]["mlp"]["up"]["kernel"], params["layers"]["mlp"]["up"]["kernel"])


def test_both_spellings_of_rope():
    base = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "hidden_act": "silu"}
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32}
    old = read_config(base | {"rope_theta": 5e5, "rope_scaling": scaling | {"rope_type": "llama3"}}, "old")
    new = read_config(base | {"rope_parameters": scaling | {"rope_type": "llama3", "rope_theta": 5e5}}, "new")
    assert old == new and old.rope.kind == "llama3" and old.rope.theta == 5e5


def test_llama3_frequencies_by_hand():
    """Long wavelengths are divided by the factor, short ones unchanged, those between interpolated."""
    from jaxllm.models import Rope

    llama3 = dict(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    rope = Rope(10_000.0, original_positions=32, **llama3)
    plain, scaled = inverse_frequencies(Rope(10_000.0), 8), inverse_frequencies(rope, 8)
    wavelengths = 2 * np.pi / plain  # 6.28, 62.8, 628, 6283; unchanged below 8, divided above 32
    assert wavelengths[0] < 8 and wavelengths[1] > 32
    assert_allclose(scaled, [plain[0], plain[1] / 8, plain[2] / 8, plain[3] / 8])
    middle = inverse_frequencies(Rope(10_000.0, original_positions=150, **llama3), 8)[1]
    share = (150 / wavelengths[1] - 1) / 3
    assert_allclose(middle, share * plain[1] + (1 - share) * plain[1] / 8)


def test_missing_pieces(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no checkpoint directory"):
        load_model(tmp_path / "nowhere")
    (checkpoint / "model.safetensors").rename(tmp_path / "aside")
    with pytest.raises(UserError, match="no model.safetensors"):
        load_model(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="can run code"):
        load_model(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(UserError, match="config.json: the file is missing"):
        load_model(checkpoint)


def test_damaged_files(checkpoint):
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_model(checkpoint)
    file.write_bytes(b"not a checkpoint at all")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_model(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_model(checkpoint)


def test_index_that_names_a_missing_file(llama, tmp_path):
    spec, params = llama
    path = save_model(tmp_path / "model", spec, params, max_shard_bytes=20_000)
    sorted(path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match="00002-of.*: the file is missing"):
        load_model(path)


def test_wrong_shape_names_the_tensor(checkpoint):
    edit(checkpoint, intermediate_size=44)
    with pytest.raises(UserError, match=r"gate_proj.weight' has shape \[48, 32\], config.json implies \[44, 32\]"):
        load_model(checkpoint)


def test_missing_and_unknown_tensors(checkpoint):
    edit(checkpoint, num_hidden_layers=4)
    with pytest.raises(UserError, match="9 tensors are missing: model.layers.3"):
        load_model(checkpoint)
    edit(checkpoint, num_hidden_layers=2)
    with pytest.raises(UserError, match="9 tensors have no place"):
        load_model(checkpoint)


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "mamba"}, "architecture 'mamba' is not supported"),
    ({"sliding_window": 128}, "sliding_window=128"),
    ({"hidden_act": "swiglu_oai"}, "activation 'swiglu_oai'"),
    ({"rope_scaling": {"rope_type": "spiral", "factor": 4.0}}, "type 'spiral'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "lack"),
    ({"hidden_size": "absent"}, "'hidden_size' must be int"),
    ({"num_key_value_heads": 3}, "multiple of kv_heads"),
    ({"num_attention_heads": 0}, "does not describe a network"),
    ({"rms_norm_eps": "1e-5"}, "norm_eps must be a positive number"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor must be a positive number"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ({"model_type": ["llama"]}, "architecture"),
    ({"quantization_config": {"bits": 4}}, "quantized"),
])
def test_unsupported_configurations(checkpoint, change, message):
    edit(checkpoint, **change)
    with pytest.raises(UserError, match=message):
        load_spec(checkpoint)


def test_harmless_keys_are_no_errors(checkpoint):
    edit(checkpoint, transformers_version="4.40", use_cache=True, attention_dropout=0.1, something_new=None)
    assert load_spec(checkpoint).layers == 3


def test_tied_head_that_differs(gpt2, tmp_path):
    from safetensors.numpy import load_file, save_file

    spec, params = gpt2
    path = save_model(tmp_path / "model", spec, params)
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()
    save_file(tensors, path / "model.safetensors")
    load_model(path)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(UserError, match="lm_head.weight differs"):
        load_model(path)


def test_nothing_is_overwritten(llama, checkpoint):
    spec, params = llama
    before = (checkpoint / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="not overwritten"):
        save_model(checkpoint, spec, params)
    assert (checkpoint / "model.safetensors").read_bytes() == before


def test_full_disk_leaves_nothing(llama, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    spec, params = llama
    with pytest.raises(StorageError, match="No space left"):
        save_model(tmp_path / "model", spec, params)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [2.5, "</s>", [2, "x"], True])
def test_end_tokens_are_numbers(checkpoint, value):
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(UserError, match="generation_config.json: 'eos_token_id' must be a number"):
        load_spec(checkpoint)


@pytest.mark.parametrize(("value", "ids"), [([2, 5], (2, 5)), (5, (5,)), ([7, 5, 7], (7, 5)), (None, (2,)), ([], (2,))])
def test_end_tokens_of_the_generation_config_replace_those_of_the_config(checkpoint, capsys, value, ids):
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert load_spec(checkpoint).eos_ids == load_spec(checkpoint).eos_ids == ids
    notice = "[2] of config.json ends nothing unless it is the tokenizer's"
    assert capsys.readouterr().err.count(notice) == (2 not in ids)
    shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """A checkpoint of 44 MB, its tensors, and a function that writes it with some of them replaced."""
    folder = tmp_path_factory.mktemp("large")
    tensors = {f"layers.{i}.{name}": np.full(shape, i, np.float32) for i in range(8)
               for name, shape in (("matrix", (1100, 1280)), ("norm", (320,)))}

    def write(**changed):
        save_file(tensors | changed, folder / "model.safetensors")
        return folder

    return write, tensors


def test_a_fingerprint_is_the_same_for_equal_checkpoints(large_file):
    write, _ = large_file
    assert fingerprint(write()) == fingerprint(write())


@pytest.mark.parametrize("name", ["layers.4.matrix", "layers.3.norm", "layers.7.norm"])
def test_a_fingerprint_changes_with_one_tensor_of_a_large_file(large_file, name):
    write, tensors = large_file
    before = fingerprint(write())
    assert fingerprint(write(**{name: tensors[name] + 0.5})) != before


def test_a_fingerprint_changes_with_two_megabytes_within_a_matrix(large_file):
    write, tensors = large_file
    before, matrix = fingerprint(write()), tensors["layers.5.matrix"].copy()
    matrix[500:910] += 1
    assert fingerprint(write(**{"layers.5.matrix": matrix})) != before


def test_a_fingerprint_changes_with_one_byte_of_a_file_of_32_mb(tmp_path):
    file = tmp_path / "model.bin"
    content = bytearray(2**25)
    file.write_bytes(content)
    before = fingerprint(tmp_path)
    content[2**24 + 12345] = 1
    file.write_bytes(content)
    assert fingerprint(tmp_path) != before


def test_a_fingerprint_changes_with_one_norm_of_a_large_gguf_file(tmp_path):
    def write(value):
        writer = GGUFWriter(tmp_path / "model.gguf", "llama")
        for i in range(4):
            writer.add_tensor(f"blk.{i}.ffn_up.weight", np.zeros((2200, 1280), np.float32))
            writer.add_tensor(f"blk.{i}.attn_norm.weight", np.full(320, value if i == 2 else 1, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return fingerprint(tmp_path / "model.gguf")

    assert write(1.0) == write(1.0) != write(1.5)


@pytest.mark.parametrize("start", [b"", b"GGUF", (2**40).to_bytes(8, "little"), (16).to_bytes(8, "little") + b"[1] ",
                                   (16).to_bytes(8, "little") + b'{"a": {}}'.ljust(16)])
def test_a_fingerprint_of_a_large_file_that_is_no_checkpoint(tmp_path, start):
    """It is sampled too, in little time."""
    file = tmp_path / "file"
    file.write_bytes(start)
    with open(file, "r+b") as opened:
        opened.truncate(2**31)
        began = time.monotonic()
        before = fingerprint(file)
        assert time.monotonic() - began < 5  # 0.1 s as a rule
        opened.seek(1000 * 2**20 - 4096)
        opened.write(b"x" * 2**20)
    assert fingerprint(file) != before
