"""The plain training loop: one batch, one step."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.models.mesh import put_batch
from jaxllm.train.checkpoints import Checkpointer
from jaxllm.train.session import MetricsSink, Session
from jaxllm.train.state import TrainState

StepFn = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
"""`(state, frozen, batch) -> (state, metrics)`; a `TrainStep` for example."""

BatchFn = Callable[[int], Any]
"""Number of a step, from 0 -> tree of this process's host arrays `[rows, ...]`."""

Hook = Callable[[int, TrainState], Mapping[str, float] | None]
"""Called after every step with (steps made, state). The numbers that it returns, if any, are logged at that step.

It must not hold the state: the next step donates it.
"""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How a call of `fit` ended.

    Attributes:
        state: after the last step made.
        interrupted: True when a signal came, even in the last step: the process has to end.
        metrics: metrics of the last step made, by name, with the hooks' numbers; empty when none was made.
    """

    state: TrainState
    interrupted: bool
    metrics: dict[str, float]


def fit(
    state: TrainState,
    step_fn: StepFn,
    batch_fn: BatchFn,
    total_steps: int,
    *,
    frozen: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    hooks: Sequence[Hook] = (),
    log_every: int = 10,
    save_every: int | None = None,
    save_last: bool = True,
    checkpointer: Checkpointer | None = None,
    sidecar: Mapping[str, Any] | None = None,
    metrics: MetricsSink | None = None,
    progress: bool = True,
    max_nonfinite: int = 20,
    should_stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Makes steps `state.step` .. `total_steps` - 1; a restored state continues where it was saved.

    Args:
        state: donated; use the one in the result.
        step_fn: from `make_train_step`, or a function that calls it.
        batch_fn: makes a step's batch from the step's number alone; called for the next step while the
            device works on this one.
        total_steps: total steps of the whole run, those already made included.
        frozen: passed to every step: base weights and what else is not trained.
        mesh: the devices for batches, None for the default device.
        hooks: called in order after every step, before the step is logged and saved.
        sidecar: JSON object saved in every checkpoint.
        log_every, save_every, save_last, checkpointer, metrics, progress, max_nonfinite: see `Session`.
        should_stop: called after every step and its hooks; True ends the run there, as for early stopping.

    Raises:
        UserError: the loss was not finite for `max_nonfinite` steps in a row.
        StorageError: the disk is full.
    """
    first = int(jax.device_get(state.step))
    with Session(first, total_steps, log_every=log_every, save_every=save_every, save_last=save_last,
                 checkpointer=checkpointer, metrics=metrics, progress=progress,
                 max_nonfinite=max_nonfinite) as session:
        batch, tokens = _next_batch(batch_fn, first, mesh) if first < total_steps else (None, 0)
        for step in session.steps():
            with _use_mesh(mesh):
                state, on_device = step_fn(state, frozen, batch)
            step_tokens = tokens
            batch, tokens = _next_batch(batch_fn, step + 1, mesh) if step + 1 < total_steps else (None, 0)
            from_hooks: dict[str, float] = {}
            for hook in hooks:
                from_hooks |= hook(step + 1, state) or {}
            session.log(step, on_device, host=from_hooks, tokens=step_tokens)
            if should_stop is not None and should_stop():
                session.end()
            session.save_if_due(step, state, sidecar)
        session.finish(state, sidecar)
    return FitResult(state, session.interrupted, session.latest)


def _next_batch(batch_fn: BatchFn, step: int, mesh: jax.sharding.Mesh | None) -> tuple[Any, int]:
    """Makes a step's batch and puts it on the device; counts its tokens on the host."""
    batch = batch_fn(step)
    return jax.device_put(batch) if mesh is None else put_batch(batch, mesh), count_tokens(batch)


def _use_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Makes the mesh known to kernels that the compiler cannot split and that split themselves."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def count_tokens(batch: Any) -> int:
    """Counts the tokens of a host batch without padding.

    Counted are the nonzero entries of all arrays named `...segments`, of the teacher's and the student's
    view for example, and the entries of `lengths`, or else of the array `mask`; 0 where the batch has none.
    """
    if not isinstance(batch, Mapping):
        return 0
    segments = [np.count_nonzero(x) for name, x in batch.items() if name.endswith("segments")]
    segments += [np.sum(x) for name, x in batch.items() if name == "lengths"]
    return int(sum(segments)) if segments else int(np.count_nonzero(batch.get("mask", 0)))
