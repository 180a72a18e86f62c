"""What every training job shares: mesh, optimizer, state, compiled step, data order, checkpoints, loop."""

from jaxllm.devices import MESH_AXES, make_mesh
from jaxllm.errors import StorageError
from jaxllm.models.mesh import (
    RULES,
    batch_sharding,
    model_shardings,
    put_batch,
    replicated,
    shardings,
)
from jaxllm.train.checkpoints import Checkpointer, Restored
from jaxllm.train.config import TrainConfig
from jaxllm.train.data import epoch_permutation, row_indices
from jaxllm.train.loop import BatchFn, FitResult, Hook, count_tokens, fit
from jaxllm.train.metrics import MetricsWriter, read_metrics
from jaxllm.train.optimizer import DECAYED, OptimizerConfig, decay_mask, make_optimizer, make_schedule
from jaxllm.train.session import MetricsSink, Session
from jaxllm.train.state import Params, TrainState, abstract_state, init_state
from jaxllm.train.step import ABSENT, FinishFn, LossFn, SumAndWeight, TrainStep, make_train_step
from jaxllm.train.trackers import open_metrics

__all__ = [
    "ABSENT",
    "DECAYED",
    "MESH_AXES",
    "RULES",
    "BatchFn",
    "Checkpointer",
    "FinishFn",
    "FitResult",
    "Hook",
    "LossFn",
    "MetricsSink",
    "MetricsWriter",
    "OptimizerConfig",
    "Params",
    "Restored",
    "Session",
    "StorageError",
    "SumAndWeight",
    "TrainConfig",
    "TrainState",
    "TrainStep",
    "abstract_state",
    "batch_sharding",
    "count_tokens",
    "decay_mask",
    "epoch_permutation",
    "fit",
    "init_state",
    "make_mesh",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "model_shardings",
    "open_metrics",
    "put_batch",
    "read_metrics",
    "replicated",
    "row_indices",
    "shardings",
]
