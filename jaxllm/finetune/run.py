"""One training run on a source of targets, and such a run as one of many of a job."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
import yaml

from jaxllm.config import SamplingConfig, check, to_yaml
from jaxllm.finetune.distill import Batch, DivergenceConfig, TargetObjective, make_loss
from jaxllm.finetune.on_policy import OnPolicyConfig, OnPolicyTargets, TeacherWeights
from jaxllm.finetune.packing import (
    PackedShape,
    PackedTargets,
    can_pack,
    pack_targets,
    packed_shape,
    row_counts,
    teacher_passes,
)
from jaxllm.finetune.targets import Target, TargetSource, collate, purpose_seed
from jaxllm.finetune.teacher_cache import TeacherCache
from jaxllm.finetune.trainable import as_adapter, init_trained, merged, mixed
from jaxllm.generate import Generator
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.models import Adapter, LoraConfig
from jaxllm.models.network import Params
from jaxllm.train import (
    Checkpointer,
    Hook,
    MetricsSink,
    TrainState,
    TrainStep,
    fit,
    init_state,
    make_optimizer,
    make_schedule,
    make_train_step,
    open_metrics,
)
from jaxllm.train.config import TrainConfig

# Where the teacher's log-probabilities are cached: steps for which it runs ahead, and targets of one of its passes for
# each group of devices.
TEACHER_STEPS_AHEAD, TEACHER_TARGETS = 32, 16
# divergence.top_k auto: tokens per position, and how often the teacher has to read a token for a cache to be used.
AUTO_TOP_K, WORTHWHILE_READS = 64, 2.0


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """Shared by all runs of a job, compiled once.

    Attributes:
        train: settings of the run, with its number of steps.
        lora: the adapter; None trains all weights.
        step: the compiled step.
        optimizer: optimizer of the state.
        mesh: the devices that share a step.
        student_length, teacher_length: shape of the batches.
        divergence: between teacher and student.
        objective: distillation or next-token prediction.
        dtype: dtype of forward passes.
        two_teachers: `run_plan` is given an open-book teacher.
        on_policy: share and frequency of the student's own completions; None has none.
        sampling: sampling of these completions.
        packing: shape of packed rows; None pads every target to a row of its own.
        teacher_packing: shape of the teacher's rows where its log-probabilities are cached.
        top_k: log-probabilities of the teacher that are cached per position; None runs it in every step.
    """

    train: TrainConfig
    lora: LoraConfig | None
    step: TrainStep
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    student_length: int
    teacher_length: int
    divergence: DivergenceConfig
    objective: TargetObjective
    dtype: jnp.dtype
    two_teachers: bool = False
    on_policy: OnPolicyConfig | None = None
    sampling: SamplingConfig | None = None
    packing: PackedShape | None = None
    teacher_packing: PackedShape | None = None
    top_k: int | None = None

    @property
    def averages_teacher(self) -> bool:
        """Whether the state's `extra` holds the average of the trained tree as the `teacher`."""
        return self.on_policy is not None and self.on_policy.teacher == "average"

    @property
    def views(self) -> tuple[int, int | None]:
        """Lengths of the student's and the teacher's view in a batch; None where a step runs no teacher."""
        return self.student_length, self.teacher_length if self.objective == "distill" and self.top_k is None else None

    @property
    def teacher_targets(self) -> int:
        """Targets of one pass of a teacher with cached outputs."""
        if self.teacher_packing is None:
            return self.train.batch_size // self.train.accumulate
        return TEACHER_TARGETS * _groups(self.mesh)

    def pack(self, targets: Sequence[Target]) -> PackedTargets:
        """Packs the targets of a step; the plan has to have a shape of packed rows."""
        multiple = self.train.accumulate * _groups(self.mesh)
        return pack_targets(targets, cast(PackedShape, self.packing), row_counts(self.train.batch_size, multiple))


def _groups(mesh: jax.sharding.Mesh) -> int:
    """Counts the groups of devices that share the rows of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def resolved_steps(train: TrainConfig) -> int:
    """Returns the number of steps of settings that went through `TrainConfig.resolve`."""
    if train.steps is None:
        raise ValueError("the epochs of these settings are not resolved into steps")
    return train.steps


def make_plan(model: Model, objective: TargetObjective, train: TrainConfig, lora: LoraConfig | None,
              divergence: DivergenceConfig, lengths: tuple[int, int], dtype: jnp.dtype,
              mesh: jax.sharding.Mesh, *, two_teachers: bool = False, on_policy: OnPolicyConfig | None = None,
              sampling: SamplingConfig | None = None, epoch_targets: int | None = None,
              batches: Sequence[Sequence[Target]] = (), teacher_reads: Callable[[int], float] | None = None
              ) -> TrainPlan:
    """Makes a plan: one program, compiled at its first step, for every source that fits `lengths`.

    Args:
        epoch_targets: targets of one epoch, for `train.epochs`; None where the job has none.
        batches: typical batches, for which packed rows are made to fit.
        teacher_reads: maps a number of targets to how often the teacher reads each of their tokens without a cache, on
            average, for divergence.top_k auto; None is once.

    The other arguments are those of `TrainPlan`. Rows are not packed where that would change the hidden states; see
    `can_pack`.

    Raises:
        UserError: divergence.top_k is larger than the vocabulary.
    """
    train, packing, teacher_packing = train.resolve(epoch_targets), None, None
    steps, distill = resolved_steps(train), objective == "distill"
    teacher: TeacherWeights = "frozen" if on_policy is None else on_policy.teacher
    reads = lambda: 1.0 if teacher_reads is None else teacher_reads(steps * train.batch_size)
    top_k = _chosen_top_k(divergence, model.spec.vocab_size, teacher, reads) if distill else None
    if train.packing and can_pack(model.spec):
        groups = _groups(mesh)
        packing = packed_shape(lengths, batches, model.spec.width, multiple=train.accumulate * groups,
                               views=(True, distill and top_k is None))
        if top_k is not None:
            passes = teacher_passes(itertools.chain.from_iterable(batches), TEACHER_TARGETS * groups)
            teacher_packing = packed_shape(lengths, passes, model.spec.width, multiple=groups, views=(False, True))
    optimizer, schedule = make_optimizer(train, steps), make_schedule(train, steps)
    scale = None if lora is None else lora.alpha / lora.rank
    loss = make_loss(model.spec, objective, scale, kind=divergence.kind, beta=divergence.beta,
                     temperature=divergence.temperature, dropout=0.0 if lora is None else lora.dropout, dtype=dtype,
                     remat=train.remat, two_teachers=two_teachers and top_k is None, teacher=teacher)
    step = make_train_step(loss, optimizer, schedule, train.accumulate)
    return TrainPlan(train, lora, step, optimizer, mesh, *lengths, divergence, objective, dtype, two_teachers,
                     on_policy, sampling, packing, teacher_packing, top_k)


def _chosen_top_k(divergence: DivergenceConfig, vocabulary: int, teacher: TeacherWeights,
                  reads: Callable[[], float]) -> int | None:
    """Resolves divergence.top_k of a distillation; see `DivergenceConfig`.

    Raises:
        UserError: it is larger than the vocabulary.
    """
    top_k = divergence.top_k
    if isinstance(top_k, str):  # auto
        worthwhile = divergence.kind == "forward" and teacher == "frozen" and reads() >= WORTHWHILE_READS
        return min(AUTO_TOP_K, vocabulary) if worthwhile else None
    check(top_k is None or top_k <= vocabulary, "divergence.top_k",
          f"must be at most the vocabulary of {vocabulary}, got {top_k}")
    return top_k


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The end of a run.

    Attributes:
        base: the base model.
        trained: the trained tree.
        lora: settings of the adapter; None when all weights were trained.
        metrics: metrics of the last step.
        interrupted: a signal stopped it; the checkpoint is saved and the trained tree is not to be used.
    """

    base: Generator
    trained: Any
    lora: LoraConfig | None
    metrics: dict[str, float]
    interrupted: bool

    @property
    def adapter(self) -> Adapter | None:
        """The change as an adapter; None when all weights were trained."""
        return as_adapter(self.trained, self.lora)

    @functools.cached_property
    def params(self) -> Params:
        """The trained model's weights; an adapter is merged into a copy of the base's when they are first used."""
        return merged(self.base.model, self.trained, self.lora)


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """Makes the batch of a step: padded or packed rows, with the cached outputs of the teacher or without.

    Attributes:
        plan: shape of the batches.
        draw: number -> target.
        cache: teacher's top-k log-probabilities; None where the teacher runs in every step.
    """

    plan: TrainPlan
    draw: Callable[[int], Target]
    cache: TeacherCache | None

    def __call__(self, step: int) -> Batch:
        """Makes the batch of a step, from 0."""
        targets = self.targets(step)
        packed = None if self.plan.packing is None else self.plan.pack(targets)
        if self.cache is None:
            return collate(targets, *self.plan.views) if packed is None else packed.batch
        if packed is None:
            return self.cache.batch(targets, self._later_targets(step))
        return self.cache.packed_batch(packed, targets, self._later_targets(step))

    def targets(self, step: int) -> list[Target]:
        """Draws the targets of a step."""
        size = self.plan.train.batch_size
        return [self.draw(number) for number in range(step * size, (step + 1) * size)]

    def _later_targets(self, step: int) -> Iterator[Target]:
        """Targets of the next steps, with which the cache fills its batches: those that are settled by now."""
        end = min(step + TEACHER_STEPS_AHEAD, resolved_steps(self.plan.train))
        if self.plan.on_policy is not None:  # the student samples after every `every` steps for the next ones
            every = self.plan.on_policy.every
            end = min(end, max(-(-step // every), 1) * every + 1)
        for later in range(step + 1, end):
            yield from self.targets(later)


def run_plan(base: Generator, targets: TargetSource, plan: TrainPlan, *, checkpointer: Checkpointer | None = None,
             metrics: MetricsSink | None = None, progress: bool = True, save_last: bool = True,
             open_book_teacher: Generator | None = None) -> TrainResult:
    """Trains a model on a source of targets.

    Args:
        base: the teacher, and the student before its first step; its layers are stacked while steps are made.
        targets: the training targets.
        plan: from `make_plan`.
        checkpointer: saves and resumes; None starts anew and saves nothing.
        metrics: takes the steps' numbers.
        progress: show a bar.
        save_last: save the final state; see `Session`.
        open_book_teacher: teacher of the targets with a context, where the plan has two teachers; by default the model
            itself.
    """
    train = plan.train
    open_book_teacher = base if open_book_teacher is None else open_book_teacher
    state, completions = initial_state(base, plan, targets.seed), {}
    if checkpointer is not None and checkpointer.latest_step() is not None:
        state, sidecar = checkpointer.restore(state)
        completions = sidecar.get("completions", completions)
    draw, hooks = targets.target, list[Hook]()
    if plan.on_policy is not None and plan.sampling is not None:
        sampled = OnPolicyTargets(base, targets, plan.on_policy, plan.sampling, train.batch_size,
                                  (plan.student_length, plan.teacher_length), completions)
        hooks.append(_sampling_hook(sampled, plan.on_policy.every, plan, state))
        draw = sampled.target
    cache = None
    if plan.top_k is not None:
        cache = TeacherCache(base, open_book_teacher if plan.two_teachers else None, plan.top_k,
                             (plan.student_length, plan.teacher_length), plan.teacher_targets,
                             plan.divergence.temperature, plan.dtype, plan.mesh, plan.teacher_packing)
    second = open_book_teacher if plan.two_teachers and cache is None else None

    def step(state: TrainState, _: Any, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        # Sampling unstacks the layers, so every step takes the stacked ones anew.
        own = base.training_params()
        state, numbers = plan.step(state, own if second is None else (own, second.training_params()), batch)
        if plan.averages_teacher and plan.on_policy is not None:
            average = mixed(state.params, state.extra["teacher"], 1 - plan.on_policy.decay)
            state = dataclasses.replace(state, extra={"teacher": average})
        return state, numbers

    fitted = fit(state, step, BatchMaker(plan, draw, cache), resolved_steps(train), mesh=plan.mesh, hooks=hooks,
                 log_every=train.log_every, save_every=train.save_every, save_last=save_last,
                 checkpointer=checkpointer, sidecar={"completions": completions} if hooks else None, metrics=metrics,
                 progress=progress)
    return TrainResult(base, fitted.state.params, plan.lora, fitted.metrics, fitted.interrupted)


def _sampling_hook(targets: OnPolicyTargets, every: int, plan: TrainPlan, state: TrainState) -> Hook:
    """Samples before the first step, and returns the hook that samples later: for a step's targets after the step
    before the last, since batches are made one step ahead."""
    steps = resolved_steps(plan.train)
    student = lambda state: ((state.params, None) if plan.lora is None else
                             (None, as_adapter(state.params, plan.lora)))
    if not int(state.step):
        targets.sample(range(min(every + 1, steps)), *student(state))

    def hook(made: int, state: TrainState) -> None:
        if made % every == 0 and made + 1 < steps:
            targets.sample(range(made + 1, min(made + 1 + every, steps)), *student(state))

    return hook


def initial_state(base: Generator, plan: TrainPlan, seed: int) -> TrainState:
    """Makes the state before the first step: the student equals the model."""
    base.training_params()
    trained = init_trained(base.model, plan.lora, plan.mesh, seed)
    extra = {"teacher": jax.tree.map(jnp.copy, trained)} if plan.averages_teacher else None
    return init_state(trained, plan.optimizer, purpose_seed(seed, "steps"), extra)


@dataclasses.dataclass(frozen=True)
class NumberedMetrics:
    """Writes the metrics of one run among many of a job, with steps counted over all runs.

    Attributes:
        writer: writer of the job's metrics.
        first_step: steps of the runs before.
        labels: added to every line.
    """

    writer: MetricsSink
    first_step: int
    labels: dict[str, Any]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        self.writer.write(self.first_step + step, {**self.labels, **values})


def train_run(job: Job, base: Generator, targets: TargetSource, plan: TrainPlan, name: str, first_step: int,
              labels: dict[str, Any], open_book_teacher: Generator | None = None) -> TrainResult:
    """Trains one run of many of a job, resumed if it was interrupted.

    The final state is not saved: the caller records the result at once, and then removes the checkpoints. A run that is
    killed before that is resumed from its last periodic checkpoint and comes to the same result.

    Args:
        job: its checkpoints and metrics are written.
        base: the teacher, and the student before its first step.
        targets: the training targets.
        plan: from `make_plan`.
        name: name of the run's checkpoints.
        first_step: steps of the runs of the job before this one, from which its own are counted on in the metrics.
        labels: added to its lines of metrics.
        open_book_teacher: see `run_plan`.

    Raises:
        KeyboardInterrupt: a signal stopped it; the checkpoint is saved.
    """
    steps = resolved_steps(plan.train)
    with Checkpointer(job.checkpoints / name) as checkpointer, contextlib.ExitStack() as stack:
        made, metrics = checkpointer.latest_step() or 0, None
        if made < steps:  # after a finished run come the lines of the next, which must stay
            writer = stack.enter_context(open_metrics(job.metrics_path, first_step + made, plan.train.trackers,
                                                      yaml.safe_load(to_yaml(job.config))))
            metrics = NumberedMetrics(writer, first_step, labels)
        result = run_plan(base, targets, plan, checkpointer=checkpointer, metrics=metrics, save_last=False,
                          open_book_teacher=open_book_teacher)
    if result.interrupted:
        raise KeyboardInterrupt(f"stopped in {name}; the same command resumes it")
    return result


def remove_checkpoints(job: Job, names: Iterable[str]) -> None:
    """Removes the checkpoints of runs that are recorded elsewhere by now.

    They are renamed first: a kill half-way would leave a part of a checkpoint, which looks like a damaged one.
    """
    for name in names:
        folder = job.checkpoints / name
        aside = folder.with_name(f".{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(folder.rename(aside))
