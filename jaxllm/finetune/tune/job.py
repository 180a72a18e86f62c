"""`jaxllm tune`: fine-tunes a model on examples or preferences, and evaluates it on held-back rows."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from jaxllm.compile_cache import user_cache
from jaxllm.config import to_yaml
from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.finetune.trainable import HeadName, as_adapter, init_trained, merged
from jaxllm.finetune.tune import report
from jaxllm.finetune.tune.config import Config
from jaxllm.finetune.tune.data import Encoded, encode, read, split
from jaxllm.finetune.tune.run import (
    FixedGroups,
    History,
    ReferenceSync,
    Runner,
    compute_reference,
    content_hash,
    make_shape,
    measure,
    padding,
    train,
)
from jaxllm.generate import Generator
from jaxllm.job import Job, open_job
from jaxllm.model import Model, load
from jaxllm.models import save_model, stack_layers
from jaxllm.models.mesh import model_shardings
from jaxllm.models.peft import save_adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.text.readers import data_files
from jaxllm.train import Checkpointer, init_state, make_optimizer, open_metrics, read_metrics
from jaxllm.train.config import TrainConfig


def run(config: Config) -> Path | None:
    """Runs the job, or the rest of it; returns the path of result.json, or None for a dry run."""
    if config.dry_run:
        from jaxllm.finetune.tune.dry_run import dry_run

        print(dry_run(config))
        return None
    with open_job(config.out, config) as job:
        job.pin_file("data", data_files(config.data.path), config.data.limit)
        if config.held_back.path is not None:
            job.pin_file("held-back data", data_files(config.held_back.path))
        job.pin("model", fingerprint(model_directory(config.model)))
        return job.already_done() if job.finished else _run(config, job)


def _run(config: Config, job: Job) -> Path:
    rows, held_back_rows = read(config, job)
    mesh = open_mesh(config.mesh)
    model = load_model(config, mesh, rows.labels)
    encoded = encode(config, model, rows)
    job.write_rejected(sorted([*rows.rejected, *encoded.dropped], key=lambda row: row.line))
    if held_back_rows is None:
        encoded, held_back = split(encoded, config.held_back.share)
    else:
        held_back = encode(config, model, held_back_rows)
    settings = train_settings(config, len(encoded.data), mesh)
    base = Generator(model, dtype=config.device.compute_dtype, mesh=mesh, consume=True)
    frozen = base.training_params()
    heads: list[HeadName] = ["score"] if config.objective.scores and config.lora is not None else []
    optimizer = make_optimizer(settings, settings.steps or 0)
    start = init_trained(base.model, config.lora, mesh, config.seed, heads)
    scale = None if config.lora is None else config.lora.alpha / config.lora.rank
    shape = make_shape(encoded.data, settings, mesh, config.seed)
    runner = Runner(model.spec, config.objective, scale, shape, settings.batch_size, mesh, config.device.compute_dtype)
    held_back_runner = runner if held_back is None else dataclasses.replace(
        runner, shape=make_shape(held_back.data, dataclasses.replace(settings, steps=1), mesh, config.seed))
    if config.objective.reference == "values":
        encoded = _with_reference(config, runner, start, frozen, encoded)
        if held_back is not None:
            held_back = _with_reference(config, held_back_runner, start, frozen, held_back)
    extra = {"reference": jax.tree.map(jnp.copy, start)} if config.objective.reference == "extra" else None
    state = init_state(start, optimizer, config.seed, extra)
    history = History([], config.held_back.smaller, config.held_back.patience)
    best = f"eval_{config.held_back.metric}" if config.held_back.keep == "best" else None
    with Checkpointer(job.checkpoints, best, "min" if history.smaller else "max") as checkpointer:
        made = checkpointer.latest_step() or 0
        with open_metrics(job.metrics_path, made, config.train.trackers, yaml.safe_load(to_yaml(config))) as metrics:
            sync = config.reference.sync_every
            fitted = train(runner, settings, state, optimizer, frozen, encoded.data, config.seed,
                           dropout=0.0 if config.lora is None else config.lora.dropout,
                           sync=None if sync is None else ReferenceSync(sync, config.reference.sync_mix),
                           held_back=None if held_back is None else held_back.data,
                           held_back_runner=held_back_runner, evaluate_every=config.held_back.every, history=history,
                           metric=config.held_back.metric, checkpointer=checkpointer, metrics=metrics)
        if fitted.interrupted:
            raise KeyboardInterrupt("stopped; the same command resumes it")
        state = fitted.state
        kept = int(state.step)
        if best is not None and history.steps and history.best != kept:
            kept = history.best
            state = checkpointer.restore(state, kept).tree
    result = _result(config, job, runner, held_back_runner, state, frozen, encoded, held_back, settings, kept, history)
    _save(config, job, base, state.params)
    job.write_report(report.TITLES[config.kind], report.lead(config, result),
                     report.sections(config, result, read_metrics(job.metrics_path)))
    return job.write_result(result)


def load_model(config: Config, mesh: jax.sharding.Mesh, labels: list[str]) -> Model:
    """Loads the base model of a run onto a mesh, with a scoring head where the method trains one."""
    dtype = config.device.param_dtype if config.lora is not None else config.device.trained_dtype
    model = load(config.model, dtype, lambda spec: model_shardings(spec, mesh), config.device.quantize)
    return scoring_model(config, model, labels)


def scoring_model(config: Config, model: Model, labels: list[str]) -> Model:
    """Adds a scoring head, with one score per class or one in all, where the method trains a scoring model.

    Raises:
        UserError: the model has a scoring head, and the method trains a language model.
    """
    if not config.objective.scores:
        model.require_lm(f"be trained by method {config.method}")
        return model
    count = 1 if config.kind == "reward" else len(labels)
    return model.with_score_head(count, labels, config.seed)


def train_settings(config: Config, rows: int, mesh: jax.sharding.Mesh) -> TrainConfig:
    """Resolves the number of steps and of checkpoints, and checks that a batch divides over the devices."""
    groups, per_step = mesh.shape["data"] * mesh.shape["fsdp"], config.train.batch_size // config.train.accumulate
    if not config.train.packing and per_step % groups:
        raise UserError(f"{per_step} rows per step (batch_size / accumulate) do not divide over {groups} devices",
                        "train.batch_size", f"use a multiple of {groups}, or fewer devices with mesh.data")
    settings = config.train.resolve(rows)
    if config.held_back.keep == "best":  # every evaluated state has to be on disk
        settings = dataclasses.replace(settings, save_every=config.held_back.every)
    return settings


def _with_reference(config: Config, runner: Runner, start: Any, frozen: Any, encoded: Encoded) -> Encoded:
    assert isinstance(encoded.data, FixedGroups)
    name = content_hash(encoded.data, fingerprint(model_directory(config.model)), str(runner.dtype),
                        str(config.device.quantize), str(config.device.params))
    data = compute_reference(runner, start, frozen, encoded.data, user_cache() / "reference" / f"{name}.safetensors")
    return dataclasses.replace(encoded, data=data)


def _result(config: Config, job: Job, runner: Runner, held_back_runner: Runner, state: Any, frozen: Any,
            encoded: Encoded, held_back: Encoded | None, settings: TrainConfig, kept: int, history: History
            ) -> dict[str, Any]:
    """Evaluates the trained model, writes a row for every held-back row, and returns the contents of result.json."""
    result: dict[str, Any] = {
        "method": config.method, "losses": config.losses, "steps": kept, "rows": len(encoded.data),
        "held_back_rows": 0 if held_back is None else len(held_back.data), "rejected": len(encoded.dropped),
        "truncated": encoded.truncated, "padding": padding(runner, encoded.data, settings, config.seed)}
    last = [line for line in read_metrics(job.metrics_path) if line["step"] <= kept]
    result["train"] = {name: value for name, value in (last[-1] if last else {}).items()
                       if not name.startswith("eval_") and isinstance(value, float) and math.isfinite(value)}
    result["eval"] = {}
    if held_back is not None:
        outputs, values = held_back_runner.outputs(state.params, frozen, state.extra, held_back.data, "evaluate")
        result["eval"], per_row = measure(held_back_runner, outputs, values, held_back.clusters, config.seed)
        job.rows_path.unlink(missing_ok=True)
        for i, name in enumerate(held_back.ids):
            job.row({"id": name} | {key: float(value[i]) for key, value in per_row.items() if np.isfinite(value[i])})
    if history.steps:
        result["evaluations"] = [{"step": step, config.held_back.metric: value} for step, value in history.steps]
        result["best_step"] = history.best
    return result


def _save(config: Config, job: Job, base: Generator, trained: Any) -> None:
    """Saves the adapter, or the model, in DIR."""
    if config.save == "nothing":
        return
    folder = job.directory / config.save
    if folder.exists():  # left by a run that was killed before its result was written
        shutil.rmtree(folder)
    spec = base.model.spec
    if config.save == "model":
        save_model(folder, spec, stack_layers(merged(base.model, trained, config.lora)), config.model)
        return
    adapter = as_adapter(trained, config.lora)
    assert adapter is not None
    head = {"head": trained["score"]} if "score" in trained else {}
    save_adapter(folder, spec, adapter, config.model, **head)
