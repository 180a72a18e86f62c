"""What a committee finds on each preference pair: votes, quantiles, calibrated probabilities, sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm import raters
from jaxllm.errors import UserError
from jaxllm.feedback import calibration
from jaxllm.feedback.calibration import Known
from jaxllm.feedback.config import AuditConfig
from jaxllm.feedback.data import CRITERIA, DOMAIN, DOMAINS, Pairs
from jaxllm.feedback.scores import Member
from jaxllm.feedback.sources import Committee, assign, nanmedian, quantiles, standardized_margins
from jaxllm.feedback.votes import ABSTAIN, Count, buckets, count_votes
from jaxllm.statistics import distinct_rows

# Categories of raters: the label is wrong, a tie, the label is right.
CATEGORIES = 3


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
    domains = [name if name in DOMAINS else DOMAIN for name in pairs.domains]
    _, domain = np.unique(np.asarray(domains, dtype=str), return_inverse=True)
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
    source, rule = assign(count.votes, (votes == -1).sum(1), count.voters, whole, by_criterion, domains,
                          pairs.decisions, config.sources)
    by_members = calibration.cross_fit(x, pairs.clusters, noise, known, config.seed, config.folds)
    return Findings(
        members, voting, votes, scores, whole.mean, nanmedian(margins), count, buckets(count, config.committee.edges),
        calibration.weighted_votes(votes, pairs.clusters, config.seed, config.folds), by_members,
        calibration.with_people(by_members, pairs.decisions), _consensus(votes), source, rule, noise, expected)


def standardized(scores: np.ndarray) -> np.ndarray:
    """Computes the standardized margins of members `[N, M]` from scores `[N, M, 2]`."""
    return np.stack([standardized_margins(own) for own in np.moveaxis(scores, 1, 0)], 1)


def patterns_of(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct rows of ratings, how often each occurs, and that of each pair."""
    ratings = np.where(votes == ABSTAIN, raters.MISSING, votes + 1)
    patterns, _, pattern = distinct_rows(ratings)
    return patterns, np.bincount(pattern), pattern


def _consensus(votes: np.ndarray) -> np.ndarray:
    patterns, counts, pattern = patterns_of(votes)
    posterior = raters.dawid_skene(patterns, CATEGORIES, weights=counts).posterior
    right = posterior[:, 2] / (posterior[:, 0] + posterior[:, 2])
    return np.where((patterns == raters.MISSING).all(1), np.nan, right)[pattern]


def suspicious(found: Findings) -> np.ndarray:
    """Orders pairs from the label that is least likely to be right; without voters last."""
    return np.lexsort((np.arange(len(found.right)), found.right, found.count.voters == 0))


def informative(found: Findings, decisions: np.ndarray, limit: int) -> np.ndarray:
    """Returns the pairs of which people's answers would add most: by the members, the probability that the label is
    right is nearest to one half; those with more voters first, and those that people have decided last.

    Args:
        found: the findings.
        decisions: answer of most people, `[N]` text; "" without one.
        limit: number of pairs.
    """
    return np.lexsort((-found.count.voters, np.abs(found.by_members - 0.5), decisions != ""))[:limit]
