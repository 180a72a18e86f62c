"""`jaxllm rl`: fine-tunes a model by reinforcement learning, with one agent or two that cooperate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from jaxllm.config import to_yaml
from jaxllm.cory import report
from jaxllm.cory.config import Config
from jaxllm.cory.prompts import check_row, check_template, longest_prompt
from jaxllm.cory.team import NAMES, Team, Trainer
from jaxllm.cory.training import agents_of, fit, split
from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.evaluate.gsm8k import is_right
from jaxllm.finetune.inputs import check_stored_weights, load_base, pin_inputs
from jaxllm.finetune.trainable import as_adapter, merged
from jaxllm.generate import Generator
from jaxllm.job import Job, open_job
from jaxllm.model import Model
from jaxllm.models import save_model, stack_layers
from jaxllm.models.peft import save_adapter
from jaxllm.rl.rewards import Row, open_reward
from jaxllm.text.rows import Message, RowSet, read_rows
from jaxllm.text.templates import fields_of
from jaxllm.train import Checkpointer, MetricsSink, MetricsWriter, open_metrics, read_metrics


def run(config: Config) -> Path | None:
    """Runs the job, or the rest of it; returns the path of result.json, or None for a dry run."""
    check_stored_weights(config.model, config.lora, config.device, config.save)
    if config.dry_run:
        from jaxllm.cory.dry_run import dry_run

        print(dry_run(config))
        return None
    with open_job(config.out, config, "rl") as job:
        pin_inputs(config, job)
        return job.already_done() if job.finished else _run(config, job)


def read(config: Config, model: Model, job: Job | None) -> tuple[Sequence[Row], Sequence[Row]]:
    """Reads the rows for training, and the held-back ones; see `split`.

    Raises:
        UserError: a file cannot be read, too many of its rows cannot be used, or the observer's template is too long.
    """
    check_template(model, config)
    found = _rows(config, model, config.data.path, config.data.limit, None if job is None else job.rejected_path).rows
    if config.held_back.path is not None:
        return found, _rows(config, model, config.held_back.path, config.held_back.rows, None).rows
    return split(found, config.query, config.held_back.rows, model)


def _rows(config: Config, model: Model, path: str, limit: int | None, rejected_path: Path | None) -> RowSet:
    columns: dict[str, Any] = {"prompt": str, "messages": list[Message], "text": str}
    required: dict[str, Any] = {}
    if config.query.template is not None:
        required = {name: Any for name in fields_of(config.query.template)}
        columns = {}

    longest = longest_prompt(config, model.spec)

    def refusal(row: dict[str, Any]) -> str | None:
        try:
            check_row(model, config, row, longest)
            if {"gsm8k", "gsm8k_strict"} & set(config.reward_names):
                is_right("", str(row.get("answer")))
        except UserError as error:
            return error.what
        except ValueError as error:
            return str(error)
        return None

    return read_rows(path, required, columns, config.data.limit_bad, rejected_path, limit, refusal)


def _run(config: Config, job: Job) -> Path:
    mesh = open_mesh(config.mesh)
    model = load_base(config, mesh)
    model.require_lm("be trained by rewards", config.model)
    rows, held_back = read(config, model, job)
    base = Generator(model, dtype=config.device.compute_dtype, mesh=mesh, donate=True,
                     batch_size=min(256, config.rows))
    reward = open_reward(config.reward_names, config.rewards, config.device, job.directory)
    job.pin("reward", reward.identity)
    trainer = Trainer.make(config, base, rows, held_back, reward, mesh)
    with Checkpointer(job.checkpoints) as checkpointer:
        team, notes = trainer.start(), dict[str, Any]()
        if (made := checkpointer.latest_step() or 0):
            restored, notes = checkpointer.restore(agents_of(team))
            team = Team(tuple(restored[name] for name in NAMES[:config.agents]), notes["pioneer"], notes["drawn"],
                        tuple(notes["idle"]))
        else:
            notes = {"before": trainer.evaluate(team)}
        with _open_files(job, made) as (metrics, samples):
            team, interrupted = fit(trainer, team, made, notes["before"], checkpointer=checkpointer, metrics=metrics,
                                    samples=samples, shown=config.samples)
    if interrupted:
        raise KeyboardInterrupt("stopped; the same command resumes it")
    lines = read_metrics(job.metrics_path)
    result = _result(config, notes["before"], trainer.evaluate(team), lines, len(rows), len(held_back))
    _save(config, job, trainer, team)
    job.write_report(report.title(config), report.lead(config, result),
                     report.sections(config, result, lines, list(job.iter_rows())))
    return job.write_result(result)


@contextmanager
def _open_files(job: Job, made: int) -> Iterator[tuple[MetricsSink, MetricsSink]]:
    """Opens metrics.jsonl and rows.jsonl; lines of iterations that are repeated are removed."""
    config = job.config
    with ExitStack() as stack:
        metrics = stack.enter_context(open_metrics(job.metrics_path, made, config.train.trackers,
                                                   yaml.safe_load(to_yaml(config)), first=0))
        samples = stack.enter_context(MetricsWriter(job.rows_path, made, first=0))
        yield _FromZero(metrics), samples


class _FromZero:
    """Numbers iterations from 0, where `Session` counts those made."""

    def __init__(self, sink: MetricsSink):
        self._sink = sink

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        self._sink.write(step - 1, values)


def _result(config: Config, before: Mapping[str, Any], after: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]],
            rows: int, held_back: int) -> dict[str, Any]:
    agents = {name: {"before": before.get(name, {}), "after": after.get(name, {})}
              for name in NAMES[:config.agents]}
    seconds: dict[str, float] = {}
    for line in metrics[1:]:  # the first iteration compiles
        for phase, value in line["seconds"].items():
            seconds[phase] = seconds.get(phase, 0.0) + value / max(len(metrics) - 1, 1)
    return {"algorithm": config.algorithm, "iterations": config.iterations, "rows": rows, "held_back_rows": held_back,
            "agents": agents, "seconds_per_iteration": seconds,
            "first_ratio_error": max((own["first_ratio_error"] for line in metrics for own in line["agents"].values()
                                  if own["first_ratio_error"] is not None), default=None),
            "skipped_updates": sum(own["skipped"] for line in metrics for own in line["agents"].values())}


def _save(config: Config, job: Job, trainer: Trainer, team: Team) -> None:
    """Saves adapters or models under DIR/agents."""
    if config.save == "nothing":
        return
    folder = job.directory / "agents"
    if folder.exists():  # left by a run that was killed before its result was written
        shutil.rmtree(folder)
    model = trainer.base.model
    for name, state in agents_of(team).items():
        if config.save == "model":
            save_model(folder / name, model.spec, stack_layers(merged(model, state.params, config.lora)), config.model)
        else:
            adapter = as_adapter(state.params, config.lora)
            assert adapter is not None
            save_adapter(folder / name, model.spec, adapter, config.model)
