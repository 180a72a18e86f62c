"""Generation against torch transformers: the same weights, in one run, alternated.

    python scripts/bench_generate.py [--repeats 3] [--slots 32] [--threads 2] [--prompts 64]

Two workloads of a random Llama of 25 million parameters, greedy, float32:

    mixed     64 prompts of 16 to 256 tokens, each continued by 16 to 128 tokens
    uniform   8 prompts of 64 tokens, each continued by 128 tokens

Torch generates with a dynamic cache and scaled-dot-product attention, padding on the left, with its best batch size:
rows are sorted by their limit of new tokens, and the fastest of several batch sizes is taken. A batch runs
until its longest row is done. Tokens beyond a prompt's limit are not counted on either side. Figures are new tokens a
second; a ratio is the median over repeats of ours over torch's, taken one after the other.

The bound counts the matrix products with the weights only, with every slot always in
use: prompts 512 tokens at a time, new tokens as many at a time as there are slots, measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from bench_preference import use_cores
from jax import lax

from jaxllm.config import SamplingConfig
from jaxllm.generate import GenerationStats, Generator
from jaxllm.generate.scheduler import PACK_TOKENS
from jaxllm.model import Model
from jaxllm.models import load_model
from jaxllm.models.network import Params

TORCH_BATCHES = (8, 16, 32, 64)
CONFIG = dict(vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8,
              num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=1,
              eos_token_id=2, pad_token_id=0)


# Every program that jax lowers; a cached one is not lowered again.
lowered: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: lowered.append(event) if event.endswith("jaxpr_to_mlir_module_duration") else None)


class Silent:
    """A tokenizer for benchmarks in which only ids matter."""

    stop_ids = ()

    def decode(self, ids) -> str:
        return ""


def torch_generate(model: torch.nn.Module, prompts: list[list[int]], limits: list[int], size: int) -> list[list[int]]:
    """Continues all prompts, `size` at a time."""
    completions: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: limits[i])
    for start in range(0, len(order), size):
        rows = order[start:start + size]
        longest = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[0] * (longest - len(prompts[i])) + prompts[i] for i in rows])
        mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in rows])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=max(limits[i] for i in rows),
                                 do_sample=False, eos_token_id=None, pad_token_id=0)
        for i, row in zip(rows, out[:, longest:].tolist(), strict=True):
            completions[i] = row[:limits[i]]
    return completions


def seconds(run: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def products(params: Params, rows: int) -> float:
    """Measures the seconds of all matrix products with the weights for `rows` tokens."""
    times = 20 if rows < PACK_TOKENS["cpu"] else 2

    @jax.jit
    def run(layers: tuple[Params, ...], head: jax.Array, x: jax.Array) -> jax.Array:
        def once(_: int, x: jax.Array) -> jax.Array:
            for layer in layers:
                q, k, v, o = (layer["attn"][name]["kernel"] for name in "qkvo")
                gate, up, down = (layer["mlp"][name]["kernel"] for name in ("gate", "up", "down"))
                x = (x @ q + jnp.concatenate([x @ k, x @ v], 1)) @ o
                x = (x @ gate + x @ up) @ down
            return x if rows == PACK_TOKENS["cpu"] else (x @ head.T)[:, :x.shape[1]]

        return lax.fori_loop(0, times, once, x)

    x = jnp.zeros((rows, CONFIG["hidden_size"]))
    measure = lambda: jax.block_until_ready(run(params["layers"], params["head"], x))
    measure()
    return statistics.median(seconds(measure) for _ in range(5)) / times


def bound(params: Params, prompts: list[list[int]], limits: list[int], slots: int) -> float:
    """Computes new tokens a second if nothing but `products` took time."""
    reading = sum(map(len, prompts)) / PACK_TOKENS["cpu"] * products(params, PACK_TOKENS["cpu"])
    return sum(limits) / (reading + sum(limits) / slots * products(params, slots))


def workloads(count: int) -> dict[str, tuple[list[list[int]], list[int]]]:
    """Returns prompts and their limits of new tokens by workload."""
    draws = np.random.default_rng(0)
    text = lambda length: draws.integers(3, CONFIG["vocab_size"], length).tolist()
    mixed = [text(length) for length in draws.integers(16, 257, count)]
    return {"mixed": (mixed, draws.integers(16, 129, count).tolist()),
            "uniform": ([text(64) for _ in range(8)], [128] * 8)}


def compare(theirs: torch.nn.Module, generator: Generator, prompts: list[list[int]], limits: list[int], slots: int,
            repeats: int) -> str:
    """Measures one workload; returns the cells of its row."""
    stats, sampling = GenerationStats(), SamplingConfig(temperature=0.0, max_tokens=max(limits))
    run_theirs = lambda size: torch_generate(theirs, prompts, limits, size)
    generator.batch_size = slots
    run_ours = lambda stats=None: generator.generate(prompts, sampling, max_tokens=limits, stats=stats)
    before = len(lowered)
    mine = [row[0].token_ids for row in run_ours(stats)]
    compiled = len(lowered) - before
    best = min((size for size in TORCH_BATCHES if size <= len(prompts)), key=lambda size: seconds(run_theirs, size))
    same = sum(a == b for a, b in zip(mine, run_theirs(best), strict=True))
    pairs = [(seconds(run_theirs, best), seconds(run_ours)) for _ in range(repeats)]
    if len(lowered) != before + compiled:
        raise RuntimeError("a second run of the same prompts compiled something")
    theirs_rate, our_rate = (statistics.median(sum(limits) / pair[side] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(torch_time / our_time for torch_time, our_time in pairs)
    most = bound(generator.params, prompts, limits, slots)
    return (f"{theirs_rate:.0f} | {best} | {our_rate:.0f} | {ratio:.2f} | {most:.0f} | {stats.occupancy:.3f} | "
            f"{compiled} | {same} of {len(prompts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("repeats", 3), ("slots", 32), ("threads", 2), ("prompts", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    use_cores(options.threads)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        spec, params = load_model(folder)
    # Nothing ends a text but its length, on both sides.
    generator = Generator(Model(dataclasses.replace(spec, eos_ids=()), params, Silent()), donate=True)
    print(f"{sum(p.numel() for p in theirs.parameters()) / 1e6:.1f} million parameters; {os.cpu_count()} cores, "
          f"{options.threads} threads; jax {jax.__version__}, torch {torch.__version__}")
    print("| workload | torch, tokens/s | its batch | jaxllm, tokens/s | ratio | bound | occupancy | compiled | "
          "same tokens |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (prompts, limits) in workloads(options.prompts).items():
        slots = min(options.slots, len(prompts))
        print(f"| {name} | {compare(theirs, generator, prompts, limits, slots, options.repeats)} |", flush=True)


if __name__ == "__main__":
    main()
