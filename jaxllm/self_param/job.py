"""`jaxllm inject`: documents written into a model's weights, one at a time, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm.devices import check_one_process
from jaxllm.errors import UserError
from jaxllm.files import JsonlWriter, plain, read_jsonl, write_jsonl
from jaxllm.job import Job, open_job
from jaxllm.models import save_model
from jaxllm.models.mesh import make_mesh, model_shardings
from jaxllm.models.peft import save_adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.self_param import report
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document, group, sort_out
from jaxllm.self_param.evaluation import (
    Answer,
    ask,
    batches,
    gap,
    mean_accuracy,
    mean_f1,
    plain_targets,
    question_targets,
)
from jaxllm.self_param.injection import (
    Injection,
    Recipe,
    Streams,
    inject,
    make_recipe,
    make_streams,
    purpose_seed,
)
from jaxllm.self_param.inputs import (
    ROW,
    check_window,
    fits,
    read_others,
    training_pairs,
    unrelated_ids,
    unrelated_texts,
)
from jaxllm.self_param.questions import QuestionSource, file_source
from jaxllm.self_param.targets import common_lengths
from jaxllm.statistics import interval
from jaxllm.text.model import Model, load
from jaxllm.text.rows import RowSet, check_share, read_rows
from jaxllm.train import Checkpointer, MetricsWriter, read_metrics


@dataclass(frozen=True)
class Study:
    """All that the documents of a job share.

    Attributes:
        model: the base model.
        documents: as read.
        streams: targets, one `Streams` a document.
        drift: batches of unrelated text that is not trained on.
        drift_texts: how many texts that is.
        recipes: compiled training, by name of the arm: `after` and, if asked for, `finetune`.
    """

    model: Model
    documents: Sequence[Document]
    streams: Sequence[Streams]
    drift: Sequence[dict[str, np.ndarray]]
    drift_texts: int
    recipes: dict[str, Recipe]


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        found = read_rows(config.data.path, ROW, None, config.data.limit_bad, job.rejected_path, config.data.limit)
        others = read_others(config)
        job.pin("data", found.rows)
        job.pin("model", fingerprint(model_directory(config.model)))
        for name, rows in others.items():
            job.pin(name, rows.rows)
        return job.already_done() if job.finished else _run(config, job, found, others)


def _run(config: Config, job: Job, found: RowSet, others: dict[str, RowSet]) -> Path:
    good, rejected = sort_out(found, config.data.path)
    job.write_rejected(rejected)
    check_share(len(good), rejected, config.data.limit_bad)
    everything = group(good)
    documents = everything[:config.documents]
    mesh = open_mesh(config)
    model = load(config.model, config.device.param_dtype, lambda spec: model_shardings(spec, mesh),
                 config.device.quantise)
    if model.spec.head is not None:
        raise UserError("the model scores texts and does not write them", config.model, "use a language model")
    check_window(config, model, documents)
    source = None
    if "questions" in others:
        source, useless = file_source(others["questions"], config.questions.source,
                                      {document.text for document in everything}, fits(config, model))
        rejected += useless
    if "unrelated texts" in others:
        rejected += others["unrelated texts"].rejected
    job.write_rejected(rejected)
    if source is not None:
        read = others["questions"]
        check_share(len(read.rows) + len(read.rejected) - len(useless), useless, config.data.limit_bad)
    study = prepare(config, job, model, mesh, documents, unrelated_texts(config, others), source)
    answers = {arm: ask(model, documents, config.format, config.sampling, reading=arm == "with_document",
                        dtype=config.device.compute_dtype, seed=config.seed) for arm in ("before", "with_document")}
    done = {record["document"]: record for record in read_jsonl(job.directory / "documents.jsonl")}
    with JsonlWriter(job.directory / "documents.jsonl") as writer:
        for number in range(len(documents)):
            if number not in done:
                known = {arm: found[number] for arm, found in answers.items()}
                done[number] = plain(one_document(config, job, study, number, known))
                writer.write(done[number])
                _forget(job, number, study.recipes)
    records = [done[number] for number in range(len(documents))]
    write_jsonl(job.directory / "rows.jsonl", (row for record in records for row in record["rows"]))
    asked = sum(len(document.pairs) for document in documents)
    result = summarise(config, records) | {
        "documents": len(documents), "questions": asked, "rejected": len(rejected),
        "repeated": len(good) - sum(len(document.pairs) for document in everything),
        "unrelated_texts": {"train": len(study.streams[0].unrelated), "drift": study.drift_texts}}
    job.write_report("Documents written into weights", report.lead(result),
                     report.sections(result, records, read_metrics(job.metrics_path)))
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


def prepare(config: Config, job: Job, model: Model, mesh: jax.sharding.Mesh, documents: Sequence[Document],
            texts: Sequence[str] | None, source: QuestionSource | None) -> Study:
    """Collects the texts to train on and compiles the steps.

    Args:
        texts: unrelated ones, None to let the model write them.
        source: of the pairs to train on, None to let the model make them.
    """
    training, drifting = unrelated_ids(config, model, texts)
    pairs = training_pairs(config, job, model, documents, source)
    streams = [make_streams(model, document.text, own, training, config.format, config.mixture,
                            purpose_seed(config.seed, "document", number), config.unrelated.with_document)
               for number, (document, own) in enumerate(zip(documents, pairs, strict=True))]
    lengths = common_lengths([target for stream in streams for target in stream.longest()], model.spec.max_positions)
    arms = {"after": "distill", "finetune": "finetune"} if config.finetune else {"after": "distill"}
    recipes = {arm: make_recipe(model, objective, config.train, config.lora, config.divergence, lengths,
                                config.device.compute_dtype, mesh) for arm, objective in arms.items()}
    drift = batches(plain_targets(model, drifting), model.spec.max_positions)
    return Study(model, documents, streams, drift, len(drifting), recipes)


def one_document(config: Config, job: Job, study: Study, number: int, known: dict[str, list[Answer]]) -> dict[str, Any]:
    """Injects one document by every arm, tests the results, keeps the model; what to remember of it."""
    model, document, dtype = study.model, study.documents[number], config.device.compute_dtype
    held_back = batches(question_targets(model, document, config.format), model.spec.max_positions)
    record: dict[str, Any] = {"document": number, "kl_before": gap(model, model.params, held_back, dtype)}
    for arm, recipe in study.recipes.items():
        result = train_arm(job, study, number, arm, recipe)
        student = dataclasses.replace(model, params=result.params)
        known[arm] = ask(student, [document], config.format, config.sampling, reading=False, dtype=dtype,
                         seed=config.seed)[0]
        record[f"kl_{arm}"] = gap(model, result.params, held_back, dtype)
        record[f"drift_kl_{arm}"] = gap(model, result.params, study.drift, dtype)
        if arm == "after":
            _keep(config, job, model, result, number)
    for arm, found in known.items():
        record[f"f1_{arm}"], record[f"accuracy_{arm}"] = mean_f1(found), mean_accuracy(found)
    record["rows"] = [
        {"document": number, "question": pair.question, "answers": list(pair.answers),
         **{arm: {"text": found[i].text, "f1": found[i].f1} for arm, found in known.items()}}
        for i, pair in enumerate(document.pairs)]
    return record


@dataclass(frozen=True)
class _Numbered:
    """Writes the metrics of one run among many: steps counted through, and whose they are."""

    writer: MetricsWriter
    before: int
    labels: dict[str, Any]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self.writer.write(self.before + step, {**self.labels, **values})


def train_arm(job: Job, study: Study, number: int, arm: str, recipe: Recipe) -> Injection:
    """One run of training, resumed if it was stopped half-way.

    Raises:
        KeyboardInterrupt: a signal stopped it; the checkpoint is saved.
    """
    folder = job.checkpoints / f"{number:04d}-{arm}"
    arms = list(study.recipes)
    before = (number * len(arms) + arms.index(arm)) * recipe.train.steps
    with Checkpointer(folder) as checkpointer, contextlib.ExitStack() as stack:
        made, metrics = checkpointer.latest_step() or 0, None
        if made < recipe.train.steps:  # after a finished arm stand the lines of the next, which are to stay
            writer = stack.enter_context(MetricsWriter(job.metrics_path, before + made))
            metrics = _Numbered(writer, before, {"document": number, "arm": arm})
        result = inject(study.model, study.streams[number], recipe, checkpointer=checkpointer, metrics=metrics)
    if result.interrupted:
        raise KeyboardInterrupt(f"stopped in document {number + 1}, '{arm}'; the same command goes on from there")
    return result


def _forget(job: Job, number: int, arms: Iterable[str]) -> None:
    """Removes the state of a document's training, which is noted down by now. By rename first: a kill in the middle
    would leave half a checkpoint, which nobody can tell from a damaged one."""
    for arm in arms:
        folder = job.checkpoints / f"{number:04d}-{arm}"
        if folder.exists():
            aside = folder.with_name(f".{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(folder.rename(aside))


def _keep(config: Config, job: Job, model: Model, result: Injection, number: int) -> None:
    folder = job.directory / ("adapters" if config.save == "adapter" else "models") / f"{number:04d}"
    if folder.exists():  # of a run that was killed between saving and noting it down
        shutil.rmtree(folder)
    if config.save == "adapter":
        save_adapter(folder, model.spec, result.adapter, config.model)
    elif config.save == "model":
        save_model(folder, model.spec, result.params, config.model)


def summarise(config: Config, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over documents with bootstrap intervals, under the names that result.json has."""
    mean = lambda name: interval([record[name] for record in records], config.seed)
    result: dict[str, Any] = {name: mean(name) for name in ("f1_before", "f1_after", "f1_with_document")}
    result["drift_kl"] = mean("drift_kl_after")
    result |= {name: mean(name) for name in ("kl_before", "kl_after", "accuracy_before", "accuracy_after",
                                             "accuracy_with_document")}
    if config.finetune:
        result |= {name: mean(name) for name in ("f1_finetune", "kl_finetune", "accuracy_finetune",
                                                 "drift_kl_finetune")}
    return result
