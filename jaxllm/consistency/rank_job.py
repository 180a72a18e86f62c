"""`jaxllm rank`: orders items by a judge that compares two at a time (PairS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxllm.config import check
from jaxllm.consistency.config import PairConfig
from jaxllm.consistency.data import Instance, notice_repeated, read_instances, read_matrices
from jaxllm.consistency.judging import PairJudge, Question
from jaxllm.consistency.pair_ranking import Source, agreement, rank
from jaxllm.consistency.report import low_mass
from jaxllm.consistency.results import mean
from jaxllm.consistency.sorting import Pair, most_comparisons
from jaxllm.consistency.templates import load_template
from jaxllm.files import write_jsonl
from jaxllm.job import Job, open_job
from jaxllm.judge import open_judge
from jaxllm.judge.protocol import LOW_MASS
from jaxllm.progress import bar, notice
from jaxllm.report import Histogram, Section, Table
from jaxllm.text.rows import data_files

__all__ = ["Config", "run"]


MEASURES = ("spearman", "kendall", "accuracy")


@dataclass(frozen=True)
class Config(PairConfig):
    """Orders the items of each instance by a judge of pairs, with a merge sort (PairS).

    Args:
        algorithm: greedy takes the likelier outcome of each comparison; beam follows several orders.
        beam: orders that a merge follows.
        tie_margin: a beam follows both outcomes where the probability is this close to 0.5.
        calibrated: compare in both orders, and use the mean: position bias cancels, for twice the calls.
        orders: random orders of the items to begin with; the result is the mean over them (100 in the paper).
    """

    algorithm: Literal["greedy", "beam"] = "greedy"
    beam: int = 100
    tie_margin: float = 0.1
    calibrated: bool = False
    orders: int = 1

    def __post_init__(self):
        super().__post_init__()
        check(self.beam >= 1, "beam", f"must be 1 or more, got {self.beam}")
        check(0 <= self.tie_margin <= 0.5, "tie_margin", f"must be between 0 and 0.5, got {self.tie_margin:g}")
        check(self.algorithm == "beam" or self.beam == 100 and self.tie_margin == 0.1,
              "beam" if self.beam != 100 else "tie_margin", "does not apply to greedy", "set algorithm to beam")
        check(self.orders >= 1, "orders", f"must be 1 or more, got {self.orders}")


def run(config: Config) -> Path:
    """Runs the job, or resumes it; returns the path of its result.json.

    Raises:
        UserError: the instances, the template or the judge cannot be used.
    """
    template = load_template(config.template) if config.needs_judge else None
    with open_job(config.out, config, "rank") as job:
        read, data = read_instances if config.needs_judge else read_matrices, config.data
        instances: Sequence[Instance]
        instances, found = read(data.path, data.limit, data.limit_bad, job.rejected_path)
        job.pin_file("data", data_files(data.path), data.limit)
        if template is not None:
            job.pin("template", template.sha256)
        if job.finished:
            return job.already_done()
        rejected, identity = list(found.rejected), None
        masses: list[float | None] = []
        if template is not None:
            judge = open_judge(config.judge, config.device, job.directory)
            pairs = PairJudge(judge, config, template, instances)
            if unfit := pairs.split(False):
                rejected += unfit
                job.write_rejected(map(asdict, rejected))
                notice(f"{len(unfit)} instances are left out: {unfit[0].reason}")
            instances, identity = pairs.instances, judge.identity
            pairs.announce(job, [Question(number, 0, 1) for number in range(len(instances))],
                           _most(config, [len(instance.items) for instance in instances]))
            answers = _Answers(job, pairs)
            source: Source = answers
            masses = answers.masses
        else:
            source = _of_matrices(instances)
        repeated = notice_repeated(instances)
        rows, missing = _rows(config, instances, source)
        known = [one for one in masses if one is not None]
        mass = float(np.mean(known)) if known else None
        write_jsonl(job.rows_path, rows)
        result = {"judge": identity, "rejected": len(rejected), "repeated_items": repeated, "answer_mass": mass,
                  **_summary(config, rows, instances, missing)}
        lead = f"{len(rows):,} instances" + (f", ranked by {identity}." if identity else ".")
        if mass is not None and mass < LOW_MASS:
            notice(low_mass(mass))
            lead += f" {low_mass(mass)}"
        job.write_report("Ranked items", lead, _sections(config, result, rows, instances))
        return job.write_result(result)


class _Answers:
    """Answers of a judge: each question once; a stopped job resumes in the order in which they come up.

    Attributes:
        masses: probability mass of both options for each question so far, before the normalization; None for sampled
            answers.
    """

    def __init__(self, job: Job, pairs: PairJudge):
        self._job, self._pairs = job, pairs
        self._questions: list[Question] = []
        self.masses: list[float | None] = []

    def __call__(self, wanted: Sequence[tuple[int, Pair]]) -> list[float | None]:
        start = len(self._questions)
        self._questions += [Question(number, *pair) for number, pair in wanted]
        picked = self._pairs.answer(self._job, self._questions, start, shown=False)
        self.masses += [one.mass for one in picked]
        return [one.first for one in picked]


def _of_matrices(instances: Sequence[Instance]) -> Source:
    def source(wanted: Sequence[tuple[int, Pair]]) -> list[float | None]:
        values = [float(instances[number].answers[pair]) for number, pair in wanted]
        return [None if math.isnan(value) else value for value in values]

    return source


def _rows(config: Config, instances: Sequence[Instance], source: Source) -> tuple[list[dict[str, Any]], int]:
    """Ranks all instances; returns their rows, and the number of comparisons without an answer."""
    sizes, missing = [len(instance.items) for instance in instances], 0

    def counted(wanted: Sequence[tuple[int, Pair]]) -> list[float | None]:
        nonlocal missing
        found = source(wanted)
        missing += found.count(None)
        return found

    with bar(_most(config, sizes), "rank", "comparisons") as show:
        ranked = rank(sizes, counted, beam=1 if config.algorithm == "greedy" else config.beam,
                      tie_margin=config.tie_margin, calibrated=config.calibrated, orders=config.orders,
                      seed=config.seed, keys=[one.key for one in instances], progress=show)
    rows = []
    for instance, own in zip(instances, ranked, strict=True):
        rows.append({"id": instance.id, "order": own.order.tolist(), "scores": own.scores.tolist(),
                     "comparisons": own.comparisons, "uncertainty": own.uncertainty.tolist(),
                     "deviation": own.ranks.std(0).tolist(), **agreement(own.ranks, instance)})
    return rows, missing


def _most(config: Config, sizes: Sequence[int]) -> int:
    """Computes how many comparisons are made at most."""
    factor = 2 if config.calibrated else 1
    one = lambda size: most_comparisons(size) if config.algorithm == "greedy" and config.orders == 1 else size**2
    return sum(min(factor * one(size), size * (size - 1)) for size in sizes)


def _summary(config: Config, rows: Sequence[Mapping[str, Any]], instances: Sequence[Instance], missing: int
             ) -> dict[str, Any]:
    """Builds result.json: agreement with people over instances, and numbers of comparisons."""
    column = lambda name, found: np.array([math.nan if row[name] is None else row[name] for row in found])
    sizes = [len(instance.items) for instance in instances]
    factor = 2 if config.calibrated else 1
    # What a judge without any opinion, which always picks the first slot, reaches from the same orders.
    blind = rank(sizes, lambda wanted: [1.0] * len(wanted), calibrated=config.calibrated, orders=config.orders,
                 seed=config.seed, keys=[one.key for one in instances])
    first = [agreement(own.ranks, instance) for own, instance in zip(blind, instances, strict=True)]
    return {
        "n": len(rows), **{name: mean(column(name, rows), config.seed) for name in MEASURES},
        "undefined": int(sum(row["spearman"] is None and bool(one.human) and not isinstance(one.human[0], list)
                             for row, one in zip(rows, instances, strict=True))),
        "always_first": {name: mean(column(name, first), config.seed) for name in MEASURES},
        "uncertainty": float(np.mean([value for row in rows for value in row["uncertainty"]])),
        "comparisons": {"made": int(sum(row["comparisons"] for row in rows)), "missing": missing,
                        "one_order_at_most": int(sum(factor * most_comparisons(size) for size in sizes)),
                        "n_log_n": float(sum(factor * size * math.log2(size) for size in sizes)),
                        "all_pairs": int(sum(factor * size * (size - 1) // 2 for size in sizes))}}


def _sections(config: Config, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
              instances: Sequence[Instance]) -> list[Section]:
    names = {"spearman": "Spearman's rho with people", "kendall": "Kendall's tau-b with people",
             "accuracy": "pairs in the order of people"}
    lines = [[label, result[name], result["always_first"].get(name)] for name, label in names.items()
             if result[name] is not None]
    found = [Section("Agreement with people", parts=[Table(["", "measure", "always the first"], lines,
                                                           "95 % intervals from resampled instances; means over "
                                                           f"{config.orders} orders to begin with.")])] if lines else []
    counts = result["comparisons"]
    found.append(Section("Comparisons", parts=[Table(["", "comparisons"], [
        ["made, each once", counts["made"]], ["one merge sort at most", counts["one_order_at_most"]],
        ["N log2 N", counts["n_log_n"]], ["all pairs", counts["all_pairs"]], ["without an answer", counts["missing"]]]),
        Histogram("Uncertainty of the items", "mean entropy of an item's comparisons, bits",
                  [value for row in rows for value in row["uncertainty"]])]))
    shown = []
    for row, instance in list(zip(rows, instances, strict=True))[:40]:
        for place, item in enumerate(row["order"]):
            text = instance.items[item]
            shown.append([str(row["id"]), place + 1, item, row["scores"][item], row["uncertainty"][item],
                          text if len(text) <= 200 else f"{text[:200]} ..."])
    note = "The first rows; rows.jsonl has all." if len(rows) > 40 or len(shown) > 200 else ""
    found.append(Section("Orders", parts=[Table(
        ["instance", "rank", "item", "score", "uncertainty", "text"], shown[:200], note)]))
    return found
