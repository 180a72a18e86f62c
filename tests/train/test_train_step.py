import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from jaxllm import train
from jaxllm.errors import UserError


def squares(params, frozen, batch, key, extra):
    """sum of weight * (kernel - x)^2 / 2 and sum of weight."""
    off = params["kernel"] - batch["x"]
    return (0.5 * (batch["w"] * off**2).sum(), batch["w"].sum()), {
        "off": ((batch["w"] * off).sum(), batch["w"].sum())
    }


def small(lr=0.5, **options):
    """A step of plain gradient descent on one number that starts at 1."""
    optimizer = optax.sgd(lr)
    state = train.init_state({"kernel": jnp.float32(1.0)}, optimizer, 0)
    return state, train.make_train_step(squares, optimizer, **options)


def rows(x, w):
    return {"x": np.array(x, np.float32), "w": np.array(w, np.float32)}


def test_one_step_by_hand():
    state, step = small(schedule=optax.constant_schedule(0.5))
    state, metrics = step(state, None, rows([0.0, 4.0, 9.0], [1.0, 3.0, 0.0]))
    # loss (1 * 1 + 3 * 9) / 2 / 4, gradient (1 * 1 + 3 * -3) / 4 = -2, so the number goes to 1 + 0.5 * 2
    expected = {"loss": 3.5, "weight": 4.0, "grad_norm": 2.0, "skipped": 0.0, "lr": 0.5, "off": -2.0}
    assert {name: float(x) for name, x in metrics.items()} == expected
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in metrics.values())
    assert float(state.params["kernel"]) == 2.0
    assert int(state.step) == 1


def test_a_batch_of_weight_zero_is_skipped():
    """Moments of earlier steps and weight decay would move the parameters."""
    optimizer = train.make_optimizer(train.OptimizerConfig(lr=0.1, schedule="constant", weight_decay=0.1), 10)
    step = train.make_train_step(squares, optimizer)
    state, _ = step(train.init_state({"kernel": jnp.float32(1.0)}, optimizer, 0), None, rows([0.0], [1.0]))
    before = jax.device_get((state.params, state.opt_state))
    state, metrics = step(state, None, rows([5.0], [0.0]))
    assert {name: float(x) for name, x in metrics.items()} == {
        "loss": train.ABSENT, "weight": 0.0, "grad_norm": train.ABSENT, "skipped": 1.0, "off": train.ABSENT
    }  # fmt: skip
    assert int(state.step) == 2
    toy.assert_equal(jax.device_get((state.params, state.opt_state)), before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(bad):
    optimizer = train.make_optimizer(train.OptimizerConfig(lr=0.1, schedule="linear", weight_decay=0.1), 10)
    schedule = train.make_schedule(train.OptimizerConfig(lr=0.1, schedule="linear"), 10)
    step = train.make_train_step(squares, optimizer, schedule)
    state = train.init_state({"kernel": jnp.float32(1.0)}, optimizer, 0)
    state, _ = step(state, None, rows([0.0], [1.0]))
    before = jax.device_get((state.params, state.opt_state))
    state, metrics = step(state, None, rows([bad], [1.0]))
    assert float(metrics["skipped"]) == 1.0
    assert int(state.step) == 2
    toy.assert_equal(jax.device_get((state.params, state.opt_state)), before)
    _, metrics = step(state, None, rows([0.0], [1.0]))
    assert float(metrics["skipped"]) == 0.0
    # the second update, though the third step: the rate shown is the rate used
    np.testing.assert_allclose(float(metrics["lr"]), 0.09, rtol=1e-6)


def test_bfloat16_parameters_keep_their_type_and_are_updated_in_float32():
    optimizer = train.make_optimizer(
        train.OptimizerConfig(lr=0.25, schedule="constant", weight_decay=0.1), 10
    )
    step = train.make_train_step(squares, optimizer, accumulate=2)
    state = train.init_state({"kernel": jnp.bfloat16(1.0)}, optimizer, 0)
    for _ in range(2):
        state, metrics = step(state, None, rows([0.0, 0.0], [1.0, 1.0]))
    assert state.params["kernel"].dtype == jnp.bfloat16
    assert optax.tree.get(state.opt_state, "mu")["kernel"].dtype == jnp.float32
    assert metrics["grad_norm"].dtype == jnp.float32


@pytest.mark.parametrize("accumulate", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_accumulation_changes_nothing(accumulate):
    whole, parts = toy.new_state(), toy.new_state()
    for i in range(4):
        whole, expected = toy.step_fn()(whole, toy.FROZEN, toy.batch_fn(i))
        parts, got = toy.step_fn(accumulate)(parts, toy.FROZEN, toy.batch_fn(i))
        chex.assert_trees_all_close(got, expected, atol=1e-6, rtol=1e-6)
    chex.assert_trees_all_close(parts.params, whole.params, atol=1e-6)


def test_weights_of_microbatches_may_differ():
    # Means of means would give (0 + 8) / 2; the mean over all four is what counts.
    state, step = small(accumulate=2)
    batch = rows([1.0, 5.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0])
    state, metrics = step(state, None, batch)
    assert float(metrics["weight"]) == 3.0
    np.testing.assert_allclose(float(metrics["loss"]), 8 / 3, rtol=1e-6)
    np.testing.assert_allclose(float(state.params["kernel"]), 1 + 0.5 * 4 / 3, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_extremes_are_those_of_all_rows(accumulate):
    """A microbatch without weight has none: row 3 of 4 parts, which would be both extremes if its 0 counted."""

    def loss(params, frozen, batch, key, extra):
        mean, metrics = squares(params, frozen, batch, key, extra)
        present = batch["w"] > 0
        some = present.any().astype(jnp.float32)
        least = jnp.where(some > 0, jnp.where(present, batch["x"], jnp.inf).min(), 0.0)
        return mean, metrics | {"least": (least, some), "most": (jnp.where(
            some > 0, jnp.where(present, batch["x"], -jnp.inf).max(), 0.0), some)}

    optimizer = optax.sgd(0.5)
    step = train.make_train_step(loss, optimizer, accumulate=accumulate,
                                 extremes={"least": jnp.minimum, "most": jnp.maximum})
    for sign, expected in ((1.0, (2.0, 7.0)), (-1.0, (-7.0, -2.0))):
        state = train.init_state({"kernel": jnp.float32(1.0)}, optimizer, 0)
        batch = rows([sign * x for x in (4.0, 7.0, 2.0, 9.0)], [1.0, 1.0, 1.0, 0.0])
        _, metrics = step(state, None, batch)
        assert (float(metrics["least"]), float(metrics["most"])) == expected
    state = train.init_state({"kernel": jnp.float32(1.0)}, optimizer, 0)
    _, metrics = step(state, None, rows([1.0] * 4, [0.0] * 4))
    assert float(metrics["least"]) == float(metrics["most"]) == train.ABSENT


def test_values_in_padding_rows_change_nothing():
    state, other = toy.new_state(), toy.new_state()
    for i in range(3):
        batch = toy.batch_fn(i)
        batch["mask"][4:] = False
        garbage = {
            name: np.where(np.arange(toy.BATCH) < 4, x.T, 1).T.astype(x.dtype) for name, x in batch.items()
        }
        garbage["mask"] = batch["mask"]
        state, expected = toy.step_fn()(state, toy.FROZEN, batch)
        other, got = toy.step_fn()(other, toy.FROZEN, garbage)
        assert float(got["weight"]) == batch["mask"].sum() > 0
        toy.assert_equal(got, expected)
    toy.assert_equal(other, state)


def test_rows_of_padding_may_be_added():
    state, step = small()
    padded, _ = small()
    state, expected = step(state, None, rows([2.0, 4.0], [1.0, 2.0]))
    padded, got = step(padded, None, rows([2.0, 4.0, 7.0, 7.0], [1.0, 2.0, 0.0, 0.0]))
    toy.assert_equal((padded, got), (state, expected))


def penalized(params, frozen, batch, key, extra):
    """sum of weight * ((kernel - x)^2 / 2 + kl_coef * kernel), with the KL to report."""
    (loss, weight), _ = squares(params, frozen, batch, key, extra)
    kl = (batch["w"] * params["kernel"]).sum()
    return (loss + extra["kl_coef"] * kl, weight), {"kl": (kl, weight)}


def adapt(extra, metrics):
    """Doubles the coefficient where the KL is above 1.5, and skips steps where it is above 3."""
    factor = jnp.where(metrics["kl"] > 1.5, 2.0, 1.0)
    return {"kl_coef": extra["kl_coef"] * factor}, metrics["kl"] > 3.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_reads_extra_and_finish_returns_a_new_one_and_a_skip_flag(accumulate):
    optimizer = train.make_optimizer(train.OptimizerConfig(lr=0.5, schedule="constant", weight_decay=0.1), 10)
    step = train.make_train_step(penalized, optimizer, accumulate=accumulate, finish=adapt)
    run = lambda kernel, coefficient: step(
        train.init_state({"kernel": jnp.float32(kernel)}, optimizer, 0, {"kl_coef": coefficient}), None,
        rows([0.0, 4.0], [1.0, 3.0]))
    # loss (1 + 27) / 2 / 4 + 0.25 * 1; gradient (1 - 9) / 4 + 0.25
    state, metrics = run(1.0, 0.25)
    np.testing.assert_allclose([float(metrics["loss"]), float(metrics["grad_norm"])], [3.75, 1.75], rtol=1e-6)
    assert (float(state.extra["kl_coef"]), float(metrics["skipped"])) == (0.25, 0.0)
    state, metrics = run(2.0, 0.25)
    assert (float(state.extra["kl_coef"]), float(metrics["skipped"])) == (0.5, 0.0)
    assert float(state.params["kernel"]) != 2.0
    fresh = train.init_state({"kernel": jnp.float32(4.0)}, optimizer, 0, {"kl_coef": 0.25})
    before = jax.device_get((fresh.params, fresh.opt_state))
    state, metrics = run(4.0, 0.25)
    assert (float(state.extra["kl_coef"]), float(metrics["skipped"]), int(state.step)) == (0.5, 1.0, 1)
    toy.assert_equal(jax.device_get((state.params, state.opt_state)), before)


def test_extra_stays_where_a_step_is_not_finite():
    step = train.make_train_step(penalized, optax.sgd(0.1), finish=adapt)
    state = train.init_state({"kernel": jnp.float32(2.0)}, optax.sgd(0.1), 0, {"kl_coef": 0.25})
    state, metrics = step(state, None, rows([np.nan], [1.0]))
    assert float(metrics["skipped"]) == 1.0 and float(state.extra["kl_coef"]) == 0.25


def test_one_trace_and_one_program_over_many_steps():
    schedule = train.make_schedule(toy.CONFIG, toy.TOTAL)
    traced = chex.assert_max_traces(toy.loss_fn, n=1)
    step = train.make_train_step(traced, toy.optimizer(), schedule)
    state = toy.new_state()
    programs = []

    def listen(name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            programs.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for i in range(5):
            batch = toy.batch_fn(i)
            if i == 3:  # a method sets what it adds by hand, without placing it
                state = dataclasses.replace(state, extra={"kl_coef": jnp.float32(0.3)})
            before = len(programs)
            state, _ = step(state, toy.FROZEN, batch)
            assert (len(programs) > before) == (i == 0), f"step {i}"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert float(state.extra["kl_coef"]) == np.float32(0.3)


def test_no_leaf_of_a_state_is_weak():
    state = train.init_state({"kernel": jnp.full((2,), 1.0)}, optax.adam(1e-3), 0, extra={"kl_coef": 0.2})
    assert jnp.full((2,), 1.0).weak_type
    assert not any(getattr(x, "weak_type", False) for x in jax.tree.leaves(state))
    assert state.extra["kl_coef"].dtype == jnp.float32


def test_the_state_is_donated_and_frozen_is_not():
    state = toy.new_state()
    frozen = {"noise": jnp.float32(0.1)}
    held = [x for x in jax.tree.leaves(state.params)]
    toy.step_fn()(state, frozen, toy.batch_fn(0))
    assert all(x.is_deleted() for x in held)
    assert not frozen["noise"].is_deleted()


def test_the_key_of_a_step_depends_on_seed_and_step_only():
    def keys(params, frozen, batch, key, extra):
        noise = jax.random.normal(key)
        return (0.0 * params["kernel"] * batch["x"].sum(), jnp.float32(1)), {"noise": (noise, jnp.float32(1))}

    optimizer = optax.sgd(0.1)
    step = train.make_train_step(keys, optimizer)
    state = train.init_state({"kernel": jnp.float32(1)}, optimizer, seed=5)
    for i in range(2):
        state, metrics = step(state, None, rows([i], [1.0]))
        expected = jax.random.normal(jax.random.fold_in(jax.random.key(5), i))
        assert float(metrics["noise"]) == float(expected)


def test_impossible_calls_are_errors():
    state, step = small(accumulate=2)
    with pytest.raises(UserError, match="3 rows cannot be split into 2"):
        step(state, None, rows([1.0] * 3, [1.0] * 3))
    with pytest.raises(UserError, match="at least 1"):
        small(accumulate=0)

    def clashing(params, frozen, batch, key, extra):
        loss, aux = squares(params, frozen, batch, key, extra)
        return loss, {"loss": aux["off"]}

    with pytest.raises(ValueError, match="'loss' has the name of a built-in"):
        train.make_train_step(clashing, optax.sgd(0.1))(state, None, rows([1.0], [1.0]))
