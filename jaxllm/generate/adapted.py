"""A model with an adapter merged into it."""

from __future__ import annotations

import dataclasses

from jaxllm.devices import DeviceConfig
from jaxllm.models import merge
from jaxllm.models.peft import load_adapter
from jaxllm.text.model import Model, load


def load_adapted(model: str, adapter: str | None, device: DeviceConfig) -> Model:
    """Loads a checkpoint, and merges the adapter in a directory into it, if there is one."""
    loaded = load(model, device.param_dtype)
    if adapter is None:
        return loaded
    return dataclasses.replace(loaded, params=merge(loaded.params, load_adapter(adapter, loaded.spec)))
