"""Scores that a classifier or a reward model gives to texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.model import Model, check_ids
from jaxllm.models import Adapter, ModelSpec, Params, forward, text_scores
from jaxllm.models.mesh import batch_sharding
from jaxllm.text.batches import bucket, bucket_sizes, pad_right


@partial(jax.jit, static_argnames=("spec", "dtype"))
def batch_scores(spec: ModelSpec, params: Params, adapter: Adapter | None, tokens: jax.Array, segments: jax.Array,
                 types: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Computes the scores of a batch of texts, `[B, labels]` float32.

    Args:
        spec, params: the network, with a scoring head.
        adapter: low-rank adapter applied next to the base weights, or None.
        tokens, segments, types: `[B, T]` int32, one text a row, padded on the right.
        dtype: dtype of activations.
    """
    chex.assert_rank([tokens, segments, types], 2)
    lengths = (segments > 0).sum(-1, dtype=jnp.int32)  # flash attention kernels need no mask with these
    hidden = forward(spec, params, tokens, lengths=lengths, types=types, adapter=adapter, dtype=dtype).hidden
    return text_scores(spec, params, hidden, segments, tokens)


def classify_texts(model: Model, adapter: Adapter | None, texts: Sequence[tuple[Any, Any]], *,
                   batch_size: int, dtype: jnp.dtype, mesh: jax.sharding.Mesh | None,
                   on_batch: Callable[[int], None] | None) -> list[list[float]]:
    """Runs the scoring head on every text; see `Generator.classify`."""
    window = model.spec.max_positions
    for number, (ids, _) in enumerate(texts, 1):
        if not 0 < len(ids) <= window:
            raise UserError(f"{len(ids)} tokens; a text has 1 to {window}", f"row {number}", "shorten the text")
        check_ids(ids, model.spec, f"row {number}")
    by_row, groups = (None, 1) if mesh is None else (batch_sharding(mesh), mesh.shape["data"] * mesh.shape["fsdp"])
    lengths, counts = bucket_sizes(window), bucket_sizes(batch_size, smallest=1)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
    results: list[list[float]] = [[]] * len(texts)
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        count = -(-bucket(len(chosen), counts) // groups) * groups
        padding: list[Any] = [[]] * (count - len(chosen))
        length = bucket(max(len(texts[i][0]) for i in chosen), lengths)
        tokens, segments = pad_right([texts[i][0] for i in chosen] + padding, length)
        types, _ = pad_right([texts[i][1] for i in chosen] + padding, length)
        inputs = jax.device_put((tokens, segments, types), by_row)
        scores = jax.device_get(batch_scores(model.spec, model.params, adapter, *inputs, dtype))[:len(chosen)]
        if not np.isfinite(scores).all():
            raise UserError("the model gives scores that are not finite", "model",
                            "look for NaN or infinity in its weights, or for overflow in a shorter format")
        for i, row in zip(chosen, scores, strict=True):
            results[i] = row.tolist()
        if on_batch is not None:
            on_batch(start + len(chosen))
    return results
