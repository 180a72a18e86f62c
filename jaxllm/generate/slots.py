"""The compiled programs of generation: prompts read into slots, and all slots decoded together.

A slot holds one text at a time and takes the next as soon as it is done (continuous batching, Yu et al., OSDI 2022).
Prompts are read packed: several in one row, told apart by segments, so that nothing is computed for padding but at
the end of the row. Slots are as long as the texts in them need, since every step reads all of a slot: between steps
they grow and shrink. What is compiled depends on the number of slots, their length, and the size of a pack; on no
prompt and no setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.generate.sampling import Sampling, choose
from jaxllm.models import Cache, ModelSpec, Prefix, compute_logits, forward, init_cache, prefill
from jaxllm.models.attention import KeysValues
from jaxllm.models.network import Params
from jaxllm.text.batches import bucket, bucket_sizes

SMALLEST_PREFIX = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Texts in the middle of being continued, one a slot.

    Attributes:
        cache: their keys and values.
        scores: `[B, V]` float32 logits of the next token.
        seen: `[B, V]` bool, tokens that stand in the text.
        tokens: `[B, N]` int32, the new tokens; what lies beyond `lengths` means nothing.
        logprobs: `[B, N]` float32, nats, of the new tokens under the model's own distribution: softmax of the logits,
            whatever settings chose the token.
        lengths: `[B]` int32, new tokens so far.
        done: `[B]` bool; an empty slot is done.
    """

    cache: Cache
    scores: jax.Array
    seen: jax.Array
    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    done: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pack:
    """Prompts to read, laid one after another into one row, and the slots that they go to.

    Attributes:
        tokens, positions, segments: `[N]` int32; 0 in `segments` where nothing lies.
        starts, lengths: `[R]` int32, where the prompt of a slot lies in the row. Several slots may take the same one.
        slots: `[R]` int32, where it goes; those without a prompt come last and are B.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    starts: jax.Array
    lengths: jax.Array
    slots: jax.Array


def empty(spec: ModelSpec, count: int, length: int, new: int, dtype: jnp.dtype,
          place: jax.sharding.Sharding | None = None) -> State:
    """`count` slots with room for `length` tokens each, and for up to `new` generated ones in the results; dealt to
    devices as `place` says."""
    vocabulary = spec.vocab_size

    def make() -> State:
        return State(init_cache(spec, count, length, dtype), jnp.zeros((count, vocabulary), jnp.float32),
                     jnp.zeros((count, vocabulary), jnp.bool_), jnp.zeros((count, new), jnp.int32),
                     jnp.zeros((count, new), jnp.float32), jnp.zeros(count, jnp.int32), jnp.ones(count, jnp.bool_))

    return make() if place is None else jax.jit(make, out_shardings=place)()


@partial(jax.jit, static_argnames=("spec", "dtype"))
def read_prefix(spec: ModelSpec, params: Params, tokens: jax.Array, length: jax.Array, dtype: jnp.dtype) -> Prefix:
    """What many prompts begin with, `[P]` int32 tokens of which `length` count."""
    places = jnp.arange(len(tokens), dtype=jnp.int32)
    _, layers = prefill(spec, params, tokens[None], places[None], (places < length).astype(jnp.int32)[None], dtype=dtype)
    return Prefix(jax.tree.map(lambda part: part[0], layers), length)


def padded_prefix(spec: ModelSpec, params: Params, tokens: Sequence[int],
                  dtype: jnp.dtype) -> tuple[Prefix, jax.Array]:
    """`read_prefix` of tokens in a bucket's length, and the tokens in it."""
    size = bucket(len(tokens), bucket_sizes(max(spec.max_positions, len(tokens)), SMALLEST_PREFIX))
    padded = jnp.asarray(np.pad(np.array(tokens, np.int32), (0, size - len(tokens))))
    return read_prefix(spec, params, padded, jnp.int32(len(tokens)), dtype), padded


@partial(jax.jit, static_argnames=("spec", "dtype"))
def read_pack(spec: ModelSpec, params: Params, pack: Pack, prefix: Prefix | None,
              dtype: jnp.dtype) -> tuple[jax.Array, tuple[KeysValues, ...]]:
    """Reads prompts.

    Args:
        spec, params: the network; layers unstacked.
        pack: the prompts, without what they begin with.
        prefix: what all of them begin with; None without.
        dtype: of activations.

    Returns:
        `[R, V]` float32 logits of the token after every prompt, and per layer the keys and values of the pack's
        tokens, `[KV, N, head_dim]`.
    """
    hidden, layers = prefill(spec, params, pack.tokens[None], pack.positions[None], pack.segments[None], prefix=prefix,
                          dtype=dtype)
    last = hidden[0, jnp.clip(pack.starts + pack.lengths - 1, 0, len(pack.tokens) - 1)]
    return compute_logits(spec, params, last), jax.tree.map(lambda part: part[0], layers)


@partial(jax.jit, donate_argnames=("state",))
def admit(state: State, pack: Pack, scores: jax.Array, layers: tuple[KeysValues, ...], prefix: Prefix | None,
          prefix_tokens: jax.Array | None) -> State:
    """Puts prompts that were read into their slots. `state` is consumed.

    Args:
        state: of all slots, each with room for the longest of these prompts.
        pack: the prompts, without what they begin with.
        scores, layers: from `read_pack`.
        prefix: what all of them begin with; None without.
        prefix_tokens: `[P]`, its tokens.
    """
    slots, size = state.cache.slots, len(pack.tokens)
    before = jnp.int32(0) if prefix is None else prefix.length
    first = 0 if prefix is None else len(prefix_tokens)
    # Place i of a slot comes from place i of the prefix, or from where its prompt lies in the pack.
    place = jnp.arange(slots)[None]
    own = jnp.clip(pack.starts[:, None] + place - before, 0, size - 1)
    source = jnp.where(place < before, jnp.minimum(place, max(first - 1, 0)), first + own)
    totals = before + pack.lengths

    available = layers if prefix is None else jax.tree.map(
        lambda beginning, new: jnp.concatenate([beginning.astype(new.dtype), new], 1), prefix.layers, layers)

    def fill(row: jax.Array, buffers: tuple[KeysValues, ...]) -> tuple[KeysValues, ...]:
        place = lambda buffer, new: lax.dynamic_update_slice(buffer, new.astype(buffer.dtype)[None],
                                                             (pack.slots[row], 0, 0, 0))
        own = lambda new: jnp.take(new, source[row], axis=1)
        return tuple((place(ours[0], own(keys).swapaxes(1, 2)), place(ours[1], own(values)))
                     for ours, (keys, values) in zip(buffers, available, strict=True))

    # Row by row, so that it costs what is admitted and not what there is room for.
    filled = lax.fori_loop(0, jnp.sum(pack.slots < len(state.done)), fill, state.cache.layers)
    put = lambda array, value: array.at[pack.slots].set(value, mode="drop")
    everything = pack.tokens if prefix is None else jnp.concatenate([prefix_tokens, pack.tokens])
    present = jnp.where(place < totals[:, None], everything[source], state.seen.shape[1])
    seen = jnp.zeros((len(pack.slots), state.seen.shape[1]), jnp.bool_)
    seen = seen.at[jnp.arange(len(pack.slots))[:, None], present].set(True, mode="drop")
    return State(Cache(filled, put(state.cache.lengths, totals)), put(state.scores, scores), put(state.seen, seen),
                 state.tokens, state.logprobs, put(state.lengths, 0), put(state.done, False))


@partial(jax.jit, static_argnames=("length", "axis"))
def _fitted(buffer: jax.Array, length: int, axis: int) -> jax.Array:
    kept = lax.slice_in_dim(buffer, 0, min(length, buffer.shape[axis]), axis=axis)
    return jnp.pad(kept, [(0, length - kept.shape[axis] if i == axis else 0) for i in range(buffer.ndim)])


def resize(state: State, length: int) -> State:
    """Slots of another length, which must hold what lies in them. `state` is consumed."""
    layers = []
    for keys, values in state.cache.layers:
        layers.append((_fitted(keys, length, 3), _fitted(values, length, 2)))
        jax.block_until_ready(layers[-1])  # layer by layer, so that no more than one is there twice
        keys.delete()
        values.delete()
    return dataclasses.replace(state, cache=Cache(tuple(layers), state.cache.lengths))


@partial(jax.jit, static_argnames=("spec", "dtype"), donate_argnames=("state",))
def decode(spec: ModelSpec, params: Params, state: State, sampling: Sampling, steps: jax.Array, wake: jax.Array,
           dtype: jnp.dtype) -> tuple[State, jax.Array]:
    """Continues all texts for at most `steps` tokens, until `wake` more are done, or all. `state` is consumed.

    Returns:
        The new state, and the number of steps taken.
    """
    rows = jnp.arange(len(state.done))
    enough = jnp.sum(state.done) + wake

    def unfinished(carry: tuple[State, jax.Array]) -> jax.Array:
        state, step = carry
        return (step < steps) & ~jnp.all(state.done) & (jnp.sum(state.done) < enough)

    def step(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, count = carry
        token = choose(state.scores, sampling, state.lengths, state.seen)
        logprob = jnp.take_along_axis(jax.nn.log_softmax(state.scores), token[:, None], -1)[:, 0]
        alive = ~state.done
        place = jnp.where(alive, state.lengths, state.tokens.shape[1])
        put = lambda buffer, value: buffer.at[rows, place].set(value, mode="drop")
        lengths = state.lengths + alive
        stopped = jnp.any(token[:, None] == sampling.stop_ids[None], axis=-1) | (lengths >= sampling.max_tokens)
        # A finished row goes through the network as padding, and nothing of it is kept.
        out = forward(spec, params, token[:, None], segments=alive.astype(jnp.int32)[:, None], cache=state.cache,
                      dtype=dtype)
        seen = lax.cond(jnp.any(sampling.repetition != 1.0), lambda: state.seen.at[rows, token].set(True),
                        lambda: state.seen)
        return State(out.cache, compute_logits(spec, params, out.hidden[:, -1]), seen, put(state.tokens, token),
                     put(state.logprobs, logprob), lengths, state.done | stopped), count + 1

    return lax.while_loop(unfinished, step, (state, jnp.zeros((), jnp.int32)))
