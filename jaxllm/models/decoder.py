"""The one decoder-only transformer of every family, as a Linen module; `models.network` has the functions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllm.models.layers import Context, Linear, Norm, Run, run_layers
from jaxllm.models.spec import ModelSpec


def table(module: nn.Module, run: Run, name: str, shape: tuple[int, int], std: float,
          axis: str | None = "vocab") -> jax.Array:
    """A table of embeddings of `module`, `[rows, D]`."""
    initializer = nn.with_logical_partitioning(nn.initializers.normal(std), (axis, "embed"))
    return module.param(name, initializer, shape, run.param_dtype)


class Decoder(nn.Module):
    """Embedding, blocks and final norm; the unembedding's table is created here, applied elsewhere."""

    spec: ModelSpec
    run: Run
    compute_dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens, positions, context: Context, buffers=None):
        spec, run = self.spec, self.run
        width = spec.embed_width or spec.width
        # A tied table is also the head: its rows then need the small scale of a fan-in matrix.
        x = table(self, run, "embed", (spec.vocab_size, width), width**-0.5 if spec.tied else 1.0)[tokens]
        x = x.astype(self.compute_dtype)
        if spec.embed_scale != 1.0:
            # torch rounds the factor to the weights' type as well
            x *= jnp.asarray(spec.embed_scale, self.compute_dtype)
        if spec.embed_width:
            x = Linear(spec.width, (None, "embed"), False, run, name="embed_in")(x)
        if spec.rope is None:
            rows = (spec.max_positions + spec.position_offset, spec.width)
            x += table(self, run, "positions", rows, 0.02, None)[positions + spec.position_offset].astype(x.dtype)
        if spec.head is None and not spec.tied:
            table(self, run, "head", (spec.vocab_size, width), width**-0.5)
        if spec.head is None and spec.head_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.param("head_bias", zeros, (spec.vocab_size,), run.param_dtype)
        x, buffers = run_layers(spec, run, x, context, buffers)
        if spec.final_norm:
            x = Norm(spec, run, name="final_norm")(x)
        if spec.embed_width:
            x = Linear(spec.embed_width, ("embed", None), False, run, name="embed_out")(x)
        # The factor of the logits acts on what they are linear in; losses then need not know of it.
        return (x if spec.logit_scale == 1.0 or spec.head is not None else x * spec.logit_scale), buffers
