"""The procedure: targets, one adapter, trained and merged at the end."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxllm.config import SamplingConfig, check
from jaxllm.model import Model
from jaxllm.models import Adapter, LoraConfig, init_adapter, merge_adapter
from jaxllm.models.adapters import adapter_axes
from jaxllm.models.network import Params
from jaxllm.self_param.loss import Objective, make_loss
from jaxllm.self_param.on_policy import OnPolicy, OnPolicyConfig
from jaxllm.self_param.streams import TargetSource
from jaxllm.self_param.targets import collate
from jaxllm.self_param.told import Told
from jaxllm.train import (
    Checkpointer,
    Hook,
    MetricsWriter,
    TrainState,
    TrainStep,
    fit,
    init_state,
    make_optimizer,
    make_schedule,
    make_train_step,
    shardings,
)
from jaxllm.train.config import TrainConfig

# Steps whose texts the teacher is asked about at once, where what it says is kept.
AHEAD = 32


@dataclasses.dataclass(frozen=True)
class DivergenceConfig:
    """What is minimized between teacher and student; the paper's is forward KL at temperature 1.

    Args:
        kind: forward is KL(teacher, student), reverse the other way round, jsd between both.
        beta: weight of the teacher in the mixture of jsd.
        temperature: divides the logits of both.
        top_k: the teacher is asked once for every text, and the logits of so many tokens of a position are kept, with
            all others as one; null asks it in every step for all tokens. Cheaper where documents are long or targets
            come again; forward only.
    """

    kind: Literal["forward", "reverse", "jsd"] = "forward"
    beta: float = 0.5
    temperature: float = 1.0
    top_k: int | None = None

    def __post_init__(self):
        check(self.top_k is None or self.top_k >= 1, "top_k", f"must be 1 or more, got {self.top_k}")
        check(self.top_k is None or self.kind == "forward", "top_k", f"is not there for {self.kind}",
              "set kind to forward, or top_k to null")
        check(0 < self.beta < 1, "beta", f"must be between 0 and 1, got {self.beta:g}")
        check(self.temperature > 0, "temperature", f"must be above 0, got {self.temperature:g}")


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
        divergence: what is minimized.
        objective: what is trained for.
        dtype: of forward passes.
        two_teachers: `inject` is given a reader.
        on_policy: how often the student answers itself; None is never.
        sampling: of these answers.
    """

    train: TrainConfig
    lora: LoraConfig | None
    step: TrainStep
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    student_length: int
    teacher_length: int
    divergence: DivergenceConfig
    objective: Objective
    dtype: jnp.dtype
    two_teachers: bool = False
    on_policy: OnPolicyConfig | None = None
    sampling: SamplingConfig | None = None


def make_recipe(model: Model, objective: Objective, train: TrainConfig, lora: LoraConfig | None,
                divergence: DivergenceConfig, lengths: tuple[int, int], dtype: jnp.dtype,
                mesh: jax.sharding.Mesh, *, two_teachers: bool = False, on_policy: OnPolicyConfig | None = None,
                sampling: SamplingConfig | None = None) -> Recipe:
    """Compiles, at its first step, one program for every document whose batches fit `lengths`.

    Raises:
        UserError: more tokens are to be kept than the model has.
    """
    check(divergence.top_k is None or divergence.top_k <= model.spec.vocab_size, "divergence.top_k",
          f"must be at most the vocabulary of {model.spec.vocab_size}, got {divergence.top_k}")
    optimizer, schedule = make_optimizer(train, train.steps), make_schedule(train, train.steps)
    scale = None if lora is None else lora.alpha / lora.rank
    loss = make_loss(model.spec, objective, scale, kind=divergence.kind, beta=divergence.beta,
                     temperature=divergence.temperature, dtype=dtype,
                     two_teachers=two_teachers and divergence.top_k is None)
    step = make_train_step(loss, optimizer, schedule, train.accumulate)
    return Recipe(train, lora, step, optimizer, mesh, *lengths, divergence, objective, dtype, two_teachers,
                  on_policy, sampling)


@dataclasses.dataclass(frozen=True)
class Injection:
    """What became of an injection.

    Attributes:
        params: the model with the documents in its weights.
        adapter: the change as an adapter; None when all weights were trained.
        metrics: of the last step.
        interrupted: a signal stopped it; the checkpoint is saved and `params` are not to be used.
    """

    params: Params
    adapter: Adapter | None
    metrics: dict[str, float]
    interrupted: bool


def inject(model: Model, streams: TargetSource, recipe: Recipe, *, checkpointer: Checkpointer | None = None,
           metrics: MetricsWriter | None = None, progress: bool = True, reader: Params | None = None) -> Injection:
    """Writes what the targets tell into the model's weights.

    Args:
        model: the teacher, and where the student starts.
        streams: the targets, of one document or several.
        recipe: from `make_recipe`.
        checkpointer: saves and resumes; None starts anew and saves nothing.
        metrics: takes the steps' numbers.
        progress: show a bar.
        reader: who reads the documents, where the recipe has two teachers; by default the model itself.
    """
    train, reader = recipe.train, model.params if reader is None else reader
    state, said = initial_state(model, recipe, streams.seed), {}
    if checkpointer is not None and checkpointer.latest_step() is not None:
        state, sidecar = checkpointer.restore(state)
        said = sidecar.get("said", said)
    hooks: list[Hook] = []
    if recipe.on_policy is not None:
        streams = OnPolicy(model, streams, recipe.on_policy, recipe.sampling, train.batch_size,
                           (recipe.student_length, recipe.teacher_length), recipe.dtype, said)
        hooks.append(_asking(streams, model, recipe, state))
    of = lambda step: [streams.target(n) for n in range(step * train.batch_size, (step + 1) * train.batch_size)]
    frozen, lengths = model.params, (recipe.student_length, recipe.teacher_length)
    batch = lambda step: collate(of(step), *lengths)
    if recipe.objective == "distill" and recipe.divergence.top_k is not None:
        told = Told(model, reader if recipe.two_teachers else None, recipe.divergence.top_k, lengths,
                    train.batch_size // train.accumulate, recipe.divergence.temperature, recipe.dtype, recipe.mesh)
        ahead = lambda step: range(step + 1, min(step + AHEAD, train.steps))
        batch = lambda step: told.batch(of(step), (target for later in ahead(step) for target in of(later)))
    elif recipe.two_teachers:
        frozen = model.params, reader
    done = fit(state, recipe.step, batch, train.steps, frozen=frozen, mesh=recipe.mesh, hooks=hooks,
               log_every=train.log_every, save_every=train.save_every, checkpointer=checkpointer,
               sidecar={"said": said} if hooks else None, metrics=metrics, progress=progress)
    params, adapter = _result(model, recipe, done.state)
    return Injection(params, adapter, done.metrics, done.interrupted)


def _result(model: Model, recipe: Recipe, state: TrainState) -> tuple[Params, Adapter | None]:
    """The student's weights, and the change as an adapter if it is one."""
    if recipe.lora is None:
        return state.params, None
    adapter = Adapter(state.params, recipe.lora.alpha / recipe.lora.rank)
    return merge_adapter(model.params, adapter), adapter


def _asking(targets: OnPolicy, model: Model, recipe: Recipe, state: TrainState) -> Hook:
    """Asks the student before the first step, and gives what asks it later: of a step's targets when the step before
    it is made, since batches are made a step ahead."""
    every, steps = recipe.on_policy.every, recipe.train.steps
    if not int(state.step):
        targets.ask(range(min(every + 1, steps)), _result(model, recipe, state)[0])

    def after(made: int, state: TrainState) -> None:
        if made % every == 0 and made + 1 < steps:
            targets.ask(range(made + 1, min(made + 1 + every, steps)), _result(model, recipe, state)[0])

    return after


def initial_state(model: Model, recipe: Recipe, seed: int) -> TrainState:
    """The student before its first step: the model itself."""
    trained: Any
    if recipe.lora is None:
        trained = jax.tree.map(jnp.copy, model.params)
    else:
        fresh = init_adapter(model.spec, jax.random.key(seed), recipe.lora)
        trained = jax.device_put(fresh.params, shardings(adapter_axes(fresh), recipe.mesh, fresh.params))
    return init_state(trained, recipe.optimizer, seed)
