"""The gate in front of flips: which of a method's flips are refused, by their estimated precision.

A rule that flips by votes is divided into steps, by the number of votes for the label; any other is one step. The
precision of a step is the mean probability of its pairs that the label is wrong, by the calibrated committee. Steps
below one half are refused, and their rows stay as they are; where a threshold reaches too far, the reliable flips are
done all the same. A label probability below one half is a flip too: in refused steps it is one half.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jaxllm.feedback.cleaning_config import Config
from jaxllm.feedback.ledger import FLIP, KEEP, REMOVE, SOFT, UNPAIRED
from jaxllm.feedback.methods import Decision, Inputs, decide
from jaxllm.progress import notice
from jaxllm.statistics import distinct_rows

# Flips with an estimated precision below this are refused.
GATE = 0.5


def steps_of(decision: Decision, inputs: Inputs, where: np.ndarray, by_votes: bool
             ) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields the steps of some pairs: the rule, the step's name, "" where the rule has one, its pairs, `[N]` bool.

    Args:
        decision: outcome of the method.
        inputs: inputs of the method.
        where: the pairs, `[N]` bool.
        by_votes: divide a rule's pairs by their number of votes.
    """
    for number in np.unique(decision.rule[where]):
        own = where & (decision.rule == number)
        names, step = [""], np.zeros(int(own.sum()), int)
        if by_votes and inputs.audit is not None:
            counts, _, step = distinct_rows(np.stack([column[own] for column in inputs.votes], 1))
            names = [f"{votes} of {voters} votes" for votes, voters in counts.tolist()]
        for value, name in enumerate(names):
            pairs = own.copy()
            pairs[own] = step == value
            yield decision.rules[number], name if len(names) > 1 else "", pairs


def pass_flips(config: Config, decision: Decision, inputs: Inputs) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Refuses the flips of steps with a low estimated precision, in place.

    Returns:
        The flips of the method as a whole: `flips`, `estimated_precision`, `doubtful` (more likely right than wrong),
        and `refused`, whether all are; and the same of each step of each rule. Estimates are None without an audit.
    """
    total, steps = _refuse_flips(config, decision, inputs)
    for rule, own in itertools.groupby(steps, lambda step: step["rule"]):
        _notify(config, rule, list(own))
    return total, steps


def count_of_cleaning(config: Config, inputs: Inputs) -> int:
    """Counts the pairs that Source-Aware Cleaning flips or removes, without the flips that are refused."""
    own = replace(config, method="sac", action=None)
    decision = decide(own, inputs)
    _refuse_flips(own, decision, inputs)
    return int(np.isin(decision.action, (FLIP, REMOVE, UNPAIRED)).sum())


def _refuse_flips(config: Config, decision: Decision, inputs: Inputs) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    flips = decision.action == FLIP
    wrong = None if inputs.audit is None else 1 - inputs.audit["right"]
    total: dict[str, Any] = {"flips": int(flips.sum()), "estimated_precision": None, "refused": False}
    if not flips.any():
        return total, []
    total |= _estimates(wrong, flips)
    steps: list[dict[str, Any]] = []
    for rule, name, where in steps_of(decision, inputs, flips, decision.by_votes):
        step = _step(config, rule, name, "flips", wrong, where)
        steps.append(step)
        if step["refused"]:
            decision.set(where, KEEP, f"{rule}; the flip is refused: its estimated precision is {_shown(step)}")
    total["refused"] = all(found["refused"] for found in steps)
    return total, steps


def limit_soft_labels(config: Config, decision: Decision, inputs: Inputs) -> list[dict[str, Any]]:
    """Sets label probabilities below one half, which are flips in training, to one half in steps with a low estimated
    precision, in place.

    Shares of votes are divided by the number of votes; calibrated probabilities below one half are never such.

    Returns:
        The steps of these labels, as those of flips; `labels` counts them.
    """
    turned = (decision.action == SOFT) & (decision.value < 0.5)
    if inputs.audit is None or not turned.any():
        return []
    steps: list[dict[str, Any]] = []
    for rule, name, where in steps_of(decision, inputs, turned, by_votes=True):
        step = _step(config, rule, name, "labels", 1 - inputs.audit["right"], where)
        steps.append(step)
        if step["refused"]:
            decision.set(where, SOFT, f"{rule}; the label is set to one half: the estimated precision of its reversal "
                                      f"is {_shown(step)}", 0.5)
    if doubtful := [step for step in steps if step["estimated_precision"] < GATE]:
        done = "they stay so by --force" if config.force else "they are set to 0.5; --force true leaves the shares"
        notice(f"{'warning: ' if config.force else ''}{sum(step['labels'] for step in doubtful):,} labels have a share "
               "of votes below one half, which turns them around in training, with an estimated precision of "
               f"{', '.join(map(_shown, doubtful))}: {done}. soft_calibrated takes calibrated probabilities.")
    return steps


def _step(config: Config, rule: str, name: str, unit: str, wrong: np.ndarray | None, where: np.ndarray
          ) -> dict[str, Any]:
    own = {"rule": rule, "step": name or None, unit: int(where.sum()), **_estimates(wrong, where)}
    precision = own["estimated_precision"]
    return own | {"refused": not config.force and (precision is None or precision < GATE)}


def _estimates(wrong: np.ndarray | None, where: np.ndarray) -> dict[str, Any]:
    if wrong is None:
        return {"estimated_precision": None, "doubtful": None}
    return {"estimated_precision": float(wrong[where].mean()), "doubtful": int((wrong[where] < GATE).sum())}


def _notify(config: Config, rule: str, steps: list[dict[str, Any]]) -> None:
    """Prints which flips of a rule are refused, or done although they are doubtful."""
    doubtful = [one for one in steps if one["estimated_precision"] is None or one["estimated_precision"] < GATE]
    if not doubtful:
        return
    count, total = sum(one["flips"] for one in doubtful), sum(one["flips"] for one in steps)
    known = ", ".join(map(_shown, doubtful))
    if config.force:
        notice(f"warning: {count:,} labels are flipped by --force ({rule}), and the estimated precision is {known}: "
               "most of these labels may have been right")
        return
    notice(f"{count:,} of {total:,} flips are refused ({rule}), and the rows stay as they are: the estimated precision "
           f"is {known}, and below {GATE:g} a flip spoils more labels than it mends. Remove the rows instead "
           f"({_removing(config)}), or force the flips with --force true.")


def _shown(step: dict[str, Any]) -> str:
    precision = step["estimated_precision"]
    known = "not known without an audit" if precision is None else f"{precision:.2f}"
    return known + (f" ({step['step']})" if step["step"] else "")


def _removing(config: Config) -> str:
    if config.method == "sac":
        return "--actions.mislabeled remove"
    return f"--method {str(config.method)[:-2]}_r" if str(config.method).endswith("_f") else "--action remove"
