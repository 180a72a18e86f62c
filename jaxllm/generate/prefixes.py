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
    """Prompts that continue the same prefix: a node of the prefix tree.

    Attributes:
        length: tokens of the prefix, which all of them begin with; may be 0.
        parent: index of the parent group; -1 at a root.
        example: index of a prompt with this prefix.
        members: indices of the prompts, ascending; none where only longer prefixes continue this one.
    """

    length: int
    parent: int
    example: int
    members: list[int]


def prefix_groups(prompts: Sequence[np.ndarray], shared: bool = True) -> list[PrefixGroup]:
    """Lists the nodes of `prefix_tree` depth first, parents before their children, in the order of their first prompts.

    Args:
        prompts, shared: as in `prefix_tree`.
    """
    groups: list[PrefixGroup] = []
    waiting = [(prefix_tree(prompts, shared), -1)]
    while waiting:
        node, parent = waiting.pop()
        groups.append(PrefixGroup(node.length, parent, node.example, node.members))
        waiting += [(child, len(groups) - 1) for child in sorted(node.children, key=_first_prompt, reverse=True)]
    return groups


def _first_prompt(node: PrefixNode) -> int:
    return min([*node.members, *map(_first_prompt, node.children)])


def common_tokens(first: np.ndarray, last: np.ndarray) -> int:
    """Counts the leading tokens that are equal."""
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
        shared: False returns a root without children: where rotary embeddings depend on the text's length (dynamic NTK,
            longrope).
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
    common = common_tokens(prompts[order[0]], prompts[order[-1]])
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
