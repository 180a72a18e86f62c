"""`jaxllm clean`: decides by an audit what is done with each preference pair, and does it."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm import agreement
from jaxllm.config import to_dict
from jaxllm.errors import UserError
from jaxllm.feedback.cleaning_config import Config
from jaxllm.feedback.data import ANSWERS, decision_of, digest_of, extra_reason
from jaxllm.feedback.difficulty import difficulties
from jaxllm.feedback.gate import count_of_cleaning, limit_soft_labels, pass_flips
from jaxllm.feedback.ledger import Line, cleaned, columns_of, entry, replayed, unpaired
from jaxllm.feedback.methods import ACTIONS, FLIP, KEEP, METHODS, REMOVE, SOFT, UNPAIRED, Decision, Inputs, decide
from jaxllm.feedback.sources import CODES
from jaxllm.feedback.stored_audit import FILE, load
from jaxllm.files import JsonlWriter, expanded
from jaxllm.job import Job, open_job
from jaxllm.progress import notice
from jaxllm.report import Section, Table
from jaxllm.text.preferences import FormLine, iter_forms
from jaxllm.text.rows import Rejected, as_text, check_share, data_files, iter_rows

__all__ = ["Config", "run"]

LEDGER, CLEANED, UNPAIRED_FILE = "ledger.jsonl", "cleaned.jsonl", "cleaned_unpaired.jsonl"
BLOCK = 100  # pairs that are written together, few enough for the processor's cache
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json.

    Raises:
        UserError: the rows, the audit, the ledger or another file cannot be used.
    """
    with open_job(config.out, config, "clean") as job:
        job.pin_file("data", data_files(config.data.path), config.data.limit)
        for name in ("truth", "answers", "replay"):
            if (path := getattr(config, name)) is not None:
                job.pin_file(name, path)
        if config.ifd.path is not None:
            job.pin_file("ifd", config.ifd.path)
        if config.audit is not None and (path := expanded(config.audit) / FILE).is_file():
            job.pin_file("audit", path)
        if job.finished:
            return job.already_done()
        rejected: list[Rejected] = []
        lines = _lines(config, rejected)
        if config.replay is not None:
            counts = _write(job, replayed(config.replay, lines))
            result: dict[str, Any] = {"method": None, "replayed": config.replay}
            tables: list[Table] = []
        else:
            ids, digests, tags = _index(config)
            decision, inputs, result, tables = _decided(config, ids, digests, tags)
            counts = _write(job, _entries(lines, digests, decision, inputs, _hash_of(config)))
        job.write_rejected(map(asdict, rejected))
        if rejected:
            notice(f"{len(rejected):,} lines are no pairs, and in no output but rejected.jsonl, such as {rejected[0]}")
        actions = {name: counts.get(name, 0) for name in ACTIONS}
        total = sum(counts.values())
        result = {"rows": total, "rejected": len(rejected), "actions": actions,
                  "cleaned": total - actions["remove"] - actions["unpaired"], **result}
        summary = Table(["action", "pairs", "share"],
                        [[name, n, n / max(total, 1)] for name, n in actions.items() if n])
        job.write_report("Cleaned preference data", _lead(config, result),
                         [Section("Actions", parts=[summary]), *(Section(table.note or "Rules", parts=[table])
                                                                 for table in tables)])
        return job.write_result(result)


def _lead(config: Config, result: Mapping[str, Any]) -> str:
    done = ", ".join(f"{n:,} {name}" for name, n in result["actions"].items() if n)
    return f"{result['rows']:,} pairs, {f'method {config.method}' if config.method else 'replay of a ledger'}: {done}."


def _lines(config: Config, rejected: list[Rejected]) -> Iterator[Line]:
    """Yields the pairs of the data with their columns; see `_usable`."""
    for item in _usable(config, rejected):
        yield from (Line(row, columns_of(row, item.form, item.fields)) for row in item.rows)


def _usable(config: Config, rejected: list[Rejected]) -> Iterator[FormLine]:
    """Yields the lines of the data that can be used; collects the others, and raises at the end if there are many."""
    used = 0
    for item in iter_forms(config.data.path, "paired", config.data.limit):
        if isinstance(item, Rejected):
            rejected.append(item)
        elif (reason := extra_reason(item.fields)) is not None:
            rejected.append(Rejected(config.data.path, item.line, reason, as_text(item.fields)))
        else:
            used += 1
            yield item
    if not used and not rejected:
        raise UserError("there are no rows in it", config.data.path)
    check_share(used, rejected, config.data.limit_bad)


def _write(job: Job, entries: Iterator[tuple[Line, dict[str, Any]]]) -> collections.Counter[str]:
    """Writes ledger, cleaned rows and rows for KTO; counts the actions."""
    counts: collections.Counter[str] = collections.Counter()
    paths = [job.directory / name for name in (LEDGER, CLEANED, UNPAIRED_FILE)]
    parts = [path.with_name(f".{path.name}.part") for path in paths]
    try:
        with contextlib.ExitStack() as stack:
            for part in parts:
                part.unlink(missing_ok=True)
            ledger, rows, both = [stack.enter_context(JsonlWriter(part)) for part in parts]
            while block := list(itertools.islice(entries, BLOCK)):
                counts.update(own["action"] for _, own in block)
                ledger.write(*(own for _, own in block))
                rows.write(*(row for line, own in block if (row := cleaned(line, own)) is not None))
                both.write(*(row for line, own in block for row in unpaired(line, own)))
        for path, part in zip(paths[:None if counts["unpaired"] else 2], parts, strict=False):
            os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return counts


def _hash_of(config: Config) -> str:
    """Returns a hash of the settings, by which a line of the ledger knows them."""
    settings = {name: value for name, value in to_dict(config).items() if name != "out"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _entries(lines: Iterator[Line], digests: np.ndarray, decision: Decision, inputs: Inputs, settings: str
             ) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yields the pairs, which have the digests `[N]`, with their lines of the ledger; `settings` is the hash of the
    config."""
    columns: list[tuple[Any, ...]] = []
    if inputs.audit is not None:
        names = [*inputs.about["buckets"], None]
        quantiles = [[None if math.isnan(one) else one for one in pair]
                     for pair in np.round(inputs.audit["quantile"], 6).tolist()]
        columns = list(zip(*(column.tolist() for column in inputs.votes), [names[n] for n in inputs.audit["bucket"]],
                           [CODES[n] for n in inputs.audit["source"]], quantiles, strict=True))
    actions, rules, values = decision.action.tolist(), decision.rule.tolist(), decision.value.tolist()
    for number, (line, digest) in enumerate(zip(lines, digests.tolist(), strict=True)):
        value = round(values[number], 6) if actions[number] >= SOFT and ACTIONS[actions[number]] != "unpaired" else None
        found = dict(zip(("votes", "voters", "bucket", "source", "quantiles"), columns[number] if columns else (),
                         strict=bool(columns)))
        yield line, entry(line.row, f"{digest:016x}", ACTIONS[actions[number]], decision.rules[rules[number]], value,
                          found | {"config": settings})


def _decided(config: Config, ids: Sequence[str], digests: np.ndarray, tags: Sequence[tuple[str, ...]]
             ) -> tuple[Decision, Inputs, dict[str, Any], list[Table]]:
    """Decides what is done; returns that with what it is decided by, contents of result.json, tables of the report.

    Args:
        config: the config.
        ids, digests, tags: as of `_index`.
    """
    audit, about = (None, {}) if config.audit is None else load(config.audit, digests)
    _check_searched(config.drop, about.get("issues", ()))
    inputs = Inputs(len(ids), tags, None, audit, about)
    needs = None if config.method == "sac" else METHODS[str(config.method)].needs
    if needs == "ifd" and (config.ifd.model or config.ifd.path):
        inputs = replace(inputs, ifd=difficulties(config, ids))
    if config.method in ("random_r", "random_f") and config.count is None and audit is not None:
        config = replace(config, count=count_of_cleaning(config, inputs))
    decision = decide(config, inputs)
    soft = limit_soft_labels(config, decision, inputs)
    gate, steps = pass_flips(config, decision, inputs)
    detected = np.isin(decision.action, (FLIP, REMOVE, UNPAIRED))
    dropped = {} if audit is None else _drop(config.drop, audit["issues"], about["issues"], decision)
    if config.answers is not None:
        _apply_answers(config.answers, ids, decision)
    result: dict[str, Any] = {"method": config.method, "gate": gate, "flips": steps,
                              "dropped": dropped,
                              "soft_labels": soft,
                              "rules": {decision.rules[number]: int(n) for number, n in zip(
                                  *np.unique(decision.rule, return_counts=True), strict=True)}}
    tables = [Table(["rule", "pairs"], [[rule, n] for rule, n in result["rules"].items()])]
    if steps:
        tables.append(Table(["rule that flips", "step", "flips", "estimated precision", "refused"], [
            [own["rule"], own["step"] or "", own["flips"], own["estimated_precision"], "yes" if own["refused"] else ""]
            for own in steps], "Flips"))
    if audit is not None:
        names, bucket, domain = [*about["buckets"], "without votes"], audit["bucket"], audit["domain"]
        result["by_bucket"] = _by(decision.action, bucket, names)
        result["by_domain"] = _by(decision.action, domain, about["domains"])
        result["by_bucket_and_domain"] = {
            names[number]: _by(decision.action[bucket == number], domain[bucket == number], about["domains"])
            for number in np.unique(bucket)}
    if config.truth is not None:
        result |= _detection(config, ids, decision, detected, np.arange(len(ids)) if audit is None else
                             audit["clusters"])
        tables.append(Table(["detection of wrong labels", ""], [[name, result[name]] for name in (
            "precision", "recall", "f1", "auroc") if result[name]["mean"] is not None], "Detection"))
    return decision, inputs, result, tables


def _index(config: Config) -> tuple[list[str], np.ndarray, list[tuple[str, ...]]]:
    """Reads ids, digests `[N]` and tags of the pairs."""
    ids, digests, tags, rejected = [], [], [], []
    for item in _usable(config, rejected):
        ids += [str(row.id) for row in item.rows]
        digests += [int(digest_of(row), 16) for row in item.rows]
        tags += [tuple(dict.fromkeys(map(str, item.fields.get("tags") or ())))] * len(item.rows)
    if len(set(ids)) < len(ids):
        twice = next(name for name, n in collections.Counter(ids).items() if n > 1)
        raise UserError(f"the id {twice!r} occurs twice", config.data.path, "give every row an id of its own")
    return ids, np.array(digests, np.uint64), tags


def _check_searched(wanted: Sequence[str], issues: Sequence[str]) -> None:
    """Raises a `UserError` where the audit, which searched `issues`, did not search one of `wanted`."""
    for name in wanted:
        if name not in issues:
            key = "--near_duplicates 0.8" if name == "near_duplicate" else "--compare FILE" + (
                " and --near_duplicates 0.8" if name == "near_overlap" else "")
            raise UserError(f"the audit did not search {name}", "drop", f"run jaxllm audit with {key}, and a new --out")


def _drop(wanted: Sequence[str], bits: np.ndarray, issues: Sequence[str], decision: Decision) -> dict[str, int]:
    """Removes pairs with some issues of the data check; returns the number of pairs that have each.

    Args:
        wanted: issues of the pairs to remove, all among `issues`.
        bits: issues of each pair, `[N]`, a bit for each of `issues`.
        issues: issues that the audit searched.
        decision: changed in place; the first of several issues is the rule.
    """
    counts: dict[str, int] = {}
    for name in reversed(wanted):
        found = (bits >> issues.index(name) & 1) > 0
        decision.set(found, REMOVE, f"dropped: {name}")
        counts[name] = int(found.sum())
    counts = dict(reversed(counts.items()))
    if counts:
        notice(f"pairs to drop: {', '.join(f'{n:,} {name}' for name, n in counts.items())}")
    return counts


def _apply_answers(path: str, ids: Sequence[str], decision: Decision) -> None:
    """Lets people's answers decide their pairs."""
    given: dict[str, list[str]] = collections.defaultdict(list)
    for item in iter_rows(path, {"id": Any}, {"answer": Any}):
        if isinstance(item, Rejected):
            raise UserError(f"line {item.line} cannot be used: {item.reason}", path)
        answer = item.fields.get("answer")
        if answer is None:
            continue
        if not isinstance(answer, str | int) or isinstance(answer, bool) or answer not in ANSWERS:
            names = ", ".join(name for name in ANSWERS if isinstance(name, str))
            raise UserError(f"the answer in line {item.line} must be one of {names}", path)
        given[str(item.fields["id"])].append(ANSWERS[answer])
    index = {name: number for number, name in enumerate(ids)}
    if unknown := [name for name in given if name not in index]:
        raise UserError(f"there is no pair {unknown[0]!r} in the data", path)
    answered = np.full(len(ids), None, object)
    for name, answers in given.items():
        answered[index[name]] = decision_of(answers)
    for answer in sorted({own for own in answered if own is not None}):
        action, value = {"chosen": (KEEP, 0.0), "rejected": (FLIP, 0.0), "both_bad": (REMOVE, 0.0)}.get(
            answer, (SOFT, 0.5))
        decision.set(answered == answer, action, f"people: {answer or 'undecided'}", value)
    if not given:
        notice(f"{path} has no answers yet")


def _by(action: np.ndarray, group: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts the actions of pairs, `[N]`, by a group of the pairs, `[N]`, numbers in `names`."""
    return {names[number]: {ACTIONS[own]: int(((group == number) & (action == own)).sum())
                            for own in np.unique(action[group == number])} for number in np.unique(group)}


def _detection(config: Config, ids: Sequence[str], decision: Decision, detected: np.ndarray, clusters: np.ndarray
               ) -> dict[str, Any]:
    """Measures how well wrong labels are detected by the method.

    Args:
        config: the config.
        ids: id of each pair.
        decision: outcome of the method.
        detected: pairs that the method flips or removes, `[N]` bool; not those that `drop` and `answers` do.
        clusters: number of each pair's prompt, `[N]`.
    """
    truth: dict[str, bool] = {}
    for item in iter_rows(str(config.truth), {"id": Any, "flipped": Any}):
        if isinstance(item, Rejected):
            raise UserError(f"line {item.line} cannot be used: {item.reason}", config.truth)
        name, value = str(item.fields["id"]), item.fields["flipped"]
        value = _BOOLEANS.get(value.strip().lower()) if isinstance(value, str) else value
        if value not in (True, False):
            raise UserError(f"flipped in line {item.line} must be true or false", config.truth)
        if name in truth:
            raise UserError(f"the id {name!r} occurs twice", config.truth)
        truth[name] = bool(value)
    used = np.array([name in truth for name in ids])
    if not used.any():
        raise UserError("none of its ids is that of a pair", config.truth)
    if unknown := len(truth) - int(used.sum()):
        notice(f"{unknown:,} ids of {config.truth} are those of no pair; they do not count in the detection")
    if not used.all():
        notice(f"{(~used).sum():,} pairs are not in {config.truth}; they do not count in the detection")
    flipped = np.array([truth.get(name, False) for name in ids])
    draws = 2000 if used.sum() <= 20_000 else 200
    measures = {"precision": agreement.precision, "recall": agreement.recall, "f1": agreement.f1}
    measured = lambda found: agreement.bootstrap(agreement.Rows(found[used], flipped[used], clusters[used]), measures,
                                                 draws=draws, seed=config.seed)
    result: dict[str, Any] = {"detection": {
        "true_positives": int((detected & flipped & used).sum()),
        "false_positives": int((detected & ~flipped & used).sum()),
        "false_negatives": int((~detected & flipped & used).sum()), "flipped": int((flipped & used).sum()),
        "detected": int((detected & used).sum())}, **measured(detected), "flagged": measured(decision.flagged)}
    suspicion = detected.astype(float) if decision.suspicion is None else decision.suspicion
    known = used & ~np.isnan(suspicion)
    if known.any() and np.ptp(suspicion[known]) > 0:
        result |= agreement.bootstrap(agreement.Rows(suspicion[known], flipped[known], clusters[known]),
                                      {"auroc": agreement.auroc}, draws=min(draws, 500), seed=config.seed)
    else:
        result["auroc"] = {"mean": None, "ci_low": None, "ci_high": None, "n": int(known.sum()),
                           "reason": "all pairs have the same score" if known.any() else "no pair has a score"}
    return result
