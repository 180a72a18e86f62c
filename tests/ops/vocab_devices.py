"""Run by test_vocab with eight virtual devices: no loss gathers a vocabulary table that is split by rows."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

from jaxllm.devices import make_mesh
from jaxllm.ops import Unembedding, token_divergence, token_entropy, token_logprobs, top_k_kl, top_k_logprobs

TOKENS, VOCAB, WIDTH, BLOCK, K = 24, 2048, 16, 256, 5
keys = jax.random.split(jax.random.key(0), 5)
hidden, teacher = (jax.random.normal(key, (TOKENS, WIDTH)) for key in keys[:2])
table, teacher_table = (jax.random.normal(key, (VOCAB, WIDTH)) for key in keys[2:4])
targets = jax.random.randint(keys[4], (TOKENS,), 0, VOCAB)
ids, logprobs = top_k_logprobs(teacher, Unembedding(teacher_table), K)

LOSSES = {
    "token_logprobs": lambda h, t, tt: token_logprobs(h, Unembedding(t), targets, block=BLOCK).sum(),
    "token_entropy": lambda h, t, tt: token_entropy(h, Unembedding(t), block=BLOCK).sum(),
    "top_k_kl": lambda h, t, tt: top_k_kl(h, Unembedding(t), ids, logprobs, block=BLOCK).sum(),
}
for kind in ("forward", "reverse", "jsd"):
    LOSSES[kind] = lambda h, t, tt, kind=kind: token_divergence(h, Unembedding(t), teacher, Unembedding(tt), kind=kind,
                                                                block=BLOCK).sum()


def gathered_elements(text):
    """Elements of the largest result of an all-gather in a compiled program."""
    sizes = [0]
    for line in text.splitlines():
        if re.search(r"all-gather(-start)?\(", line):
            for shape in re.findall(r"\w+\[([\d,]+)\]", line.split("all-gather")[0]):
                size = 1
                for part in shape.split(","):
                    size *= int(part)
                sizes.append(size)
    return max(sizes)


mesh = make_mesh(data=1, tensor=8)
by_row, whole = NamedSharding(mesh, P("tensor")), NamedSharding(mesh, P())
split, split_teacher = jax.device_put((table, teacher_table), by_row)
rows = jax.device_put(hidden, whole)
for name, loss in LOSSES.items():
    step = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=(whole, (whole, by_row)))
    compiled = step.lower(rows, split, split_teacher).compile()
    largest = gathered_elements(compiled.as_text())
    assert largest < VOCAB * WIDTH // 8, (name, largest)
    text = compiled.as_text()
    print(name, {op: len(re.findall(rf" {op}(?:-start)?\(", text)) for op in ("all-gather", "all-reduce")})
    wanted = jax.value_and_grad(loss, (0, 1))(hidden, table, teacher_table)
    split_values = compiled(rows, split, split_teacher)
    for ours, theirs in zip(jax.tree.leaves(split_values), jax.tree.leaves(wanted), strict=True):
        assert_allclose(jax.device_get(ours), theirs, rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs).max()))

find = jax.jit(lambda h, t: top_k_logprobs(h, Unembedding(t), K, block=BLOCK))
compiled = find.lower(rows, split_teacher).compile()
assert gathered_elements(compiled.as_text()) < VOCAB * WIDTH // 8
split_ids, split_values = compiled(jax.device_put(teacher, whole), split_teacher)
assert jax.device_get(split_ids).tolist() == ids.tolist()
# A log-probability near 0 is the difference of two logits of this size, with their rounding.
assert float(jnp.abs(teacher @ teacher_table.T).max()) * jnp.finfo(jnp.float32).eps < 1e-5
assert_allclose(jax.device_get(split_values), logprobs, rtol=1e-5, atol=1e-5)
print("all equal")
