"""Measures peak temporary memory of one training step, by loss: the allocation that the compiler reports.

    python scripts/memory.py [--batch 8] [--length 512] [--vocab 128256] [--width 64]

Compares the losses of `jaxllm inject` (distillation; its teacher reads as many tokens as the student here, and plain
fine-tuning on the same targets) with a KL that holds both logit tensors, in a step of gradient descent on every weight
of a small decoder. Nothing is run: the figures are XLA's for the compiled step (`memory_analysis`), arguments and
results not counted.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp

from jaxllm.finetune.distill import make_loss
from jaxllm.models import ModelSpec, compute_logits, forward, init_params
from jaxllm.ops import masked_sum
from jaxllm.train import LossFn


def from_logits(spec: ModelSpec) -> LossFn:
    """Returns the same KL, computed from both logit tensors."""

    def loss(student, teacher, batch, key, extra):
        del key, extra
        hidden = lambda params: forward(spec, params, batch["student"], remat="full").hidden[:, :-1]
        p = jax.nn.log_softmax(compute_logits(spec, teacher, jax.lax.stop_gradient(hidden(teacher))))
        q = jax.nn.log_softmax(compute_logits(spec, student, hidden(student)))
        return masked_sum((jnp.exp(p) * (p - q)).sum(-1), jnp.ones_like(batch["student"][:, 1:])), {}

    return loss


def temporary_bytes(spec: ModelSpec, loss: LossFn, batch: int, length: int) -> int:
    """Computes the temporary memory of one gradient-descent step with donated weights."""
    params = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))
    texts, numbers = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((batch, length), (batch,)))
    rows = {"student": texts, "student_segments": texts, "teacher": texts, "teacher_segments": texts,
            "offset": numbers, "target_type": numbers, "masked_tokens": numbers}

    def step(student, teacher, rows):
        gradient = jax.grad(lambda params: loss(params, teacher, rows, None, None)[0][0])(student)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, student, gradient)

    compiled = jax.jit(step, donate_argnums=0).lower(params, params, rows).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 8), ("length", 512), ("vocab", 128_256), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    spec = ModelSpec("llama", options.vocab, options.width, layers=2, heads=4, kv_heads=4,
                     head_dim=options.width // 4, mlp_width=2 * options.width, max_positions=options.length)
    print(f"B={options.batch} T={options.length} V={options.vocab} D={options.width}, float32, "
          f"{jax.devices()[0].device_kind}")
    losses = {"cross-entropy, streamed": make_loss(spec, "finetune", None),
              "KL, streamed": make_loss(spec, "distill", None), "KL, both logit tensors": from_logits(spec)}
    sizes = {name: temporary_bytes(spec, loss, options.batch, options.length) for name, loss in losses.items()}
    ce, streamed, whole = sizes.values()
    for name, size in sizes.items():
        print(f"{name:26} {size / 2**20:10,.1f} MiB")
    print(f"streamed KL / cross-entropy: {streamed / ce:.3f} (at most 1.15)")
    print(f"both logit tensors / streamed KL: {whole / streamed:.1f} (at least 5)")
    raise SystemExit(0 if streamed <= 1.15 * ce and whole >= 5 * streamed else 1)


if __name__ == "__main__":
    main()
