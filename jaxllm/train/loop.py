"""The training loop: batches in, steps dispatched, numbers out, checkpoints on the way."""

import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from jaxllm.errors import UserError
from jaxllm.models.mesh import put_batch
from jaxllm.train.checkpoints import Checkpointer
from jaxllm.train.metrics import MetricsWriter
from jaxllm.train.state import TrainState
from jaxllm.train.step import TrainStep

BatchFn = Callable[[int], Any]
"""Number of a step, from 0 -> tree of this process's host arrays `[rows, ...]`."""

Hook = Callable[[int, TrainState], Mapping[str, float] | None]
"""Called after every step with (steps made, state). What it returns, if anything, is logged at that step.

It must not keep the state: the next step donates it.
"""

_IN_FLIGHT = 2  # steps the host runs ahead: enough to keep the device busy, few enough to stop promptly
_LINE_SECONDS = 10.0  # between progress lines where there is no terminal to draw a bar on


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How a call of `fit` ended.

    Attributes:
        state: after the last step made.
        interrupted: True when a signal came, even in the last step: the process is asked to end.
        metrics: of the last step made, by name, with what hooks returned; empty when none was made.
    """

    state: TrainState
    interrupted: bool
    metrics: dict[str, float]


def fit(
    state: TrainState,
    step_fn: TrainStep,
    batch_fn: BatchFn,
    total_steps: int,
    *,
    frozen: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    hooks: Sequence[Hook] = (),
    log_every: int = 10,
    save_every: int | None = None,
    checkpointer: Checkpointer | None = None,
    sidecar: Mapping[str, Any] | None = None,
    metrics: MetricsWriter | None = None,
    progress: bool = True,
    max_nonfinite: int = 20,
) -> FitResult:
    """Makes steps `state.step` .. `total_steps` - 1; a restored state continues where it was saved.

    SIGTERM and SIGINT let the running step finish, save a checkpoint and return; a second signal acts as
    if this function were not there.

    Args:
        state: donated; use the one in the result.
        step_fn: from `make_train_step`.
        batch_fn: makes a step's batch from the step's number alone; called for the next step while the
            device works on this one.
        total_steps: of the whole run, those already made included.
        frozen: passed to every step: base weights and what else is not trained.
        mesh: where batches are put, None for the default device.
        hooks: called in order after every step, before the step is logged and saved.
        log_every: a step is logged when it is the first, the last, or its number is a multiple of this.
        save_every: steps between checkpoints; None saves at the end and on a signal only.
        checkpointer: None saves nothing.
        sidecar: JSON object saved in every checkpoint.
        metrics: takes a line for every logged step, for every skipped step and for what hooks return.
        progress: whether to draw a bar (on a terminal) or print lines (elsewhere) to stderr.
        max_nonfinite: steps in a row without a finite loss and gradient after which the run stops; a run that
            is shorter stops when it had no other steps.

    Raises:
        UserError: the loss was not finite for `max_nonfinite` steps in a row.
        StorageError: the disk is full.
    """
    first = int(state.step)
    latest: dict[str, float] = {}
    nonfinite_steps = 0
    in_flight: deque[_Dispatched] = deque()
    bar = _Progress(first, total_steps, progress and jax.process_index() == 0)

    def land() -> None:
        """Fetches the oldest step's numbers, which the device has most likely finished by now."""
        nonlocal latest, nonfinite_steps
        done = in_flight.popleft()
        step, values = done.step, {name: float(x) for name, x in jax.device_get(done.metrics).items()}
        bad = values.get("skipped", 0.0) > 0 or not math.isfinite(values["loss"])
        nonfinite_steps = nonfinite_steps + 1 if bad else 0
        rates = bar.advance(step, values["loss"], done.tokens)
        latest = {**values, **done.from_hooks}
        due = step == 1 or step == total_steps or step % log_every == 0
        if metrics is not None and (due or bad or done.from_hooks):
            metrics.write(step, {**latest, **rates})
        if nonfinite_steps >= min(max_nonfinite, total_steps):
            raise UserError(
                f"no finite loss and gradient for {nonfinite_steps} steps in a row, up to step {step}",
                "train",
                "lower the learning rate, clip gradients harder, or look for rows that overflow",
            )

    def save() -> None:
        # Every number up to a checkpoint is on disk before it is: a resumed run leaves no gap.
        while in_flight:
            land()
        if checkpointer is not None:
            checkpointer.save(state, sidecar, latest)

    with _Signals() as signals, contextlib.closing(bar):
        batch = _put(batch_fn(first), mesh) if first < total_steps else None
        for step in range(first + 1, total_steps + 1):
            with _on(mesh):
                state, on_device = step_fn(state, frozen, batch)
            tokens = _tokens(batch)
            batch = _put(batch_fn(step), mesh) if step < total_steps else None
            from_hooks: dict[str, float] = {}
            for hook in hooks:
                from_hooks |= hook(step, state) or {}
            in_flight.append(_Dispatched(step, on_device, from_hooks, tokens))
            if len(in_flight) > _IN_FLIGHT:
                land()
            if save_every is not None and step % save_every == 0 and step < total_steps:
                save()
            if signals.stop(step, log_every):
                break
        save()
        if checkpointer is not None:
            checkpointer.wait()
    return FitResult(state, signals.received or int(state.step) < total_steps, latest)


class _Dispatched(NamedTuple):
    """A step the device has been given and whose numbers have not been fetched."""

    step: int
    metrics: dict[str, jax.Array]
    from_hooks: dict[str, float]
    tokens: int


def _on(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Makes the mesh known to kernels that the compiler cannot split and that split themselves."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _put(batch: Any, mesh: jax.sharding.Mesh | None) -> Any:
    return jax.device_put(batch) if mesh is None else put_batch(batch, mesh)


def _tokens(batch: Any) -> int:
    """Token positions in a batch that has an array of that name, padding included."""
    return int(np.size(batch["tokens"])) if isinstance(batch, Mapping) and "tokens" in batch else 0


class _Signals:
    """While entered, the first SIGTERM or SIGINT is remembered and the second acts as before.

    Python delivers signals to the main thread only; in any other this does nothing.
    """

    def __init__(self):
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, *_: object) -> None:
        self.received = True
        self.__exit__()

    def stop(self, step: int, agree_every: int) -> bool:
        """Whether to stop after `step`. All processes stop at the same step or they would wait forever."""
        if jax.process_count() == 1:
            return self.received
        if step % agree_every:
            return False
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.asarray(self.received)).any())


class _Progress:
    """A bar with loss, speed and time left on a terminal; elsewhere a line of the same every few seconds."""

    def __init__(self, first: int, total: int, show: bool):
        on_terminal = sys.stderr.isatty()
        self._lines = show and not on_terminal
        self._bar = tqdm.tqdm(
            total=total, initial=first, unit="step", dynamic_ncols=True, disable=not (show and on_terminal)
        )
        self._total = total
        self._printed = time.monotonic()
        # (time, steps, tokens) of the last steps; the first entry follows the first step, so that
        # compilation does not count.
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=50)

    def advance(self, step: int, loss: float, tokens: int) -> dict[str, float]:
        """Notes that `step` is done; returns `steps_per_s` and `tokens_per_s` over the last 50 steps."""
        now = time.monotonic()
        self._recent.append((now, step, tokens + (self._recent[-1][2] if self._recent else 0)))
        start, first, first_tokens = self._recent[0]
        if now == start:
            return {}
        rates = {"steps_per_s": (step - first) / (now - start)}
        text = f"loss {loss:.4g}"
        if tokens:
            rates["tokens_per_s"] = (self._recent[-1][2] - first_tokens) / (now - start)
            text += f", {rates['tokens_per_s']:,.0f} tokens/s"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)
        if self._lines and (now - self._printed >= _LINE_SECONDS or step == self._total):
            self._printed = now
            left = tqdm.tqdm.format_interval((self._total - step) / rates["steps_per_s"])
            print(
                f"step {step}/{self._total}: {text}, {rates['steps_per_s']:.3g} steps/s, {left} left",
                file=sys.stderr,
                flush=True,
            )
        return rates

    def close(self) -> None:
        """Leaves the bar as it is and moves to the next line."""
        self._bar.close()
