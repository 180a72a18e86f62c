"""Evaluation of a model on test questions of several kinds, locality probes and held-out text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.evaluate.likelihood import kl_by_target, perplexity, same_prediction_by_target, target_batches
from jaxllm.evaluate.qa import ScoredAnswer, score_answer
from jaxllm.evaluate.retrieval import Retriever
from jaxllm.finetune.distill import Batch
from jaxllm.finetune.targets import Target, build_target, purpose_seed
from jaxllm.generate import Completion, Generator
from jaxllm.models import Adapter
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import Document, Question
from jaxllm.self_param.prompts import Prompts

Kind = Literal["questions", "paraphrases", "portability", "probes"]
KINDS: tuple[Kind, ...] = get_args(Kind)[:-1]
"""Kinds of test questions, each a field of `Document`."""
F1_OF_KIND: Mapping[Kind, str] = {"paraphrases": "f1_paraphrased", "portability": "f1_portability"}
"""Fields of a record with the F1 of questions that not every document has."""
# Targets of one forward pass; hidden states and logits take more memory than decoding.
EVALUATION_BATCH_SIZE = 32
# Mean token F1 of open-book answers below which a run is of little use.
LOW_F1 = 0.05


def answer_questions(generator: Generator, prompts: Prompts, questions: Sequence[tuple[str | None, str]],
                     sampling: SamplingConfig, *, adapter: Adapter | None = None, seed: int = 0) -> list[str]:
    """Generates an answer to every `(passage or None, question)`: open-book with a passage, closed-book without."""
    if not questions:
        return []
    return [completion.text.strip() for completion in
            _completions(generator, prompts, questions, sampling, adapter=adapter, seed=seed)]


def _completions(generator: Generator, prompts: Prompts, questions: Sequence[tuple[str | None, str]],
                 sampling: SamplingConfig, **options: Any) -> list[Completion]:
    ids = [prompts.question(question, passage) for passage, question in questions]
    return [completion for (completion,) in generator.generate(ids, sampling, **options)]


def reading_problem(prompts: Prompts, completions: Sequence[Completion], f1: float) -> str | None:
    """Describes why the model's open-book answers are of no use, with what to change; None if they are usable.

    Args:
        prompts: builds the token sequences.
        completions: open-book answers.
        f1: their mean token F1.
    """
    share = lambda test: sum(map(test, completions)) / max(len(completions), 1)
    empty, cut = share(lambda own: not own.text.strip()), share(lambda own: own.finish_reason == "length")
    if f1 >= LOW_F1 and empty < 0.5 and cut < 0.5:
        return None
    problem = (f"with the document in its prompt the model reaches a token F1 of {f1:.3f}; {empty:.0%} of its answers "
               f"are empty, {cut:.0%} are cut at sampling.max_tokens")
    if cut >= 0.5:
        return f"{problem}: raise sampling.max_tokens, or ask for short answers in format.question"
    if not prompts.format.chat and prompts.model.tokenizer.has_chat_template:
        return f"{problem}: set format.mode to chat, which this model has a template for"
    return f"{problem}: change format.mode, format.context or format.question, or use a larger model; what the model " \
           "cannot read it cannot learn"


def reference_targets(prompts: Prompts, document: Document) -> list[Target]:
    """Builds the test questions with their first reference as targets of the open-book teacher."""
    return [prompts.target(pair.question, pair.answers[0], _nearest(document, pair), end=False)
            for pair in document.questions]


def drift_targets(prompts: Prompts, texts: Sequence[Sequence[int]]) -> list[Target]:
    """Builds targets that teacher and student read alike; the KL on them is drift."""
    return [build_target(prompts.model.prefix, (), ids, "unrelated") for ids in texts]


def _nearest(document: Document, pair: Question) -> str:
    return document.passages[document.nearest_passage(pair.question)]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates weights and baselines of a run; every method returns fields of a `metrics.Record`.

    Attributes:
        config: settings of the run.
        base: the base model.
        prompts: builds the token sequences.
        documents: documents of the run.
        probes: locality probes.
        drift: held-out unrelated targets.
    """

    config: Config
    base: Generator
    prompts: Prompts
    documents: Sequence[Document]
    probes: Sequence[str]
    drift: Sequence[Target]

    def closed_book(self, generator: Generator, adapter: Adapter | None, numbers: Sequence[int], with_kl: bool,
                    rehearsal: Sequence[Sequence[int]] = (), base_answers: Sequence[str | None] = ()) -> dict[str, Any]:
        """Evaluates weights without a document in the prompt.

        Args:
            generator: the weights.
            adapter: applied to them; None evaluates them as they are.
            numbers: indices of the documents to evaluate.
            with_kl: also measure the KL from the open-book base model.
            rehearsal: ids of the rehearsal texts sampled before the injection; copied into the record.
            base_answers: the base model's answers to the probes, for changed weights.
        """
        documents, changed = [self.documents[number] for number in numbers], (
            generator is not self.base or adapter is not None)
        ask = lambda questions, kind: self._ask(generator, [(None, question) for question in questions], kind, adapter)
        own = {pair.question for document in documents for pair in document.questions}
        probes = [question for question in self.probes if self.config.setting != "single" or not changed
                  or question not in own]
        answers = dict(zip(probes, ask(probes, "probes"), strict=True))
        record = self._scores(numbers, {kind: ask(_questions(documents, kind), kind) for kind in KINDS})
        record["probe_answers"] = [answers.get(question) for question in self.probes]
        if changed and probes:
            record["probe_tokens"] = self._probe_tokens(generator, adapter, base_answers, set(probes))
        if with_kl:
            record["kl"] = self._kl(generator, adapter, documents)
        if changed:
            sums, tokens = self._by_target(kl_by_target, generator, adapter, self.drift)
            record |= {"drift_kl": float(sums.sum() / tokens.sum()), "drift_sums": sums.tolist(),
                       "drift_tokens": tokens.astype(int).tolist()}
        return record | {"perplexity": self._perplexity(generator, adapter), "rehearsal": list(rehearsal)}

    def open_book(self) -> dict[str, Any]:
        """Evaluates the base model with the document, or its nearest chunk, in the prompt."""
        questions = lambda kind: [(_nearest(document, pair), pair.question) for document in self.documents
                                  for pair in getattr(document, kind)]
        answers = {kind: _completions(self.base, self.prompts, questions(kind), self._sampling(kind)) for kind in KINDS}
        record = self._scores(range(len(self.documents)), {
            kind: [completion.text.strip() for completion in own] for kind, own in answers.items()})
        if problem := reading_problem(self.prompts, answers["questions"], float(np.mean(record["f1"]))):
            print(f"jaxllm: warning: {problem}", file=sys.stderr)
        return record

    def retrieval(self, injected: Sequence[int]) -> dict[str, Any]:
        """Evaluates the base model with the passage in the prompt that BM25 retrieves from the `injected` documents."""
        index = Retriever([text for number in injected for text in self.documents[number].passages])
        ask = lambda questions, kind: self._ask(self.base, list(zip(index.best(questions), questions, strict=True)),
                                                kind)
        record = self._scores(range(len(self.documents)),
                              {kind: ask(_questions(self.documents, kind), kind) for kind in KINDS})
        return record | {"probe_answers": ask(list(self.probes), "probes"),
                         "perplexity": self._perplexity(self.base, None)}

    def _ask(self, generator: Generator, questions: Sequence[tuple[str | None, str]], kind: Kind,
             adapter: Adapter | None = None) -> list[str]:
        return answer_questions(generator, self.prompts, questions, self._sampling(kind), adapter=adapter)

    def _sampling(self, kind: Kind) -> SamplingConfig:
        """Settings with the seed of a kind of questions: where answers are sampled, no two kinds share a draw."""
        sampling = self.config.sampling
        seed = self.config.seed if sampling.seed is None else sampling.seed
        return dataclasses.replace(sampling, seed=seed if kind == "questions" else purpose_seed(seed, kind))

    def _scores(self, numbers: Sequence[int], answers: Mapping[Kind, Sequence[str]]) -> dict[str, Any]:
        documents = [self.documents[number] for number in numbers]
        by_kind = {kind: _by_document(own, [getattr(document, kind) for document in documents])
                   for kind, own in answers.items()}
        scored = by_kind["questions"]
        mean = lambda own, field: float(np.mean([getattr(answer, field) for answer in own]))
        return {"documents": list(numbers), "answers": [[answer.text for answer in own] for own in scored],
                "f1": [mean(own, "f1") for own in scored], "accuracy": [mean(own, "accuracy") for own in scored],
                **{name: [mean(own, "f1") if own else None for own in by_kind[kind]]
                   for kind, name in F1_OF_KIND.items()}}

    def _kl(self, generator: Generator, adapter: Adapter | None, documents: Sequence[Document]) -> list[float]:
        """Mean KL per token of each document's test questions with their reference answers."""
        targets = [reference_targets(self.prompts, document) for document in documents]
        sums, tokens = self._by_target(kl_by_target, generator, adapter, [target for own in targets for target in own])
        ends = np.cumsum([len(own) for own in targets])[:-1]
        return [float(s.sum() / t.sum()) for s, t in zip(np.split(sums, ends), np.split(tokens, ends), strict=True)]

    def _probe_tokens(self, generator: Generator, adapter: Adapter | None, base_answers: Sequence[str | None],
                      probes: Collection[str]) -> list[float | None]:
        """By probe, the share of the tokens of the base model's answer that are predicted as by it; None for an empty
        answer, and where it is not one of `probes`."""
        targets = [self.prompts.target(question, answer or "", mask_prompt=True)
                   for question, answer in zip(self.probes, base_answers, strict=True) if question in probes]
        same, tokens = self._by_target(same_prediction_by_target, generator, adapter, targets)
        shares = iter([float(s / t) if t else None for s, t in zip(same, tokens, strict=True)])
        return [next(shares) if question in probes else None for question in self.probes]

    def _by_target(self, measure: Callable[..., tuple[np.ndarray, np.ndarray]], generator: Generator,
                   adapter: Adapter | None, targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray]:
        """Measures weights against the base model, by target."""
        student, _ = generator.training_params(), self.base.training_params()  # stacked: one layer is compiled
        sums, tokens = measure(self.base.model, student, self._batches(targets), self.base.dtype, adapter=adapter,
                               mesh=self.base.mesh)
        return sums[:len(targets)], tokens[:len(targets)]

    def _perplexity(self, generator: Generator, adapter: Adapter | None) -> float:
        return perplexity(generator.model, generator.training_params(), self._batches(self.drift), self.base.dtype,
                          adapter=adapter, mesh=self.base.mesh)

    def _batches(self, targets: Sequence[Target]) -> list[Batch]:
        size = min(EVALUATION_BATCH_SIZE, self.config.generation_batch_size)
        return target_batches(targets, self.prompts.window, size)


def _questions(documents: Sequence[Document], kind: Kind) -> list[str]:
    """Lists the test questions of a kind, by document."""
    return [pair.question for document in documents for pair in getattr(document, kind)]


def _by_document(answers: Sequence[str], questions: Sequence[Sequence[Question]]) -> list[list[ScoredAnswer]]:
    """Scores answers in the order of the questions of all documents."""
    remaining = iter(answers)
    return [[score_answer(next(remaining), pair.answers) for pair in own] for own in questions]
