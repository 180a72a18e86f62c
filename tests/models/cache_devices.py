"""Run by test_decoder with eight virtual devices: the KV cache is split over rows and KV heads, and decoding agrees."""

import dataclasses
import re

import jax
import jax.numpy as jnp
from numpy.testing import assert_allclose

from jaxllm.devices import MeshConfig, open_mesh
from jaxllm.models import forward, init_cache, unstack_layers
from jaxllm.models.mesh import batch_sharding, cache_sharding, model_shardings
from tests.networks import LLAMA, random_params, random_tokens

ROWS, SLOTS = 4, 41
mesh = open_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
params, tokens = random_params(LLAMA, 0), random_tokens(ROWS, 6)
step = jax.jit(lambda params, tokens, cache: forward(LLAMA, params, tokens, cache=cache))
start = lambda: init_cache(LLAMA, ROWS, SLOTS)
whole = unstack_layers(params)
wanted = step(whole, tokens, start())
wanted_next = step(whole, tokens[:, :1], wanted.cache)

wanted_shardings = cache_sharding(LLAMA, mesh)
split = unstack_layers(jax.device_put(params, model_shardings(LLAMA, mesh)))
cache = jax.jit(start, out_shardings=wanted_shardings)()
keys, values = cache.layers[0]
assert keys.addressable_shards[0].data.shape == (1, 1, LLAMA.head_dim, SLOTS), keys.addressable_shards[0].data.shape
assert values.addressable_shards[0].data.shape == (1, 1, SLOTS, LLAMA.head_dim)
rows = jax.device_put(tokens, batch_sharding(mesh))
output = step(split, rows, cache)
output_next = step(split, rows[:, :1], output.cache)
for layer, shardings in zip(output_next.cache.layers, wanted_shardings.layers, strict=True):
    assert all(x.sharding.is_equivalent_to(sharding, 4) for x, sharding in zip(layer, shardings, strict=True)), layer
for ours, theirs in zip(jax.tree.leaves((output, output_next)), jax.tree.leaves((wanted, wanted_next)), strict=True):
    assert_allclose(jax.device_get(ours), jax.device_get(theirs), atol=1e-5)

text = step.lower(split, rows[:, :1], output.cache).compile().as_text()
gathered = [re.search(r"f32\[([\d,]*)\]", line).group(1) for line in text.splitlines()
            if re.search(r"= f32\[[\d,]*\]\S* all-gather", line)]
assert not any(f"{SLOTS}" in shape.split(",") for shape in gathered), gathered

# KV heads that do not divide stay whole
odd = cache_sharding(dataclasses.replace(LLAMA, heads=3, kv_heads=3), mesh).layers[0][0].spec
assert tuple(odd)[:2] == (("data", "fsdp"), None), odd
assert jnp.issubdtype(output.cache.lengths.dtype, jnp.integer)
print("all equal")
