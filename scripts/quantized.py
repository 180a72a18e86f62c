"""Measures quantization: error of the weights, KL of the predictions, memory, and training of adapters on top.

    python scripts/quantized.py [--rows 64] [--length 64] [--steps 30] [--seeds 3] [--stories DIR] [--texts FILE]

Three networks: one with random weights on random tokens, and two trained ones on text like their training data: the
packaged `tiny`, and stories260k where its directory and a file of TinyStories exist. Columns of the first table:

    quantized      share of all parameters that the scheme applies to: matrices of the layers with a usable group
    bytes          per parameter, of these matrices with their scales, and of all (the rest in float32)
    error          |w' - w| / |w| over these matrices (Frobenius)
    KL             mean over positions of KL(full || quantized), nats per token; all in float32

The second table: an adapter is trained on the frozen base of `tiny`, with Adam on eight passages that are new to it,
with several seeds. Losses are means over seeds. The last column has the smallest and the largest ratio of the last loss
to that of the same seed on the full base. At the end a step lowers the loss by some 5 %, so a ratio of 0.95 is one step
ahead, not a better base.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.assets import resolve
from jaxllm.model import Model, load
from jaxllm.models import (
    Adapter,
    LoraConfig,
    ModelSpec,
    Params,
    Rope,
    forward,
    init_adapter,
    init_params,
    unembedding,
)
from jaxllm.models.quantized import quantize_params
from jaxllm.ops import Quantized, cross_entropy, kl_distillation
from jaxllm.text.batches import pad_right

SCHEMES = ("int8", "int4", "nf4")
SHARED = Path(__file__).resolve().parents[2] / "shared/data"
RANDOM = ModelSpec("llama", vocab_size=1000, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, mlp_width=512,
                   max_positions=512, rope=Rope())
# Number of training passages, and tokens per passage.
PASSAGES, PASSAGE_LENGTH = 8, 64


def batch(model: Model, texts: list[str], length: int) -> tuple[jax.Array, jax.Array]:
    """Returns tokens and segments `[rows, length]` of the first tokens of texts."""
    tokens, segments = pad_right([model.prompt_ids(text)[:length] for text in texts], length)
    return jnp.asarray(tokens), jnp.asarray(segments)


def networks(options: argparse.Namespace):
    """Yields (name, spec, parameters, tokens, segments) of every available network."""
    key = jax.random.key(0)
    tokens = jax.random.randint(key, (options.rows, options.length), 0, RANDOM.vocab_size, jnp.int32)
    params = jax.jit(lambda: init_params(RANDOM, key))()
    yield "random weights, width 256", RANDOM, params, tokens, jnp.ones_like(tokens)
    tiny = load("tiny")
    texts = [json.loads(line)["text"] for line in (resolve("tiny") / "unrelated.jsonl").read_text().splitlines()]
    yield "tiny, width 128", tiny.spec, tiny.params, *batch(tiny, texts[:options.rows], options.length)
    if options.stories.is_dir() and options.texts.is_file():
        stories = load(options.stories)
        with gzip.open(options.texts, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line, _ in zip(file, range(options.rows), strict=False)]
        yield "stories260k, width 64", stories.spec, stories.params, *batch(stories, texts, options.length)


def divergence(spec: ModelSpec, full: Params, quantized: Params, tokens: jax.Array, segments: jax.Array) -> float:
    """Computes the mean KL of the next-token distributions, nats per token."""

    @jax.jit
    def run(full, quantized):
        states = [forward(spec, params, tokens, segments=segments).hidden for params in (quantized, full)]
        total, count = kl_distillation(states[0], unembedding(spec, quantized), states[1], unembedding(spec, full),
                                       segments)
        return total / count

    return float(run(full, quantized))


def is_quantized(leaf) -> bool:
    return isinstance(leaf, Quantized)


def memory(full: Params, quantized: Params) -> tuple[float, float, float, float]:
    """Computes quantized share of parameters, bytes per quantized parameter and per parameter, relative error."""
    pairs = list(zip(jax.tree.leaves(full), jax.tree.leaves(quantized, is_leaf=is_quantized), strict=True))
    matrices = [(weight, leaf) for weight, leaf in pairs if is_quantized(leaf)]
    inside, everywhere = sum(weight.size for weight, _ in matrices), sum(weight.size for weight, _ in pairs)
    squares = lambda arrays: sum(float(np.square(np.asarray(array, np.float64)).sum()) for array in arrays)
    error = squares(leaf.dequantize() - weight for weight, leaf in matrices)
    return (inside / everywhere, sum(leaf.nbytes for _, leaf in matrices) / inside,
            sum(leaf.nbytes for _, leaf in pairs) / everywhere,
            math.sqrt(error / squares(weight for weight, _ in matrices)))


def adapter_losses(model: Model, params: Params, steps: int, seeds: int) -> np.ndarray:
    """Computes cross-entropy of the passages, nats per token, before and after training an adapter: `[seeds, 2]`."""
    rows = [json.loads(line) for line in (resolve("tiny") / "documents.jsonl").read_text().splitlines()]
    tokens, segments = batch(model, list(dict.fromkeys(row["context"] for row in rows))[:PASSAGES], PASSAGE_LENGTH)
    fresh = [init_adapter(model.spec, jax.random.key(seed), LoraConfig(rank=8, alpha=16.0)) for seed in range(seeds)]
    optimizer = optax.adam(2e-3)

    @jax.jit
    def train(params, adapter):
        def loss(change):
            hidden = forward(model.spec, params, tokens, segments=segments,
                             adapter=Adapter(change, adapter.scale)).hidden
            total, count = cross_entropy(hidden[:, :-1], unembedding(model.spec, params), tokens[:, 1:],
                                         segments[:, 1:])
            return total / count

        def step(state, _):
            change, moments = state
            value, gradient = jax.value_and_grad(loss)(change)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(change, updates), moments), value

        return jax.lax.scan(step, (adapter.params, optimizer.init(adapter.params)), None, length=steps + 1)[1]

    return np.array([train(params, adapter)[jnp.array([0, -1])] for adapter in fresh])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 64), ("length", 64), ("steps", 30), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--stories", type=Path, default=SHARED / "models/stories260k", help="directory of the model")
    parser.add_argument("--texts", type=Path, default=SHARED / "text/tinystories.jsonl.gz", help="its texts")
    options = parser.parse_args()

    print("| network | scheme | quantized | bytes there | bytes of all | error | KL, nats/token |")
    print("|---|---|---|---|---|---|---|")
    for name, spec, params, tokens, segments in networks(options):
        for scheme in SCHEMES:
            quantized = quantize_params(params, scheme)
            share, there, everywhere, error = memory(params, quantized)
            kl = divergence(spec, params, quantized, tokens, segments)
            print(f"| {name} | {scheme} | {share:.1%} | {there:.3f} | {everywhere:.3f} | {error:.4f} | {kl:.2g} |")
    print()

    print("| base of the adapter | loss before | loss after | after / after on the full base |")
    print("|---|---|---|---|")
    tiny, full = load("tiny"), None
    for scheme in (None, *SCHEMES):
        params = tiny.params if scheme is None else quantize_params(tiny.params, scheme)
        losses = adapter_losses(tiny, params, options.steps, options.seeds)
        full = losses[:, 1] if full is None else full
        (before, after), ratio = losses.mean(0), losses[:, 1] / full
        print(f"| {scheme or 'float32'} | {before:.4f} | {after:.4f} | {ratio.min():.3f} to {ratio.max():.3f} |")
    print()
    print(f"{options.rows} rows of up to {options.length} tokens; {options.steps} steps; {options.seeds} seeds; "
          f"{jax.devices()[0].device_kind}.")


if __name__ == "__main__":
    main()
