"""Heads on hidden states: classifiers and reward models (one score per text), value heads (one value per token)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.errors import UserError
from jaxllm.models.layers import ACTIVATIONS, Linear, RunOptions
from jaxllm.models.params import Params
from jaxllm.models.spec import LM_HEAD, Head, ModelSpec
from jaxllm.progress import notice

# Standard deviation of a new head's weights: `initializer_range` of transformers' configs, in all families here.
INITIAL_STD = 0.02


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
    return score_features(spec, params, text_features(spec, hidden, segments, tokens))


def feature_index(spec: ModelSpec, ids: np.ndarray) -> int:
    """Returns the index of the token `[N]` that represents a text, on the host; see `text_features`."""
    if spec.head is None:
        raise ValueError(f"this {spec.family} network has no scoring head")
    if spec.head.token == "first":
        return 0
    not_pad_id = np.flatnonzero(ids != spec.pad_id) if spec.head.before_padding and spec.pad_id is not None else []
    return int(not_pad_id[-1]) if len(not_pad_id) else len(ids) - 1


def score_features(spec: ModelSpec, params: Params, features: jax.Array) -> jax.Array:
    """Computes scores `[..., labels]` float32 of the states `[..., D]` that represent texts."""
    return ScoreHead(spec, RunOptions()).apply({"params": params["score"]}, features.astype(jnp.float32))


def with_score_head(spec: ModelSpec, params: Params, labels: int, label_names: Sequence[str] = (),
                    seed: int = 0) -> tuple[ModelSpec, Params]:
    """Gives a network a head of `labels` scores per text, as transformers' `...ForSequenceClassification` have it.

    A head with as many scores stays. Otherwise a linear layer is drawn as torch draws it, normal with standard
    deviation 0.02, in float32: scores of a zero head would all be equal, and the first step would train nothing but the
    head. A decoder loses the head of its language model, and scores a text at the last token; an encoder keeps the
    hidden layer of its head.

    The padding token of a decoder is dropped if it also ends texts. Torch scores a text at the last token that is not
    padding; without a padding token it takes one text at a time, and reads the token that is read here.

    Args:
        spec, params: the network; not changed.
        labels: scores of a text; 1 for a reward model.
        label_names: their meanings, in order; none by default.
        seed: seed of the new weights.

    Returns:
        The spec, and parameters that share all arrays but the head's; the same object if the head stays.

    Raises:
        UserError: there are no labels, or other than `labels` different names.
    """
    names, old = tuple(label_names), spec.head
    if labels < 1:
        raise UserError(f"must be 1 or more, got {labels}", "labels")
    if names and len(set(names)) != labels:
        raise UserError(f"{labels} different names are needed, got {list(names)}", "label_names")
    if old is not None and old.labels == labels:
        return dataclasses.replace(spec, head=dataclasses.replace(old, label_names=names or old.label_names)), params
    if old is not None:
        notice(f"the model's scoring head has {old.labels} scores, not {labels}: it is dropped, and a new one is drawn")
    kernel = INITIAL_STD * jax.random.normal(jax.random.key(seed), (spec.state_width, labels), jnp.float32)
    if old is not None and spec.encoder is not None:
        head = dataclasses.replace(old, labels=labels, label_names=names)
        weights = dict(params["score"]) | {"out": {"kernel": kernel, "bias": jnp.zeros(labels, jnp.float32)}}
    else:
        head = Head(labels, "last", label_names=names, before_padding=True)
        weights = {"out": {"kernel": kernel}}
        spec = dataclasses.replace(spec, pad_id=None if spec.pad_id in spec.eos_ids else spec.pad_id)
    return dataclasses.replace(spec, head=head), replace_head(params, weights)


def replace_head(params: Params, head: Params) -> Params:
    """Returns parameters with the scoring head `head`, on their devices, in place of the present head."""
    placed = params["embed"].sharding
    if isinstance(placed, NamedSharding):
        head = jax.device_put(head, NamedSharding(placed.mesh, PartitionSpec()))
    return {name: leaf for name, leaf in params.items() if name not in LM_HEAD} | {"score": head}


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
