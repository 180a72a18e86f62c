"""Injections by every method, each evaluated: steps x methods -> records.

An injection adds the documents of one step: a single document (setting single, sequential) or all (batch). In the
setting single every injection starts from the base model; in sequential from the weights after the one before.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.files import JsonlWriter, plain, read_jsonl, write_jsonl
from jaxllm.finetune.run import TrainPlan, TrainResult, remove_checkpoints, resolved_steps, train_run
from jaxllm.finetune.targets import InterleavedTargets, ReplayTargets, TargetSource, interleave, purpose_seed
from jaxllm.finetune.teacher_cache import top_k_error
from jaxllm.generate import Generator
from jaxllm.job import Job
from jaxllm.models import Adapter, merge_adapter, save_model, stack_layers
from jaxllm.models.peft import load_adapter, save_adapter
from jaxllm.self_param.config import Config, Method
from jaxllm.self_param.data import Document
from jaxllm.self_param.evaluation import Evaluator, drift_targets
from jaxllm.self_param.injection import OBJECTIVES, method_targets, training_plan
from jaxllm.self_param.metrics import Record, injection_groups
from jaxllm.self_param.prompts import Prompts
from jaxllm.self_param.provenance import provenance
from jaxllm.self_param.qa_filter import PassagePairs, QAPair, as_row, of_row
from jaxllm.self_param.qa_pairs import check_covered, make_qa_pairs
from jaxllm.self_param.targets import DocumentTargets, rehearsal_before, sample_rehearsal, sample_unrelated

RECORDS, REHEARSAL = "records.jsonl", "rehearsal.jsonl"
Measure = Callable[[Method, int, Callable[[], dict[str, Any]]], Record]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that the injections of a run share.

    Attributes:
        config: settings of the run.
        job: its directory.
        base: the base model.
        prompts: builds the token sequences.
        documents: documents, chunked.
        evaluator: evaluates weights and baselines.
        targets: method -> targets of the passages of every document.
        plans: method -> compiled training step.
        unrelated_texts: number of unrelated training texts.
        pairs: QA pairs of the passages of every document, with those that were dropped.
    """

    config: Config
    job: Job
    base: Generator
    prompts: Prompts
    documents: Sequence[Document]
    evaluator: Evaluator
    targets: Mapping[Method, Sequence[tuple[DocumentTargets, ...]]]
    plans: Mapping[Method, TrainPlan]
    unrelated_texts: int
    pairs: Sequence[Sequence[PassagePairs]] = ()

    @property
    def groups(self) -> list[list[int]]:
        """Documents of each injection."""
        return injection_groups(self.config.setting, len(self.documents))

    @property
    def single(self) -> bool:
        """Whether every injection starts from the base model."""
        return self.config.setting == "single"


def prepare(config: Config, job: Job, base: Generator, mesh: jax.sharding.Mesh, prompts: Prompts,
            documents: Sequence[Document], *, given: Sequence[Sequence[QAPair]] | None, probes: Sequence[str],
            texts: Sequence[str] | None) -> Experiment:
    """Collects QA pairs, unrelated texts and rehearsal data, and compiles the training steps.

    Args:
        config: settings of the run.
        job: its directory; rehearsal.jsonl, unrelated.jsonl and pairs.jsonl keep sampled texts and the pairs for a
            resumed run.
        base: the base model.
        mesh: devices that share a step.
        prompts: builds the token sequences.
        documents: documents, chunked.
        given: QA pairs of every document; None generates them.
        probes: locality probes.
        texts: unrelated texts; None samples them from the model.

    Raises:
        UserError: a document has no usable pair; pairs.jsonl has those that were dropped.
    """
    rehearsal = _rehearsal(config, job, base, prompts)
    made = _stored_pairs(config, job, base, prompts, documents, given)
    check_covered(config, documents, made)
    if rehearsal:  # after the pairs: where these end in an error, the directory is free
        write_jsonl(job.directory / REHEARSAL, ({"text": base.model.tokenizer.decode(ids), "ids": ids}
                                                for ids in rehearsal))
    unrelated, held_out = _stored_unrelated(config, job, base, texts)
    pairs = [[passage.selected for passage in own] for own in made]
    methods = [method for method in OBJECTIVES if method in {"self_param", *config.compare}]
    targets = {method: method_targets(method, config, prompts, documents, pairs, unrelated, rehearsal)
               for method in methods}
    groups = injection_groups(config.setting, len(documents))
    injections = {method: [[one for number in group for one in own[number]] for group in groups]
                  for method, own in targets.items()}
    plans = {method: training_plan(method, config, base, prompts, injections[method], mesh,
                                   two_teachers=two_teachers(config, method)) for method in methods}
    evaluator = Evaluator(config, base, prompts, documents, probes, drift_targets(prompts, held_out))
    return Experiment(config, job, base, prompts, documents, evaluator, targets, plans, len(unrelated), made)


def cache_error(experiment: Experiment) -> dict[str, float] | None:
    """Measures what the cache of the teacher's top k leaves out, on the first batch of the first injection.

    Returns:
        `top_k`, and the values of `top_k_error`; None where the teacher runs in every step.
    """
    plan = experiment.plans["self_param"]
    if plan.top_k is None:
        return None
    rehearsal = experiment.targets["self_param"][0][0].rehearsal
    source = _source(experiment, "self_param", experiment.groups[0], rehearsal)
    targets = [source.target(number) for number in range(plan.train.batch_size // plan.train.accumulate)]
    lengths = plan.student_length, plan.teacher_length
    return {"top_k": plan.top_k, **top_k_error(experiment.base, targets, plan.top_k, lengths,
                                               plan.divergence.temperature, plan.dtype, plan.mesh)}


def weight_dtype(config: Config) -> jnp.dtype | None:
    """Dtype to load the base model in; None is the stored dtype.

    Weights that change are float32 by default: where all of them are trained, and in sequential injection, where one
    adapter after the other is merged into them and bfloat16 would round most of each away.
    """
    changes = config.lora is None or config.setting == "sequential"
    return config.device.trained_dtype if changes else config.device.param_dtype


def two_teachers(config: Config, method: Method) -> bool:
    """Whether documents are read by the base model, and not by the current one."""
    return config.teacher == "base" and OBJECTIVES[method] == "distill"


def _rehearsal(config: Config, job: Job, base: Generator, prompts: Prompts) -> tuple[tuple[int, ...], ...]:
    """Reads the texts of rehearsal.jsonl, or samples those before the first injection; see `sample_rehearsal`."""
    if not config.mixture.rehearsal:
        return ()
    stored = tuple(tuple(row["ids"]) for row in read_jsonl(job.directory / REHEARSAL))
    return stored or sample_rehearsal(config, base, prompts, purpose_seed(config.seed, "recall", 0))


def _stored_unrelated(config: Config, job: Job, base: Generator, texts: Sequence[str] | None
                      ) -> tuple[list[list[int]], list[list[int]]]:
    """Reads the texts of unrelated.jsonl, or samples and writes them; see `sample_unrelated`."""
    if texts is not None:
        return sample_unrelated(config, base, texts)
    path = job.directory / "unrelated.jsonl"
    if not path.is_file():
        train, held_out = sample_unrelated(config, base, None)
        write_jsonl(path, ({"held_out": number >= len(train), "text": base.model.tokenizer.decode(ids), "ids": ids}
                           for number, ids in enumerate([*train, *held_out])))
    rows = read_jsonl(path)
    return [row["ids"] for row in rows if not row["held_out"]], [row["ids"] for row in rows if row["held_out"]]


def _stored_pairs(config: Config, job: Job, base: Generator, prompts: Prompts, documents: Sequence[Document],
                  given: Sequence[Sequence[QAPair]] | None) -> list[list[PassagePairs]]:
    """Reads the pairs of pairs.jsonl, and makes and writes those of the other passages, so that a resumed run trains on
    the same."""
    if not config.mixture.qa:
        return make_qa_pairs(config, base, prompts, documents)
    path = job.directory / "pairs.jsonl"
    made = [of_row(row) for row in read_jsonl(path)]
    places = [{"document": number, "chunk": part} for number, document in enumerate(documents)
              for part in range(len(document.passages))]
    remaining = iter(places[len(made):])
    with JsonlWriter(path) as writer:
        return make_qa_pairs(config, base, prompts, documents, given, job.directory, made=made,
                             on_made=lambda own: writer.write(next(remaining) | as_row(own)))


def run_experiment(experiment: Experiment) -> list[Record]:
    """Runs all injections and evaluates each; returns the records, which records.jsonl keeps for a resumed run.

    The records of step 0 are the base model, closed-book and open-book. A resumed sequential run merges the adapters of
    the injections that are done, for methods that have others to make.
    """
    path = experiment.job.directory / RECORDS
    done = {(record.method, record.step): record for record in (Record(**line) for line in read_jsonl(path))}
    with JsonlWriter(path) as writer:
        def measure(method: Method, step: int, evaluate: Callable[[], dict[str, Any]]) -> Record:
            if (method, step) not in done:
                line = plain(dataclasses.asdict(Record(method=method, step=step, **evaluate())))
                done[method, step] = Record(**line)
                writer.write(line)
            return done[method, step]

        evaluator, everything = experiment.evaluator, range(len(experiment.documents))
        measure("closed_book", 0, lambda: evaluator.closed_book(experiment.base, None, everything, True))
        measure("open_book", 0, evaluator.open_book)
        for method in experiment.plans:
            _run_method(experiment, method, measure, done)
        if "retrieval" in experiment.config.compare:
            injected: list[int] = []
            for step, group in enumerate(experiment.groups, 1):
                injected += group
                measure("retrieval", step, partial(evaluator.retrieval, tuple(injected)))
    return list(done.values())


def _run_method(experiment: Experiment, method: Method, measure: Measure, done: Mapping[tuple[Method, int], Record]
                ) -> None:
    """Runs and evaluates the injections of one method.

    Adapters are merged only where a later injection of the method still has to be trained on the weights; the last one
    is evaluated next to them.
    """
    config, job, base = experiment.config, experiment.job, experiment.base
    groups = experiment.groups
    rehearses = any("rehearsal" in one.types for own in experiment.targets[method] for one in own)
    samples = {1: experiment.targets[method][0][0].rehearsal}
    current = base
    missing = [step for step in range(1, len(groups) + 1) if (method, step) not in done]
    for step, group in enumerate(groups, 1):
        folder, name = _adapter_folder(job, method, step), f"{method}-{step:04d}"
        if (method, step) in done:
            remove_checkpoints(job, [name])  # left by a run that was killed after the record was written
            samples[step] = tuple(map(tuple, done[method, step].rehearsal)) or samples[1]
            if not experiment.single and missing:
                current = current.merged(load_adapter(folder, base.model.spec), donate=current is not base)
            continue
        fresh = rehearses and step > 1 and not experiment.single
        if fresh:
            samples[step] = sample_rehearsal(config, current, experiment.prompts,
                                             purpose_seed(config.seed, "recall", step - 1))
        # The base model's own samples are left out where sampled unrelated texts cover them already.
        rehearsal = rehearsal_before(step, samples, bool(config.mixture.unrelated) and config.unrelated.path is None
                                     ) if fresh else samples[1]
        result = train_run(job, current, _source(experiment, method, group, rehearsal), experiment.plans[method], name,
                           _first_step(experiment, method, step), {"method": method, "injection": step}, base)
        _save(experiment, method, group, result, folder)
        sampled = [list(ids) for ids in samples[step]] if fresh else []
        last = experiment.single or step == len(groups)
        student, adapter = _student(base, current, result, merge=not last)
        numbers = group if experiment.single else range(len(experiment.documents))
        measure(method, step, partial(experiment.evaluator.closed_book, student, adapter, numbers, last, sampled,
                                      done["closed_book", 0].probe_answers))
        if not last:
            current = student
        remove_checkpoints(job, [name])


def _first_step(experiment: Experiment, method: Method, step: int) -> int:
    """Counts the training steps before injection number `step` of a method, those of earlier methods included.

    With `train.epochs` methods that train on fewer targets make fewer steps.
    """
    steps = {name: resolved_steps(plan.train) for name, plan in experiment.plans.items()}
    earlier = list(steps)[:list(steps).index(method)]
    return sum(steps[name] for name in earlier) * len(experiment.groups) + (step - 1) * steps[method]


def _student(base: Generator, current: Generator, result: TrainResult, merge: bool
             ) -> tuple[Generator, Adapter | None]:
    """Weights after an injection, and the adapter to apply to them; None where it is merged into them."""
    if result.adapter is None:
        return base.replace_params(result.params, donate=True), None
    if not merge:
        return current, result.adapter
    return current.merged(result.adapter, donate=current is not base), None


def _adapter_folder(job: Job, method: Method, step: int) -> Path:
    """Folder of an injection's adapter; those of baselines are only stored to resume the run."""
    home = job.directory if method == "self_param" else job.checkpoints / method
    return home / "adapters" / f"{step - 1:04d}"


def _source(experiment: Experiment, method: Method, group: Sequence[int], rehearsal: tuple[tuple[int, ...], ...]
            ) -> TargetSource:
    """Targets of an injection: its documents, with the rehearsal texts so far; for replay also earlier documents."""
    own = [[dataclasses.replace(one, rehearsal=rehearsal) for one in targets] for targets in experiment.targets[method]]
    seed = purpose_seed(experiment.config.seed, "order", group[0])
    new = interleave([one for number in group for one in own[number]], seed)
    if method == "replay" and group[0]:
        return ReplayTargets(new, InterleavedTargets(tuple(one for targets in own[:group[0]] for one in targets), seed))
    return new


def _save(experiment: Experiment, method: Method, group: Sequence[int], result: TrainResult, folder: Path) -> None:
    """Saves what an injection leaves: an adapter, a model, or nothing."""
    config, spec = experiment.config, experiment.base.model.spec
    if experiment.single and (method != "self_param" or config.save == "nothing"):
        return
    if config.save == "model":
        folder = experiment.job.directory / "models" / folder.name
    if folder.exists():  # left by a run that was killed before the record was written
        shutil.rmtree(folder)
    if config.save == "model":
        params = merge_adapter(experiment.base.params, result.adapter) if result.adapter else result.params
        save_model(folder, spec, stack_layers(params), config.model)
    elif result.adapter is not None:
        questions = [[list(target.student) for target in one.questions] for number in group
                     for one in experiment.targets[method][number]]
        save_adapter(folder, spec, result.adapter, config.model,
                     provenance(config, experiment.documents, group, questions, method))
