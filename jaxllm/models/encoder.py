"""Encoders: every token sees the whole text (BERT, RoBERTa, DistilBERT, DeBERTa 2 and 3)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models.decoder import table
from jaxllm.models.disentangled import Distances, distance_index
from jaxllm.models.layers import ACTIVATIONS, Context, Linear, Norm, Run, run_layers
from jaxllm.models.spec import ModelSpec


class Convolution(nn.Module):
    """Beside the first layer of DeBERTa 2: `norm(layer(x) + tanh(convolution(x)))` (2006.03654, appendix)."""

    spec: ModelSpec
    run: Run

    @nn.compact
    def __call__(self, embedded: jax.Array, x: jax.Array, segments: jax.Array) -> jax.Array:
        spec, width = self.spec, self.spec.width
        initializer = nn.with_logical_partitioning(nn.initializers.normal(width**-0.5), (None, "embed", None))
        kernel = self.param("kernel", initializer, (spec.encoder.convolution, width, width), self.run.param_dtype)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, (None,)), (width,),
                          self.run.param_dtype)
        real = (segments > 0)[..., None]
        precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        out = lax.conv_general_dilated(embedded, kernel.astype(x.dtype), (1,), "SAME", precision=precision,
                                       dimension_numbers=("NWC", "WIO", "NWC")) + bias.astype(x.dtype)
        out = ACTIVATIONS[spec.encoder.convolution_activation](jnp.where(real, out, 0))
        return Norm(spec, self.run, name="norm")(x + out) * real.astype(x.dtype)


class Encoder(nn.Module):
    """Embeddings, their norm, and blocks that see both ways."""

    spec: ModelSpec
    run: Run
    compute_dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens, positions, types, context: Context):
        spec, run, parts = self.spec, self.run, self.spec.encoder
        width = spec.embed_width or spec.width
        x = table(self, run, "embed", (spec.vocab_size, width), 0.02)[tokens].astype(self.compute_dtype)
        if parts.absolute:
            rows = (spec.max_positions + spec.position_offset, width)
            x += table(self, run, "positions", rows, 0.02, None)[positions + spec.position_offset].astype(x.dtype)
        if parts.token_types:
            x += table(self, run, "types", (parts.token_types, width), 0.02, None)[types].astype(x.dtype)
        if spec.embed_width:
            x = Linear(spec.width, (None, "embed"), False, run, name="embed_in")(x)
        x = Norm(spec, run, name="embed_norm")(x)
        real = (context.sight.keys > 0)[..., None]
        embedded = x = jnp.where(real, x, 0)  # what a convolution sees of padding
        if parts.relative is not None:
            distances = table(self, run, "distances", (2 * parts.relative.span, spec.width), 0.02, None)
            distances = distances.astype(x.dtype)
            if parts.relative.norm:
                distances = Norm(spec, run, name="distances_norm")(distances)
            index = distance_index(parts.relative, tokens.shape[1])
            context = dataclasses.replace(context, distances=Distances(distances, jnp.asarray(index)))
        beside = None
        if parts.convolution is not None:
            convolution = Convolution(spec, run, name="convolution")
            beside = lambda x: convolution(embedded, x, context.sight.keys)
            if self.is_initializing():  # parameters are made with layers stacked, which have no place between them
                beside(x)
        return run_layers(spec, run, x, context, after_first=beside)[0]
