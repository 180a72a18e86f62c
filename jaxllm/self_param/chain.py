"""Documents written into one model, together or one after the other, and what it knows of each after every step."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.evaluate.likelihood import mean_kl, perplexity
from jaxllm.evaluate.retrieval import Retriever
from jaxllm.files import JsonlWriter, plain, read_jsonl
from jaxllm.finetune.run import remove_checkpoints, train_run
from jaxllm.finetune.targets import InterleavedTargets, ReplayTargets, TargetSource, interleave, purpose_seed
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.models import merge_adapter
from jaxllm.models.network import Params
from jaxllm.models.peft import load_adapter, save_adapter
from jaxllm.self_param import retention
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document, asked_otherwise
from jaxllm.self_param.evaluation import (
    Answer,
    ask_both,
    judge,
    mean_accuracy,
    mean_f1,
    say,
    unchanged,
)
from jaxllm.self_param.memory import Memory
from jaxllm.self_param.provenance import provenance
from jaxllm.self_param.study import Study
from jaxllm.statistics import interval, paired

Record = dict[str, Any]


def groups(setting: str, count: int) -> list[list[int]]:
    """Which documents each injection writes."""
    return [list(range(count))] if setting == "batch" else [[number] for number in range(count)]


def arms(config: Config, study: Study) -> list[str]:
    """All that is compared, trained or not."""
    return [*study.recipes, *(["retrieval"] if "retrieval" in config.compare else [])]


def inject_in_turn(config: Config, job: Job, study: Study, near: Sequence[str]) -> list[Record]:
    """Writes the documents and tests the model after every injection; a record each, kept in steps.jsonl.

    Record 0 is the model as it was, `with_document` the same reading; then come the injections arm by arm. A job that
    was stopped merges the adapters of the injections that are done, and goes on.

    Args:
        config: of the job.
        job: whose files are written.
        study: from `prepare`.
        near: questions that are not about the documents.
    """
    done = {(record["arm"], record["step"]): record for record in read_jsonl(job.directory / "steps.jsonl")}
    with JsonlWriter(job.directory / "steps.jsonl") as writer:
        def measured(arm: str, step: int, make: Callable[[], Record]) -> Record:
            if (arm, step) not in done:
                done[arm, step] = plain({"arm": arm, "step": step, **make()})
                writer.write(done[arm, step])
            return done[arm, step]

        test = _Test(config, study, near)
        measured("before", 0, lambda: test.model(study.model.params))
        measured("with_document", 0, test.reader)
        for arm in study.recipes:
            _write_in_turn(config, job, study, arm, test, measured, done)
        if "retrieval" in config.compare:
            written: list[int] = []
            for step, group in enumerate(groups(config.setting, len(study.documents)), 1):
                written += group
                measured("retrieval", step, lambda known=tuple(written): test.retrieval(known))
    return list(done.values())


def _write_in_turn(config: Config, job: Job, study: Study, arm: str, test: _Test,
                   measured: Callable[..., Record], done: dict[tuple[str, int], Record]) -> None:
    """The injections of one arm, each on top of the one before."""
    params, steps = study.model.params, groups(config.setting, len(study.documents))
    first, memory = list(study.recipes).index(arm) * len(steps), Memory(config, job, study.streams[arm][0][0], arm)
    for step, group in enumerate(steps, 1):
        folder, name = _folder(job, arm, step), f"{arm}-{step:04d}"
        if (arm, step) in done:
            params = merge_adapter(params, load_adapter(folder, study.model.spec))
            continue
        model = dataclasses.replace(study.model, params=params)
        targets = _targets(config, study, arm, group, memory.before(step, model))
        result = train_run(job, model, targets, study.recipes[arm], name, first + step - 1,
                           {"arm": arm, "injection": step}, study.model.params)
        if folder.exists():  # of a run that was killed between saving and noting it down
            shutil.rmtree(folder)
        save_adapter(folder, model.spec, result.adapter, config.model,
                     provenance(config, study.documents, study.streams[arm], group, arm))
        params = result.params
        measured(arm, step, lambda params=params: test.model(params))
        remove_checkpoints(job, [name])


def _folder(job: Job, arm: str, step: int) -> Path:
    """Where an injection's adapter lies; those of comparisons are there to go on from, and not to be found first."""
    home = job.directory if arm == "after" else job.checkpoints / arm
    return home / "adapters" / f"{step - 1:04d}"


def _targets(config: Config, study: Study, arm: str, group: Sequence[int],
             known: tuple[tuple[int, ...], ...]) -> TargetSource:
    """What an injection learns from."""
    own = [[dataclasses.replace(one, recall=known) for one in streams] for streams in study.streams[arm]]
    seed = purpose_seed(config.seed, "order", group[0])
    new = interleave([one for number in group for one in own[number]], seed)
    if arm == "replay" and group[0]:
        return ReplayTargets(new, InterleavedTargets(tuple(one for streams in own[:group[0]] for one in streams), seed))
    return new


@dataclasses.dataclass(frozen=True)
class _Test:
    """Asks a model about all documents, and about what is near them."""

    config: Config
    study: Study
    near: Sequence[str]

    def model(self, params: Params) -> Record:
        """Of a model that reads nothing."""
        study, dtype = self.study, self.config.device.compute_dtype
        student = dataclasses.replace(study.model, params=params)
        moved = params is not study.model.params
        near = self._say(student, [(None, question) for question in self.near])
        return self._record(*self._ask(student, False), near,
                            mean_kl(study.model, params, study.drift, dtype) if moved else 0.0,
                            perplexity(study.model, params, study.drift, dtype))

    def reader(self) -> Record:
        """Of the base model with the right document before each question."""
        return self._record(*self._ask(self.study.model, True))

    def retrieval(self, known: Sequence[int]) -> Record:
        """Of the base model with the document before each question that BM25 finds among the `known` ones."""
        documents, model = self.study.documents, self.study.model
        found = Retriever([text for number in known for text in documents[number].passages])
        read = lambda questions: list(zip(found.best(questions), questions, strict=True))

        def answers(documents: Sequence[Document]) -> list[list[Answer]]:
            said = iter(self._say(model, read([pair.question for one in documents for pair in one.pairs])))
            return [[judge(next(said), pair.answers) for pair in one.pairs] for one in documents]

        near = self._say(model, read(self.near))
        return self._record(answers(documents), answers(asked_otherwise(documents)), near, 0.0,
                            perplexity(model, model.params, self.study.drift, self.config.device.compute_dtype))

    def _ask(self, model: Model, reading: bool) -> tuple[list[list[Answer]], list[list[Answer]]]:
        return ask_both(model, self.study.documents, self.config.format, self.config.sampling, reading=reading,
                        dtype=self.config.device.compute_dtype, seed=self.config.seed)

    def _say(self, model: Model, asked: Sequence[tuple[str | None, str]]) -> list[str]:
        return say(model, asked, self.config.format, self.config.sampling, dtype=self.config.device.compute_dtype,
                   seed=self.config.seed)

    @staticmethod
    def _record(answers: Sequence[Sequence[Answer]], reworded: Sequence[Sequence[Answer]], near: Sequence[str] = (),
                drift: float = 0.0, perplexity: float | None = None) -> Record:
        return {"f1": [mean_f1(own) for own in answers], "f1_paraphrased": [mean_f1(own) for own in reworded if own],
                "accuracy": [mean_accuracy(own) for own in answers],
                "answers": [[one.text for one in own] for own in answers], "near": list(near), "drift_kl": drift,
                "perplexity": perplexity}


def rows(documents: Sequence[Document], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every question with its answers: before, with the document, and at the end of every arm."""
    last = {record["arm"]: record for record in records}
    return [{"document": number, "question": pair.question, "answers": list(pair.answers),
             **{arm: {"text": record["answers"][number][i], "f1": judge(record["answers"][number][i], pair.answers).f1}
                for arm, record in last.items()}}
            for number, document in enumerate(documents) for i, pair in enumerate(document.pairs)]


def summarize(config: Config, study: Study, records: Sequence[Record]) -> dict[str, Any]:
    """What result.json has of a model that many documents were written into."""
    of = lambda arm: sorted((record for record in records if record["arm"] == arm), key=lambda one: one["step"])
    (before,), (reader,) = of("before"), of("with_document")
    steps = groups(config.setting, len(study.documents))
    written = [step for step, group in enumerate(steps, 1) for _ in group]
    mean = lambda values: interval(values, config.seed)
    said = lambda record: mean(record["f1_paraphrased"]) if record["f1_paraphrased"] else None

    def numbers(arm: str) -> dict[str, Any]:
        own = [before, *of(arm)]
        matrix = np.array([record["f1"] for record in own])
        return {"f1_matrix": matrix.tolist(), "f1": mean(matrix[-1]), "accuracy": mean(own[-1]["accuracy"]),
                "share_of_reader": float(matrix[-1].mean() / max(np.mean(reader["f1"]), 1e-9)),
                "f1_paraphrased": said(own[-1]), "efficacy": mean(retention.efficacy(matrix, written)),
                "retention_by_lag": retention.retention_by_lag(matrix, written),
                "mean_seen": retention.mean_seen(matrix, written), "untold": retention.untold(matrix, written),
                "locality": [unchanged(before["near"], record["near"]) for record in own[1:]] if before["near"]
                else None,
                "drift_kl": [record["drift_kl"] for record in own[1:]],
                "perplexity": [record["perplexity"] for record in own]}

    ours = numbers("after")
    baselines = {arm: numbers(arm) for arm in arms(config, study) if arm != "after"}
    for other in baselines.values():
        other["f1_after_over_this"] = paired(ours["f1_matrix"][-1], other["f1_matrix"][-1], config.seed)
    return {"f1_before": mean(before["f1"]), "f1_with_document": mean(reader["f1"]),
            "f1_paraphrased_before": said(before), "f1_paraphrased_with_document": said(reader),
            "f1_after": ours["f1"], **{name: value for name, value in ours.items() if name != "f1"},
            "near_questions": len(before["near"]), "baselines": baselines}
