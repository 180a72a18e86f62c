"""AdamW with gradient clipping and a learning-rate schedule, from one small config."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxllm.errors import UserError

DECAYED = frozenset({"kernel", "router", "up", "gate", "down", "embed", "head", "positions", "types", "distances",
                     "a", "b"})
"""Names of the leaves that weight decay applies to: matrices (also those of experts), tables, adapter factors."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated.

    Args:
        lr: peak learning rate; null is that of the method in jaxllm tune, and refused elsewhere.
        schedule: rate after warmup: it stays, or falls to `final_lr` along a line or a cosine.
        warmup_steps: updates w before the peak; update number s < w (from 0) uses lr * (s + 1) / (w + 1).
        final_lr: rate the linear and cosine schedules end at, as a fraction of `lr`.
        weight_decay: decoupled decay, times the rate, of matrices; norms and biases are never decayed.
        b1: decay of the running mean of gradients.
        b2: decay of the running mean of squared gradients.
        eps: added to the root of the second moment.
        adam_style: torch corrects the bias of the second moment before eps is added, tensorflow after: its first steps
            are smaller wherever gradients are not large against eps. That matters in reinforcement learning.
        clip_norm: gradients with a larger global norm are scaled down to it; null does not clip.
    """

    lr: float | None = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = 0
    final_lr: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    adam_style: Literal["torch", "tensorflow"] = "torch"
    clip_norm: float | None = 1.0

    def __post_init__(self):
        for name, known in (("schedule", ("constant", "linear", "cosine")), ("adam_style", ("torch", "tensorflow"))):
            if getattr(self, name) not in known:
                raise UserError(f"must be one of {', '.join(known)}, got {getattr(self, name)!r}", name)
        for name in ("lr", "warmup_steps", "final_lr", "weight_decay", "eps"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise UserError(f"must be finite and not negative, got {getattr(self, name)}", name)
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"must be in [0, 1), got {getattr(self, name)}", name)
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise UserError(f"must be finite and positive, got {self.clip_norm}", "clip_norm",
                            "use null for no clipping")


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Builds the learning rate as a function of the number of updates already made.

    No update has rate zero: warmup starts at `lr / (warmup_steps + 1)`, and decay reaches
    `final_lr * lr` only at `total_steps`, one past the last update.

    Raises:
        UserError: there is no rate, or warmup leaves no step for the rest.
    """
    if config.warmup_steps and config.warmup_steps >= total_steps:
        raise UserError(
            f"{config.warmup_steps} warmup steps in a run of {total_steps} steps",
            "train.warmup_steps",
            "make warmup shorter than the run",
        )
    if config.lr is None:
        raise UserError("there is no learning rate", "train.lr", "set it to a number")
    peak, left = config.lr, max(1, total_steps - config.warmup_steps)
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, peak * config.final_lr, left)
    else:
        after = optax.cosine_decay_schedule(peak, left, alpha=config.final_lr)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(peak / (config.warmup_steps + 1), peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def decay_mask(params: Any) -> Any:
    """Builds a tree like `params` of bools: True where the leaf's name is in `DECAYED`.

    Layers are stacked, so the number of dimensions does not distinguish a matrix from a norm; the name does.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        last = path[-1] if path else None
        return getattr(last, "key", getattr(last, "name", None)) in DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Builds AdamW for a run of `total_steps` updates: clip, moments, decoupled decay, scheduled rate.

    Moments are float32 for parameters of any dtype; gradients are expected in float32.
    """
    inner = optax.chain(
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        (optax.scale_by_adam if config.adam_style == "torch" else _scale_by_adam_tensorflow)(
            config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(make_schedule(config, total_steps)),
    )

    def init(params: Any) -> optax.OptState:
        return inner.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))

    return optax.GradientTransformation(init, inner.update)


def _scale_by_adam_tensorflow(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Builds Adam with `m / (sqrt(v) + eps) * sqrt(1 - b2^t) / (1 - b1^t)` (1412.6980, end of section 2)."""
    inner = optax.scale_by_adam(b1, b2, eps)

    def update(updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None):
        _, state = inner.update(updates, state, params)
        rate = jnp.sqrt(1.0 - b2 ** state.count) / (1.0 - b1 ** state.count)
        step = lambda m, v: rate * m / (jnp.sqrt(v) + eps)
        return jax.tree.map(step, state.mu, state.nu), state

    return optax.GradientTransformation(inner.init, update)
