"""Run by test_attention with eight virtual devices: the TPU kernel, sharded over them, equals that on one device."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from jaxllm.devices import make_mesh
from jaxllm.models import splash
from jaxllm.models.attention import by_head, pick_kernel

ROWS, LENGTH, HEADS, HEAD_DIM = 4, 128, 4, 64


def run(key_heads):
    """Output, where there are tokens, and gradients."""
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (ROWS, LENGTH, count, HEAD_DIM))
              for key, count in zip(keys, (HEADS, key_heads, key_heads), strict=True)]
    # rows differ: one on the wrong device would show
    positions, ends = np.arange(LENGTH), np.array([[40], [70], [90], [120]])
    segments = jnp.asarray(np.where(positions < ends // 2, 1, np.where(positions < ends, 2, 0)), jnp.int32)

    def loss(queries, keys, values):
        mixed = splash.attend(queries * HEAD_DIM**-0.5, keys, values, segments, True, None, None, interpret=True)
        mixed = jnp.where((segments > 0)[..., None, None], mixed, 0)
        return jnp.square(mixed).sum(), mixed

    (_, mixed), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return mixed, gradients


assert jax.device_count() == 8 and not splash.is_available()
wanted = {key_heads: run(key_heads) for key_heads in (2, 1)}
with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
    wide = jax.ShapeDtypeStruct((ROWS, LENGTH, HEADS, HEAD_DIM), jnp.bfloat16)
    assert pick_kernel(wide, jax.eval_shape(by_head, wide), None, "tpu") == "splash"
    # two key heads are split over the two devices of `tensor`; a single one is replicated
    for key_heads, piece in ((2, (1, LENGTH, HEADS // 2, HEAD_DIM)), (1, (1, LENGTH, HEADS, HEAD_DIM))):
        result = run(key_heads)
        assert result[0].addressable_shards[0].data.shape == piece, result[0].addressable_shards[0].data.shape
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(wanted[key_heads]), strict=True):
            assert_allclose(jax.device_get(a), jax.device_get(b), rtol=0, atol=1e-6 * float(jnp.abs(b).max()))
print("all equal")
