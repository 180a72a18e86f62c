"""Devices of a job: the mesh that they form, and the dtypes of weights and activations."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from jaxllm.config import check, tunable
from jaxllm.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
Precision = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Dtypes of weights and activations.

    Args:
        params: dtype of the weights. auto is the dtype in which most of the checkpoint is stored, and float32 where
            all weights are trained. On CPU float32 may be faster than bfloat16, for twice the memory.
        compute: dtype of activations and matrix products; auto is bfloat16 on GPU and TPU, float32 on CPU. Norms,
            softmax, logits and losses are float32 in any case.
        quantize: quantize the matrices of the layers, which are then frozen; null keeps them as they are.
        compile_cache: keep compiled programs on disk, so that later jobs start faster.
    """

    params: Precision = "auto"
    compute: Precision = "auto"
    quantize: Literal["int8", "int4", "nf4"] | None = None
    compile_cache: bool = tunable(True)

    @property
    def param_dtype(self) -> jnp.dtype | None:
        """Dtype of frozen weights; None is the stored dtype, as `load` takes it."""
        return None if self.params == "auto" else jnp.dtype(self.params)

    @property
    def trained_dtype(self) -> jnp.dtype:
        """Dtype of weights that are all trained."""
        return jnp.dtype("float32" if self.params == "auto" else self.params)

    @property
    def compute_dtype(self) -> jnp.dtype:
        """Dtype of activations and matrix products."""
        if self.compute == "auto":
            return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        return jnp.dtype(self.compute)


def check_one_process(job: str) -> None:
    """Raises a `UserError` where a job that runs in one process was started in several."""
    if jax.process_count() > 1:
        raise UserError(f"runs in one process, and there are {jax.process_count()}", job,
                        "start it once, on a host with all its devices")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Device mesh.

    Args:
        data: size of the data axis: groups with different rows and copies of the weights; -1 takes all devices left.
        fsdp: size of the fully-sharded axis: groups with different rows that split the weights.
        tensor: size of the tensor-parallel axis: devices that split every matrix product.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        check(self.data >= 1 or self.data == -1, "data", f"must be 1 or more, or -1, got {self.data}")
        for name in ("fsdp", "tensor"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """Arranges the devices of all processes as a `[data, fsdp, tensor]` mesh.

    Args:
        data: number of groups that see different rows and hold equal weights; -1 takes all devices left.
        fsdp: number of groups that see different rows and split the weights between them.
        tensor: number of devices that split one row's matrix products between them.

    Returns:
        A mesh with Auto axes; the first `data * fsdp * tensor` devices are used.

    Raises:
        UserError: the sizes do not fit the number of devices.
    """
    count = jax.device_count()
    if fsdp < 1 or tensor < 1 or (data < 1 and data != -1):
        raise UserError(f"mesh sizes must be positive, got data={data} fsdp={fsdp} tensor={tensor}", "mesh")
    if data == -1:
        data = max(1, count // (fsdp * tensor))
    needed = data * fsdp * tensor
    if needed > count:
        raise UserError(
            f"data={data} x fsdp={fsdp} x tensor={tensor} needs {needed} devices and there are {count}",
            "mesh",
            "make the product of the three at most the number of devices, or set data to -1",
        )
    # Auto, because the default (Explicit) rejects plain gathers such as an embedding look-up.
    return jax.make_mesh(
        (data, fsdp, tensor),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * 3,
        devices=jax.devices()[:needed],
    )


def open_mesh(config: MeshConfig) -> jax.sharding.Mesh:
    """Returns the mesh that a job's configuration describes; see `make_mesh`."""
    return make_mesh(config.data, config.fsdp, config.tensor)
