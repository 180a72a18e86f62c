"""Findings of a committee on preference pairs: votes, agreement, calibration, sources, suspicious pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm import raters
from jaxllm.errors import UserError
from jaxllm.feedback import calibration
from jaxllm.feedback.calibration import Known
from jaxllm.feedback.config import AuditConfig
from jaxllm.feedback.data import CRITERIA, DOMAINS, Member, Pairs
from jaxllm.feedback.sources import (
    CODES,
    RULES,
    SOURCES,
    Committee,
    assign,
    nanmedian,
    quantiles,
    standardized_margins,
)
from jaxllm.feedback.votes import ABSTAIN, Count, bucket_names, buckets, count_votes, histogram
from jaxllm.measures import length_measures, reliability
from jaxllm.statistics import clustered
from jaxllm.text.audit import ISSUES

FILE = "committee.safetensors"
# Categories of raters: the label is wrong, a tie, the label is right.
CATEGORIES = 3
# Pairs and random committees of each size for the effect of the size.
ABLATION_ROWS, ABLATION_DRAWS = 20_000, 50


@dataclass(frozen=True)
class Findings:
    """Findings of a committee on each of N pairs.

    Attributes:
        members: all members.
        voting: members with votes that count, `[M]` of them.
        votes: `[N, M]`.
        scores: scores of the voting members `[N, M, 2]`, NaN for members without.
        quantile: mean quantile of the chosen and the rejected answer, `[N, 2]`.
        margin: median standardized margin, `[N]`.
        count: votes and voters.
        bucket: number of the bucket, -1 without voters.
        weighted: sum of weighted votes, out of fold.
        by_members: probability that the label is right by the members alone, out of fold.
        right: the same with what people answered about the pair.
        consensus: the same by Dawid and Skene's consensus of the members, NaN without voters.
        source: number in `sources.CODES`.
        rule: number in `sources.RULES`.
        noise: share of wrong labels, fitted around the expected one.
        expected_noise: share of wrong labels that was expected.
    """

    members: Sequence[Member]
    voting: Sequence[Member]
    votes: np.ndarray
    scores: np.ndarray
    quantile: np.ndarray
    margin: np.ndarray
    count: Count
    bucket: np.ndarray
    weighted: np.ndarray
    by_members: np.ndarray
    right: np.ndarray
    consensus: np.ndarray
    source: np.ndarray
    rule: np.ndarray
    noise: float
    expected_noise: float


def known_labels(pairs: Pairs) -> Known:
    """Returns the labels that a majority of people confirmed or contradicted."""
    decisions = pairs.decisions
    return Known(np.isin(decisions, ("chosen", "rejected")), decisions == "chosen")


def find(config: AuditConfig, pairs: Pairs, members: Sequence[Member]) -> Findings:
    """Collects the findings of a committee.

    Members with a criterion of their own do not vote, unless all have one.

    Raises:
        UserError: there are no members.
    """
    if not members:
        raise UserError("the committee has no members", "committee")
    voting = [member for member in members if member.criterion is None] or list(members)
    votes = np.stack([member.votes for member in voting], 1)
    unscored = np.full((len(pairs), 2), np.nan)
    scores = np.stack([unscored if member.scores is None else member.scores for member in voting], 1)
    _, domain = np.unique(np.asarray(pairs.domains, dtype=str), return_inverse=True)
    quantiles_of = lambda own: np.stack([quantiles(member.scores, domain) for member in own
                                         if member.scores is not None] or [unscored], 1)
    margins = standardized(scores)
    whole = Committee(quantiles_of(voting), margins)
    by_criterion = {name: Committee(quantiles_of(own), np.stack([
        member.directions if member.scores is None else standardized_margins(member.scores) for member in own], 1))
        for name in CRITERIA if (own := [member for member in members if member.criterion == name])}
    count, known = count_votes(votes), known_labels(pairs)
    x, expected = calibration.evidence(votes, margins), known.noise(config.committee.noise)
    noise = calibration.fit_noise(x, expected, pairs.clusters, known)
    source, rule = assign(count.votes, (votes == -1).sum(1), count.voters, whole, by_criterion, pairs.domains,
                          pairs.decisions, config.sources)
    by_members = calibration.cross_fit(x, pairs.clusters, noise, known, config.seed, config.folds)
    return Findings(
        members, voting, votes, scores, whole.mean, nanmedian(margins), count, buckets(count, config.committee.edges),
        calibration.weighted_votes(votes, pairs.clusters, config.seed, config.folds), by_members,
        calibration.with_people(by_members, pairs.decisions), _consensus(votes), source, rule, noise, expected)


def standardized(scores: np.ndarray) -> np.ndarray:
    """Computes the standardized margins of members `[N, M]` from scores `[N, M, 2]`."""
    return np.stack([standardized_margins(own) for own in np.moveaxis(scores, 1, 0)], 1)


def _patterns(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct rows of ratings, how often each occurs, and that of each pair."""
    ratings = np.where(votes == ABSTAIN, raters.MISSING, votes + 1)
    patterns, pattern, counts = np.unique(ratings, axis=0, return_inverse=True, return_counts=True)
    return patterns, counts, pattern.reshape(-1)


def _consensus(votes: np.ndarray) -> np.ndarray:
    patterns, counts, pattern = _patterns(votes)
    posterior = raters.dawid_skene(patterns, CATEGORIES, weights=counts).posterior
    right = posterior[:, 2] / (posterior[:, 0] + posterior[:, 2])
    return np.where((patterns == raters.MISSING).all(1), np.nan, right)[pattern]


def save(path: Path, pairs: Pairs, findings: Findings, edges: Sequence[float]) -> None:
    """Writes the findings as arrays, for `jaxllm clean`."""
    from safetensors.numpy import save_file

    issue_bits = np.array([sum(1 << number for number, name in enumerate(ISSUES) if name in own)
                           for own in pairs.issues], np.int32)
    arrays = {name: np.ascontiguousarray(getattr(findings, name)) for name in
              ("votes", "scores", "quantile", "margin", "bucket", "weighted", "right", "source", "rule")}
    domains = list(dict.fromkeys(pairs.domains))
    arrays |= {"clusters": pairs.clusters.astype(np.int64), "issues": issue_bits, "first": pairs.first,
               "domain": np.array([domains.index(name) for name in pairs.domains], np.int32),
               "rows": np.array([int(digest, 16) for digest in pairs.digests], np.uint64)}
    about = {"members": [member.key for member in findings.voting], "noise": findings.noise, "domains": domains,
             "buckets": bucket_names(edges)}
    save_file(arrays, path, {"about": json.dumps(about)})


def summarize(config: AuditConfig, pairs: Pairs, found: Findings) -> dict[str, Any]:
    """Computes the contents of result.json."""
    names, count = bucket_names(config.committee.edges), found.count
    voted = count.voters > 0
    shares = {name: None if not voted.any() else
              clustered(found.bucket[voted] == number, pairs.clusters[voted], config.seed)
              for number, name in enumerate(names)}
    sources = {name: int((found.source == CODES.index(name)).sum()) for name in SOURCES}
    by_domain = {domain: {name: int(((found.source == CODES.index(name)) & own).sum()) for name in SOURCES}
                 for domain in dict.fromkeys(pairs.domains) for own in [np.asarray(pairs.domains) == domain]}
    ratings = np.where(found.votes == ABSTAIN, raters.MISSING, found.votes + 1)
    result: dict[str, Any] = {
        "rows": len(pairs), "rejected": len(pairs.rejected), "voters": len(found.voting),
        "vote_histogram": histogram(count, len(found.voting)),
        "vote_shares": [clustered(count.votes[voted] == votes, pairs.clusters[voted], config.seed)
                        for votes in range(len(found.voting) + 1)] if voted.any() else [],
        "without_votes": int((~voted).sum()),
        "buckets": {name: int((found.bucket == number).sum()) for number, name in enumerate(names)},
        "bucket_shares": shares,
        "low_or_none": _low(found, pairs, config),
        "kappa": _kappas(ratings, found, pairs, config.seed),
        "members": {member.key: _member(member, found, pairs, config.seed) for member in found.members},
        "correlation": _correlations(found),
        "committee_sizes": _sizes(found, pairs, config.seed),
        "calibration": _calibration(found, pairs),
        "sources": sources, "sources_by_domain": by_domain,
        "rules": {RULES[number]: int(n) for number, n in zip(*np.unique(found.rule, return_counts=True), strict=True)},
        "people": _people(found, pairs, config.seed),
        "data": pairs.audit.result | {"issues": pairs.audit.counts()},
        "suspicious": [pairs.ids[number] for number in suspicious(found)[:config.suspicious]],
    }
    result["notes"] = _notes(found, result, pairs.clusters, pairs.domains)
    return result


def suspicious(found: Findings) -> np.ndarray:
    """Orders pairs from the label that is least likely to be right; without voters last."""
    return np.lexsort((np.arange(len(found.right)), found.right, found.count.voters == 0))


def informative(found: Findings, limit: int) -> np.ndarray:
    """Returns the pairs of which people's answers would add most: the probability that the label is right is nearest to
    one half; those with more voters first."""
    return np.lexsort((-found.count.voters, np.abs(found.right - 0.5)))[:limit]


def _low(found: Findings, pairs: Pairs, config: AuditConfig) -> dict[str, Any] | None:
    voted = found.count.voters > 0
    if not voted.any():
        return None
    return clustered(2 * found.count.votes[voted] < found.count.voters[voted], pairs.clusters[voted], config.seed)


def _kappas(ratings: np.ndarray, found: Findings, pairs: Pairs, seed: int) -> dict[str, Any]:
    result = raters.agreement(ratings, CATEGORIES, pairs.clusters, seed)
    names = [member.key for member in found.voting]
    result["cohen"] = {names[i]: {names[j]: _number(raters.cohen_kappa(ratings[:, i], ratings[:, j], CATEGORIES))
                                  for j in range(i + 1, len(names))} for i in range(len(names) - 1)}
    patterns, counts, _ = _patterns(found.votes)
    if len(names) > 1 and (patterns != raters.MISSING).any():
        consensus = raters.dawid_skene(patterns, CATEGORIES, weights=counts)
        result["dawid_skene"] = {"prior": dict(zip(("wrong", "tie", "right"), consensus.prior.tolist(), strict=True)),
                                 "confusion": dict(zip(names, consensus.confusion.tolist(), strict=True))}
    return result


def _member(member: Member, found: Findings, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Measures one member against the labels, people, length and its own votes in the other order."""
    decided = (member.votes != ABSTAIN)
    own: dict[str, Any] = {"kind": member.kind, "criterion": member.criterion, "voted": int(decided.sum()),
                           "ties": int((member.votes == 0).sum()), "abstained": int((~decided).sum()),
                           "agreement": None, "sign_test_p": None, "weight": None}
    if decided.any():
        own["agreement"] = clustered(member.votes[decided] == 1, pairs.clusters[decided], seed)
        own["sign_test_p"] = _sign_test(member.votes, pairs.clusters)
        own["weight"] = float(calibration.log_odds(member.votes[:, None])[0])
    if member.scores is not None and decided.any():
        margins = member.scores[decided, 0] - member.scores[decided, 1]
        own |= {"mean_margin": float(margins.mean()), "std_margin": float(margins.std()),
                "deciles_of_margin": np.quantile(margins, np.arange(1, 10) / 10).tolist()}
    if decided.any():
        words = pairs.words[decided]
        own["length"] = length_measures(words[:, 0], words[:, 1], member.votes[decided] == 1)
        longer = np.sign(words[:, 0] - words[:, 1])
        clear = (longer != 0) & (member.votes[decided] != 0)
        own["prefers_longer"] = float((longer[clear] == member.votes[decided][clear]).mean()) if clear.any() else None
    if member.orders is not None:
        both = (member.orders != ABSTAIN).all(1)
        own["same_in_both_orders"] = (clustered(member.orders[both, 0] == member.orders[both, 1], pairs.clusters[both],
                                                seed) if both.any() else None)
        own["first_order_agreement"] = float((member.orders[both, 0] == 1).mean()) if both.any() else None
        own["swapped_order_agreement"] = float((member.orders[both, 1] == 1).mean()) if both.any() else None
    known = known_labels(pairs)
    judged = known.judged & decided & (member.votes != 0)
    right = (member.votes == 1) == known.right
    own["agreement_with_people"] = clustered(right[judged], pairs.clusters[judged], seed) if judged.any() else None
    return own


def _sign_test(votes: np.ndarray, clusters: np.ndarray) -> float | None:
    """Computes the two-sided p-value of as many votes for the label as against it; a prompt counts once."""
    from scipy import stats

    _, cluster = np.unique(clusters, return_inverse=True)
    sums = np.sign(np.bincount(cluster, np.where(votes == ABSTAIN, 0, votes)))
    wins, losses = int((sums > 0).sum()), int((sums < 0).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else None


def _correlations(found: Findings) -> dict[str, Any]:
    """Computes correlations of the votes over pairs on which both members voted, and what the committee is worth."""
    names, matrix = [member.key for member in found.voting], np.eye(len(found.voting))
    for i, j in itertools.combinations(range(len(names)), 2):
        both = (found.votes[:, [i, j]] != ABSTAIN).all(1)
        first, second = found.votes[both, i].astype(float), found.votes[both, j].astype(float)
        varies = both.sum() > 1 and first.std() > 0 and second.std() > 0
        matrix[i, j] = matrix[j, i] = np.corrcoef(first, second)[0, 1] if varies else np.nan
    off = matrix[~np.eye(len(names), dtype=bool)]
    mean = float(np.nanmean(off)) if len(off) and not np.isnan(off).all() else None
    worth = None if mean is None else len(names) / (1 + (len(names) - 1) * max(mean, 0.0))
    return {"members": names, "matrix": [[_number(value) for value in row] for row in matrix], "mean": mean,
            "independent_members": worth}


def _sizes(found: Findings, pairs: Pairs, seed: int) -> list[dict[str, Any]]:
    """Measures smaller committees, drawn at random: pairs with a minority of votes, and the same verdict as all."""
    rng, total = np.random.default_rng(seed), len(found.voting)
    rows = rng.permutation(len(pairs))[:ABLATION_ROWS]
    votes, known = found.votes[rows], known_labels(pairs)[rows]
    verdict = lambda own: np.sign(np.where(own == ABSTAIN, 0, own).sum(1))
    everyone, result = verdict(votes), []
    for size in range(1, total + 1):
        groups = list(itertools.combinations(range(total), size)) if total <= 12 else []
        if not groups or len(groups) > ABLATION_DRAWS:
            groups = [tuple(rng.permutation(total)[:size]) for _ in range(ABLATION_DRAWS)]
        low, same, right = [], [], []
        for group in groups:
            own = votes[:, list(group)]
            count, verdicts = count_votes(own), verdict(own)
            voted = count.voters > 0
            low.append((2 * count.votes < count.voters)[voted].mean() if voted.any() else np.nan)
            same.append((verdicts == everyone)[voted].mean() if voted.any() else np.nan)
            judged = known.judged & (verdicts != 0)
            right.append(((verdicts > 0) == known.right)[judged].mean() if judged.any() else np.nan)
        known_low = [value for value in low if not np.isnan(value)]
        result.append({"members": size, "low_or_none": _mean(low),
                       "spread": float(np.std(known_low)) if known_low else None,
                       "same_verdict": _mean(same), "agreement_with_people": _mean(right)})
    return result


def _calibration(found: Findings, pairs: Pairs) -> dict[str, Any]:
    known = known_labels(pairs)
    model = calibration.fit(calibration.evidence(found.votes, standardized(found.scores)), found.noise, known)
    wrong = 1 - found.right
    result = {"noise": found.noise, "expected_noise": found.expected_noise, "judged_by_people": int(known.judged.sum()),
              "weights": dict(zip([member.key for member in found.voting], model.weights.tolist(), strict=True)),
              "expected_wrong_labels": float(wrong.mean()), "labels_below_one_half": int((found.right < 0.5).sum()),
              "precision_of_votes": {name: _number(wrong[where].mean()) if where.any() else None for name, where in (
                  ("no votes", (found.count.votes == 0) & (found.count.voters > 0)), ("a minority of votes",
                                                         2 * found.count.votes < found.count.voters))}}
    if known.judged.any():
        result["reliability"] = reliability(found.by_members[known.judged], known.right[known.judged])
    return result


def _people(found: Findings, pairs: Pairs, seed: int) -> dict[str, Any] | None:
    """Compares people with one another, and with the label and the committee."""
    if not any(pairs.people):
        return None
    decisions, most = pairs.decisions, max(map(len, pairs.people))
    names = ["rejected", "tie", "chosen", "both_good", "both_bad"]
    ratings = np.full((len(pairs), most), raters.MISSING)
    for number, own in enumerate(pairs.people):
        for place, answer in enumerate(answer for answer in own if answer in names):
            ratings[number, place] = names.index(answer)
    known = known_labels(pairs)
    result: dict[str, Any] = {
        "rows": sum(map(bool, pairs.people)), "decided": int((decisions != "").sum()),
        "answers": {name: int((decisions == name).sum()) for name in names},
        "agreement": raters.agreement(ratings, len(names), pairs.clusters, seed)}
    if known.judged.any():
        result["label_is_right"] = clustered(known.right[known.judged], pairs.clusters[known.judged], seed)
        count = found.count
        voted = known.judged & (2 * count.votes != count.voters) & (count.voters > 0)
        agrees = (2 * count.votes > count.voters) == known.right
        result["committee_agrees"] = clustered(agrees[voted], pairs.clusters[voted], seed) if voted.any() else None
    return result


def _notes(found: Findings, result: dict[str, Any], clusters: np.ndarray, domains: Sequence[str]) -> list[str]:
    """Lists what one must know to read the numbers."""
    notes, scored = [], [member for member in found.members if member.scores is not None]
    if not scored:
        notes.append("The members give votes alone: sources 5 and 6 are not assigned by the committee, and source 1 "
                     "needs no margin.")
    elif any(member.scores is None for member in found.voting):
        notes.append("Quantiles and margins are those of the members with scores.")
    if scored and not any(member.criterion for member in found.members):
        notes.append("One committee judges both helpfulness and harmlessness: sources 5 and 6 are one, 5|6.")
    if not found.count.voters.any():
        notes.append("No member voted on any pair.")
    if not any(member.criterion is None for member in found.members):
        notes.append("All members have a criterion of their own, and so all vote.")
    if without := result["data"]["prompts"]["lines_without"]:
        notes.append(f"{without:,} rows have no prompt, and members score their answers alone.")
    if len(np.unique(clusters)) < 2:
        notes.append("All pairs have the same prompt: the committee is calibrated on the labels that it judges.")
    if unknown := sorted(set(domains) - set(DOMAINS)):
        notes.append(f"The domain {unknown[0]!r} is none of {', '.join(DOMAINS)}, and is treated as mixed.")
    if len(found.voting) == 1:
        notes.append("A single member votes: agreement among members is not known.")
    for member in found.voting:
        if (member.votes == ABSTAIN).all():
            why = "" if member.orders is None else ": its verdicts differ between both orders, or are missing"
            notes.append(f"Member {member.key} votes on no pair{why}.")
    equal = [(a.key, b.key) for a, b in itertools.combinations(found.voting, 2) if np.array_equal(a.votes, b.votes)
             and (a.votes != ABSTAIN).any()]
    if equal:
        notes.append(f"{len(equal)} pairs of members have the same votes everywhere, such as {equal[0][0]} and "
                     f"{equal[0][1]}: they are one member.")
    elif (worth := result["correlation"]["independent_members"]) is not None and worth < 0.6 * len(found.voting):
        notes.append(f"The members' votes are correlated: {len(found.voting)} members are worth about {worth:.1f} "
                     "independent ones.")
    if result["calibration"]["judged_by_people"] == 0:
        notes.append(f"No people judged the pairs: that about {found.expected_noise:.0%} of the labels are wrong is an "
                     "assumption (committee.noise), and probabilities depend on it.")
    bad = [name for name, own in result["members"].items()
           if own["agreement"] is not None and own["agreement"]["ci_high"] < 0.5]
    if bad:
        notes.append(f"Less than half of the votes of {', '.join(bad)} agree with the labels.")
    if len(found.members) > 1:
        notes.append(f"The sign tests are {len(found.members)} tests: multiply their p-values by that (Bonferroni).")
    return notes


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
