"""Near-duplicates: rows with nearly the same words, without regard to case, blanks and punctuation.

A part of a row, such as its prompt, is the set of its runs of three words. Two rows are near-duplicates if the Jaccard
similarity |A and B| / |A or B| of each part is a threshold or more. Rows are compared that share a band of minimal
hashes over all their parts or over one of them (locality-sensitive hashing), at most `MOST` with each: the work grows
with the number of rows, not with its square. A part that many rows have, such as an instruction, hides no pair with
other parts that are rare; among many rows that are all nearly equal some pairs are not compared. A part of more than
`SKETCH` runs is represented by those with the smallest hashes, and the similarity is an estimate (bottom-k sketch); it
is exact for shorter parts.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxllm.parallel import processes

# Words; characters of scripts without blanks are words of their own; signs of arithmetic distinguish formulas.
_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|"
                   r"[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[+*/<>=^%]")
RUN = 3
SKETCH = 96
BANDS = 16
# A row may be compared with the first rows that have the same band and the one before it, and is compared with those
# among them that share most bands with it, where a band counts less the more rows have it.
FIRST, MOST = 3, 6
_BLOCK = 256  # rows that are hashed together, few enough for the processor's cache
_PAIRS = 20_000  # pairs of rows that are compared together
_BYTES = 8  # of a hash
_SHORT, _KNOWN = 32, 1 << 18  # characters and number of the texts without blanks of which the hashes are stored
_MIXERS = np.random.default_rng(20_241_001).integers(1, 2 ** 63, (3, BANDS, 16), dtype=np.uint64) | np.uint64(1)


def words_of(text: str) -> list[str]:
    """Splits a text without case (`casefold`) into words, without punctuation; one without words is a word."""
    return _WORD.findall(text) or [text] * bool(text)


class NearDuplicates:
    """Collects rows, and finds those that are nearly equal to another one.

    Args:
        parts: number of texts in a row.
    """

    def __init__(self, parts: int):
        self.parts = parts
        self._hashes, self._sizes = array("I"), array("H")  # of the sketches, part after part
        self._waiting: list[bytes] = []  # hashes of the words of texts that have no sketch yet
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def __getstate__(self) -> dict[str, object]:
        self._sketch()
        return self.__dict__

    def add(self, texts: Sequence[str]) -> None:
        """Adds a row of `parts` texts without case (`casefold`)."""
        self._rows += 1
        self._waiting.extend(map(_hashes_of, texts))
        if len(self._waiting) >= _BLOCK * self.parts:
            self._sketch()

    def part(self, number: int) -> NearDuplicates:
        """Returns one part of all rows, as rows of their own."""
        self._sketch()
        hashes, sizes, _ = self._stored()
        own, one = np.arange(len(sizes)) % self.parts == number, NearDuplicates(1)
        one._hashes.frombytes(hashes[np.repeat(own, sizes)].tobytes())
        one._sizes.frombytes(sizes[own].astype(np.uint16).tobytes())
        one._rows = len(self)
        return one

    def extend(self, other: NearDuplicates) -> None:
        """Adds the rows of another collection after these."""
        self._sketch()
        other._sketch()
        self._hashes.extend(other._hashes)
        self._sizes.extend(other._sizes)
        self._rows += len(other)

    def _sketch(self) -> None:
        """Makes sketches of the waiting texts."""
        texts, self._waiting = self._waiting, []
        counts = np.array([len(own) for own in texts], np.int64) // _BYTES
        if not len(counts):
            return
        hashes = np.frombuffer(b"".join(texts), np.uint64)
        # Runs start at each word that has enough words after it; a shorter text is one run.
        owner = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(hashes)) - np.repeat(np.cumsum(counts) - counts, counts)
        left = counts[owner] - place
        run = _mix(hashes)
        for step in range(1, RUN):
            run[:-step] += hashes[step:] * (left[:-step] > step)
            run = _mix(run)
        starts = (place == 0) | (left >= RUN)
        keys = np.sort((owner[starts].astype(np.uint64) << np.uint64(32)) | (run[starts] >> np.uint64(32)))
        keys = keys[_starts(keys) == np.arange(len(keys))]  # each run once
        owner = (keys >> np.uint64(32)).astype(np.int64)
        sizes = np.bincount(owner, minlength=len(counts))
        smallest = np.arange(len(keys)) - np.repeat(np.cumsum(sizes) - sizes, sizes) < SKETCH
        self._hashes.frombytes(keys[smallest].astype(np.uint32).tobytes())
        self._sizes.frombytes(np.minimum(sizes, SKETCH).astype(np.uint16).tobytes())

    def find(self, threshold: float, lines: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds for each row an earlier one that is nearly equal.

        Args:
            threshold: least Jaccard similarity of every part, above 0 and at most 1.
            lines: line of each row, `[N]`, ascending; rows of one line are not compared.
            used: rows that are compared, `[N]` bool.

        Returns:
            Number of the earlier row, -1 without one, and the least similarity of a part, both `[N]`.
        """
        earlier, similarity = np.full(len(self), -1), np.zeros(len(self))
        first, second = self._candidates(threshold, lines, used)
        stored = self._stored()
        for start in reversed(range(0, len(first), _PAIRS)):  # the earliest row is written last
            a, b = first[start:start + _PAIRS], second[start:start + _PAIRS]
            least = np.ones(len(a))
            for part in range(self.parts):
                least = np.minimum(least, _similarities(*stored, a * self.parts + part, b * self.parts + part))
                near = least >= threshold - 1e-9  # pairs of which one part differs are compared no further
                a, b, least = a[near], b[near], least[near]
            earlier[b[::-1]], similarity[b[::-1]] = a[::-1], least[::-1]
        return earlier, similarity

    def _candidates(self, threshold: float, lines: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lists pairs of rows that share a band, the earlier row first, in the order of the earlier rows."""
        width, parts = _width(threshold), range(self.parts if self.parts > 1 else 0)
        self._sketch()
        search = lambda part: (self if part is None else self.part(part))._pairs(width, lines, used)
        with ThreadPoolExecutor(min(processes(), 2)) as threads:  # numpy computes outside of Python's lock
            found = list(threads.map(search, [None, *parts]))
        both, _ = _heaviest(*map(np.concatenate, zip(*found, strict=True)))
        second, first = (both >> np.uint64(32)).astype(np.int64), (both & np.uint64(2 ** 32 - 1)).astype(np.int64)
        order = np.argsort(first, kind="stable")
        return first[order], second[order]

    def _pairs(self, width: int, lines: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lists pairs of rows that share a band over all parts, at most `MOST` for each later row.

        Returns:
            The pairs, with the later row in the upper half, and the sums of 1 / rows that have the band.
        """
        bands = self._bands(width)
        rows = np.flatnonzero(used & (bands != 0).any(1))
        pairs, weights = np.zeros(0, np.uint64), np.zeros(0)
        for band in range(BANDS):  # of equal pairs one is stored: all rows may have all bands in common
            more, shares = [pairs], [weights]
            order = rows[np.argsort(bands[rows, band], kind="stable")]
            keys = bands[order, band]
            start = _starts(keys)
            place = np.arange(len(keys)) - start
            share = 1 / np.bincount(start, minlength=len(keys))[start]
            for offset in range(FIRST + 1):
                own = np.flatnonzero(place > offset)
                other = start[own] + offset if offset < FIRST else own - 1
                first, second = order[other], order[own]
                apart = lines[first] != lines[second]
                more.append((second[apart].astype(np.uint64) << np.uint64(32)) | first[apart].astype(np.uint64))
                shares.append(share[own][apart])
            pairs, weights = _summed(np.concatenate(more), np.concatenate(shares))
        return _heaviest(pairs, weights)

    def _bands(self, width: int) -> np.ndarray:
        """Hashes the minimal hashes of each row into bands, `[N, BANDS]` uint64; 0 for rows without words."""
        self._sketch()
        hashes, sizes, ends = self._stored()
        found = np.zeros((len(self), BANDS), np.uint64)
        tags = _mix(np.arange(1, self.parts + 1, dtype=np.uint64))
        per_row = sizes.reshape(-1, self.parts)
        for start in range(0, len(self), _BLOCK):
            stop = min(start + _BLOCK, len(self))
            low, high = (ends[(n * self.parts) - 1] if n else 0 for n in (start, stop))
            own, counts = hashes[low:high].astype(np.uint64), per_row[start:stop]
            own = _mix(own ^ np.repeat(np.tile(tags, stop - start), counts.reshape(-1)))
            total = counts.sum(1)
            filled = np.flatnonzero(total)
            if not len(filled):
                continue
            begins, mixed = (np.cumsum(total) - total)[filled], np.empty_like(own)
            keys = np.zeros((BANDS, len(filled)), np.uint64)
            for place in range(width):
                for band in range(BANDS):
                    np.bitwise_xor(own, _MIXERS[0, band, place], out=mixed)
                    mixed *= _MIXERS[1, band, place]
                    keys[band] += np.minimum.reduceat(mixed, begins)
                keys = _mix(keys)
            found[start + filled] = keys.T | np.uint64(1)
        return found

    def _stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes = np.frombuffer(self._sizes, np.uint16).astype(np.int64)
        return np.frombuffer(self._hashes, np.uint32), sizes, np.cumsum(sizes)


def _similarities(hashes: np.ndarray, sizes: np.ndarray, ends: np.ndarray, first: np.ndarray, second: np.ndarray
                  ) -> np.ndarray:
    """Computes the similarities of pairs of sketches; two empty ones are equal.

    Args:
        hashes, sizes, ends: hashes of all sketches, the size of each, and where it ends.
        first, second: numbers of the sketches of each pair.
    """
    keys = [_keys(hashes, ends[own] - sizes[own], sizes[own]) for own in (first, second)]
    union, times = np.unique(np.concatenate(keys), return_counts=True)
    pair = (union >> np.uint64(32)).astype(np.int64)
    count = np.bincount(pair, minlength=len(first))
    place = np.arange(len(union)) - np.repeat(np.cumsum(count) - count, count)
    # Of a text that was cut, the smallest hashes of the union are known as far as the sketch goes.
    cut = (sizes[first] == SKETCH) | (sizes[second] == SKETCH)
    inside = ~cut[pair] | (place < SKETCH)
    shared = np.bincount(pair[inside & (times == 2)], minlength=len(first))
    known = np.bincount(pair[inside], minlength=len(first))
    return np.divide(shared, known, out=np.ones(len(first)), where=known > 0)


def _keys(hashes: np.ndarray, begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the hashes of sketches, each with the number of its sketch in the upper half."""
    number = np.repeat(np.arange(len(sizes)), sizes)
    at = np.arange(len(number)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begins[number]
    return number.astype(np.uint64) << np.uint64(32) | hashes[at].astype(np.uint64)


def _summed(pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the weights of equal pairs; returns the distinct pairs, ascending, and the sums."""
    both, which = np.unique(pairs, return_inverse=True)
    return both, np.bincount(which, weights, len(both))


def _heaviest(pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the weights of equal pairs; returns, for each later row, the `MOST` pairs with the largest sums."""
    both, total = _summed(pairs, weights)
    # Sums in another order differ by rounding; equally heavy pairs are taken from the first row on.
    total = np.round(total, 9)
    order = np.lexsort((both, -total, both >> np.uint64(32)))
    both, total = both[order], total[order]
    most = np.arange(len(both)) - _starts(both >> np.uint64(32)) < MOST
    return both[most], total[most]


def _starts(keys: np.ndarray) -> np.ndarray:
    """Returns the place at which each key's run of equal keys starts, `[N]`."""
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))


def _width(threshold: float) -> int:
    """Returns the number of minimal hashes in a band: the most with which pairs at the threshold share one of the bands
    in 999 of 1,000 cases."""
    likely = 1 - 0.001 ** (1 / BANDS)
    return max([width for width in range(1, 17) if threshold ** width >= likely], default=1)


class _Hashes(dict[str, bytes]):
    """Hashes of the words of texts without blanks, one after another; those of short texts stay in memory."""

    def __missing__(self, text: str) -> bytes:
        words = _WORD.findall(text)
        found = _hash(text) if words == [text] else b"".join(map(self.__getitem__, words))
        if len(text) <= _SHORT:
            if len(self) >= _KNOWN:
                self.clear()
            self[text] = found
        return found


_hashes = _Hashes()


def _hashes_of(text: str) -> bytes:
    """Hashes the words of a text, as `words_of` splits it."""
    return b"".join(map(_hashes.__getitem__, text.split(" "))) or _hash(text) * bool(text)


def _hash(word: str) -> bytes:
    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()


def _mix(x: np.ndarray) -> np.ndarray:
    """Mixes the bits of uint64 (splitmix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x
