"""Low-rank adapters."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.errors import UserError
from jaxllm.models import (
    Adapter,
    LoraConfig,
    adapter_axes,
    init_adapter,
    layers,
    merge_adapter,
    stack_layers,
    sum_adapters,
    unstack_layers,
)
from jaxllm.models import forward as plain_forward
from jaxllm.models.adapters import _add_low_rank_in_place
from jaxllm.models.layers import row_dropout
from jaxllm.models.peft import adapter_folders, load_adapter, load_adapters, save_adapter
from tests.networks import forward, random_adapter, random_tokens

EVERYTHING = ("q", "k", "v", "o", "up", "gate", "down")


@pytest.fixture(params=["llama", "gpt2"])
def network(request):
    return request.getfixturevalue(request.param)


def adapter_of(spec, rank=4, targets=EVERYTHING):
    return random_adapter(spec, LoraConfig(rank=rank, alpha=6.0, targets=targets), 0.3)


def save_with(path, spec, **settings):
    """Saves an adapter, and changes settings in its adapter_config.json."""
    config = save_adapter(path, spec, adapter_of(spec, targets=("q",))) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


def change(adapter, module, name):
    """Computes the change of a kernel by the adapter, in float64."""
    factors = {key: np.asarray(value, np.float64) for key, value in adapter.params["layers"][module][name].items()}
    return adapter.scale * factors["a"] @ factors["b"]


def test_a_fresh_adapter_changes_nothing(network):
    spec, params = network
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig())
    tokens = random_tokens(2, 8)
    assert np.array_equal(forward(spec, params, tokens, adapter=adapter).hidden, forward(spec, params, tokens).hidden)


def test_merged_weights_equal_the_adapter(network):
    spec, params = network
    adapter, tokens = adapter_of(spec), random_tokens(2, 8)
    next_to_base = forward(spec, params, tokens, adapter=adapter).hidden
    assert float(jnp.abs(next_to_base - forward(spec, params, tokens).hidden).max()) > 0.1
    assert_allclose(forward(spec, merge_adapter(params, adapter), tokens).hidden, next_to_base, atol=2e-5)


LAYOUTS = {"stacked": lambda params: params, "unstacked": unstack_layers}


@pytest.mark.parametrize("base", LAYOUTS)
@pytest.mark.parametrize("low_rank", LAYOUTS)
def test_base_and_adapter_in_any_layout(llama, base, low_rank):
    spec, params = llama
    adapter, tokens = adapter_of(spec), random_tokens(2, 8)
    mixed = Adapter(LAYOUTS[low_rank](adapter.params), adapter.scale)
    assert_allclose(forward(spec, LAYOUTS[base](params), tokens, adapter=mixed).hidden,
                    forward(spec, params, tokens, adapter=adapter).hidden, atol=1e-5)
    merged = merge_adapter(LAYOUTS[base](params), mixed)
    assert isinstance(merged["layers"], tuple) == (base == "unstacked")
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-6), stack_layers(merged), merge_adapter(params, adapter))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_consuming_merge_frees_the_adapted_kernels(llama, layout):
    """Live bytes do not grow, the other leaves are shared, and the values are those of a plain merge."""
    spec, params = llama
    adapter, mine = adapter_of(spec, targets=("q", "down")), LAYOUTS[layout](jax.tree.map(jnp.copy, params))
    wanted = merge_adapter(LAYOUTS[layout](params), adapter)
    merge_adapter(LAYOUTS[layout](jax.tree.map(jnp.copy, params)), adapter, donate=True)  # compiled, constants made
    before = sum(array.nbytes for array in jax.live_arrays())
    merged = merge_adapter(mine, adapter, donate=True)
    assert sum(array.nbytes for array in jax.live_arrays()) == before
    first = mine["layers"] if layout == "stacked" else mine["layers"][0]
    assert first["attn"]["q"]["kernel"].is_deleted() and not first["attn"]["k"]["kernel"].is_deleted()
    jax.tree.map(np.testing.assert_array_equal, merged, wanted)


def test_merging_needs_one_layer_of_one_kernel_in_float32():
    """Sizes as XLA plans them: a consumed stack of kernels is changed in place, layer by layer."""
    layers, width, rank = 24, 64, 2
    shape = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)
    sizes = _add_low_rank_in_place.lower(
        shape(layers, width, width), shape(layers, width, rank), shape(layers, rank, width), shape(),
        jnp.dtype("float32"), None).compile().memory_analysis()
    assert sizes.alias_size_in_bytes == layers * width * width * 4
    assert sizes.temp_size_in_bytes <= 3 * width * width * 4


def test_merging_rounds_once(llama):
    """A bfloat16 kernel becomes the rounding of the exact sum."""
    spec, params = llama
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    adapter = adapter_of(spec, targets=("q",))
    kernel = half["layers"]["attn"]["q"]["kernel"]
    exact = np.asarray(kernel, np.float64) + change(adapter, "attn", "q")
    merged = np.asarray(merge_adapter(half, adapter)["layers"]["attn"]["q"]["kernel"], np.float64)
    spacing = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
    assert np.all(np.abs(merged - exact) <= spacing / 2 * (1 + 1e-3))


DROPOUT_KEYS = jax.random.split(jax.random.key(3), 4)


def dropped(spec, params, tokens, adapter, keys, **options):
    return jax.jit(plain_forward, static_argnames=("spec", "remat"))(spec, params, tokens, adapter=adapter,
                                                                     dropout_keys=keys, **options).hidden


@pytest.mark.slow
def test_dropout_masks_belong_to_rows(llama):
    """Equal for scanned and unrolled layers, for a batch split in two, and with more padding; others without keys."""
    spec, params = llama
    adapter = dataclasses.replace(adapter_of(spec), dropout=0.4)
    tokens = random_tokens(4, 8)
    hidden = dropped(spec, params, tokens, adapter, DROPOUT_KEYS)
    plain = forward(spec, params, tokens, adapter=adapter).hidden
    assert float(jnp.abs(hidden - plain).max()) > 0.1
    halves = [dropped(spec, params, tokens[i:i + 2], adapter, DROPOUT_KEYS[i:i + 2]) for i in (0, 2)]
    assert_allclose(jnp.concatenate(halves), hidden, atol=5e-5)
    padded = dropped(spec, params, jnp.pad(tokens, ((0, 0), (0, 3))), adapter, DROPOUT_KEYS,
                     lengths=jnp.full(4, 8, jnp.int32))
    assert_allclose(padded[:, :8], hidden, atol=5e-5)
    assert_allclose(dropped(spec, unstack_layers(params), tokens, adapter, DROPOUT_KEYS), hidden, atol=5e-5)
    assert float(jnp.abs(dropped(spec, params, tokens, adapter, DROPOUT_KEYS[::-1]) - hidden).max()) > 0.1


def test_dropout_of_rate_zero_and_without_keys_is_none(llama):
    spec, params = llama
    adapter, tokens = adapter_of(spec), random_tokens(4, 8)
    plain = forward(spec, params, tokens, adapter=adapter).hidden
    with_rate = dataclasses.replace(adapter, dropout=0.4)
    assert np.array_equal(dropped(spec, params, tokens, adapter, DROPOUT_KEYS), plain)
    assert np.array_equal(dropped(spec, params, tokens, with_rate, None), plain)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_dropout_masks_are_drawn_again_under_remat(llama, layout):
    spec, params = llama
    adapter, tokens = dataclasses.replace(adapter_of(spec), dropout=0.4), random_tokens(4, 6)
    base = LAYOUTS[layout](params)

    def gradient(remat):
        def loss(low_rank):
            changed = dataclasses.replace(adapter, params=low_rank)
            return jnp.square(dropped(spec, base, tokens, changed, DROPOUT_KEYS, remat=remat)).sum()

        return jax.grad(loss)(adapter.params)

    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-3), gradient("none"), gradient("full"))


def test_dropout_keeps_the_expectation():
    """At rate 1/4 an entry is 0 or 4/3: mean 1, variance 1/3, over 40,000 draws; rows and positions differ."""
    x = jnp.ones((100, 20, 20))
    dropped_ones = np.asarray(row_dropout(x, jax.random.split(jax.random.key(0), 100), 0.25))
    assert set(np.unique(dropped_ones).tolist()) == {0.0, np.float32(4 / 3)}
    assert abs(dropped_ones.mean() - 1) < 5 * (1 / 3 / dropped_ones.size) ** 0.5
    assert len({row.tobytes() for row in dropped_ones}) == 100
    # Of 2,000 positions about 0.625**20 * 2000**2 / 2 = 166 share their mask of 20 entries with an earlier one.
    assert 1750 < len({position.tobytes() for position in dropped_ones.reshape(-1, 20)}) < 1950


def test_every_row_layer_and_projection_has_masks_of_its_own(llama, monkeypatch):
    """The keys that one forward pass draws with."""
    spec, params = llama
    adapter, tokens = dataclasses.replace(adapter_of(spec), dropout=0.5), random_tokens(4, 3)

    def keys_drawn(keys):
        drawn = []
        monkeypatch.setattr(layers, "row_dropout", lambda x, keys, rate: drawn.append(jax.random.key_data(keys)) or x)
        plain_forward(spec, unstack_layers(params), tokens, adapter=adapter, dropout_keys=keys)
        return jnp.concatenate(drawn)

    drawn = jax.jit(keys_drawn)(DROPOUT_KEYS).tolist()
    assert len(drawn) == len({tuple(key) for key in drawn}) == 4 * spec.layers * len(EVERYTHING)


def test_scale_by_hand():
    """One layer, one weight: kernel 1, a 2, b 3, alpha / rank = 4 / 2."""
    params = {"embed": jnp.ones((1, 1)), "layers": {"attn": {"q": {"kernel": jnp.ones((1, 1, 1))}}}}
    adapter = Adapter({"layers": {"attn": {"q": {"a": jnp.full((1, 1, 2), 2.0), "b": jnp.full((1, 2, 1), 3.0)}}}}, 2.0)
    assert float(merge_adapter(params, adapter)["layers"]["attn"]["q"]["kernel"][0, 0, 0]) == 1 + 2 * (2 * 3 + 2 * 3)


def test_axes_name_every_dimension(network):
    spec, _ = network
    adapter = adapter_of(spec)
    named = jax.tree.leaves(adapter_axes(adapter), is_leaf=lambda x: isinstance(x, tuple))
    assert [len(names) for names in named] == [leaf.ndim for leaf in jax.tree.leaves(adapter.params)]


@pytest.mark.parametrize("targets", [EVERYTHING, ("q", "v", "down")])
def test_saved_adapters_come_back(network, tmp_path, targets):
    spec, params = network
    adapter = adapter_of(spec, targets=targets)
    save_adapter(tmp_path / "adapter", spec, dataclasses.replace(adapter, dropout=0.25))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_dropout"] == 0.25
    back = load_adapter(tmp_path / "adapter", spec)
    assert back.params["layers"].keys() == adapter.params["layers"].keys()
    for module, projections in back.params["layers"].items():
        assert set(projections) >= set(adapter.params["layers"][module])
        for name in projections:
            # A fused checkpoint joins the factors of q, k and v: the change of each kernel must be the same, zero for
            # a projection that was not adapted.
            adapted = name in adapter.params["layers"][module]
            wanted = change(adapter, module, name) if adapted else 0.0
            assert_allclose(change(back, module, name), wanted, rtol=1e-12, atol=1e-12)


def test_adapters_are_summed_and_subtracted(network, tmp_path):
    """One adapter for two of other ranks, scales and targets; `sign=-1` subtracts one of them."""
    spec, params = network
    first, second = adapter_of(spec), adapter_of(spec, rank=2, targets=("q", "down"))
    second = Adapter(jax.tree.map(lambda x: 2 * x, second.params), 0.5)
    both = sum_adapters([first, second])
    for module, projections in first.params["layers"].items():
        for name in projections:
            of_two = change(second, module, name) if name in second.params["layers"].get(module, {}) else 0.0
            assert_allclose(change(both, module, name), change(first, module, name) + of_two, rtol=1e-6, atol=1e-7)
    in_turn, at_once = merge_adapter(merge_adapter(params, first), second), merge_adapter(params, both)
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=1e-6), in_turn, at_once)
    close = lambda x, y: assert_allclose(x, y, atol=1e-6)
    jax.tree.map(close, merge_adapter(at_once, second, sign=-1), merge_adapter(params, first))
    with pytest.raises(ValueError, match="no adapters"):
        sum_adapters([])

    save_adapter(tmp_path / "0001", spec, second, "base", {"model_fingerprint": "x"})
    save_adapter(tmp_path / "0000", spec, first, "base", {"model_fingerprint": "x"})
    shutil.copytree(tmp_path / "0000", tmp_path / ".0002.half-written")
    assert [folder.name for folder in adapter_folders(tmp_path)] == ["0000", "0001"]
    assert adapter_folders(tmp_path / "0001") == [tmp_path / "0001"] and not adapter_folders(tmp_path / "nowhere")
    jax.tree.map(close, merge_adapter(params, load_adapters(tmp_path, spec)), at_once)
    with pytest.raises(UserError, match="missing"):
        load_adapters(tmp_path / "nowhere", spec)
    (tmp_path / "0001" / "provenance.json").write_text('{"model_fingerprint": "y"}')
    with pytest.raises(UserError, match="different models"):
        load_adapters(tmp_path, spec)
    (tmp_path / "0001" / "provenance.json").unlink()
    with pytest.raises(UserError, match="0001 has no record of its base model"):
        load_adapters(tmp_path, spec)


def test_bad_adapters(llama, gpt2, tmp_path):
    spec, _ = llama
    save_adapter(tmp_path / "a", spec, adapter_of(spec))
    config = tmp_path / "a" / "adapter_config.json"
    with pytest.raises(UserError, match="no place"):
        load_adapter(tmp_path / "a", gpt2[0])
    with pytest.raises(UserError, match="missing"):
        load_adapter(tmp_path / "nowhere", spec)
    with pytest.raises(UserError, match="not empty"):
        save_adapter(tmp_path / "a", spec, adapter_of(spec))
    text = config.read_text()
    config.write_text(text.replace('"bias": "none"', '"bias": "all"'))
    with pytest.raises(UserError, match="'bias' = 'all'") as error:
        load_adapter(tmp_path / "a", spec)
    assert "merge_and_unload" in error.value.fix
    config.write_text(text.replace("LORA", "IA3"))
    with pytest.raises(UserError, match="IA3"):
        load_adapter(tmp_path / "a", spec)


@pytest.mark.parametrize("value", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initializations_that_leave_the_base_alone(llama, tmp_path, value):
    spec, _ = llama
    save_with(tmp_path / "a", spec, init_lora_weights=value)
    assert_allclose(load_adapter(tmp_path / "a", spec).scale, 6.0 / 4)


@pytest.mark.parametrize("value", ["olora", "OLoRA", "pissa", "pissa_niter_4", "pissa_niter_16", "corda", "loftq",
                                   "lora_ga"])
def test_initializations_that_changed_the_base_are_refused(llama, tmp_path, value):
    spec, _ = llama
    save_with(tmp_path / "a", spec, init_lora_weights=value)
    for load in (load_adapter, load_adapters):
        with pytest.raises(UserError, match=f"'init_lora_weights' = '{value}': .* changed the base") as error:
            load(tmp_path / "a", spec)
        assert "merge_and_unload" in error.value.fix and "path_initial_model_for_weight_conversion" in error.value.fix


@pytest.mark.parametrize(("key", "value"), [("init_lora_weights", "of_next_year"), ("init_lora_weights", 3),
                                            ("kasa_config", {"beta": 1.0}), ("arrow_config", {}),
                                            ("monteclora_config", {"samples": 4}), ("use_bdlora", {"blocks": 2})])
def test_settings_that_change_the_product_are_refused(llama, tmp_path, key, value):
    spec, _ = llama
    save_with(tmp_path / "a", spec, **{key: value})
    with pytest.raises(UserError, match=f"'{key}' = ") as error:
        load_adapter(tmp_path / "a", spec)
    assert error.value.fix


def test_lora_config_names_what_is_wrong():
    with pytest.raises(UserError, match="targets"):
        LoraConfig(targets=("q", "query"))
    with pytest.raises(UserError, match="rank"):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match="dropout"):
        LoraConfig(dropout=1.0)


def test_patterns_of_ranks_and_scales(llama, tmp_path):
    """PEFT's patterns are regular expressions on the full name, so one layer's module may have its own scale."""
    spec, _ = llama
    adapter = adapter_of(spec, targets=("q",))
    save_adapter(tmp_path / "a", spec, adapter)
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    plain = load_adapter(tmp_path / "a", spec)
    path.write_text(json.dumps(config | {"alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 12.0}}))
    changed = load_adapter(tmp_path / "a", spec)
    ratio = changed.params["layers"]["attn"]["q"]["b"] / plain.params["layers"]["attn"]["q"]["b"]
    assert_allclose(ratio[:, 0, 0], [1.0, 2.0, 1.0], rtol=1e-6)
    path.write_text(json.dumps(config | {"rank_pattern": {".*q_proj": 2}}))
    with pytest.raises(UserError, match="has rank 4, the configuration has 2"):
        load_adapter(tmp_path / "a", spec)


def test_targets_that_a_family_lacks(gpt2):
    with pytest.raises(UserError, match="gpt2 model has none of"):
        init_adapter(gpt2[0], jax.random.key(0), LoraConfig(targets=("gate",)))
