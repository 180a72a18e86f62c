import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.errors import UserError
from jaxllm.train import data, epoch_permutation, row_indices

sizes = st.integers(1, 60)


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6), n=sizes)
@settings(max_examples=50, deadline=None)
def test_an_epoch_is_a_permutation(seed, epoch, n):
    assert sorted(epoch_permutation(seed, epoch, n)) == list(range(n))


@given(seed=st.integers(0, 1000), batch=sizes, n=sizes, epochs=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_batches_laid_end_to_end_visit_every_row_once_an_epoch(seed, batch, n, epochs):
    steps = -(-n * epochs // batch)
    visited = np.concatenate([row_indices(seed, s, batch, n) for s in range(steps)])[: n * epochs]
    for epoch in visited.reshape(epochs, n):
        assert sorted(epoch) == list(range(n))


@given(step=st.integers(0, 10**6), share=st.integers(1, 9), processes=st.integers(1, 4), n=sizes)
@settings(max_examples=50, deadline=None)
def test_processes_take_consecutive_parts_of_the_batch(step, share, processes, n):
    batch = share * processes
    parts = [row_indices(3, step, batch, n, p, processes) for p in range(processes)]
    assert all(len(part) == share for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), row_indices(3, step, batch, n))


def test_the_order_matches_golden_values():
    # A resumed run depends on it: these numbers may not change with a new release of anything.
    assert row_indices(7, 0, 8, 20).tolist() == [8, 16, 4, 1, 6, 3, 2, 19]
    second = [9, 10, 13, 0, 12, 17, 15, 16]  # its first half ends an epoch
    assert row_indices(7, 2, 8, 20).tolist() == second


def test_orders_differ_between_epochs_and_seeds():
    assert epoch_permutation(1, 0, 50).tolist() != epoch_permutation(1, 1, 50).tolist()
    assert epoch_permutation(1, 0, 50).tolist() != epoch_permutation(2, 0, 50).tolist()


def test_the_first_row_is_uniform():
    counts = np.bincount([epoch_permutation(seed, 0, 5)[0] for seed in range(2000)], minlength=5)
    # chi-square with 4 degrees of freedom; 18.5 has probability 0.001
    assert ((counts - 400) ** 2 / 400).sum() < 18.5


def test_a_cached_order_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        epoch_permutation(0, 0, 4)[0] = 1


def test_impossible_batches_are_errors():
    with pytest.raises(UserError, match="no rows"):
        row_indices(0, 0, 4, 0)
    with pytest.raises(UserError, match="5 rows does not divide over 2"):
        row_indices(0, 0, 5, 10, 0, 2)


def test_many_sources_in_turn_share_the_cache(monkeypatch):
    """Hundreds of small orders stay; of large ones the last few, within the bytes allowed."""
    monkeypatch.setattr(data, "_cached", type(data._cached)())
    monkeypatch.setattr(data, "_cached_bytes", 0)
    first = [data.epoch_permutation(seed, 0, 100) for seed in range(300)]
    assert all(data.epoch_permutation(seed, 0, 100) is order for seed, order in enumerate(first))
    monkeypatch.setattr(data, "CACHE_BYTES", 1000)
    data.epoch_permutation(0, 1, 100)
    assert list(data._cached) == [(297, 0, 100), (298, 0, 100), (299, 0, 100), (0, 1, 100)]
