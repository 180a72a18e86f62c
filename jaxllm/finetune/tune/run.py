"""Training on groups of texts: batches, reference log-probabilities, and the run with its evaluations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.errors import StorageError
from jaxllm.finetune.objectives import (
    Objective,
    flat,
    group_outputs,
    group_values,
    make_finish,
    make_objective_loss,
    reference_logprobs,
)
from jaxllm.finetune.texts import Batch, RowShape, make_batch, row_shape
from jaxllm.finetune.trainable import mixed, student_of
from jaxllm.finetune.tune.groups import DataSet, FixedGroups, Values, with_nll_scale
from jaxllm.finetune.tune.measuring import means
from jaxllm.models import ModelSpec
from jaxllm.models.mesh import put_batch
from jaxllm.models.tensors import save_tensors
from jaxllm.ops.preference import add_margin
from jaxllm.ops.rewards import EXTREMES
from jaxllm.progress import bar, notice
from jaxllm.train import (
    Checkpointer,
    FitResult,
    MetricsSink,
    TrainState,
    TrainStep,
    count_tokens,
    fit,
    make_schedule,
    make_train_step,
    row_indices,
)
from jaxllm.train.config import TrainConfig

# Batches of a run from which the shape of its rows is chosen.
_TRIED_BATCHES = 32


@dataclasses.dataclass(frozen=True)
class Runner:
    """A network on devices, with the form of its batches.

    Attributes:
        spec: spec of the network.
        objective: the loss.
        scale: scale of the trained adapter; None trains all weights.
        shape: shape of rows.
        batch_size: groups of a batch.
        mesh: devices.
        dtype: dtype of activations.
        progress: show progress.
    """

    spec: ModelSpec
    objective: Objective
    scale: float | None
    shape: RowShape
    batch_size: int
    mesh: jax.sharding.Mesh
    dtype: jnp.dtype
    progress: bool = True

    def batch(self, data: DataSet, rows: Sequence[int]) -> Batch:
        """Makes the batch of some rows, on the host."""
        groups, values = data.take(rows)
        if self.objective.kind == "pairs":
            values = with_nll_scale(values, np.array([[len(text.states) for text in group] for group in groups]))
        return make_batch(groups, self.shape, values)

    def outputs(self, trained: Any, frozen: Any, extra: Any, data: DataSet, name: str, *, measure_tokens: bool = True
                ) -> tuple[dict[str, np.ndarray], Values]:
        """Runs the model over all rows of a data set.

        Args:
            trained, frozen, extra: as a loss gets them.
            data: the rows.
            name: label of the progress bar.
            measure_tokens: see `measure` of `group_outputs`.

        Returns:
            Outputs `[n, K, ...]` of the objective, in float32, and `reference` `[n, K]` if there is a reference model;
            and the rows' values `[n]`.
        """
        parts, given = [], []
        with bar(len(data), name, "rows", self.progress) as show, jax.set_mesh(self.mesh):
            for start in range(0, len(data), self.batch_size):
                batch = self.batch(data, range(start, min(start + self.batch_size, len(data))))
                on_device = _outputs(self.spec, trained, frozen, extra, put_batch(batch, self.mesh),
                                     objective=self.objective, scale=self.scale, dtype=self.dtype,
                                     measure_tokens=measure_tokens)
                number = batch["group"].reshape(-1)
                order = np.argsort(number, kind="stable")[np.count_nonzero(number < 0):]
                parts.append({key: x[order] for key, x in flat(jax.device_get(on_device)).items()})
                given.append({key: x[order] for key, x in flat(group_values(batch)).items()})
                show(min(start + self.batch_size, len(data)))
        join = lambda dicts: {key: np.concatenate([one[key] for one in dicts]) for key in dicts[0]}
        outputs, values = join(parts), join(given)
        if self.objective.kind == "pairs":  # a batch's own scale would make metrics depend on the batch size
            values = with_nll_scale(values, outputs["nll_tokens"])
        if self.objective.shifted:  # that of training, so that a row's loss does not depend on the others
            values["reward_shift"] = np.full(len(data), extra["earlier_rewards"][0], np.float32)
        return outputs, values


@functools.partial(jax.jit, static_argnames=("spec", "objective", "dtype", "scale", "measure_tokens"))
def _outputs(spec: ModelSpec, trained: Any, frozen: Any, extra: Any, batch: Batch, *, objective: Objective,
             scale: float | None, dtype: jnp.dtype, measure_tokens: bool) -> dict[str, jax.Array]:
    """Computes the outputs of a batch `[R, G, K, ...]`, and the reference model's as `reference`."""
    student, adapter = student_of(trained, frozen, scale)
    outputs = group_outputs(spec, student, adapter, batch, objective, dtype=dtype, measure=measure_tokens)
    reference = reference_logprobs(spec, objective, frozen, extra, scale, batch, flat(group_values(batch)), dtype)
    if reference is not None:
        outputs["reference"] = reference.reshape(*batch["group"].shape, -1)
    return outputs


def make_shape(data: DataSet, train: TrainConfig, width: int, mesh: jax.sharding.Mesh, seed: int) -> RowShape:
    """Chooses the shape of rows from some of the run's batches; see `row_shape`."""
    steps = np.unique(np.linspace(0, (train.steps or 1) - 1, _TRIED_BATCHES).astype(int)).tolist()
    batches = [data.take(row_indices(seed, step, train.batch_size, len(data)).tolist())[0] for step in steps]
    multiple = train.accumulate * mesh.shape["data"] * mesh.shape["fsdp"]
    return row_shape(batches, data.largest(), width, multiple, packed=train.packing)


def padding(runner: Runner, data: DataSet, train: TrainConfig, seed: int) -> float:
    """Computes the share of padding in some of the run's batches."""
    steps = np.unique(np.linspace(0, (train.steps or 1) - 1, _TRIED_BATCHES).astype(int)).tolist()
    batches = [runner.batch(data, row_indices(seed, step, train.batch_size, len(data)).tolist()) for step in steps]
    return 1 - sum(map(count_tokens, batches)) / sum(batch["tokens"].size for batch in batches)


def compute_reference(runner: Runner, reference: Any, frozen: Any, data: FixedGroups, file: Path | None = None
                      ) -> FixedGroups:
    """Adds the log-probabilities of the reference model to the values of rows, computed once for all steps.

    Args:
        runner: the network and its batches.
        reference: the trained tree of the reference model.
        frozen: the base model.
        data: the rows.
        file: safetensors file that is read if it exists, and written otherwise; named by a hash of the content. One
            that is damaged is made again; where it cannot be written, later runs compute anew.
    """
    logprobs = None if file is None else _stored_logprobs(file)
    if logprobs is None:
        plain = dataclasses.replace(runner, objective=Objective(runner.objective.kind))
        outputs, _ = plain.outputs(reference, frozen, None, data, "reference", measure_tokens=False)
        logprobs = outputs["logprobs"]
        if file is not None and jax.process_index() == 0:
            _store_logprobs(file, logprobs)
    return dataclasses.replace(data, values=data.values | {
        f"reference_{text}": values for text, values in enumerate(logprobs.T)})


def _stored_logprobs(file: Path) -> np.ndarray | None:
    """Reads the log-probabilities of a file; None where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)["logprobs"]
    except (SafetensorError, OSError, KeyError):
        return None


def _store_logprobs(file: Path, logprobs: np.ndarray) -> None:
    """Writes a file of log-probabilities as a whole; prints a notice where that fails."""
    from safetensors import SafetensorError

    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(unfinished, {"logprobs": logprobs})
        os.replace(unfinished, file)
    except (SafetensorError, OSError, StorageError) as error:
        notice(f"the reference model's log-probabilities are not stored in {file.parent}: {error}")
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@dataclasses.dataclass
class History:
    """Evaluations of a run, and what follows from them; saved with every checkpoint.

    Attributes:
        steps: evaluated after these steps, with the value of the chosen metric.
        smaller: whether a smaller value is better.
        patience: evaluations without a better value after which the run ends; None never ends it.
    """

    steps: list[tuple[int, float]]
    smaller: bool
    patience: int | None

    @property
    def best(self) -> int | None:
        """Step of the best finite value, the earlier one of equal ones; None if no value is finite."""
        finite = [(value if self.smaller else -value, step) for step, value in self.steps if math.isfinite(value)]
        return min(finite)[1] if finite else None

    @property
    def stopped(self) -> bool:
        """Whether the last `patience` evaluations were not better than one before."""
        best = self.best
        if self.patience is None or best is None:
            return False
        return sum(step > best for step, _ in self.steps) >= self.patience

    @property
    def sidecar(self) -> dict[str, Any]:
        """The evaluations as a checkpoint holds them: a view, to which later ones are added."""
        return {"evaluations": self.steps}


@dataclasses.dataclass(frozen=True)
class ReferenceSync:
    """A reference model that follows the policy (TR-DPO, 2404.09656).

    Attributes:
        every: steps between two updates.
        mix: share of the policy in the new reference model, `mix * policy + (1 - mix) * reference`.
    """

    every: int
    mix: float


@dataclasses.dataclass(frozen=True)
class _MarginSink:
    """Adds the margin of rewards to the numbers of unpaired rows, where a step has both sides."""

    sink: MetricsSink

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        self.sink.write(step, add_margin(values))


def make_step(runner: Runner, train: TrainConfig, optimizer: optax.GradientTransformation, dropout: float = 0.0
              ) -> TrainStep:
    """Compiles a step of training on a batch of the runner; arguments as those of `train`."""
    loss = make_objective_loss(runner.spec, runner.objective, runner.scale, dropout=dropout, dtype=runner.dtype,
                               remat=train.remat)
    return make_train_step(loss, optimizer, make_schedule(train, train.steps or 0), train.accumulate,
                           make_finish(runner.objective), EXTREMES)


def train(runner: Runner, train: TrainConfig, start: TrainState, optimizer: optax.GradientTransformation, frozen: Any,
          data: DataSet, seed: int, *, dropout: float = 0.0, sync: ReferenceSync | None = None,
          held_back: DataSet | None = None, held_back_runner: Runner | None = None, evaluate_every: int | None = None,
          history: History | None = None, metric: str = "loss", checkpointer: Checkpointer | None = None,
          metrics: MetricsSink | None = None, progress: bool = True) -> FitResult:
    """Trains on a data set.

    Args:
        runner: the network and its batches.
        train: settings, with a number of steps.
        start: state before the first step; the one of a checkpoint replaces it.
        optimizer: optimizer of the state.
        frozen: the base model, see `make_objective_loss`.
        data: the rows.
        seed: seed of the order.
        dropout: see `make_objective_loss`.
        sync: updates of the reference model in the state's `extra`.
        held_back, held_back_runner: rows that are evaluated, and their batches.
        evaluate_every: steps between two evaluations; there is one after the last step too.
        history: takes the evaluations, and may end the run.
        metric: metric of the history.
        checkpointer: saves and resumes; None saves nothing.
        metrics: takes the steps' numbers.
        progress: show a bar.
    """
    steps = train.steps or 0
    compiled = make_step(runner, train, optimizer, dropout)
    history = History([], True, None) if history is None else history
    state = start
    if checkpointer is not None and checkpointer.latest_step() is not None:
        state, sidecar = checkpointer.restore(start)
        history.steps += [(step, value) for step, value in sidecar["evaluations"]]

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        state, numbers = compiled(state, frozen, batch)
        made[0] += 1
        if sync is not None and made[0] % sync.every == 0:
            reference = mixed(state.params, state.extra["reference"], sync.mix)
            state = dataclasses.replace(state, extra=state.extra | {"reference": reference})
        return state, numbers

    def evaluate(made: int, state: TrainState) -> dict[str, float]:
        if held_back is None or held_back_runner is None or evaluate_every is None:
            return {}
        if made % evaluate_every and made != steps:
            return {}
        quiet = dataclasses.replace(held_back_runner, progress=False)
        found = means(quiet.objective, *quiet.outputs(state.params, frozen, state.extra, held_back, "evaluate"))
        history.steps.append((made, found.get(metric, math.nan)))
        return {f"eval_{name}": value for name, value in found.items()}

    made = [int(state.step)]
    if history.stopped:
        return FitResult(state, False, {})
    batch = lambda step: runner.batch(data, row_indices(seed, step, train.batch_size, len(data)).tolist())
    return fit(state, step, batch, steps, frozen=frozen, mesh=runner.mesh, hooks=[evaluate], log_every=train.log_every,
               save_every=train.save_every, checkpointer=checkpointer, sidecar=history.sidecar, progress=progress,
               metrics=None if metrics is None else _MarginSink(metrics), should_stop=lambda: history.stopped)
