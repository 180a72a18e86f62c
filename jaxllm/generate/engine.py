"""Prompts in, completions out: batches of similar length, stop strings, text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate.decode import DecodeState, decode, prefill
from jaxllm.generate.sampling import Sampling, row_keys
from jaxllm.models import unstack
from jaxllm.text.batches import bucket, bucket_sizes, pad_left
from jaxllm.text.model import Model

# Steps between two looks at the text, where stop strings make looking necessary.
STOP_CHECK = 16
# Room for stop ids is rounded up to this, so that the usual handful is one shape.
STOP_SLOTS = 8
# Tokens of the prompt that are decoded along with its continuation.
CONTEXT_PIECES = 8


@dataclasses.dataclass(frozen=True)
class Completion:
    """One continuation of one prompt.

    Attributes:
        text: what follows the prompt's text, without special tokens, cut before a stop string.
        token_ids: all tokens generated, the one that ended the text included.
        logprob: nats, summed over `token_ids`, under the model's own distribution (temperature 1, nothing
            cut off), whatever settings chose the tokens.
        finish_reason: `stop` (end token or stop string) or `length`.
    """

    text: str
    token_ids: list[int]
    logprob: float
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class _Row:
    """One prompt to continue once: number of the prompt, number of the sample, prompt ids."""

    prompt: int
    sample: int
    ids: Sequence[int]


def generate(model: Model, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, seed: int = 0,
             batch_size: int = 32, dtype: jnp.dtype = jnp.float32, first: int = 0,
             on_batch: Callable[[int], None] | None = None) -> list[list[Completion]]:
    """Continues every prompt `sampling.n` times.

    A row's samples depend on the seed, on its place among the prompts and on nothing else: neither on its
    neighbours in the batch nor on the batch's size.

    Args:
        model: who continues.
        prompts: token ids, each at least one.
        sampling: settings, shared by all rows.
        seed: of the draws.
        batch_size: rows that run together.
        dtype: of activations and cache.
        first: place of the first of these prompts among all of the job, for the draws.
        on_batch: called with the number of rows finished so far.

    Returns:
        For every prompt its completions, in order.

    Raises:
        UserError: a prompt is empty, or does not leave room for `max_tokens` in the context window; or the model
            gives no finite probabilities.
    """
    check_prompts(prompts, sampling.max_tokens, model.spec.max_positions)
    rows = [_Row(p, s, ids) for p, ids in enumerate(prompts) for s in range(sampling.n)]
    results: list[list[Completion | None]] = [[None] * sampling.n for _ in prompts]
    params, finished = unstack(model.params), 0
    for batch, length in _batches(rows, batch_size, model.spec.max_positions):
        completions = _run(model, params, batch, length, sampling, (seed, first), batch_size, dtype)
        for row, completion in zip(batch, completions, strict=True):
            results[row.prompt][row.sample] = completion
        finished += len(batch)
        if on_batch is not None:
            on_batch(finished)
    return results


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, window: int) -> None:
    """Raises a `UserError` for the first prompt that is empty or too long."""
    for number, ids in enumerate(prompts):
        if not len(ids):
            raise UserError("the prompt is empty, and the model has no begin token to start from",
                            f"prompt {number + 1}", "give it at least one token of text")
        if len(ids) + max_tokens > window:
            raise UserError(f"{len(ids)} prompt tokens and {max_tokens} new ones do not fit the context window "
                            f"of {window}", f"prompt {number + 1}", "shorten the prompt or lower sampling.max_tokens")


def _batches(rows: list[_Row], batch_size: int, window: int) -> Iterator[tuple[list[_Row], int]]:
    """Rows of one length bucket at a time, shortest first."""
    sizes = bucket_sizes(window)
    by_length: dict[int, list[_Row]] = {}
    for row in rows:
        by_length.setdefault(bucket(len(row.ids), sizes), []).append(row)
    for length in sorted(by_length):
        group = by_length[length]
        for start in range(0, len(group), batch_size):
            yield group[start:start + batch_size], length


def _run(model: Model, params, batch: list[_Row], length: int, sampling: SamplingConfig, draws: tuple[int, int],
         batch_size: int, dtype) -> list[Completion]:
    """One batch from prompts to completions."""
    size = bucket(len(batch), bucket_sizes(batch_size, smallest=1))
    slots = bucket(sampling.max_tokens, bucket_sizes(max(sampling.max_tokens, model.spec.max_positions)))
    tokens, segments = pad_left([row.ids for row in batch] + [[]] * (size - len(batch)), length)
    settings = _settings(model, batch, size, sampling, *draws)
    state = prefill(model.spec, params, jnp.asarray(tokens), jnp.asarray(segments), slots, dtype)
    cuts: dict[int, tuple[int, str]] = {}
    for until in _checkpoints(sampling):
        state = decode(model.spec, params, state, settings, jnp.int32(until), dtype)
        if sampling.stop:
            state = _find_stops(model, state, batch, sampling.stop, cuts)
        if bool(state.done.all()):
            break
    return _completions(model, jax.device_get((state.tokens, state.logprobs, state.lengths)), batch, cuts)


def _checkpoints(sampling: SamplingConfig) -> list[int]:
    """Numbers of tokens at which the host looks at the text."""
    if not sampling.stop:
        return [sampling.max_tokens]
    return [*range(STOP_CHECK, sampling.max_tokens, STOP_CHECK), sampling.max_tokens]


def _settings(model: Model, batch: list[_Row], size: int, sampling: SamplingConfig, seed: int,
              first: int) -> Sampling:
    stops = list(model.stop_ids)
    slots = -(-max(len(stops), 1) // STOP_SLOTS) * STOP_SLOTS
    padding = size - len(batch)
    keys = row_keys(seed, np.array([first + row.prompt for row in batch] + [0] * padding, np.uint32),
                    np.array([row.sample for row in batch] + [0] * padding, np.uint32))
    full = lambda value, kind: jnp.full(size, value, kind)
    return Sampling(
        full(sampling.temperature, jnp.float32), full(min(sampling.top_k, model.spec.vocab_size), jnp.int32),
        full(sampling.top_p, jnp.float32),
        jnp.broadcast_to(jnp.asarray(stops + [-1] * (slots - len(stops)), jnp.int32), (size, slots)),
        full(sampling.max_tokens, jnp.int32), keys)


def continuation_text(model: Model, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text that `ids` add to a prompt.

    Decoded behind the end of the prompt, because pieces of some tokenizers lose their leading blank where a
    text starts.
    """
    head = list(prompt[-CONTEXT_PIECES:])
    before, whole = model.tokenizer.decode(head), model.tokenizer.decode([*head, *ids])
    return whole[len(before):] if whole.startswith(before) else model.tokenizer.decode(ids)


def _find_stops(model: Model, state: DecodeState, batch: list[_Row], stop: Sequence[str],
                cuts: dict[int, tuple[int, str]]) -> DecodeState:
    """Ends the rows whose text holds a stop string; notes in `cuts` after which token, and the text before it."""
    tokens, lengths, done = map(np.array, jax.device_get((state.tokens, state.lengths, state.done)))
    for row, source in enumerate(batch):
        if row in cuts:
            continue
        ids = tokens[row, :lengths[row]].tolist()
        spelled = lambda count, ids=ids, prompt=source.ids: continuation_text(model, prompt, ids[:count])
        if any(s in spelled(len(ids)) for s in stop):
            # The shortest run of tokens that spells a stop string: what follows was never wanted.
            count = next(n for n in range(1, len(ids) + 1) if any(s in spelled(n) for s in stop))
            text = spelled(count)
            cuts[row] = count, text[:min(text.find(s) for s in stop if s in text)]
            done[row] = True
    return dataclasses.replace(state, done=jnp.asarray(done))


def finite(logprob: float) -> float:
    """`logprob`, unless it is what weights that are not numbers lead to."""
    if not np.isfinite(logprob):
        raise UserError("the model gives log-probabilities that are not finite", "model",
                        "look for NaN or infinity in its weights, or for overflow in a shorter format")
    return logprob


def _completions(model: Model, arrays, batch: list[_Row], cuts: dict[int, tuple[int, str]]) -> list[Completion]:
    tokens, logprobs, lengths = arrays
    completions = []
    for row, source in enumerate(batch):
        count, text = cuts.get(row, (int(lengths[row]), None))
        ids = tokens[row, :count].tolist()
        ended = bool(ids) and ids[-1] in model.stop_ids
        if text is None:
            text = continuation_text(model, source.ids, ids[:-1] if ended else ids)
        total = finite(float(np.sum(logprobs[row, :count], dtype=np.float64)))
        completions.append(Completion(text, ids, total, "stop" if ended or row in cuts else "length"))
    return completions
