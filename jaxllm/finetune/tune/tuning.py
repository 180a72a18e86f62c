"""Fine-tuning as one function, and in the parts of which the command is made: prepare, train, evaluate."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.finetune.objectives import metric_names
from jaxllm.finetune.packing import can_pack
from jaxllm.finetune.targets import purpose_seed
from jaxllm.finetune.trainable import HeadName, as_adapter, init_trained, trainable_model
from jaxllm.finetune.tune.config import TuneConfig
from jaxllm.finetune.tune.data import FORMS, Encoded, Rows, encode, labels_of, split
from jaxllm.finetune.tune.groups import FixedGroups, UnpairedGroups, content_hash
from jaxllm.finetune.tune.measuring import measure
from jaxllm.finetune.tune.run import History, ReferenceSync, Runner, compute_reference, make_shape, train
from jaxllm.generate import Generator
from jaxllm.model import Model
from jaxllm.models import Adapter, ModelSpec, Params, merge_adapter
from jaxllm.ops.preference import add_margin, resolve
from jaxllm.progress import notice
from jaxllm.text.forms import rows_of
from jaxllm.train import Checkpointer, FitResult, MetricsSink, TrainState, init_state, make_optimizer
from jaxllm.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Result of `tune`.

    Attributes:
        model: the base model; of a scoring method with the scoring head from which training started.
        adapter: the trained adapter; None if all weights were trained.
        head: the trained scoring head, which an adapter does not hold; None without one.
        params: all weights, if all were trained; None with an adapter.
        metrics: metrics of the last step, under TRL's names.
        held_back: metrics of the held-back rows, `{mean, ci_low, ci_high, n}` each; empty without such rows.
    """

    model: Model
    adapter: Adapter | None
    head: Params | None
    params: Params | None
    metrics: dict[str, float]
    held_back: dict[str, dict[str, float | int | None]]

    def merged(self) -> Params:
        """Returns all weights after training: the trained ones, or a copy of the base model's with the adapter merged,
        and the trained scoring head."""
        if self.adapter is None:
            assert self.params is not None
            return self.params
        return merge_adapter(self.model.params | ({} if self.head is None else {"score": self.head}), self.adapter)


def tune(model: Model, rows: Sequence[Mapping[str, Any]], *, config: TuneConfig,
         held_back: Sequence[Mapping[str, Any]] | None = None, progress: bool = True) -> Tuned:
    """Trains a model on examples or preferences.

    Args:
        model: the model; its weights are left as they are.
        rows: rows of one of the forms that the method takes, see `docs/preferences.md`.
        config: method, losses and training.
        held_back: rows for evaluation; None holds back `config.held_back.share` of the prompts.
        progress: show progress bars.

    Raises:
        UserError: a row cannot be used, or the model does not suit the method.
    """
    given = [_rows(config, own) for own in (rows, held_back) if own is not None]
    labels = labels_of(config, given[0].rows)
    given = [dataclasses.replace(own, labels=labels) for own in given]
    model = scoring_model(config, trainable_model(model, config.lora, config.device), labels)
    tuning = prepare(config, model, given[0], given[1] if len(given) > 1 else None, limit_bad=0.0, progress=progress)
    with contextlib.ExitStack() as stack:
        checkpointer = None
        if config.held_back.keep == "best":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            checkpointer = stack.enter_context(tuning.checkpointer(Path(folder)))
        fitted, history = tuning.fit(checkpointer, progress=progress)
        if fitted.interrupted:
            raise KeyboardInterrupt
        state = fitted.state if checkpointer is None else tuning.final_state(fitted.state, history, checkpointer)
    adapter = as_adapter(state.params, config.lora)
    return Tuned(tuning.base.model, adapter, state.params.get("score") if "layers" not in state.params else None,
                 state.params if adapter is None else None, add_margin(fitted.metrics), tuning.evaluate(state)[0])


def _rows(config: TuneConfig, rows: Sequence[Mapping[str, Any]]) -> Rows:
    made, lines = [], []
    for number, row in enumerate(rows, 1):
        try:
            own = rows_of(row, FORMS[config.kind], number)
        except UserError as error:
            raise UserError(error.what, f"row {number}") from None
        made += own
        lines += [number] * len(own)
    return Rows(made, lines, [], "rows", [])


def scoring_model(config: TuneConfig, model: Model, labels: Sequence[str]) -> Model:
    """Adds a scoring head, with one score per class or one in all, where the method trains a scoring model.

    Raises:
        UserError: the model has a scoring head, and the method trains a language model.
    """
    if not config.objective.scores:
        model.require_lm(f"be trained by method {config.method}")
        return model
    return model.with_score_head(1 if config.kind == "reward" else len(labels), labels, config.seed)


def train_settings(config: TuneConfig, spec: ModelSpec, rows: int, mesh: jax.sharding.Mesh) -> TrainConfig:
    """Resolves the number of steps and of checkpoints, and checks that a batch divides over the devices.

    Rows are not packed where that would change the hidden states; see `can_pack`.
    """
    groups, per_step = mesh.shape["data"] * mesh.shape["fsdp"], config.train.batch_size // config.train.accumulate
    packing = config.train.packing and can_pack(spec)
    if not packing and per_step % groups:
        raise UserError(f"{per_step} rows per step (batch_size / accumulate) do not divide over {groups} devices",
                        "train.batch_size", f"use a multiple of {groups}, or fewer devices with mesh.data")
    settings = dataclasses.replace(config.train.resolve(rows), packing=packing)
    if config.held_back.keep == "best" and settings.save_every is None:  # every evaluated state has to be on disk
        settings = dataclasses.replace(settings, save_every=config.held_back.every)
    return settings


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows in batches, and the settings of training; made without the weights.

    Attributes:
        config: settings.
        train, held_back: the rows.
        settings: settings of training, with the number of steps.
        runner, held_back_runner: batches of both.
        optimizer: optimizer of the state.
    """

    config: TuneConfig
    train: Encoded
    held_back: Encoded | None
    settings: TrainConfig
    runner: Runner
    held_back_runner: Runner
    optimizer: optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Tuning(Plan):
    """A run before its first step.

    Attributes:
        base: the base model.
        start: state before the first step.
        frozen: weights of the base model, for an adapter and for a reference model in every step; else empty.
    """

    base: Generator
    start: TrainState
    frozen: Params

    def fit(self, checkpointer: Checkpointer | None = None, metrics: MetricsSink | None = None, progress: bool = True
            ) -> tuple[FitResult, History]:
        """Trains; a checkpoint continues the run that it is of. Returns the end of the run, and its evaluations."""
        config, sync = self.config, self.config.reference.sync_every
        history = History([], config.held_back.smaller, config.held_back.patience)
        return train(self.runner, self.settings, self.start, self.optimizer, self.frozen, self.train.data,
                     config.seed, dropout=0.0 if config.lora is None else config.lora.dropout,
                     sync=None if sync is None else ReferenceSync(sync, config.reference.sync_mix),
                     held_back=None if self.held_back is None else self.held_back.data,
                     held_back_runner=self.held_back_runner, evaluate_every=config.held_back.every, history=history,
                     metric=config.held_back.metric, checkpointer=checkpointer, metrics=metrics, progress=progress
                     ), history

    def checkpointer(self, folder: Path) -> Checkpointer:
        """Opens the checkpoints of the run, which retain the best evaluation where `held_back.keep` is best."""
        best = f"eval_{self.config.held_back.metric}" if self.config.held_back.keep == "best" else None
        return Checkpointer(folder, best, "min" if self.config.held_back.smaller else "max")

    def final_state(self, state: TrainState, history: History, checkpointer: Checkpointer) -> TrainState:
        """Returns the state after the last step, or after the step with the best evaluation; see `held_back.keep`.

        It is that after the last step where no evaluation has a value: rows without an undesirable completion have no
        `rewards/margins`, for example.
        """
        held_back, best = self.config.held_back, history.best
        if held_back.keep == "last" or best == int(state.step):
            return state
        if best is None:
            if history.steps:
                notice(f"no evaluation has a value of {held_back.metric} (held_back.metric), so the weights after the "
                       "last step are taken")
            return state
        return checkpointer.restore(state, best).tree

    def evaluate(self, state: TrainState) -> tuple[dict[str, dict[str, float | int | None]], dict[str, np.ndarray]]:
        """Computes metrics of the held-back rows and of each, see `measuring.measure`; empty without rows."""
        if self.held_back is None:
            return {}, {}
        outputs, values = self.held_back_runner.outputs(state.params, self.frozen, state.extra, self.held_back.data,
                                                        "evaluate")
        return measure(self.held_back_runner.objective, outputs, values, self.held_back.clusters, self.config.seed)


def plan(config: TuneConfig, model: Model, rows: Rows, held_back: Rows | None, *, limit_bad: float,
         progress: bool = True) -> Plan:
    """Encodes the rows, and chooses the shape of batches.

    Args:
        config: settings.
        model: from `scoring_model`; its weights are not read.
        rows, held_back: rows for training and evaluation; None holds back a share of the former.
        limit_bad: share of rows that may be refused by the tokenizer or the chat template.
        progress: show progress bars.

    Raises:
        UserError: no row can be used, or too few; a batch does not divide over the devices; or no metric has the name
            of `held_back.metric`.

    Prints notices of what the rows and the settings leave without effect.
    """
    metric, names = config.held_back.metric, metric_names(config.objective)
    if config.held_back.every is not None and metric not in names:
        raise UserError(f"there is no metric {metric!r}", "held_back.metric", f"use one of {', '.join(names)}")
    mesh = open_mesh(config.mesh)
    own = encode(config, model, rows, limit_bad)
    other = None if held_back is None else encode(config, model, held_back, limit_bad)
    if held_back is None:
        own, other = split(own, config.held_back.share)
    if "kto" in config.losses:
        _check_kto(config, own, other, rows.source)
    if other is not None and isinstance(other.data, UnpairedGroups):
        other = dataclasses.replace(other, data=other.data.fixed())
    settings, every = train_settings(config, model.spec, len(own.data), mesh), config.held_back.every
    if every is not None and every > (settings.steps or 0):
        notice(f"held_back.every is {every}, and the run has {settings.steps} steps: held-back rows are evaluated at "
               "its end only, and the weights after the last step are taken")
    scale = None if config.lora is None else config.lora.alpha / config.lora.rank
    shape = lambda rows, train: make_shape(rows.data, train, model.spec.width, mesh, config.seed)
    runner = Runner(model.spec, config.objective, scale, shape(own, settings), settings.batch_size, mesh,
                    config.device.compute_dtype, progress)
    other_runner = runner if other is None else dataclasses.replace(
        runner, shape=shape(other, dataclasses.replace(settings, steps=1, warmup_steps=0)))
    return Plan(config, own, other, settings, runner, other_runner, make_optimizer(settings, settings.steps or 0))


def _check_kto(config: TuneConfig, own: Encoded, other: Encoded | None, source: str) -> None:
    """Checks that KTO has completions of other prompts; prints a notice where the held-back rows have none, or where
    the weights of desirable and undesirable rows are not as its authors advise."""
    if len(set(own.clusters)) == 1:
        raise UserError("all rows have the same prompt, and kto needs completions of other prompts", source,
                        "use the loss apo_zero_unpaired, which does not")
    if other is not None and len(set(other.clusters)) == 1:
        notice("all held-back rows have the same prompt, so that kto has no reference point (kl) in their loss")
    settings = resolve(config.losses, config.preference.settings)["kto"][1]
    assert settings.desirable_weight is not None and settings.undesirable_weight is not None
    data: Any = own.data
    weight, desirable = data.values["weight"], data.values["desirable"]
    good = float(np.sum(weight * desirable)) * settings.desirable_weight
    bad = float(np.sum(weight * (1 - desirable))) * settings.undesirable_weight
    if not bad <= good <= 4 / 3 * bad:
        notice(f"desirable and undesirable rows have weights of {good:.4g} and {bad:.4g} in all; the authors of KTO "
               "advise a ratio from 1 to 4/3: set preference.desirable_weight or preference.undesirable_weight")


def prepare(config: TuneConfig, model: Model, rows: Rows, held_back: Rows | None, *, limit_bad: float,
            reference_cache: tuple[Path, str] | None = None, donate: bool = False, progress: bool = True) -> Tuning:
    """Makes the state before the first step, and computes the reference model's log-probabilities.

    Args:
        config, model, rows, held_back, limit_bad, progress: see `plan`, also for what is raised.
        reference_cache: directory for the reference model's log-probabilities, and a hash of the model.
        donate: the model is not used afterwards: its weights are trained in place where they all are.
    """
    made = plan(config, model, rows, held_back, limit_bad=limit_bad, progress=progress)
    mesh = made.runner.mesh
    base = Generator(model, dtype=config.device.compute_dtype, mesh=mesh, donate=donate)
    frozen = base.training_params()
    heads: list[HeadName] = ["score"] if config.objective.scores and config.lora is not None else []
    in_place = config.trains_in_place
    trained = frozen if in_place and donate else init_trained(base.model, config.lora, mesh, config.seed, heads)
    if config.objective.reference == "values":
        def with_reference(runner: Runner, encoded: Encoded) -> Encoded:
            assert isinstance(encoded.data, FixedGroups)
            file = None
            if reference_cache is not None:
                name = content_hash(encoded.data, reference_cache[1], str(runner.dtype), str(config.device.quantize),
                                    str(config.device.params), str(config.lora is None), jax.default_backend())
                file = reference_cache[0] / f"{name}.safetensors"
            return dataclasses.replace(encoded, data=compute_reference(runner, trained, frozen, encoded.data, file))

        made = dataclasses.replace(
            made, train=with_reference(made.runner, made.train),
            held_back=None if made.held_back is None else with_reference(made.held_back_runner, made.held_back))
    extra: dict[str, Any] = {"earlier_rewards": np.zeros(2, np.float32)} if config.objective.shifted else {}
    if config.objective.reference == "extra":
        extra["reference"] = jax.tree.map(jnp.copy, trained)
    state = init_state(trained, made.optimizer, purpose_seed(config.seed, "steps"), extra)
    return Tuning(**vars(made), base=base, start=state, frozen={} if in_place else frozen)
