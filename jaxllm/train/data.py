"""The rows of a step, as a function of (seed, step) and nothing else."""

from collections import OrderedDict

import numpy as np

from jaxllm.errors import UserError

# Host memory for the orders of many sources that take turns; of large ones the last few stay.
CACHE_BYTES = 64 * 2**20
_FEWEST_CACHED = 4
_cached: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
_cached_bytes = 0


def epoch_permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Computes the order in which epoch number `epoch` visits `n` rows.

    It is made of the raw bits of a counter-based generator, which numpy promises not to change between versions
    (it does not promise so for `Generator.permutation`).

    Args:
        seed: seed of the run, 0 <= seed < 2**64.
        epoch: from 0.
        n: number of rows.

    Returns:
        int64 [n], read-only, every row once.
    """
    global _cached_bytes
    key = (seed, epoch, n)
    if key in _cached:
        _cached.move_to_end(key)
        return _cached[key]
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    order = np.argsort(bits, kind="stable")
    order.setflags(write=False)  # it is cached: a caller must not shuffle it further
    _cached[key] = order
    _cached_bytes += order.nbytes
    while len(_cached) > _FEWEST_CACHED and _cached_bytes > CACHE_BYTES:
        _cached_bytes -= _cached.popitem(last=False)[1].nbytes
    return order


def row_indices(
    seed: int, step: int, batch_size: int, n: int, process_index: int = 0, process_count: int = 1
) -> np.ndarray:
    """Computes the rows of batch number `step` that this process reads.

    Epochs are concatenated and cut into batches, so a batch may end one epoch and start the next:
    no row is left out and none is padded in. Processes take consecutive parts of the batch.

    Args:
        seed: seed of the run.
        step: number of the batch, from 0.
        batch_size: rows in the global batch, over all processes.
        n: number of rows.
        process_index: `jax.process_index()`.
        process_count: `jax.process_count()`.

    Returns:
        int64 [batch_size / process_count].

    Raises:
        UserError: no rows, or a batch that does not divide over the processes.
    """
    if n < 1:
        raise UserError("there are no rows to train on", "data")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} rows does not divide over {process_count} processes",
            "batch_size",
            f"use a positive multiple of {process_count}",
        )
    share = batch_size // process_count
    first = step * batch_size + process_index * share
    epochs, offsets = np.divmod(np.arange(first, first + share), n)
    rows = np.empty(share, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = epoch_permutation(seed, int(epoch), n)[offsets[here]]
    return rows
