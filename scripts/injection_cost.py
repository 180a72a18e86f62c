"""Measures time and memory of a step of distillation relative to a step of plain fine-tuning.

    python scripts/injection_cost.py [--repeats 7] [--batch 4] [--length 256]

Both steps train the same adapter of a random Llama of 25 million parameters on the same student tokens; the teacher
reads as many tokens as the student. The additional work of distillation is the teacher's forward pass: a student's step
is a forward pass, the same once more for the backward pass (activations are recomputed), and the backward pass through
activations, so that the arithmetic bound is 4/3. Steps are timed in turn; the ratio is the median over repeats.

Memory: every array that lives after a step (one copy of the weights, the adapter and its moments), and what the
compiled gradient allocates on top for a single row of 16 tokens, where a second copy of the weights would show.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import optax

from jaxllm.finetune.distill import TargetObjective, make_loss
from jaxllm.finetune.targets import build_target, collate
from jaxllm.models import LoraConfig, ModelSpec, init_adapter, init_params
from jaxllm.train import init_state, make_train_step

SPEC = ModelSpec("llama", 8192, 512, layers=6, heads=8, kv_heads=4, head_dim=64, mlp_width=1408,
                 max_positions=1024)


def rows(batch: int, length: int) -> dict[str, np.ndarray]:
    """Draws targets of `length` tokens without context: both views have the same length."""
    ids = np.random.default_rng(0).integers(3, SPEC.vocab_size, (batch, length - 1))
    return collate([build_target((1,), (), row.tolist(), "qa") for row in ids], length, length)


def stepper(objective: TargetObjective, lora: LoraConfig, params, batch
            ) -> tuple[Callable[[], None], Callable[[], object]]:
    """Returns a function that makes one step and waits for it, and one that returns the state."""
    adapter, optimizer = init_adapter(SPEC, jax.random.key(0), lora), optax.adamw(1e-4)
    step = make_train_step(make_loss(SPEC, objective, adapter.scale), optimizer)
    state = init_state(adapter.params, optimizer, 0)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, params, batch)
        jax.block_until_ready((state, metrics))

    return run, lambda: state


def temporaries(lora: LoraConfig, params) -> int:
    """Computes the bytes that the gradient of distillation allocates for a batch with hardly any activations."""
    adapter = init_adapter(SPEC, jax.random.key(0), lora)
    loss = make_loss(SPEC, "distill", adapter.scale)
    gradient = jax.jit(jax.grad(lambda trained, frozen, batch: loss(trained, frozen, batch, None, None)[0][0]))
    compiled = gradient.lower(adapter.params, params, rows(1, 16)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def size(tree: object) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("repeats", 7), ("batch", 4), ("length", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    params, batch = init_params(SPEC, jax.random.key(0)), rows(options.batch, options.length)
    distill, distilled = stepper("distill", LoraConfig(), params, batch)
    before = sum(x.nbytes for x in jax.live_arrays())
    distill()  # compiles
    # Arrays that a step leaves, in addition to weights, adapter and moments.
    grown = sum(x.nbytes for x in jax.live_arrays()) - before
    finetune, _ = stepper("finetune", LoraConfig(), params, batch)
    finetune()
    ratios = []
    for number in range(options.repeats):
        kl, ce = seconds(distill), seconds(finetune)
        ratios.append(kl / ce)
        print(f"{number + 1}: KL {kl:.3f} s, cross-entropy {ce:.3f} s, ratio {ratios[-1]:.3f}")
    weights, state, extra = size(params), size(distilled()), temporaries(LoraConfig(), params)
    print(f"B={options.batch} T={options.length}, {jax.devices()[0].device_kind}")
    print(f"time of a step, KL / cross-entropy: {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f}; at most 1.4, bound 1.333)")
    print(f"weights {weights / 2**20:.1f} MiB, adapter and moments {state / 2**20:.1f} MiB, grown by a step "
          f"{grown / 2**20:.2f} MiB, allocated within one {extra / 2**20:.1f} MiB: "
          f"{(weights + state + grown + extra) / weights:.3f} copies of the weights")
    raise SystemExit(0 if statistics.median(ratios) <= 1.4 and grown + extra < 0.5 * weights else 1)


if __name__ == "__main__":
    main()
