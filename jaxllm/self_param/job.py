"""`jaxllm inject`: documents written into a model's weights, one at a time, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.errors import UserError
from jaxllm.files import JsonlWriter, plain, read_jsonl, write_jsonl
from jaxllm.generate.engine import generate
from jaxllm.job import Job, open_job
from jaxllm.models import LoraConfig, save_model
from jaxllm.models.mesh import make_mesh, model_shardings
from jaxllm.models.peft import save_adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.progress import bar
from jaxllm.self_param import report
from jaxllm.self_param.documents import Document, FormatConfig, group, sort_out
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
    DivergenceConfig,
    Injection,
    MixtureConfig,
    Recipe,
    Streams,
    inject,
    make_recipe,
    make_streams,
    purpose_seed,
)
from jaxllm.self_param.questions import QuestionConfig, QuestionSource, collect, file_source, model_source
from jaxllm.self_param.targets import common_lengths
from jaxllm.statistics import interval
from jaxllm.text.model import Model, load
from jaxllm.text.rows import RowSet, check_share, read_rows
from jaxllm.train import Checkpointer, MetricsWriter, read_metrics
from jaxllm.train.config import TrainConfig

ROW = {"context": str, "question": str, "answers": list[str]}


@dataclass(frozen=True)
class UnrelatedConfig:
    """Text that has nothing to do with the documents: a stream of targets, and the measure of drift.

    Args:
        path: rows {text}; null lets the model write it itself, from nothing, at temperature 1.
        tokens: each text is cut after so many.
        train: texts of the stream.
        drift: texts that drift is measured on; none of them is in the stream.
        with_document: the teacher reads the document before such a text, as in the paper; false lets it read the
            text alone, so that the model is asked to stay as it is.
    """

    path: str | None = None
    tokens: int = 64
    train: int = 128
    drift: int = 32
    with_document: bool = True

    def __post_init__(self):
        for name in ("tokens", "train", "drift"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Config:
    """Writes documents into a model's weights (SELF-PARAM, 2410.00487), each into a fresh copy of the model.

    Before, after, and with the document in the prompt, the model answers the questions of the data. It learns
    from other pairs (questions.source), by KL distillation from itself reading the document.

    Args:
        data: rows {context, question, answers}; rows with the same context are one document.
        out: directory for the results.
        model: checkpoint directory, Hub id, or tiny.
        documents: only so many documents; null takes all.
        questions: the pairs that a document is written with.
        unrelated: text against drift.
        mixture: how the kinds of targets take turns.
        divergence: what is minimised.
        train: steps and optimizer.
        lora: adapter that is trained and merged; null trains all weights.
        format: wording of documents, questions and answers.
        sampling: of the answers in the test.
        finetune: also train on the same targets by plain next-token prediction, for comparison.
        save: what is kept of every document, below adapters/ or models/.
        mesh: how the devices share a training step.
        device: precision.
        seed: of everything that is drawn.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    documents: int | None = None
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    unrelated: UnrelatedConfig = field(default_factory=UnrelatedConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=1e-3))
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=16, stop=["\n"]))
    finetune: bool = True
    save: Literal["adapter", "model", "nothing"] = "adapter"
    mesh: MeshConfig = field(default_factory=MeshConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check(self.documents is None or self.documents >= 1, "documents", f"must be 1 or more, got {self.documents}")
        check(self.save != "adapter" or self.lora is not None, "save",
              "there is no adapter when all weights are trained", "set save to model or nothing")
        check(self.lora is not None or self.device.params != "bfloat16", "device.params",
              "bfloat16 weights lose most updates when all of them are trained", "train an adapter, or use float32")
        check(self.lora is not None or self.device.quantise is None, "device.quantise",
              "quantised weights are frozen, and all are to be trained", "train an adapter, or quantise nothing")
        check(self.sampling.n == 1, "sampling.n", f"a question is answered once in the test, got {self.sampling.n}")
        check_seed(self.seed)


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
        others = {name: read_rows(path, fields, limit_bad=config.data.limit_bad) for name, path, fields in (
            ("unrelated texts", config.unrelated.path, {"text": str}),
            ("questions", None if config.questions.source == "model" else config.questions.source, ROW)) if path}
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
    study = prepare(config, job, model, mesh, documents, _unrelated_texts(config, others), source)
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


def check_window(config: Config, model: Model, documents: Sequence[Document]) -> None:
    """Makes sure that everything the job will read fits the model's context window.

    Raises:
        UserError: naming the document and the key that would have to change.
    """
    encode, window, start = model.tokenizer.encode, model.spec.max_positions, len(model.prefix)
    fix = "split the document, or use a model with a longer window"
    for number, document in enumerate(documents, 1):
        read = start + len(encode(config.format.read(document.text)))
        needs = {
            "with its longest question and sampling.max_tokens of answer":
                max(len(encode(config.format.ask(pair.question))) for pair in document.pairs)
                + config.sampling.max_tokens,
            "with its longest question and reference answer":
                max(len(encode(config.format.tell(pair.question, pair.answers[0]))) for pair in document.pairs)}
        if config.questions.source == "model" and config.mixture.qa:
            needs["with questions.max_tokens of a question"] = config.questions.max_tokens + len(
                encode(config.format.question_start.rstrip()))
        if config.mixture.unrelated and config.unrelated.with_document:
            needs["with unrelated.tokens of other text"] = config.unrelated.tokens
        for what, more in needs.items():
            if read + more > window:
                raise UserError(f"document {number} has {read} tokens, {what} {read + more}; the context window is "
                                f"{window}", config.data.path, fix)
    if start + config.unrelated.tokens > window:
        raise UserError(f"must leave room in the context window of {window}, got {config.unrelated.tokens}",
                        "unrelated.tokens")


def open_mesh(config: Config) -> jax.sharding.Mesh:
    """The devices that share a step.

    Raises:
        UserError: more are asked for than there are, or the rows of a batch cannot be shared evenly.
    """
    if jax.process_count() > 1:
        raise UserError(f"runs in one process, and there are {jax.process_count()}", "inject",
                        "start it once, on a host with all its devices")
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
    training, drifting = _unrelated(config, model, texts)
    pairs = _pairs(config, job, model, documents, source)
    streams = [make_streams(model, document.text, own, training, config.format, config.mixture,
                            purpose_seed(config.seed, "document", number), config.unrelated.with_document)
               for number, (document, own) in enumerate(zip(documents, pairs, strict=True))]
    lengths = common_lengths([target for stream in streams for target in stream.longest()], model.spec.max_positions)
    arms = {"after": "distill", "finetune": "finetune"} if config.finetune else {"after": "distill"}
    recipes = {arm: make_recipe(model, objective, config.train, config.lora, config.divergence, lengths,
                                config.device.compute_dtype, mesh) for arm, objective in arms.items()}
    drift = batches(plain_targets(model, drifting), model.spec.max_positions)
    return Study(model, documents, streams, drift, len(drifting), recipes)


def fits(config: Config, model: Model) -> Callable[[str, str, str], bool]:
    """Whether a context, a question and an answer can be read together."""
    length = lambda text: len(model.tokenizer.encode(text))
    return lambda context, question, answer: model.spec.max_positions >= len(model.prefix) + length(
        config.format.read(context)) + length(config.format.tell(question, answer))


def _pairs(config: Config, job: Job, model: Model, documents: Sequence[Document],
           source: QuestionSource | None) -> list[list[tuple[str, str]]]:
    """Pairs to train on, kept in pairs.jsonl: a resumed job learns from the same ones."""
    if not config.mixture.qa:
        return [[] for _ in documents]
    kept = read_jsonl(job.directory / "pairs.jsonl") if job.resumed else []
    if kept:
        return [[(pair["question"], pair["answer"]) for pair in row["pairs"]] for row in kept]
    texts, limit = [document.text for document in documents], config.questions.per_document
    if source is None:
        with bar(len(texts) * limit, "questions", "samples") as advance:
            source = model_source(model, config.format, config.questions, config.sampling.max_tokens,
                                  purpose_seed(config.seed, "questions"), batch_size=64,
                                  dtype=config.device.compute_dtype, on_sample=advance)
            pairs = collect(source, texts, limit)
    else:
        pairs = collect(source, texts, limit)
    write_jsonl(job.directory / "pairs.jsonl",
                ({"document": i, "pairs": [{"question": q, "answer": a} for q, a in own]}
                 for i, own in enumerate(pairs)))
    return pairs


def _unrelated_texts(config: Config, others: dict[str, RowSet]) -> list[str] | None:
    """Texts of the file, in an order of the seed; None where the model is to write them."""
    if "unrelated texts" not in others:
        return None
    rows = others["unrelated texts"].rows
    order = np.random.default_rng(purpose_seed(config.seed, "unrelated order")).permutation(len(rows))
    return [rows[i]["text"] for i in order]


def _unrelated(config: Config, model: Model, texts: Sequence[str] | None) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of the texts to train on, and of those to measure drift on; no text is both."""
    train, drift, cut = config.unrelated.train, config.unrelated.drift, config.unrelated.tokens
    if texts is None:
        free = SamplingConfig(temperature=1.0, max_tokens=cut, n=train + drift)
        made = generate(model, [list(model.start) or [0]], free, seed=purpose_seed(config.seed, "unrelated"),
                        batch_size=64, dtype=config.device.compute_dtype)[0]
        ids = [completion.token_ids for completion in made]
    else:
        ids = (model.tokenizer.encode(text)[:cut] for text in texts)
    distinct = list({tuple(one): list(one) for one in ids if len(one) > 1}.values())
    if len(distinct) < drift + bool(config.mixture.unrelated):
        raise UserError(f"only {len(distinct)} different texts, {drift} of them for measuring drift",
                        config.unrelated.path or "the model's own texts", "give more texts, or lower unrelated.drift")
    return distinct[drift:][:train], distinct[:drift]


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
