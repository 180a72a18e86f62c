"""The decoder: its result does not depend on padding, batching, packing, caching or layout of the layers."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.models import Rope, compute_logits, init_cache, init_params, logical_axes, stack_layers, unstack_layers
from jaxllm.models.attention import self_attention_mask
from jaxllm.models.network import segment_positions
from tests.networks import LLAMA, forward, random_tokens
from tests.processes import run_file


def run(spec, params, tokens, **options):
    return compute_logits(spec, params, forward(spec, params, tokens, **options).hidden)


@pytest.fixture(params=["llama", "gpt2"])
def network(request):
    return request.getfixturevalue(request.param)


def test_scanned_and_unrolled_layers_agree(network):
    spec, params = network
    tokens = random_tokens(2, 12)
    assert_allclose(run(spec, params, tokens), run(spec, unstack_layers(params), tokens), atol=1e-5)


def test_stack_undoes_unstack(network):
    _, params = network
    again = stack_layers(unstack_layers(params))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True))


def test_layers_are_taken_apart_without_a_copy(network):
    _, params = network
    mine = jax.tree.map(jnp.copy, params)
    apart = unstack_layers(mine, donate=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(mine["layers"]))
    again = stack_layers(apart, donate=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(apart["layers"]))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True))


def test_cached_decoding_equals_the_full_forward(network):
    spec, params = network
    tokens, flat = random_tokens(2, 12), unstack_layers(params)
    cache, parts = init_cache(spec, 2, 16), []
    for start, stop in ((0, 5), (5, 6), (6, 9), (9, 12)):
        out = forward(spec, flat, tokens[:, start:stop], cache=cache)
        cache, parts = out.cache, [*parts, compute_logits(spec, params, out.hidden)]
    assert_allclose(jnp.concatenate(parts, 1), run(spec, params, tokens), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(network, side):
    spec, params = network
    tokens = random_tokens(2, 9)
    pad = (4, 0) if side == "left" else (0, 4)
    padded = jnp.pad(tokens, ((0, 0), pad), constant_values=7)
    segments = jnp.pad(jnp.ones_like(tokens), ((0, 0), pad))
    got = run(spec, params, padded, segments=segments)[:, pad[0]:pad[0] + 9]
    assert_allclose(got, run(spec, params, tokens), atol=1e-5)


def test_batch_neighbors_change_nothing(network):
    spec, params = network
    tokens = random_tokens(3, 9)
    assert_allclose(run(spec, params, tokens)[1:2], run(spec, params, tokens[1:2]), atol=1e-5)


def test_packed_texts_do_not_see_each_other(network):
    spec, params = network
    first, second = random_tokens(1, 5, seed=1), random_tokens(1, 7, seed=2)
    packed = jnp.concatenate([first, second], 1)
    segments = jnp.array([[1] * 5 + [2] * 7])
    got = run(spec, params, packed, segments=segments)
    assert_allclose(got[:, :5], run(spec, params, first), atol=1e-5)
    assert_allclose(got[:, 5:], run(spec, params, second), atol=1e-5)


def test_branches_share_a_prefix(llama):
    """Two continuations of one prefix in a row equal the two texts in rows of their own, in values and gradients."""
    spec, params = llama
    prefix, first, second, other = (random_tokens(1, length, seed=length) for length in (5, 3, 4, 6))
    row = jnp.concatenate([prefix, first, second, other], 1)
    packing = {"segments": [1] * 12 + [2] * 6, "branches": [0] * 5 + [1] * 3 + [2] * 4 + [0] * 6,
               "positions": [*range(5), 5, 6, 7, 5, 6, 7, 8, *range(6)]}
    packing = {name: jnp.array([values], jnp.int32) for name, values in packing.items()}
    texts = [jnp.concatenate([prefix, first], 1), jnp.concatenate([prefix, second], 1), other]
    rows = jnp.concatenate([jnp.pad(text, ((0, 0), (0, 9 - text.shape[1]))) for text in texts])
    lengths = jnp.arange(9) < jnp.array([[8], [9], [6]])
    weights = jax.random.normal(jax.random.key(0), (1, 18, spec.width))

    def packed(params):
        hidden = forward(spec, params, row, **packing).hidden
        return (weights * hidden).sum(), hidden

    def separate(params):
        states = forward(spec, params, rows, segments=lengths.astype(jnp.int32)).hidden
        hidden = jnp.concatenate([states[0, :8], states[1, 5:9], states[2, :6]])[None]
        return (weights * hidden).sum(), hidden

    (_, wanted), slopes = jax.jit(jax.value_and_grad(separate, has_aux=True))(params)
    (_, ours), packed_slopes = jax.jit(jax.value_and_grad(packed, has_aux=True))(params)
    assert_allclose(ours, wanted, atol=1e-5)
    assert_allclose(packed(unstack_layers(params))[1], wanted, atol=1e-5)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(b).max()))),
                 packed_slopes, slopes)


def test_branches_need_positions_and_no_cache(llama):
    spec, params = llama
    tokens, positions = random_tokens(1, 4), jnp.arange(4)[None]
    with pytest.raises(ValueError, match="positions"):
        forward(spec, params, tokens, branches=jnp.zeros_like(tokens))
    with pytest.raises(ValueError, match="cache"):
        forward(spec, unstack_layers(params), tokens, positions=positions, branches=jnp.zeros_like(tokens),
                cache=init_cache(spec, 1, 8))
    dynamic = dataclasses.replace(spec, rope=Rope(kind="dynamic", factor=2.0))
    with pytest.raises(ValueError, match="depend on the whole length"):
        forward(dynamic, params, tokens, positions=positions, branches=jnp.zeros_like(tokens))


@pytest.mark.parametrize("remat", ["full", "dots"])
@pytest.mark.slow
def test_remat_changes_no_gradient(llama, remat):
    spec, params = llama
    tokens = random_tokens(2, 8)
    loss = lambda params, remat: jnp.square(forward(spec, params, tokens, remat=remat).hidden).sum()
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = gradient(params, "none"), gradient(params, remat)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_remat_of_all_but_products_computes_each_product_once(llama, dtype):
    """Products of the compiled gradient: `dots` has those of `none`, `full` more; in bfloat16 on CPU too."""
    spec, params = llama
    tokens = random_tokens(2, 8)
    loss = lambda params, remat: forward(spec, params, tokens, dtype=dtype, remat=remat).hidden.sum()
    lowered = lambda remat: jax.jit(jax.grad(loss), static_argnums=1).lower(params, remat).as_text().splitlines()
    # Without batching dimensions, which attention's products have; those are computed again.
    products = {remat: sum("dot_general" in line and "batching_dims" not in line for line in lowered(remat))
                for remat in ("none", "dots", "full")}
    assert products["none"] == products["dots"] < products["full"], products


def test_no_leaf_of_init_is_weakly_typed():
    params = jax.eval_shape(lambda: init_params(LLAMA, jax.random.key(0)))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(params))
    half = jax.eval_shape(lambda: init_params(LLAMA, jax.random.key(0), jnp.bfloat16))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"bfloat16"}


def test_init_scales(llama):
    spec, _ = llama
    params = jax.jit(lambda key: init_params(spec, key))(jax.random.key(3))
    assert abs(float(jnp.std(params["embed"])) - 1.0) < 0.1
    assert abs(float(jnp.std(params["layers"]["mlp"]["down"]["kernel"])) * spec.mlp_width**0.5 - 1.0) < 0.1


def test_logical_axes_name_every_dimension(network):
    spec, params = network
    axes = logical_axes(spec)
    named = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    assert [len(names) for names in named] == [leaf.ndim for leaf in jax.tree.leaves(params)]
    assert axes["layers"]["attn"]["q"]["kernel"] == ("layers", "embed", "heads")


def test_segment_positions():
    segments = jnp.array([[0, 0, 1, 1, 1], [1, 1, 2, 2, 0]])
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 1, 0]]


def test_causal_mask_by_hand():
    mask = self_attention_mask(jnp.array([[1, 1, 2, 0]])).mask()[0]
    assert mask.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_cache_needs_unstacked_layers_and_no_positions(llama):
    spec, params = llama
    cache = init_cache(spec, 1, 8)
    with pytest.raises(ValueError, match="unstack"):
        forward(spec, params, random_tokens(1, 4), cache=cache)
    with pytest.raises(ValueError, match="positions"):
        forward(spec, unstack_layers(params), random_tokens(1, 4), positions=jnp.arange(4)[None], cache=cache)


@pytest.mark.slow
def test_cache_is_split_over_rows_and_heads():
    """Eight virtual devices in a process of their own."""
    done = run_file(Path(__file__).parent / "cache_devices.py", devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all equal"


def test_spec_refuses_impossible_shapes():
    from dataclasses import replace

    with pytest.raises(ValueError, match="multiple of kv_heads"):
        replace(LLAMA, kv_heads=3)
    with pytest.raises(ValueError, match="at least 1"):
        replace(LLAMA, layers=0)
