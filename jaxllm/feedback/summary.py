"""The contents of an audit's result.json: buckets, sources, calibration, and what other modules compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxllm.feedback import calibration
from jaxllm.feedback.comparisons import compare_member, compare_people, correlations, kappas, smaller_committees
from jaxllm.feedback.config import AuditConfig
from jaxllm.feedback.data import Pairs
from jaxllm.feedback.findings import Findings, known_labels, standardized, suspicious
from jaxllm.feedback.notes import notes_on
from jaxllm.feedback.sources import CODES, RULES, SOURCES
from jaxllm.feedback.votes import bucket_names, histogram
from jaxllm.measures import reliability
from jaxllm.statistics import rate


def summarize(config: AuditConfig, pairs: Pairs, found: Findings) -> dict[str, Any]:
    """Computes the contents of result.json."""
    names, count = bucket_names(config.committee.edges), found.count
    voted = count.voters > 0
    shares = {name: None if not voted.any() else
              rate(found.bucket[voted] == number, pairs.units[voted], config.seed)
              for number, name in enumerate(names)}
    sources = {name: int((found.source == CODES.index(name)).sum()) for name in SOURCES}
    domains, domain = pairs.domain_numbers
    table = np.zeros((len(domains), len(CODES)), int)
    np.add.at(table, (domain, found.source), 1)
    by_domain = {name: dict(zip(SOURCES, own[1:], strict=True))
                 for name, own in zip(domains, table.tolist(), strict=True)}
    result: dict[str, Any] = {
        "rows": len(pairs), "rejected": len(pairs.rejected), "voters": len(found.voting),
        "vote_histogram": histogram(count, len(found.voting)),
        "vote_shares": [rate(count.votes[voted] == votes, pairs.units[voted], config.seed)
                        for votes in range(len(found.voting) + 1)] if voted.any() else [],
        "without_votes": int((~voted).sum()),
        "buckets": {name: int((found.bucket == number).sum()) for number, name in enumerate(names)},
        "bucket_shares": shares,
        "low_or_none": _low(found, pairs, config),
        "kappa": kappas(found, pairs, config.seed),
        "members": {member.key: compare_member(member, found, pairs, config.seed) for member in found.members},
        "correlation": correlations(found),
        "committee_sizes": smaller_committees(found, pairs, config.seed),
        "calibration": _calibration(found, pairs),
        "sources": sources, "sources_by_domain": by_domain,
        "rules": {RULES[number]: int(n) for number, n in zip(*np.unique(found.rule, return_counts=True), strict=True)},
        "people": compare_people(found, pairs, config.seed),
        "data": pairs.audit.result | {"issues": pairs.audit.counts()},
        "suspicious": [pairs.ids[number] for number in suspicious(found)[:config.suspicious]],
    }
    result["notes"] = notes_on(found, result, pairs.clusters, pairs.domains)
    return result


def _low(found: Findings, pairs: Pairs, config: AuditConfig) -> dict[str, Any] | None:
    voted = found.count.voters > 0
    if not voted.any():
        return None
    return rate(2 * found.count.votes[voted] < found.count.voters[voted], pairs.units[voted], config.seed)


def _calibration(found: Findings, pairs: Pairs) -> dict[str, Any]:
    known = known_labels(pairs)
    model = calibration.fit(calibration.evidence(found.votes, standardized(found.scores)), found.noise, known)
    wrong = 1 - found.right
    result = {"noise": found.noise, "expected_noise": found.expected_noise, "judged_by_people": int(known.judged.sum()),
              "weights": dict(zip([member.key for member in found.voting], model.weights.tolist(), strict=True)),
              "expected_wrong_labels": float(wrong.mean()), "labels_below_one_half": int((found.right < 0.5).sum()),
              "precision_of_votes": {name: float(wrong[where].mean()) if where.any() else None for name, where in (
                  ("no votes", (found.count.votes == 0) & (found.count.voters > 0)), ("a minority of votes",
                                                         2 * found.count.votes < found.count.voters))}}
    if known.judged.any():
        result["reliability"] = reliability(found.by_members[known.judged], known.right[known.judged])
    return result
