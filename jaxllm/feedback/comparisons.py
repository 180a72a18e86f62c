"""Members of a committee against the labels, people, length and one another, and smaller committees."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm import raters
from jaxllm.feedback import calibration
from jaxllm.feedback.data import Pairs
from jaxllm.feedback.findings import CATEGORIES, Findings, known_labels, patterns_of
from jaxllm.feedback.scores import Member
from jaxllm.feedback.votes import ABSTAIN, count_votes
from jaxllm.measures import length_measures
from jaxllm.statistics import rate

# Pairs and random committees of each size for the effect of the size.
ABLATION_ROWS, ABLATION_DRAWS = 20_000, 50


def compare_member(member: Member, found: Findings, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Measures one member against the labels, people, length and its own votes in the other order."""
    decided = (member.votes != ABSTAIN)
    own: dict[str, Any] = {"kind": member.kind, "criterion": member.criterion, "voted": int(decided.sum()),
                           "ties": int((member.votes == 0).sum()), "abstained": int((~decided).sum()),
                           "agreement": None, "sign_test_p": None, "weight": None}
    if decided.any():
        own["agreement"] = rate(member.votes[decided] == 1, pairs.units[decided], seed)
        own["sign_test_p"] = _sign_test(member.votes, pairs.units)
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
        own["same_in_both_orders"] = (rate(member.orders[both, 0] == member.orders[both, 1], pairs.units[both], seed)
                                      if both.any() else None)
        own["first_order_agreement"] = float((member.orders[both, 0] == 1).mean()) if both.any() else None
        own["swapped_order_agreement"] = float((member.orders[both, 1] == 1).mean()) if both.any() else None
    if member.verdicts is not None:
        own["verdicts"] = dict(member.verdicts)
    known = known_labels(pairs)
    judged = known.judged & decided & (member.votes != 0)
    right = (member.votes == 1) == known.right
    own["agreement_with_people"] = rate(right[judged], pairs.units[judged], seed) if judged.any() else None
    return own


def _sign_test(votes: np.ndarray, clusters: np.ndarray) -> float | None:
    """Computes the two-sided p-value of as many votes for the label as against it; a cluster counts once."""
    from scipy import stats

    _, cluster = np.unique(clusters, return_inverse=True)
    sums = np.sign(np.bincount(cluster, np.where(votes == ABSTAIN, 0, votes)))
    wins, losses = int((sums > 0).sum()), int((sums < 0).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else None


def kappas(found: Findings, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Measures how far the voting members agree with one another, and their consensus."""
    ratings = np.where(found.votes == ABSTAIN, raters.MISSING, found.votes + 1)
    result = raters.agreement(ratings, CATEGORIES, pairs.units, seed)
    names = [member.key for member in found.voting]
    result["cohen"] = {names[i]: {names[j]: _number(raters.cohen_kappa(ratings[:, i], ratings[:, j], CATEGORIES))
                                  for j in range(i + 1, len(names))} for i in range(len(names) - 1)}
    patterns, counts, _ = patterns_of(found.votes)
    if len(names) > 1 and (patterns != raters.MISSING).any():
        consensus = raters.dawid_skene(patterns, CATEGORIES, weights=counts)
        result["dawid_skene"] = {"prior": dict(zip(("wrong", "tie", "right"), consensus.prior.tolist(), strict=True)),
                                 "confusion": dict(zip(names, consensus.confusion.tolist(), strict=True))}
    return result


def correlations(found: Findings) -> dict[str, Any]:
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


def smaller_committees(found: Findings, pairs: Pairs, seed: int) -> list[dict[str, Any]]:
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


def compare_people(found: Findings, pairs: Pairs, seed: int) -> dict[str, Any] | None:
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
        "answers": {name: int((ratings == number).sum()) for number, name in enumerate(names)},
        "agreement": raters.agreement(ratings, len(names), pairs.units, seed)}
    if known.judged.any():
        result["label_is_right"] = rate(known.right[known.judged], pairs.units[known.judged], seed)
        count = found.count
        voted = known.judged & (2 * count.votes != count.voters) & (count.voters > 0)
        agrees = (2 * count.votes > count.voters) == known.right
        result["committee_agrees"] = rate(agrees[voted], pairs.units[voted], seed) if voted.any() else None
    return result


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
