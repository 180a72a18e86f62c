"""Log-probabilities of given continuations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.generate.engine import finite
from jaxllm.models import ModelSpec, forward, unembedding
from jaxllm.models.network import Params
from jaxllm.ops import token_logprobs
from jaxllm.text.batches import bucket, bucket_sizes, pad_right
from jaxllm.text.model import Model


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probability of one continuation.

    Attributes:
        logprob: nats, summed over the continuation, at temperature 1.
        tokens: number of tokens of the continuation.
    """

    logprob: float
    tokens: int


@partial(jax.jit, static_argnames=("spec", "dtype"))
def continuation_logprobs(spec: ModelSpec, params: Params, tokens: jax.Array, segments: jax.Array,
                          prompt_lengths: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Summed log-probability of what follows the prompt in every row, `[B]` float32.

    Args:
        spec, params: the network.
        tokens, segments: `[B, T]` int32, padded on the right.
        prompt_lengths: `[B]` int32, at least 1.
        dtype: of activations.
    """
    hidden = forward(spec, params, tokens, segments=segments, dtype=dtype).hidden
    logprobs = token_logprobs(hidden[:, :-1], unembedding(spec, params), tokens[:, 1:])
    targets = jnp.arange(1, tokens.shape[1])[None]
    wanted = (segments[:, 1:] > 0) & (targets >= prompt_lengths[:, None])
    return jnp.where(wanted, logprobs, 0.0).sum(-1)


def score(model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 32,
          dtype: jnp.dtype = jnp.float32, on_batch: Callable[[int], None] | None = None) -> list[Score]:
    """Scores every `(prompt ids, continuation ids)`.

    Raises:
        UserError: a prompt has no token, or a pair is longer than the context window.
    """
    window = model.spec.max_positions
    for number, (prompt, continuation) in enumerate(pairs):
        if not len(prompt):
            raise UserError("the prompt is empty, and the model has no begin token to start from", f"row {number + 1}")
        if len(prompt) + len(continuation) > window:
            raise UserError(f"{len(prompt)} prompt tokens and {len(continuation)} of the completion do not fit the "
                            f"context window of {window}", f"row {number + 1}", "shorten the row")
    sizes = bucket_sizes(window)
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
    results: list[Score | None] = [None] * len(pairs)
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        rows = [[*pairs[i][0], *pairs[i][1]] for i in chosen]
        size = bucket(len(chosen), bucket_sizes(batch_size, smallest=1))
        tokens, segments = pad_right(rows + [[]] * (size - len(chosen)), bucket(max(map(len, rows)), sizes))
        lengths = np.array([len(pairs[i][0]) for i in chosen] + [1] * (size - len(chosen)), np.int32)
        totals = jax.device_get(continuation_logprobs(
            model.spec, model.params, jnp.asarray(tokens), jnp.asarray(segments), jnp.asarray(lengths), dtype))
        for i, total in zip(chosen, totals, strict=False):
            results[i] = Score(finite(float(total)), len(pairs[i][1]))
        if on_batch is not None:
            on_batch(start + len(chosen))
    return results
