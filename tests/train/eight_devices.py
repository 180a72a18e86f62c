"""Run by test_mesh with eight virtual devices: the toy run on several meshes equals that on one device."""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import toy
from jax.sharding import PartitionSpec as P

from jaxllm import train
from jaxllm.errors import UserError

STEPS = 5


def run(mesh, accumulate=1):
    params = toy.init(jax.random.key(1))
    params = jax.device_put(params, train.shardings(toy.AXES, mesh, params))
    state = train.init_state(params, toy.optimizer(), toy.SEED, extra={"kl_coef": 0.2})
    placed = jax.tree.map(lambda x: x.sharding, state)
    step = train.make_train_step(toy.loss_fn, toy.optimizer(), accumulate=accumulate)
    frozen = jax.device_put(toy.FROZEN, train.replicated(mesh))
    losses = []
    for i in range(STEPS):
        state, metrics = step(state, frozen, train.put_batch(toy.batch_fn(i), mesh))
        losses.append(float(metrics["loss"]))
    assert jax.tree.map(lambda x: x.sharding, state) == placed
    return np.array(losses), state


assert jax.device_count() == 8
single, reference = run(train.make_mesh(1))
folder = Path(sys.argv[1])
with train.Checkpointer(folder) as checkpointer:
    for sizes, accumulate in [((2, 2, 2), 1), ((1, 4, 2), 2)]:
        mesh = train.make_mesh(*sizes)
        losses, state = run(mesh, accumulate)
        np.testing.assert_allclose(losses, single, atol=2e-5, rtol=0)
        kernel = state.params["layers"]["mlp"]["kernel"]
        moment = optax.tree.get(state.opt_state, "mu")["layers"]["mlp"]["kernel"]
        assert kernel.sharding.spec == moment.sharding.spec == P(None, "fsdp", "tensor")
        piece = (toy.LAYERS, toy.WIDTH // sizes[1], toy.WIDTH // sizes[2])
        assert moment.addressable_shards[0].data.shape == piece
        if sizes == (2, 2, 2):
            checkpointer.save(STEPS, state)
            saved = jax.device_get(toy.leaves(state))
    # a checkpoint of one mesh is restored onto another, bit for bit, with the other's shardings
    restored = checkpointer.restore(state).tree
for x, y in zip(toy.leaves(restored), saved, strict=True):
    np.testing.assert_array_equal(x, y)
assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, state)

mesh = train.make_mesh(tensor=4)
assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 4}
odd = {"kernel": np.zeros((6, 8), np.float32)}
assert train.shardings({"kernel": ("heads", "mlp")}, mesh, odd)["kernel"].spec == P(None, "tensor")
batch = train.put_batch({"x": np.arange(4)}, mesh)["x"]
assert [s.data.tolist() for s in batch.addressable_shards if s.replica_id == 0] == [[0, 1], [2, 3]]
with pytest.raises(UserError, match="3 rows does not divide over data x fsdp = 2"):
    train.put_batch({"x": np.zeros(3)}, mesh)
print("all equal")
