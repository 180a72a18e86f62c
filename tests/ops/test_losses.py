"""Masked sums and the losses built on them."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from jaxllm.ops import Unembedding, cross_entropy, masked_sum, matmul


def test_masked_sum_ignores_what_is_outside_even_infinities():
    total, weight = masked_sum(jnp.array([1.0, jnp.inf, jnp.nan, 2.0]), jnp.array([1.0, 0.0, 0.0, 0.5]))
    assert float(total) == 2.0 and float(weight) == 1.5


def test_masked_sum_of_nothing_is_zero():
    total, weight = masked_sum(jnp.array([1.0, 2.0]), jnp.zeros(2, bool))
    assert float(total) == 0.0 and float(weight) == 0.0


def test_cross_entropy_golden():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]]))
    total, weight = cross_entropy(logits, Unembedding(jnp.eye(3)), jnp.array([[0, 2, 1]]), jnp.array([[1, 1, 0]]))
    assert_allclose(total, -np.log(0.5) - np.log(0.8), rtol=1e-6)
    assert float(weight) == 2.0


def test_matmul_is_the_plain_product():
    draw = np.random.default_rng(0)
    x, kernel = draw.normal(size=(2, 3, 5)).astype("f"), draw.normal(size=(5, 4)).astype("f")
    assert_allclose(matmul(jnp.asarray(x), jnp.asarray(kernel)), x @ kernel, rtol=1e-5)


def test_bfloat16_products_round_once_and_multiply_bfloat16_in_both_directions():
    """Values and gradients are the nearest bfloat16 of the float32 products, and no operand is converted before."""
    draws = np.random.default_rng(0)
    x, kernel, slope = (jnp.asarray(draws.normal(size=size), jnp.bfloat16) for size in ((2, 3, 8), (8, 5), (2, 3, 5)))
    value, pull = jax.vjp(matmul, x, kernel)
    wide = lambda array: np.asarray(array.reshape(-1, array.shape[-1]), np.float32)
    for ours, wanted in zip((value, *pull(slope)), (wide(x) @ wide(kernel), wide(slope) @ wide(kernel).T,
                                                    wide(x).T @ wide(slope)), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert_allclose(wide(ours), np.asarray(jnp.asarray(wanted, jnp.bfloat16), np.float32), rtol=2**-8)
    lowered = jax.jit(lambda *operands: jax.vjp(matmul, *operands[:2])[1](operands[2])).lower(x, kernel, slope)
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert products and all("xf32>, tensor" not in line.partition(":")[2].partition("->")[0] for line in products)
