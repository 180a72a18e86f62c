"""The procedure: one document, three streams of targets, one adapter, merged at the end."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.config import check
from jaxllm.errors import UserError
from jaxllm.models import Adapter, LoraConfig, init_adapter, merge
from jaxllm.models.adapters import adapter_axes
from jaxllm.models.network import Params
from jaxllm.self_param.documents import FormatConfig
from jaxllm.self_param.loss import Objective, make_loss
from jaxllm.self_param.questions import QuestionAnswer
from jaxllm.self_param.targets import KINDS, Target, build_target, collate, continuation
from jaxllm.text.model import Model
from jaxllm.train import (
    Checkpointer,
    MetricsWriter,
    TrainState,
    TrainStep,
    fit,
    init_state,
    make_optimizer,
    make_schedule,
    make_train_step,
    row_indices,
    shardings,
)
from jaxllm.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """How many targets of each kind take turns; the paper's are one each.

    Args:
        qa: question with answer, asked of a teacher that reads the document.
        continuation: the rest of the document from a random place on.
        unrelated: other text, against drift.
    """

    qa: int = 1
    continuation: int = 1
    unrelated: int = 1

    def __post_init__(self):
        for name in KINDS:
            check(getattr(self, name) >= 0, name, f"must be 0 or more, got {getattr(self, name)}")
        check(self.qa + self.continuation + self.unrelated > 0, "qa", "all kinds are 0")

    @property
    def turns(self) -> tuple[str, ...]:
        """Kinds in the order in which they take turns."""
        return tuple(kind for kind in KINDS for _ in range(getattr(self, kind)))


@dataclasses.dataclass(frozen=True)
class DivergenceConfig:
    """What is minimised between teacher and student; the paper's is forward KL at temperature 1.

    Args:
        kind: forward is KL(teacher, student), reverse the other way round, jsd between both.
        beta: weight of the teacher in the mixture of jsd.
        temperature: divides the logits of both.
    """

    kind: Literal["forward", "reverse", "jsd"] = "forward"
    beta: float = 0.5
    temperature: float = 1.0

    def __post_init__(self):
        check(0 < self.beta < 1, "beta", f"must be between 0 and 1, got {self.beta:g}")
        check(self.temperature > 0, "temperature", f"must be above 0, got {self.temperature:g}")


def purpose_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for every purpose, so that no two draws of a run are the same draw."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in purpose]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0]) >> 1


@dataclasses.dataclass(frozen=True)
class Streams:
    """All targets of one document, tokenised.

    Attributes:
        prefix: begins every sequence.
        context: the document as the teacher reads it.
        questions: one target for every question-answer pair.
        unrelated: ids of other texts.
        unrelated_context: what the teacher reads before an unrelated text: the document, or nothing.
        turns: kinds in the order in which they take turns.
        seed: of the order and of the cuts.
    """

    prefix: tuple[int, ...]
    context: tuple[int, ...]
    questions: tuple[Target, ...]
    unrelated: tuple[tuple[int, ...], ...]
    unrelated_context: tuple[int, ...]
    turns: tuple[str, ...]
    seed: int

    def target(self, number: int) -> Target:
        """Target `number` of the run: a function of the number and the seed alone, so a run can resume anywhere."""
        turn, place = divmod(number, len(self.turns))
        kind = self.turns[place]
        # Number of this target within its own stream.
        n = turn * self.turns.count(kind) + self.turns[:place].count(kind)
        if kind == "continuation":
            cuts = np.random.default_rng((self.seed, n))
            return continuation(self.prefix, self.context, int(cuts.integers(1, len(self.context) - 1)))
        if kind == "unrelated":
            order = purpose_seed(self.seed, "unrelated")
            text = self.unrelated[row_indices(order, n, 1, len(self.unrelated))[0]]
            return build_target(self.prefix, self.unrelated_context, text, kind)
        return self.questions[row_indices(self.seed, n, 1, len(self.questions))[0]]

    def longest(self) -> list[Target]:
        """Targets that are as long, in either view, as any that `target` returns."""
        found = list(self.questions)
        if "continuation" in self.turns:
            found.append(continuation(self.prefix, self.context, 1))
        if "unrelated" in self.turns:
            found.append(build_target(self.prefix, self.unrelated_context, max(self.unrelated, key=len), "unrelated"))
        return found


def make_streams(model: Model, text: str, pairs: Sequence[QuestionAnswer], unrelated: Sequence[Sequence[int]],
                 wording: FormatConfig, mixture: MixtureConfig, seed: int, unrelated_with_document: bool) -> Streams:
    """Tokenises a document and its pairs.

    Raises:
        UserError: the document is too short for the only kind of target that is asked for.
    """
    encode, prefix = model.tokenizer.encode, model.prefix
    context = tuple(encode(wording.read(text)))
    turns = tuple(kind for kind in mixture.turns if kind != "continuation" or len(context) >= 3)
    if not turns:
        raise UserError(f"a document of {len(context)} tokens has no continuation", "mixture", "give qa a share")
    questions = tuple(build_target(prefix, context, encode(wording.tell(q, a)), "qa") for q, a in pairs)
    return Streams(prefix, context, questions, tuple(map(tuple, unrelated)),
                   context if unrelated_with_document else (), turns, seed)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all documents of a job share, compiled once.

    Attributes:
        train: settings of the run.
        lora: the adapter; None trains all weights.
        step: the compiled step.
        optimizer: of the state.
        mesh: the devices that share a step.
        student_length, teacher_length: shape of the batches.
    """

    train: TrainConfig
    lora: LoraConfig | None
    step: TrainStep
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    student_length: int
    teacher_length: int


def make_recipe(model: Model, objective: Objective, train: TrainConfig, lora: LoraConfig | None,
                divergence: DivergenceConfig, lengths: tuple[int, int], dtype: jnp.dtype,
                mesh: jax.sharding.Mesh) -> Recipe:
    """Compiles, at its first step, one program for every document whose batches fit `lengths`."""
    optimizer, schedule = make_optimizer(train, train.steps), make_schedule(train, train.steps)
    scale = None if lora is None else lora.alpha / lora.rank
    loss = make_loss(model.spec, objective, scale, kind=divergence.kind, beta=divergence.beta,
                     temperature=divergence.temperature, dtype=dtype)
    step = make_train_step(loss, optimizer, schedule, train.accumulate)
    return Recipe(train, lora, step, optimizer, mesh, *lengths)


@dataclasses.dataclass(frozen=True)
class Injection:
    """What became of one document.

    Attributes:
        params: the model with the document in its weights.
        adapter: the change as an adapter; None when all weights were trained.
        metrics: of the last step.
        interrupted: a signal stopped it; the checkpoint is saved and `params` are not to be used.
    """

    params: Params
    adapter: Adapter | None
    metrics: dict[str, float]
    interrupted: bool


def inject(model: Model, streams: Streams, recipe: Recipe, *, checkpointer: Checkpointer | None = None,
           metrics: MetricsWriter | None = None, progress: bool = True) -> Injection:
    """Writes one document into the model's weights.

    Args:
        model: the teacher, and where the student starts.
        streams: targets of the document.
        recipe: from `make_recipe`.
        checkpointer: saves and resumes; None starts anew and saves nothing.
        metrics: takes the steps' numbers.
        progress: show a bar.
    """
    train = recipe.train

    def batch(step: int) -> dict[str, np.ndarray]:
        numbers = range(step * train.batch_size, (step + 1) * train.batch_size)
        return collate([streams.target(n) for n in numbers], recipe.student_length, recipe.teacher_length)

    state = initial_state(model, recipe, streams.seed)
    if checkpointer is not None and checkpointer.latest_step() is not None:
        state = checkpointer.restore(state).state
    done = fit(state, recipe.step, batch, train.steps, frozen=model.params, mesh=recipe.mesh, log_every=train.log_every,
               save_every=train.save_every, checkpointer=checkpointer, metrics=metrics, progress=progress)
    if recipe.lora is None:
        return Injection(done.state.params, None, done.metrics, done.interrupted)
    adapter = Adapter(done.state.params, recipe.lora.alpha / recipe.lora.rank)
    return Injection(merge(model.params, adapter), adapter, done.metrics, done.interrupted)


def initial_state(model: Model, recipe: Recipe, seed: int) -> TrainState:
    """The student before its first step: the model itself."""
    trained: Any
    if recipe.lora is None:
        trained = jax.tree.map(jnp.copy, model.params)
    else:
        fresh = init_adapter(model.spec, jax.random.key(seed), recipe.lora)
        trained = jax.device_put(fresh.params, shardings(adapter_axes(fresh), recipe.mesh, fresh.params))
    return init_state(trained, recipe.optimizer, seed)
