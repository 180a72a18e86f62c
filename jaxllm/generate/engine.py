"""Prompts in, completions out: slots refilled as texts end, beginnings read once, stop strings, text."""

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
from jaxllm.generate.prefixes import families
from jaxllm.generate.sampling import Sampling, row_keys
from jaxllm.generate.slots import Pack, State, admit, decode, empty, padded_prefix, read_pack, resize
from jaxllm.model import Model
from jaxllm.models import Prefix, unstack_layers
from jaxllm.models.mesh import batch_sharding
from jaxllm.text.batches import bucket, bucket_sizes

# Steps between two looks at the text, where stop strings make looking necessary, and elsewhere.
STOP_CHECK, PROGRESS = 16, 64
# Room for stop ids and biased tokens is rounded up to this, so that the usual handful is one shape.
ROOM = 8
# Tokens that are read together, if no prompt is longer; attention within a pack costs more than it saves beyond.
PACK = {"cpu": 512}
PACK_ELSEWHERE = 2048
SMALLEST_PACK = 64
# Slots have room for so many tokens at least and, as texts need more, for twice as many and so on: few programs.
SMALLEST_SLOT = 256
# Prompts that are put in order of length at a time: enough to end together, few enough to lose when stopped.
AHEAD = 16


@dataclasses.dataclass
class Work:
    """What a call of `generate` took, beside what it gave.

    Attributes:
        prompt_tokens: tokens of prompts and beginnings that went through the network, each counted once a time.
        padding: places of packs that held no token.
        new_tokens: tokens generated.
        row_steps: slots times steps: what decoding had room for.
        steps: decoding steps.
    """

    prompt_tokens: int = 0
    padding: int = 0
    new_tokens: int = 0
    row_steps: int = 0
    steps: int = 0

    @property
    def occupancy(self) -> float:
        """Share of the room in decoding that gave tokens."""
        return self.new_tokens / max(self.row_steps, 1)


@dataclasses.dataclass(frozen=True)
class _Request:
    """Samples of one prompt, which are read once and take a slot each; and the family that the prompt belongs to."""

    prompt: int
    samples: tuple[int, ...]
    family: int


@dataclasses.dataclass
class _Text:
    """What lies in a slot: a sample of a prompt, and how many new tokens it had at the last look."""

    prompt: int
    sample: int
    made: int = 0


def generate(model: Model, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, seed: int = 0,
             batch_size: int = 32, dtype: jnp.dtype = jnp.float32,
             places: Sequence[int] | None = None, max_tokens: Sequence[int] | None = None,
             mesh: jax.sharding.Mesh | None = None, work: Work | None = None,
             on_prompt: Callable[[int, list[Completion]], None] | None = None) -> list[list[Completion]]:
    """Continues every prompt `sampling.n` times.

    A prompt's samples depend on the seed, on its number in `places` and on nothing else: neither on its neighbors
    in the batch nor on the batch's size. That is so in float32; in bfloat16 sums in another order round otherwise, and
    now and then another token is the likeliest or drawn.

    Args:
        model: who continues.
        prompts: token ids, each at least one.
        sampling: settings, shared by all rows.
        seed: of the draws, where `sampling` has none.
        batch_size: rows that run together. Where memory does not suffice, it is halved until it does.
        dtype: of activations and cache.
        places: numbers that tell the prompts' draws apart; their places here by default.
        max_tokens: of every prompt; `sampling.max_tokens` for all by default.
        mesh: deals the rows to its groups of devices; the weights are where they are.
        work: counts what is done.
        on_prompt: called with the number of a prompt and its completions as soon as they are there.

    Returns:
        For every prompt its completions, in order.

    Raises:
        UserError: a prompt is empty, or does not leave room for `max_tokens` in the context window; or the model
            gives no finite probabilities; or a bias is for a token that the model does not have.
    """
    limits = [sampling.max_tokens] * len(prompts) if max_tokens is None else list(max_tokens)
    for number, (ids, limit) in enumerate(zip(prompts, limits, strict=True)):
        check_prompt(ids, limit, model.spec.max_positions, f"prompt {number + 1}")
    if unknown := [token for token in sampling.logit_bias if token >= model.spec.vocab_size]:
        raise UserError(f"the model has {model.spec.vocab_size} tokens, and none with the id {unknown[0]}",
                        "sampling.logit_bias")
    seed = seed if sampling.seed is None else sampling.seed
    results: list[list[Completion | None]] = [[None] * sampling.n for _ in prompts]
    left = [sampling.n] * len(prompts)

    def finished(prompt: int, sample: int, completion: Completion) -> None:
        results[prompt][sample] = completion
        left[prompt] -= 1
        if not left[prompt] and on_prompt is not None:
            on_prompt(prompt, results[prompt])

    if prompts:
        draws = np.array(range(len(prompts)) if places is None else places, np.uint32)
        Scheduler(model, prompts, limits, sampling, (seed, draws), batch_size, dtype, mesh,
              work or Work()).run(finished)
    return results


def check_prompt(ids: Sequence[int], max_tokens: int, window: int, where: str) -> None:
    """Raises a `UserError` for a prompt that is empty or too long."""
    if not len(ids):
        raise UserError("the prompt is empty, and the model has no begin token to start from", where,
                        "give it at least one token of text")
    if len(ids) + max_tokens > window:
        raise UserError(f"{len(ids)} prompt tokens and {max_tokens} new ones do not fit the context window "
                        f"of {window}", where, "shorten the prompt or lower sampling.max_tokens")


def pack_sizes(longest: int, window: int) -> tuple[int, ...]:
    """Sizes of the rows that texts are packed into, the last of which holds `longest` tokens."""
    usual = PACK.get(jax.default_backend(), PACK_ELSEWHERE)
    return bucket_sizes(max(usual, longest and bucket(longest, bucket_sizes(max(longest, window)))), SMALLEST_PACK)


def slot_lengths(longest: int) -> tuple[int, ...]:
    """Lengths that slots may have, for texts of up to `longest` tokens."""
    sizes = itertools.takewhile(lambda size: size < longest, (SMALLEST_SLOT << i for i in itertools.count()))
    return (*sizes, longest)


class Scheduler:
    """The host's side of generation: what waits, what lies in which slot, what is done with a text that ended."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: SamplingConfig,
                 draws: tuple[int, np.ndarray], batch_size: int, dtype: jnp.dtype,
                 mesh: jax.sharding.Mesh | None, work: Work):
        self.model, self.prompts, self.sampling, self.dtype, self.work = model, prompts, sampling, dtype, work
        self.params, self.draws = unstack_layers(model.params), draws
        window = model.spec.max_positions
        self.new = bucket(max(limits), bucket_sizes(max(*limits, window)))
        self.limits, self.steps = limits, STOP_CHECK if sampling.stop else PROGRESS
        longest = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
        self.lengths = slot_lengths(bucket(longest, bucket_sizes(window, SMALLEST_SLOT)))
        self.place = None if mesh is None else batch_sharding(mesh)
        self.groups = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        self.count = self._whole(bucket(min(len(prompts) * sampling.n, batch_size), bucket_sizes(batch_size, 1)))
        self.families, self.prefixes = families(prompts, not model.spec.turns_by_length), {}
        self.unread: collections.Counter[int] = collections.Counter()  # requests that wait, by family
        longest = max(len(prompts[i]) - len(family.prefix) for family in self.families for i in family.members)
        self.packs = pack_sizes(longest, window)

    def run(self, finished: Callable[[int, int, Completion], None]) -> None:
        """Continues everything; calls `finished` for every text."""
        done: set[tuple[int, int]] = set()

        def note(prompt: int, sample: int, completion: Completion) -> None:
            done.add((prompt, sample))
            finished(prompt, sample, completion)

        while True:
            try:
                return self._run(note, done)
            except jax.errors.JaxRuntimeError as error:
                before, self.count = self.count, self._whole(self.count // 2)
                if "RESOURCE_EXHAUSTED" not in str(error) or self.count == before:
                    raise
                print(f"jaxllm: memory does not suffice for {before} rows at a time; going on with {self.count}",
                      file=sys.stderr)

    def _whole(self, count: int) -> int:
        """Slots that the groups of devices can share, at least one each."""
        return max(-(-count // self.groups), 1) * self.groups

    def _run(self, finished: Callable[[int, int, Completion], None], done: set[tuple[int, int]]) -> None:
        spec, taken = self.model.spec, {}
        waiting = collections.deque(self._requests(done))
        self.unread = collections.Counter(request.family for request in waiting)
        state = empty(spec, self.count, self.lengths[0], self.new, self.dtype, self.place)
        while waiting or taken:
            while waiting and len(waiting[0].samples) <= self.count - len(taken):
                state = self._admit(state, waiting, taken)
            # A few texts at a time are read at less cost than one; none waits for more than it needs.
            lacking = len(waiting[0].samples) - (self.count - len(taken)) if waiting else self.count
            wake = max(lacking, self.count // 16)
            state = self._fit(state, taken)
            state, made = decode(spec, self.params, state, self._settings(taken), jnp.int32(self.steps),
                                 jnp.int32(wake), self.dtype)
            state = self._collect(state, taken, finished)
            self.work.steps += int(made)
            self.work.row_steps += int(made) * self.count

    def _fit(self, state: State, taken: dict[int, _Text]) -> State:
        """Slots as long as the texts in them need until the next look."""
        room = bucket(max(len(self.prompts[text.prompt]) + min(self.limits[text.prompt], text.made + self.steps)
                          for text in taken.values()), self.lengths)
        return state if room == state.cache.slots else resize(state, room)

    def _requests(self, done: set[tuple[int, int]]) -> list[_Request]:
        """What is to be done, a window of prompts after the other: families together, the longest first."""
        family_of = {i: number for number, family in enumerate(self.families) for i in family.members}
        window, found = max(AHEAD * self.count // self.sampling.n, 1), []
        for start in range(0, len(self.prompts), window):
            group = range(start, min(start + window, len(self.prompts)))
            for i in sorted(group, key=lambda i: (family_of[i], -self.limits[i], -len(self.prompts[i]))):
                samples = [s for s in range(self.sampling.n) if (i, s) not in done]
                found += [_Request(i, tuple(samples[at:at + self.count]), family_of[i])
                          for at in range(0, len(samples), self.count)]
        return found

    def _admit(self, state: State, waiting: collections.deque[_Request], taken: dict[int, _Text]) -> State:
        """Reads the next prompts into free slots, as many of one family as fit a pack: the first, and those behind it
        that fit beside it."""
        number = waiting[0].family
        prefix = self.families[number].prefix
        free = [slot for slot in range(self.count) if slot not in taken]
        chosen, parts, slots, starts, passed = [], [], [], [], 0
        for request in waiting:
            own, start = self.prompts[request.prompt][len(prefix):], sum(map(len, parts))
            if request.family != number or start and start + len(own) > self.packs[-1] or (
                    len(request.samples) > len(free) - len(slots)):
                passed += 1
                if passed > self.count // 4:
                    break  # those behind are to keep their places
                continue
            chosen.append(request)
            parts.append(own)
            for sample in request.samples:
                taken[free[len(slots)]] = _Text(request.prompt, sample)
                slots.append(free[len(slots)])
                starts.append((start, len(own)))
        for request in chosen:
            waiting.remove(request)
        self.unread[number] -= len(chosen)
        state = self._fit(state, taken)
        beginning, its_tokens = self._prefix(number)
        pack = self._pack(parts, slots, starts, len(prefix))
        scores, layers = read_pack(self.model.spec, self.params, pack, beginning, self.dtype)
        return admit(state, pack, scores, layers, beginning, its_tokens)

    def _pack(self, parts: list[Sequence[int]], slots: list[int], starts: list[tuple[int, int]], offset: int) -> Pack:
        """Prompts in a row, and the slots that they go to."""
        used = sum(map(len, parts))
        size = bucket(used, self.packs)
        row = lambda values: np.pad(np.concatenate(values).astype(np.int32), (0, size - used))
        fill = self.count - len(slots)
        self.work.prompt_tokens += used
        self.work.padding += size - used
        return Pack(
            row(parts), row([np.arange(offset, offset + len(part)) for part in parts]),
            row([np.full(len(part), number) for number, part in enumerate(parts, 1)]),
            np.array([start for start, _ in starts] + [0] * fill, np.int32),
            np.array([length for _, length in starts] + [1] * fill, np.int32),
            np.array(slots + [self.count] * fill, np.int32))

    def _prefix(self, number: int) -> tuple[Prefix | None, jax.Array | None]:
        """The beginning of a family and its tokens, computed when it is first asked for, kept while it is needed."""
        tokens = self.families[number].prefix
        if not tokens:
            return None, None
        if number not in self.prefixes:
            self.prefixes[number] = padded_prefix(self.model.spec, self.params, tokens, self.dtype)
            self.work.prompt_tokens += len(tokens)
        found = self.prefixes[number]
        if not self.unread[number]:
            del self.prefixes[number]
        return found

    def _settings(self, taken: dict[int, _Text]) -> Sampling:
        """The rows' settings as arrays; those of empty slots mean nothing."""
        sampling, vocabulary = self.sampling, self.model.spec.vocab_size
        texts = [taken.get(slot, _Text(0, 0)) for slot in range(self.count)]
        full = lambda value, kind: np.full(self.count, value, kind)
        room = lambda values, empty, kind: np.array([*values, *[empty] * (-len(values) % ROOM or ROOM * (not values))],
                                                    kind)
        seed, places = self.draws
        keys = row_keys(seed, places[[text.prompt for text in texts]],
                        np.array([text.sample for text in texts], np.uint32))
        return Sampling(
            full(sampling.temperature, np.float32), full(min(sampling.top_k, vocabulary), np.int32),
            full(sampling.top_p, np.float32), full(sampling.min_p, np.float32),
            full(sampling.repetition_penalty, np.float32),
            room(list(sampling.logit_bias), -1, np.int32), room(list(sampling.logit_bias.values()), 0.0, np.float32),
            room(self.model.stop_ids, -1, np.int32),
            np.array([self.limits[text.prompt] for text in texts], np.int32), keys)

    def _collect(self, state: State, taken: dict[int, _Text],
                 finished: Callable[[int, int, Completion], None]) -> State:
        """Takes texts that ended out of their slots."""
        tokens, logprobs, lengths, done = map(np.array, jax.device_get(
            (state.tokens, state.logprobs, state.lengths, state.done)))
        stopped = False
        for slot, text in list(taken.items()):
            ids = tokens[slot, :lengths[slot]].tolist()
            prompt = self.prompts[text.prompt]
            cut = find_stop(self.model, prompt, ids, self.sampling.stop)
            text.made = len(ids)
            if cut is None and not done[slot]:
                continue
            stopped |= not done[slot]
            done[slot] = True
            del taken[slot]
            self.work.new_tokens += len(ids)
            finished(text.prompt, text.sample, complete(self.model, prompt, ids, logprobs[slot], cut))
        return dataclasses.replace(state, done=jax.device_put(done, state.done.sharding)) if stopped else state
