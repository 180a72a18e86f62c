"""Networks with quantized weights: which weights are quantized, and equality with the dequantized network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxllm.config import SamplingConfig
from jaxllm.generate import generate
from jaxllm.model import Model, load
from jaxllm.models import Adapter, LoraConfig, init_adapter, merge_adapter, unstack_layers
from jaxllm.models.quantized import dequantize_params, is_quantizable, quantize_params, scheme_of
from jaxllm.models.spec import Experts
from jaxllm.ops import Quantized, quantize
from scripts.quantized import adapter_losses
from tests.networks import LLAMA, forward, random_params, random_tokens

SCHEMES = ("int8", "int4", "nf4")
MIXTURE = dataclasses.replace(LLAMA, family="mixtral", layers=2, experts=Experts(count=4, chosen=2))
ATTENTION = {f"layers.attn.{name}.kernel" for name in "qkvo"}


@pytest.fixture(scope="module")
def mixture():
    return MIXTURE, random_params(MIXTURE, seed=2)


@pytest.fixture(scope="module")
def pairs(llama):
    """Scheme -> quantized parameters, and the same dequantized."""
    quantized = {scheme: quantize_params(llama[1], scheme) for scheme in SCHEMES}
    return {scheme: (params, dequantize_params(params, jnp.float32)) for scheme, params in quantized.items()}


def leaves(params):
    """Returns name -> leaf; a quantized kernel is one leaf."""
    flat = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
    return {".".join(key.key for key in path): leaf for path, leaf in flat}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("which, matrices", [
    ("llama", ATTENTION | {f"layers.mlp.{name}.kernel" for name in ("up", "gate", "down")}),
    ("gpt2", ATTENTION | {f"layers.mlp.{name}.kernel" for name in ("up", "down")}),
    pytest.param("mixture", ATTENTION | {f"layers.mlp.{name}" for name in ("up", "gate", "down")},
                 marks=pytest.mark.slow)])
def test_the_matrices_of_the_layers_and_nothing_else(request, which, matrices, scheme):
    _, params = request.getfixturevalue(which)
    full, quantized = leaves(params), leaves(quantize_params(params, scheme))
    assert quantized.keys() == full.keys()
    assert {name for name, leaf in quantized.items() if isinstance(leaf, Quantized)} == matrices
    for name, leaf in quantized.items():
        assert leaf.shape == full[name].shape
        if name in matrices:
            wanted = quantize(full[name], scheme)
            assert leaf.scheme == scheme
            assert_array_equal(leaf.codes, wanted.codes)
            assert_array_equal(leaf.scales, wanted.scales)
        else:
            assert leaf is full[name]


def test_matrices_without_a_group_size_stay_full():
    """A down projection of 40 rows is not cut into groups of 16; int8 needs none."""
    spec = dataclasses.replace(LLAMA, layers=1, mlp_width=40)
    params = random_params(spec, seed=3)
    mlp = {scheme: quantize_params(params, scheme)["layers"]["mlp"] for scheme in SCHEMES}
    assert isinstance(mlp["int8"]["down"]["kernel"], Quantized)
    for scheme in ("int4", "nf4"):
        assert mlp[scheme]["down"]["kernel"] is params["layers"]["mlp"]["down"]["kernel"]
        assert isinstance(mlp[scheme]["up"]["kernel"], Quantized)
    assert not is_quantizable(("layers", "attn", "q", "kernel"), (3, 32, 48), None)


def test_quantize_and_dequantize(llama, pairs):
    """The scheme is read off the tree; dequantized matrices are level times scale, in the requested dtype."""
    assert scheme_of(llama[1]) is None
    for scheme, (quantized, full) in pairs.items():
        assert scheme_of(quantized) == scheme and scheme_of(full) is None
        assert jax.tree.structure(full) == jax.tree.structure(llama[1])
        kernel = quantized["layers"]["attn"]["q"]["kernel"]
        assert_array_equal(full["layers"]["attn"]["q"]["kernel"], kernel.dequantize())
        assert full["embed"] is llama[1]["embed"]
        assert dequantize_params(quantized, jnp.bfloat16)["layers"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize("scheme", SCHEMES)
def test_forward_equals_that_of_the_dequantized_network(llama, pairs, scheme):
    """Scanned, unrolled and in bfloat16. Products are fused differently: one rounding, a few parts in 10^7."""
    (spec, params), (quantized, full) = llama, pairs[scheme]
    tokens = random_tokens(2, 9)
    wanted = forward(spec, full, tokens).hidden
    assert float(jnp.abs(wanted - forward(spec, params, tokens).hidden).max()) > 1e-2  # something was lost
    assert_allclose(forward(spec, quantized, tokens).hidden, wanted, atol=5e-6)
    assert_allclose(forward(spec, unstack_layers(quantized), tokens).hidden, wanted, atol=5e-6)
    half = forward(spec, quantized, tokens, dtype=jnp.bfloat16).hidden
    assert half.dtype == jnp.bfloat16
    # The same bfloat16 operands in both, so the same result.
    assert_array_equal(half, forward(spec, full, tokens, dtype=jnp.bfloat16).hidden)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.slow
def test_experts_equal_the_dequantized_ones(mixture, scheme):
    spec, params = mixture
    quantized, tokens = quantize_params(params, scheme), random_tokens(2, 9)
    full = dequantize_params(quantized, jnp.float32)
    assert_allclose(forward(spec, quantized, tokens).hidden, forward(spec, full, tokens).hidden, atol=5e-6)


class Silent:
    """A tokenizer stub for tests where only ids matter."""

    stop_ids = ()

    def decode(self, ids) -> str:
        return ""


@pytest.mark.slow
def test_decoding(llama, pairs):
    spec, (quantized, full) = llama[0], pairs["nf4"]
    prompts = [[1, *random_tokens(1, 5 + 4 * i, seed=i)[0].tolist()] for i in range(2)]
    made = [generate(Model(spec, params, Silent()), prompts, SamplingConfig(temperature=0.0, max_tokens=10))
            for params in (quantized, full)]
    assert [row[0].token_ids for row in made[0]] == [row[0].token_ids for row in made[1]]
    assert_allclose(*([row[0].logprob for row in rows] for rows in made), atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.slow
def test_gradients_of_an_adapter(llama, pairs, scheme):
    (spec, _), (quantized, full) = llama, pairs[scheme]
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2, alpha=4.0))
    shifted = jax.tree.map(lambda leaf: leaf + 0.1, adapter.params)
    tokens = random_tokens(2, 8)

    @jax.jit
    def gradient(params):
        run = lambda change: forward(spec, params, tokens, adapter=Adapter(change, adapter.scale), remat="full").hidden
        return jax.grad(lambda change: jnp.square(run(change)).sum())(shifted)

    for ours, wanted in zip(*(jax.tree.leaves(gradient(params)) for params in (quantized, full)), strict=True):
        assert float(jnp.abs(wanted).max()) > 0
        assert_allclose(ours, wanted, rtol=0, atol=1e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_merging_gives_full_kernels(llama, dtype):
    """Adapted kernels become full, in the dtype of the weights that are not quantized; the rest stays quantized."""
    spec, params = llama
    quantized = quantize_params(jax.tree.map(lambda leaf: leaf.astype(dtype), params), "int4")
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2, alpha=4.0, targets=("q", "down")))
    adapter = Adapter(jax.tree.map(lambda leaf: leaf + 0.1, adapter.params), adapter.scale)
    merged = merge_adapter(quantized, adapter)["layers"]
    for module, name in (("attn", "q"), ("mlp", "down")):
        factors = adapter.params["layers"][module][name]
        base = np.asarray(quantized["layers"][module][name]["kernel"].dequantize(), np.float64)
        wanted = base + 2.0 * np.asarray(factors["a"], np.float64) @ np.asarray(factors["b"], np.float64)
        kernel = merged[module][name]["kernel"]
        assert kernel.dtype == dtype
        # one rounding of the result: bfloat16 has 8 bits, float32 adds the rounding of the product
        assert_allclose(np.asarray(kernel, np.float64), wanted, rtol=2.0**-8 if dtype == jnp.bfloat16 else 1e-5,
                        atol=1e-6)
    assert isinstance(merged["attn"]["k"]["kernel"], Quantized)
    if dtype == jnp.float32:
        tokens = random_tokens(2, 7)
        assert_allclose(forward(spec, merge_adapter(quantized, adapter), tokens).hidden,
                        forward(spec, quantized, tokens, adapter=adapter).hidden, atol=2e-5)


@pytest.mark.long
def test_an_adapter_learns_on_quantized_weights_as_on_full_ones():
    """The losses that `scripts/quantized.py` reports, for one seed."""
    model = load("tiny")
    before, after = adapter_losses(model, model.params, steps=30, seeds=1)[0]
    assert after < 0.6 * before
    for scheme in SCHEMES:
        start, end = adapter_losses(model, quantize_params(model.params, scheme), steps=30, seeds=1)[0]
        assert_allclose(start, before, rtol=0.05)
        assert_allclose(end, after, rtol=0.05)  # the adapter learns, along with the texts, what rounding lost
