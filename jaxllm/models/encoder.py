"""Encoders with bidirectional attention (BERT, RoBERTa, DistilBERT, DeBERTa 2 and 3)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.models.decoder import embedding
from jaxllm.models.disentangled import Distances, distance_index
from jaxllm.models.layers import ACTIVATIONS, LayerContext, Linear, Norm, RunOptions, run_layers
from jaxllm.models.spec import ModelSpec


class Convolution(nn.Module):
    """Convolution of DeBERTa 2, parallel to its first layer: `norm(layer(x) + tanh(convolution(x)))` (2006.03654)."""

    spec: ModelSpec
    run: RunOptions

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
    """Embeddings, their norm, and bidirectional blocks."""

    spec: ModelSpec
    run: RunOptions
    compute_dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens, positions, types, context: LayerContext):
        spec, run, parts = self.spec, self.run, self.spec.encoder
        width = spec.embed_width or spec.width
        x = embedding(self, run, "embed", (spec.vocab_size, width), 0.02)[tokens].astype(self.compute_dtype)
        if parts.absolute:
            rows = (spec.max_positions + spec.position_offset, width)
            x += embedding(self, run, "positions", rows, 0.02, None)[positions + spec.position_offset].astype(x.dtype)
        if parts.token_types:
            x += embedding(self, run, "types", (parts.token_types, width), 0.02, None)[types].astype(x.dtype)
        if spec.embed_width:
            x = Linear(spec.width, (None, "embed"), False, run, name="embed_in")(x)
        x = Norm(spec, run, name="embed_norm")(x)
        real = (context.mask.key_segments > 0)[..., None]
        embedded = x = jnp.where(real, x, 0)  # a convolution reads zeros at padding
        if parts.relative is not None:
            distances = embedding(self, run, "distances", (2 * parts.relative.span, spec.width), 0.02, None)
            distances = distances.astype(x.dtype)
            if parts.relative.norm:
                distances = Norm(spec, run, name="distances_norm")(distances)
            index = distance_index(parts.relative, tokens.shape[1])
            context = dataclasses.replace(context, distances=Distances(distances, jnp.asarray(index)))
        convolve = None
        if parts.convolution is not None:
            convolution = Convolution(spec, run, name="convolution")
            convolve = lambda x: convolution(embedded, x, context.mask.key_segments)
            if self.is_initializing():  # parameters are created with stacked layers, which `after_first` does not reach
                convolve(x)
        return run_layers(spec, run, x, context, after_first=convolve)[0]
