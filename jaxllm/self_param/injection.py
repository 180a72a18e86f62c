"""Injection of documents: QA pairs, targets and a compiled training plan; and all of it as one function."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.finetune.distill import TargetObjective
from jaxllm.finetune.on_policy import longest_completions, on_policy_sampling
from jaxllm.finetune.run import TrainPlan, make_plan, run_plan
from jaxllm.finetune.targets import Target, common_lengths, interleave, purpose_seed
from jaxllm.finetune.trainable import trainable_model
from jaxllm.generate import Generator
from jaxllm.model import Model
from jaxllm.models import Adapter, Params, merge_adapter
from jaxllm.self_param.chunking import chunk_documents
from jaxllm.self_param.config import InjectConfig, Method
from jaxllm.self_param.data import QA_ROW, TEXT_ROW, Document, format_examples, shuffle_texts
from jaxllm.self_param.prompts import Format, Prompts
from jaxllm.self_param.qa_filter import QAPair
from jaxllm.self_param.qa_pairs import check_covered, make_qa_pairs, pairs_of_file
from jaxllm.self_param.targets import (
    DocumentTargets,
    context_targets,
    document_targets,
    longest_rehearsal,
    sample_rehearsal,
    sample_unrelated,
    teacher_reads,
)
from jaxllm.text.rows import read_rows

OBJECTIVES: dict[Method, TargetObjective] = {
    "self_param": "distill", "finetune": "finetune", "finetune_questions": "finetune", "finetune_context": "finetune",
    "replay": "distill"}
"""Methods that train, in the order in which they run, with their objectives."""

# Batches for which packed rows are made to fit; others need more rows at times.
TYPICAL_BATCHES = 24

DocumentPairs = Sequence[tuple[str, str]]
DEFAULT = InjectConfig()


@dataclasses.dataclass(frozen=True)
class Injection:
    """Result of `inject`.

    Attributes:
        model: the base model.
        adapter: LoRA adapter with the documents; None if all weights were trained.
        metrics: loss, gradient norm and learning rate of the last step.
        pairs: QA pairs that were trained on, by document and passage.
    """

    model: Model
    adapter: Adapter | None
    metrics: dict[str, float]
    pairs: list[list[list[QAPair]]]
    _trained: Params | None = dataclasses.field(default=None, repr=False)

    @property
    def params(self) -> Params:
        """Weights with the documents: the trained ones, or a copy of the base's with the adapter merged."""
        if self._trained is not None:
            return self._trained
        return self.model.params if self.adapter is None else merge_adapter(self.model.params, self.adapter)


def inject(model: Model, documents: str | Sequence[str], *,
           pairs: DocumentPairs | Sequence[DocumentPairs] | None = None, config: InjectConfig = DEFAULT,
           progress: bool = True) -> Injection:
    """Injects documents into the weights of a model (SELF-PARAM, 2410.00487).

    Args:
        model: the model; its weights are left as they are.
        documents: one text, or several that are injected together.
        pairs: (question, answer) pairs to train on: a list for one text, a list of lists for several. None lets the
            model or the judge of config.qa_pairs write them.
        config: settings.
        progress: show a progress bar.

    Returns:
        the adapter (or the trained weights) and the metrics of the last step.

    Raises:
        UserError: there is no document, one has no usable QA pair, or one does not fit the context window with its
            pairs.
        KeyboardInterrupt: a signal stopped the training.
    """
    model.require_lm("inject")
    texts_given = [documents] if isinstance(documents, str) else list(documents)
    if not texts_given:
        raise UserError("there is no document", "documents")
    mesh = open_mesh(config.mesh)
    generator = Generator(trainable_model(model, config.lora, config.device), dtype=config.device.compute_dtype,
                          mesh=mesh, batch_size=config.generation_batch_size)
    prompts = Prompts(model, config.format, append_eos=config.qa_pairs.append_eos)
    prompts = dataclasses.replace(prompts, examples=_examples(config, prompts.format, pairs is not None))
    chunked = chunk_documents(config, prompts, [Document(text) for text in texts_given])
    given: Any = None if pairs is None else [pairs] if isinstance(documents, str) else list(pairs)
    if given is None and config.qa_pairs.from_file:
        rows = read_rows(config.qa_pairs.source, QA_ROW)
        given, _ = pairs_of_file(rows, config.qa_pairs.source, {document.text for document in chunked}, prompts,
                                 chunked, "its context is not injected")
    if given is not None and len(given) != len(chunked):
        raise UserError(f"{len(given)} lists of QA pairs for {len(chunked)} documents", "pairs",
                        "give one list per document")
    for document, own in zip(chunked, given or (), strict=False):
        for pair in own:
            if not all(prompts.fits(passage, *pair) for passage in document.passages):
                raise UserError(f"the question {pair[0][:60]!r} with its answer does not fit the context window of "
                                f"{prompts.window} tokens together with its document", "pairs",
                                "shorten it, or lower chunking.tokens")
    made = make_qa_pairs(config, generator, prompts, chunked, given)
    check_covered(config, chunked, made)
    qa_pairs = [[passage.selected for passage in own] for own in made]
    unrelated = _unrelated(config, generator) if config.mixture.unrelated else []
    rehearsal = (sample_rehearsal(config, generator, prompts, purpose_seed(config.seed, "recall", 0))
                 if config.mixture.rehearsal else ())
    targets = method_targets("self_param", config, prompts, chunked, qa_pairs, unrelated, rehearsal)
    together = [one for own in targets for one in own]
    plan = training_plan("self_param", config, generator, prompts, [together], mesh)
    source = interleave(together, purpose_seed(config.seed, "order", 0))
    result = run_plan(generator, source, plan, progress=progress)
    if result.interrupted:
        raise KeyboardInterrupt
    return Injection(model, result.adapter, result.metrics, qa_pairs, result.params if result.adapter is None else None)


def _unrelated(config: InjectConfig, generator: Generator) -> list[list[int]]:
    """Reads or samples the unrelated training texts."""
    texts = None
    if config.unrelated.path is not None:
        rows = read_rows(config.unrelated.path, TEXT_ROW)
        texts = shuffle_texts([row["text"] for row in rows.rows], config.seed)
    return sample_unrelated(config, generator, texts)[0]


def _examples(config: InjectConfig, template: Format, given: bool) -> str:
    """Reads the worked examples for QA generation."""
    if given or config.qa_pairs.examples is None:
        return ""
    return format_examples(template, read_rows(config.qa_pairs.examples, QA_ROW).rows)


def method_targets(method: Method, config: InjectConfig, prompts: Prompts, documents: Sequence[Document],
                   pairs: Sequence[Sequence[Sequence[QAPair]]], unrelated: Sequence[Sequence[int]],
                   rehearsal: Sequence[tuple[int, ...]]) -> list[tuple[DocumentTargets, ...]]:
    """Builds the targets of every passage of every document; a chunk without a target is left out.

    Args:
        method: method that trains on them.
        config: settings of the run.
        prompts: builds the token sequences.
        documents: documents, chunked.
        pairs: QA pairs by document and passage.
        unrelated: ids of the unrelated texts.
        rehearsal: ids of the rehearsal texts of the base model.
    """
    only_pairs = method == "finetune_questions" or (config.mixture.qa and not config.mixture.continuation)

    def of_passage(text: str, own: Sequence[QAPair], seed: int) -> DocumentTargets:
        if method == "finetune_context":
            return context_targets(prompts, text, seed)
        targets = document_targets(config, prompts, text, own, unrelated, seed, rehearsal)
        return dataclasses.replace(targets, types=("qa",)) if method == "finetune_questions" else targets

    def of_document(number: int) -> tuple[DocumentTargets, ...]:
        texts = documents[number].passages
        useful = lambda own: bool(own) or len(texts) == 1 or method == "finetune_context" or not only_pairs
        return tuple(of_passage(text, own, purpose_seed(config.seed, "document", number, *([part] if part else [])))
                     for part, (text, own) in enumerate(zip(texts, pairs[number], strict=True)) if useful(own))

    return [of_document(number) for number in range(len(documents))]


def training_plan(method: Method, config: InjectConfig, generator: Generator, prompts: Prompts,
                  injections: Sequence[Sequence[DocumentTargets]], mesh: jax.sharding.Mesh, *,
                  two_teachers: bool = False) -> TrainPlan:
    """Compiles one training step for all injections of a method.

    Args:
        method: method that trains.
        config: settings of the run.
        generator: the model.
        prompts: builds the token sequences.
        injections: targets of the passages of each injection; the batches also hold targets that the model will
            generate itself.
        mesh: devices that share a step.
        two_teachers: the open-book teacher has other weights than the student before its first step.
    """
    longest = [target for own in injections for one in own for target in one.longest()]
    if any("rehearsal" in one.types for own in injections for one in own):
        longest.append(longest_rehearsal(config, prompts))
    on_policy = sampling = None
    if config.on_policy.share and OBJECTIVES[method] == "distill":
        on_policy = config.on_policy
        sampling = on_policy_sampling(on_policy, config.sampling, prompts.format.answer_stops)
        longest += longest_completions(longest, sampling.max_tokens, prompts.window)
    batches: list[list[Target]] = []
    if config.train.packing:
        sources = [interleave(own, 0) for own in injections[:TYPICAL_BATCHES]]
        size = config.train.batch_size
        batches = [[sources[n % len(sources)].target(n // len(sources) * size + i) for i in range(size)]
                   for n in range(TYPICAL_BATCHES)]
        if on_policy is not None and sampling is not None:
            batches = [[*batch, *longest_completions(batch, sampling.max_tokens, prompts.window)][-size:]
                       for batch in batches]
    reads = lambda count: float(np.mean([teacher_reads(own, count, config.on_policy.share) for own in injections]))
    return make_plan(generator.model, OBJECTIVES[method], config.train, config.lora, config.divergence,
                     common_lengths(longest, prompts.window), config.device.compute_dtype, mesh,
                     two_teachers=two_teachers, on_policy=on_policy, sampling=sampling,
                     epoch_targets=max(map(_epoch_targets, injections)), batches=batches, teacher_reads=reads)


def _epoch_targets(sources: Sequence[DocumentTargets]) -> int:
    """Counts the targets of an injection until every QA pair is used; documents with fewer pairs repeat theirs."""
    cycles = max(-(-len(one.questions) // one.types.count("qa")) if "qa" in one.types else 1 for one in sources)
    return cycles * max(one.cycle for one in sources) * len(sources)
