"""Devices of a job: how they share the work, and in which number formats."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm.config import check, tunable
from jaxllm.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Number formats.

    Args:
        params: of the weights; auto is float32.
        compute: of activations and matrix products; auto is bfloat16 on GPU and TPU, float32 on CPU. Norms,
            softmax, logits and losses are float32 in any case.
        quantize: 8 or 4 bits for the matrices of the layers, which are frozen then; null leaves them as they are.
    """

    params: Precision = tunable("auto")
    compute: Precision = tunable("auto")
    quantize: Literal["int8", "int4", "nf4"] | None = None

    @property
    def param_dtype(self) -> jnp.dtype:
        return jnp.dtype("float32" if self.params == "auto" else self.params)

    @property
    def compute_dtype(self) -> jnp.dtype:
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
    """How the devices share the work.

    Args:
        data: groups of devices that see different rows and hold equal weights; -1 takes all that are left.
        fsdp: groups that see different rows and split the weights between them.
        tensor: devices that split every matrix product between them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        check(self.data >= 1 or self.data == -1, "data", f"must be 1 or more, or -1, got {self.data}")
        for name in ("fsdp", "tensor"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
