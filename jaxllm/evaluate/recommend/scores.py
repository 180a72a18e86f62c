"""Where the right title stands in a list: recall, discounted gain, reciprocal rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from jaxllm.evaluate.recommend.catalog import Match

CUTS = (1, 5, 10, 20)
# A written title further than this from every name of the catalog is none of its titles.
KNOWN_WITHIN = 2


def ranking(found: Sequence[Match], seen: Collection[str] = (), known_only: bool = False) -> list[str]:
    """Names in the order of a list.

    Args:
        found: what the list's titles mean.
        seen: names that are left out, since the dialogue has them already.
        known_only: leaves out titles that are not in the catalog.
    """
    return [one.name for one in found if (not known_only or one.distance <= KNOWN_WITHIN) and one.name not in seen]


def measures(ranked: Sequence[str], target: str) -> dict[str, float]:
    """`recall@k`, `ndcg@k` and `mrr@k` of one target for k in 1, 5, 10, 20.

    With the target at rank r, from 1: recall is 1, ndcg 1 / log2(r + 1), mrr 1 / r if r <= k; else all are 0.
    """
    rank = ranked.index(target) + 1 if target in ranked else math.inf
    found: dict[str, float] = {}
    for k in CUTS:
        hit = rank <= k
        found[f"recall@{k}"] = float(hit)
        found[f"ndcg@{k}"] = 1.0 / math.log2(rank + 1) if hit else 0.0
        found[f"mrr@{k}"] = 1.0 / rank if hit else 0.0
    return found
