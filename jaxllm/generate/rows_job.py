"""Common parts of the jobs that run one model over rows: config, generator with adapter, encoded rows."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from jaxllm.config import DataConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig, open_mesh
from jaxllm.errors import UserError
from jaxllm.generate.generator import Generator
from jaxllm.job import Job
from jaxllm.model import load_with_adapter
from jaxllm.models import Adapter
from jaxllm.models.mesh import model_shardings
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share, data_files

T = TypeVar("T")
# Type of a row's id in a file of results.
ID = str | int | float


@dataclass(frozen=True)
class RowsConfig:
    """Runs a model over rows.

    Args:
        data: the rows.
        out: directory for the results.
        model: checkpoint directory, GGUF file, Hub id, or tiny.
        adapter: directory of a LoRA adapter, or of several that are applied as their sum.
        batch_size: rows that run together; changes speed and memory, and results only through rounding.
        device: number formats and compile cache.
        mesh: how devices share the work; rows are split over data and fsdp, heads over tensor.
        seed: base of the random streams; the same seed gives a row the same results.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    adapter: str | None = None
    batch_size: int = tunable(32)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    mesh: MeshConfig = tunable(MeshConfig())
    seed: int = 0

    def __post_init__(self):
        check(self.batch_size >= 1, "batch_size", f"must be 1 or more, got {self.batch_size}")
        check_seed(self.seed)


def pin_inputs(config: RowsConfig, job: Job) -> None:
    """Pins data, model and adapter; see `Job.pin`."""
    job.pin_file("data", data_files(config.data.path), config.data.limit)
    job.pin("model", fingerprint(model_directory(config.model)))
    job.pin("adapter", None if config.adapter is None else fingerprint(Path(config.adapter)))


def load_generator(config: RowsConfig) -> tuple[Generator, Adapter | None]:
    """Loads the job's checkpoint and its adapter, if there is one, which is applied next to the weights."""
    mesh = open_mesh(config.mesh)
    model, adapter = load_with_adapter(config.model, config.adapter, config.device.param_dtype,
                                       lambda spec: model_shardings(spec, mesh), config.device.quantize)
    generator = Generator(model, dtype=config.device.compute_dtype, mesh=mesh, batch_size=config.batch_size,
                          donate=True)
    return generator, adapter


def encode_rows(config: RowsConfig, job: Job, found: RowSet, encode: Callable[[int, dict[str, Any]], T]
                ) -> tuple[list[tuple[int, dict[str, Any]]], list[T], list[Rejected]]:
    """Encodes every row; a row for which `encode` raises a `UserError` is rejected with the reason.

    Args:
        config: config of the job.
        job: the job; the rejected rows are written to its rejected.jsonl.
        found: rows as read.
        encode: encodes a row, given its line and itself.

    Returns:
        `(line, row)` of the valid rows, their encodings, and all rejected rows.

    Raises:
        UserError: too many rows are bad.
    """
    rows, encoded, rejected = [], [], list(found.rejected)
    for line, row in zip(found.lines, found.rows, strict=True):
        try:
            encoded.append(encode(line, row))
        except UserError as error:
            rejected.append(Rejected(config.data.path, line, error.what, as_text(row)))
            continue
        rows.append((line, row))
    ids = collections.Counter(str(row.get("id", line)) for line, row in rows)
    if repeated := sum(count for count in ids.values() if count > 1):
        print(f"jaxllm: {repeated} rows of {config.data.path} share their id with another row, or with the line number "
              "of a row without an id", file=sys.stderr)
    rejected.sort(key=lambda row: row.line)
    job.write_rejected(rejected)
    check_share(len(rows), rejected, config.data.limit_bad)
    return rows, encoded, rejected
