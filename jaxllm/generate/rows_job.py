"""What the jobs that run one model over rows have in common: settings, a model with its adapter, encoded rows."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxllm.config import DataConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig, check_one_process
from jaxllm.errors import UserError
from jaxllm.job import Job
from jaxllm.model import Model, load
from jaxllm.models import merge_adapter, unstack_layers
from jaxllm.models.mesh import make_mesh, model_shardings
from jaxllm.models.peft import load_adapters
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share

T = TypeVar("T")
# What tells rows apart in a file of results; JSON has to hold it.
ID = str | int | float


@dataclass(frozen=True)
class RowsConfig:
    """A model over rows.

    Args:
        data: the rows.
        out: directory for the results.
        model: checkpoint directory, Hub id, or tiny.
        adapter: directory of a LoRA adapter, or of several whose sum is applied to the model.
        batch_size: rows that run together; changes speed and memory, and results only by the rounding of bfloat16.
        device: precision.
        mesh: how devices share the work; rows are dealt to the groups of data and fsdp.
        seed: of all that is drawn; the same seed gives a row the same results.
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


def pin_inputs(config: RowsConfig, job: Job, found: RowSet) -> None:
    """Notes what the job runs on; see `Job.pin`."""
    job.pin("data", found.rows)
    job.pin("model", fingerprint(model_directory(config.model)))
    job.pin("adapter", None if config.adapter is None else fingerprint(Path(config.adapter)))


def open_mesh(config: RowsConfig) -> jax.sharding.Mesh:
    """The devices that share the work.

    Raises:
        UserError: they belong to several processes, each of which would hold a part of the results only.
    """
    check_one_process("generate and score")
    return make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)


def load_adapted(config: RowsConfig) -> Model:
    """Loads the job's checkpoint, and merges its adapter into it, if there is one.

    Layers are unstacked, as decoding wants them; those of a classifier, which reads a text once, stay stacked.
    """
    model = load(config.model, config.device.param_dtype, lambda spec: model_shardings(spec, open_mesh(config)),
                 config.device.quantize)
    if config.adapter is not None:
        adapter = load_adapters(config.adapter, model.spec)
        model = dataclasses.replace(model, params=merge_adapter(model.params, adapter))
    if model.spec.head is not None:
        return model
    return dataclasses.replace(model, params=unstack_layers(model.params, True))


def encode_rows(config: RowsConfig, job: Job, found: RowSet, encode: Callable[[int, dict[str, Any]], T]
                ) -> tuple[list[tuple[int, dict[str, Any]]], list[T], list[Rejected]]:
    """What `encode` makes of every row; a row that it refuses is put aside with the reason.

    Args:
        config: of the job.
        job: whose rejected.jsonl takes the rows put aside.
        found: rows as read.
        encode: from the line and the row.

    Returns:
        `(line, row)` of the rows that are left, what became of each, and all rejected rows.

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
        print(f"jaxllm: {repeated} rows of {config.data.path} share their id with another row, or with its line, which "
              "stands for an id where there is none", file=sys.stderr)
    rejected.sort(key=lambda one: one.line)
    job.write_rejected(rejected)
    check_share(len(rows), rejected, config.data.limit_bad)
    return rows, encoded, rejected
