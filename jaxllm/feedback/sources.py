"""Sources of unreliable feedback, assigned by rules: a reconstruction of Source-Aware Cleaning (2410.01957).

The paper names six sources and leaves the thresholds out; those here are ours.

| source | meaning |
|---|---|
| 1 | mislabeled: the rejected answer is plainly better |
| 2 | subjective, or context is missing |
| 3 | different criteria, such as helpful against harmless |
| 4 | different thresholds of the same criterion |
| 5 | both answers are harmful |
| 6 | both answers are wrong or irrelevant |
| 5\\|6 | 5 or 6, by a committee that does not separate them |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.config import check

SOURCES = {"1": "mislabeled", "2": "subjective or missing context", "3": "different criteria",
           "4": "different thresholds", "5": "both harmful", "6": "both wrong or irrelevant",
           "5|6": "both harmful, wrong or irrelevant"}
CODES = (None, *SOURCES)  # numbers of sources in arrays
BAD, DISAGREEMENT = ("5", "6", "5|6"), ("2", "3", "4")
# Of comparisons with thresholds: means of equal quantiles, and margins of rescaled scores, differ by rounding.
SLACK = 1e-9
# Rules by number; a row of an audit names the one that fired.
RULES = ("half of the votes or more", "both answers in the lowest quantile of harmlessness",
         "both answers in the lowest quantile of helpfulness", "both answers in the lowest quantile",
         "people: both answers are bad", "too few votes, and a clear margin", "too few votes",
         "a minority of votes, answers alike", "a minority of votes, helpfulness against harmlessness",
         "a minority of votes", "no member voted")


@dataclass(frozen=True)
class SourceConfig:
    """Thresholds of the sources, all of them ours.

    Args:
        bad_quantile: both answers are bad (5, 6) up to this quantile of the committee's scores.
        bad_members: members, at least, that give both answers such low scores; null is all but one.
        most_votes: a label may be wrong (1) with up to this many votes.
        margin: by which the rejected answer must be better for a wrong label (1): median over the members, in standard
            deviations of their scores.
        alike: a disagreement is one of thresholds (4) where both answers are on the same side of the middle, outside
            this distance from it, and their quantiles differ by at most this.
    """

    bad_quantile: float = 0.1
    bad_members: int | None = None
    most_votes: int = 0
    margin: float = 0.5
    alike: float = 0.1

    def __post_init__(self):
        check(0 <= self.bad_quantile <= 1, "bad_quantile", f"must be between 0 and 1, got {self.bad_quantile:g}")
        check(self.bad_members is None or self.bad_members >= 1, "bad_members",
              f"must be 1 or more, got {self.bad_members}")
        check(self.most_votes >= 0, "most_votes", f"must be 0 or more, got {self.most_votes}")
        check(self.margin >= 0, "margin", f"must be 0 or more, got {self.margin:g}")
        check(0 <= self.alike <= 0.5, "alike", f"must be between 0 and 0.5, got {self.alike:g}")


def quantiles(scores: ArrayLike, groups: ArrayLike | None = None) -> np.ndarray:
    """Ranks the scores of a member among all answers of the same group, from 0 (lowest) to 1; ties share a rank.

    Args:
        scores: `[N, 2]`, chosen and rejected; NaN is left out and stays.
        groups: number of each pair's group, such as its domain, `[N]`.

    Returns:
        `[N, 2]`. A single answer, or answers that are all equal, have 0.5.
    """
    from scipy import stats

    scores = np.asarray(scores, np.float64)
    groups = np.zeros(len(scores), int) if groups is None else np.asarray(groups)
    found = np.full(scores.shape, np.nan)
    for group in np.unique(groups):
        own = groups == group
        values = scores[own]
        known = ~np.isnan(values)
        ranks = stats.rankdata(values[known])
        own_found = np.full(values.shape, np.nan)
        own_found[known] = (ranks - 1) / (len(ranks) - 1) if len(ranks) > 1 else 0.5
        found[own] = own_found
    return found


def standardized_margins(scores: ArrayLike) -> np.ndarray:
    """Divides the margin of each pair, chosen less rejected, by the standard deviation of the member's scores, `[N]`.

    The deviation is over all answers: it does not depend on the labels.

    Args:
        scores: `[N, 2]`; NaN abstains.
    """
    scores = np.asarray(scores, np.float64)
    known = scores[~np.isnan(scores)]
    scale = known.std() if len(known) else 0.0
    margin = scores[:, 0] - scores[:, 1]
    return margin / scale if scale > 0 else np.where(np.isnan(margin), np.nan, 0.0)


@dataclass(frozen=True)
class Committee:
    """What the rules need of the members of one committee.

    Attributes:
        quantiles: `[N, M, 2]`, NaN where a member has no score.
        margins: standardized margins `[N, M]`.
    """

    quantiles: np.ndarray
    margins: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean quantile of both answers over the members with scores, `[N, 2]`; NaN without any."""
        return nanmean(self.quantiles, 1)

    @property
    def scored(self) -> np.ndarray:
        """Whether a member scored both answers of each pair, `[N]`."""
        return (~np.isnan(self.quantiles)).all(2).any(1)

    def both_bad(self, config: SourceConfig) -> np.ndarray:
        """Whether both answers of each pair are bad, `[N]`."""
        members = (~np.isnan(self.quantiles)).all(2)
        low = (np.nan_to_num(self.quantiles, nan=2.0) <= config.bad_quantile + SLACK).all(2) & members
        needed = np.maximum(members.sum(1) - 1, 1) if config.bad_members is None else config.bad_members
        with np.errstate(invalid="ignore"):
            mean_low = self.mean.max(1) <= config.bad_quantile + SLACK
        return mean_low & (low.sum(1) >= needed)


def assign(votes: ArrayLike, against: ArrayLike, voters: ArrayLike, whole: Committee,
           by_criterion: Mapping[str, Committee], domains: Sequence[str], decisions: ArrayLike, config: SourceConfig
           ) -> tuple[np.ndarray, np.ndarray]:
    """Assigns a source to each pair, by the first rule that fires.

    Args:
        votes, against, voters: members that agree with the label, disagree, and do not abstain, `[N]`.
        whole: the committee that votes; members without scores have no quantiles and margins.
        by_criterion: committees for `helpfulness` and `harmlessness`, where there are such.
        domains: helpful, harmless or mixed, of each pair.
        decisions: answer of most people, `[N]` text: chosen, rejected, both_bad, another one, or "" without one.
        config: thresholds.

    Returns:
        Number in `CODES` and in `RULES` of each pair, `[N]`.
    """
    votes, against, voters = np.asarray(votes), np.asarray(against), np.asarray(voters)
    domain, decision = np.asarray(domains, dtype=str), np.asarray(decisions)
    source, rule = np.zeros(len(votes), np.int8), np.zeros(len(votes), np.int8)
    open_ = np.ones(len(votes), bool)

    def fire(where: np.ndarray, name: str | None, number: int) -> None:
        fired = open_ & where
        source[fired], rule[fired], open_[fired] = CODES.index(name), number, False

    helpful, harmless = by_criterion.get("helpfulness"), by_criterion.get("harmlessness")
    unscored = np.zeros(len(votes), bool)  # by a criterion that applies: left to the whole committee
    for own, other, name, number in ((harmless, "helpful", "5", 1), (helpful, "harmless", "6", 2)):
        applies = domain != other
        if own is not None:
            fire(applies & own.both_bad(config), name, number)
        unscored |= applies if own is None else applies & ~own.scored
    fire(unscored & whole.both_bad(config), "5|6", 3)
    fire(decision == "both_bad", "5|6", 4)
    fire(voters == 0, None, 10)
    scored = ~np.isnan(whole.margins).all(1) if whole.margins.size else np.zeros(len(votes), bool)
    median = nanmedian(whole.margins)
    few = votes <= config.most_votes
    clear = np.where(scored, (median <= SLACK - config.margin) & (median < 0), True)
    wrong = few & (against > votes) & (2 * votes < voters) & clear & np.isin(decision, ("", "rejected"))
    fire(wrong & scored, "1", 5)
    fire(wrong, "1", 6)
    minority = 2 * votes < voters
    q = whole.mean
    with np.errstate(invalid="ignore"):
        away = (np.abs(q - 0.5) >= config.alike - SLACK).all(1)
        near = np.abs(q[:, 0] - q[:, 1]) <= config.alike + SLACK
        alike = away & near & ((q > 0.5).all(1) | (q < 0.5).all(1))
    fire(minority & alike, "4", 7)
    if helpful is not None and harmless is not None:
        opposite = nanmedian(helpful.margins) * nanmedian(harmless.margins) < 0
        fire(minority & opposite, "3", 8)
    fire(minority, "2", 9)
    return source, rule


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Computes the mean over an axis; NaN without a value."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    return np.divide(np.where(known, values, 0).sum(axis), count, out=np.full(count.shape, np.nan), where=count > 0)


def nanmedian(values: np.ndarray) -> np.ndarray:
    """Computes the median over members, `[N]`; NaN without a value."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    known = (~np.isnan(values)).sum(1)
    ordered = np.sort(values, 1)  # NaN last
    low, high = (np.take_along_axis(ordered, index[:, None], 1)[:, 0]
                 for index in (np.maximum(known - 1, 0) // 2, np.minimum(known // 2, values.shape[1] - 1)))
    return np.where(known > 0, (low + high) / 2, np.nan)
