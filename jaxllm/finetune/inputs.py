"""What a training job starts from: its base model, with weights or with shapes alone, and the hashes of its inputs."""

from __future__ import annotations

from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp

from jaxllm.config import DataConfig, check
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.errors import UserError
from jaxllm.job import Job
from jaxllm.model import Model, load, model_tokenizer
from jaxllm.models import LoraConfig, load_spec, native
from jaxllm.models.loading import loaded_scheme, stored_dtype
from jaxllm.models.mesh import model_shardings
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.text.readers import data_files


class HeldBack(Protocol):
    """Section of a config for held-back rows."""

    @property
    def path(self) -> str | None:
        """File of these rows; None takes them from the data."""


class TrainingJob(Protocol):
    """Keys that configs of training jobs have."""

    @property
    def model(self) -> str:
        """Name of the checkpoint."""

    @property
    def data(self) -> DataConfig:
        """Rows for training."""

    @property
    def held_back(self) -> HeldBack:
        """Rows for evaluation."""

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter; None trains all weights."""

    @property
    def device(self) -> DeviceConfig:
        """Dtypes."""

    @property
    def mesh(self) -> MeshConfig:
        """The devices."""


def check_trained_weights(lora: LoraConfig | None, device: DeviceConfig) -> None:
    """Raises a `UserError` where all weights are to be trained in a format that does not allow it."""
    check(lora is not None or device.params != "bfloat16", "device.params",
          "bfloat16 weights lose most updates when all of them are trained", "train an adapter, or use float32")
    check(lora is not None or device.quantize is None, "device.quantize",
          "quantized weights are frozen, and lora is null", "train an adapter, or do not quantize")


def check_stored_weights(model: str, lora: LoraConfig | None, device: DeviceConfig, save: str) -> None:
    """Raises a `UserError` where a checkpoint's weights are quantized and all of them are to be trained, or an adapter
    is to be merged into them, or where they are quantized with another scheme than `device.quantize`."""
    if loaded_scheme(model, device.quantize) is None:
        return
    if lora is None:
        raise UserError("quantized weights are frozen, and lora is null", model,
                        "train an adapter, or take the checkpoint in full precision")
    if save == "model":
        raise UserError("an adapter is not merged into quantized weights", model,
                        "set save to adapter, and merge with jaxllm convert")


def pin_inputs(config: TrainingJob, job: Job) -> None:
    """Pins data, held-back data and model; see `Job.pin`."""
    job.pin_file("data", data_files(config.data.path), config.data.limit)
    if config.held_back.path is not None:
        job.pin_file("held-back data", data_files(config.held_back.path))
    job.pin("model", fingerprint(model_directory(config.model)))


def load_base(config: TrainingJob, mesh: jax.sharding.Mesh) -> Model:
    """Loads the base model, in the dtype that suits what is trained."""
    return load(config.model, _dtype(config), lambda spec: model_shardings(spec, mesh), config.device.quantize)


def abstract_base(config: TrainingJob, mesh: jax.sharding.Mesh) -> Model:
    """Returns the model of `load_base` with `jax.ShapeDtypeStruct`s in place of its weights."""
    spec = load_spec(config.model)
    weights = native.abstract(spec, jnp.dtype(_dtype(config) or stored_dtype(config.model)),
                              model_shardings(spec, mesh), loaded_scheme(config.model, config.device.quantize))
    return Model(spec, cast(Any, weights), model_tokenizer(config.model, spec))


def _dtype(config: TrainingJob) -> jnp.dtype | None:
    return config.device.param_dtype if config.lora is not None else config.device.trained_dtype
