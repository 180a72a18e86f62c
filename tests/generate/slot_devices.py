"""Run by test_generate with eight virtual devices: slots and KV heads split over the mesh, and the same completions."""

import dataclasses

import jax
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.devices import make_mesh
from jaxllm.generate import Generator, generate, scheduler
from jaxllm.generate.mixture import generate_mixture
from jaxllm.model import Model
from jaxllm.models import LoraConfig, init_adapter, unstack_layers
from jaxllm.models.mesh import model_shardings
from jaxllm.models.quantized import quantize_params
from tests.letters import Letters, prompts
from tests.networks import LLAMA, random_params

spec = dataclasses.replace(LLAMA, width=64, head_dim=16, mlp_width=128, max_positions=256, eos_ids=())
params = random_params(spec, seed=3)
head = prompts(1)[0] * 8
texts = [*prompts(7), *([*head, 5 + i] for i in range(6))]
limits = [130, *(3 + 5 * i % 11 for i in range(12))]
sampling = SamplingConfig(temperature=1.0, max_tokens=130, n=2)
token_ids = lambda rows: [[completion.token_ids for completion in row] for row in rows]
run = lambda model, **options: generate(model, texts, sampling, max_tokens=limits, batch_size=6, **options)
expected = run(Model(spec, params, Letters()))
mesh = make_mesh(data=2, fsdp=2, tensor=2)
split = jax.device_put(params, model_shardings(spec, mesh))
assert len(split["layers"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape) == 3
lengths, plain, scheduler.SMALLEST_SLOT_TOKENS = set(), scheduler.decode, 64


def decode(spec, params, adapter, state, *rest):
    for buffer in jax.tree.leaves(state.cache.layers):
        shard = buffer.addressable_shards[0].data.shape
        assert (4 * shard[0], 2 * shard[1]) == buffer.shape[:2] == (8, 2), buffer.sharding
    lengths.add(state.cache.slots)
    return plain(spec, params, adapter, state, *rest)


scheduler.decode = decode
for weights in (split, unstack_layers(split)):
    completions = run(Model(spec, weights, Letters()), mesh=mesh)
    assert token_ids(completions) == token_ids(expected)
    for row, other in zip(completions, expected, strict=True):
        np.testing.assert_allclose([c.logprob for c in row], [c.logprob for c in other], atol=1e-4)
assert lengths >= {128, 192}, f"slots never grew: {lengths}"
scheduler.decode = plain
pairs = [*zip(texts, texts[::-1], strict=True)]
mixtures = [generate_mixture(Generator(Model(spec, weights, Letters()), batch_size=6, **options), pairs, 0.5,
                             SamplingConfig(max_tokens=9), seed=1, row_ids=range(13))
            for weights, options in ((params, {}), (split, {"mesh": mesh}))]
first, second = ([completion.token_ids for completion, _ in own] for own in mixtures)
assert first == second
adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))
for scheme in ("int8", "nf4"):  # weights and adapters of either layout are placed where they are not on the mesh
    generator = Generator(Model(spec, quantize_params(params, scheme), Letters()), mesh=mesh)
    training = jax.tree.map(lambda leaf: leaf.sharding.spec, generator.training_params())
    generator.score([([1, 2], [3])])
    unstacked = dataclasses.replace(adapter, params=unstack_layers(adapter.params))
    for tree in (generator.params, generator._adapter(adapter).params, generator._adapter(unstacked).params):
        assert isinstance(tree["layers"], tuple)
        assert all(leaf.sharding.device_set == set(jax.devices()) for leaf in jax.tree.leaves(tree))
    codes = generator.params["layers"][0]["mlp"]["up"]["kernel"].codes
    assert codes.addressable_shards[0].data.size * 4 == codes.size
    assert jax.tree.map(lambda leaf: leaf.sharding.spec, generator.training_params()) == training
print("all equal")
