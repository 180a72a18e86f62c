"""Run by test_generate with eight virtual devices: rows dealt to groups, weights split, and the same texts."""

import dataclasses

import jax
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.devices import make_mesh
from jaxllm.generate import generate, scheduler
from jaxllm.model import Model
from jaxllm.models import unstack_layers
from jaxllm.models.mesh import model_shardings
from tests.letters import Letters, prompts
from tests.networks import LLAMA, random_params

spec = dataclasses.replace(LLAMA, width=64, head_dim=16, mlp_width=128, max_positions=256, eos_ids=())
params = random_params(spec, seed=3)
head = prompts(1)[0] * 8
texts = [*prompts(7), *([*head, 5 + i] for i in range(6))]
limits = [130, *(3 + 5 * i % 11 for i in range(12))]
sampling = SamplingConfig(temperature=1.0, max_tokens=130, n=2)
said = lambda rows: [[one.token_ids for one in row] for row in rows]
run = lambda model, **options: generate(model, texts, sampling, max_tokens=limits, batch_size=6, **options)
wanted = run(Model(spec, params, Letters()))
mesh = make_mesh(data=2, fsdp=2, tensor=2)
split = jax.device_put(params, model_shardings(spec, mesh))
assert len(split["layers"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape) == 3
lengths, plain, scheduler.SMALLEST_SLOT_TOKENS = set(), scheduler.decode, 64


def decode(spec, params, adapter, state, *rest):
    keys = state.cache.layers[0][0]
    assert keys.addressable_shards[0].data.shape[0] * 4 == keys.shape[0] == 8
    lengths.add(state.cache.slots)
    return plain(spec, params, adapter, state, *rest)


scheduler.decode = decode
for weights in (split, unstack_layers(split)):
    found = run(Model(spec, weights, Letters()), mesh=mesh)
    assert said(found) == said(wanted)
    for row, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose([one.logprob for one in row], [one.logprob for one in other], atol=1e-4)
assert lengths >= {128, 192}, f"slots never grew: {lengths}"
print("all equal")
