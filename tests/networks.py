"""Small random networks. Norms and biases are perturbed: at their usual 1 and 0 mistakes in loading would not show."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models import Adapter, LoraConfig, ModelSpec, Rope, init_adapter, init_params
from jaxllm.models import forward as plain_forward

# Eagerly every operation is a program of its own to compile; this is one.
forward = jax.jit(plain_forward, static_argnames=("spec", "dtype", "remat"))

LLAMA = ModelSpec("llama", vocab_size=97, width=32, layers=3, heads=4, kv_heads=2, head_dim=12, mlp_width=48,
                  max_positions=64, norm_eps=1e-5, rope=Rope(theta=500.0), bos_id=1, eos_ids=(2,))
GPT2 = ModelSpec("gpt2", vocab_size=97, width=32, layers=3, heads=4, kv_heads=4, head_dim=8, mlp_width=128,
                 max_positions=64, norm="layer", norm_eps=1e-5, activation="gelu_tanh", gated_mlp=False,
                 qkv_bias=True, out_bias=True, mlp_bias=True, rope=None, tied=True, eos_ids=(96,))


def random_params(spec: ModelSpec, seed: int):
    """Draws what `init_params` draws, and perturbs norms and biases. In numpy, which has nothing to compile."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))

    def draw(path, leaf) -> jax.Array:
        name = path[-1].key
        mean = 1.0 - spec.norm_offset if name == "scale" else 0.0
        if name in ("scale", "bias"):
            std = 0.2
        elif name == "kernel":
            std = leaf.shape[-2] ** -0.5
        else:
            std = 1.0 if name == "embed" and "head" in shapes else spec.width**-0.5
        return jnp.asarray(mean + std * random.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_adapter(spec: ModelSpec, lora: LoraConfig, std: float) -> Adapter:
    """Draws an adapter that has an effect: uniform `a` as before training, and normal noise on both."""
    random = np.random.default_rng(lora.rank)
    fresh = jax.eval_shape(lambda: init_adapter(spec, jax.random.key(0), lora))

    def draw(path, leaf) -> jax.Array:
        bound = leaf.shape[-2] ** -0.5 if path[-1].key == "a" else 0.0
        return jnp.asarray(random.uniform(-bound, bound, leaf.shape) + std * random.standard_normal(leaf.shape),
                           leaf.dtype)

    return dataclasses.replace(fresh, params=jax.tree_util.tree_map_with_path(draw, fresh.params))


def random_tokens(batch: int, length: int, vocab: int = 97, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(3, vocab, (batch, length)), jnp.int32)
