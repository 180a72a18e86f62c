"""`jaxllm inject`: documents written into a model's weights, and what came of it."""

from __future__ import annotations

from pathlib import Path

import jax

from jaxllm.devices import check_one_process, make_mesh
from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.job import Job, open_job
from jaxllm.model import load
from jaxllm.models.mesh import model_shardings
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.self_param import chain, chain_report, report, single
from jaxllm.self_param.config import Config
from jaxllm.self_param.dry import dry_run
from jaxllm.self_param.inputs import ROW, given_pairs, read_inputs, read_others
from jaxllm.self_param.room import fits, windowed
from jaxllm.self_param.study import prepare
from jaxllm.text.rows import RowSet, read_rows
from jaxllm.train import read_metrics


def run(config: Config) -> Path | None:
    """Runs the job, or the rest of it; returns the path of its result.json. A dry run has none."""
    if config.dry_run is not None:
        print(dry_run(config, open_mesh(config)))
        return None
    with open_job(config.out, config) as job:
        found = read_rows(config.data.path, ROW, None, config.data.limit_bad, job.rejected_path, config.data.limit)
        others = read_others(config)
        job.pin("data", found.rows)
        job.pin("model", fingerprint(model_directory(config.model)))
        for name, rows in others.items():
            job.pin(name, rows.rows)
        return job.already_done() if job.finished else _run(config, job, found, others)


def _run(config: Config, job: Job, found: RowSet, others: dict[str, RowSet]) -> Path:
    inputs = read_inputs(config, job, found, others)
    mesh = open_mesh(config)
    model = load(config.model, config.device.param_dtype, lambda spec: model_shardings(spec, mesh),
                 config.device.quantize)
    if model.spec.head is not None:
        raise UserError("the model scores texts and does not write them", config.model, "use a language model")
    documents = windowed(config, model, inputs.documents, inputs.examples, inputs.near)
    source = given_pairs(config, inputs, fits(config, model, documents))
    study = prepare(config, job, model, mesh, documents, inputs.unrelated, source, inputs.examples)
    if config.setting == "single":
        records = single.inject_each(config, job, study, inputs.near)
        rows, summary = [row for record in records for row in record["rows"]], single.summarize(config, study, records)
    else:
        records = chain.inject_in_turn(config, job, study, inputs.near)
        rows, summary = chain.rows(documents, records), chain.summarize(config, study, records)
    write_jsonl(job.directory / "rows.jsonl", rows)
    asked = sum(len(document.pairs) for document in documents)
    result = summary | {
        "setting": config.setting, "documents": len(documents), "questions": asked,
        "rejected": len(inputs.useless.rows), "repeated": inputs.repeated,
        "windows": [len(document.passages) for document in documents],
        "unrelated_texts": {"train": len(study.streams["after"][0][0].unrelated), "drift": study.drift_texts}}
    metrics = read_metrics(job.metrics_path)
    job.write_report("Documents written into weights", report.lead(result),
                     report.sections(result, records, metrics) if config.setting == "single"
                     else chain_report.sections(result, rows, metrics))
    return job.write_result(result)


def open_mesh(config: Config) -> jax.sharding.Mesh:
    """The devices that share a step.

    Raises:
        UserError: more are asked for than there are, or the rows of a batch cannot be shared evenly.
    """
    check_one_process("inject")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    groups, rows = mesh.shape["data"] * mesh.shape["fsdp"], config.train.batch_size // config.train.accumulate
    if rows % groups:
        raise UserError(f"{rows} rows at a time (batch_size / accumulate) do not divide over {groups} devices",
                        "train.batch_size", f"take a multiple of {groups}, or fewer devices with mesh.data")
    return mesh
