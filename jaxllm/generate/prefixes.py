"""Shared prefixes of prompts, found in their token ids, so that each is prefilled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A prefix is prefilled on its own from this many tokens on, and if it saves this many tokens in total.
SMALLEST_SHARED_TOKENS, SMALLEST_SAVED_TOKENS = 16, 64
# Levels of prefixes within prefixes that are searched.
DEPTH = 8


@dataclass(frozen=True)
class PrefixGroup:
    """Prompts with one shared prefix.

    Attributes:
        prefix: `[P]` int32, the tokens that all of them begin with; may be empty.
        members: indices of the prompts, ascending.
    """

    prefix: np.ndarray
    members: list[int]


def prefix_groups(prompts: Sequence[np.ndarray], shared: bool = True) -> list[PrefixGroup]:
    """Assigns every prompt to one group, such that prefilling each prefix once saves the most tokens.

    A prompt keeps at least its last token outside the prefix, whose hidden state predicts the first new token.

    Args:
        prompts: token ids, `[T]` int32 each.
        shared: False puts all in one group without a prefix, for networks whose rotation depends on a text's length.

    Returns:
        The groups; the one without a prefix comes first.
    """
    nothing = np.zeros(0, np.int32)
    if not shared:
        return [PrefixGroup(nothing, list(range(len(prompts))))]
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].astype(">u4").tobytes())
    chosen = _split(prompts, order, DEPTH)[1] if len(order) > 1 else []
    taken = {i for group in chosen for i in group.members}
    alone = [i for i in range(len(prompts)) if i not in taken]
    ordered = sorted((PrefixGroup(group.prefix, sorted(group.members)) for group in chosen),
                     key=lambda group: group.members)
    return [PrefixGroup(nothing, alone), *ordered] if alone else ordered


def _split(prompts: Sequence[np.ndarray], order: Sequence[int], depth: int) -> tuple[int, list[PrefixGroup]]:
    """Tokens saved, and the groups that save them, of prompts in lexicographic order."""
    first, last = prompts[order[0]], prompts[order[-1]]
    # In lexicographic order the first and the last share what all share.
    overlap = min(len(first), len(last))
    different = np.flatnonzero(first[:overlap] != last[:overlap])
    common = int(different[0]) if len(different) else overlap
    length = min(common, len(first) - 1)
    whole = length * (len(order) - 1) if length >= SMALLEST_SHARED_TOKENS else 0
    best = (whole, [PrefixGroup(first[:length], list(order))]) if whole >= SMALLEST_SAVED_TOKENS else (0, [])
    if depth and len(order) > 2:
        saved, parts = 0, []
        for group in _by_token(prompts, order, common):
            if len(group) > 1:
                more, found = _split(prompts, group, depth - 1)
                saved, parts = saved + more, parts + found
        if saved > best[0]:
            return saved, parts
    return best


def _by_token(prompts: Sequence[np.ndarray], order: Sequence[int], position: int) -> list[list[int]]:
    """Runs of prompts that have the same token, or none, at `position`."""
    groups: list[list[int]] = []
    before: object = groups  # equal to no token
    for i in order:
        token = int(prompts[i][position]) if position < len(prompts[i]) else None
        if token != before:
            groups.append([])
            before = token
        groups[-1].append(i)
    return groups
