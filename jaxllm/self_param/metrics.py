"""Results of a run, computed from its records: scores per method, retention, locality, drift.

    F[i][j]         token F1 on document j after i injections; F[0] is the closed-book base model
    w_j             number of the injection, from 1, that wrote document j

    efficacy              F[w_j][j]                         right after its injection
    retention(L)          mean over j of F[w_j + L][j]      L injections later
    mean seen(i)          mean over {j : w_j <= i} of F[i][j]
    before injection      mean of F[i][j] over i < w_j      a control

(SELF-PARAM, 2410.00487, sequential injection.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.evaluate.qa import same_answer, score_answer
from jaxllm.self_param.config import Method
from jaxllm.self_param.data import Document
from jaxllm.statistics import interval, paired


@dataclasses.dataclass(frozen=True)
class Record:
    """Evaluation of one method after one injection; a line of records.jsonl.

    Attributes:
        method: evaluated method.
        step: number of the injection, from 1; 0 is the base model.
        documents: indices of the evaluated documents; the lists below have an entry for each.
        answers: answers to the test questions.
        f1, accuracy: means over the questions.
        f1_paraphrased, f1_portability: mean token F1 over the paraphrases and the portability questions; None for a
            document without them.
        kl: mean forward KL per token of the test questions with their reference answers, from the open-book base model;
            None where it was not measured.
        probe_answers: answers to the locality probes; None where a probe is a test question of the document itself;
            empty where there are none.
        probe_tokens: by probe, the share of the tokens of the base model's answer that are predicted as by the base
            model, each after the answer's own tokens; None as in probe_answers, and for an empty answer; empty where
            the weights are the base's.
        drift_kl: KL per token on held-out unrelated text, from the base model; None where the weights are the base's.
        drift_sums: by text, the summed KL; with `drift_tokens` the tokens it is summed over.
        perplexity: perplexity of the held-out unrelated text; None where it was not measured.
        rehearsal: ids of the rehearsal texts sampled before this injection.
    """

    method: Method
    step: int
    documents: list[int]
    answers: list[list[str]]
    f1: list[float]
    accuracy: list[float]
    f1_paraphrased: list[float | None]
    f1_portability: list[float | None] = dataclasses.field(default_factory=list)
    kl: list[float] | None = None
    probe_answers: list[str | None] = dataclasses.field(default_factory=list)
    probe_tokens: list[float | None] = dataclasses.field(default_factory=list)
    drift_kl: float | None = None
    drift_sums: list[float] = dataclasses.field(default_factory=list)
    drift_tokens: list[int] = dataclasses.field(default_factory=list)
    perplexity: float | None = None
    rehearsal: list[list[int]] = dataclasses.field(default_factory=list)


def injection_groups(setting: str, count: int) -> list[list[int]]:
    """Lists the documents of each injection."""
    return [list(range(count))] if setting == "batch" else [[number] for number in range(count)]


# ---- retention ---------------------------------------------------------------------------------------------


def efficacy(matrix: np.ndarray, written: Sequence[int]) -> np.ndarray:
    """Returns the scores `[J]` of `matrix` `[I + 1, J]` right after each document was injected."""
    return matrix[np.asarray(written), np.arange(matrix.shape[1])]


def retention_by_lag(matrix: np.ndarray, written: Sequence[int]) -> list[float]:
    """Computes the mean score after 0, 1, ... further injections, over the documents with that many after them."""
    last = len(matrix) - 1
    lags = range(last - min(written) + 1)
    return [float(np.mean([matrix[w + lag, j] for j, w in enumerate(written) if w + lag <= last])) for lag in lags]


def mean_seen(matrix: np.ndarray, written: Sequence[int]) -> list[float]:
    """Computes the mean score over all documents injected so far, after each injection."""
    steps = np.asarray(written)
    return [float(matrix[i, steps <= i].mean()) for i in range(1, len(matrix)) if (steps <= i).any()]


def before_injection(matrix: np.ndarray, written: Sequence[int]) -> float:
    """Computes the mean score on documents before their injection."""
    return float(np.mean([matrix[i, j] for j, w in enumerate(written) for i in range(w)]))


# ---- one method --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MethodRecords:
    """Records of one method, in order of their steps.

    Attributes:
        single: every record is of a fresh copy of the model; else the last one is the end of the run.
        records: at least one.
        base: record of the closed-book base model.
    """

    single: bool
    records: Sequence[Record]
    base: Record

    def final(self, field: str) -> list[Any]:
        """Values of a per-document field at the end of the run, by document."""
        if not self.single:
            return list(getattr(self.records[-1], field) or [])
        values = {number: value for record in self.records
                  for number, value in zip(record.documents, getattr(record, field) or [], strict=False)}
        return [values[number] for number in sorted(values)]

    def matrix(self) -> np.ndarray:
        """F1 `[I + 1, J]`; in the setting single the second row holds each document after its own injection."""
        rows = [self.final("f1")] if self.single else [record.f1 for record in self.records]
        return np.array([self.base.f1, *rows])

    def unchanged(self, record: Record) -> list[bool]:
        """Whether each locality probe is answered as by the base model; up to case, punctuation and articles."""
        return [same_answer(before or "", after) for before, after in
                zip(self.base.probe_answers, record.probe_answers, strict=True) if after is not None]

    def locality(self) -> list[float]:
        """Share of unchanged probes after each injection; empty without probes."""
        return [float(np.mean(same)) for record in self.records
                if record.probe_answers and (same := self.unchanged(record))]


def method_values(methods: Mapping[str, MethodRecords], single: bool) -> dict[str, dict[str, list[float]]]:
    """Collects the values that each mean of result.json is taken over: metric -> method -> values.

    They are one per document for kl and the scores of answers; for locality, locality_tokens and drift_kl one per
    injection in the setting single, and one per probe and per text otherwise. No values means that the metric is
    undefined or was not measured.
    """
    real = lambda values: [value for value in values if value is not None]
    values: dict[str, dict[str, list[float]]] = {name: {} for name in METRICS}
    for name, own in methods.items():
        last = own.records[-1]
        for metric in ("f1", "accuracy", "f1_paraphrased", "f1_portability", "kl"):
            values[metric][name] = real(own.final(metric))
        changes = name not in ("closed_book", "open_book")
        values["locality"][name] = ([] if not changes or not last.probe_answers else own.locality() if single else
                                    [float(same) for same in own.unchanged(last)])
        values["locality_tokens"][name] = real(last.probe_tokens) if not single else [
            float(np.mean(shares)) for record in own.records if (shares := real(record.probe_tokens))]
        values["drift_kl"][name] = real(record.drift_kl for record in (own.records if single else [last]))
    return values


METRICS = ("f1", "accuracy", "f1_paraphrased", "f1_portability", "kl", "locality", "locality_tokens", "drift_kl")
NO_VALUES = {"mean": None, "ci_low": None, "ci_high": None, "n": 0}


def summarize(records: Iterable[Record], single: bool, written: Sequence[int], seed: int) -> dict[str, Any]:
    """Computes the numbers of result.json.

    Each of `METRICS` maps every method that ran to `{mean, ci_low, ci_high, n}` at the end of the run. n is 0 and the
    others are null where it is undefined (drift of a method that leaves the weights as they are) or was not measured
    (no paraphrases, no portability questions, no probes). share_of_open_book is null where the open-book F1 is 0. The
    numbers by injection are those of self_param; those of the other methods are in `baselines`.

    Args:
        records: all records of the run.
        single: setting single.
        written: by document, the number of the injection that wrote it.
        seed: seed of the bootstrap.
    """
    methods = by_method(records, single)
    values = method_values(methods, single)
    mean = lambda own: interval(own, seed) if own else dict(NO_VALUES)
    summary: dict[str, Any] = {metric: {name: mean(own) for name, own in values[metric].items()} for metric in METRICS}
    if not single:
        for name, own in methods.items():
            if values["drift_kl"][name]:
                summary["drift_kl"][name] = _drift_interval(own.records[-1], seed)
    open_book = np.mean(values["f1"]["open_book"])

    def by_injection(own: MethodRecords) -> dict[str, Any]:
        matrix, steps = own.matrix(), [1] * len(written) if single else list(written)
        return {"f1_matrix": matrix.tolist(), "efficacy": interval(efficacy(matrix, steps), seed),
                "retention_by_lag": retention_by_lag(matrix, steps), "mean_seen": mean_seen(matrix, steps),
                "before_injection": before_injection(matrix, steps),
                "share_of_open_book": float(matrix[-1].mean() / open_book) if open_book else None,
                "locality_by_step": own.locality(),
                "drift_kl_by_step": [record.drift_kl or 0.0 for record in own.records],
                "perplexity_by_step": [own.base.perplexity, *(record.perplexity for record in own.records)]}

    ours = by_injection(methods["self_param"])
    baselines = {name: by_injection(own) for name, own in methods.items()
                 if name not in ("closed_book", "open_book", "self_param")}
    for other in baselines.values():
        other["f1_self_param_minus_this"] = paired(ours["f1_matrix"][-1], other["f1_matrix"][-1], seed)
    return {**summary, **ours, "baselines": baselines}


def by_method(records: Iterable[Record], single: bool) -> dict[str, MethodRecords]:
    """Groups records by method, in order of first appearance."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.method, []).append(record)
    (base,) = grouped["closed_book"]
    return {name: MethodRecords(single and name not in ("closed_book", "open_book"),
                                sorted(own, key=lambda record: record.step), base) for name, own in grouped.items()}


def _drift_interval(record: Record, seed: int, draws: int = 2000) -> dict[str, float | int]:
    """Bootstraps the KL per token over texts: resampled sums are divided by resampled token counts."""
    sums, tokens = np.array(record.drift_sums), np.array(record.drift_tokens)
    chosen = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[chosen].sum(1) / tokens[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(record.drift_kl or 0.0), "ci_low": float(low), "ci_high": float(high), "n": len(sums)}


def result_rows(documents: Sequence[Document], records: Iterable[Record], single: bool) -> list[dict[str, Any]]:
    """Lists every test question with the answer of each method at the end of the run."""
    answers = {name: own.final("answers") for name, own in by_method(records, single).items()}
    return [{"document": number, "question": pair.question, "answers": list(pair.answers),
             **{name: {"text": text, "f1": score_answer(text, pair.answers).f1}
                for name, own in answers.items() if (text := own[number][i]) is not None}}
            for number, document in enumerate(documents) for i, pair in enumerate(document.questions)]
