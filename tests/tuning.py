"""Training on groups of texts as `jaxllm tune` does it, without a directory of a job."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.devices import open_mesh
from jaxllm.finetune.trainable import HeadName, init_trained
from jaxllm.finetune.tune.config import Config
from jaxllm.finetune.tune.job import train_settings
from jaxllm.finetune.tune.run import DataSet, FixedGroups, ReferenceSync, Runner, compute_reference, make_shape, train
from jaxllm.model import Model
from jaxllm.models import stack_layers
from jaxllm.train import Checkpointer, init_state, make_optimizer


def trajectory(config: Config, model: Model, data: DataSet, *, steps: int | None = None,
               checkpointer: Checkpointer | None = None, seen: Any = lambda: None) -> list[dict[str, float]]:
    """Trains on a data set.

    Args:
        config: settings of the run; its files are not read.
        model: the base model, with a scoring head where one is trained.
        data: the groups.
        steps: ends after this many steps, if not after those of the config.
        checkpointer: resumes, and saves at the end.
        seen: called after every step; what it returns is part of the numbers, as `seen`.

    Returns:
        The numbers of every step.
    """
    mesh, lines = open_mesh(config.mesh), []
    frozen = stack_layers(model.params)
    settings = train_settings(config, len(data), mesh)
    heads: list[HeadName] = ["score"] if config.objective.scores and config.lora is not None else []
    start = init_trained(dataclasses.replace(model, params=frozen), config.lora, mesh, config.seed, heads)
    runner = Runner(model.spec, config.objective, None if config.lora is None else config.lora.alpha / config.lora.rank,
                    make_shape(data, settings, mesh, config.seed), settings.batch_size, mesh,
                    config.device.compute_dtype, progress=False)
    if config.objective.reference == "values":
        assert isinstance(data, FixedGroups)
        data = compute_reference(runner, start, frozen, data)
    optimizer, sync, extra = make_optimizer(settings, settings.steps or 0), None, None
    if config.reference.sync_every is not None:
        sync = ReferenceSync(config.reference.sync_every, config.reference.sync_mix)
        extra = {"reference": jax.tree.map(jnp.copy, start)}
    sink = SimpleNamespace(write=lambda step, values: lines.append(dict(values) | {"seen": seen()}))
    train(runner, dataclasses.replace(settings, steps=steps or settings.steps),
          init_state(start, optimizer, config.seed, extra), optimizer, frozen, data, config.seed, sync=sync,
          checkpointer=checkpointer, metrics=sink, progress=False)
    return lines
