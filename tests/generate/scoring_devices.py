"""Run by test_generate with eight virtual devices: scoring and classification with rows split over the mesh."""

import dataclasses

import jax
import numpy as np

from jaxllm.devices import make_mesh
from jaxllm.generate import Generator, scoring
from jaxllm.generate.slots import init_state
from jaxllm.model import Model
from jaxllm.models import Adapter, Head, LoraConfig, init_adapter
from tests.letters import Letters, prompts
from tests.networks import LLAMA, random_params

spec = dataclasses.replace(LLAMA, width=64, head_dim=16, mlp_width=128, eos_ids=())
model = Model(spec, random_params(spec, seed=3), Letters())
mesh = make_mesh(data=2, fsdp=2, tensor=2)
fresh = init_adapter(spec, jax.random.key(1), LoraConfig(rank=4))
adapter = Adapter(jax.tree.map(lambda leaf: leaf + 0.02, fresh.params), fresh.scale)
head = prompts(4)[3] * 3
texts = [*prompts(7), *([*head, i + 3] for i in range(9))]
pairs = [(text, [5 + i, 6, 7][:1 + i % 3]) for i, text in enumerate(texts)]
shapes, plain = [], scoring.packed_logprobs


def packed_logprobs(spec, params, adapter, rows, *rest):
    shapes.append((rows.tokens.shape[0], rows.tokens.addressable_shards[0].data.shape[0]))
    return plain(spec, params, adapter, rows, *rest)


single, split = Generator(model), Generator(model, mesh=mesh)
expected = single.score(pairs, adapter=adapter, temperature=0.7)
scoring.packed_logprobs = packed_logprobs
for row, other in zip(split.score(pairs, adapter=adapter, temperature=0.7), expected, strict=True):
    np.testing.assert_allclose(row.logprobs, other.logprobs, atol=1e-5)
assert set(shapes) == {(4, 1)}, shapes

state = init_state(spec, 8, 64, 64, np.dtype("float32"), mesh)
for buffer in jax.tree.leaves(state.cache.layers):
    assert buffer.shape[:2] == (8, 2) and buffer.addressable_shards[0].data.shape[:2] == (2, 1), buffer.sharding

classifier = dataclasses.replace(spec, head=Head(3, "last"))
params = {name: leaf for name, leaf in random_params(spec, seed=3).items() if name != "head"}
params["score"] = {"out": {"kernel": jax.random.normal(jax.random.key(2), (spec.width, 3))}}
texts = [(ids, [0] * len(ids)) for ids in prompts(7)]
model = Model(classifier, params, Letters())
np.testing.assert_allclose(Generator(model, mesh=mesh).classify(texts), Generator(model).classify(texts), atol=1e-4)
print("all equal")
