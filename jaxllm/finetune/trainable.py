"""The trained weights of a run: an adapter over the frozen base, or a full copy of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.model import Model
from jaxllm.models import Adapter, LoraConfig, init_adapter, merge_adapter
from jaxllm.models.adapters import adapter_axes
from jaxllm.models.network import Params
from jaxllm.train import shardings


def init_trained(model: Model, lora: LoraConfig | None, mesh: jax.sharding.Mesh, seed: int) -> Any:
    """Makes the trained tree before the first step: an adapter without effect, or a copy of the weights.

    Args:
        model: the base model.
        lora: of the adapter; None trains all weights.
        mesh: the devices that an adapter is placed on.
        seed: of the adapter's initial values.
    """
    if lora is None:
        return jax.tree.map(jnp.copy, model.params)
    adapter = init_adapter(model.spec, jax.random.key(seed), lora)
    return jax.device_put(adapter.params, shardings(adapter_axes(adapter), mesh, adapter.params))


def as_adapter(trained: Any, lora: LoraConfig | None) -> Adapter | None:
    """Wraps the trained tree as an adapter; None where all weights are trained."""
    return None if lora is None else Adapter(trained, lora.alpha / lora.rank)


def merged(model: Model, trained: Any, lora: LoraConfig | None) -> Params:
    """Computes the full weights after training."""
    adapter = as_adapter(trained, lora)
    return trained if adapter is None else merge_adapter(model.params, adapter)
