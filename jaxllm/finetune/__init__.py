"""Fine-tuning: trainable weights, targets, losses, teacher cache, on-policy targets, and runs with checkpoints."""

from jaxllm.finetune.distill import DivergenceConfig, make_loss, target_divergence
from jaxllm.finetune.on_policy import OnPolicyConfig, OnPolicyTargets
from jaxllm.finetune.run import TrainPlan, TrainResult, make_plan, remove_checkpoints, run_plan, train_run
from jaxllm.finetune.targets import (
    InterleavedTargets,
    ReplayTargets,
    Target,
    TargetSource,
    build_target,
    collate,
    common_lengths,
)
from jaxllm.finetune.teacher_cache import TeacherCache
from jaxllm.finetune.trainable import init_trained, merged

__all__ = [
    "DivergenceConfig",
    "InterleavedTargets",
    "OnPolicyConfig",
    "OnPolicyTargets",
    "ReplayTargets",
    "Target",
    "TargetSource",
    "TeacherCache",
    "TrainPlan",
    "TrainResult",
    "build_target",
    "collate",
    "common_lengths",
    "init_trained",
    "make_loss",
    "make_plan",
    "merged",
    "remove_checkpoints",
    "run_plan",
    "target_divergence",
    "train_run",
]
