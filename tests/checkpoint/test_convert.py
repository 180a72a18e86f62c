"""`jaxllm convert`: the output has the input's values, in the requested layout and dtype."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxllm.assets import asset_path
from jaxllm.cli import main
from jaxllm.models import LoraConfig, load_model, merge_adapter, save_model
from jaxllm.models.peft import load_adapter, save_adapter
from jaxllm.models.quantized import dequantize_params, quantize_params, scheme_of
from tests.checkpoint.converting import convert
from tests.networks import random_adapter


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture
def adapter(tiny, tmp_path):
    return save_adapter(tmp_path / "adapter", tiny[0], random_adapter(tiny[0], LoraConfig(rank=2), 0.05))


def test_both_layouts_hold_the_same(tiny, tmp_path, capsys):
    result = convert(tmp_path / "orbax", "--format", "orbax")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "orbax" / "result.json")
    assert (result["format"], result["dtype"], result["quantized"]) == ("orbax", "float32", None)
    assert result["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(tiny[1])) == result["bytes"] // 4
    convert(tmp_path / "back", model=tmp_path / "orbax")
    for path in (tmp_path / "orbax", tmp_path / "back"):
        spec, params = load_model(path)
        assert spec == tiny[0]
        assert_equal(params, tiny[1])
    original = asset_path("tiny")
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "back" / name).read_bytes() == (original / name).read_bytes()


def test_dtypes(tiny, tmp_path):
    result = convert(tmp_path / "half", "--dtype", "bfloat16")
    _, half = load_model(tmp_path / "half", jnp.bfloat16)
    assert_equal(half, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny[1]))
    assert result["bytes"] == 2 * result["parameters"]
    # Without --dtype the stored dtype stays.
    assert convert(tmp_path / "again", model=tmp_path / "half")["dtype"] == "bfloat16"


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
@pytest.mark.slow
def test_quantized_weights_travel_in_orbax(tiny, tmp_path, scheme):
    result = convert(tmp_path / "small", "--format", "orbax", "--quantize", scheme)
    _, params = load_model(tmp_path / "small")
    assert result["quantized"] == scheme == scheme_of(params)
    expected = quantize_params(tiny[1], scheme)
    assert_equal(params, expected)
    assert result["bytes"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params)) < 2 * result["parameters"]
    # The hf layout stores the dequantized values.
    back = convert(tmp_path / "full", model=tmp_path / "small")
    assert (back["quantized"], back["dequantized_from"]) == (None, scheme)
    assert_equal(load_model(tmp_path / "full")[1], dequantize_params(expected, jnp.float32))


@pytest.mark.slow
def test_a_merged_adapter(tiny, adapter, tmp_path):
    spec, params = tiny
    merged = merge_adapter(params, load_adapter(adapter, spec))
    convert(tmp_path / "merged", "--adapter", adapter, "--merge")
    assert_equal(load_model(tmp_path / "merged")[1], merged)
    convert(tmp_path / "small", "--adapter", adapter, "--merge", "--format", "orbax", "--quantize", "nf4")
    assert_equal(load_model(tmp_path / "small")[1], quantize_params(merged, "nf4"))


@pytest.mark.parametrize(("stored", "dtype"), [("float32", "bfloat16"), ("float16", "bfloat16"), ("mixed", None),
                                              ("bfloat16", "bfloat16"), ("int8", "bfloat16")])
def test_a_merged_weight_is_rounded_once(tiny, adapter, tmp_path, stored, dtype):
    """Merged kernels are the nearest values to the sum of the stored base and the product, in float64."""
    spec, params = tiny
    base = quantize_params(params, "int8") if stored == "int8" else jax.tree.map(
        lambda leaf: leaf.astype("bfloat16" if stored == "mixed" else stored), params)
    if stored == "mixed":  # most of the weights are bfloat16, an adapted kernel is not
        base["layers"]["mlp"]["down"]["kernel"] = params["layers"]["mlp"]["down"]["kernel"]
    save_model(tmp_path / "base", spec, base, "tiny", layout="orbax" if stored == "int8" else "hf")
    convert(tmp_path / "merged", "--adapter", adapter, "--merge", *(["--dtype", dtype] if dtype else []),
            model=tmp_path / "base")
    merged, full = load_model(tmp_path / "merged")[1], dequantize_params(base, jnp.float32)
    added = load_adapter(adapter, spec)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(merged)} == {"bfloat16"}
    for module, name in (("attn", "q"), ("mlp", "down")):
        factors = {key: np.asarray(part, np.float64) for key, part in added.params["layers"][module][name].items()}
        exact = np.asarray(full["layers"][module][name]["kernel"], np.float64) + added.scale * (
            factors["a"] @ factors["b"])
        ours = np.asarray(merged["layers"][module][name]["kernel"], np.float64)
        spacing = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
        assert np.mean(np.abs(ours - exact) > spacing / 2 * (1 + 1e-3)) < 1e-4


@pytest.mark.slow
def test_an_adapter_of_a_quantized_base(tiny, adapter, tmp_path):
    """An adapter trained on the quantized base is merged into the dequantized base."""
    spec, params = tiny
    convert(tmp_path / "base", "--format", "orbax", "--quantize", "int4")
    convert(tmp_path / "merged", "--adapter", adapter, "--merge", model=tmp_path / "base")
    rounded = dequantize_params(quantize_params(params, "int4"), jnp.float32)
    expected = merge_adapter(rounded, load_adapter(adapter, spec))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), load_model(tmp_path / "merged")[1], expected)
    # In the other layout as well, all in full; rounded again only with --quantize.
    result = convert(tmp_path / "native", "--adapter", adapter, "--merge", "--format", "orbax", model=tmp_path / "base")
    assert (result["quantized"], result["dequantized_from"]) == (None, "int4")
    assert_equal(load_model(tmp_path / "native")[1], load_model(tmp_path / "merged")[1])
    convert(tmp_path / "again", "--adapter", adapter, "--merge", "--format", "orbax", "--quantize", "int8",
            model=tmp_path / "base")
    assert scheme_of(load_model(tmp_path / "again")[1]) == "int8"


def test_a_partly_quantized_tree_is_not_written(tiny, tmp_path):
    spec, params = tiny
    mixed = quantize_params(params, "nf4")
    mixed["layers"]["attn"]["q"]["kernel"] = params["layers"]["attn"]["q"]["kernel"]
    with pytest.raises(ValueError, match="not all matrices are quantized as nf4"):
        save_model(tmp_path / "mixed", spec, mixed, layout="orbax")
    assert not list(tmp_path.iterdir())


def test_values_beyond_the_range_of_the_dtype(tiny, tmp_path, capsys):
    spec, params = tiny
    save_model(tmp_path / "large", spec, params | {"embed": params["embed"].at[3, 4].set(1e6)}, "tiny")
    assert main(["convert", "--model", str(tmp_path / "large"), "--out", str(tmp_path / "half"),
                 "--dtype", "float16"]) == 2
    assert "embed holds NaN or infinity in float16" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text().replace(
        '"num_hidden_layers": 4', '"num_hidden_layers": 3')), "is stored with shape"),
    (lambda folder: shutil.rmtree(folder / "orbax" / "d"), "cannot be read"),
    (lambda folder: (folder / "weights.json").write_text('{"dtype": "floatx"}'), "'floatx' are not known"),
    (lambda folder: shutil.rmtree(folder / "orbax"), "the folder with the weights is missing"),
])
def test_damaged_native_weights(tiny, tmp_path, capsys, damage, message):
    folder = save_model(tmp_path / "native", *tiny, "tiny", layout="orbax")
    damage(folder)
    assert main(["convert", "--model", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--quantize", "nf4"], "add --format orbax"),
    (["--merge"], "there is no adapter to merge"),
    (["--adapter", "x"], "add --merge"),
    (["--dtype", "float8"], "expected one of float32, bfloat16, float16"),
    (["--adapter", "nowhere", "--merge"], "adapter_config.json: the file is missing"),
])
def test_bad_arguments(tmp_path, capsys, arguments, message):
    assert main(["convert", "--model", "tiny", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_directory_is_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert main(["convert", "--model", "tiny", "--out", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err and [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]
