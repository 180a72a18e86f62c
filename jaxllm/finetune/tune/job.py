"""`jaxllm tune`: fine-tunes a model on examples or preferences, and evaluates it on held-back rows."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxllm.compile_cache import user_cache
from jaxllm.config import to_yaml
from jaxllm.devices import open_mesh
from jaxllm.finetune.inputs import check_stored_weights, load_base, pin_inputs
from jaxllm.finetune.trainable import as_adapter, merged
from jaxllm.finetune.tune import report
from jaxllm.finetune.tune.config import Config
from jaxllm.finetune.tune.data import read
from jaxllm.finetune.tune.run import History, padding
from jaxllm.finetune.tune.tuning import Tuning, prepare, scoring_model
from jaxllm.job import Job, open_job
from jaxllm.models import save_model, stack_layers
from jaxllm.models.peft import save_adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.train import TrainState, open_metrics, read_metrics


def run(config: Config) -> Path | None:
    """Runs the job, or the rest of it; returns the path of result.json, or None for a dry run."""
    check_stored_weights(config.model, config.lora, config.device, config.save)
    if config.dry_run:
        from jaxllm.finetune.tune.dry_run import dry_run

        print(dry_run(config))
        return None
    with open_job(config.out, config, "tune") as job:
        pin_inputs(config, job)
        return job.already_done() if job.finished else _run(config, job)


def _run(config: Config, job: Job) -> Path:
    rows, held_back = read(config, job)
    mesh = open_mesh(config.mesh)
    model = load_base(config, mesh)
    cache = user_cache() / "reference", fingerprint(model_directory(config.model))
    tuning = prepare(config, scoring_model(config, model, rows.labels), rows, held_back, donate=True,
                     limit_bad=config.data.limit_bad, reference_cache=cache)
    rejected = {"training": [*rows.rejected, *tuning.train.dropped], "held back": []}
    if held_back is not None and tuning.held_back is not None:
        rejected["held back"] = [*held_back.rejected, *tuning.held_back.dropped]
    job.write_rejected(row for own in rejected.values() for row in sorted(own, key=lambda row: row.line))
    with tuning.checkpointer(job.checkpoints) as checkpointer:
        made = checkpointer.latest_step() or 0
        with open_metrics(job.metrics_path, made, config.train.trackers, yaml.safe_load(to_yaml(config))) as metrics:
            fitted, history = tuning.fit(checkpointer, metrics)
        if fitted.interrupted:
            raise KeyboardInterrupt("stopped; the same command resumes it")
        state = tuning.final_state(fitted.state, history, checkpointer)
    result = _result(config, job, tuning, state, history)
    result["rejected"], result["held_back_rejected"] = map(len, rejected.values())
    _save(config, job, tuning, state.params)
    job.write_report(report.TITLES[config.kind], report.lead(config, result),
                     report.sections(config, result, read_metrics(job.metrics_path)))
    return job.write_result(result)


def _result(config: Config, job: Job, tuning: Tuning, state: TrainState, history: History) -> dict[str, Any]:
    """Evaluates the trained model, writes a row for every held-back row, and returns the contents of result.json."""
    train, held_back, steps = tuning.train, tuning.held_back, int(state.step)
    result: dict[str, Any] = {
        "method": config.method, "losses": config.losses, "steps": steps, "rows": len(train.data),
        "held_back_rows": 0 if held_back is None else len(held_back.data), "truncated": train.truncated,
        "held_back_truncated": 0 if held_back is None else held_back.truncated,
        "padding": padding(tuning.runner, train.data, tuning.settings, config.seed)}
    last = [line for line in read_metrics(job.metrics_path) if line["step"] <= steps]
    result["train"] = {name: value for name, value in (last[-1] if last else {}).items()
                       if not name.startswith("eval_") and isinstance(value, float) and math.isfinite(value)}
    result["eval"], by_row = tuning.evaluate(state)
    job.rows_path.unlink(missing_ok=True)
    for i, name in enumerate([] if held_back is None else held_back.ids):
        job.row({"id": name} | {key: float(value[i]) for key, value in by_row.items() if np.isfinite(value[i])})
    if history.steps:
        result["evaluations"] = [{"step": step, config.held_back.metric: value if math.isfinite(value) else None}
                                 for step, value in history.steps]
        result["best_step"] = history.best
    return result


def _save(config: Config, job: Job, tuning: Tuning, trained: Any) -> None:
    """Saves the adapter, or the model, in DIR."""
    if config.save == "nothing":
        return
    folder = job.directory / config.save
    if folder.exists():  # left by a run that was killed before its result was written
        shutil.rmtree(folder)
    model = tuning.base.model
    if config.save == "model":
        save_model(folder, model.spec, stack_layers(merged(model, trained, config.lora)), config.model)
        return
    adapter = as_adapter(trained, config.lora)
    assert adapter is not None
    save_adapter(folder, model.spec, adapter, config.model, head=trained.get("score"))
