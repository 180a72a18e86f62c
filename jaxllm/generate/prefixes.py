"""What prompts begin with in common: found among their tokens, so that it is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A beginning is worth a program of its own from so many tokens on, and if it saves so many altogether.
SHORTEST, LEAST_SAVING = 16, 64
# Beginnings within beginnings are looked into so deep.
DEPTH = 8


@dataclass(frozen=True)
class Family:
    """Prompts with one beginning.

    Attributes:
        prefix: the tokens that all of them begin with, perhaps none.
        members: their places among the prompts given, ascending.
    """

    prefix: tuple[int, ...]
    members: list[int]


def families(prompts: Sequence[Sequence[int]], shared: bool = True) -> list[Family]:
    """Every prompt in one family, such that together they save the most; those that share nothing come first.

    A prompt keeps at least its last token to itself, since something has to be read to predict from.

    Args:
        prompts: token ids, all of them lists or all tuples.
        shared: False leaves all in one family without a beginning, for networks that read it otherwise in every text.
    """
    if not shared:
        return [Family((), list(range(len(prompts))))]
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    chosen = _split(prompts, order, DEPTH)[1] if len(order) > 1 else []
    taken = {i for family in chosen for i in family.members}
    alone = [i for i in range(len(prompts)) if i not in taken]
    found = sorted((Family(family.prefix, sorted(family.members)) for family in chosen), key=lambda one: one.members)
    return [Family((), alone), *found] if alone else found


def _split(prompts: Sequence[Sequence[int]], order: Sequence[int], depth: int) -> tuple[int, list[Family]]:
    """Tokens saved, and the families that save them, of prompts in lexicographic order."""
    first, last = prompts[order[0]], prompts[order[-1]]
    # In lexicographic order the first and the last share what all share.
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    length = min(common, len(first) - 1)
    whole = length * (len(order) - 1) if length >= SHORTEST else 0
    best = (whole, [Family(tuple(first[:length]), list(order))]) if whole >= LEAST_SAVING else (0, [])
    if depth and len(order) > 2:
        saved, parts = 0, []
        for group in _by_token(prompts, order, common):
            if len(group) > 1:
                more, found = _split(prompts, group, depth - 1)
                saved, parts = saved + more, parts + found
        if saved > best[0]:
            return saved, parts
    return best


def _by_token(prompts: Sequence[Sequence[int]], order: Sequence[int], place: int) -> list[list[int]]:
    """Runs of prompts that have the same token at `place`, or none."""
    groups: list[list[int]] = []
    before: object = groups  # equal to no token
    for i in order:
        token = prompts[i][place] if place < len(prompts[i]) else None
        if token != before:
            groups.append([])
            before = token
        groups[-1].append(i)
    return groups
