"""Scores that a classifier or a reward model gives to texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.model import Model
from jaxllm.models import ModelSpec, Params, forward, text_scores
from jaxllm.text.batches import bucket, bucket_sizes, pad_right


@partial(jax.jit, static_argnames=("spec", "dtype"))
def batch_scores(spec: ModelSpec, params: Params, tokens: jax.Array, segments: jax.Array, types: jax.Array,
                 dtype: jnp.dtype) -> jax.Array:
    """Scores of a batch of texts, `[B, labels]` float32.

    Args:
        spec, params: the network, with a scoring head.
        tokens, segments, types: `[B, T]` int32, one text a row, padded on either side.
        dtype: of activations.
    """
    hidden = forward(spec, params, tokens, segments=segments, types=types, dtype=dtype).hidden
    return text_scores(spec, params, hidden, segments, tokens)


def classify(model: Model, texts: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 32,
             dtype: jnp.dtype = jnp.float32, on_batch: Callable[[int], None] | None = None) -> list[list[float]]:
    """The scoring head's outputs for every text.

    Args:
        model: with a scoring head.
        texts: `(ids, types)`, from `Tokenizer.whole`.
        batch_size: texts that run together; changes speed and memory, not the scores.
        dtype: of activations.
        on_batch: called with the number of texts done so far.

    Raises:
        UserError: a text is empty or longer than the context window, or a score is not finite.
    """
    window = model.spec.max_positions
    for number, (ids, _) in enumerate(texts):
        if not 0 < len(ids) <= window:
            raise UserError(f"{len(ids)} tokens; a text has 1 to {window}", f"row {number + 1}", "shorten the text")
    sizes = bucket_sizes(window)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
    results: list[list[float]] = [[]] * len(texts)
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        padding = [[]] * (bucket(len(chosen), bucket_sizes(batch_size, smallest=1)) - len(chosen))
        length = bucket(max(len(texts[i][0]) for i in chosen), sizes)
        tokens, segments = pad_right([texts[i][0] for i in chosen] + padding, length)
        types, _ = pad_right([texts[i][1] for i in chosen] + padding, length)
        scores = np.asarray(batch_scores(model.spec, model.params, jnp.asarray(tokens), jnp.asarray(segments),
                                         jnp.asarray(types), dtype))[:len(chosen)]
        if not np.isfinite(scores).all():
            raise UserError("the model gives scores that are not finite", "model",
                            "look for NaN or infinity in its weights, or for overflow in a shorter format")
        for i, row in zip(chosen, scores, strict=True):
            results[i] = row.tolist()
        if on_batch is not None:
            on_batch(start + len(chosen))
    return results
