import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.errors import UserError
from jaxllm.models import init_params
from jaxllm.models.families import read_config
from jaxllm.train import OptimizerConfig, decay_mask, make_optimizer, make_schedule


def rates(total, **config):
    schedule = make_schedule(OptimizerConfig(**config), total)
    return [float(schedule(s)) for s in range(total + 1)]


def test_constant_schedule_with_warmup():
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(rates(6, lr=1.0, schedule="constant", warmup_steps=4), expected, rtol=1e-6)


def test_linear_schedule_falls_to_the_final_rate():
    expected = [1.0, 2.0, 1.55, 1.1, 0.65, 0.2]
    got = rates(5, lr=2.0, schedule="linear", warmup_steps=1, final_lr=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_cosine_schedule():
    half = 0.5**0.5
    expected = [1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0]
    np.testing.assert_allclose(rates(4, lr=1.0, schedule="cosine"), expected, atol=1e-7)


def test_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(UserError, match="5 warmup steps in a run of 5 steps"):
        make_schedule(OptimizerConfig(warmup_steps=5), 5)


@pytest.mark.parametrize(
    "config", [{"schedule": "cosin"}, {"adam_style": "Torch"}, {"lr": -1.0}, {"b1": 1.0}, {"clip_norm": 0.0},
               {"warmup_steps": -1}]
)
def test_impossible_settings_are_errors(config):
    with pytest.raises(UserError, match=f"{next(iter(config))}: "):
        OptimizerConfig(**config)


def test_matrices_decay_and_norms_and_biases_do_not():
    x = jnp.ones((2, 2))
    tree = {
        "embed": x,
        "layers": ({"q": {"kernel": x, "bias": x}, "norm": {"scale": x}, "lora": {"a": x, "b": x}},),
    }
    assert decay_mask(tree) == {
        "embed": True,
        "layers": (
            {"q": {"kernel": True, "bias": False}, "norm": {"scale": False}, "lora": {"a": True, "b": True}},
        ),
    }


def adamw_by_hand(p, grads, config, decayed, norms):
    m = v = np.zeros_like(p)
    for t, (g, norm) in enumerate(zip(grads, norms, strict=True), 1):
        g = g * min(1.0, config.clip_norm / norm)
        m = config.b1 * m + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g * g
        update = m / (1 - config.b1**t) / (np.sqrt(v / (1 - config.b2**t)) + config.eps)
        p = p - config.lr * (update + config.weight_decay * p * decayed)
    return p


def test_three_updates_by_hand():
    config = OptimizerConfig(lr=0.1, schedule="constant", weight_decay=0.5, b1=0.8, b2=0.9, clip_norm=1.0)
    params = {"kernel": np.array([1.0, -2.0]), "bias": np.array([3.0])}
    grads = [
        {"kernel": np.array([3.0, 0.0]), "bias": np.array([4.0])},  # norm 5, scaled down
        {"kernel": np.array([0.3, 0.0]), "bias": np.array([0.4])},  # norm 0.5, as it is
        {"kernel": np.array([0.0, 6.0]), "bias": np.array([8.0])},  # norm 10
    ]
    expected = {
        name: adamw_by_hand(
            params[name], [g[name] for g in grads], config, name == "kernel", [5.0, 0.5, 10.0]
        )
        for name in params
    }
    optimizer = make_optimizer(config, 3)
    got = {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
    state = optimizer.init(got)
    for g in grads:
        updates, state = optimizer.update({k: jnp.asarray(x, jnp.float32) for k, x in g.items()}, state, got)
        got = optax.apply_updates(got, updates)
    for name in params:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)


def test_moments_are_float32_for_bfloat16_parameters():
    state = make_optimizer(OptimizerConfig(), 3).init({"kernel": jnp.ones(2, jnp.bfloat16)})
    assert optax.tree.get(state, "mu")["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("family", ["mixtral", "deberta-2_convolution", "gpt2", "bert"])
def test_matrices_and_tables_are_decayed_and_nothing_else(family):
    fixture = Path(__file__).parents[1] / "models" / "families" / f"{family}.json"
    spec = read_config(json.loads(fixture.read_text())["config"], fixture)
    shapes = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))
    stacked = lambda path: path[0].key == "layers"
    expected = jax.tree_util.tree_map_with_path(lambda path, leaf: len(leaf.shape) - stacked(path) > 1, shapes)
    assert decay_mask(shapes) == expected


@pytest.mark.parametrize(("style", "expected"), [("torch", [.999, .909, .0909]), ("tensorflow", [.969, .240, .0032])])
def test_where_eps_is_added(style, expected):
    config = OptimizerConfig(lr=1.0, schedule="constant", eps=1e-5, adam_style=style, clip_norm=None)
    gradients = {"w": jnp.array([1e-2, 1e-4, 1e-6])}
    optimizer = make_optimizer(config, 10)
    updates, state = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose(-updates["w"], expected, atol=6e-4)
    later, _ = optimizer.update(gradients, state, gradients)
    assert np.isfinite(later["w"]).all()
