"""The compiled train step: sums of losses over microbatches, one division, one guarded update."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxllm.errors import UserError
from jaxllm.ops.losses import SumAndWeight
from jaxllm.train.state import Params, TrainState

LossFn = Callable[[Params, Any, Any, jax.Array, Any], tuple[SumAndWeight, Mapping[str, SumAndWeight]]]
"""`(params, frozen, batch, key, extra) -> ((loss_sum, weight), {name: (sum, weight)})`.

The key is that of the step and equal in every microbatch: fold a row's own number, carried in the
batch, into it, and splitting the batch changes nothing. Rows must be independent of one another: the two
completions of a pair share a row. `extra` is `state.extra`, a KL coefficient for example.
"""

FinishFn = Callable[[Any, Mapping[str, jax.Array]], tuple[Any, jax.Array]]
"""`(extra, metrics) -> (new_extra, skip)`, called once a step with the ratios over the whole batch.

`new_extra` has the structure, shapes and dtypes of `extra`; it replaces it unless the loss or gradient is not finite.
`skip`, a bool scalar, leaves parameters and optimizer as they were.
"""

Extreme = Callable[[jax.Array, jax.Array], jax.Array]
"""`jnp.minimum` or `jnp.maximum`."""

ABSENT = float(jnp.finfo(jnp.float32).min)
"""Value of a metric without weight in a batch, such as the loss of a type of target that it does not hold. It is not
logged: 0 would be a false value. NaN and infinities are results of their own, which are logged."""


class TrainStep:
    """`(state, frozen, batch) -> (state, metrics)`, compiled once per shape and sharding; the state passed in is
    donated."""

    def __init__(self, step: Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]):
        self._step = step
        self._programs: dict[Any, Any] = {}

    def __call__(self, state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        return self._program(state)(state, frozen, batch)

    def lower(self, state: TrainState, frozen: Any, batch: Any) -> jax.stages.Lowered:
        """Lowers the program for `jax.ShapeDtypeStruct`s with shardings, to read its cost without a run."""
        return self._program(state).lower(state, frozen, batch)

    def _program(self, state: TrainState) -> Any:
        # The new state needs the old one's sharding: the compiler, left to choose, may place a leaf
        # elsewhere, and the next call would compile again. Input shardings are given as well, for leaves that
        # were replaced by ones not committed to a device.
        placed = jax.tree.map(lambda x: x.sharding, state)
        leaves, structure = jax.tree.flatten(placed)
        lookup = (structure, *leaves)
        if lookup not in self._programs:
            self._programs[lookup] = jax.jit(
                self._step, in_shardings=(placed, None, None), out_shardings=(placed, None), donate_argnums=0
            )
        return self._programs[lookup]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule | None = None,
    accumulate: int = 1,
    finish: FinishFn | None = None,
    extremes: Mapping[str, Extreme] | None = None,
) -> TrainStep:
    """Compiles one optimizer step of `loss_fn`.

    The gradient is that of sum / weight over the whole batch, however it is cut into microbatches or
    spread over devices. Parameters and optimizer (moments, counts) are left as they were, and the step counts as
    skipped, when the loss or the gradient is not finite, the batch has weight zero, or `finish` returns skip.

    Args:
        loss_fn: see `LossFn`.
        optimizer: from `make_optimizer`.
        schedule: from `make_schedule`, to report the rate; not used otherwise.
        accumulate: number of microbatches that the rows of a batch are split into.
        finish: computes the new `state.extra` and the skip flag; see `FinishFn`. None leaves `extra` as it is.
        extremes: `jnp.minimum` or `jnp.maximum` for auxiliary metrics that are one over all rows. Their pairs are
            (extreme, 1), or (0, 0) where the loss got no row.

    Returns:
        A function `(state, frozen, batch) -> (state, metrics)`. `frozen` is any tree (base weights) and is
        not donated; the arrays of `batch` are `[rows, ...]` or scalars. Metrics are float32 scalars on
        the device: loss, weight, grad_norm (before clipping), skipped (0 or 1), lr when `schedule` is given,
        and the ratio of every auxiliary sum; `ABSENT` for one without weight, loss and grad_norm included.
    """
    if accumulate < 1:
        raise UserError(f"must be at least 1, got {accumulate}", "accumulate")

    def step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)

        def sums(microbatch: Any) -> tuple[Any, SumAndWeight, Mapping[str, SumAndWeight]]:
            return _sums(loss_fn, state.params, frozen, microbatch, key, state.extra)

        if accumulate == 1:
            grads, (loss_sum, weight), aux = sums(batch)
        else:
            microbatches = jax.tree.map(lambda x: _deal(x, accumulate), batch)
            first = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], microbatches))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)
            total, _ = jax.lax.scan(
                lambda carry, m: (_added(carry, sums(m), extremes or {}), None), zeros, microbatches
            )
            grads, (loss_sum, weight), aux = total

        grads = jax.tree.map(lambda g: _ratio(g, weight), grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss_sum) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        metrics = {"loss": _ratio(loss_sum, weight, empty=ABSENT), "weight": weight,
                   "grad_norm": jnp.where(weight == 0, ABSENT, grad_norm)}
        if schedule is not None:
            metrics["lr"] = schedule(_updates_made(state))
        clash = (metrics.keys() | {"skipped"}) & aux.keys()
        if clash:
            raise ValueError(f"auxiliary metric {sorted(clash)[0]!r} has the name of a built-in one")
        metrics |= {name: _ratio(*pair, empty=ABSENT) for name, pair in aux.items()}
        extra, applied = state.extra, finite & (weight > 0)
        if finish is not None:
            extra, skip = finish(state.extra, metrics)
            chex.assert_trees_all_equal_shapes_and_dtypes(extra, state.extra)
            extra = _choose(finite, extra, state.extra)
            applied &= ~skip
        metrics["skipped"] = 1.0 - applied
        state = TrainState(
            step=state.step + 1,
            params=_choose(applied, params, state.params),
            opt_state=_choose(applied, opt_state, state.opt_state),
            key=state.key,
            extra=extra,
        )
        return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return TrainStep(step)


def _sums(
    loss_fn: LossFn, params: Params, frozen: Any, batch: Any, key: jax.Array, extra: Any
) -> tuple[Any, SumAndWeight, Mapping[str, SumAndWeight]]:
    """Computes (gradient of the loss sum, (loss sum, weight), auxiliary pairs), all float32."""

    def total(params: Params) -> tuple[jax.Array, Any]:
        (loss_sum, weight), aux = loss_fn(params, frozen, batch, key, extra)
        chex.assert_rank([loss_sum, weight, *jax.tree.leaves(aux)], 0)
        return jnp.asarray(loss_sum, jnp.float32), (weight, dict(aux))

    (loss_sum, (weight, aux)), grads = jax.value_and_grad(total, has_aux=True)(params)
    weight, aux, grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (weight, aux, grads))
    return grads, (loss_sum, weight), aux


def _added(one: Any, other: Any, extremes: Mapping[str, Extreme]) -> Any:
    """Adds the results of `_sums`; of auxiliary pairs in `extremes` the extreme is taken instead."""
    grads, pair, aux = jax.tree.map(jnp.add, one, other)
    for name in extremes.keys() & aux.keys():
        (a, has_a), (b, has_b) = one[2][name], other[2][name]
        both = has_a * has_b > 0
        aux[name] = jnp.where(both, extremes[name](a, b), a + b), jnp.maximum(has_a, has_b)
    return grads, pair, aux


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """Selects one of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _ratio(total: jax.Array, weight: jax.Array, empty: float = 0.0) -> jax.Array:
    """Computes total / weight, and `empty` where weight is 0; never divides by 0, which `jax_debug_nans` would report.
    """
    return jnp.where(weight == 0, empty, total / jnp.where(weight == 0, 1.0, weight))


def _deal(x: jax.Array, parts: int) -> jax.Array:
    """Reshapes [rows, ...] to [parts, rows / parts, ...], row i to part i % parts; a scalar goes to every part.

    Dealing leaves each device's rows on that device; cutting into blocks would move them.
    """
    x = jnp.asarray(x)
    if x.ndim == 0:
        return jnp.broadcast_to(x, (parts,))
    if x.shape[0] % parts:
        raise UserError(
            f"a batch of {x.shape[0]} rows cannot be split into {parts} equal microbatches",
            "accumulate",
            "make the batch size a multiple of it",
        )
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _updates_made(state: TrainState) -> jax.Array:
    """Reads the count of the optimizer's own schedule: steps without the skipped ones."""

    def of_schedule(path: tuple[Any, ...], _: Any) -> bool:
        return any(getattr(entry, "tuple_name", None) == "ScaleByScheduleState" for entry in path)

    return optax.tree.get(state.opt_state, "count", state.step, filtering=of_schedule)
