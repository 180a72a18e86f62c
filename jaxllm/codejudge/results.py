"""Measures of a judge against labels or grades, by the protocols of 2410.02184."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm import agreement
from jaxllm.agreement import Rows, bootstrap, mean_over_groups, within_groups
from jaxllm.codejudge.answers import GRADES
from jaxllm.codejudge.config import Config, InvalidPolicy
from jaxllm.codejudge.data import Item
from jaxllm.measures import reliability
from jaxllm.statistics import clustered

VERDICTS = {"accuracy": agreement.accuracy, "balanced_accuracy": agreement.balanced_accuracy,
            "precision": agreement.precision, "recall": agreement.recall, "f1": agreement.f1, "mcc": agreement.mcc,
            "cohen_kappa": agreement.cohen_kappa}
CORRELATIONS = {"kendall": agreement.kendall, "spearman": agreement.spearman, "pearson": agreement.pearson}
SCORED = {**CORRELATIONS, "auroc": agreement.auroc, "brier": agreement.brier, "rmse": agreement.rmse}
GRADED = {**CORRELATIONS, "rmse": agreement.rmse}
COMPARED = ("accuracy", "balanced_accuracy", "mcc", "kendall", "spearman", "auroc")
# Draws of one grade per program, for the agreement of a single person with the aggregated grade.
GRADER_DRAWS = 100
NO_LABELS, NO_GRADES = "no row has a label", "no row has a grade"
Row = Mapping[str, Any]


def protocol_of(config: Config, items: Sequence[Item]) -> str:
    """Returns the protocol: the one of the config, or that of all rows where they agree, else pooled."""
    own = {item.protocol for item in items}
    return config.protocol or (own.pop() if len(own) == 1 else "pooled")


def judged(rows: Sequence[Row], policy: InvalidPolicy) -> tuple[list[tuple[Row, float]], list[tuple[Row, float]]]:
    """Applies the policy for invalid rows.

    Args:
        rows: rows with a label or a grade.
        policy: see `Config.invalid_policy`.

    Returns:
        Rows with verdicts as 0 or 1, for measures of verdicts; and rows with scores from 0 to 1, for correlations.
    """
    verdicts, scores = [], []
    for row in rows:
        truth = _truth(row)
        verdict, score = row["verdict"], row["score"]
        if not row["valid"]:
            opposite = None if truth is None else 1.0 - truth
            verdict, score = {"drop": (None, None), "wrong": (opposite, None), "opposite": (opposite, opposite),
                              "zero": (0.0, 0.0)}[policy]
        if verdict is not None and row["label"] is not None:
            verdicts.append((row, float(verdict)))
        if score is not None and truth is not None:
            scores.append((row, float(score)))
    return verdicts, scores


def _truth(row: Row) -> float | None:
    """The label, or the grade from 0 to 1."""
    if row["label"] is not None:
        return float(row["label"])
    return None if row["grade"] is None else row["grade"] / GRADES[-1]


def as_rows(pairs: Sequence[tuple[Row, float]]) -> Rows:
    """Pairs values with labels or grades (0 to 1), clustered by group."""
    truths = [_truth(row) or 0.0 for row, _ in pairs]
    return Rows([value for _, value in pairs], truths, [row["group"] for row, _ in pairs])


def summarize(config: Config, items: Sequence[Item], rows: Sequence[Row]) -> dict[str, Any]:
    """Computes the contents of result.json.

    Args:
        config: settings.
        items, rows: the programs, and their rows.
    """
    protocol, validation = protocol_of(config, items), _validation(config, rows)
    tested = [(item, row) for item, row, held in zip(items, rows, validation, strict=True) if not held]
    items, own = [item for item, _ in tested], [row for _, row in tested]
    result: dict[str, Any] = {"protocol": protocol, "n": len(own), "n_valid": sum(row["valid"] for row in own)}
    result["invalid_rate"] = 1 - result["n_valid"] / len(own) if own else None
    result["n_groups_valid"] = len({row["group"] for row in own if row["valid"]})
    result |= measures(own, protocol, config.invalid_policy, config.seed)
    decided = [row for row in own if row["verdict"] is not None]
    result["accepted"] = clustered([float(row["verdict"]) for row in decided], [row["group"] for row in decided],
                                   config.seed) if decided else None
    several = [row["agreement"] for row in own if row["agreement"] is not None]
    result["agreement"] = float(np.mean(several)) if several and config.samples > 1 else None
    languages = list(dict.fromkeys(row["language"] for row in own))
    result["by_language"] = {str(language): _of_language([row for row in own if row["language"] == language], config)
                             for language in languages}
    result["probability"], result["calibration"] = _probabilities(own, config.seed)
    result["anchors"] = _anchors(items, own, protocol, config.seed)
    if config.surface:
        result["surface"] = surface_measures(items, own, protocol, config.seed)
    if any(item.graders for item in items):
        result["human_ceiling"] = human_ceiling(items, config.seed)
    if any(validation):
        result["fitted"] = _fitted([row for row, held in zip(rows, validation, strict=True) if held], own, config)
    if config.runs > 1:
        result["runs"] = _runs(own, protocol, config)
    result["cut_off"] = _cut_off(rows)
    result["attempts"] = {str(count): sum(row["attempts"] == count for row in rows)
                          for count in sorted({row["attempts"] for row in rows})}
    result["tokens"] = {name: _total(row["tokens"][name] for row in rows) for name in ("prompt", "completion")}
    return result


def measures(rows: Sequence[Row], protocol: str, policy: InvalidPolicy, seed: int, draws: int = 2000
             ) -> dict[str, Any]:
    """Computes the measures of a protocol, with intervals from resampled groups.

    `humanevalx` takes the mean over languages; `conala` correlates within each group (the programs for one request)
    and takes the mean over groups with a value; the others pool all rows. Where the protocol does not pool,
    `pooled` has the measures over all rows.
    """
    verdicts, scores = judged(rows, policy)
    flat = _pooled(verdicts, scores, seed, draws)
    if protocol == "humanevalx":
        languages = list(dict.fromkeys(row["language"] for row, _ in scores or verdicts))
        sliced = lambda pairs: {str(name): as_rows([pair for pair in pairs if pair[0]["language"] == name])
                                for name in languages}
        if not all(row["label"] is not None for row, _ in scores) or not languages:
            return flat
        own = bootstrap(sliced(verdicts), VERDICTS, draws=draws, seed=seed) if verdicts else _missing(VERDICTS)
        if scores:
            own |= bootstrap(sliced(scores), SCORED, draws=draws, seed=seed)
        return own | {"pooled": flat}
    graded = [(row, score) for row, score in scores if row["grade"] is not None]
    if protocol == "conala" and graded:
        columns = ([score for _, score in graded], [row["grade"] for row, _ in graded],
                   [row["group"] for row, _ in graded])
        own = {name: mean_over_groups(within_groups(*columns, statistic), draws, seed)
               for name, statistic in CORRELATIONS.items()}
        return flat | own | {"n_groups_valid": own["kendall"]["valid"], "pooled": flat}
    return flat


def _pooled(verdicts: Sequence[tuple[Row, float]], scores: Sequence[tuple[Row, float]], seed: int, draws: int
            ) -> dict[str, Any]:
    result = bootstrap(as_rows(verdicts), VERDICTS, draws=draws, seed=seed) if verdicts else _missing(VERDICTS)
    labelled = [pair for pair in scores if pair[0]["label"] is not None]
    if labelled:
        return result | bootstrap(as_rows(labelled), SCORED, draws=draws, seed=seed)
    if scores:
        return result | _missing(SCORED, NO_LABELS) | bootstrap(as_rows(scores), GRADED, draws=draws, seed=seed)
    return result | _missing(SCORED, "no valid row has a label or a grade")


def _missing(names: Any, reason: str = NO_LABELS) -> dict[str, Any]:
    return {name: {"mean": None, "ci_low": None, "ci_high": None, "n": 0, "reason": reason} for name in names}


def _of_language(rows: Sequence[Row], config: Config) -> dict[str, Any]:
    verdicts, scores = judged(rows, config.invalid_policy)
    valid = sum(row["valid"] for row in rows)
    counts = {"n": len(rows), "n_valid": valid, "invalid_rate": 1 - valid / len(rows)}
    confusion: dict[str, int] = {}
    for row in rows:
        if row["label"] is not None:
            key = f"{'right' if row['label'] else 'wrong'} judged {_word(row['verdict'])}"
            confusion[key] = confusion.get(key, 0) + 1
    return counts | {"confusion": confusion} | _pooled(verdicts, scores, config.seed, 2000)


def _word(verdict: bool | None) -> str:
    return "nothing" if verdict is None else "right" if verdict else "wrong"


def _probabilities(rows: Sequence[Row], seed: int) -> tuple[Any, Any]:
    """Measures of the probabilities, and their calibration; a reason where there are none."""
    known = [row for row in rows if row["probability"] is not None]
    labelled = [row for row in known if row["label"] is not None]
    if not known:
        nothing = {"ece": None, "bins": [], "reason": "no row has a probability"}
        return {"n": 0, "mass": None, "reason": "no row has a probability"}, nothing
    mass = [row["mass"] for row in known if row["mass"] is not None]
    result: dict[str, Any] = {"n": len(known), "mass": float(np.mean(mass)) if mass else None,
                              "mean": float(np.mean([row["probability"] for row in known]))}
    if not labelled:
        return result | {"reason": NO_LABELS}, {"ece": None, "bins": [], "reason": NO_LABELS}
    pairs = [(row, row["probability"]) for row in labelled]
    result |= bootstrap(as_rows(pairs), SCORED, seed=seed)
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
    """Measures of two rules that read no program: always No, and the shorter program is the right one."""
    known = [(item, row) for item, row in zip(items, rows, strict=True) if row["label"] is not None]
    if not known:
        return None
    never = measures([{**row, "verdict": False, "score": 0.0, "valid": True} for _, row in known], protocol, "drop",
                     seed)
    lengths = [(row, -float(len(item.program))) for item, row in known]
    short = bootstrap(as_rows(lengths), {"kendall": agreement.kendall, "auroc": agreement.auroc}, seed=seed)
    return {"always_no": {"accuracy": never["accuracy"], "balanced_accuracy": never["balanced_accuracy"]},
            "shorter": short}


def surface_measures(items: Sequence[Item], rows: Sequence[Row], protocol: str, seed: int = 0) -> dict[str, Any]:
    """Measures surface metrics of candidate against reference, both without the declaration, as scores of a judge."""
    from jaxllm.codejudge.surface import surface_scores

    known = [(item, row) for item, row in zip(items, rows, strict=True)
             if item.reference is not None and _truth(row) is not None]
    found = surface_scores([item.candidate for item, _ in known], [item.reference or "" for item, _ in known])
    result: dict[str, Any] = {"n": len(known)}
    for name, scores in found.items():
        scored = [{**row, "verdict": None, "score": score, "valid": True}
                  for (_, row), score in zip(known, scores, strict=True)]
        own = measures(scored, protocol, "drop", seed)
        result[name] = {measure: own[measure] for measure in ("kendall", "spearman", "auroc")}
    return result


def human_ceiling(items: Sequence[Item], seed: int = 0) -> dict[str, Any]:
    """Compares single people with the aggregated grade: a bound for judges, which are measured by that grade.

    Returns:
        `exact` and `mae` of single grades; `kendall` and `spearman` of one person's grades within groups, the mean over
        random choices of the person; and `mean_kendall`, `mean_pearson` of the mean of all people.
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
            values.append(float(np.nanmean(within_groups(chosen, grades, groups, CORRELATIONS[name]))))
    means = np.array([np.mean(item.graders) for item in own])
    pooled = Rows(means, grades, groups).compute({"pearson": agreement.pearson})
    return {"n": len(own), "exact": float(np.mean(errors == 0)), "mae": float(errors.mean()),
            **{name: float(np.mean(values)) for name, values in drawn.items()},
            "mean_kendall": mean_over_groups(within_groups(means, grades, groups, agreement.kendall), seed=seed),
            "mean_pearson": float(pooled["pearson"][0])}


def _validation(config: Config, rows: Sequence[Row]) -> list[bool]:
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

    Both are of the probability where rows have one; else the threshold is of the score, and there is no temperature.
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
    if name == "score":
        return result | {"temperature": None}
    temperature = agreement.fit_temperature(_logits(values), labels)
    scaled = 1 / (1 + np.exp(-_logits(np.array([row[name] for row in test])) / temperature))
    truth = [row["label"] for row in test]
    return result | {"temperature": temperature, "ece": reliability(scaled, truth)["ece"],
                     "ece_before": reliability([row[name] for row in test], truth)["ece"]}


def _logits(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _runs(rows: Sequence[Row], protocol: str, config: Config) -> dict[str, Any]:
    """Measures of every run, with mean and population deviation over the runs, as the paper reports them."""
    own = [measures([{**row, **row["runs"][number]} for row in rows], protocol, config.invalid_policy, config.seed, 1)
           for number in range(config.runs)]
    result: dict[str, Any] = {"count": config.runs}
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


def flips(config: Config, items: Sequence[Item], rows: Sequence[Row], edited: Sequence[Item], changed: Sequence[Row]
          ) -> dict[str, Any]:
    """Measures how often an edit of the program changes the verdict.

    Returns:
        Per edit `n`, programs with a verdict before and after; `flip_rate` with its interval; `accepted_before` and
        `accepted_after`, shares of verdicts that the program is right; and `keeps_meaning`: whether a flip is an error.
    """
    from jaxllm.codejudge.robustness import EDITS

    before = {str(item.id): row for item, row in zip(items, rows, strict=True)}
    result: dict[str, Any] = {}
    for name in config.robustness:
        pairs = [(before[str(item.id).removesuffix(f"/{name}")], row)
                 for item, row in zip(edited, changed, strict=True) if item.edit == name]
        known = [(old, new) for old, new in pairs if old["verdict"] is not None and new["verdict"] is not None]
        share = lambda values, known=known: clustered(
            values, [old["group"] for old, _ in known], config.seed) if known else None
        result[name] = {"n": len(known), "edited": len(pairs), "keeps_meaning": EDITS[name].keeps_meaning,
                        "flip_rate": share([float(old["verdict"] != new["verdict"]) for old, new in known]),
                        "accepted_before": share([float(old["verdict"]) for old, _ in known]),
                        "accepted_after": share([float(new["verdict"]) for _, new in known])}
    return result


def compared(config: Config, rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """Compares two runs on the rows that both have, this one less the other, from the same resamples of groups."""
    by_id = {str(row["id"]): row for row in others}
    common = [(row, {**by_id[str(row["id"])], "label": row["label"], "grade": row["grade"], "group": row["group"]})
              for row in rows if str(row["id"]) in by_id and row["label"] is not None]
    result: dict[str, Any] = {"n": len(common)}
    sides = [[judged([pair[side]], config.invalid_policy) for pair in common] for side in (0, 1)]
    for number, statistics in enumerate((VERDICTS, SCORED)):
        both = [(one[number][0], two[number][0]) for one, two in zip(*sides, strict=True)
                if one[number] and two[number]]
        names = {name: statistic for name, statistic in statistics.items() if name in COMPARED}
        result |= bootstrap(as_rows([one for one, _ in both]), names, as_rows([two for _, two in both]),
                            seed=config.seed) if both else _missing(names, "no row is in both runs")
    return result
