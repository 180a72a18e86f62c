"""Quantized weights: codes and scales worked out by hand, and how far a weight may move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from jaxllm.ops import Quantized, matmul, quantize
from jaxllm.ops.quantize import NF4, group_size

SCHEMES = ("int8", "int4", "nf4")
# The level of each code, in units of its scale.
LEVELS = {"int8": np.arange(-127, 128.0), "int4": np.arange(-7, 8.0), "nf4": NF4.astype(np.float64)}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_int8_by_hand():
    """Columns with a largest magnitude of 127 (scale 1), 0, and 254 (scale 2); halves go to the even code."""
    weight = jnp.array([[127.0, 0.0, -254.0], [-3.0, 0.0, 127.0], [1.4, 0.0, 1.0], [-1.6, 0.0, 3.0]])
    quantized = quantize(weight, "int8")
    assert quantized.codes.tolist() == [[127, 0, -127], [-3, 0, 64], [1, 0, 0], [-2, 0, 2]]
    assert quantized.scales.tolist() == [[1.0, 0.0, 2.0]]
    assert quantized.codes.dtype == jnp.int8 and quantized.scales.dtype == jnp.float32
    assert quantized.dequantize().tolist() == [
        [127.0, 0.0, -254.0], [-3.0, 0.0, 128.0], [1.0, 0.0, 0.0], [-2.0, 0.0, 4.0]]


def test_int4_by_hand():
    """48 rows are three groups of 16: of scale 1, of half that, and of zeros."""
    group = [7, -7, 1, -1, 2, -2, 3, -3, 0.4, -0.6, 4, 5, 6, -4, -5, -6]
    weight = jnp.array([*group, *(0.5 * x for x in group), *[0.0] * 16])[:, None]
    quantized = quantize(weight, "int4")
    # two codes a byte, the even row's in the lower half; -1 is 15, -7 is 9
    packed = [0x97, 0xF1, 0xE2, 0xD3, 0xF0, 0x54, 0xC6, 0xAB]
    assert quantized.codes[:, 0].tolist() == [*packed, *packed, *[0] * 8]
    assert quantized.scales.tolist() == [[1.0], [0.5], [0.0]]
    assert quantized.codes.dtype == jnp.uint8 and quantized.scales.dtype == jnp.bfloat16
    rounded = [7, -7, 1, -1, 2, -2, 3, -3, 0, -1, 4, 5, 6, -4, -5, -6]
    assert quantized.dequantize()[:, 0].tolist() == [*rounded, *(0.5 * x for x in rounded), *[0.0] * 16]


def test_nf4_by_hand():
    """Twice the table itself has scale 2 and the codes 0 to 15; a step towards a neighbor's half changes no code."""
    column = 2 * NF4
    nearer = column + 0.9 * (np.append(np.diff(NF4), 0.0))  # 0.45 of the way to the next level
    quantized = quantize(jnp.asarray(np.stack([column, nearer, np.zeros(16)], 1), jnp.float32), "nf4")
    assert quantized.codes[:, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert quantized.codes[:, 1].tolist() == quantized.codes[:, 0].tolist()
    assert quantized.codes[:, 2].tolist() == [0x77] * 8  # level 7 is zero
    assert quantized.scales.tolist() == [[2.0, 2.0, 0.0]]
    assert_array_equal(quantized.dequantize(), np.stack([column, column, np.zeros(16)], 1))


def test_the_table_of_nf4_is_that_of_the_paper():
    """2305.14314: quantiles of the normal distribution at equal steps of probability, scaled to end at 1.

    The published table was computed in float32; the rounding of the steps moves a quantile by up to 1.1e-7.
    """
    offset = 0.9677083
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    table = np.sort(np.concatenate([negative, [0.0], positive]))
    assert_allclose(NF4, table / table.max(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-20, 20), heavy=st.booleans())
def test_every_code_is_the_nearest(scheme, seed, exponent, heavy):
    """No other code of the group comes closer to a weight, so none moves by more than half the widest step.

    The largest weight of a group may be beyond the last level, since a scale in bfloat16 is up to one part in 256
    too small: that is less than half a step in every scheme.
    """
    weight = np.asarray(draw(64, 3, seed=seed), np.float64) * 2.0**exponent
    weight = (weight**3 if heavy else weight).astype(np.float32)
    quantized = quantize(jnp.asarray(weight), scheme)
    scales, levels = np.asarray(quantized.scales, np.float64), LEVELS[scheme]
    error = np.abs(np.asarray(quantized.dequantize(), np.float64) - weight)
    nearest = np.abs(weight[..., None] - scales[..., None] * levels).min(-1)
    # the quotient that is rounded and the product that comes back are float32: a few parts in 2^24 of the weight
    slack = 2.0**-22 * np.abs(weight).max(0)
    assert np.all(error <= nearest + slack)
    assert np.all(error <= scales * np.diff(levels).max() / 2 + slack)
    exact = np.abs(weight).max(0) / levels.max()
    assert_allclose(scales[0], exact, rtol=2.0**-23 if scheme == "int8" else 2.0**-8)


def test_bounds_by_scheme():
    """On normal weights the root mean square error falls with the bits, and nf4 beats int4 at the same four."""
    weight = draw(256, 64)
    error = {scheme: float(jnp.sqrt(jnp.square(quantize(weight, scheme).dequantize() - weight).mean()))
             for scheme in SCHEMES}
    # Uniform rounding has an error of scale / sqrt(12); the largest magnitude of 256 and of 64 normal draws is 3.07
    # and 2.63 (root mean square).
    assert_allclose(error["int8"], 3.07 / 127 / 12**0.5, rtol=0.02)
    assert_allclose(error["int4"], 2.63 / 7 / 12**0.5, rtol=0.02)
    assert error["int8"] < error["nf4"] < 0.9 * error["int4"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros(scheme):
    weight = draw(64, 4).at[:, 1].set(0.0)
    back = quantize(weight, scheme).dequantize()
    assert_array_equal(back[:, 1], np.zeros(64))
    assert bool(jnp.all(jnp.isfinite(back)))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_leading_axes_are_a_loop(scheme, batch):
    weight = draw(*batch, 48, 5)
    whole = quantize(weight, scheme)
    assert whole.shape == weight.shape
    for index in np.ndindex(batch):
        matrix = quantize(weight[index], scheme)
        assert_array_equal(whole.codes[index], matrix.codes)
        assert_array_equal(whole.scales[index], matrix.scales)
        assert_array_equal(whole.dequantize()[index], matrix.dequantize())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled_codes_are_the_same(scheme):
    weight = draw(128, 33)
    plain, compiled = quantize(weight, scheme), jax.jit(quantize, static_argnums=1)(weight, scheme)
    assert_array_equal(plain.codes, compiled.codes)
    assert_array_equal(plain.scales, compiled.scales)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantizing_twice_changes_nothing(scheme):
    """Dequantized values are quantized to the same values."""
    once = quantize(draw(64, 5), scheme)
    twice = quantize(once.dequantize(), scheme)
    assert_array_equal(twice.dequantize(), once.dequantize())


def test_groups():
    sizes = {64: 64, 4096: 64, 96: 32, 32: 32, 48: 16, 16: 16, 8: None, 40: None, 1000: None, 7: None}
    assert {rows: group_size(rows) for rows in sizes} == sizes
    for scheme in ("int4", "nf4"):
        with pytest.raises(ValueError, match=f"40 rows cannot be cut into groups of 16 to 64 for {scheme}"):
            quantize(draw(40, 3), scheme)
    assert quantize(draw(7, 3), "int8").scales.shape == (1, 3)
    with pytest.raises(AssertionError):
        quantize(jnp.ones((16, 2), jnp.int32), "int8")


@pytest.mark.parametrize("scheme, nbytes, bits", [
    ("int8", 3 * (128 * 10 + 10 * 4), 8 + 32 / 128), ("int4", 3 * (64 * 10 + 2 * 10 * 2), 4.25),
    ("nf4", 3 * (64 * 10 + 2 * 10 * 2), 4.25)])
def test_sizes(scheme, nbytes, bits):
    quantized = quantize(draw(3, 128, 10), scheme)
    assert quantized.shape == (3, 128, 10) and quantized.nbytes == nbytes
    assert 8 * quantized.nbytes / (3 * 128 * 10) == bits
    assert jax.eval_shape(lambda: quantize(draw(3, 128, 10), scheme)).shape == (3, 128, 10)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_matmul_is_that_of_the_dequantized_kernel(scheme, dtype):
    kernel, x = quantize(draw(64, 9), scheme), draw(2, 5, 64, seed=1).astype(dtype)
    full = kernel.dequantize(dtype)
    assert_array_equal(full, kernel.dequantize(jnp.float32).astype(dtype))  # rounded once
    assert_array_equal(matmul(x, kernel), matmul(x, full))
    compiled = jax.jit(matmul)
    assert_array_equal(compiled(x, kernel), compiled(x, full))
    wide = matmul(x, kernel, jnp.float32)
    assert wide.dtype == jnp.float32
    assert_array_equal(wide, matmul(x, full, jnp.float32))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_gradient_of_a_product(scheme):
    """d sum(c * (x @ w)) / dx = c @ w^T."""
    kernel, x, weights = quantize(draw(32, 9), scheme), draw(4, 32, seed=1), draw(4, 9, seed=2)
    gradient = jax.jit(jax.grad(lambda x, kernel: (weights * matmul(x, kernel)).sum()))(x, kernel)
    full = np.asarray(kernel.dequantize(), np.float64)
    assert_allclose(gradient, np.asarray(weights, np.float64) @ full.T, rtol=1e-5, atol=1e-5)


def test_it_is_a_tree_of_two_arrays():
    quantized = quantize(draw(2, 16, 3), "int4")
    codes, scales = jax.tree.leaves(quantized)
    assert codes.shape == (2, 8, 3) and scales.shape == (2, 1, 3)
    layer = jax.tree.map(lambda leaf: leaf[1], quantized)
    assert isinstance(layer, Quantized) and layer.shape == (16, 3) and layer.scheme == "int4"
    assert_array_equal(layer.dequantize(), quantized.dequantize()[1])
