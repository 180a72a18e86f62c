"""Padding and packing preserve every token, and masks depend on lengths only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.text.batches import bucket, bucket_sizes, pack, pad_right

LENGTH = 12
# 0 is a token like any other here: padding with it must not make it vanish from a mask
SEQS = st.lists(st.lists(st.integers(0, 3), max_size=LENGTH), max_size=15)


def test_pad_by_hand():
    tokens, segments = pad_right([[5, 0], [7, 8, 9], []], 4, pad_id=0)
    np.testing.assert_array_equal(tokens, [[5, 0, 0, 0], [7, 8, 9, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(segments, [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    assert tokens.dtype == segments.dtype == np.int32


def test_pack_by_hand():
    packed = pack(
        [[1, 2], [3, 4, 5], [6], [], [7, 8, 9, 10]], 5, {"mask": [[0, 1], [0, 1, 1], [1], [], [1, 0, 0, 1]]}
    )
    np.testing.assert_array_equal(packed.tokens, [[7, 8, 9, 10, 6], [3, 4, 5, 1, 2]])
    np.testing.assert_array_equal(packed.segments, [[1, 1, 1, 1, 2], [1, 1, 1, 2, 2]])
    np.testing.assert_array_equal(packed.positions, [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]])
    np.testing.assert_array_equal(packed.index, [[4, 4, 4, 4, 2], [1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(packed.carried["mask"], [[1, 0, 0, 1, 1], [0, 1, 1, 0, 1]])
    assert packed.tokens.dtype == packed.carried["mask"].dtype == np.int32


def test_pack_of_nothing():
    assert pack([], 5).tokens.shape == pack([[], []], 5, {"m": [[], []]}).carried["m"].shape == (0, 5)


@settings(deadline=None)
@given(seqs=SEQS, pad=st.integers(0, 3))
def test_padding_preserves_every_token(seqs, pad):
    tokens, segments = pad_right(seqs, LENGTH, pad)
    assert tokens.shape == segments.shape == (len(seqs), LENGTH)
    assert [row[mask == 1].tolist() for row, mask in zip(tokens, segments, strict=True)] == seqs
    assert segments.sum(1).tolist() == [len(s) for s in seqs]
    assert (np.diff(segments, axis=1) <= 0).all()  # tokens first, padding after


@settings(deadline=None)
@given(seqs=SEQS)
def test_packing_preserves_every_token_once(seqs):
    packed = pack(seqs, LENGTH, {"weight": [[i + t / 10 for t in range(len(s))] for i, s in enumerate(seqs)]})
    restored = {}
    for row in range(len(packed.tokens)):
        segments = packed.segments[row]
        count = segments.max()
        assert (np.diff(segments[segments > 0]) >= 0).all() and set(segments) - {0} == set(
            range(1, count + 1)
        )
        for segment in range(1, count + 1):
            where = np.flatnonzero(segments == segment)
            [i] = set(packed.index[row, where])
            assert i not in restored
            restored[i] = packed.tokens[row, where].tolist()
            np.testing.assert_array_equal(np.diff(where), 1)
            np.testing.assert_array_equal(packed.positions[row, where], np.arange(len(where)))
            np.testing.assert_allclose(
                packed.carried["weight"][row, where], i + np.arange(len(where)) / 10, rtol=1e-6
            )
    assert restored == {i: s for i, s in enumerate(seqs) if s}
    assert (packed.index[packed.segments == 0] == -1).all() and (
        packed.tokens[packed.segments == 0] == 0
    ).all()
    assert packed.carried["weight"].dtype == np.float32 or not restored


@settings(deadline=None)
@given(seqs=SEQS)
def test_packing_is_first_fit(seqs):
    """No row could take a sequence of a later row: fewer rows than one per sequence, and never two half-empty
    ones.
    """
    packed = pack(seqs, LENGTH)
    free = LENGTH - (packed.segments > 0).sum(1)
    for row in range(len(free)):
        later = packed.segments[row + 1 :]
        assert all(
            (later_row == s).sum() > free[row] for later_row in later for s in range(1, later_row.max() + 1)
        )


def test_packing_many_is_quick():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 20000)
    packed = pack([np.ones(n, np.int32) for n in lengths], 256)
    assert packed.segments.astype(bool).sum() == lengths.sum()
    assert lengths.sum() / packed.tokens.size > 0.97


@pytest.mark.parametrize("batch", [pad_right, pack])
def test_too_long_is_an_error(batch):
    batch([[1] * 4], 4)
    with pytest.raises(ValueError, match="sequence 1 has 5 tokens, more than 4"):
        batch([[1], [1] * 5], 4)


def test_carried_values_must_match():
    with pytest.raises(ValueError, match="'mask' does not have one value per token"):
        pack([[1, 2]], 4, {"mask": [[1]]})
    assert pack([[1, 2]], 4, {"mask": [[True, False]]}).carried["mask"].tolist() == [
        [True, False, False, False]
    ]


def test_bucket_sizes_by_hand():
    assert bucket_sizes(100) == (16, 24, 32, 48, 64, 96, 100)
    assert bucket_sizes(64) == (16, 24, 32, 48, 64)
    assert (
        bucket_sizes(10) == (10,)
        and bucket_sizes(16) == (16,)
        and bucket_sizes(20, smallest=8) == (8, 12, 16, 20)
    )
    assert bucket_sizes(4, smallest=1) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="positive"):
        bucket_sizes(0)


@given(st.integers(1, 5000), st.integers(1, 64))
def test_buckets_are_large_enough(max_length, smallest):
    sizes = bucket_sizes(max_length, smallest)
    assert list(sizes) == sorted(set(sizes)) and sizes[-1] == max_length
    for n in {1, max_length, max_length // 2 or 1, max_length // 3 or 1}:
        size = bucket(n, sizes)
        assert n <= size and all(s < n for s in sizes if s < size)
        assert size <= max(smallest, 2 * n)


def test_bucket_beyond_the_largest():
    with pytest.raises(ValueError, match="length 33 is beyond the largest size 32"):
        bucket(33, (16, 32))
