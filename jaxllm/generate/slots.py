"""The compiled programs of generation: prefill of packed prompts, insertion into slots, decoding of all slots at once.

A slot holds one sequence at a time and takes the next as soon as it is done (continuous batching, Yu et al., OSDI
2022). Prompts are prefilled packed: several in one row, separated by segment ids, so that the only padding is at the
end of the row. Every decoding step reads the whole KV cache of a slot, so slots grow and shrink with the sequences in
them. The programs depend on the number of slots, their length and the size of a pack, and on no prompt or setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.generate.sampling import Sampling, sample_tokens
from jaxllm.models import Adapter, Cache, ModelSpec, Params, Prefix, compute_logits, forward, init_cache, prefill
from jaxllm.models.attention import KeysValues
from jaxllm.models.mesh import batch_sharding, cache_sharding
from jaxllm.text.batches import bucket, bucket_sizes

SMALLEST_PREFIX = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Sequences in the middle of decoding, one a slot.

    Attributes:
        cache: their KV cache.
        next_logits: `[B, V]` float32 logits of the next token.
        seen: `[B, V]` bool, tokens that occur in the sequence (repetition penalty).
        tokens: `[B, N]` int32, the new tokens; entries from `lengths` on are undefined.
        logprobs: `[B, N]` float32 log-probabilities of the new tokens under softmax(logits / `logprob_temperature`),
            before truncation, bias and penalty.
        lengths: `[B]` int32, number of new tokens.
        done: `[B]` bool; an empty slot is done.
    """

    cache: Cache
    next_logits: jax.Array
    seen: jax.Array
    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    done: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedPrompts:
    """Prompts concatenated into one row, and the slots they are inserted into.

    Attributes:
        tokens, positions, segments: `[N]` int32; segment 0 is padding.
        starts, lengths: `[R]` int32, offset and length in the row of the prompt of each slot. Several slots may share
            a prompt.
        slots: `[R]` int32, slot index; unused entries come last and are B.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    starts: jax.Array
    lengths: jax.Array
    slots: jax.Array


def state_shardings(spec: ModelSpec, mesh: jax.sharding.Mesh) -> DecodeState:
    """Shardings of a `DecodeState`: slots over `data` and `fsdp`, KV heads over `tensor` where they divide."""
    return DecodeState(cache_sharding(spec, mesh), *[batch_sharding(mesh)] * 6)


def init_state(spec: ModelSpec, count: int, length: int, new: int, dtype: jnp.dtype,
               mesh: jax.sharding.Mesh | None = None) -> DecodeState:
    """Makes `count` empty slots.

    Args:
        spec: the network.
        count: number of slots, B; a multiple of `data * fsdp` of the mesh.
        length: tokens a slot can hold, prompt included.
        new: generated tokens that can be recorded, N.
        dtype: dtype of the KV cache.
        mesh: where the slots go, see `state_shardings`; the default device if None.
    """
    return _state_maker(spec, count, length, new, jnp.dtype(dtype), mesh)()


@lru_cache(maxsize=64)
def _state_maker(spec: ModelSpec, count: int, length: int, new: int, dtype: jnp.dtype,
                 mesh: jax.sharding.Mesh | None) -> Callable[[], DecodeState]:
    vocabulary = spec.vocab_size

    def make() -> DecodeState:
        return DecodeState(
            init_cache(spec, count, length, dtype), jnp.zeros((count, vocabulary), jnp.float32),
            jnp.zeros((count, vocabulary), jnp.bool_), jnp.zeros((count, new), jnp.int32),
            jnp.zeros((count, new), jnp.float32), jnp.zeros(count, jnp.int32), jnp.ones(count, jnp.bool_))

    return jax.jit(make, out_shardings=None if mesh is None else state_shardings(spec, mesh))


@partial(jax.jit, static_argnames=("spec", "dtype"))
def prefill_prefix(spec: ModelSpec, params: Params, adapter: Adapter | None, tokens: jax.Array, length: jax.Array,
                   dtype: jnp.dtype) -> Prefix:
    """Computes the keys and values of a shared prefix: `[P]` int32 tokens, of which the first `length` are real."""
    positions = jnp.arange(len(tokens), dtype=jnp.int32)
    _, layers = prefill(spec, params, tokens[None], positions[None], (positions < length).astype(jnp.int32)[None],
                        adapter=adapter, dtype=dtype)
    return Prefix(jax.tree.map(lambda part: part[0], layers), length)


def extended_prefix(spec: ModelSpec, params: Params, adapter: Adapter | None, prefix: Prefix | None, length: int,
                    tokens: np.ndarray, dtype: jnp.dtype, sharding: jax.sharding.Sharding | None = None) -> Prefix:
    """Appends tokens, padded to a bucket length, to a prefix of `length` tokens, or makes the first prefix."""
    padded = bucket(len(tokens), bucket_sizes(max(spec.max_positions, len(tokens)), SMALLEST_PREFIX))
    ids, count = jax.device_put((np.pad(tokens, (0, padded - len(tokens))), np.int32(len(tokens))), sharding)
    if prefix is None:
        return prefill_prefix(spec, params, adapter, ids, count, dtype)
    size = bucket(length + padded, bucket_sizes(max(spec.max_positions, length + padded), SMALLEST_PREFIX))
    size = max(size, prefix.layers[0][0].shape[1])
    return extend_prefix(spec, params, adapter, prefix, ids, count, size, dtype)


@partial(jax.jit, static_argnames=("spec", "size", "dtype"))
def extend_prefix(spec: ModelSpec, params: Params, adapter: Adapter | None, prefix: Prefix, tokens: jax.Array,
                  count: jax.Array, size: int, dtype: jnp.dtype) -> Prefix:
    """Computes the keys and values of the tokens after a prefix, and appends them to it.

    Args:
        spec, params, adapter: the network.
        prefix: the prefix, `[KV, P, head_dim]` per layer.
        tokens: `[T]` int32, of which the first `count` are real.
        count: scalar int32.
        size: tokens that the result can hold; at least the prefix's length + T.
        dtype: dtype of activations.
    """
    chex.assert_rank([tokens, count], [1, 0])
    chex.assert_type([tokens, count], jnp.int32)
    index = jnp.arange(len(tokens), dtype=jnp.int32)
    # Padding gets a position that exists: out of range, its keys could be NaN, which no mask removes.
    positions = jnp.minimum(prefix.length + index, spec.max_positions - 1)
    _, layers = prefill(spec, params, tokens[None], positions[None], (index < count).astype(jnp.int32)[None],
                        prefix=prefix, adapter=adapter, dtype=dtype)

    def append(first: jax.Array, rest: jax.Array) -> jax.Array:
        buffer = jnp.zeros((first.shape[0], size, first.shape[2]), first.dtype).at[:, :first.shape[1]].set(first)
        return lax.dynamic_update_slice(buffer, rest[0].astype(first.dtype), (0, prefix.length, 0))

    return Prefix(jax.tree.map(append, prefix.layers, layers), prefix.length + count)


@partial(jax.jit, static_argnames=("spec", "dtype"))
def prefill_pack(spec: ModelSpec, params: Params, adapter: Adapter | None, pack: PackedPrompts, prefix: Prefix | None,
                 dtype: jnp.dtype) -> tuple[jax.Array, tuple[KeysValues, ...]]:
    """Runs packed prompts through the network.

    Args:
        spec, params: the network; layers unstacked.
        adapter: low-rank adapter applied next to the base weights; layers unstacked.
        pack: the prompts, without their shared prefix.
        prefix: shared prefix of all of them, or None.
        dtype: dtype of activations.

    Returns:
        `[R, V]` float32 logits of the token after every prompt, and per layer the keys and values of the pack's
        tokens, `[KV, N, head_dim]`.
    """
    chex.assert_rank([pack.tokens, pack.positions, pack.segments, pack.starts, pack.slots], 1)
    hidden, layers = prefill(spec, params, pack.tokens[None], pack.positions[None], pack.segments[None], prefix=prefix,
                             adapter=adapter, dtype=dtype)
    last = hidden[0, jnp.clip(pack.starts + pack.lengths - 1, 0, len(pack.tokens) - 1)]
    return compute_logits(spec, params, last), jax.tree.map(lambda part: part[0], layers)


@jax.jit  # traced once for all layers
def _insert_row(buffers: KeysValues, available: KeysValues, slot: jax.Array, index: jax.Array) -> KeysValues:
    """Writes the positions `index` `[S]` of `available`, `[KV, N, head_dim]`, to one slot of a layer's cache."""
    keys, values = (jnp.take(new, index, axis=1) for new in available)
    write = lambda buffer, new: lax.dynamic_update_slice(buffer, new.astype(buffer.dtype)[None], (slot, 0, 0, 0))
    return write(buffers[0], keys.swapaxes(1, 2)), write(buffers[1], values)


@partial(jax.jit, donate_argnames=("state",))
def insert(state: DecodeState, pack: PackedPrompts, next_logits: jax.Array, layers: tuple[KeysValues, ...],
           prefix: Prefix | None, prefix_tokens: jax.Array | None) -> DecodeState:
    """Inserts prefilled prompts into their slots. `state` is donated.

    Args:
        state: state of all slots, each long enough for the longest of these prompts.
        pack: the prompts, without their shared prefix.
        next_logits, layers: from `prefill_pack`.
        prefix: shared prefix of all of them, or None.
        prefix_tokens: `[P]`, its tokens.
    """
    chex.assert_rank([state.next_logits, next_logits], 2)
    chex.assert_type([state.next_logits, next_logits], jnp.float32)
    length, size = state.cache.slots, len(pack.tokens)
    shared = jnp.int32(0) if prefix is None else prefix.length
    first = 0 if prefix_tokens is None else len(prefix_tokens)
    # Position i of a slot comes from position i of the prefix, or from its prompt's range in the pack.
    position = jnp.arange(length)[None]
    own = jnp.clip(pack.starts[:, None] + position - shared, 0, size - 1)
    source = jnp.where(position < shared, jnp.minimum(position, max(first - 1, 0)), first + own)
    totals = shared + pack.lengths

    available = layers if prefix is None else jax.tree.map(
        lambda prefixed, new: jnp.concatenate([prefixed.astype(new.dtype), new], 1), prefix.layers, layers)

    def fill(row: jax.Array, buffers: tuple[KeysValues, ...]) -> tuple[KeysValues, ...]:
        slot, index = pack.slots[row], source[row]
        return tuple(_insert_row(*layer, slot, index) for layer in zip(buffers, available, strict=True))

    # Row by row, so that the cost is that of the inserted prompts and not that of all slots.
    filled = lax.fori_loop(0, jnp.sum(pack.slots < len(state.done)), fill, state.cache.layers)
    put = lambda array, value: array.at[pack.slots].set(value, mode="drop")
    everything = pack.tokens if prefix is None else jnp.concatenate([prefix_tokens, pack.tokens])
    present = jnp.where(position < totals[:, None], everything[source], state.seen.shape[1])
    seen = jnp.zeros((len(pack.slots), state.seen.shape[1]), jnp.bool_)
    seen = seen.at[jnp.arange(len(pack.slots))[:, None], present].set(True, mode="drop")
    return DecodeState(Cache(filled, put(state.cache.lengths, totals)), put(state.next_logits, next_logits),
                       put(state.seen, seen), state.tokens, state.logprobs, put(state.lengths, 0),
                       put(state.done, False))


@partial(jax.jit, static_argnames=("length", "axis"))
def _resized(buffer: jax.Array, length: int, axis: int) -> jax.Array:
    cut = lax.slice_in_dim(buffer, 0, min(length, buffer.shape[axis]), axis=axis)
    return jnp.pad(cut, [(0, length - cut.shape[axis] if i == axis else 0) for i in range(buffer.ndim)])


def resize(state: DecodeState, length: int) -> DecodeState:
    """Changes the length of all slots, which must still hold their sequences. `state` is donated."""
    layers = []
    for keys, values in state.cache.layers:
        layers.append((_resized(keys, length, 3), _resized(values, length, 2)))
        jax.block_until_ready(layers[-1])  # layer by layer, so that only one exists twice
        keys.delete()
        values.delete()
    return dataclasses.replace(state, cache=Cache(tuple(layers), state.cache.lengths))


@partial(jax.jit, static_argnames=("spec", "dtype"), donate_argnames=("state",))
def decode(spec: ModelSpec, params: Params, adapter: Adapter | None, state: DecodeState, sampling: Sampling,
           steps: jax.Array, wake: jax.Array, dtype: jnp.dtype) -> tuple[DecodeState, jax.Array]:
    """Decodes all slots for at most `steps` tokens, or until `wake` more slots, or all, are done. `state` is donated.

    Args:
        spec, params: the network; layers unstacked.
        adapter: low-rank adapter applied next to the base weights; layers unstacked.
        state: state of all slots.
        sampling: settings of every slot.
        steps, wake: int32 scalars.
        dtype: dtype of activations.

    Returns:
        The new state, and the number of steps taken.
    """
    chex.assert_rank(state.next_logits, 2)
    chex.assert_type([state.next_logits, state.logprobs], jnp.float32)
    rows = jnp.arange(len(state.done))
    enough = jnp.sum(state.done) + wake

    def unfinished(carry: tuple[DecodeState, jax.Array]) -> jax.Array:
        state, step = carry
        return (step < steps) & ~jnp.all(state.done) & (jnp.sum(state.done) < enough)

    def step(carry: tuple[DecodeState, jax.Array]) -> tuple[DecodeState, jax.Array]:
        state, count = carry
        token = sample_tokens(state.next_logits, sampling, state.lengths, state.seen)
        scaled = state.next_logits / sampling.logprob_temperature[:, None]
        logprob = jnp.take_along_axis(jax.nn.log_softmax(scaled), token[:, None], -1)[:, 0]
        active = ~state.done
        column = jnp.where(active, state.lengths, state.tokens.shape[1])
        put = lambda buffer, value: buffer.at[rows, column].set(value, mode="drop")
        lengths = state.lengths + active
        stopped = jnp.any(token[:, None] == sampling.stop_ids[None], axis=-1) | (lengths >= sampling.max_tokens)
        # A finished row goes through the network as padding; nothing of it is written.
        out = forward(spec, params, token[:, None], segments=active.astype(jnp.int32)[:, None], cache=state.cache,
                      adapter=adapter, dtype=dtype)
        seen = lax.cond(jnp.any(sampling.repetition != 1.0), lambda: state.seen.at[rows, token].set(True),
                        lambda: state.seen)
        assert out.cache is not None
        return DecodeState(out.cache, compute_logits(spec, params, out.hidden[:, -1]), seen, put(state.tokens, token),
                           put(state.logprobs, logprob), lengths, state.done | stopped), count + 1

    return lax.while_loop(unfinished, step, (state, jnp.zeros((), jnp.int32)))
