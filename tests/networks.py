"""Small random networks. Norms and biases are perturbed: at their usual 1 and 0 mistakes in loading would not show."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.models import ModelSpec, Rope, init_params
from jaxllm.models import forward as plain_forward

# Eagerly every operation is a program of its own to compile; this is one.
forward = jax.jit(plain_forward, static_argnames=("spec", "dtype", "remat"))

LLAMA = ModelSpec("llama", vocab_size=97, width=32, layers=3, heads=4, kv_heads=2, head_dim=12, mlp_width=48,
                  max_positions=64, norm_eps=1e-5, rope=Rope(theta=500.0), bos_id=1, eos_ids=(2,))
GPT2 = ModelSpec("gpt2", vocab_size=97, width=32, layers=3, heads=4, kv_heads=4, head_dim=8, mlp_width=128,
                 max_positions=64, norm="layer", norm_eps=1e-5, activation="gelu_tanh", gated_mlp=False,
                 qkv_bias=True, out_bias=True, mlp_bias=True, rope=None, tied=True, eos_ids=(96,))


def random_params(spec: ModelSpec, seed: int):
    params = jax.jit(lambda key: init_params(spec, key))(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 100), len(leaves))
    small = {"scale", "bias"}
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves = [leaf + 0.2 * jax.random.normal(key, leaf.shape) if name in small else leaf
              for leaf, key, name in zip(leaves, keys, names, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def random_tokens(batch: int, length: int, vocab: int = 97, seed: int = 0) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (batch, length), 3, vocab, jnp.int32)
