"""Flash attention on TPU: jax's splash kernels, with segments, windows and soft caps, on one device or a mesh."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

# The block size is the widest tile that divides the length, from BLOCK to WIDEST.
BLOCK = 128
WIDEST = 512
# Head sizes must be a multiple of this; the TPU compiler accepted 64, 80, 128 and 256.
HEAD_DIMS = 16


def _mesh() -> jax.sharding.AbstractMesh:
    """Returns the mesh set by `jax.set_mesh`, an empty one if none is."""
    return jax.sharding.get_abstract_mesh()


def is_available() -> bool:
    """Whether the kernel can run here: the compiler cannot split it, so several devices need a current mesh."""
    return jax.device_count() == 1 or not _mesh().empty


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, segments: jax.Array, causal: bool,
           window: int | None, softcap: float | None, interpret: bool = False) -> jax.Array:
    """Computes self-attention; rows and heads are split over the devices of the current mesh.

    Args:
        queries: `[B, T, H, head_dim]`, scaled; T a multiple of `BLOCK`.
        keys, values: `[B, T, KV, head_dim]`.
        segments: `[B, T]` int32; padding is an ordinary segment here.
        causal, window, softcap: as in `models.attention.attend`.
        interpret: run the kernel step by step on any device, for tests.

    Returns:
        `[B, T, H, head_dim]`.
    """
    run = partial(_attend, causal=causal, window=window, softcap=softcap, interpret=interpret)
    mesh = _mesh()
    if mesh.empty:
        return run(queries, keys, values, segments)
    rows = tuple(name for name in ("data", "fsdp") if name in mesh.shape) or None
    tensor = mesh.shape.get("tensor", 1)
    heads = "tensor" if tensor > 1 and keys.shape[2] % tensor == 0 else None
    by_head = P(rows, None, heads, None)
    return jax.shard_map(run, in_specs=(by_head, by_head, by_head, P(rows, None)), out_specs=by_head,
                         check_vma=False)(queries, keys, values, segments)


def _attend(queries, keys, values, segments, *, causal, window, softcap, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, heads = queries.shape[1:3]
    pattern: Any
    if causal and window is None:
        pattern = splash.CausalMask((length, length))
    elif window is None:
        pattern = splash.FullMask((length, length))
    else:  # (how far back, how far ahead); the window counts the token itself
        pattern = splash.LocalMask((length, length), (window - 1, 0 if causal else window - 1), 0)
    block = next(size for size in (WIDEST, WIDEST // 2, BLOCK) if length % size == 0)
    sizes: dict[str, Any] = dict.fromkeys(
        ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute",
         "block_q_dq", "block_kv_dq"), block)
    # Each key head serves a group of query heads: one multi-query kernel a group.
    kv_heads = keys.shape[2]
    with jax.ensure_compile_time_eval():  # tables of the mask are constants, also under a trace
        kernel = splash.make_splash_mqa_single_device(
            splash.MultiHeadMask([pattern] * (heads // kv_heads)), block_sizes=splash.BlockSizes(**sizes),
            attn_logits_soft_cap=softcap, interpret=interpret)
    grouped = queries.reshape(*queries.shape[:2], kv_heads, heads // kv_heads, -1).transpose(0, 2, 3, 1, 4)
    by_head = lambda x: x.transpose(0, 2, 1, 3)
    over_groups = jax.vmap(kernel, (0, 0, 0, None))
    mixed = jax.vmap(over_groups)(grouped, by_head(keys), by_head(values), splash.SegmentIds(segments, segments))
    return mixed.transpose(0, 3, 1, 2, 4).reshape(queries.shape)
