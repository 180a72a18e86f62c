"""Documents written each into a fresh copy of the model."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

from jaxllm.evaluate.likelihood import mean_kl, target_batches
from jaxllm.files import JsonlWriter, plain, read_jsonl
from jaxllm.finetune.run import TrainResult, remove_checkpoints, train_run
from jaxllm.finetune.targets import interleave, purpose_seed
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.models import save_model
from jaxllm.models.peft import save_adapter
from jaxllm.self_param.config import Config
from jaxllm.self_param.evaluation import (
    Answer,
    ask_both,
    mean_accuracy,
    mean_f1,
    question_targets,
    say,
    unchanged,
)
from jaxllm.self_param.provenance import provenance
from jaxllm.self_param.study import Study
from jaxllm.statistics import interval, paired


def inject_each(config: Config, job: Job, study: Study, near: Sequence[str]) -> list[dict[str, Any]]:
    """Injects and tests the documents one by one; a record each, kept in documents.jsonl.

    Args:
        config: of the job.
        job: whose files are written.
        study: from `prepare`.
        near: questions that are near the documents; those of a document itself are not asked about it.
    """
    before = dict(zip(near, _say(config, study.model, near), strict=True))
    answers = {arm: ask_both(study.model, study.documents, config.format, config.sampling,
                             reading=arm == "with_document", dtype=config.device.compute_dtype, seed=config.seed)
               for arm in ("before", "with_document")}
    done = {record["document"]: record for record in read_jsonl(job.directory / "documents.jsonl")}
    with JsonlWriter(job.directory / "documents.jsonl") as writer:
        for number in range(len(study.documents)):
            if number not in done:
                known = {arm: (usual[number], reworded[number]) for arm, (usual, reworded) in answers.items()}
                done[number] = plain(_one_document(config, job, study, number, known, before))
                writer.write(done[number])
                remove_checkpoints(job, [f"{number:04d}-{arm}" for arm in study.recipes])
    return [done[number] for number in range(len(study.documents))]


def _one_document(config: Config, job: Job, study: Study, number: int,
                  known: dict[str, tuple[list[Answer], list[Answer]]], near: dict[str, str]) -> dict[str, Any]:
    """Injects one document by every arm, tests the results, keeps the model; what to remember of it.

    Args:
        known: answers to its questions and to their other wordings, by arm; filled in.
        near: other questions with the base model's answers.
    """
    model, document, dtype = study.model, study.documents[number], config.device.compute_dtype
    own = {pair.question for pair in document.pairs}
    near = {question: text for question, text in near.items() if question not in own}
    held_back = target_batches(question_targets(model, document, config.format), model.spec.max_positions)
    record: dict[str, Any] = {"document": number, "kl_before": mean_kl(model, model.params, held_back, dtype)}
    for place, (arm, recipe) in enumerate(study.recipes.items()):
        source = interleave(study.streams[arm][number], purpose_seed(config.seed, "order", number))
        result = train_run(job, model, source, recipe, f"{number:04d}-{arm}",
                           number * len(study.recipes) + place, {"document": number, "arm": arm})
        student = dataclasses.replace(model, params=result.params)
        (usual,), (reworded,) = ask_both(student, [document], config.format, config.sampling, reading=False,
                                         dtype=dtype, seed=config.seed)
        known[arm] = usual, reworded
        record[f"kl_{arm}"] = mean_kl(model, result.params, held_back, dtype)
        record[f"drift_kl_{arm}"] = mean_kl(model, result.params, study.drift, dtype)
        if near:
            record[f"locality_{arm}"] = unchanged(list(near.values()), _say(config, student, list(near)))
        if arm == "after":
            _keep(config, job, study, result, number)
    for arm, (found, reworded) in known.items():
        record[f"f1_{arm}"], record[f"accuracy_{arm}"] = mean_f1(found), mean_accuracy(found)
        if reworded:
            record[f"f1_paraphrased_{arm}"] = mean_f1(reworded)
    record["rows"] = [
        {"document": number, "question": pair.question, "answers": list(pair.answers),
         **{arm: {"text": found[i].text, "f1": found[i].f1} for arm, (found, _) in known.items()}}
        for i, pair in enumerate(document.pairs)]
    return record


def _say(config: Config, model: Model, questions: Sequence[str]) -> list[str]:
    return say(model, [(None, question) for question in questions], config.format, config.sampling,
               dtype=config.device.compute_dtype, seed=config.seed)


def _keep(config: Config, job: Job, study: Study, result: TrainResult, number: int) -> None:
    folder = job.directory / ("adapters" if config.save == "adapter" else "models") / f"{number:04d}"
    if folder.exists():  # of a run that was killed between saving and noting it down
        shutil.rmtree(folder)
    if config.save == "adapter":
        save_adapter(folder, study.model.spec, result.adapter, config.model,
                     provenance(config, study.documents, study.streams["after"], [number], "after"))
    elif config.save == "model":
        save_model(folder, study.model.spec, result.params, config.model)


def summarize(config: Config, study: Study, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over documents with bootstrap intervals, under the names that result.json has."""
    values = lambda name: [record[name] for record in records if name in record]
    mean = lambda name: interval(values(name), config.seed)
    result: dict[str, Any] = {name: mean(name) for name in ("f1_before", "f1_after", "f1_with_document")}
    result["drift_kl"] = mean("drift_kl_after")
    result["locality"] = mean("locality_after") if values("locality_after") else None
    result |= {name: mean(name) for name in ("kl_before", "kl_after", "accuracy_before", "accuracy_after",
                                             "accuracy_with_document")}
    result |= {name: mean(name) for arm in ("before", "with_document", *study.recipes)
               if values(name := f"f1_paraphrased_{arm}")}
    for arm in study.recipes:
        if arm != "after":
            result |= {name: mean(name) for name in (f"f1_{arm}", f"kl_{arm}", f"accuracy_{arm}", f"drift_kl_{arm}")}
            if values(name := f"locality_{arm}"):
                result[name] = mean(name)
            result[f"f1_after_over_{arm}"] = paired(values("f1_after"), values(f"f1_{arm}"), config.seed)
    return result
