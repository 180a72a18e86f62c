"""Measures compile time of a train step by the number of layers: with scanned layers it should hardly grow.

    python scripts/compile_time.py [--layers 4 48] [--repeats 3] [--width 128]

The step is the library's: loss, gradient and AdamW by `make_train_step`, every block recomputed (`remat="full"`), all
weights or a LoRA adapter. Every figure is the median over fresh processes without a compilation cache, in seconds: how
much longer the first step took than the second, which is tracing, lowering and compiling.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jaxllm.models import Adapter, LoraConfig, ModelSpec, forward, init_adapter, init_params, unembedding  # noqa: E402
from jaxllm.ops import cross_entropy  # noqa: E402
from jaxllm.train import OptimizerConfig, init_state, make_optimizer, make_schedule, make_train_step  # noqa: E402

ROWS, LENGTH, VOCABULARY, STEPS = 2, 128, 512, 10
LIMIT = 2.0
NETWORKS = ("llama", "gemma2")
TRAINED = ("all", "lora")


def network(name: str, layers: int, width: int) -> ModelSpec:
    """Returns a Llama with equal layers, or a Gemma 2, in which every other layer is local."""
    shape = dict(vocab_size=VOCABULARY, width=width, layers=layers, heads=4, kv_heads=2, head_dim=width // 4,
                 mlp_width=2 * width, max_positions=LENGTH)
    if name == "llama":
        return ModelSpec("llama", **shape)
    return ModelSpec("gemma2", **shape, norm_offset=True, norms="around", activation="gelu_tanh", window=LENGTH // 4,
                     local_layers=tuple(i % 2 == 0 for i in range(layers)), attention_softcap=50.0,
                     logit_softcap=30.0, embed_scale=width**0.5, tied=True)


def compile_seconds(name: str, layers: int, width: int, trained: str) -> float:
    """Measures the seconds that the first step takes longer than the second; for a fresh process."""
    jax.config.update("jax_enable_compilation_cache", False)
    spec = network(name, layers, width)
    params = jax.jit(lambda key: init_params(spec, key))(jax.random.key(0))
    adapter = init_adapter(spec, jax.random.key(1), LoraConfig())
    config = OptimizerConfig()

    def loss(trainable, frozen, batch, key, extra):
        base, added = (trainable, None) if trained == "all" else (frozen, Adapter(trainable, adapter.scale))
        hidden = forward(spec, base, batch["tokens"], adapter=added, remat="full").hidden
        labels = batch["tokens"][:, 1:]
        return cross_entropy(hidden[:, :-1], unembedding(spec, base), labels, jnp.ones_like(labels)), {}

    optimizer = make_optimizer(config, STEPS)
    step = make_train_step(loss, optimizer, make_schedule(config, STEPS))
    state = init_state(params if trained == "all" else adapter.params, optimizer, 0)
    frozen = None if trained == "all" else params
    batch = {"tokens": jax.random.randint(jax.random.key(2), (ROWS, LENGTH), 0, VOCABULARY, jnp.int32)}
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, frozen, batch))
        taken.append(time.perf_counter() - start)
    return taken[0] - taken[1]


def median(repeats: int, *settings) -> float:
    """Measures in fresh processes, one after the other; returns the median."""
    context, times = multiprocessing.get_context("spawn"), []
    for _ in range(repeats):
        with context.Pool(1) as pool:
            times.append(pool.apply(compile_seconds, settings))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=2, default=(4, 48))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    few, many = options.layers
    print(f"{'network':10}{'trained':8}{f'{few} layers':>12}{f'{many} layers':>12}{'ratio':>8}  (at most {LIMIT:g})")
    worst = 0.0
    for name in NETWORKS:
        for trained in TRAINED:
            short, deep = (median(options.repeats, name, layers, options.width, trained) for layers in (few, many))
            worst = max(worst, deep / short)
            print(f"{name:10}{trained:8}{short:12.2f}{deep:12.2f}{deep / short:8.2f}", flush=True)
    raise SystemExit(0 if worst <= LIMIT else 1)


if __name__ == "__main__":
    main()
