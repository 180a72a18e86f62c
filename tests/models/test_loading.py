"""Loading of weights from files to devices: layer by layer or at once, sharded, quantized, from 8-bit floats."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file

from jaxllm.errors import UserError
from jaxllm.models import load_model, loading, save_model
from jaxllm.models.quantized import quantize_params
from jaxllm.models.tensors import INDEX
from scripts import family_fixtures
from tests.networks import LLAMA, random_params
from tests.processes import run_file

HERE = Path(__file__).parent


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def wide():
    """A network with matrices that divide into groups for 4 bits."""
    spec = dataclasses.replace(LLAMA, width=64, head_dim=16, mlp_width=128)
    return spec, random_params(spec, seed=3)


# Fused projections, experts, and several layer types.
@pytest.mark.parametrize("family", ["phi-3_longrope_long", "mixtral", "qwen3-moe", "gpt-neox", "bert", "gemma-3"])
def test_loading_layer_by_layer_equals_loading_at_once(monkeypatch, tmp_path, family):
    fixture = json.loads((HERE / f"families/{family}.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fixture["config"]))
    save_file(family_fixtures.weights(fixture["shapes"]), tmp_path / "model.safetensors")
    _, at_once = load_model(tmp_path)
    monkeypatch.setattr(loading, "GATHERED_BYTES", 0)
    assert_equal(load_model(tmp_path)[1], at_once)


@pytest.mark.parametrize("limit", [2**25, 0])
@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_quantizing_while_loading_equals_quantizing_afterwards(monkeypatch, wide, tmp_path, limit, scheme):
    spec, params = wide
    save_model(tmp_path / "model", spec, params)
    monkeypatch.setattr(loading, "GATHERED_BYTES", limit)
    assert_equal(load_model(tmp_path / "model", scheme=scheme)[1], quantize_params(params, scheme))


@pytest.mark.parametrize("stored, loaded", [(jnp.bfloat16, jnp.float32), (jnp.float16, jnp.bfloat16),
                                            (jnp.float32, jnp.bfloat16)])
def test_stored_and_loaded_dtypes(wide, tmp_path, stored, loaded):
    spec, params = wide
    params = jax.tree.map(lambda leaf: leaf.astype(stored), params)
    save_model(tmp_path / "model", spec, params)
    assert loading.stored_dtype(tmp_path / "model") == jnp.dtype(stored).name
    assert_equal(load_model(tmp_path / "model", loaded)[1], jax.tree.map(lambda leaf: leaf.astype(loaded), params))


@pytest.mark.slow
def test_weights_arrive_sharded(wide, tmp_path):
    """Eight virtual devices in a process of their own; from both layouts."""
    spec, params = wide
    folders = [save_model(tmp_path / layout, spec, params, layout=layout) for layout in ("hf", "orbax")]
    done = run_file(HERE / "load_devices.py", *folders, devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all equal"


@pytest.fixture
def eight_bits(wide, tmp_path):
    """(directory, exact weights, stored tensors): matrices of layers in 8 bits with a factor per block of 16 rows and
    48 columns. Released 8-bit checkpoints have larger blocks."""
    spec, params = wide
    folder = save_model(tmp_path / "model", spec, params)
    tensors, exact = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if "_proj" in name]:
        value = tensors[name]
        rows, columns = -(-value.shape[0] // 16), -(-value.shape[1] // 48)
        factors = np.random.default_rng(0).uniform(0.5, 2.0, (rows, columns)).astype(np.float32)
        grown = np.repeat(np.repeat(factors, 16, 0), 48, 1)[:value.shape[0], :value.shape[1]]
        codes = (value / grown).astype(ml_dtypes.float8_e4m3fn)
        tensors[name], tensors[f"{name}_scale_inv"] = codes, factors
        exact[name] = codes.astype(np.float32) * grown
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 48]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, exact, tensors


def test_8_bit_weights(eight_bits, wide):
    folder, exact, _ = eight_bits
    _, params = load_model(folder, jnp.float32)
    for theirs, ours in (("self_attn.q_proj", ("attn", "q")), ("mlp.down_proj", ("mlp", "down"))):
        for i in range(LLAMA.layers):
            kernel = params["layers"][ours[0]][ours[1]]["kernel"][i]
            assert_array_equal(kernel, exact[f"model.layers.{i}.{theirs}.weight"].T)
    # 3 bits of mantissa
    assert_allclose(params["layers"]["mlp"]["up"]["kernel"], wide[1]["layers"]["mlp"]["up"]["kernel"], rtol=2**-4,
                    atol=1e-2)
    assert_equal(params["embed"], wide[1]["embed"])


def test_factors_in_8_bits(eight_bits):
    """Powers of two, of which the exponent is stored; the library's numpy interface writes no such type."""
    folder, _, tensors = eight_bits
    codes = {name: np.full(tensor.shape, 129, np.uint8) for name, tensor in tensors.items() if "_scale_inv" in name}
    save_file(tensors | codes, folder / "model.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = data[8:size].replace(b'"U8"', b'"F8_E8M0"')
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[size:])
    kernel = load_model(folder, jnp.float32)[1]["layers"]["mlp"]["up"]["kernel"][0]
    assert_array_equal(kernel, 4 * tensors["model.layers.0.mlp.up_proj.weight"].astype(np.float32).T)


def test_factors_of_an_unsupported_type(eight_bits):
    folder, _, tensors = eight_bits
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    save_file(tensors | {name: np.ones(tensors[name].shape, np.int32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"tensor '{name}' has type I32"):
        load_model(folder)


def test_factors_that_do_not_fit(eight_bits):
    folder, *_ = eight_bits
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [32, 48]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"_scale_inv' of shape .* does not fit .* in blocks of \[32, 48\]"):
        load_model(folder)


def test_8_bit_weights_without_factors(eight_bits):
    folder, _, tensors = eight_bits
    del tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="up_proj.weight_scale_inv'. are missing"):
        load_model(folder)


def test_a_tensor_in_two_files(wide, tmp_path):
    folder = save_model(tmp_path / "model", *wide, max_shard_bytes=100_000)
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    save_file(load_file(second) | {"model.norm.weight": np.zeros(64, np.float32)}, second)
    save_file(load_file(first) | {"model.norm.weight": np.ones(64, np.float32)}, first)
    with pytest.raises(UserError, match="'model.norm.weight' is also in"):
        load_model(folder)


def test_a_value_head_next_to_a_language_model(wide, tmp_path):
    """A value head left over from reinforcement learning is ignored: the class name is that of a language model."""
    spec, params = wide
    folder = save_model(tmp_path / "model", spec, params)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"v_head.summary.weight": np.zeros((1, 64), np.float32)}, folder / "model.safetensors")
    loaded_spec, again = load_model(folder)
    assert loaded_spec == spec
    assert_equal(again, params)


def test_old_names_of_norms(tmp_path):
    fixture = json.loads((HERE / "families/bert.json").read_text())
    for name, old in (("new", False), ("old", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(fixture["config"]))
        spelled = lambda key, old=old: key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta") if old else key
        tensors = family_fixtures.weights(fixture["shapes"])
        save_file({spelled(key): value for key, value in tensors.items()}, tmp_path / name / "model.safetensors")
    assert_equal(load_model(tmp_path / "old")[1], load_model(tmp_path / "new")[1])


def test_a_file_that_lost_a_tensor(wide, tmp_path):
    spec, params = wide
    folder = save_model(tmp_path / "model", spec, params, max_shard_bytes=100_000)
    file = folder / json.loads((folder / INDEX).read_text())["weight_map"]["model.norm.weight"]
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match="the index lists 'model.norm.weight' for it, which is not in it"):
        load_model(folder)
