"""Services around a training loop: signals, metrics in flight, progress, rates, checkpoint cadence.

    with Session(first, total, checkpointer=checkpointer, metrics=metrics) as session:
        for step in session.steps():                      # ends early after a signal
            rollout = ...                                 # anything: sampling, judging, several updates
            state, numbers = train_step(state, frozen, batch)
            session.log(step, numbers, tokens=...)        # numbers stay on the device for now
            session.save_if_due(step, state, sidecar)
        session.finish(state, sidecar)
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxllm.errors import UserError
from jaxllm.progress import bar
from jaxllm.train.checkpoints import Checkpointer
from jaxllm.train.step import ABSENT

_IN_FLIGHT = 2  # steps the host runs ahead: enough to keep the device busy, few enough to stop promptly


class MetricsSink(Protocol):
    """Takes the numbers of a step, as `MetricsWriter` does."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the numbers of `step`."""


class Session:
    """One run of a training loop, a context manager.

    SIGTERM and SIGINT let the running step finish and end `steps`; `finish` then saves a checkpoint. A second signal
    acts as if there were no session.

    Args:
        first: steps made before; the first step's number.
        total: steps of the whole run, earlier ones included.
        log_every: a step is logged when it is the first, the last, or its number is a multiple of this.
        save_every: steps between checkpoints; None saves at the end and on a signal only.
        checkpointer: None saves nothing.
        metrics: takes a line for every logged step, for every step that is skipped or not finite and for what the host
            adds.
        progress: whether to show progress on stderr.
        max_nonfinite: steps in a row without a finite loss and gradient after which the run stops, those before the
            checkpoint that it resumes from included; a run that is shorter stops when it had no other steps.
        save_last: whether `finish` saves a complete run. False where the result is recorded elsewhere at once; a run
            that is killed before that resumes from its last checkpoint and repeats the steps after it.

    Attributes:
        latest: last numbers that have arrived from the device, with what the host added.
    """

    def __init__(self, first: int, total: int, *, log_every: int = 10, save_every: int | None = None,
                 checkpointer: Checkpointer | None = None, metrics: MetricsSink | None = None, progress: bool = True,
                 max_nonfinite: int = 20, save_last: bool = True):
        self._first, self._total, self._made = first, total, first
        self._log_every, self._save_every, self._save_last = log_every, save_every, save_last
        self._checkpointer, self._metrics = checkpointer, metrics
        self._progress = progress and jax.process_index() == 0
        self._max_nonfinite = min(max_nonfinite, total)
        self._nonfinite = 0 if checkpointer is None else checkpointer.nonfinite(first)
        self._in_flight: deque[_InFlight] = deque()
        self._signals, self._rates, self._stack = _Signals(), _Rates(), contextlib.ExitStack()
        self.latest: dict[str, Any] = {}

    def __enter__(self) -> Session:
        with self._stack:
            self._stack.enter_context(self._signals)
            self._show = self._stack.enter_context(bar(self._total, "train", "step", self._progress, self._first))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def interrupted(self) -> bool:
        """Whether the caller must exit: a signal arrived, even in the last step, or steps remain."""
        return self._signals.received or self._made < self._total

    def steps(self) -> Iterator[int]:
        """Yields the numbers of the steps to make, from 0; ends early after a signal."""
        for step in range(self._first, self._total):
            yield step
            self._made = step + 1
            if self._signals.stop(self._made, self._log_every) or self._made >= self._total:
                return

    def end(self) -> None:
        """Ends `steps` after the running step, as if that were the last of the run: early stopping."""
        self._total = self._made

    def log(self, step: int, on_device: Mapping[str, jax.Array], *, host: Mapping[str, Any] | None = None,
            tokens: int = 0) -> None:
        """Queues a step's numbers; those of the step before the last are fetched and written. A step that has none on
        the device is written at once.

        Args:
            step: number of the step, from 0.
            on_device: scalars; those that are `ABSENT` are left out, and `loss` and `grad_norm` checked to be finite.
            host: numbers that the host adds; a step that has some is always written.
            tokens: processed in the step, without padding, for `tokens_per_s`.
        """
        self._made = step + 1  # also where the loop is left before its next step
        self._in_flight.append(_InFlight(step + 1, dict(on_device), dict(host or {}), tokens))
        now = time.monotonic()
        for queued in self._in_flight:
            queued.note_end(now)
        if not on_device:
            self._drain()
        elif len(self._in_flight) > _IN_FLIGHT:
            self._fetch()

    def save_if_due(self, step: int, tree: Any, sidecar: Mapping[str, Any] | None = None) -> None:
        """Saves a checkpoint after step number `step`, from 0, if `save_every` divides the steps made."""
        made = step + 1
        if self._save_every is not None and made % self._save_every == 0 and made < self._total:
            self._save(made, tree, sidecar)

    def finish(self, tree: Any, sidecar: Mapping[str, Any] | None = None) -> None:
        """Writes all numbers, saves the last checkpoint, and waits until it is on disk."""
        self._drain()
        if self._save_last or self.interrupted:
            self._save(self._made, tree, sidecar)
        if self._checkpointer is not None:
            self._checkpointer.wait()

    def _save(self, made: int, tree: Any, sidecar: Mapping[str, Any] | None) -> None:
        # Every number up to a checkpoint is on disk before it is: no line is missing after a resume.
        self._drain()
        if self._checkpointer is not None:
            self._checkpointer.save(made, tree, sidecar, self.latest, self._nonfinite)

    def _drain(self) -> None:
        while self._in_flight:
            self._fetch()

    def _fetch(self) -> None:
        """Fetches the oldest step's numbers, which the device has most likely finished by now."""
        queued = self._in_flight.popleft()
        made, host = queued.made, queued.host
        values = {name: float(x) for name, x in jax.device_get(queued.on_device).items() if x != ABSENT}
        finite = all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "grad_norm"))
        if not finite:
            self._nonfinite += 1
        elif "loss" in values:  # a step without weight shows nothing
            self._nonfinite = 0
        rates = self._rates.advance(made, queued.tokens, time.monotonic() if queued.ended is None else queued.ended)
        self.latest = {**values, **host}
        note = [f"loss {values['loss']:.4g}"] if "loss" in values else []
        note += [f"{rates['tokens_per_s']:,.0f} tokens/s"] if "tokens_per_s" in rates else []
        self._show(made, ", ".join(note))
        due = made == 1 or made == self._total or made % self._log_every == 0 or values.get("skipped", 0.0) > 0
        if self._metrics is not None and (due or not finite or host):
            self._metrics.write(made, {**self.latest, **rates})
        if self._nonfinite >= self._max_nonfinite:
            raise UserError(
                f"no finite loss and gradient for {self._nonfinite} steps in a row, up to step {made}", "train",
                "lower the learning rate, clip gradients harder, or look for rows that overflow")


@dataclass
class _InFlight:
    """A step that was dispatched to the device; its numbers have not been fetched."""

    made: int
    on_device: dict[str, jax.Array]
    host: dict[str, Any]
    tokens: int
    ended: float | None = None

    def note_end(self, now: float) -> None:
        """Notes the time when the step is first seen to be done: its numbers may be fetched much later."""
        if self.ended is None and all(x.is_ready() for x in self.on_device.values()):
            self.ended = now


class _Rates:
    """Steps and tokens per second over the last 50 steps; the first step is left out, because it compiles."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=50)  # time, steps made, tokens until then

    def advance(self, made: int, tokens: int, now: float) -> dict[str, float]:
        """Notes when step number `made` was done; returns `steps_per_s` and, where there are tokens, `tokens_per_s`."""
        total = tokens + (self._recent[-1][2] if self._recent else 0)
        if self._recent and self._recent[-1][0] == now:  # both were seen to be done at once
            self._recent.pop()
        self._recent.append((now, made, total))
        start, first, first_tokens = self._recent[0]
        if now == start:
            return {}
        rates = {"steps_per_s": (made - first) / (now - start)}
        if tokens:
            rates["tokens_per_s"] = (self._recent[-1][2] - first_tokens) / (now - start)
        return rates


class _Signals:
    """While entered, the first SIGTERM or SIGINT is remembered and the second acts as before.

    Python delivers signals to the main thread only; in any other this does nothing.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
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

    def stop(self, made: int, agree_every: int) -> bool:
        """Decides whether to stop after `made` steps; all processes must stop at the same step."""
        if jax.process_count() == 1:
            return self.received
        if made % agree_every:
            return False
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.asarray(self.received)).any())
