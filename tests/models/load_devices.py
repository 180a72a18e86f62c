"""Run by test_loading with eight virtual devices: weights arrive split as asked, and the same as on one device."""

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
        found = load_model(folder, shardings=shardings)[1]
        jax.tree.map(lambda one, other: assert_array_equal(jax.device_get(one), jax.device_get(other)), found, wanted)
        assert jax.tree.all(jax.tree.map(lambda leaf, place: leaf.sharding.is_equivalent_to(place, leaf.ndim),
                                         found, shardings))
    # each device has a quarter of a matrix: it is split both ways
    kernel = found["layers"]["attn"]["q"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    for scheme in ("int8", "nf4"):
        one, many = (load_model(checkpoint, shardings=place, scheme=scheme)[1] for place in (None, shardings))
        jax.tree.map(lambda a, b: assert_array_equal(jax.device_get(a), jax.device_get(b)), many, one)
        codes = many["layers"]["attn"]["q"]["kernel"].codes
        assert len({shard.device for shard in codes.addressable_shards}) == 8
print("all equal")
