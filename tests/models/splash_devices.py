"""Run by test_attention with eight virtual devices: the kernel of TPU, dealt to them, equals that on one."""

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
    # every row is another: a row that went to the wrong device would show
    places, ends = np.arange(LENGTH), np.array([[40], [70], [90], [120]])
    segments = jnp.asarray(np.where(places < ends // 2, 1, np.where(places < ends, 2, 0)), jnp.int32)

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
    # two key heads are dealt to the two devices of `tensor`; one is kept whole
    for key_heads, piece in ((2, (1, LENGTH, HEADS // 2, HEAD_DIM)), (1, (1, LENGTH, HEADS, HEAD_DIM))):
        found = run(key_heads)
        assert found[0].addressable_shards[0].data.shape == piece, found[0].addressable_shards[0].data.shape
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted[key_heads]), strict=True):
            assert_allclose(jax.device_get(one), jax.device_get(other), rtol=0, atol=1e-6 * float(jnp.abs(other).max()))
print("all equal")
