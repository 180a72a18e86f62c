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

    At least the last token of a prompt is left out of the prefix, since its hidden state predicts the first new token.

    Args:
        prompts: token ids, `[T]` int32 each.
        shared: False puts all in one group without a prefix: where rotary embeddings depend on the text's length
            (dynamic NTK, longrope).

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
    common = _common_tokens(first, last)
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


def _common_tokens(first: np.ndarray, last: np.ndarray) -> int:
    """Number of leading tokens that are equal."""
    overlap = min(len(first), len(last))
    different = np.flatnonzero(first[:overlap] != last[:overlap])
    return int(different[0]) if len(different) else overlap


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


@dataclass(frozen=True)
class PrefixNode:
    """A node of a prefix tree.

    Attributes:
        length: number of tokens that all prompts at and below this node share; 0 at the root.
        example: index of one of these prompts; its first `length` tokens are the prefix.
        members: indices of the prompts that continue from here on their own.
        children: nodes with longer prefixes.
    """

    length: int
    example: int
    members: list[int]
    children: list[PrefixNode]


def prefix_tree(prompts: Sequence[np.ndarray], shared: bool = True) -> PrefixNode:
    """Builds a tree in which every worthwhile shared prefix is a node, so that each is prefilled once.

    A node is worthwhile if its tokens after the parent's are at least `SMALLEST_SHARED_TOKENS`, and prefilling them for
    each member and child would cost at least `SMALLEST_SAVED_TOKENS` more. A prompt keeps its last token outside.

    Args:
        prompts: token ids, `[T]` int32 each, at least one.
        shared: False returns a root without children; see `prefix_groups`.
    """
    if not shared:
        return PrefixNode(0, 0, list(range(len(prompts))), [])
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].astype(">u4").tobytes())
    members, children = _grow(prompts, order, 0, DEPTH)
    return PrefixNode(0, order[0], sorted(members), children)


def _grow(prompts: Sequence[np.ndarray], order: Sequence[int], offset: int,
          depth: int) -> tuple[list[int], list[PrefixNode]]:
    """Members and children that prompts in lexicographic order give to a node with a prefix of `offset` tokens."""
    if len(order) < 2 or not depth:
        return list(order), []
    common = _common_tokens(prompts[order[0]], prompts[order[-1]])
    length = min(common, len(prompts[order[0]]) - 1)  # the first is the shortest of those that end at `common`
    own = length - offset
    worthwhile = own >= SMALLEST_SHARED_TOKENS and own * (len(order) - 1) >= SMALLEST_SAVED_TOKENS
    members: list[int] = []
    children: list[PrefixNode] = []
    for group in _by_token(prompts, order, common):
        more, nodes = _grow(prompts, group, length if worthwhile else offset, depth - 1)
        members, children = members + more, children + nodes
    if worthwhile and own * (len(members) + len(children) - 1) >= SMALLEST_SAVED_TOKENS:
        return [], [PrefixNode(length, order[0], sorted(members), children)]
    return members, children
