"""Responses as arrays, and their places in packed and padded rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.generate import Completion
from jaxllm.rl.rollouts import (
    at_tokens,
    collect_by_response,
    concatenate,
    make_rollout,
    place_on_rows,
    response_batches,
    rollout_shape,
    text_groups,
)

LIMIT = 15


def completion(size, reason="length", first=100):
    return Completion("text", list(range(first, first + size)), -1.0, reason, np.full(size, -0.5, np.float32))


def drawn(count, low=4, high=LIMIT, seed=0, prompts=(2, 9)):
    random = np.random.default_rng(seed)
    return make_rollout([random.integers(3, 90, random.integers(*prompts)) for _ in range(count)],
                        [completion(int(random.integers(low, high + 1)), first=100 * (i + 1)) for i in range(count)],
                        LIMIT)


def test_lengths_and_ends_of_responses():
    """The stop token counts; what ended by itself is known from the reason, not from a token or the length."""
    ended = [completion(3), completion(2, "stop"), completion(3, "stop"), completion(1, "stop")]
    rollout = make_rollout([np.array([7, 2, 9, 2, 5])] * 4, ended, 3)
    assert rollout.truncated.tolist() == [True, False, False, False]
    assert rollout.lengths.tolist() == [3, 2, 3, 1]
    assert rollout.mask.sum() == 9 and rollout.ids[1].tolist() == [100, 101, 0]
    both = concatenate([rollout.take([1]), rollout.take([3, 0])])
    assert both.lengths.tolist() == [2, 1, 3] and len(both.prompts) == len(both.texts) == 3


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("minibatch", [24, 8])
def test_every_token_of_a_response_is_found_in_its_row(packed, minibatch):
    rollout = drawn(24, low=1)
    shape = rollout_shape([len(prompt) for prompt in rollout.prompts], LIMIT, minibatch, 2, packed=packed)
    order = np.random.default_rng(1).permutation(24)
    batches = response_batches(rollout, shape, [order[i:i + minibatch] for i in range(0, 24, minibatch)])
    assert len({batch["tokens"].shape for batch in batches}) == 1
    labels = [np.asarray(at_tokens(jnp.asarray(batch["labels"], jnp.float32), batch)).reshape(batch["places"].shape)
              for batch in batches]
    found = collect_by_response([{"ids": own} for own in labels], batches, 24)["ids"]
    np.testing.assert_array_equal(np.where(rollout.mask, found, 0), rollout.ids)
    assert sorted(np.concatenate([batch["response"][batch["response"] >= 0] for batch in batches])) == list(range(24))


def test_values_return_to_their_responses():
    rollout = drawn(10)
    shape = rollout_shape([8], LIMIT, 5, 1, packed=True)
    batches = response_batches(rollout, shape, [np.array([9, 1, 3, 5, 7]), np.array([0, 2, 4, 6, 8])])
    values = {"one": np.arange(10, dtype=np.float32), "many": np.random.default_rng(0).normal(size=(10, LIMIT))}
    placed = [place_on_rows(batch, values) for batch in batches]
    for name, back in collect_by_response(placed, batches, 10).items():
        np.testing.assert_array_equal(back, values[name])
    assert not placed[0]["one"][batches[0]["response"] < 0].any()


def test_padding_of_short_queries_and_responses():
    """Queries of 2 to 8 tokens, and every limit of 4 to 15 tokens; few shapes."""
    shape = rollout_shape(list(range(2, 9)), LIMIT, 64, 1, packed=True)
    padding, shapes = [], set()
    for limit in range(4, LIMIT + 1):
        rollout = drawn(64, low=limit, high=limit, seed=limit)
        [batch] = response_batches(rollout, shape, [np.arange(64)])
        padding.append((batch["segments"] == 0).mean())
        shapes.add(batch["tokens"].shape)
    assert np.mean(padding) < 0.2
    assert len(shapes) <= 8


def test_padding_of_long_texts():
    rollout = make_rollout([np.zeros(n, np.int32) for n in np.random.default_rng(0).integers(80, 300, 32)],
                           [completion(int(n)) for n in np.random.default_rng(1).integers(50, 256, 32)], 256)
    shape = rollout_shape([len(prompt) for prompt in rollout.prompts], 256, 32, 1, packed=True)
    [batch] = response_batches(rollout, shape, [np.arange(32)])
    assert (batch["segments"] == 0).mean() < 0.2


def test_the_longest_texts_fit():
    """Every row as long as it may be: no text is lost, however many rows it takes."""
    rollout = make_rollout([np.zeros(200, np.int32)] * 7, [completion(LIMIT)] * 7, LIMIT)
    shape = rollout_shape([200, 10, 10, 10], LIMIT, 7, 1, packed=True)
    [batch] = response_batches(rollout, shape, [np.arange(7)])
    assert (batch["response"] >= 0).sum() == 7
    assert (batch["slot"] >= 0).sum() == 7 * LIMIT


def test_states_are_those_before_the_tokens():
    """The first token of a response is predicted at the last one of its prompt."""
    rollout = make_rollout([np.array([5, 6, 7])], [completion(2)], LIMIT)
    [(text,)] = text_groups(rollout)
    assert text.states.tolist() == [2, 3] and text.ids.tolist() == [5, 6, 7, 100, 101]
