"""Settings that every training job has."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from jaxllm.config import check, instead_of, tunable
from jaxllm.errors import UserError
from jaxllm.train.optimizer import OptimizerConfig

DEFAULT_STEPS = 100
Tracker = Literal["tensorboard", "wandb"]


@dataclasses.dataclass(frozen=True)
class TrainConfig(OptimizerConfig):
    """Length, batches and memory of training; with the optimizer's settings.

    Args:
        steps: optimizer steps; null takes epochs, or 100 where these are null too.
        epochs: passes over the job's rows or targets, instead of steps; the last batch is filled up from the next pass.
            Steps or epochs on the command line replace the other one in a file, and those in a file that of a default.
        batch_size: rows of a step.
        accumulate: microbatches that a batch is computed in, one after the other, to save memory.
        remat: activations that the backward pass recomputes to save memory: none, all but the matrix products (dots),
            or all (full).
        packing: pack several targets into a row, and compute a common prefix (a document with all its questions) once:
            same loss and gradient, less padding. Not for rotary embeddings that depend on the text length. With
            dropout, the masks depend on accumulate and on the number of devices, so resume with the same ones.
        log_every: steps between two lines of metrics.jsonl.
        save_every: steps between checkpoints; null saves when the job is stopped, and in jaxllm tune at the end.
        trackers: services that get the metrics too: tensorboard, wandb.
    """

    steps: int | None = instead_of("epochs")
    epochs: float | None = instead_of("steps")
    batch_size: int = 16
    accumulate: int = tunable(1)
    remat: Literal["none", "full", "dots"] = tunable("full")
    packing: bool = False
    log_every: int = tunable(10)
    save_every: int | None = tunable(None)
    trackers: list[Tracker] = tunable(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        for name in ("steps", "save_every"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, f"must be 1 or more, or null, got {value}")
        check(self.epochs is None or 0 < self.epochs < math.inf, "epochs", f"must be above 0, got {self.epochs}")
        check(self.steps is None or self.epochs is None, "epochs", f"steps is {self.steps} already",
              "set one of the two to null")
        if self.epochs is None:
            _check_warmup(self.warmup_steps, self.steps or DEFAULT_STEPS)
        check(
            self.batch_size % self.accumulate == 0,
            "accumulate",
            f"must divide batch_size ({self.batch_size}), got {self.accumulate}",
        )

    def resolve(self, rows: int | None = None) -> TrainConfig:
        """Returns the settings with a number of steps and no epochs.

        Args:
            rows: rows or targets of one epoch; None where the caller has no epochs.

        Raises:
            UserError: epochs of a job without rows, or warmup as long as the run.
        """
        if self.epochs is None:
            return dataclasses.replace(self, steps=self.steps or DEFAULT_STEPS)
        if not rows:
            raise UserError("there are no rows to count epochs of", "train.epochs", "set train.steps instead")
        # Rounded first: 1.1 epochs of 10 rows are 11 rows, and 11.000000000000002 in floating point.
        steps = max(math.ceil(round(self.epochs * rows / self.batch_size, 6)), 1)
        _check_warmup(self.warmup_steps, steps)
        return dataclasses.replace(self, steps=steps, epochs=None)


def _check_warmup(warmup_steps: int, steps: int) -> None:
    check(not warmup_steps or warmup_steps < steps, "warmup_steps", f"{warmup_steps} warmup steps in a run of {steps}",
          "make warmup shorter than the run")
