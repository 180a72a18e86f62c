"""Heads that score a text instead of predicting its next token: classifiers, reward models, values for RL."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllm.models.layers import ACTIVATIONS, Linear, Run
from jaxllm.models.params import Params
from jaxllm.models.spec import ModelSpec


class ScoreHead(nn.Module):
    """`[..., D]` features of a text -> `[..., labels]` scores, by way of a hidden layer where the head has one."""

    spec: ModelSpec
    run: Run

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        head = self.spec.head
        if head.hidden is not None:
            features = ACTIVATIONS[head.hidden](
                Linear(features.shape[-1], ("embed", None), head.hidden_bias, self.run, name="hidden")(features))
        return Linear(head.labels, ("embed", None), head.bias, self.run, name="out")(features)


def text_features(spec: ModelSpec, hidden: jax.Array, segments: jax.Array,
                  tokens: jax.Array | None = None) -> jax.Array:
    """The state that stands for a text, `[B, D]`: an encoder's first token, a decoder's last.

    Args:
        spec: of the network.
        hidden: `[B, T, D]`.
        segments: `[B, T]`, one text a row: 0 for padding, on either side.
        tokens: `[B, T]`, what was read; of heads `before_padding`, which look for the last token that is not spelled
            like padding. Without them that is the last token.
    """
    real = segments > 0
    if spec.head.before_padding and spec.pad_id is not None and tokens is not None:
        spelled = real & (tokens != spec.pad_id)
        real = jnp.where(spelled.any(1, keepdims=True), spelled, real)
    if spec.head.place == "first":
        index = jnp.argmax(real, axis=1)
    else:
        index = real.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]


def text_scores(spec: ModelSpec, params: Params, hidden: jax.Array, segments: jax.Array,
                tokens: jax.Array | None = None) -> jax.Array:
    """Scores of every text, `[B, labels]` float32, from hidden states `[B, T, D]` of `forward`; see `text_features`.

    Raises:
        ValueError: the network has no scoring head.
    """
    if spec.head is None:
        raise ValueError(f"this {spec.family} network has no scoring head")
    features = text_features(spec, hidden, segments, tokens).astype(jnp.float32)
    return ScoreHead(spec, Run()).apply({"params": params["score"]}, features)


def init_value_head(spec: ModelSpec, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Params:
    """A linear head that gives every position a value, for RL: `{"kernel": [D, 1], "bias": [1]}`."""
    kernel = jax.random.normal(key, (spec.state_width, 1), dtype) * jnp.asarray(spec.state_width**-0.5, dtype)
    return {"kernel": kernel, "bias": jnp.zeros((1,), dtype)}


def value_predictions(head: Params, hidden: jax.Array) -> jax.Array:
    """Value of every position, float32 `[B, T]`, from hidden states `[B, T, D]`.

    The product is float32 whatever the dtype of the states: values are compared with returns.
    """
    flat = jnp.einsum("btd,do->bto", hidden.astype(jnp.float32), head["kernel"].astype(jnp.float32),
                      precision="highest")
    return (flat + head["bias"].astype(jnp.float32))[..., 0]
