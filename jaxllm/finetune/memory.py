"""Memory of a training run on one device, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models import LoraConfig, ModelSpec, Params, init_adapter
from jaxllm.models.adapters import adapter_axes
from jaxllm.train import shardings


def abstract_adapter(spec: ModelSpec, lora: LoraConfig, mesh: jax.sharding.Mesh) -> Params:
    """Returns shapes, dtypes and shardings of an adapter's tree."""
    adapter = jax.eval_shape(lambda: init_adapter(spec, jax.random.key(0), lora))
    shaped = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(shaped, adapter.params, shardings(adapter_axes(adapter), mesh, adapter.params))


def device_bytes(tree: Any) -> int:
    """Counts the bytes that a tree of shapes with shardings takes on one device."""
    return sum(_bytes(x) for x in jax.tree.leaves(tree))


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 0
    return int(jnp.dtype(x.dtype).itemsize * math.prod(x.sharding.shard_shape(x.shape)))


def memory_table(parts: Mapping[str, int], mesh: jax.sharding.Mesh) -> list[str]:
    """Formats bytes by part, and their sum, as lines of text."""
    return [f"memory per device ({jax.devices()[0].device_kind}, {mesh.size} in all)",
            *(f"  {name:<20}{value / 2**20:12,.1f} MiB" for name, value in parts.items()),
            f"  {'total':<20}{sum(parts.values()) / 2**20:12,.1f} MiB"]
