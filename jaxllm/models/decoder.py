"""The decoder-only transformer of all families as a Linen module; `models.network` has the functions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllm.models.layers import LayerContext, Linear, Norm, RunOptions, run_layers
from jaxllm.models.spec import ModelSpec


def embedding(module: nn.Module, run: RunOptions, name: str, shape: tuple[int, int], std: float,
              axis: str | None = "vocab") -> jax.Array:
    """Returns an embedding table of `module`, `[rows, D]`."""
    initializer = nn.with_logical_partitioning(nn.initializers.normal(std), (axis, "embed"))
    return module.param(name, initializer, shape, run.param_dtype)


class Decoder(nn.Module):
    """Embedding, blocks and final norm. `compute_logits` and `ops` apply the unembedding."""

    spec: ModelSpec
    run: RunOptions
    compute_dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens, positions, context: LayerContext, kv=None):
        spec, run = self.spec, self.run
        width = spec.embed_width or spec.width
        # A tied table is also the unembedding: its rows then need the small scale of a fan-in matrix.
        x = embedding(self, run, "embed", (spec.vocab_size, width), width**-0.5 if spec.tied else 1.0)[tokens]
        x = x.astype(self.compute_dtype)
        if spec.embed_scale != 1.0:
            # torch rounds the factor to the weights' type as well
            x *= jnp.asarray(spec.embed_scale, self.compute_dtype)
        if spec.embed_width:
            x = Linear(spec.width, (None, "embed"), False, run, name="embed_in")(x)
        if spec.rope is None:
            rows = (spec.max_positions + spec.position_offset, spec.width)
            x += embedding(self, run, "positions", rows, 0.02, None)[positions + spec.position_offset].astype(x.dtype)
        if spec.head is None and not spec.tied:
            embedding(self, run, "head", (spec.vocab_size, width), width**-0.5)
        if spec.head is None and spec.head_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.param("head_bias", zeros, (spec.vocab_size,), run.param_dtype)
        x, kv = run_layers(spec, run, x, context, kv)
        if spec.final_norm:
            x = Norm(spec, run, name="final_norm")(x)
        if spec.embed_width:
            x = Linear(spec.embed_width, ("embed", None), False, run, name="embed_out")(x)
        # Logits are linear in the hidden states, so scaling these here keeps the factor out of the losses.
        return (x if spec.logit_scale == 1.0 or spec.head is not None else x * spec.logit_scale), kv
