"""Metrics of a run, written to its JSONL file and to trackers: TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.files import write_atomic
from jaxllm.train.config import Tracker
from jaxllm.train.metrics import MetricsWriter
from jaxllm.train.session import MetricsSink

# Next to the metrics file, the id of its run at Weights & Biases.
_WANDB_ID = "wandb_id.txt"
_PACKAGES: dict[Tracker, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class _TensorBoard:
    """Writes numbers as scalars into an event file; TensorBoard hides those of earlier files from step `start` on."""

    def __init__(self, folder: Path, start: int):
        # Names have the second: without the suffix a run of less than one would be overwritten by the next.
        self._writer = _imported("tensorboard").SummaryWriter(str(folder), purge_step=start,
                                                              filename_suffix=f".{start:09d}")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        for name, value in _numbers(values).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class _WandB:
    """Logs numbers to a run of Weights & Biases, named after the directory of the job.

    A job that is resumed after its first step continues its run; one that starts anew has a new run.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], resumed: bool):
        wandb, file = _imported("wandb"), folder / _WANDB_ID
        if not (resumed and file.is_file()):
            write_atomic(file, secrets.token_hex(8))
        self._run = wandb.init(project="jaxllm", name=folder.name, id=file.read_text().strip(), resume="allow",
                               dir=str(folder), config=dict(config))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        self._run.log(_numbers(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Selects the numbers, those in nested objects as `agents/llm1/kl`; a tracker has no place for other values."""
    numbers = {name: float(value) for name, value in values.items()
               if isinstance(value, int | float) and not isinstance(value, bool)}
    for name, inner in values.items():
        if isinstance(inner, Mapping):
            numbers |= {f"{name}/{key}": value for key, value in _numbers(inner).items()}
    return numbers


def _imported(tracker: Tracker) -> Any:
    try:
        return importlib.import_module(_PACKAGES[tracker])
    except ImportError:
        raise UserError(f"the package {_PACKAGES[tracker]} is not installed", "train.trackers",
                        f"pip install 'jaxllm[{tracker}]', or remove it from the list") from None


@contextlib.contextmanager
def open_metrics(path: Path, resume_step: int, trackers: Sequence[Tracker] = (),
                 config: Mapping[str, Any] | None = None, first: int = 1) -> Iterator[MetricsSink]:
    """Opens the metrics file of a run, and its trackers.

    Args:
        path: metrics.jsonl; trackers write into its directory.
        resume_step, first: see `MetricsWriter`.
        trackers: names of trackers.
        config: config of the run, without secrets, for trackers that show it.

    Raises:
        UserError: the package of a tracker is not installed.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[MetricsSink] = [stack.enter_context(MetricsWriter(path, resume_step, first))]
        for name in trackers:
            sink = _TensorBoard(path.parent / "tensorboard", resume_step + first) if name == "tensorboard" else _WandB(
                path.parent, config or {}, resume_step > 0)
            stack.callback(sink.close)
            sinks.append(sink)
        yield _All(sinks)


class _All:
    """Writes to several sinks."""

    def __init__(self, sinks: Sequence[MetricsSink]):
        self._sinks = sinks

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        for sink in self._sinks:
            sink.write(step, values)
