"""The trained weights of a run as one tree: an adapter or a copy of all weights, with or without heads.

Without heads the tree is the adapter's (or the model's) own; with heads it is `{"adapter": ..., "value_head": ...}` (or
`{"params": ..., "value_head": ...}`). The base model, for example `Generator.training_params`, is passed to the loss as
`frozen`, so that it exists once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxllm.devices import DeviceConfig
from jaxllm.errors import UserError
from jaxllm.model import Model
from jaxllm.models import Adapter, LoraConfig, init_adapter, init_value_head, merge_adapter
from jaxllm.models.adapters import adapter_axes
from jaxllm.models.network import Params
from jaxllm.models.quantized import scheme_of
from jaxllm.train import shardings

HeadName = Literal["value_head", "score"]
"""`value_head` predicts a value per position; `score` is a copy of the model's own scoring head, in float32."""


def init_trained(model: Model, lora: LoraConfig | None, mesh: jax.sharding.Mesh, seed: int,
                 heads: Sequence[HeadName] = ()) -> Any:
    """Makes the trained tree before the first step: an adapter without effect, or a copy of the weights; and heads.

    Args:
        model: the base model.
        lora: settings of the adapter; None trains all weights.
        mesh: the devices that adapter and heads are placed on.
        seed: seed of the adapter's initial values; a value head is zero at first.
        heads: heads that are trained too.

    Raises:
        UserError: `score` of a model without a scoring head.
    """
    if lora is None:
        body = jax.tree.map(jnp.copy, model.params)
    else:
        adapter = init_adapter(model.spec, jax.random.key(seed), lora)
        body = jax.device_put(adapter.params, shardings(adapter_axes(adapter), mesh, adapter.params))
    if not heads:
        return body
    tree = {"params" if lora is None else "adapter": body}
    for name in heads:
        if name == "score" and "score" not in model.params:
            raise UserError("the model has no scoring head", "heads", "train a value head, or load a model that scores")
        head = init_value_head(model.spec) if name == "value_head" else jax.tree.map(
            lambda leaf: jnp.array(leaf, jnp.float32), model.params["score"])
        axes = jax.tree.map(lambda leaf: (None,) * leaf.ndim, head)
        tree[name] = jax.device_put(head, shardings(axes, mesh, head))
    return tree


def trainable_model(model: Model, lora: LoraConfig | None, device: DeviceConfig) -> Model:
    """Returns the model with its weights in the dtype that they are trained in; with an adapter the model itself.

    Updates of bfloat16 weights would mostly be rounded away, see `DeviceConfig`.

    Args:
        model: the model.
        lora: settings of the adapter; None trains all weights.
        device: dtype of weights that are all trained.

    Raises:
        UserError: the weights are quantized, and there is no adapter to train.
    """
    if lora is not None:
        return model
    if scheme_of(model.params) is not None:
        raise UserError("quantized weights are frozen, and lora is null", "lora", "train an adapter")
    cast = lambda leaf: leaf.astype(device.trained_dtype)
    return dataclasses.replace(model, params=jax.tree.map(cast, model.params))


def student_of(trained: Any, frozen: Params, scale: float | None, dropout: float = 0.0
               ) -> tuple[Params, Adapter | None]:
    """Returns the student's weights and adapter, for `forward`; a trained scoring head replaces the base's.

    Args:
        trained: from `init_trained`, or its gradient-carrying copy in a loss.
        frozen: weights of the base model; not read where all weights are trained.
        scale: scale of the adapter; None where all weights are trained.
        dropout: rate of the adapter's dropout, applied where `forward` gets `dropout_keys`.
    """
    body = trained if "layers" in trained else trained["params" if scale is None else "adapter"]
    student, adapter = (body, None) if scale is None else (frozen, Adapter(body, scale, dropout))
    if "layers" not in trained and "score" in trained:
        student = student | {"score": trained["score"]}
    return student, adapter


@functools.partial(jax.jit, donate_argnums=1)
def mixed(trained: Any, average: Any, mix: jax.Array | float) -> Any:
    """Computes mix * trained + (1 - mix) * average; the average is donated."""
    return jax.tree.map(lambda new, old: (mix * new + (1 - mix) * old).astype(old.dtype), trained, average)


def as_adapter(trained: Any, lora: LoraConfig | None) -> Adapter | None:
    """Wraps the trained tree's adapter; None where all weights are trained."""
    return None if lora is None else student_of(trained, {}, lora.alpha / lora.rank)[1]


def merged(model: Model, trained: Any, lora: LoraConfig | None) -> Params:
    """Computes the full weights after training, with the trained scoring head if there is one."""
    student, adapter = student_of(trained, model.params, None if lora is None else lora.alpha / lora.rank)
    return student if adapter is None else merge_adapter(student, adapter)
