"""Measures of a judge against labels or grades, by the protocols of 2410.02184."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm import agreement
from jaxllm.agreement import Rows, bootstrap, mean_over_groups, within_groups
from jaxllm.codejudge.answers import GRADES
from jaxllm.codejudge.config import Config, InvalidPolicy, ValidationConfig
from jaxllm.codejudge.data import Item
from jaxllm.errors import UserError
from jaxllm.measures import reliability
from jaxllm.statistics import clustered

VERDICTS = {"accuracy": agreement.accuracy, "balanced_accuracy": agreement.balanced_accuracy,
            "precision": agreement.precision, "recall": agreement.recall, "f1": agreement.f1, "mcc": agreement.mcc,
            "cohen_kappa": agreement.cohen_kappa}
CORRELATIONS = {"kendall": agreement.kendall, "spearman": agreement.spearman, "pearson": agreement.pearson}
SCORED = {**CORRELATIONS, "auroc": agreement.auroc, "brier": agreement.brier, "rmse": agreement.rmse}
GRADED = {**CORRELATIONS, "rmse": agreement.rmse}
# Draws of one grade per program, for the agreement of a single person with the aggregated grade.
GRADER_DRAWS = 100
NO_LABELS = "no row has a label"
Row = Mapping[str, Any]


def protocol_of(config: Config, items: Sequence[Item]) -> str:
    """Returns the protocol: the one of the config, or that of all rows where they agree, else pooled."""
    own = {item.protocol for item in items}
    return config.protocol or (own.pop() if len(own) == 1 else "pooled")


def judged(rows: Sequence[Row], policy: InvalidPolicy, decides: bool = True
           ) -> tuple[list[tuple[Row, float]], list[tuple[Row, float]]]:
    """Applies the policy for invalid rows, and for the verdict of samples that are split evenly.

    Args:
        rows: rows with a label or a grade.
        policy: see `Config.invalid_policy`.
        decides: the method gives verdicts; without them an invalid row has none either.

    Returns:
        Rows with verdicts as 0 or 1, for measures of verdicts; and rows with scores from 0 to 1, for correlations.
    """
    verdicts, scores = [], []
    for row in rows:
        truth = truth_of(row)
        verdict, score = row["verdict"], row["score"]
        opposite = None if truth is None else 1.0 - truth
        if decides and verdict is None and row["reason"] is not None:
            verdict = {"drop": None, "wrong": opposite, "opposite": opposite, "zero": 0.0}[policy]
        if not row["valid"]:
            score = {"drop": None, "wrong": None, "opposite": opposite, "zero": 0.0}[policy]
        if verdict is not None and row["label"] is not None:
            verdicts.append((row, float(verdict)))
        if score is not None and truth is not None:
            scores.append((row, float(score)))
    return verdicts, scores


def truth_of(row: Row) -> float | None:
    """Returns the label, or the grade from 0 to 1."""
    if row["label"] is not None:
        return float(row["label"])
    return None if row["grade"] is None else row["grade"] / GRADES[-1]


def runs_of(row: Row) -> list[Row]:
    """Returns a row as each of its runs has it; itself where there is one run."""
    return [{**row, **run} for run in row.get("runs") or ({},)]


def as_rows(pairs: Sequence[tuple[Row, float]]) -> Rows:
    """Pairs values with labels or grades (0 to 1), clustered by group."""
    truths = [truth_of(row) or 0.0 for row, _ in pairs]
    return Rows([value for _, value in pairs], truths, [row["group"] for row, _ in pairs])


def summarize(config: Config, items: Sequence[Item], rows: Sequence[Row], unread: int = 0) -> dict[str, Any]:
    """Computes the contents of result.json.

    Args:
        config: settings.
        items, rows: the programs, and their rows.
        unread: number of files that could not be read; none of them is accepted.
    """
    protocol, validation = protocol_of(config, items), held_for_validation(config, rows)
    tested = [(item, row) for item, row, held in zip(items, rows, validation, strict=True) if not held]
    items, own = [item for item, _ in tested], [row for _, row in tested]
    by_run = [runs_of(row) for row in own]
    runs = [[row[number] for row in by_run] for number in range(config.runs)]
    policy = config.policy
    result: dict[str, Any] = {"protocol": protocol, "invalid_policy": policy, "invalid_policy_from": config.policy_from,
                              "n": len(own), "n_valid": sum(row["valid"] for row in own)}
    result["invalid_rate"] = float(np.mean([not row["valid"] for run in runs for row in run])) if own else None
    result["valid_rate"] = None if result["invalid_rate"] is None else 1 - result["invalid_rate"]
    result["n_groups_valid"] = len({row["group"] for row in own if row["valid"]})
    result |= measures(runs, protocol, policy, config.seed, decides=(decides := config.gives_verdicts))
    accepted = [float(np.mean([run["verdict"] is True for run in row])) for row in by_run]
    result["accepted"] = clustered(accepted + [0.0] * unread,
                                   [row["group"] for row in own] + ["unread"] * unread,
                                   config.seed) if own and decides else None
    several = [row["agreement"] for run in runs for row in run if row["agreement"] is not None]
    result["agreement"] = float(np.mean(several)) if several and config.samples > 1 else None
    languages = list(dict.fromkeys(row["language"] for row in own))
    result["by_language"] = {str(language): _of_language(
        [[row for row in run if row["language"] == language] for run in runs], policy, config.seed, decides)
        for language in languages}
    result["probability"], result["calibration"] = _probabilities(own, config)
    result["anchors"] = _anchors(items, own, protocol, config.seed)
    if config.surface:
        result["surface"] = surface_measures(items, own, protocol, config.seed)
    if any(item.graders and item.grade is not None for item in items):
        result["human_ceiling"] = human_ceiling(items, config.seed)
    if any(validation):
        result["fitted"] = _fitted([row for row, held in zip(rows, validation, strict=True) if held], own, config)
    if config.runs > 1:
        result["runs"] = _runs(runs, protocol, policy, config.seed, decides)
    result["cut_off"] = _cut_off(rows)
    result["attempts"] = {str(count): sum(row["attempts"] == count for row in rows)
                          for count in sorted({row["attempts"] for row in rows})}
    result["tokens"] = {name: _total(row["tokens"][name] for row in rows) for name in ("prompt", "completion")}
    return result


def measures(runs: Sequence[Sequence[Row]], protocol: str, policy: InvalidPolicy, seed: int, draws: int = 2000,
             decides: bool = True) -> dict[str, Any]:
    """Computes the measures of a protocol, with intervals from resampled groups.

    `humanevalx` takes the mean over languages; `conala` correlates within each group (the programs for one request)
    and takes the mean over groups with a value; the others pool all rows. Where the protocol does not pool,
    `pooled` has the measures over all rows. Of several runs the mean of their values is taken, from the same resamples.

    Args:
        runs: rows of every run.
        protocol: see `Config.protocol`.
        policy: see `Config.invalid_policy`.
        seed, draws: seed and number of the resamples.
        decides: see `judged`.
    """
    own = [judged(rows, policy, decides) for rows in runs]
    verdicts, scores = [run[0] for run in own], [run[1] for run in own]
    has_labels = any(row["label"] is not None for row in runs[0])
    flat = _pooled(verdicts, scores, has_labels, seed, draws)
    if protocol == "humanevalx" and has_labels:
        languages = list(dict.fromkeys(row["language"] for row in runs[0] if row["label"] is not None))
        sliced = lambda pairs: {f"{name}" if len(pairs) == 1 else f"{name}, run {number}": as_rows(
            [pair for pair in run if pair[0]["language"] == name])
            for number, run in enumerate(pairs, 1) for name in languages}
        labelled = [_labelled(run) for run in scores]
        return counted(bootstrap(sliced(verdicts), VERDICTS, draws=draws, seed=seed)
                        | bootstrap(sliced(labelled), SCORED, draws=draws, seed=seed), len(runs)) | {"pooled": flat}
    graded = [_graded(run) for run in scores]
    if protocol == "conala" and any(graded):
        # Groups without a valid row count as undefined.
        groups = sorted({row["group"] for row in runs[0] if row["grade"] is not None})
        within = {name: mean_over_groups([values_by_group(run, groups, statistic) for run in graded], draws, seed)
                  for name, statistic in CORRELATIONS.items()}
        return flat | within | {"n_groups_valid": within["kendall"]["valid"], "pooled": flat}
    return flat


def _graded(pairs: Sequence[tuple[Row, float]]) -> list[tuple[Row, float]]:
    return [(row, score) for row, score in pairs if row["grade"] is not None]


def _labelled(pairs: Sequence[tuple[Row, float]]) -> list[tuple[Row, float]]:
    return [(row, score) for row, score in pairs if row["label"] is not None]


def values_by_group(pairs: Sequence[tuple[Row, float]], groups: Sequence[str], statistic: agreement.Statistic
                    ) -> np.ndarray:
    """Computes a statistic of scores and grades in each of `groups`, NaN where it has no value."""
    if not pairs:
        return np.full(len(groups), np.nan)
    names = sorted({row["group"] for row, _ in pairs})
    values = dict(zip(names, within_groups([score for _, score in pairs], [row["grade"] for row, _ in pairs],
                                           [row["group"] for row, _ in pairs], statistic), strict=True))
    return np.array([values.get(name, np.nan) for name in groups])


def counted(results: dict[str, Any], runs: int) -> dict[str, Any]:
    """Divides counts of the rows of all runs by the number of runs, rounded down."""
    return {name: own | {"n": own["n"] // runs} for name, own in results.items()}


def _pooled(verdicts: Sequence[Sequence[tuple[Row, float]]], scores: Sequence[Sequence[tuple[Row, float]]],
            has_labels: bool, seed: int, draws: int) -> dict[str, Any]:
    sliced = lambda runs: {"" if len(runs) == 1 else f"run {number}": as_rows(run)
                           for number, run in enumerate(runs, 1)}
    result = bootstrap(sliced(verdicts), VERDICTS, draws=draws, seed=seed) if any(verdicts) else missing(
        VERDICTS, "no row with a label has a verdict" if has_labels else NO_LABELS)
    labelled = [_labelled(run) for run in scores]
    if any(labelled):
        result |= bootstrap(sliced(labelled), SCORED, draws=draws, seed=seed)
    elif any(scores):
        result |= missing(SCORED, "no valid row has a label" if has_labels else NO_LABELS)
        result |= bootstrap(sliced(scores), GRADED, draws=draws, seed=seed)
    else:
        result |= missing(SCORED, "no valid row has a label or a grade")
    return counted(result, len(verdicts))


def missing(names: Any, reason: str) -> dict[str, Any]:
    """Returns measures without a value, each with the reason."""
    return {name: {"mean": None, "ci_low": None, "ci_high": None, "n": 0, "reason": reason} for name in names}


def _of_language(runs: Sequence[Sequence[Row]], policy: InvalidPolicy, seed: int, decides: bool) -> dict[str, Any]:
    """Measures the rows of a language; `n_valid` and the confusion matrix count the first run."""
    rows, own = runs[0], [judged(run, policy, decides) for run in runs]
    counts = {"n": len(rows), "n_valid": sum(row["valid"] for row in rows),
              "invalid_rate": float(np.mean([not row["valid"] for run in runs for row in run]))}
    confusion: dict[str, int] = {}
    for row in rows:
        if row["label"] is not None:
            key = f"{'right' if row['label'] else 'wrong'} judged {_word(row['verdict'])}"
            confusion[key] = confusion.get(key, 0) + 1
    return counts | {"confusion": confusion} | _pooled([run[0] for run in own], [run[1] for run in own],
                                                       bool(confusion), seed, 2000)


def _word(verdict: bool | None) -> str:
    return "nothing" if verdict is None else "right" if verdict else "wrong"


def _probabilities(rows: Sequence[Row], config: Config) -> tuple[Any, Any]:
    """Measures of the probabilities, and their calibration, over all rows; a reason where there are none."""
    known = [row for row in rows if row["probability"] is not None]
    labelled = [row for row in known if row["label"] is not None]
    if not known:
        reason = {"reason": "no row has a probability"}
        return {"n": 0, "mass": None, **reason}, {"ece": None, "bins": [], **reason}
    mass = [row["mass"] for row in known if row["mass"] is not None]
    result: dict[str, Any] = {"n": len(known), "mass": float(np.mean(mass)) if mass else None,
                              "mean": float(np.mean([row["probability"] for row in known]))}
    if not labelled:
        reason = {"reason": "no row with a probability has a label"}
        return result | reason, {"ece": None, "bins": [], **reason}
    pairs = [(row, row["probability"]) for row in labelled]
    result |= bootstrap(as_rows(pairs), SCORED, seed=config.seed)
    if config.method == "ice_score":
        return result, {"ece": None, "bins": [], "reason": "an expected grade is no probability"}
    shares, labels = np.array([value for _, value in pairs]), np.array([row["label"] for row in labelled], np.float64)
    bins = reliability(shares, labels)
    clipped = np.clip(shares, 1e-7, 1 - 1e-7)
    right = (shares >= 0.5) == labels
    return result, {
        "ece": bins["ece"], "log_loss": float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))),
        "bins": [{"n": one["n"], "probability": one["confidence"], "right": one["accuracy"]}
                 for one in bins["reliability"]],
        "selective": agreement.selective(np.maximum(shares, 1 - shares), right)}


def _anchors(items: Sequence[Item], rows: Sequence[Row], protocol: str, seed: int) -> dict[str, Any] | None:
    """Measures of two rules that read no program: always No, for labels, and the shorter program is the right one."""
    known = [(item, row) for item, row in zip(items, rows, strict=True) if truth_of(row) is not None]
    if not known:
        return None
    longest = max(max(len(item.program) for item, _ in known), 1)
    short = measures([[{**row, "verdict": None, "score": 1 - len(item.program) / longest, "valid": True, "reason": None}
                       for item, row in known]], protocol, "drop", seed)
    result = {"shorter": {name: short[name] for name in ("kendall", "auroc")}}
    labelled = [row for _, row in known if row["label"] is not None]
    if labelled:
        never = measures([[{**row, "verdict": False, "score": 0.0, "valid": True} for row in labelled]], protocol,
                         "drop", seed)
        result["always_no"] = {name: never[name] for name in ("accuracy", "balanced_accuracy")}
    return result


def surface_measures(items: Sequence[Item], rows: Sequence[Row], protocol: str, seed: int = 0) -> dict[str, Any]:
    """Measures surface metrics of candidate against reference, both without the declaration, as scores of a judge."""
    from jaxllm.codejudge.surface import surface_scores

    known = [(item, row) for item, row in zip(items, rows, strict=True)
             if item.reference is not None and truth_of(row) is not None]
    found = surface_scores([item.candidate for item, _ in known], [item.reference or "" for item, _ in known])
    result: dict[str, Any] = {"n": len(known)}
    for name, scores in found.items():
        scored = [{**row, "verdict": None, "score": score, "valid": True, "reason": None}
                  for (_, row), score in zip(known, scores, strict=True)]
        own = measures([scored], protocol, "drop", seed)
        result[name] = {measure: own[measure] for measure in ("kendall", "spearman", "auroc")}
    return result


def human_ceiling(items: Sequence[Item], seed: int = 0) -> dict[str, Any]:
    """Compares single people with the aggregated grade: a bound for judges, which are measured by that grade.

    The rows do not name the people, so that a person is drawn for each program anew, which mixes severe and lenient
    ones: one person's own grades would agree better.

    Returns:
        `exact` and `mae` of single grades; `kendall` and `spearman` within groups of the grade of a person drawn for
        each program, the mean over `GRADER_DRAWS` draws; and `mean_kendall`, `mean_pearson` of the mean of all people.
    """
    own = [item for item in items if item.graders and item.grade is not None]
    grades, groups = np.array([item.grade for item in own], np.float64), [item.group for item in own]
    single = [(person, item.grade or 0.0) for item in own for person in item.graders]
    errors = np.abs([person - grade for person, grade in single])
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {"kendall": [], "spearman": []}
    for _ in range(GRADER_DRAWS):
        chosen = [item.graders[rng.integers(len(item.graders))] for item in own]
        for name, values in drawn.items():
            values.append(_mean_or_nan(within_groups(chosen, grades, groups, CORRELATIONS[name])))
    means = np.array([np.mean(item.graders) for item in own])
    pooled = Rows(means, grades, groups).compute({"pearson": agreement.pearson})
    return {"n": len(own), "exact": float(np.mean(errors == 0)), "mae": float(errors.mean()),
            **{name: _known(_mean_or_nan(np.array(values))) for name, values in drawn.items()},
            "mean_kendall": mean_over_groups(within_groups(means, grades, groups, agreement.kendall), seed=seed),
            "mean_pearson": _known(float(pooled["pearson"][0]))}


def _mean_or_nan(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def check_validation(config: Config, items: Sequence[Item]) -> None:
    """Raises a `UserError` where no group, or each one, is a validation group although some are wanted."""
    if config.validation == ValidationConfig():
        return
    held = held_for_validation(config, [{"group": item.group, "subset": item.subset} for item in items])
    if not any(held) or all(held):
        key = "validation.share" if config.validation.subset is None else "validation.subset"
        raise UserError(f"selects {'no' if not any(held) else 'each'} group of {len({item.group for item in items})}",
                        key, "validation groups are some of all groups")


def held_for_validation(config: Config, rows: Sequence[Row]) -> list[bool]:
    """Marks the validation rows; a group is so as a whole."""
    settings = config.validation
    if settings.subset is not None:
        chosen = {row["group"] for row in rows if row["subset"] == settings.subset}
        return [row["group"] in chosen for row in rows]
    names = sorted({row["group"] for row in rows})
    count = int(round(settings.share * len(names)))
    chosen = set(np.random.default_rng(config.seed).permutation(names)[:count].tolist())
    return [row["group"] in chosen for row in rows]


def _fitted(validation: Sequence[Row], rows: Sequence[Row], config: Config) -> dict[str, Any]:
    """Fits a threshold and a temperature on the validation rows, and measures them on the others.

    Both are of the probability where rows have one; else the threshold is of the score, and there is no temperature,
    nor for an expected grade, which is no probability.
    """
    name = "probability" if any(row["probability"] is not None for row in validation) else "score"
    usable = lambda own: [row for row in own if row["label"] is not None and row[name] is not None]
    fit, test = usable(validation), usable(rows)
    result: dict[str, Any] = {"of": name, "n_validation": len(fit), "n": len(test),
                              "groups_validation": len({row["group"] for row in fit})}
    if not fit or not test:
        return result | {"threshold": None, "temperature": None, "reason": "no rows with labels on one of both sides"}
    values, labels = np.array([row[name] for row in fit]), np.array([row["label"] for row in fit])
    try:
        threshold = agreement.fit_threshold(values, labels)
    except ValueError as error:
        return result | {"threshold": None, "temperature": None, "reason": str(error)}
    verdicts = [(row, float(row[name] >= threshold)) for row in test]
    result |= {"threshold": threshold, **bootstrap(as_rows(verdicts), VERDICTS, seed=config.seed)}
    if name == "score" or config.method == "ice_score":
        return result | {"temperature": None}
    temperature = agreement.fit_temperature(_logits(values), labels)
    scaled = 1 / (1 + np.exp(-_logits(np.array([row[name] for row in test])) / temperature))
    truth = [row["label"] for row in test]
    return result | {"temperature": temperature, "ece": reliability(scaled, truth)["ece"],
                     "ece_before": reliability([row[name] for row in test], truth)["ece"]}


def _logits(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _runs(runs: Sequence[Sequence[Row]], protocol: str, policy: InvalidPolicy, seed: int, decides: bool
          ) -> dict[str, Any]:
    """Measures of every run, with mean and population deviation over the runs, as the paper reports them."""
    own = [measures([rows], protocol, policy, seed, 1, decides) for rows in runs]
    result: dict[str, Any] = {"count": len(runs)}
    for name in own[0]:
        if isinstance(own[0][name], Mapping) and "mean" in own[0][name]:
            values = [one[name]["mean"] for one in own]
            known = [value for value in values if value is not None]
            result[name] = {"values": values, "mean": float(np.mean(known)) if known else None,
                            "std": float(np.std(known)) if known else None}
    return result


def _cut_off(rows: Sequence[Row]) -> dict[str, float | None]:
    """Share of the answers of every step that the token limit ended; None where that is not known."""
    result: dict[str, float | None] = {}
    for name in {name: None for row in rows for name in row["finish"]}:
        reasons = [reason for row in rows for reason in row["finish"].get(name, ()) if reason is not None]
        result[name] = sum(reason == "length" for reason in reasons) / len(reasons) if reasons else None
    return result


def _total(counts: Any) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
