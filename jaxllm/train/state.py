"""Everything a run has to remember, as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

Params = Any
"""A tree of arrays: the full parameters or an adapter."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """One run at one moment; saving it and the resolved config is saving the run.

    Attributes:
        step: int32 [], number of steps made; also the number of the next batch.
        params: the trained parameters, the full parameters or an adapter tree.
        opt_state: state of the optimizer, split over devices as `params` are.
        key: typed PRNG key [], constant; a step's randomness is folded from it and `step`.
        extra: additions of a method (a KL coefficient, running moments, ...), arrays by name.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    key: jax.Array
    extra: dict[str, Any]


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    seed: int,
    extra: dict[str, Any] | None = None,
) -> TrainState:
    """Builds the state before the first step.

    The state takes the parameters over: a train step donates its state, so the arrays passed here are
    gone after the first step. Keep a copy of weights that are needed elsewhere (a frozen reference).

    Args:
        params: tree of arrays; placed as they are, which decides where the rest of the state goes.
        optimizer: from `make_optimizer`, or any optax transformation.
        seed: seed of the run, a non-negative int.
        extra: additions of the method: numbers and arrays, copied to every device unless they are on a mesh.
    """
    home = _replicated_like(params)
    params = jax.tree.map(lambda p: jax.device_put(_strong(p), p.sharding), params)
    # jit of init alone would put the moments on one device, regardless of the parameters' sharding.
    opt_shardings = _optimizer_shardings(params, optimizer)
    bits = np.asarray(jax.random.key_data(jax.random.key(seed)))
    return TrainState(
        step=jax.device_put(np.zeros((), np.int32), home),
        params=params,
        opt_state=jax.jit(optimizer.init, out_shardings=opt_shardings)(params),
        # The seed's bits are an argument, so that runs with other seeds reuse the program.
        key=jax.jit(jax.random.wrap_key_data, out_shardings=home)(bits),
        extra=jax.tree.map(lambda x: _place(x, home), extra or {}),
    )


def abstract_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and places of the state that `init_state` makes, from those of the parameters.

    Args:
        params: tree of `jax.ShapeDtypeStruct`s with shardings.
        optimizer: optimizer of the state.
    """
    home = _replicated_like(params)
    shape: Any = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    key: Any = jax.eval_shape(lambda: jax.random.key(0))
    step: Any = jax.ShapeDtypeStruct((), np.int32, sharding=home)
    return TrainState(step=step, params=params, key=shape(key, home),
                      opt_state=jax.tree.map(shape, jax.eval_shape(optimizer.init, params),
                                             _optimizer_shardings(params, optimizer)), extra={})


def _optimizer_shardings(params: Params, optimizer: optax.GradientTransformation) -> Any:
    """Where the optimizer's state goes: moments with their parameters, the rest on every device."""
    home = _replicated_like(params)
    return optax.tree_map_params(
        optimizer,
        lambda _, s: s,
        jax.eval_shape(optimizer.init, params),
        jax.tree.map(lambda p: p.sharding, params),
        transform_non_params=lambda _: home,
    )


def _replicated_like(params: Params) -> jax.sharding.Sharding:
    """Returns the sharding of scalars: replicated over the devices of `params`."""
    sharding = jax.tree.leaves(params)[0].sharding
    return NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else sharding


def _strong(x: jax.Array) -> jax.Array:
    """`x` without a weak type: a weak leaf turns strong after one step and compiles the step again."""
    return jax.lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x


def _place(x: Any, home: jax.sharding.Sharding) -> jax.Array:
    """`x` as an array: where it is if it is on a mesh, else at `home`."""
    if isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding):
        return _strong(x)
    # By way of the host: only from there can a process fill a sharding that other processes share.
    return jax.device_put(np.asarray(jnp.asarray(x)), home)
