"""What the jobs that run one model over rows have in common: their settings, and a model with its adapter."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from jaxllm.config import DataConfig, check, check_seed
from jaxllm.devices import DeviceConfig
from jaxllm.models import merge
from jaxllm.models.peft import load_adapter
from jaxllm.text.model import Model, load


@dataclass(frozen=True)
class RowsConfig:
    """A model over rows.

    Args:
        data: the rows.
        out: directory for the results.
        model: checkpoint directory, Hub id, or tiny.
        adapter: directory of a LoRA adapter, applied to the model.
        batch_size: rows that run together; changes speed and memory, not the results.
        device: precision.
        seed: of all that is drawn; the same seed gives a row the same results.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    adapter: str | None = None
    batch_size: int = 32
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check(self.batch_size >= 1, "batch_size", f"must be 1 or more, got {self.batch_size}")
        check_seed(self.seed)


def load_adapted(config: RowsConfig) -> Model:
    """Loads the job's checkpoint, and merges its adapter into it, if there is one."""
    model = load(config.model, config.device.param_dtype)
    if config.adapter is None:
        return model
    return dataclasses.replace(model, params=merge(model.params, load_adapter(config.adapter, model.spec)))
