"""`jaxllm inject`: injects documents into the weights of a model and evaluates the result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.files import write_jsonl
from jaxllm.finetune.inputs import check_stored_weights
from jaxllm.finetune.packing import can_pack
from jaxllm.generate import Generator
from jaxllm.job import Job, open_job
from jaxllm.model import Model, load, model_tokenizer
from jaxllm.models import load_spec
from jaxllm.models.mesh import model_shardings
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.self_param import report
from jaxllm.self_param.chunking import check_probes, chunk_documents
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import InjectionData, format_examples, input_files, load_data, unknown_context
from jaxllm.self_param.dry_run import dry_run
from jaxllm.self_param.experiment import Experiment, cache_error, prepare, run_experiment, weight_dtype
from jaxllm.self_param.metrics import result_rows, summarize
from jaxllm.self_param.prompts import Prompts
from jaxllm.self_param.qa_filter import summarize_pairs
from jaxllm.self_param.qa_pairs import check_mode, pairs_of_file
from jaxllm.text.readers import data_files
from jaxllm.train import read_metrics


def run(config: Config) -> Path | None:
    """Runs the job, or the rest of it; returns the path of result.json, or None for a dry run."""
    check_stored_weights(config.model, config.lora, config.device, config.save)
    if config.dry_run is not None:
        print(dry_run(config, training_mesh(config)))
        return None
    with open_job(config.out, config, "inject") as job:
        job.pin_file("data", data_files(config.data.path), config.data.limit)
        job.pin("model", fingerprint(model_directory(config.model)))
        for role, (path, _) in input_files(config).items():
            job.pin_file(role, data_files(path))
        return job.already_done() if job.finished else _run(config, job)


def _run(config: Config, job: Job) -> Path:
    tokenizer = model_tokenizer(config.model, load_spec(config.model))
    template = config.format.resolve(tokenizer.has_chat_template)
    if config.mixture.qa:
        check_mode(config.qa_pairs, template)
    data, mesh = load_data(config, job), training_mesh(config)
    experiment = _prepare(config, job, load_model(config, mesh), mesh, data)
    teacher_cache = cache_error(experiment)
    records = run_experiment(experiment)
    rows_of_result = result_rows(experiment.documents, records, experiment.single)
    write_jsonl(job.rows_path, rows_of_result)
    injections = [step for step, group in enumerate(experiment.groups, 1) for _ in group]
    result = summarize(records, experiment.single, injections, config.seed) | {
        "setting": config.setting, "documents": len(experiment.documents),
        "questions": sum(len(document.questions) for document in experiment.documents),
        "rejected": len(data.rejected.rows), "repeated": data.repeated,
        "chunks": [len(document.passages) for document in experiment.documents],
        "locality_probes": len(data.locality_probes),
        "unrelated_texts": {"train": experiment.unrelated_texts, "drift": len(experiment.evaluator.drift)},
        "teacher_cache": teacher_cache}
    if config.mixture.qa:
        passages = [text for document in experiment.documents for text in document.passages]
        result["qa_pairs"] = summarize_pairs(passages, [own for document in experiment.pairs for own in document])
    job.write_report("Documents injected into weights", report.lead(result),
                     report.sections(result, rows_of_result, read_metrics(job.metrics_path)))
    return job.write_result(result)


def _prepare(config: Config, job: Job, model: Model, mesh: jax.sharding.Mesh, data: InjectionData) -> Experiment:
    base = Generator(model, dtype=config.device.compute_dtype, mesh=mesh, batch_size=config.generation_batch_size,
                     donate=True)
    prompts = Prompts(base.model, config.format, append_eos=config.qa_pairs.append_eos)
    prompts = dataclasses.replace(prompts, examples=format_examples(prompts.format, data.examples))
    anything = [pair.question for document in data.documents for pair in document.all_questions]
    documents = chunk_documents(config, prompts, data.documents, source=config.data.path, retrieval_questions=(
        [*anything, *data.locality_probes] if "retrieval" in config.compare else ()))
    check_probes(config, prompts, data.locality_probes)
    given = None
    if data.pairs is not None:
        given, rejected = pairs_of_file(data.pairs, config.qa_pairs.source, data.contexts, prompts, documents,
                                        unknown_context(config))
        data.rejected.add(rejected, len(data.pairs.rows) + len(data.pairs.rejected) - len(rejected))
    return prepare(config, job, base, mesh, prompts, documents, given=given, probes=data.locality_probes,
                   texts=data.unrelated)


def load_model(config: Config, mesh: jax.sharding.Mesh) -> Model:
    """Loads the base model of a run onto a mesh.

    Raises:
        UserError: it has a scoring head, or cannot be loaded.
    """
    model = load(config.model, weight_dtype(config), lambda spec: model_shardings(spec, mesh), config.device.quantize)
    model.require_lm("inject")
    return model


def training_mesh(config: Config) -> jax.sharding.Mesh:
    """Opens the mesh of a run.

    Raises:
        UserError: there are too few devices, or the rows of a batch do not divide over them.
    """
    mesh = open_mesh(config.mesh)
    groups, rows = mesh.shape["data"] * mesh.shape["fsdp"], config.train.batch_size // config.train.accumulate
    # Packed rows are as many as the devices need.
    if rows % groups and not (config.train.packing and can_pack(load_spec(config.model))):
        raise UserError(f"{rows} rows per step (batch_size / accumulate) do not divide over {groups} devices",
                        "train.batch_size", f"use a multiple of {groups}, or fewer devices with mesh.data")
    return mesh
