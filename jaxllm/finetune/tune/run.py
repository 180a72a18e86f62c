"""Training on groups of texts: data set, reference log-probabilities, evaluation on held-back rows, and the run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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
    objective_loss,
    reference_logprobs,
)
from jaxllm.finetune.texts import Batch, Group, RowShape, joined_text, make_batch, row_shape
from jaxllm.finetune.trainable import mixed, student_of
from jaxllm.models import ModelSpec
from jaxllm.models.mesh import put_batch
from jaxllm.models.network import Remat
from jaxllm.models.tensors import save_tensors
from jaxllm.ops.preference import add_margin
from jaxllm.ops.rewards import EXTREMES
from jaxllm.progress import bar, notice
from jaxllm.statistics import clustered, clustered_sums, rate
from jaxllm.train import (
    Checkpointer,
    FitResult,
    MetricsSink,
    TrainState,
    count_tokens,
    fit,
    make_schedule,
    make_train_step,
    row_indices,
)
from jaxllm.train.config import TrainConfig

Values = dict[str, np.ndarray]
# Batches of a run from which the shape of its rows is chosen.
_TRIED_BATCHES = 32
# Raised when a change of the forward pass changes log-probabilities, so that those in the user's cache are not used.
_REFERENCE_VERSION = 1
# Metrics of a whole batch, which are no means over its rows; and those that are shares of rows or tokens.
_OF_ALL_ROWS = ("kl", "reward_shift", "min_reward", "max_reward")
_SHARES = ("accuracy", "rewards/accuracies", "mean_token_accuracy")


class DataSet(Protocol):
    """Rows of an objective as groups of texts."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> tuple[list[Group], Values]:
        """Makes the groups of rows that form one batch, with their values `[len(rows)]`, `weight` among them."""

    def largest(self) -> list[Group]:
        """Returns groups that have as many tokens and as many states as any that `take` returns."""


@dataclasses.dataclass(frozen=True)
class FixedGroups:
    """A data set with the same groups in every batch.

    Attributes:
        groups: one for every row.
        values: `[n]` each.
        clusters: the prompt of every row, or another unit that intervals resample.
    """

    groups: Sequence[Group]
    values: Values
    clusters: Sequence[Any]

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, rows: Sequence[int]) -> tuple[list[Group], Values]:
        """See `DataSet.take`."""
        return [self.groups[i] for i in rows], {name: value[list(rows)] for name, value in self.values.items()}

    def largest(self) -> list[Group]:
        """See `DataSet.largest`."""
        return list(self.groups)


@dataclasses.dataclass(frozen=True)
class UnpairedGroups:
    """Prompts with completions; a row's group also has the completion of another row of the batch after its prompt.

    KTO's reference point is the mean log-ratio of such mismatched texts. The partner is the next row of the batch with
    another prompt; a row without one has weight 0 in that mean.

    Attributes:
        texts: ids of the prompt, ids of the completion, and the completion's tokens with a loss, of every row.
        values: `[n]` each.
        clusters: the prompt of every row.
        longest: tokens to which texts are cut; a partner's completion may be longer than the row's own.
    """

    texts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    values: Values
    clusters: Sequence[Any]
    longest: int

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> tuple[list[Group], Values]:
        """See `DataSet.take`."""
        rows = list(rows)
        partners = self._partners(rows)
        groups = [self._group(row, row if partner is None else partner)
                  for row, partner in zip(rows, partners, strict=True)]
        matched = np.array([partner is not None for partner in partners], np.float32)
        values = {name: value[rows] for name, value in self.values.items()}
        return groups, values | {"mismatched": matched * (values["weight"] > 0)}

    def _partners(self, rows: Sequence[int]) -> list[int | None]:
        """Finds for every row the next one with another prompt; after the last row comes the first."""
        partners: list[int | None] = [None] * len(rows)
        # Backwards, so that a row takes the partner of the next one with its prompt. The second round is for the last
        # rows, since their partners are among the first.
        for place in (*range(len(rows))[::-1], *range(len(rows))[::-1]):
            following = (place + 1) % len(rows)
            differs = self.clusters[rows[following]] != self.clusters[rows[place]]
            partners[place] = rows[following] if differs else partners[following]
        return partners

    def fixed(self) -> FixedGroups:
        """Gives every row one partner for good, from all rows, so that an evaluation does not depend on its batches."""
        groups, values = self.take(range(len(self)))
        return FixedGroups(groups, values, self.clusters)

    def largest(self) -> list[Group]:
        """See `DataSet.largest`."""
        numbers = range(len(self))
        others = (max(numbers, key=lambda i: len(self.texts[i][1])), max(numbers, key=lambda i: self.texts[i][2].sum()))
        return [self._group(row, other) for row in numbers for other in others]

    def _group(self, row: int, partner: int) -> Group:
        """Makes the texts of a row's prompt with its own completion and with that of another row."""
        completions = (self.texts[number][1:] for number in (row, partner))
        return tuple(joined_text(self.texts[row][0], ids, mask, self.longest) for ids, mask in completions)


def with_nll_scale(values: Values, tokens: np.ndarray) -> Values:
    """Adds to the values of pairs `nll_scale`, which makes a mean over them one over tokens; see `ops.nll_scale`.

    Args:
        values: `[n]` each, of all pairs that the mean is over.
        tokens: `[n, 2]`, number of tokens with a negative log-likelihood.
    """
    right = values.get("label_probability", np.ones(len(tokens), np.float32))
    total = np.sum(values["weight"] * (right * tokens[:, 0] + (1 - right) * tokens[:, 1]))
    return values | {"nll_scale": np.full(len(tokens), values["weight"].sum() / max(total, 1e-30), np.float32)}


def content_hash(data: FixedGroups, *parts: str) -> str:
    """Hashes tokens, states and weights of all groups, and `parts`, such as the fingerprint of the model."""
    digest = hashlib.sha256(json.dumps([_REFERENCE_VERSION, jax.__version__, *parts]).encode())
    for group in data.groups:
        digest.update(np.int64(len(group)).tobytes())  # two texts of a pair are no two rows
        for text in group:
            for array in (text.ids, text.states, text.weights):
                digest.update(np.int64(len(array)).tobytes() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


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


def measure(runner: Runner, outputs: Mapping[str, np.ndarray], values: Values, clusters: Sequence[Any], seed: int = 0
            ) -> tuple[dict[str, dict[str, float | int | None]], dict[str, np.ndarray]]:
    """Computes the loss and the metrics over all rows of a data set, with intervals.

    Args:
        runner: the objective.
        outputs, values: from `Runner.outputs`.
        clusters: the prompt of every row; an interval resamples these.
        seed: seed of the intervals.

    Returns:
        `{mean, ci_low, ci_high, n}` by metric, the interval None for `reward_shift`, extremes, and losses on sorted
        values; and the metrics of every row `[n]`, NaN where a row has none. The loss of a row of KTO is that at the
        reference point of all rows.
    """
    objective, totals = runner.objective, means(runner, outputs, values)
    _, groups = np.unique(np.asarray([str(cluster) for cluster in clusters], object), return_inverse=True)
    if not groups.any():  # one prompt for all: its answers are what varies
        groups = np.arange(len(groups))
    outputs = dict(outputs)
    reference = outputs.pop("reference", None)
    result: dict[str, dict[str, float | int | None]] = {
        name: {"mean": mean, "ci_low": None, "ci_high": None, "n": len(groups)} for name, mean in totals.items()}
    if objective.mismatched:
        assert reference is not None
        counted, ratios = values["mismatched"], outputs["logprobs"][:, 1] - reference[:, 1]
        point = totals.get("kl", 0.0)
        if "kl" in totals:
            result["kl"] |= _of_sums([counted * ratios, counted], lambda s: np.maximum(s[..., 0] / s[..., 1], 0.0),
                                     groups, seed)
        outputs["logprobs"] = np.stack([outputs["logprobs"][:, 0], np.full_like(ratios, point)], 1)
        reference, values = reference * np.array([1, 0], np.float32), values | {"mismatched": np.ones_like(counted)}
    each = lambda x: objective_loss(objective, *jax.tree.map(lambda leaf: leaf[None], x))
    loss, metrics = jax.vmap(each)((outputs, values, reference))
    by_row: dict[str, np.ndarray] = {}
    for name, (sums, weights) in {"loss": loss, **metrics}.items():
        sums, weights = np.asarray(sums, np.float64), np.asarray(weights, np.float64)
        counted = weights > 0
        if name in totals and name not in _OF_ALL_ROWS and not (name == "loss" and objective.sorts):
            by_row[name] = np.where(counted, sums / np.where(counted, weights, 1.0), np.nan)
            given, weights = (by_row[name][counted], groups[counted], seed), weights[counted]
            result[name] |= rate(*given, weights=weights) if name in _SHARES else clustered(*given, weights=weights)
    if "rewards/margins" in totals.keys() - metrics.keys():  # of unpaired rows: a difference of two means
        result["rewards/margins"] |= _of_sums(
            [np.asarray(sums) for side in ("chosen", "rejected") for sums in metrics[f"rewards/{side}"]],
            lambda s: s[..., 0] / s[..., 1] - s[..., 2] / s[..., 3], groups, seed)
    return result, by_row


def _of_sums(columns: Sequence[np.ndarray], ratio: Callable[[np.ndarray], np.ndarray], groups: np.ndarray, seed: int
             ) -> dict[str, float | int | None]:
    """Computes a function of sums over rows with an interval, as `clustered_sums` of columns `[n]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = clustered_sums(np.stack(columns, 1), ratio, groups, seed)
    return {name: found[name] for name in ("mean", "ci_low", "ci_high", "n")}


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


def train(runner: Runner, train: TrainConfig, start: TrainState, optimizer: optax.GradientTransformation, frozen: Any,
          data: DataSet, seed: int, *, dropout: float = 0.0, remat: Remat = "none", sync: ReferenceSync | None = None,
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
        dropout, remat: see `make_objective_loss`.
        sync: updates of the reference model in the state's `extra`.
        held_back, held_back_runner: rows that are evaluated, and their batches.
        evaluate_every: steps between two evaluations; there is one after the last step too.
        history: takes the evaluations, and may end the run.
        metric: metric of the history.
        checkpointer: saves and resumes; None saves nothing.
        metrics: takes the steps' numbers.
        progress: show a bar.
    """
    loss = make_objective_loss(runner.spec, runner.objective, runner.scale, dropout=dropout, dtype=runner.dtype,
                               remat=remat)
    steps = train.steps or 0
    compiled = make_train_step(loss, optimizer, make_schedule(train, steps), train.accumulate,
                               make_finish(runner.objective), EXTREMES)
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
        found = means(quiet, *quiet.outputs(state.params, frozen, state.extra, held_back, "evaluate"))
        history.steps.append((made, found.get(metric, math.nan)))
        return {f"eval_{name}": value for name, value in found.items()}

    made = [int(state.step)]
    if history.stopped:
        return FitResult(state, False, {})
    batch = lambda step: runner.batch(data, row_indices(seed, step, train.batch_size, len(data)).tolist())
    return fit(state, step, batch, steps, frozen=frozen, mesh=runner.mesh, hooks=[evaluate], log_every=train.log_every,
               save_every=train.save_every, checkpointer=checkpointer, sidecar=history.sidecar, progress=progress,
               metrics=None if metrics is None else _MarginSink(metrics), should_stop=lambda: history.stopped)


def means(runner: Runner, outputs: Mapping[str, np.ndarray], values: Values) -> dict[str, float]:
    """Computes the loss and the metrics over all rows of a data set; the arguments are those of `measure`."""
    outputs = dict(outputs)
    reference = outputs.pop("reference", None)
    loss, metrics = objective_loss(runner.objective, outputs, values, reference)
    return add_margin({name: float(total) / float(weight) for name, (total, weight) in {"loss": loss, **metrics}.items()
                       if float(weight) > 0})
