"""Measures of a comparison: shares of wins, ties and losses, the length-controlled win rate, and the sign test.

All intervals are meant for 95 % coverage and take whole prompts as units: several rows with one prompt are not
independent. Rates that are the same for all prompts have exact binomial intervals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.statistics import clustered, rate

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
# Of a row, for side A; None where a verdict is invalid.
Outcome = Literal["win", "tie", "loss"]
# An answer that a judge prefers.
Verdict = Literal["a", "b", "tie"]
Disagreement = Literal["tie", "leave_out", "mean"]

# Share -> value of each outcome.
SHARES: dict[str, dict[Outcome, float]] = {
    "win": {"win": 1.0}, "tie": {"tie": 1.0}, "loss": {"loss": 1.0}, "win_tie": {"win": 1.0, "tie": 1.0},
    "net_win": {"win": 1.0, "loss": -1.0}, "win_rate": {"win": 1.0, "tie": 0.5}}
# Weight of the squared slope in the regression on length, which stays finite where length separates wins from losses.
# Elsewhere it moves the estimate little, since lengths are centered: with a hundred rows and a slope of 1.5 per
# standard deviation by 0.03 of its standard error (median).
SLOPE_PENALTY = 0.1
# Standard deviations from the mean difference in length beyond which no win rate at equal length is estimated.
FARTHEST = 3.0
_NORMAL_975 = 1.959963984540054
_ITERATIONS, _TOLERANCE = 200, 1e-12


def outcome(verdicts: Sequence[Verdict | None], disagreement: Disagreement = "tie") -> Outcome | None:
    """Combines the verdicts of all orders of presentation into the outcome for side A.

    Args:
        verdicts: one per order; None is an invalid one.
        disagreement: outcome of verdicts that differ: none with `leave_out`, else a tie.

    Returns:
        The outcome; None if a verdict is invalid, because the others alone depend on the order of presentation.
    """
    if None in verdicts:
        return None
    if len(set(verdicts)) > 1:
        return None if disagreement == "leave_out" else "tie"
    return {"a": "win", "b": "loss", "tie": "tie"}[verdicts[0]]  # type: ignore[index,return-value]


def higher(a: float, b: float) -> Verdict:
    """Returns the side with the higher score; equal scores tie."""
    return "tie" if a == b else "a" if a > b else "b"


def word_count(text: str) -> int:
    """Counts the words of an answer: what is between blanks."""
    return len(text.split())


def shares(outcomes: Sequence[Outcome], prompts: Sequence[Hashable], seed: int = 0) -> dict[str, Any]:
    """Computes the shares of the outcomes with intervals.

    Args:
        outcomes: one per row, at least one.
        prompts: the prompt of every row, in the same order.
        seed: seed of the resampling.

    Returns:
        Each as in `statistics.clustered`: `win`, `tie`, `loss`; `win_tie`, wins and ties, the rate at which A is at
        least as good (PrefCleanBench, 2509.23564; 1 for equal sides); `net_win`, wins less losses (0 for equal sides);
        `win_rate`, wins and half of the ties (one half for equal sides).
    """
    return {name: rate([value.get(one, 0.0) for one in outcomes], prompts, seed, min(0.0, *value.values()))
            for name, value in SHARES.items()}


def scores_of(outcomes: Sequence[Outcome]) -> list[float]:
    """Returns 1 for a win, one half for a tie and 0 for a loss."""
    return [SHARES["win_rate"].get(one, 0.0) for one in outcomes]


def sign_test(outcomes: Sequence[Outcome], prompts: Sequence[Hashable]) -> float:
    """Computes the two-sided p-value of the exact sign test of wins against losses; ties do not count.

    A prompt with several rows counts once: for the side with more wins in them.
    """
    from scipy import stats  # takes half a second to import, and only results need it

    balance: dict[str, int] = {}
    for one, prompt in zip(outcomes, prompts, strict=True):
        balance[str(prompt)] = balance.get(str(prompt), 0) + {"win": 1, "tie": 0, "loss": -1}[one]
    wins, losses = (sum(sign * value > 0 for value in balance.values()) for sign in (1, -1))
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def extrapolated(differences: ArrayLike) -> str | None:
    """Returns why the answers do not show the win rate at equal length, or None: they all differ by about as much."""
    length = np.asarray(differences, np.float64)
    mean, spread = float(length.mean()), float(length.std())
    if abs(mean) <= FARTHEST * spread:
        return None
    return f"the difference in length is {mean:.3g} on average with a standard deviation of {spread:.2g}"


def length_controlled(scores: ArrayLike, differences: ArrayLike, clusters: Sequence[Hashable]
                      ) -> dict[str, float | int] | None:
    """Estimates the win rate of A between answers of equal length (the idea of AlpacaEval 2, 2404.04475).

    A logistic regression of the score on `x`, the difference in length less its mean, divided by its standard
    deviation. The estimate is the probability at the `x` of equal length:

        maximize sum_i [s_i log p_i + (1 - s_i) log(1 - p_i)] - SLOPE_PENALTY / 2 slope^2
        p_i = logistic(intercept + slope x_i)

    With answers of equal length, and where all scores are 0 or all 1, the estimate is the win rate itself.

    Args:
        scores: per row 1 for a win of A, 0 for a loss, one half for a tie; at least one.
        differences: length of A's answer less that of B's, in the same order.
        clusters: the cluster of every row.

    Returns:
        `{mean, ci_low, ci_high, n}`; the interval is by cluster-robust standard errors. None where equal length is more
        than `FARTHEST` standard deviations from the mean difference: see `extrapolated`.

    Raises:
        ValueError: there are no scores.
    """
    won, length = np.asarray(scores, np.float64), np.asarray(differences, np.float64)
    if not won.size:
        raise ValueError("the mean of no values")
    if extrapolated(length) is not None:
        return None
    if won.mean() in (0.0, 1.0):
        return rate(won, clusters)
    scale = float(length.std()) or 1.0
    inputs = np.stack([np.ones_like(won), (length - length.mean()) / scale], -1)
    logit, error = _fit(inputs, won, clusters, np.array([1.0, -length.mean() / scale]))
    low, high = (float(_logistic(logit + sign * _NORMAL_975 * error)) for sign in (-1, 1))
    return {"mean": float(_logistic(logit)), "ci_low": low, "ci_high": high, "n": int(won.size)}


def compared(table: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Computes the measures of a comparison.

    Args:
        table: rows `{prompt, answer_a, answer_b, verdicts, score_a, score_b, outcome, words_a, words_b}`, at least one.
        seed: seed of the resampling.

    Returns:
        The measures of `shares` and others with intervals: `length_controlled_win_rate`, with
        `length_controlled_reason` where it is None for the lengths of the answers; `position_consistency`, the share of
        prompts with the same verdict in both orders among those with two valid ones; `first_wins`, the share of
        verdicts for the answer that is read first among those for either; `invalid_verdicts`, a share of all verdicts;
        means of `score_a`, `score_b`, their difference `net_score`, `words_a` and `words_b`. Counts: `outcomes`,
        `identical_answers`.
        `sign_test_p`: see `sign_test`. A measure that no row has a value for is None.
    """
    mean = lambda pairs, of=clustered: of([float(value) for value, _ in pairs], [prompt for _, prompt in pairs], seed
                                          ) if pairs else None
    rows = [(row, json.dumps(row["prompt"])) for row in table]
    verdicts = [(verdict, order, prompt) for row, prompt in rows for order, verdict in row["verdicts"].items()]
    both = [(set(row["verdicts"].values()), prompt) for row, prompt in rows if len(row["verdicts"]) > 1]
    sided = [(verdict == order[0], prompt) for verdict, order, prompt in verdicts if both and verdict in SIDES]
    scored = [(row["score_a"], row["score_b"], prompt) for row, prompt in rows if row["score_a"] is not None]
    return {
        **_rates([(row, prompt) for row, prompt in rows if row["outcome"] is not None], seed),
        "outcomes": {name: sum(row["outcome"] == value for row in table)
                     for name, value in (("win", "win"), ("tie", "tie"), ("loss", "loss"), ("none", None))},
        "position_consistency": mean([(len(own) == 1, prompt) for own, prompt in both if None not in own], rate),
        "first_wins": mean(sided, rate),
        "invalid_verdicts": mean([(verdict is None, prompt) for verdict, _, prompt in verdicts], rate),
        "score_a": mean([(a, prompt) for a, _, prompt in scored]),
        "score_b": mean([(b, prompt) for _, b, prompt in scored]),
        "net_score": mean([(a - b, prompt) for a, b, prompt in scored]),
        **{f"words_{side}": mean([(row[f"words_{side}"], prompt) for row, prompt in rows]) for side in SIDES},
        "identical_answers": sum(row["answer_a"] == row["answer_b"] for row in table)}


def _rates(rows: Sequence[tuple[Mapping[str, Any], str]], seed: int) -> dict[str, Any]:
    """Computes the measures of rows with an outcome, given with their prompts."""
    if not rows:
        return dict.fromkeys((*SHARES, "length_controlled_win_rate", "length_controlled_reason", "sign_test_p"))
    outcomes, prompts = [row["outcome"] for row, _ in rows], [prompt for _, prompt in rows]
    differences = [row["words_a"] - row["words_b"] for row, _ in rows]
    return {**shares(outcomes, prompts, seed),
            "length_controlled_win_rate": length_controlled(scores_of(outcomes), differences, prompts),
            "length_controlled_reason": extrapolated(differences),
            "sign_test_p": sign_test(outcomes, prompts)}


def _fit(inputs: np.ndarray, targets: np.ndarray, clusters: Sequence[Hashable], at: np.ndarray) -> tuple[float, float]:
    """Fits the regression by Newton's method with step halving; returns the logit at an input and its standard error,
    which is infinite for a single cluster."""
    penalty = np.array([0.0, SLOPE_PENALTY])
    rate = targets.mean()
    weights = np.array([math.log(rate / (1 - rate)), 0.0])

    def loss(weights: np.ndarray) -> float:
        logits = inputs @ weights
        return float(np.sum(np.logaddexp(0.0, logits) - targets * logits) + penalty @ weights**2 / 2)

    for _ in range(_ITERATIONS):
        probability = _logistic(inputs @ weights)
        gradient = inputs.T @ (probability - targets) + penalty * weights
        hessian = (inputs.T * (probability * (1 - probability))) @ inputs + np.diag(penalty)
        step, before = np.linalg.solve(hessian, gradient), loss(weights)
        while loss(weights - step) > before and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= _TOLERANCE:
            break
    probability = _logistic(inputs @ weights)
    hessian = (inputs.T * (probability * (1 - probability))) @ inputs + np.diag(penalty)
    _, cluster = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
    count = cluster.max() + 1
    if count == 1:
        return float(at @ weights), math.inf
    gradients = np.stack([np.bincount(cluster, column) for column in (inputs.T * (targets - probability))], -1)
    inverse = np.linalg.inv(hessian)
    covariance = inverse @ (gradients.T @ gradients) @ inverse * count / (count - 1)
    return float(at @ weights), math.sqrt(max(float(at @ covariance @ at), 0.0))


def _logistic(logits: Any) -> Any:
    return np.exp(-np.logaddexp(0.0, -logits))
