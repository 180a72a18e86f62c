"""What one must know to read the numbers of an audit, as sentences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.feedback.data import CRITERIA, DOMAINS
from jaxllm.feedback.findings import Findings
from jaxllm.feedback.votes import ABSTAIN


def notes_on(found: Findings, result: dict[str, Any], clusters: np.ndarray, domains: Sequence[str]) -> list[str]:
    """Lists what one must know to read the numbers."""
    notes, scored = [], [member for member in found.members if member.scores is not None]
    voting = [member for member in found.voting if member.scores is not None]
    if not scored:
        notes.append("The members give votes alone: sources 5 and 6 are not assigned by the committee, and source 1 "
                     "needs no margin.")
    elif not voting:
        notes.append("The members that vote give no scores: source 1 needs no margin, and sources 5 and 6 are those of "
                     "the members with a criterion.")
    elif len(voting) < len(found.voting):
        notes.append("Quantiles and margins are those of the members with scores.")
    absent = [name for name in CRITERIA if name not in {member.criterion for member in scored}]
    if scored and len(absent) == len(CRITERIA):
        notes.append("One committee judges both helpfulness and harmlessness: sources 5 and 6 are one, 5|6.")
    elif voting and absent:
        notes.append(f"No member scores {absent[0]} alone: where it counts, the whole committee does, and the source "
                     "is 5|6.")
    if not found.count.voters.any():
        notes.append("No member voted on any pair.")
    if not any(member.criterion is None for member in found.members):
        notes.append("All members have a criterion of their own, and so all vote.")
    if without := result["data"]["prompts"]["lines_without"]:
        notes.append(f"{without:,} rows have no prompt, and members score their answers alone.")
    if len(np.unique(clusters)) < 2:
        notes.append("All pairs have the same prompt: the committee is calibrated on the labels that it judges, and "
                     "intervals resample pairs.")
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
