"""Continuous batching: which prompts are prefilled, which slots they decode in, and when a slot is free again."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate.completion import Completion, complete, find_stop
from jaxllm.generate.prefixes import prefix_groups
from jaxllm.generate.sampling import Sampling, row_keys
from jaxllm.generate.slots import (
    DecodeState,
    PackedPrompts,
    decode,
    extended_prefix,
    init_state,
    insert,
    prefill_pack,
    resize,
)
from jaxllm.model import Model, check_ids
from jaxllm.models import Adapter, ModelSpec, Prefix
from jaxllm.models.mesh import batch_sharding, replicated
from jaxllm.text.batches import bucket, bucket_sizes

# Decoding steps between two checks for stop strings, and between two collections without stop strings.
STOP_CHECK_STEPS, COLLECT_STEPS = 16, 64
# Stop ids and biased tokens are padded to a multiple of this, so that the usual handful is one shape.
ID_MULTIPLE = 8
# Tokens in a pack, if no prompt is longer; beyond, attention within a pack costs more than it saves.
PACK_TOKENS = {"cpu": 512}
PACK_TOKENS_ELSEWHERE = 2048
SMALLEST_PACK_TOKENS = 64
# Slots hold at least this many tokens and, as sequences grow, twice as many and so on: few programs.
SMALLEST_SLOT_TOKENS = 256
# New tokens that can be recorded per slot: this many, or twice as many and so on.
SMALLEST_NEW_TOKENS = 64
# Numbers of slots grow by this factor, so that calls with different numbers of prompts share programs.
SLOT_COUNT_FACTOR = 4
# Prompts per slot that are sorted by length together: enough to end together, few enough to repeat when stopped.
SORTED_PROMPTS_PER_SLOT = 16


@dataclasses.dataclass
class GenerationStats:
    """Counts of the work done by generation and scoring.

    Attributes:
        prompt_tokens: tokens that went through the network other than generated ones: of prompts, shared prefixes and
            scored continuations. A shared prefix counts as often as it is computed, once while memory suffices.
        padding: padding tokens of packs.
        new_tokens: tokens generated.
        slot_steps: slots times decoding steps.
        steps: decoding steps.
    """

    prompt_tokens: int = 0
    padding: int = 0
    new_tokens: int = 0
    slot_steps: int = 0
    steps: int = 0

    @property
    def occupancy(self) -> float:
        """Share of the slot steps that produced a token."""
        return self.new_tokens / max(self.slot_steps, 1)


@dataclasses.dataclass(frozen=True)
class _Request:
    """Samples of one prompt, which is prefilled once for all of them; and the prompt's prefix group."""

    prompt: int
    samples: tuple[int, ...]
    group: int


@dataclasses.dataclass
class _Sequence:
    """A sample of a prompt in a slot, and its number of new tokens when they were last collected."""

    prompt: int
    sample: int
    collected: int = 0


def check_prompt(ids: Sequence[int] | np.ndarray, max_tokens: int, spec: ModelSpec, where: str) -> None:
    """Raises a `UserError` for a prompt that is empty, too long, or would cross the original window of long rope.

    There rotary positions change: keys in the cache would have the short factors, and a forward pass of the whole text
    has the long ones. Torch reads the text a second time.
    """
    if not len(ids):
        raise UserError("the prompt is empty, and the model has no begin token to start from", where,
                        "give it at least one token of text")
    if len(ids) + max_tokens > spec.max_positions:
        raise UserError(f"{len(ids)} prompt tokens and {max_tokens} new ones do not fit the context window "
                        f"of {spec.max_positions}", where, "shorten the prompt or lower sampling.max_tokens")
    for border in spec.original_windows:
        if len(ids) <= border < len(ids) + max_tokens - 1:  # the last new token is not read
            raise UserError(f"{len(ids)} prompt tokens fit the original window of {border}, and {max_tokens} new ones "
                            "do not: rotary positions change there (longrope)", where,
                            "shorten the prompt, lower sampling.max_tokens, or begin beyond the original window")


def pack_sizes(longest: int, window: int) -> tuple[int, ...]:
    """Returns the lengths of packed rows, the last of which holds `longest` tokens."""
    usual = PACK_TOKENS.get(jax.default_backend(), PACK_TOKENS_ELSEWHERE)
    return bucket_sizes(max(usual, longest and bucket(longest, bucket_sizes(max(longest, window)))),
                        SMALLEST_PACK_TOKENS)


def growing_sizes(smallest: int, largest: int, factor: int = 2) -> tuple[int, ...]:
    """Returns `smallest`, `factor` times as many and so on, ending with `largest`."""
    sizes = itertools.takewhile(lambda size: size < largest, (smallest * factor**i for i in itertools.count()))
    return (*sizes, largest)


class Scheduler:
    """The host's part of one call of generation: the queue, the slots, and the sequences that finish.

    Args:
        model: with unstacked layers.
        adapter: low-rank adapter with unstacked layers, or None.
        prompts: `[T]` int32 each.
        limits: new tokens per prompt.
        sampling: settings of all prompts.
        seed, row_ids: prompt i draws with keys derived from `(seed, row_ids[i], sample)`.
        logprob_temperature: temperature of the recorded log-probabilities.
        batch_size: slots at most.
        dtype: dtype of activations and KV cache.
        mesh: see `state_shardings`.
        stats: counts the work.
        mixed: `[len(prompts) / 2, N]` bool; prompts 2i and 2i + 1 get the same tokens, token n from the distribution
            after the second of them where `mixed[i, n]` is true, else after the first. None decodes each on its own.
    """

    def __init__(self, model: Model, adapter: Adapter | None, prompts: Sequence[np.ndarray], limits: Sequence[int],
                 sampling: SamplingConfig, *, seed: int, row_ids: np.ndarray, logprob_temperature: float,
                 batch_size: int, dtype: jnp.dtype, mesh: jax.sharding.Mesh | None, stats: GenerationStats,
                 mixed: np.ndarray | None = None):
        self.model, self.adapter, self.prompts, self.sampling = model, adapter, prompts, sampling
        self.dtype, self.mesh, self.stats = dtype, mesh, stats
        self.row_ids, self.logprob_temperature, self.mixed = row_ids, logprob_temperature, mixed
        special = model.tokenizer.special_tokens if sampling.stop else {}
        self.stop_ids = (*model.stop_ids, *[special[text] for text in sampling.stop if text in special])
        window = model.spec.max_positions
        for number, ids in enumerate(prompts, 1):
            check_ids(ids, model.spec, f"prompt {number}")
        self.new = bucket(max(limits), growing_sizes(SMALLEST_NEW_TOKENS, max(*limits, window)))
        self.limits, self.steps = limits, STOP_CHECK_STEPS if sampling.stop else COLLECT_STEPS
        longest = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
        self.lengths = growing_sizes(SMALLEST_SLOT_TOKENS, bucket(longest, bucket_sizes(window, SMALLEST_SLOT_TOKENS)))
        self.whole = None if mesh is None else replicated(mesh)
        self.by_row = None if mesh is None else batch_sharding(mesh)
        with jax.transfer_guard("allow"):  # once a call, outside the loop
            self.base_key = jax.device_put(jax.random.key(seed), self.whole)
        self.row_groups = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        self.least = 1 if mixed is None else 2  # slots that have to decode at the same time
        batch_size = max(batch_size, self.least)
        wanted = min(len(prompts) * sampling.n, batch_size)
        self.count = self._divisible(bucket(wanted, growing_sizes(1, batch_size, SLOT_COUNT_FACTOR)))
        self.groups = prefix_groups(prompts, not model.spec.rope_depends_on_length)
        self.prefixes: dict[int, tuple[Prefix, jax.Array]] = {}
        # Waiting requests per prefix group, those of groups with longer prefixes included.
        self.waiting_in: collections.Counter[int] = collections.Counter()
        longest = max(len(prompts[i]) - group.length for group in self.groups for i in group.members)
        self.packs = pack_sizes(longest, window)

    def run(self, finished: Callable[[int, int, Completion], None]) -> None:
        """Generates everything; calls `finished(prompt, sample, completion)` for every sequence that ends.

        Out of memory, it goes on with half as many slots.
        """
        done: set[tuple[int, int]] = set()

        def note(prompt: int, sample: int, completion: Completion) -> None:
            done.add((prompt, sample))
            finished(prompt, sample, completion)

        while True:
            try:
                return self._run(note, done)
            except jax.errors.JaxRuntimeError as error:
                before, self.count = self.count, self._divisible(max(self.count // 2, self.least))
                if "RESOURCE_EXHAUSTED" not in str(error) or self.count == before:
                    raise
                self.prefixes.clear()
                print(f"jaxllm: out of memory with {before} sequences at a time; going on with {self.count}",
                      file=sys.stderr)

    def _divisible(self, count: int) -> int:
        """Rounds a number of slots up to a multiple of the groups of devices that split the rows."""
        return max(-(-count // self.row_groups), 1) * self.row_groups

    def _run(self, finished: Callable[[int, int, Completion], None], done: set[tuple[int, int]]) -> None:
        waves = self._waves(self._requests(done))
        self.waiting_in = collections.Counter(
            number for wave in waves for request in wave for number in self._chain(request.group))
        state = init_state(self.model.spec, self.count, self.lengths[0], self.new, self.dtype, self.mesh)
        for wave in waves:
            state = self._run_wave(state, wave, finished)

    def _run_wave(self, state: DecodeState, requests: list[_Request],
                  finished: Callable[[int, int, Completion], None]) -> DecodeState:
        """Generates what the requests want; each begins as soon as it has slots."""
        spec, waiting, active = self.model.spec, collections.deque(requests), dict[int, _Sequence]()
        settings = None
        while waiting or active:
            while waiting and len(waiting[0].samples) <= self.count - len(active):
                state, settings = self._refill(state, waiting, active), None
            settings = self._settings(active) if settings is None else settings
            # Several prompts at a time are prefilled at less cost than one; none waits for more slots than it needs.
            lacking = len(waiting[0].samples) - (self.count - len(active)) if waiting else self.count
            wake = max(lacking, self.count // 16)
            state = self._fit(state, active)
            limits = jax.device_put((np.int32(self.steps), np.int32(wake)), self.whole)
            state, steps = decode(spec, self.model.params, self.adapter, state, settings, *limits, self.dtype)
            state = self._collect(state, active, finished)
            steps = int(jax.device_get(steps))
            self.stats.steps += steps
            self.stats.slot_steps += steps * self.count
        return state

    def _fit(self, state: DecodeState, active: dict[int, _Sequence]) -> DecodeState:
        """Resizes the slots to the length that their sequences need until the next collection."""
        needed = max(len(self.prompts[row.prompt]) + min(self.limits[row.prompt], row.collected + self.steps)
                     for row in active.values())
        length = bucket(needed, self.lengths)
        return state if length == state.cache.slots else resize(state, length)

    def _requests(self, done: set[tuple[int, int]]) -> list[_Request]:
        """Orders what is left: windows of prompts in order, within each by prefix group and the longest first."""
        group_of = {i: number for number, group in enumerate(self.groups) for i in group.members}
        window, requests = max(SORTED_PROMPTS_PER_SLOT * self.count // self.sampling.n, 1), []
        for start in range(0, len(self.prompts), window):
            part = range(start, min(start + window, len(self.prompts)))
            for i in sorted(part, key=lambda i: (group_of[i], -self.limits[i], -len(self.prompts[i]))):
                samples = [s for s in range(self.sampling.n) if (i, s) not in done]
                requests += [_Request(i, tuple(samples[at:at + self.count]), group_of[i])
                             for at in range(0, len(samples), self.count)]
        return requests

    def _waves(self, requests: list[_Request]) -> list[list[_Request]]:
        """Splits the requests where the next may only begin when all before are done: pairs begin together."""
        if self.mixed is None:
            return [requests]
        waves = collections.defaultdict[int, list[_Request]](list)
        for request in requests:
            waves[request.prompt // 2 // (self.count // 2)].append(request)
        return [*waves.values()]

    def _refill(self, state: DecodeState, waiting: collections.deque[_Request],
                active: dict[int, _Sequence]) -> DecodeState:
        """Prefills the first waiting prompt, with later ones of its prefix group that fit the pack, into free slots."""
        number = waiting[0].group
        shared_length = self.groups[number].length
        free = [slot for slot in range(self.count) if slot not in active]
        chosen, parts, slots, starts, used, passed = [], [], [], [], 0, 0
        for request in waiting:
            own = self.prompts[request.prompt][shared_length:]
            if request.group != number or used and used + len(own) > self.packs[-1] or (
                    len(request.samples) > len(free) - len(slots)):
                passed += 1
                if passed > self.count // 4:
                    break  # prompts that are passed over must not wait for long
                continue
            chosen.append(request)
            parts.append(own)
            for sample in request.samples:
                active[free[len(slots)]] = _Sequence(request.prompt, sample)
                slots.append(free[len(slots)])
                starts.append((used, len(own)))
            used += len(own)
        for request in chosen:
            waiting.remove(request)
        state = self._fit(state, active)
        shared, shared_tokens = self._prefix(number)
        self._release(number, len(chosen))
        pack = jax.device_put(self._pack(parts, slots, starts, shared_length), self.whole)
        next_logits, layers = prefill_pack(self.model.spec, self.model.params, self.adapter, pack, shared, self.dtype)
        return insert(state, pack, next_logits, layers, shared, shared_tokens)

    def _pack(self, parts: list[np.ndarray], slots: list[int], starts: list[tuple[int, int]],
              offset: int) -> PackedPrompts:
        """Concatenates prompts into a row."""
        used = sum(map(len, parts))
        size = bucket(used, self.packs)
        row = lambda values: np.pad(np.concatenate(values).astype(np.int32), (0, size - used))
        fill = self.count - len(slots)
        self.stats.prompt_tokens += used
        self.stats.padding += size - used
        return PackedPrompts(
            row(parts), row([np.arange(offset, offset + len(part)) for part in parts]),
            row([np.full(len(part), number) for number, part in enumerate(parts, 1)]),
            np.array([start for start, _ in starts] + [0] * fill, np.int32),
            np.array([length for _, length in starts] + [1] * fill, np.int32),
            np.array(slots + [self.count] * fill, np.int32))

    def _chain(self, number: int) -> list[int]:
        """Lists a group and its ancestors in the prefix tree, up to the root."""
        chain = []
        while number >= 0:
            chain.append(number)
            number = self.groups[number].parent
        return chain

    def _prefix(self, number: int) -> tuple[Prefix | None, jax.Array | None]:
        """The prefix of a group, and its tokens padded to the prefix's size; computed from that of the parent."""
        group = self.groups[number]
        if not group.length:
            return None, None
        if number not in self.prefixes:
            before, _ = self._prefix(group.parent)
            start, ids = self.groups[group.parent].length, self.prompts[group.example][:group.length]
            prefix = extended_prefix(self.model.spec, self.model.params, self.adapter, before, start, ids[start:],
                                     self.dtype, self.whole)
            size = prefix.layers[0][0].shape[1]
            padded = np.pad(np.asarray(ids, np.int32), (0, size - len(ids)))
            self.prefixes[number] = prefix, jax.device_put(padded, self.whole)
            self.stats.prompt_tokens += len(ids) - start
        return self.prefixes[number]

    def _release(self, number: int, count: int) -> None:
        """Frees the prefixes that no waiting prompt needs, and the oldest while all have more tokens than the slots can
        hold; one that is freed too early is computed again."""
        chain = self._chain(number)
        for own in chain:
            self.waiting_in[own] -= count
            if not self.waiting_in[own]:
                self.prefixes.pop(own, None)
        oldest = [own for own in self.prefixes if own not in chain]
        while oldest and sum(len(ids) for _, ids in self.prefixes.values()) > self.count * self.lengths[-1]:
            del self.prefixes[oldest.pop(0)]

    def _settings(self, active: dict[int, _Sequence]) -> Sampling:
        """The slots' sampling settings as device arrays; those of empty slots have no effect."""
        sampling, vocabulary = self.sampling, self.model.spec.vocab_size
        rows = [active.get(slot, _Sequence(0, 0)) for slot in range(self.count)]
        full = lambda value, dtype: np.full(self.count, value, dtype)
        padded = lambda values, fill, dtype: np.array(
            [*values, *[fill] * (-len(values) % ID_MULTIPLE or ID_MULTIPLE * (not values))], dtype)
        by_row = jax.device_put({
            "temperature": full(sampling.temperature, np.float32),
            "top_k": full(min(sampling.top_k, vocabulary), np.int32),
            "top_p": full(sampling.top_p, np.float32), "min_p": full(sampling.min_p, np.float32),
            "repetition": full(sampling.repetition_penalty, np.float32),
            "logprob_temperature": full(self.logprob_temperature, np.float32),
            "max_tokens": np.array([self.limits[row.prompt] for row in rows], np.int32),
            "source": self._source(active)}, self.by_row)
        ids = jax.device_put((self.row_ids[[row.prompt for row in rows]],
                              np.array([row.sample for row in rows], np.uint32)), self.by_row)
        shared = jax.device_put({
            "bias_ids": padded(list(sampling.logit_bias), -1, np.int32),
            "bias": padded(list(sampling.logit_bias.values()), 0.0, np.float32),
            "stop_ids": padded(self.stop_ids, -1, np.int32)}, self.whole)
        return Sampling(**by_row, **shared, keys=row_keys(self.base_key, *ids))

    def _source(self, active: dict[int, _Sequence]) -> np.ndarray | None:
        """`[slots, N]` int32, the slot from which each slot takes each of its tokens; None where all take their own."""
        if self.mixed is None:
            return None
        slots = {row.prompt: slot for slot, row in active.items()}
        source = np.repeat(np.arange(self.count, dtype=np.int32)[:, None], self.new, 1)
        for slot, row in active.items():
            first, draws = row.prompt // 2 * 2, self.mixed[row.prompt // 2]
            source[slot, :len(draws)] = np.where(draws, slots[first + 1], slots[first])
        return source

    def _collect(self, state: DecodeState, active: dict[int, _Sequence],
                 finished: Callable[[int, int, Completion], None]) -> DecodeState:
        """Takes finished sequences out of their slots."""
        tokens, logprobs, lengths, done = map(np.array, jax.device_get(
            (state.tokens, state.logprobs, state.lengths, state.done)))
        stopped = False
        for slot, row in list(active.items()):
            # Both of a pair end with the same token: the text is that after the first prompt.
            prompt = self.prompts[row.prompt if self.mixed is None else row.prompt // 2 * 2]
            ids = tokens[slot, :lengths[slot]]
            cut = find_stop(self.model, prompt, ids, self.sampling.stop, row.collected)
            row.collected = len(ids)
            if cut is None and not done[slot]:
                continue
            stopped |= not done[slot]
            done[slot] = True
            del active[slot]
            self.stats.new_tokens += len(ids)
            finished(row.prompt, row.sample, complete(self.model, prompt, ids, logprobs[slot], cut,
                                                      self.stop_ids))
        return dataclasses.replace(state, done=jax.device_put(done, state.done.sharding)) if stopped else state
