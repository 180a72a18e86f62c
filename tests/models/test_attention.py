"""Attention masks, the choice of the kernel, and equality of all kernels."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.models import ModelSpec, Rope, splash, unstack_layers
from jaxllm.models import forward as plain_forward
from jaxllm.models.attention import (
    AttentionMask,
    attend,
    by_head,
    cudnn_arguments,
    pick_kernel,
    self_attention_mask,
)
from tests.networks import forward, random_params, random_tokens
from tests.processes import run_file

HERE = Path(__file__).parent


def by_hand(mask):
    assert mask.shape[0] == 1
    return ["".join(".x"[int(seen)] for seen in row) for row in mask[0]]


def mask_of(queries, keys, query_positions, key_positions, branches=None):
    row = lambda values: jnp.array([list(values)], jnp.int32)
    return AttentionMask(row(queries), row(keys), row(query_positions), row(key_positions),
                 None if branches is None else (row(branches), row(branches)))


MASKS = {
    "causal": (self_attention_mask(jnp.array([[1, 1, 1, 1]])), None, ["x...", "xx..", "xxx.", "xxxx"]),
    "a window of two": (self_attention_mask(jnp.array([[1, 1, 1, 1]])), 2, ["x...", "xx..", ".xx.", "..xx"]),
    "a window of one": (self_attention_mask(jnp.array([[1, 1, 1]])), 1, ["x..", ".x.", "..x"]),
    "both ways": (self_attention_mask(jnp.array([[1, 1, 1]]), causal=False), None, ["xxx", "xxx", "xxx"]),
    "both ways in a window": (self_attention_mask(jnp.array([[1, 1, 1, 1]]), causal=False), 2,
                              ["xx..", "xxx.", ".xxx", "..xx"]),
    "padding on the left": (self_attention_mask(jnp.array([[0, 1, 1]])), None, ["...", ".x.", ".xx"]),
    "padding on the right": (self_attention_mask(jnp.array([[1, 1, 0]])), None, ["x..", "xx.", "..."]),
    "padding, both ways": (self_attention_mask(jnp.array([[0, 1, 1, 0]]), causal=False), None,
                           ["....", ".xx.", ".xx.", "...."]),
    "two texts": (self_attention_mask(jnp.array([[1, 1, 2, 2]])), None, ["x...", "xx..", "..x.", "..xx"]),
    "two texts, both ways": (self_attention_mask(jnp.array([[1, 1, 2]]), causal=False), None, ["xx.", "xx.", "..x"]),
    "a window within a text": (self_attention_mask(jnp.array([[1, 2, 2, 2]])), 2, ["x...", ".x..", ".xx.", "..xx"]),
    # Two queries at slots 3 and 4 of a cache of six.
    "a cache": (mask_of([1, 1], [1] * 6, [3, 4], range(6)), None, ["xxxx..", "xxxxx."]),
    "a cache and a window": (mask_of([1, 1], [1] * 6, [3, 4], range(6)), 3, [".xxx..", "..xxx."]),
    "a finished row": (mask_of([0], [1] * 3, [2], range(3)), None, ["..."]),
    # Two texts with a shared prefix of two tokens in three slots.
    "a shared prefix": (mask_of([1, 1, 2], [-1, -1, 0, 1, 1, 2], [2, 3, 2], [0, 1, 2, 2, 3, 2]), None,
                    ["xx.x..", "xx.xx.", "xx...x"]),
    "a shared prefix and a window": (mask_of([1, 1, 2], [-1, -1, 0, 1, 1, 2], [2, 3, 2], [0, 1, 2, 2, 3, 2]), 2,
                                 [".x.x..", "...xx.", ".x...x"]),
    # A prompt of two tokens that goes on in two ways, and another text.
    "branches": (mask_of([1, 1, 1, 1, 1, 2], [1, 1, 1, 1, 1, 2], [0, 1, 2, 2, 3, 0], [0, 1, 2, 2, 3, 0],
                       [0, 0, 1, 2, 2, 0]), None, ["x.....", "xx....", "xxx...", "xx.x..", "xx.xx.", ".....x"]),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_by_hand(name):
    mask, window, wanted = MASKS[name]
    assert by_hand(mask.mask(window)) == wanted


BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32


@pytest.mark.parametrize("platform, length, keys, head_dim, dtype, softcap, wanted", [
    ("cpu", 128, 128, 64, BF16, None, "xla"),
    ("gpu", 128, 128, 64, BF16, None, "cudnn"),
    ("gpu", 128, 128, 64, F16, None, "cudnn"),
    ("gpu", 96, 96, 128, BF16, None, "cudnn"),
    ("gpu", 128, 128, 64, F32, None, "xla"),
    ("gpu", 128, 128, 64, BF16, 50.0, "xla"),
    ("gpu", 1, 128, 64, BF16, None, "xla"),  # a decoding step
    ("gpu", 64, 128, 64, BF16, None, "xla"),  # a prompt read into a cache
    ("gpu", 127, 127, 64, BF16, None, "xla"),
    ("gpu", 128, 128, 256, BF16, None, "xla"),
    ("gpu", 128, 128, 12, BF16, None, "xla"),
    ("tpu", 128, 128, 64, BF16, None, "splash"),
    ("tpu", 384, 384, 128, F32, None, "splash"),
    ("tpu", 128, 128, 80, BF16, 50.0, "splash"),
    ("tpu", 100, 100, 64, BF16, None, "xla"),
    ("tpu", 192, 192, 64, BF16, None, "xla"),
    ("tpu", 1, 128, 64, BF16, None, "xla"),
    ("tpu", 128, 256, 64, BF16, None, "xla"),
    ("tpu", 128, 128, 72, BF16, None, "xla"),
])
def test_the_kernel_that_is_picked(monkeypatch, platform, length, keys, head_dim, dtype, softcap, wanted):
    monkeypatch.setattr(splash, "is_available", lambda: True)
    queries = jax.ShapeDtypeStruct((2, length, 4, head_dim), dtype)
    key_shapes = jax.ShapeDtypeStruct((2, 2, keys, head_dim), dtype)
    assert pick_kernel(queries, key_shapes, softcap, platform) == wanted
    assert pick_kernel(queries, key_shapes, softcap, platform, self_attention=False) == "xla"


def test_several_devices_need_a_mesh(monkeypatch):
    """No compiler splits the kernel by itself; one device needs none. `splash_devices.py` has the case with a mesh."""
    x = jax.ShapeDtypeStruct((1, 128, 2, 64), BF16)
    for count, wanted in ((1, "splash"), (8, "xla")):
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        assert pick_kernel(x, jax.eval_shape(by_head, x), None, "tpu") == wanted


def heads(length, query_heads, key_heads, head_dim=64, rows=2, dtype=F32):
    """Random queries, keys and values."""
    keys = jax.random.split(jax.random.key(7), 3)
    return [jax.random.normal(key, (rows, length, count, head_dim)).astype(dtype)
            for key, count in zip(keys, (query_heads, key_heads, key_heads), strict=True)]


def packed(length, ends, rows=2):
    """Returns segments 1, 2, ... that end at `ends`, then padding; `[rows, length]`."""
    numbers = np.searchsorted(ends, np.arange(length), side="right") + 1
    return jnp.asarray(np.broadcast_to(np.where(numbers > len(ends), 0, numbers), (rows, length)), jnp.int32)


def test_attention_by_hand():
    """Two tokens, two query heads on one key head, scale 1: scores ln 3 and 0 are shares of 3/4 and 1/4."""
    queries = jnp.array([[[[9.0], [9.0]], [[1.0], [0.0]]]])
    keys = jnp.array([[[[np.log(3.0)], [0.0]]]], jnp.float32)
    values = jnp.array([[[[4.0], [8.0]]]])
    both = attend(queries, keys, values, self_attention_mask(jnp.array([[1, 1]])), scale=1.0)
    assert_allclose(both, [[[4.0, 4.0], [5.0, 6.0]]], rtol=1e-6)
    alone = attend(queries, keys, values, self_attention_mask(jnp.array([[1, 1]])), scale=1.0, window=1)
    assert_allclose(alone, [[[4.0, 4.0], [8.0, 8.0]]], rtol=1e-6)
    # a cap of c turns a score of c artanh(ln 3 / c) into ln 3
    steep = keys.at[0, 0, 0, 0].set(2.0 * np.arctanh(np.log(3.0) / 2.0))
    capped = attend(queries, steep, values, self_attention_mask(jnp.array([[1, 1]])), scale=1.0, softcap=2.0)
    assert_allclose(capped[0, 1], [5.0, 6.0], rtol=1e-6)


LONG = 1100
TEXTS = np.sort(np.random.default_rng(0).integers(1, 6, (2, LONG))).astype(np.int32)


def branching_mask():
    """Rows of a prefix of 300 tokens and continuations of 350, 400 and 50."""
    branches = jnp.asarray(np.repeat([0, 1, 2, 3], [300, 350, 400, 50])[None].repeat(2, 0), jnp.int32)
    positions = jnp.asarray(np.concatenate([np.arange(300), *(300 + np.arange(n) for n in (350, 400, 50))])[None])
    return AttentionMask(jnp.ones_like(branches), jnp.ones_like(branches), positions, positions, (branches, branches),
                         ordered=True)


def prefixed_mask():
    """Texts that continue a prefix of 37 tokens, in a buffer of 40."""
    before = np.where(np.arange(40) < 37, -1, 0)[None].repeat(2, 0)
    positions = 37 + np.arange(LONG)[None]
    return AttentionMask(jnp.asarray(TEXTS), jnp.asarray(np.concatenate([before, TEXTS], 1)), jnp.asarray(positions),
                         jnp.asarray(np.concatenate([np.arange(40)[None], positions], 1)), ordered=True)


BLOCKED = {"texts": (self_attention_mask(jnp.asarray(TEXTS)), None),
           "a window": (self_attention_mask(jnp.asarray(TEXTS)), 150),
           "branches": (branching_mask(), None), "branches in a window": (branching_mask(), 330),
           "a prefix": (prefixed_mask(), None)}


@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_of_queries_equal_all_at_once(name):
    """Causal rows multiply the keys up to a block's end: the same output and gradients, less work."""
    mask, window = BLOCKED[name]
    queries, keys, values = heads(LONG, 4, 2)
    before = mask.key_segments.shape[1] - LONG
    grow = lambda x: by_head(jnp.concatenate([x[:, :before], x], 1))

    def compiled(mask):
        squares = lambda *x: (jnp.square(out := attend(x[0], grow(x[1]), grow(x[2]), mask, window=window)).sum(), out)
        return jax.jit(jax.value_and_grad(squares, (0, 1, 2), has_aux=True)).lower(queries, keys, values).compile()

    whole, blocked = (compiled(dataclasses.replace(mask, ordered=ordered)) for ordered in (False, True))
    assert blocked.cost_analysis()["flops"] < 0.75 * whole.cost_analysis()["flops"]
    ((_, wanted), wanted_gradients), ((_, mixed), gradients) = (run(queries, keys, values) for run in (whole, blocked))
    assert_allclose(mixed, wanted, rtol=0, atol=2e-6)
    for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
        assert_allclose(gradient, wanted_gradient, rtol=0, atol=2e-6 * float(jnp.abs(wanted_gradient).max()))


SPLASH = {
    "causal, grouped heads": dict(length=256, query_heads=4, key_heads=2, ends=[256]),
    "both ways": dict(length=128, query_heads=2, key_heads=2, ends=[100], causal=False),
    "a window, soft cap, packed": dict(length=256, query_heads=4, key_heads=1, ends=[100, 200], window=40, softcap=5.0),
    "both ways in a window, packed": dict(length=128, query_heads=2, key_heads=1, ends=[50, 128], causal=False,
                                          window=20),
}


@pytest.mark.parametrize("name", SPLASH)
@pytest.mark.slow
def test_splash_equals_xla(name):
    """The kernel of TPU, run step by step: output and gradients, where there are tokens."""
    case = dict(SPLASH[name])
    queries, keys, values = heads(case["length"], case["query_heads"], case["key_heads"])
    segments, causal = packed(case["length"], case["ends"]), case.get("causal", True)
    window, softcap = case.get("window"), case.get("softcap")
    real = (segments > 0)[..., None, None]

    def xla(queries, keys, values):
        mixed = attend(queries, by_head(keys), by_head(values), self_attention_mask(segments, causal), window=window,
                       softcap=softcap, kernel="xla")
        return jnp.where(real, mixed.reshape(queries.shape), 0)

    def kernel(queries, keys, values):
        mixed = splash.attend(queries * queries.shape[-1] ** -0.5, keys, values, segments, causal, window, softcap,
                              interpret=True)
        return jnp.where(real, mixed, 0)

    def both(attention):
        squares = lambda *x: (jnp.square(out := attention(*x)).sum(), out)
        return jax.jit(jax.value_and_grad(squares, (0, 1, 2), has_aux=True))(queries, keys, values)

    ((_, wanted), wanted_gradients), ((_, mixed), gradients) = both(xla), both(kernel)
    # float32 in both, softmax in another order: a few roundings of the largest values
    assert_allclose(mixed, wanted, rtol=0, atol=3e-6)
    for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
        assert_allclose(gradient, wanted_gradient, rtol=0, atol=5e-6 * float(jnp.abs(wanted_gradient).max()))


@pytest.mark.slow
def test_splash_on_a_mesh_equals_one_device():
    """Eight virtual devices in a process of their own."""
    done = run_file(HERE / "splash_devices.py", devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all equal"


RIGHT_PADDED = {"causal": (True, None), "a window": (True, 3), "a window of one": (True, 1),
                "both ways": (False, None)}


@pytest.mark.parametrize("name", RIGHT_PADDED)
def test_arguments_of_cudnn_describe_the_mask(name):
    """Causality, window and lengths: no dense mask, and jax's reference attends to exactly the same keys."""
    causal, window = RIGHT_PADDED[name]
    lengths = jnp.array([6, 4, 1], jnp.int32)
    segments = (jnp.arange(6) < lengths[:, None]).astype(jnp.int32)
    mask = self_attention_mask(segments, causal, lengths)
    arguments = cudnn_arguments(mask, window)
    assert "mask" not in arguments and arguments["is_causal"] == causal
    # One-hot values turn the output into the attention weights, which are uniform over the visible keys.
    queries, values = jnp.zeros((3, 6, 1, 8)), jnp.broadcast_to(jnp.eye(6, 8), (3, 6, 8))[:, :, None]
    weights = jax.nn.dot_product_attention(queries, queries, values, implementation="xla", **arguments)[:, :, 0, :6]
    visible = np.asarray(mask.mask(window))
    for row, length in enumerate(lengths.tolist()):
        assert np.array_equal(np.asarray(weights)[row, :length] > 0, visible[row, :length])


def test_a_row_without_tokens_has_a_key_to_attend_to():
    mask = self_attention_mask(jnp.zeros((1, 4), jnp.int32), lengths=jnp.array([0], jnp.int32))
    assert cudnn_arguments(mask, None)["key_value_seq_lengths"].tolist() == [1]


def test_other_rows_give_cudnn_a_dense_mask():
    packed_rows = self_attention_mask(jnp.array([[1, 1, 2, 0]]))
    assert set(cudnn_arguments(packed_rows, None)) == {"mask"}
    lengths = jnp.array([3], jnp.int32)
    right_padded = self_attention_mask(jnp.array([[1, 1, 1, 0]]), causal=False, lengths=lengths)
    # a window to the right is not supported
    assert np.array_equal(cudnn_arguments(right_padded, 2)["mask"][:, 0], right_padded.mask(2))


def test_lengths_are_segments_of_right_padded_rows(llama):
    spec, params = llama
    tokens, lengths = random_tokens(2, 7), jnp.array([7, 4], jnp.int32)
    segments = (jnp.arange(7) < lengths[:, None]).astype(jnp.int32)
    assert np.array_equal(forward(spec, params, tokens, lengths=lengths).hidden,
                          forward(spec, params, tokens, segments=segments).hidden)
    with pytest.raises(ValueError, match="not both"):
        plain_forward(spec, params, tokens, lengths=lengths, segments=segments)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernel needs a CUDA GPU in use")
@pytest.mark.parametrize("right_padded", [False, True], ids=["packed", "by length"])
@pytest.mark.parametrize("causal, window", [(True, None), (False, None), (True, 40)])
def test_cudnn_equals_xla(causal, window, right_padded):
    """Both in bfloat16, which rounds to one part in 256; values are of size 1."""
    queries, keys, values = heads(128, 4, 2, dtype=BF16)
    segments = packed(128, [110] if right_padded else [60, 110])
    lengths = jnp.full(2, 110, jnp.int32) if right_padded else None
    real = (segments > 0)[..., None]

    def run(kernel):
        def masked(*x):
            mask = self_attention_mask(segments, causal, lengths)
            mixed = attend(x[0], *map(by_head, x[1:]), mask, window=window, kernel=kernel)
            return jnp.where(real, mixed, 0).astype(F32)

        gradient = jax.jit(jax.grad(lambda *x: jnp.square(masked(*x)).sum(), (0, 1, 2)))
        return jax.jit(masked)(queries, keys, values), gradient(queries, keys, values)

    (wanted, wanted_gradients), (output, gradients) = run("xla"), run("cudnn")
    assert_allclose(output, wanted, rtol=0, atol=2e-2)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        ours, theirs = ours.astype(F32), theirs.astype(F32)
        assert_allclose(ours, theirs, rtol=0, atol=2e-2 * float(jnp.abs(theirs).max()))


# As Gemma 2: every second layer sees a window, the others everything; here they also rotate differently.
MIXED = ModelSpec("gemma2", vocab_size=97, width=32, layers=4, heads=4, kv_heads=2, head_dim=8, mlp_width=48,
                  max_positions=64, norm_offset=True, norms="around", activation="gelu_tanh", rope=Rope(theta=1e4),
                  window=3, local_layers=(True, False, True, False), local_rope=Rope(theta=500.0),
                  attention_scale=0.25, attention_softcap=5.0, logit_softcap=30.0, embed_scale=32**0.5, tied=True)


def test_layers_with_different_windows():
    """Scanned layers choose their window by number, unrolled ones know it; the packed row is one text at a time."""
    params, tokens = random_params(MIXED, seed=4), random_tokens(2, 12)
    segments = jnp.array([[1] * 12, [1] * 5 + [2] * 6 + [0]])
    scanned = forward(MIXED, params, tokens, segments=segments).hidden
    chosen = jax.jit(plain_forward, static_argnames=("spec", "attention"))(
        MIXED, params, tokens, segments=segments, attention="xla").hidden
    real = (segments > 0)[..., None]
    assert_allclose(jnp.where(real, chosen - scanned, 0), jnp.zeros_like(scanned), atol=1e-6)
    unrolled = forward(MIXED, unstack_layers(params), tokens, segments=segments).hidden
    assert_allclose(jnp.where(real, unrolled - scanned, 0), jnp.zeros_like(scanned), atol=2e-5)
    second = forward(MIXED, params, tokens[1:, 5:11]).hidden
    assert_allclose(scanned[1:, 5:11], second, atol=2e-5)


def test_the_reach_of_stacked_windows():
    """With windows of 3 in all of 4 layers the last of 12 tokens reads the last 9; with full layers all of them."""
    local = dataclasses.replace(MIXED, local_layers=(), local_rope=None)
    params, tokens = random_params(MIXED, seed=4), random_tokens(1, 12)
    for spec, reach in ((local, 9), (MIXED, 12)):
        change = jax.jit(jax.vmap(lambda i, spec=spec: jnp.abs(
            plain_forward(spec, params, tokens.at[0, i].add(1)).hidden[0, -1]
            - plain_forward(spec, params, tokens).hidden[0, -1]).max()))(jnp.arange(12))
        assert (np.asarray(change) > 1e-5).tolist() == [i >= 12 - reach for i in range(12)]
