"""The gate in front of flips: which of a method's flips are refused, by their estimated precision.

A rule that flips by votes is divided into steps, by the number of votes for the label; any other is one step. The
precision of a step is the mean probability of its pairs that the label is wrong, by the calibrated committee. Steps
below one half are refused, and their rows stay as they are; where a threshold reaches too far, the reliable flips are
done all the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxllm.feedback.cleaning_config import Config
from jaxllm.feedback.methods import FLIP, KEEP, SOFT, Decision, Inputs
from jaxllm.progress import notice

# Flips with an estimated precision below this are refused.
GATE = 0.5


def steps_of(decision: Decision, inputs: Inputs, where: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Divides pairs of one rule into steps.

    Args:
        decision: outcome of the method.
        inputs: inputs of the method.
        where: the pairs, `[N]` bool.

    Returns:
        Number of the step of each of these pairs, and the names of the steps; the name is "" where there is one step.
    """
    if inputs.audit is None or not decision.by_votes:
        return np.zeros(int(where.sum()), int), [""]
    pairs = np.stack([column[where] for column in inputs.votes], 1)
    counts, step = np.unique(pairs, axis=0, return_inverse=True)
    names = [f"{votes} of {voters} votes" for votes, voters in counts.tolist()]
    return step.reshape(-1), names if len(names) > 1 else [""]


def pass_flips(config: Config, decision: Decision, inputs: Inputs) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Refuses the flips of steps with a low estimated precision, in place.

    Returns:
        The flips of the method as a whole: `flips`, `estimated_precision`, `doubtful` (more likely right than wrong),
        and `refused`, whether all are; and the same of each step of each rule. Estimates are None without an audit.
    """
    flips = decision.action == FLIP
    wrong = None if inputs.audit is None else 1 - inputs.audit["right"]
    total: dict[str, Any] = {"flips": int(flips.sum()), "estimated_precision": None, "refused": False}
    if not flips.any():
        return total, []
    total |= _estimates(wrong, flips)
    steps: list[dict[str, Any]] = []
    for number in np.unique(decision.rule[flips]):
        own = flips & (decision.rule == number)
        step, names = steps_of(decision, inputs, own)
        rule, first = decision.rules[number], len(steps)
        for value, name in enumerate(names):
            where = own.copy()
            where[own] = step == value
            found = {"rule": rule, "step": name or None, "flips": int(where.sum()), **_estimates(wrong, where)}
            precision = found["estimated_precision"]
            found["refused"] = not config.force and (precision is None or precision < GATE)
            steps.append(found)
            if found["refused"]:
                of = f" ({name})" if name else ""
                decision.set(where, KEEP, f"{rule}; the flip is refused: its estimated precision is "
                                          f"{_shown(precision)}{of}")
        _notify(config, rule, steps[first:])
    total["refused"] = all(found["refused"] for found in steps)
    return total, steps


def _estimates(wrong: np.ndarray | None, where: np.ndarray) -> dict[str, Any]:
    if wrong is None:
        return {"estimated_precision": None, "doubtful": None}
    return {"estimated_precision": float(wrong[where].mean()), "doubtful": int((wrong[where] < GATE).sum())}


def warn_of_soft_labels(config: Config, decision: Decision) -> None:
    """Warns of soft labels below one half that are no calibrated probabilities."""
    turned = int(((decision.action == SOFT) & (decision.value < 0.5)).sum())
    if turned and not str(config.method).endswith("calibrated"):
        notice(f"warning: {turned:,} labels have a probability below one half by the share of votes, which turns them "
               "around in training, without a check of the committee; soft_calibrated takes calibrated probabilities")


def _notify(config: Config, rule: str, steps: list[dict[str, Any]]) -> None:
    """Prints which flips of a rule are refused, or done although they are doubtful."""
    doubtful = [one for one in steps if one["estimated_precision"] is None or one["estimated_precision"] < GATE]
    if not doubtful:
        return
    count, total = sum(one["flips"] for one in doubtful), sum(one["flips"] for one in steps)
    known = ", ".join(_shown(one["estimated_precision"]) + (f" ({one['step']})" if one["step"] else "")
                      for one in doubtful)
    if config.force:
        notice(f"warning: {count:,} labels are flipped by --force ({rule}), and the estimated precision is {known}: "
               "most of these labels may have been right")
        return
    notice(f"{count:,} of {total:,} flips are refused ({rule}), and the rows stay as they are: the estimated precision "
           f"is {known}, and below {GATE:g} a flip spoils more labels than it mends. Remove the rows instead "
           f"({_removing(config)}), or force the flips with --force true.")


def _shown(precision: float | None) -> str:
    return "not known without an audit" if precision is None else f"{precision:.2f}"


def _removing(config: Config) -> str:
    if config.method == "sac":
        return "--actions.mislabeled remove"
    return f"--method {str(config.method)[:-2]}_r" if str(config.method).endswith("_f") else "--action remove"
