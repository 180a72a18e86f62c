"""Measures decoding speed on an accelerator, as a share of the bound by memory bandwidth.

    python scripts/bench_decode.py [--shapes 1b 8b] [--batches 1 8 64 256] [--prompt 128] [--new 128] [--json FILE]

Random bfloat16 weights of the shapes of Llama 3.2 1B and Llama 3.1 8B, greedy, every row with the same numbers of
tokens. A decoding step has to read all weights but the embedding once, and every row's keys and values; the bound is
the number of such steps that fit into a second at the device's memory bandwidth. Where torch is installed and sees the
same device, its `generate` with a static cache is measured too, where it fits next to the weights. Takes at most eight
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory of the same device

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxllm.config import SamplingConfig  # noqa: E402
from jaxllm.generate import Generator  # noqa: E402
from jaxllm.model import Model  # noqa: E402
from jaxllm.models import ModelSpec, Rope, init_params  # noqa: E402

# Memory bandwidth in bytes a second, by part of the device's name (from the data sheets).
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.0e12, "TPU v5 lite": 0.82e12, "TPU v6 lite": 1.64e12}
SHAPES = {
    "1b": ModelSpec("llama", 128_256, 2048, 16, 32, 8, 64, 8192, 8192, rope=Rope(500_000.0), tied=True),
    "8b": ModelSpec("llama", 128_256, 4096, 32, 32, 8, 128, 14_336, 8192, rope=Rope(500_000.0)),
}


class Silent:
    """A tokenizer for benchmarks in which only ids matter."""

    stop_ids = ()

    def decode(self, ids) -> str:
        return ""


def step_bytes(spec: ModelSpec, params, batch: int, length: float) -> float:
    """Counts the bytes that a step reads: weights, and keys and values of `length` tokens a row."""
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) - (0 if spec.tied else params["embed"].nbytes)
    return weights + batch * length * 2 * spec.layers * spec.kv_heads * spec.head_dim * 2


def seconds(generator: Generator, prompts: list[list[int]], new: int, repeats: int) -> float:
    """Measures the median time of a call that generates `new` tokens a row."""
    generator.batch_size = len(prompts)
    run = lambda: generator.generate(prompts, SamplingConfig(temperature=0.0, max_tokens=new))
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def torch_seconds(spec: ModelSpec, prompts: list[list[int]], new: int, repeats: int) -> float | None:
    """Measures torch transformers likewise; None without torch, a CUDA device, or enough of its memory."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    config = transformers.LlamaConfig(
        vocab_size=spec.vocab_size, hidden_size=spec.width, num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads, head_dim=spec.head_dim,
        intermediate_size=spec.mlp_width, max_position_embeddings=spec.max_positions, tie_word_embeddings=spec.tied)
    torch.set_default_dtype(torch.bfloat16)  # of the weights from the start
    times, theirs = [], None
    try:
        with torch.device("cuda"):
            theirs = transformers.LlamaForCausalLM(config).eval()
        ids = torch.tensor(prompts, device="cuda")
        for _ in range(repeats + 1):
            start = time.perf_counter()
            with torch.inference_mode():
                theirs.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0,
                                cache_implementation="static")
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        del theirs
        torch.cuda.empty_cache()
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["1b", "8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64, 8, 256])
    for name, value in (("prompt", 128), ("new", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--limit", type=float, default=440.0, help="seconds after which no further case starts")
    parser.add_argument("--json", type=Path, help="also write the numbers here, after every case")
    options = parser.parse_args()
    began, kind, table = time.monotonic(), jax.devices()[0].device_kind, []
    bandwidth = next((value for name, value in BANDWIDTH.items() if name in kind), None)
    print(f"{kind}, jax {jax.__version__}, {options.prompt} tokens of prompt, {options.new} new ones, bfloat16")
    print("| shape | batch | tokens/s | ms a step | of the bound | torch, tokens/s |\n|---|---|---|---|---|---|")
    for name in options.shapes:
        spec = SHAPES[name]
        params = jax.jit(lambda key, spec=spec: init_params(spec, key, jnp.bfloat16))(jax.random.key(0))
        generator = Generator(Model(spec, params, Silent()), dtype=jnp.bfloat16, donate=True)
        params = generator.params
        for batch in options.batches:
            if time.monotonic() - began > options.limit:
                print(f"| {name} | {batch} | no time left | | | |")
                continue
            draws = np.random.default_rng(0)
            prompts = [draws.integers(3, spec.vocab_size, options.prompt).tolist() for _ in range(batch)]
            # Two lengths: prefill and other costs per call cancel in the difference.
            short = options.new // 4
            taken = [seconds(generator, prompts, new, options.repeats) for new in (short, options.new)]
            step = (taken[1] - taken[0]) / (options.new - short)
            middle = options.prompt + (short + options.new) / 2
            share = step_bytes(spec, params, batch, middle) / bandwidth / step if bandwidth else None
            theirs = torch_seconds(spec, prompts, options.new, options.repeats)
            row = {"shape": name, "batch": batch, "tokens_per_s": batch * options.new / taken[1], "step_s": step,
                   "share_of_bound": share, "torch_tokens_per_s": theirs and batch * options.new / theirs}
            table.append(row)
            cell = lambda value, form: "–" if value is None else format(value, form)
            print(f"| {name} | {batch} | {row['tokens_per_s']:.0f} | {step * 1e3:.2f} | {cell(share, '.0%')} | "
                  f"{cell(row['torch_tokens_per_s'], '.0f')} |", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"device": kind, "rows": table}, indent=2) + "\n")
        del params, generator


if __name__ == "__main__":
    main()
