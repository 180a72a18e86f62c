"""Ranking measures of one target: recall, discounted cumulative gain, reciprocal rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from jaxllm.evaluate.recommend.catalog import Match

CUTS = (1, 5, 10, 20)
# A written title with a larger edit distance to every name of the catalog is unknown.
KNOWN_WITHIN = 2


def ranking(matches: Sequence[Match], seen: Collection[str] = (), known_only: bool = False) -> list[str]:
    """Returns the matched names in the order of a list.

    Args:
        matches: matches of the list's titles.
        seen: names to leave out, since the dialogue mentions them.
        known_only: leave out titles that are not in the catalog.
    """
    return [match.name for match in matches
            if (not known_only or match.distance <= KNOWN_WITHIN) and match.name not in seen]


def measures(ranked: Sequence[str], target: str) -> dict[str, float]:
    """Computes `recall@k`, `ndcg@k` and `mrr@k` of one target for k in 1, 5, 10, 20.

    With the target at rank r, from 1: recall is 1, ndcg 1 / log2(r + 1), mrr 1 / r if r <= k; else all are 0.
    """
    rank = ranked.index(target) + 1 if target in ranked else math.inf
    values: dict[str, float] = {}
    for k in CUTS:
        hit = rank <= k
        values[f"recall@{k}"] = float(hit)
        values[f"ndcg@{k}"] = 1.0 / math.log2(rank + 1) if hit else 0.0
        values[f"mrr@{k}"] = 1.0 / rank if hit else 0.0
    return values
