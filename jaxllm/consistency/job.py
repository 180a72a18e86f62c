"""`jaxllm consistency`: transitivity, commutativity and negation invariance of a judge of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.consistency.config import Config
from jaxllm.consistency.data import Instance, notice_repeated, read_instances, read_matrices
from jaxllm.consistency.judging import PairJudge, judge_matrices, with_answers
from jaxllm.consistency.measuring import Settings, confidence_curve, measure, settled
from jaxllm.consistency.report import findings, instances_to_draw, sections
from jaxllm.consistency.results import COMPARED, compared, limited, over_paraphrases, summarize
from jaxllm.consistency.templates import load_template
from jaxllm.errors import UserError
from jaxllm.files import expanded, iter_jsonl, write_jsonl
from jaxllm.job import Job, open_job
from jaxllm.judge import open_judge
from jaxllm.limits import require_limits
from jaxllm.ops.consistency import preference_graph
from jaxllm.progress import notice
from jaxllm.text.rows import Rejected, data_files

__all__ = ["Config", "run"]

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(10))


def run(config: Config) -> Path:
    """Runs the job, or resumes it; returns the path of its result.json.

    Raises:
        UserError: the instances, the template or the judge cannot be used.
        LimitError: a measure is below `fail_under`.
    """
    others = None if config.compare is None else _other_rows(config.compare, config.sizes[-1])
    template = load_template(config.template) if config.needs_judge else None
    with open_job(config.out, config, "consistency") as job:
        read = read_instances if config.needs_judge else read_matrices
        data = config.data
        instances, found = read(data.path, data.limit, data.limit_bad, job.rejected_path)
        job.pin_file("data", data_files(data.path), data.limit)
        if template is not None:
            job.pin("template", template.sha256)
        if job.finished:
            path = job.already_done()
            result = job.result()
        else:
            if others is not None and not {str(row["id"]) for row in others} & {str(one.id) for one in instances}:
                raise UserError("the other run has none of these instances", "compare", "ids must be the same")
            result = _measured(config, job, instances, found.rejected, others)
            path = job.write_result(result)
        require_limits(config.fail_under, limited(result), path)
        return path


def _measured(config: Config, job: Job, instances: Sequence[Instance], rejected: Sequence[Rejected],
              others: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    settings = Settings(config.sizes, config.subsets, config.shuffles, config.tie, config.missing, config.violations,
                        config.seed)
    common: dict[str, Any] = {"judge": None, "missing_reasons": {}, "samples": None}
    wordings: list[list[dict[str, Any]]] = []
    if config.needs_judge:
        judge = open_judge(config.judge, config.device, job.directory)
        template = load_template(config.template)
        pairs = PairJudge(judge, config, template, instances)
        if unfit := pairs.split(config.negated, config.paraphrases):
            rejected = [*rejected, *unfit]
            job.write_rejected(map(asdict, rejected))
            notice(f"{len(unfit)} instances are left out: {unfit[0].reason}")
        (answers, counts), instances = judge_matrices(job, pairs, config), pairs.instances
        common["missing_reasons"] = dict(sum((own.reasons for own in answers), Counter()).most_common(10))
        common |= {"judge": judge.identity, "question": template.questions[0][0], "prompts": counts}
        if config.method != "probability":
            common["samples"] = {"drawn": sum(counts.values()) * config.answers,
                                 "valid": int(sum(own.votes.sum() for own in answers if own.votes is not None))}
        instances = [with_answers(instance, own) for instance, own in zip(instances, answers, strict=True)]
        _write_rows(job, [{"id": one.id, "n": len(one.items), "violations": []} for one in instances], instances)
        for number in range(1, config.paraphrases + 1):
            wordings.append(measure([with_answers(instance, own, number)
                                     for instance, own in zip(instances, answers, strict=True)],
                                    replace(settings, violations=0, paraphrase=number)))
    elif config.shuffle is False:
        instances = [replace(instance, positions=None) for instance in instances]
    repeated = notice_repeated(instances)
    measures = measure(instances, settings)
    rows = [{"id": instance.id, **row} for instance, row in zip(instances, measures, strict=True)]
    result = {**common, "rejected": len(rejected), "repeated_items": repeated,
              **summarize(rows, config.sizes, config.seed, config.tie is not None)}
    result["confidence"] = confidence_curve(instances, settings, THRESHOLDS)
    if wordings:
        own = over_paraphrases([measures, *wordings], config.sizes[-1])
        for one in own["wordings"]:
            one["question"], one["negated"] = template.questions[one["paraphrase"]]
        result["paraphrases"] = own
    if others is not None:
        result["compared"] = compared(rows, others, config.sizes[-1], config.seed)
    _write_rows(job, rows, instances)
    lead = f"{len(rows):,} instances" + (f", judged by {common['judge']}." if config.needs_judge else ".")
    graphs = {number: np.asarray(preference_graph(
        settled(instances[number].p, instances[number], settings), positions=np.array(rows[number]["positions"]),
        tie=config.tie)) for number in instances_to_draw(rows)}
    job.write_report("Consistency of preferences", f"{lead} {findings(result)}", sections(result, rows, instances,
                                                                                          graphs))
    if text := findings(result):
        notice(text)
    return result


def _write_rows(job: Job, rows: Sequence[dict[str, Any]], instances: Sequence[Instance]) -> None:
    """Writes rows.jsonl, which `--judge.kind matrix` reads, and violations.jsonl."""
    def violations():
        for row, instance in zip(rows, instances, strict=True):
            for one in row["violations"]:
                shown, probabilities = _contradicting(instance, one, row["positions"])
                yield {"id": row["id"], **one, "shown": shown, "probabilities": probabilities,
                       "texts": [instance.items[i] for i in one["items"]]}

    def full():
        for row, instance in zip(rows, instances, strict=True):
            own = {name: value for name, value in row.items() if name != "violations"}
            own |= {name: _listed(getattr(instance, name)) for name in ("p", "q", "mass")}
            for name in ("votes", "compared"):
                matrix = getattr(instance, name)
                own[name] = None if matrix is None else matrix.tolist()
            yield own | {"human": list(instance.human) or None, "items": list(instance.items)}

    write_jsonl(job.directory / "violations.jsonl", violations())
    write_jsonl(job.rows_path, full())


def _contradicting(instance: Instance, violation: Mapping[str, Any], positions: Sequence[int]
                   ) -> tuple[list[list[int]], list[float | None]]:
    """Returns the comparisons that contradict each other, as [item shown first, other item], and their answers."""
    i, j, *_ = items = violation["items"]
    p, q = instance.answers, instance.q
    if violation["kind"] == "cycle":  # one answer a pair, that with the earlier item in the first slot
        shown = [[a, b] if positions[a] < positions[b] else [b, a]
                 for a, b in zip(items, [*items[1:], i], strict=True)]
    else:
        shown = [[i, j], [j, i] if violation["kind"] == "order_flip" else [i, j]]
    found = [p[a, b] for a, b in shown]
    if violation["kind"] == "negation_failure" and q is not None:
        found[1] = q[i, j]
    return shown, [None if np.isnan(value) else float(value) for value in found]


def _listed(matrix: np.ndarray | None) -> list[list[float | None]] | None:
    """Converts to numbers that read as the same float32."""
    if matrix is None:
        return None
    return [[None if np.isnan(value) else float(f"{value:.9g}") for value in line] for line in matrix]


def _other_rows(directory: str, size: int) -> list[dict[str, Any]]:
    path = expanded(directory) / "rows.jsonl"
    if not path.is_file():
        raise UserError("there is no rows.jsonl", directory, "give the --out of another run of jaxllm consistency")
    rows = list(iter_jsonl(path))
    if not rows or not {"id", "s_tran", *COMPARED} <= set(rows[0]):
        raise UserError("its rows lack measures", path, "give the --out of another run of jaxllm consistency; an older "
                        "rows.jsonl is measured again with --judge.kind matrix")
    if str(size) not in rows[0]["s_tran"]:
        raise UserError(f"the other run has no s_tran({size})", path, "let both runs end with the same of sizes")
    return rows
