import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import PartitionSpec as P

from jaxllm.errors import UserError
from jaxllm.train import make_mesh, put_batch, shardings


def test_a_mesh_of_one_device():
    mesh = make_mesh(1)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    batch = put_batch({"x": np.arange(6).reshape(3, 2), "n": 5}, mesh)
    np.testing.assert_array_equal(batch["x"], np.arange(6).reshape(3, 2))
    assert int(batch["n"]) == 5


def test_too_many_devices_is_an_error():
    with pytest.raises(UserError, match=f"there are {jax.device_count()}"):
        make_mesh(data=1, fsdp=3, tensor=jax.device_count())
    with pytest.raises(UserError, match="must be positive"):
        make_mesh(data=0)


def test_axes_are_looked_up_and_a_mesh_axis_is_used_once():
    axes = {
        "a": ("layers", "embed", "mlp"),
        "b": (None,),
        "c": (),
        "d": ("heads", "kv"),
        "e": ("batch", "length"),
    }
    got = {name: s.spec for name, s in shardings(axes, make_mesh(1)).items()}
    assert got == {
        "a": P(None, "fsdp", "tensor"),
        "b": P(None),
        "c": P(),
        "d": P("tensor", None),
        "e": P(("data", "fsdp"), None),
    }


def test_mistakes_in_axes_are_errors():
    mesh = make_mesh(1)
    with pytest.raises(ValueError, match="'embd' is not one of"):
        shardings({"a": ("embd",)}, mesh)
    with pytest.raises(ValueError, match="2 axis names"):
        shardings({"a": ("embed", "mlp")}, mesh, {"a": jnp.zeros(3)})


@pytest.mark.slow
def test_eight_devices_equal_one(run_script, tmp_path):
    done = run_script("eight_devices.py", tmp_path, devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all equal", toy.__file__
