"""`jaxllm audit`: preference pairs, a committee that votes on their labels, and what follows from the votes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.feedback.audit_rows import Columns, write
from jaxllm.feedback.config import AuditConfig as Config
from jaxllm.feedback.data import Pairs, read_pairs
from jaxllm.feedback.findings import Findings, find, informative, standardized, suspicious
from jaxllm.feedback.members import needs_texts, read_members
from jaxllm.feedback.report import lead, sections
from jaxllm.feedback.sources import nanmean
from jaxllm.feedback.stored_audit import FILE, save
from jaxllm.feedback.summary import summarize
from jaxllm.feedback.votes import bucket_names
from jaxllm.files import write_jsonl
from jaxllm.job import open_job
from jaxllm.progress import notice
from jaxllm.text.forms import PairRow, rows_of
from jaxllm.text.preferences import COLUMNS
from jaxllm.text.rows import Row, data_files, iter_rows

__all__ = ["Config", "run"]


def run(config: Config) -> Path:
    """Runs the job, or resumes it; returns the path of its result.json.

    Raises:
        UserError: the rows, the scores or a member cannot be used.
    """
    with open_job(config.out, config, "audit") as job:
        data = config.data
        job.pin_file("data", data_files(data.path), data.limit)
        for name, path in (("compare", config.compare), ("scores", config.committee.scores), *(
                (f"scores of {member.name}", member.path) for member in config.committee.members)):
            if path is not None:
                job.pin_file(name, data_files(path))
        if job.finished:
            return job.already_done()
        pairs = read_pairs(data.path, data.limit, data.limit_bad, job.rejected_path, needs_texts(config), config.seed,
                           config.near_duplicates, config.compare)
        if pairs.rejected:
            notice(f"{len(pairs.rejected):,} lines are no pairs, such as {pairs.rejected[0]}")
        members, unusable = read_members(config, job, pairs)
        if unusable:
            notice(f"{len(unusable):,} lines of scores cannot be used, such as {unusable[0]}")
            job.write_rejected(map(asdict, [*pairs.rejected, *unusable]))
        found = find(config, pairs, members)
        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(write, job.rows_path, _columns(config, pairs, found))
            save(job.directory / FILE, pairs, found, config.committee.edges)
            result = summarize(config, pairs, found)
        written.result()
        result["rejected_scores"] = len(unusable)
        shown = suspicious(found)[:config.suspicious].tolist()
        texts = texts_of(config, pairs, set(shown))
        if config.review:
            write_jsonl(job.directory / "review.jsonl", _review(config, pairs, found))
        for note in result["notes"]:
            notice(note)
        job.write_report("Audit of preference data", lead(result), sections(config, result, pairs, found, shown, texts))
        return job.write_result(result)


def _columns(config: Config, pairs: Pairs, found: Findings) -> Columns:
    """Returns what rows.jsonl has of each pair."""
    margins = standardized(found.scores)
    mean = nanmean(margins, 1)
    spread = np.sqrt(nanmean(np.square(margins - mean[:, None]), 1))
    right = np.array([round(one, 6) for one in found.right.tolist()])  # unlike numpy's, the nearest number
    return Columns(bucket_names(config.committee.edges), [member.key for member in found.voting], pairs.ids,
                   pairs.issues, {
                       "votes": found.count.votes, "voters": found.count.voters, "bucket": found.bucket,
                       "source": found.source, "rule": found.rule, "right": right, "consensus": found.consensus,
                       "margin": found.margin, "margin_mean": mean, "margin_std": spread, "quantiles": found.quantile,
                       "by_member": found.votes})


def texts_of(config: Config, pairs: Pairs, wanted: set[int]) -> dict[int, PairRow]:
    """Returns the texts of some pairs, read again where they are not in memory."""
    if pairs.rows is not None:
        return {number: pairs.rows[number] for number in wanted}
    found: dict[int, PairRow] = {}
    if not wanted:
        return found
    lines = {pairs.lines[number] for number in wanted}
    index = {str(pairs.ids[number]): number for number in wanted}
    for item in iter_rows(config.data.path, {}, COLUMNS, lines):
        if isinstance(item, Row):
            found |= {index[str(row.id)]: row for row in rows_of(item.fields, "paired", item.line)
                      if str(row.id) in index}
            if len(found) == len(wanted):
                break
    return found


def _review(config: Config, pairs: Pairs, found: Findings) -> Iterator[Mapping[str, Any]]:
    """Yields the pairs for people to answer, with their texts."""
    chosen: Sequence[int] = informative(found, pairs.decisions, config.review).tolist()
    texts = texts_of(config, pairs, set(chosen))
    for number in chosen:
        row = texts[number]
        yield {"id": pairs.ids[number], "prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected,
               "votes": int(found.count.votes[number]), "voters": int(found.count.voters[number]),
               "label_probability": round(float(found.right[number]), 6), "answer": None, "note": None}
