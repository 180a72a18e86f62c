"""What all documents of an injection job share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxllm.evaluate.likelihood import target_batches
from jaxllm.finetune.on_policy import longest_completions, on_policy_sampling
from jaxllm.finetune.run import TrainPlan, make_plan
from jaxllm.finetune.targets import build_target, common_lengths, purpose_seed
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document
from jaxllm.self_param.evaluation import plain_targets
from jaxllm.self_param.inputs import unrelated_ids
from jaxllm.self_param.memory import recall_tokens, recalled
from jaxllm.self_param.pairs import training_pairs
from jaxllm.self_param.questions import QuestionAnswer, QuestionSource
from jaxllm.self_param.streams import Streams, document_alone, make_streams

# What is trained, by its name in the results -> its objective.
OBJECTIVES = {"after": "distill", "finetune": "finetune", "finetune_questions": "finetune",
              "finetune_context": "finetune", "replay": "distill"}


@dataclass(frozen=True)
class Study:
    """All that the documents of a job share.

    Attributes:
        model: the base model.
        documents: as read.
        streams: targets by name of the arm: for every document the `Streams` of its passages.
        drift: batches of unrelated text that is not trained on.
        drift_texts: how many texts that is.
        recipes: compiled training, by name of the arm: `after` and what it is compared with.
    """

    model: Model
    documents: Sequence[Document]
    streams: Mapping[str, Sequence[tuple[Streams, ...]]]
    drift: Sequence[dict[str, np.ndarray]]
    drift_texts: int
    recipes: Mapping[str, TrainPlan]


def trained_arms(config: Config) -> list[str]:
    """Names of what is trained, in the order in which it is done."""
    wanted = {"after", *config.compare} | ({"finetune"} if config.finetune else set())
    return [arm for arm in OBJECTIVES if arm in wanted]


def two_teachers(config: Config, arm: str) -> bool:
    """Whether the documents are read by the model that the job began with, and not by that of the moment."""
    return config.reader == "base" and OBJECTIVES[arm] == "distill"


def prepare(config: Config, job: Job, model: Model, mesh: jax.sharding.Mesh, documents: Sequence[Document],
            texts: Sequence[str] | None, source: QuestionSource | None, examples: str = "") -> Study:
    """Collects the texts to train on and compiles the steps.

    Args:
        texts: unrelated ones, None to let the model write them.
        source: of the pairs to train on, None to let the model make them.
        examples: what it reads first when it makes them.
    """
    training, drifting = unrelated_ids(config, model, texts)
    pairs = training_pairs(config, job, model, documents, source, examples)
    known = recalled(config, model, purpose_seed(config.seed, "recall", 0)) if config.mixture.recall else ()

    def passage(arm: str, text: str, found: Sequence[QuestionAnswer], seed: int) -> Streams:
        if arm == "finetune_context":
            return document_alone(model, text, config.format, seed)
        made = make_streams(model, text, found, training, config.format, config.mixture, seed,
                            config.unrelated.with_document, answers_only=config.questions.learn == "answer",
                            end=config.questions.end)
        return dataclasses.replace(made, recall=known, **({"turns": ("qa",)} if arm == "finetune_questions" else {}))

    def of(arm: str, number: int) -> tuple[Streams, ...]:
        """The streams of a document's passages; a window that nothing can be learned from is passed over."""
        texts = documents[number].passages
        pairs_only = arm == "finetune_questions" or (config.mixture.qa and not config.mixture.continuation)
        useful = lambda found: found or len(texts) == 1 or arm == "finetune_context" or not pairs_only
        return tuple(passage(arm, text, found, purpose_seed(config.seed, "document", number, *([part] if part else [])))
                     for part, (text, found) in enumerate(zip(texts, pairs[number], strict=True)) if useful(found))

    streams = {arm: [of(arm, number) for number in range(len(documents))] for arm in trained_arms(config)}
    recipes = {arm: _recipe(config, model, arm, [one for own in found for one in own], mesh)
               for arm, found in streams.items()}
    drift = target_batches(plain_targets(model, drifting), model.spec.max_positions)
    return Study(model, documents, streams, drift, len(drifting), recipes)


def _recipe(config: Config, model: Model, arm: str, streams: Sequence[Streams], mesh: jax.sharding.Mesh) -> TrainPlan:
    """How an arm is trained, with batches that hold all targets, those too that the model will yet make itself."""
    targets = [target for one in streams for target in one.longest()]
    if any("recall" in one.turns for one in streams):
        start = len(model.tokenizer.encode(config.format.question_start.rstrip()))
        targets.append(build_target(model.prefix, (), [0] * (start + recall_tokens(config)), "recall"))
    on_policy = sampling = None
    if config.on_policy.share and OBJECTIVES[arm] == "distill":
        on_policy = config.on_policy
        sampling = on_policy_sampling(on_policy, config.sampling, config.format.end)
        targets += longest_completions(targets, sampling.max_tokens, model.spec.max_positions)
    return make_plan(model, OBJECTIVES[arm], config.train, config.lora, config.divergence,
                       common_lengths(targets, model.spec.max_positions), config.device.compute_dtype, mesh,
                       two_teachers=two_teachers(config, arm), on_policy=on_policy, sampling=sampling)
