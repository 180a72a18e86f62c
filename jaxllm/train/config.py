"""Settings that every training job has."""

from __future__ import annotations

import dataclasses

from jaxllm.config import check, tunable
from jaxllm.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig(OptimizerConfig):
    """How long and how a model is trained; with the optimizer's settings.

    Args:
        steps: optimizer steps.
        batch_size: rows of a step.
        accumulate: parts that a batch is computed in, one after the other, to save memory.
        log_every: steps between two lines of metrics.jsonl.
        save_every: steps between checkpoints; null saves only when the job is stopped.
    """

    steps: int = 100
    batch_size: int = 16
    accumulate: int = 1
    log_every: int = tunable(10)
    save_every: int | None = tunable(None)

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "batch_size", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        check(
            self.save_every is None or self.save_every >= 1,
            "save_every",
            f"must be 1 or more, or null, got {self.save_every}",
        )
        check(not self.warmup_steps or self.warmup_steps < self.steps, "warmup_steps",
              f"{self.warmup_steps} warmup steps in a run of {self.steps}", "make warmup shorter than the run")
        check(
            self.batch_size % self.accumulate == 0,
            "accumulate",
            f"must divide batch_size ({self.batch_size}), got {self.accumulate}",
        )
