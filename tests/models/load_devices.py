"""Run by test_loading with eight virtual devices: weights have the requested shardings and the values of one device."""

import sys
from pathlib import Path

import jax
from numpy.testing import assert_array_equal

from jaxllm.devices import make_mesh
from jaxllm.models import load_model, load_spec, loading
from jaxllm.models.mesh import model_shardings

checkpoint, orbax = map(Path, sys.argv[1:])
spec = load_spec(checkpoint)
mesh = make_mesh(data=2, fsdp=2, tensor=2)
wanted = load_model(checkpoint)[1]
shardings = model_shardings(spec, mesh)
for gathered in (2**25, 0):
    loading.GATHERED_BYTES = gathered
    for folder in (checkpoint, orbax):
        loaded = load_model(folder, shardings=shardings)[1]
        jax.tree.map(lambda a, b: assert_array_equal(jax.device_get(a), jax.device_get(b)), loaded, wanted)
        assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, leaf.ndim),
                                         loaded, shardings))
    # each device has a quarter of a matrix: it is split both ways
    kernel = loaded["layers"]["attn"]["q"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    for scheme in ("int8", "nf4"):
        single, split = (load_model(checkpoint, shardings=chosen, scheme=scheme)[1] for chosen in (None, shardings))
        jax.tree.map(lambda a, b: assert_array_equal(jax.device_get(a), jax.device_get(b)), split, single)
        codes = split["layers"]["attn"]["q"]["kernel"].codes
        assert len({shard.device for shard in codes.addressable_shards}) == 8
print("all equal")
