"""Peak temporary memory of one training step, by loss: what the compiler says it will allocate.

    python scripts/memory.py [--batch 8] [--length 512] [--vocab 128256] [--width 64] [--block 1024]

Compares cross-entropy, the streamed KL, and a KL that holds both logit tensors, on the same small decoder with
every weight trained. Nothing is run: the figures are XLA's for the compiled step (`memory_analysis`), arguments and
results not counted.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp

from jaxllm.models import ModelSpec, forward, init, logits, unembedding
from jaxllm.ops import cross_entropy, kl_distillation, masked_sum


def losses(spec: ModelSpec, block: int | None):
    """Name -> loss of (student, teacher, tokens); all take the mean over the same positions."""

    def hidden(params, tokens):
        return forward(spec, params, tokens, remat="full").hidden[:, :-1]

    def mean(total, weight):
        return total / weight

    def ce(student, teacher, tokens):
        mask = jnp.ones_like(tokens[:, 1:])
        return mean(*cross_entropy(hidden(student, tokens), unembedding(spec, student), tokens[:, 1:], mask,
                                   block=block))

    def streamed(student, teacher, tokens):
        mask = jnp.ones_like(tokens[:, 1:])
        return mean(*kl_distillation(hidden(student, tokens), unembedding(spec, student),
                                     jax.lax.stop_gradient(hidden(teacher, tokens)), unembedding(spec, teacher), mask,
                                     block=block))

    def whole(student, teacher, tokens):
        p = jax.nn.log_softmax(logits(spec, teacher, jax.lax.stop_gradient(hidden(teacher, tokens))))
        q = jax.nn.log_softmax(logits(spec, student, hidden(student, tokens)))
        return mean(*masked_sum((jnp.exp(p) * (p - q)).sum(-1), jnp.ones_like(tokens[:, 1:])))

    return {"cross-entropy, streamed": ce, "KL, streamed": streamed, "KL, both logit tensors": whole}


def temporary_bytes(spec: ModelSpec, loss, batch: int, length: int) -> int:
    """Temporaries of one gradient-descent step with donated weights."""
    params = jax.eval_shape(lambda: init(spec, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def step(student, teacher, tokens):
        gradient = jax.grad(loss)(student, teacher, tokens)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, student, gradient)

    compiled = jax.jit(step, donate_argnums=0).lower(params, params, tokens).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 8), ("length", 512), ("vocab", 128_256), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--block", type=int, default=None, help="vocabulary rows at a time; by default the library's")
    options = parser.parse_args()
    spec = ModelSpec("llama", options.vocab, options.width, layers=2, heads=4, kv_heads=4,
                     head_dim=options.width // 4, mlp_width=2 * options.width, max_positions=options.length)
    print(f"B={options.batch} T={options.length} V={options.vocab} D={options.width}, float32, "
          f"block {options.block or 'by default'}, {jax.devices()[0].device_kind}")
    found = {name: temporary_bytes(spec, loss, options.batch, options.length)
             for name, loss in losses(spec, options.block).items()}
    ce, streamed, whole = found.values()
    for name, size in found.items():
        print(f"{name:26} {size / 2**20:10,.1f} MiB")
    print(f"streamed KL / cross-entropy: {streamed / ce:.3f} (at most 1.15)")
    print(f"both logit tensors / streamed KL: {whole / streamed:.1f} (at least 5)")
    raise SystemExit(0 if streamed <= 1.15 * ce and whole >= 5 * streamed else 1)


if __name__ == "__main__":
    main()
