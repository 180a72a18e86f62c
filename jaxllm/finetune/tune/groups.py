"""Rows of an objective as groups of texts: a data set that batches are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxllm.finetune.texts import Group, joined_text

Values = dict[str, np.ndarray]
# Raised when a change of the forward pass changes log-probabilities, so that those in the user's cache are not used.
_REFERENCE_VERSION = 1


class DataSet(Protocol):
    """Rows of an objective as groups of texts."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> tuple[list[Group], Values]:
        """Makes the groups of rows that form one batch, with their values `[len(rows)]`, `weight` among them."""

    def largest(self) -> list[Group]:
        """Returns groups that have as many tokens and as many states as any that `take` returns."""


@dataclasses.dataclass(frozen=True)
class FixedGroups:
    """A data set with the same groups in every batch.

    Attributes:
        groups: one for every row.
        values: `[n]` each.
        clusters: the prompt of every row, or another unit that intervals resample.
    """

    groups: Sequence[Group]
    values: Values
    clusters: Sequence[Any]

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, rows: Sequence[int]) -> tuple[list[Group], Values]:
        """See `DataSet.take`."""
        return [self.groups[i] for i in rows], {name: value[list(rows)] for name, value in self.values.items()}

    def largest(self) -> list[Group]:
        """See `DataSet.largest`."""
        return list(self.groups)


@dataclasses.dataclass(frozen=True)
class UnpairedGroups:
    """Prompts with completions; a row's group also has the completion of another row of the batch after its prompt.

    KTO's reference point is the mean log-ratio of such mismatched texts. The partner is the next row of the batch with
    another prompt; a row without one has weight 0 in that mean.

    Attributes:
        texts: ids of the prompt, ids of the completion, and the completion's tokens with a loss, of every row.
        values: `[n]` each.
        clusters: the prompt of every row.
        longest: tokens to which texts are cut; a partner's completion may be longer than the row's own.
    """

    texts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    values: Values
    clusters: Sequence[Any]
    longest: int

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> tuple[list[Group], Values]:
        """See `DataSet.take`."""
        rows = list(rows)
        partners = self._partners(rows)
        groups = [self._group(row, row if partner is None else partner)
                  for row, partner in zip(rows, partners, strict=True)]
        matched = np.array([partner is not None for partner in partners], np.float32)
        values = {name: value[rows] for name, value in self.values.items()}
        return groups, values | {"mismatched": matched * (values["weight"] > 0)}

    def _partners(self, rows: Sequence[int]) -> list[int | None]:
        """Finds for every row the next one with another prompt; after the last row comes the first."""
        partners: list[int | None] = [None] * len(rows)
        # Backwards, so that a row takes the partner of the next one with its prompt. The second round is for the last
        # rows, since their partners are among the first.
        for place in (*range(len(rows))[::-1], *range(len(rows))[::-1]):
            following = (place + 1) % len(rows)
            differs = self.clusters[rows[following]] != self.clusters[rows[place]]
            partners[place] = rows[following] if differs else partners[following]
        return partners

    def fixed(self) -> FixedGroups:
        """Gives every row one partner for good, from all rows, so that an evaluation does not depend on its batches."""
        groups, values = self.take(range(len(self)))
        return FixedGroups(groups, values, self.clusters)

    def largest(self) -> list[Group]:
        """See `DataSet.largest`."""
        numbers = range(len(self))
        others = (max(numbers, key=lambda i: len(self.texts[i][1])), max(numbers, key=lambda i: self.texts[i][2].sum()))
        return [self._group(row, other) for row in numbers for other in others]

    def _group(self, row: int, partner: int) -> Group:
        """Makes the texts of a row's prompt with its own completion and with that of another row."""
        completions = (self.texts[number][1:] for number in (row, partner))
        return tuple(joined_text(self.texts[row][0], ids, mask, self.longest) for ids, mask in completions)


def with_nll_scale(values: Values, tokens: np.ndarray) -> Values:
    """Adds to the values of pairs `nll_scale`, which makes a mean over them one over tokens; see `ops.nll_scale`.

    Args:
        values: `[n]` each, of all pairs that the mean is over.
        tokens: `[n, 2]`, number of tokens with a negative log-likelihood.
    """
    right = values.get("label_probability", np.ones(len(tokens), np.float32))
    total = np.sum(values["weight"] * (right * tokens[:, 0] + (1 - right) * tokens[:, 1]))
    return values | {"nll_scale": np.full(len(tokens), values["weight"].sum() / max(total, 1e-30), np.float32)}


def content_hash(data: FixedGroups, *parts: str) -> str:
    """Hashes tokens, states and weights of all groups, and `parts`, such as the fingerprint of the model."""
    digest = hashlib.sha256(json.dumps([_REFERENCE_VERSION, jax.__version__, *parts]).encode())
    for group in data.groups:
        digest.update(np.int64(len(group)).tobytes())  # two texts of a pair are no two rows
        for text in group:
            for array in (text.ids, text.states, text.weights):
                digest.update(np.int64(len(array)).tobytes() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
