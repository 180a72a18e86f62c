"""Pads and packs token sequences into rectangular NumPy arrays, deterministically.

Segment ids separate tokens from padding and sequences from each other: 0 is padding, 1, 2, ... are the sequences of a
row. They are computed from lengths, never from ``tokens != pad``: the padding id may be a token of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Packed:
    """Sequences concatenated into rows of equal length.

    Fields:
        tokens: int32 `[B, T]`, 0 on padding.
        segments: int32 `[B, T]`, 0 on padding, else 1, 2, ... along the row.
        positions: int32 `[B, T]`, position of the token in its own sequence, 0 on padding.
        index: int32 `[B, T]`, index of the given sequence that the token is from, -1 on padding.
        carried: other per-token values (masks, weights, targets), each `[B, T]`, 0 on padding.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    index: np.ndarray
    carried: dict[str, np.ndarray] = field(default_factory=dict)


def bucket_sizes(max_length: int, smallest: int = 16) -> tuple[int, ...]:
    """Returns lengths to pad to, so that few shapes are compiled: powers of two and their multiples by 1.5, up to
    `max_length`.

    ``bucket_sizes(100) == (16, 24, 32, 48, 64, 96, 100)``: at most a third of a padded row is padding, from an even
    smallest size on.
    """
    if max_length < 1 or smallest < 1:
        raise ValueError(f"lengths must be positive, got max_length={max_length}, smallest={smallest}")
    sizes, size = [], smallest
    while size < max_length:
        sizes.append(size)
        if size + size // 2 < max_length and size % 2 == 0:
            sizes.append(size + size // 2)
        size *= 2
    return (*sizes, max_length)


def bucket(n: int, sizes: Sequence[int]) -> int:
    """Returns the smallest of the ascending `sizes` that is at least `n`; raises ValueError without one."""
    for size in sizes:
        if n <= size:
            return size
    raise ValueError(f"length {n} is beyond the largest size {max(sizes, default=0)}")


def pad_right(seqs: Sequence[Sequence[int]], length: int, pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences on the right.

    Args:
        seqs: token ids, each at most `length` long; an empty one makes a row of padding.
        length: T.
        pad_id: token id of padding; no result may depend on it.

    Returns:
        tokens int32 `[B, T]` and segments int32 `[B, T]`, 1 on tokens and 0 on padding.

    Raises:
        ValueError: a sequence is longer than `length`; shortening it is the caller's decision.
    """
    lengths = _lengths(seqs, length)
    tokens = np.full((len(seqs), length), pad_id, np.int32)
    segments = np.zeros((len(seqs), length), np.int32)
    for row, (seq, n) in enumerate(zip(seqs, lengths, strict=True)):
        tokens[row, :n] = seq
        segments[row, :n] = 1
    return tokens, segments


def pack(
    seqs: Sequence[Sequence[int]], length: int, carried: Mapping[str, Sequence[Sequence]] | None = None
) -> Packed:
    """Packs sequences into rows by first-fit, longest first and ties in the order given; none is split.

    Empty sequences are left out. `Packed.index` maps tokens back to the given sequences.

    Args:
        seqs: token ids, each at most `length` long.
        length: T.
        carried: per-token values under a name, shaped like `seqs`: ``{"mask": [[0, 1, 1], ...]}``.

    Returns:
        `Packed` with B rows; B is 0 when there is no token.

    Raises:
        ValueError: a sequence is longer than `length`, or a carried value does not match its sequence.
    """
    lengths = _lengths(seqs, length)
    carried = carried or {}
    for name, values in carried.items():
        if [len(v) for v in values] != lengths:
            raise ValueError(f"{name!r} does not have one value per token of every sequence")
    rows = _first_fit(lengths, length)
    shape = (len(rows), length)
    out = Packed(
        tokens=np.zeros(shape, np.int32),
        segments=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        index=np.full(shape, -1, np.int32),
        carried={name: np.zeros(shape, _dtype(values)) for name, values in carried.items()},
    )
    for row, members in enumerate(rows):
        start = 0
        for segment, i in enumerate(members, 1):
            where = slice(start, start + lengths[i])
            out.tokens[row, where] = seqs[i]
            out.segments[row, where] = segment
            out.positions[row, where] = np.arange(lengths[i])
            out.index[row, where] = i
            for name, values in carried.items():
                out.carried[name][row, where] = values[i]
            start += lengths[i]
    return out


def _first_fit(lengths: list[int], length: int) -> list[list[int]]:
    """Assigns sequences to rows: each, longest first, goes to the first row with enough free tokens.

    A tree of maxima over the rows' free tokens gives that row in logarithmic time, since there may be millions of rows.
    """
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i])
    width = 1
    while width < max(1, len(order)):
        width *= 2
    free = [length] * (2 * width)  # leaves are rows, free[1] is the maximum over all
    rows: list[list[int]] = []
    for i in order:
        node = 1
        while node < width:
            node = 2 * node if free[2 * node] >= lengths[i] else 2 * node + 1
        if node - width == len(rows):
            rows.append([])
        rows[node - width].append(i)
        free[node] -= lengths[i]
        while node > 1:
            node //= 2
            free[node] = max(free[2 * node], free[2 * node + 1])
    return rows


def _lengths(seqs: Sequence[Sequence[int]], length: int) -> list[int]:
    lengths = [len(seq) for seq in seqs]
    for i, n in enumerate(lengths):
        if n > length:
            raise ValueError(f"sequence {i} has {n} tokens, more than {length}")
    return lengths


def _dtype(values: Sequence[Sequence]) -> np.dtype:
    """Chooses int32 for whole numbers, float32 for others, bool for truth values."""
    dtype = np.dtype(
        np.result_type(*(np.asarray(v).dtype for v in values if len(v)))
        if any(len(v) for v in values)
        else bool
    )
    return np.dtype({"b": np.bool_, "i": np.int32, "u": np.int32}.get(dtype.kind, np.float32))
