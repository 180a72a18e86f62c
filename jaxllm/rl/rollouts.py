"""Responses of a policy as arrays, and their places in the rows of a training batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.finetune.texts import Batch, RowShape, Text, make_batch
from jaxllm.generate import Completion

# Packed rows hold about three texts, or the longest, and are of a length in this range where texts allow it: short rows
# cannot be filled well, and attention is costly in long ones.
_TEXTS, _SHORTEST, _LONGEST = 3, 128, 1024
# Numbers of rows of a batch grow by this factor from one compiled program to the next.
_COUNT_FACTOR = 1.2


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Responses to prompts, B in all. The end token of a response is part of it.

    Attributes:
        prompts: ids of every prompt.
        ids: int32 `[B, T]`, tokens of the responses, 0 after their end.
        mask: bool `[B, T]`, tokens of the response; made from lengths, since the end token may also be the padding.
        sampler_logprobs: float32 `[B, T]`, log-probabilities at sampling, of softmax(logits / temperature).
        truncated: bool `[B]`, the response reached its limit, and did not end by itself.
        texts: the responses without special tokens, cut before a stop text.
    """

    prompts: list[np.ndarray]
    ids: np.ndarray
    mask: np.ndarray
    sampler_logprobs: np.ndarray
    truncated: np.ndarray
    texts: list[str]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the responses, int32 `[B]`."""
        return self.mask.sum(1).astype(np.int32)

    def take(self, rows: Sequence[int]) -> Rollout:
        """Selects responses."""
        rows = list(rows)
        arrays = {name: getattr(self, name)[rows] for name in ("ids", "mask", "sampler_logprobs", "truncated")}
        return Rollout(prompts=[self.prompts[i] for i in rows], texts=[self.texts[i] for i in rows], **arrays)


def make_rollout(prompts: Sequence[np.ndarray], completions: Sequence[Completion], limit: int) -> Rollout:
    """Makes the arrays of responses.

    Args:
        prompts: int32 `[P]` ids of the prompt of every response.
        completions: the responses.
        limit: T, the most tokens of any response of the run, so that all iterations have one shape.
    """
    count = len(completions)
    ids, mask = np.zeros((count, limit), np.int32), np.zeros((count, limit), bool)
    logprobs = np.zeros((count, limit), np.float32)
    for row, completion in enumerate(completions):
        size = len(completion.token_ids)
        ids[row, :size], mask[row, :size] = completion.token_ids, True
        logprobs[row, :size] = completion.logprobs
    truncated = np.array([completion.finish_reason == "length" for completion in completions])
    return Rollout([np.asarray(prompt, np.int32) for prompt in prompts], ids, mask, logprobs, truncated,
                   [completion.text for completion in completions])


def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
    """Joins rollouts of one limit."""
    arrays = {name: np.concatenate([getattr(one, name) for one in rollouts])
              for name in ("ids", "mask", "sampler_logprobs", "truncated")}
    return Rollout(prompts=[prompt for one in rollouts for prompt in one.prompts],
                   texts=[text for one in rollouts for text in one.texts], **arrays)


def rollout_shape(prompt_lengths: Sequence[int], limit: int, rows: int, multiple: int, *, packed: bool) -> RowShape:
    """Chooses the shape of the rows of all iterations from what is known before the first one.

    Only the number of rows differs between batches, and takes few values; each is a program.

    Args:
        prompt_lengths: tokens of the prompts, or of some and the longest.
        limit: the most tokens of a response.
        rows: responses of a batch.
        multiple: number that divides every number of rows: microbatches times devices that split rows.
        packed: pack several responses into a row.
    """
    longest, average = max(prompt_lengths) + limit, float(np.mean(prompt_lengths))
    most = -(-rows // multiple) * multiple
    if not packed:
        return RowShape(longest, limit, 1, (most,), False)
    length = math.ceil(max(_SHORTEST, longest, min(_TEXTS * (average + limit), _LONGEST)) / 64) * 64
    states = min(length, max(limit, math.ceil(1.2 * length * limit / (average + limit) / 16) * 16))
    groups = max(1, math.ceil(1.5 * length / (average + limit / 2)))
    counts, count = [], 1.0
    while not counts or counts[-1] < most:
        counts.append(min(most, math.ceil(count / multiple) * multiple))
        count = max(count * _COUNT_FACTOR, count + 1)
    return RowShape(length, states, groups, tuple(dict.fromkeys(counts)), True)


def text_groups(rollout: Rollout) -> list[tuple[Text]]:
    """Makes a text of every prompt with its response; a loss reads the tokens of the response."""
    groups = []
    for prompt, ids, size in zip(rollout.prompts, rollout.ids, rollout.lengths, strict=True):
        states = np.arange(len(prompt) - 1, len(prompt) + size - 1, dtype=np.int32)
        groups.append((Text(np.concatenate([prompt, ids[:size]]), states, np.ones(size, np.float32)),))
    return groups


def response_batches(rollout: Rollout, shape: RowShape, minibatches: Sequence[np.ndarray]) -> list[Batch]:
    """Places responses in rows, in minibatches of one shape.

    Args:
        rollout: the responses.
        shape: from `rollout_shape`.
        minibatches: numbers of the responses of every minibatch.

    Returns:
        Batches of `make_batch`, of R rows with G responses at most each; and in them `places` int32 `[R, G, T]`, the
        index of the state of a response's token among those of the row, and `response` int32 `[R, G]`, the response's
        number in the rollout, -1 for none.
    """
    groups, limit = text_groups(rollout), rollout.ids.shape[1]
    made = [make_batch([groups[i] for i in own], shape) for own in minibatches]
    count = max(len(batch["row"]) for batch in made)
    fixed = dataclasses.replace(shape, counts=(count,))
    batches = []
    for own, first in zip(minibatches, made, strict=True):
        batch = first if len(first["row"]) == count else make_batch([groups[i] for i in own], fixed)
        start = np.zeros(batch["group"].shape, np.int32)
        for row, place in np.argwhere(batch["group"] >= 0):
            start[row, place] = int(np.argmax(batch["slot"][row] == place))
        last = batch["slot"].shape[1] - 1
        batch["places"] = np.minimum(start[..., None] + np.arange(limit, dtype=np.int32), last).astype(np.int32)
        batch["response"] = np.where(batch["group"] >= 0, np.asarray(own)[batch["group"]], -1).astype(np.int32)
        batches.append(batch)
    return batches


def place_on_rows(batch: Batch, values: Mapping[str, np.ndarray]) -> Batch:
    """Places values of responses `[B, ...]` as those of a batch, `[R, G, ...]`; 0 where there is no response."""
    response, placed = batch["response"], {}
    for name, value in values.items():
        value = np.asarray(value)
        real = (response >= 0).reshape(*response.shape, *(1,) * (value.ndim - 1))
        placed[name] = np.where(real, value[response], np.zeros((), value.dtype))
    return placed


def collect_by_response(values: Sequence[Mapping[str, np.ndarray]], batches: Sequence[Batch], count: int
                        ) -> dict[str, np.ndarray]:
    """Collects values of batches, `[R, G, ...]` each, into values of responses `[count, ...]`, on the host.

    Args:
        values: those of every batch, by name.
        batches: from `response_batches`.
        count: number of responses.
    """
    collected = {name: np.zeros((count, *value.shape[2:]), value.dtype) for name, value in values[0].items()}
    for part, batch in zip(values, batches, strict=True):
        real = batch["response"] >= 0
        for name, value in part.items():
            collected[name][batch["response"][real]] = value[real]
    return collected


def at_tokens(values: jax.Array, batch: Batch) -> jax.Array:
    """Selects values of states, `[R, N]`, for the tokens of responses: `[R * G, T]`."""
    rows, groups, limit = batch["places"].shape
    chosen = jnp.take_along_axis(values, batch["places"].reshape(rows, groups * limit), axis=1)
    return chosen.reshape(rows * groups, limit)
