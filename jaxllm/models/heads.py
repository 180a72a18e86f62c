"""Heads on hidden states: classifiers and reward models (one score per text), value heads (one value per token)."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllm.models.layers import ACTIVATIONS, Linear, RunOptions
from jaxllm.models.params import Params
from jaxllm.models.spec import ModelSpec


class ScoreHead(nn.Module):
    """Maps features of a text `[..., D]` to scores `[..., labels]`, through a hidden layer where the head has one."""

    spec: ModelSpec
    run: RunOptions

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        head = self.spec.head
        if head.hidden is not None:
            features = ACTIVATIONS[head.hidden](
                Linear(features.shape[-1], ("embed", None), head.hidden_bias, self.run, name="hidden")(features))
        return Linear(head.labels, ("embed", None), head.bias, self.run, name="out")(features)


def text_features(spec: ModelSpec, hidden: jax.Array, segments: jax.Array,
                  tokens: jax.Array | None = None) -> jax.Array:
    """Returns the hidden state that represents each text, `[B, D]`: an encoder's first token, a decoder's last.

    Args:
        spec: architecture.
        hidden: `[B, T, D]`.
        segments: `[B, T]` int32, one text a row: 0 for padding, on either side.
        tokens: `[B, T]` int32; for heads with `before_padding`, which use the last token with an id that is not the
            padding id. Without them that is the last token.
    """
    chex.assert_rank([hidden, segments], [3, 2])
    chex.assert_equal_shape_prefix([hidden, segments], 2)
    real = segments > 0
    if spec.head.before_padding and spec.pad_id is not None and tokens is not None:
        chex.assert_equal_shape([tokens, segments])
        not_pad_id = real & (tokens != spec.pad_id)
        real = jnp.where(not_pad_id.any(1, keepdims=True), not_pad_id, real)
    if spec.head.token == "first":
        index = jnp.argmax(real, axis=1)
    else:
        index = real.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]


def text_scores(spec: ModelSpec, params: Params, hidden: jax.Array, segments: jax.Array,
                tokens: jax.Array | None = None) -> jax.Array:
    """Computes scores `[B, labels]` float32 from hidden states `[B, T, D]` of `forward`; see `text_features`.

    Raises:
        ValueError: the network has no scoring head.
    """
    if spec.head is None:
        raise ValueError(f"this {spec.family} network has no scoring head")
    features = text_features(spec, hidden, segments, tokens).astype(jnp.float32)
    return ScoreHead(spec, RunOptions()).apply({"params": params["score"]}, features)


def init_value_head(spec: ModelSpec, dtype: jnp.dtype = jnp.float32) -> Params:
    """Returns a linear value head for RL, `{"kernel": [D, 1], "bias": [1]}`, all zeros.

    With zeros the first values are 0 for every state, so the first advantages are the returns themselves; random values
    would add noise of their own scale to them.
    """
    return {"kernel": jnp.zeros((spec.state_width, 1), dtype), "bias": jnp.zeros((1,), dtype)}


def value_predictions(head: Params, hidden: jax.Array) -> jax.Array:
    """Computes the value of every position, float32 `[B, T]`, from hidden states `[B, T, D]`.

    The product is float32 in any dtype of the states: values are compared with returns.
    """
    chex.assert_rank([hidden, head["kernel"], head["bias"]], [3, 2, 1])
    chex.assert_type(hidden, float)
    values = jnp.einsum("btd,do->bto", hidden.astype(jnp.float32), head["kernel"].astype(jnp.float32),
                        precision="highest")
    return (values + head["bias"].astype(jnp.float32))[..., 0]
