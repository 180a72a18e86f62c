"""Trained parameters as one tree: adapter, all weights, heads; the frozen base exists once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from jaxllm.errors import UserError
from jaxllm.finetune.distill import make_loss
from jaxllm.finetune.targets import build_target, collate
from jaxllm.finetune.trainable import as_adapter, init_trained, merged, student_of
from jaxllm.model import Model
from jaxllm.models import LoraConfig, forward, unstack_layers, value_predictions
from jaxllm.train import init_state, make_mesh, make_train_step

LORA = LoraConfig(rank=2, targets=("q", "v"))


@pytest.fixture(scope="module")
def model(llama):
    return Model(*llama, None)


def batch(rows=4):
    targets = [build_target((1,), (10, 11, 12 + n), (20, 21 + n, 22, 23), "qa") for n in range(rows)]
    return collate(targets, 8, 12)


def values_loss(spec):
    """Squared error of the value after every token to that token's id / 50."""

    def loss(trained, frozen, batch, key, extra):
        student, adapter = student_of(trained, frozen, LORA.alpha / LORA.rank)
        hidden = forward(spec, student, batch["student"], segments=batch["student_segments"], adapter=adapter).hidden
        error = value_predictions(trained["value_head"], hidden) - batch["student"] / 50
        mask = batch["student_segments"] > 0
        return (jnp.where(mask, error**2, 0.0).sum(), mask.sum()), {}

    return loss


@pytest.mark.slow
def test_an_adapter_and_a_value_head_are_one_tree(model):
    trained = init_trained(model, LORA, make_mesh(1), 0, heads=("value_head",))
    assert trained.keys() == {"adapter", "value_head"}
    optimizer = optax.adam(3e-2)
    step, results = make_train_step(values_loss(model.spec), optimizer), []
    for params in (model.params, unstack_layers(model.params)):
        state, losses = init_state(jax.tree.map(jnp.copy, trained), optimizer, 0), []
        for _ in range(8):
            state, metrics = step(state, params, batch())
            losses.append(float(metrics["loss"]))
        assert losses[-1] < losses[0] / 2
        results.append((state.params, losses))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), results[0][0], trained)
    assert min(jax.tree.leaves(moved)) > 1e-4  # both are trained
    # Stacked or unstacked, the base gives the same.
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-4), *results)
    adapter = as_adapter(results[0][0], LORA)
    assert adapter.scale == LORA.alpha / LORA.rank and adapter.params is results[0][0]["adapter"]
    weights = merged(model, results[0][0], LORA)
    assert not np.array_equal(weights["layers"]["attn"]["q"]["kernel"], model.params["layers"]["attn"]["q"]["kernel"])


def test_a_scoring_head_replaces_the_frozen_one(model):
    """It is trained in float32, as an adapter is, also next to weights in bfloat16."""
    head = {"out": {"kernel": jnp.ones((32, 2), jnp.bfloat16)}}
    scoring = dataclasses.replace(model, params=model.params | {"score": head})
    for lora in (LORA, None):
        trained = init_trained(scoring, lora, make_mesh(1), 0, heads=("score",))
        assert trained["score"]["out"]["kernel"].dtype == jnp.float32
        changed = trained | {"score": jax.tree.map(lambda leaf: leaf * 3, trained["score"])}
        assert float(merged(scoring, changed, lora)["score"]["out"]["kernel"][0, 0]) == 3.0
    with pytest.raises(UserError, match="no scoring head"):
        init_trained(model, LORA, make_mesh(1), 0, heads=("score",))


@pytest.mark.slow
def test_dropout_depends_on_seed_step_and_row_number_alone(model):
    """Splitting a batch changes nothing; another step or a rate of 0 does."""
    trained = jax.tree.map(lambda leaf: leaf + 0.05, init_trained(model, LORA, make_mesh(1), 0))
    loss = make_loss(model.spec, "distill", LORA.alpha / LORA.rank, dropout=0.5)
    run = jax.jit(lambda batch, key: loss(trained, model.params, batch, key, None)[0][0])
    whole, key = batch(), jax.random.key(0)
    halves = [{name: value[part] for name, value in whole.items()} for part in (slice(0, None, 2), slice(1, None, 2))]
    assert_allclose(sum(run(half, key) for half in halves), run(whole, key), rtol=1e-5)
    assert abs(run(whole, jax.random.key(1)) - run(whole, key)) > 1e-4
    plain = make_loss(model.spec, "distill", LORA.alpha / LORA.rank)(trained, model.params, whole, key, None)[0][0]
    assert abs(plain - run(whole, key)) > 1e-4
