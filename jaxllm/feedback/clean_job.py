"""`jaxllm clean`: decides by an audit what is done with each preference pair, and does it."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm import agreement
from jaxllm.config import to_dict
from jaxllm.errors import UserError
from jaxllm.feedback.cleaning_config import Config
from jaxllm.feedback.data import ANSWERS, decision_of
from jaxllm.feedback.difficulty import difficulties
from jaxllm.feedback.gate import count_of_cleaning, limit_soft_labels, pass_flips
from jaxllm.feedback.ledger import ACTIONS, FLIP, KEEP, REMOVE, SOFT, UNPAIRED, replayed
from jaxllm.feedback.methods import METHODS, Decision, Inputs, decide
from jaxllm.feedback.rewriting import Index, Part, Plan, Tally, index, pairs, parts, rewritten
from jaxllm.feedback.scores import from_cell
from jaxllm.feedback.stored_audit import FILE, load
from jaxllm.files import JsonlWriter, expanded
from jaxllm.job import Job, open_job
from jaxllm.progress import notice
from jaxllm.report import Section, Table
from jaxllm.statistics import resampled_units
from jaxllm.text.readers import in_blocks
from jaxllm.text.rows import Rejected, data_files, iter_rows

__all__ = ["Config", "read_truth", "run"]

LEDGER, CLEANED, UNPAIRED_FILE = "ledger.jsonl", "cleaned.jsonl", "cleaned_unpaired.jsonl"
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
        tally = Tally()
        if config.replay is not None:
            counts = _write(job, config, tally, parts(replayed(config.replay, pairs(config.data.path, config.data.limit,
                                                                                    tally))))
            result: dict[str, Any] = {"method": None, "replayed": config.replay}
            tables: list[Table] = []
        else:
            plan, result, tables = _decided(config, None if _is_indexed(config, job) else _index(config))
            counts = _write(job, config, tally, in_blocks(rewritten, config.data.path, plan.of,
                                                          whole=config.data.limit is not None))
        rejected = tally.rejected
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


def _is_indexed(config: Config, job: Job) -> bool:
    """Whether the audit, which is of this very file, has all that is needed of the pairs but their columns."""
    by_id = config.answers is not None or config.truth is not None
    needs = None if config.method == "sac" else METHODS[str(config.method)].needs
    return config.audit is not None and job.shares("data", config.audit) and not by_id and needs not in ("tags", "ifd")


def _index(config: Config) -> Index:
    """Reads ids, lines, digests and tags of the pairs."""
    found = Index()
    for part in in_blocks(functools.partial(index, limit=config.data.limit), config.data.path,
                          whole=config.data.limit is not None):
        found.add(part)
    found.tally.check(config.data.path, config.data.limit_bad)
    if len(set(found.ids)) < len(found.ids):
        twice = next(name for name, n in collections.Counter(found.ids).items() if n > 1)
        raise UserError(f"the id {twice!r} occurs twice", config.data.path, "give every row an id of its own")
    return found


def _write(job: Job, config: Config, tally: Tally, found: Iterable[Part | Tally]) -> collections.Counter[str]:
    """Writes ledger, cleaned rows and rows for KTO; counts the actions, and adds up the lines that were read."""
    counts: collections.Counter[str] = collections.Counter()
    paths = [job.directory / name for name in (LEDGER, CLEANED, UNPAIRED_FILE)]
    hidden = [path.with_name(f".{path.name}.part") for path in paths]
    try:
        with contextlib.ExitStack() as stack:
            for part in hidden:
                part.unlink(missing_ok=True)
            writers = [stack.enter_context(JsonlWriter(part)) for part in hidden]
            for own in found:
                if isinstance(own, Tally):
                    tally.add(own)
                    continue
                counts.update(own.counts)
                for writer, lines in zip(writers, (own.ledger, own.cleaned, own.unpaired), strict=True):
                    writer.append(lines)
        tally.check(config.data.path, config.data.limit_bad)
        for path, part in zip(paths[:None if counts["unpaired"] else 2], hidden, strict=False):
            os.replace(part, path)
    finally:
        for part in hidden:
            part.unlink(missing_ok=True)
    return counts


def _hash_of(config: Config) -> str:
    """Returns a hash of the settings, by which a line of the ledger knows them."""
    settings = {name: value for name, value in to_dict(config).items() if name != "out"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _decided(config: Config, found: Index | None) -> tuple[Plan, dict[str, Any], list[Table]]:
    """Decides what is done; returns that, contents of result.json, and tables of the report.

    Args:
        config: the config.
        found: the pairs; None where the audit is known to be of them, and they are not needed themselves.
    """
    of = None if found is None else np.array(found.digests, np.uint64)
    audit, about = (None, {}) if config.audit is None else load(config.audit, of)
    if found is None:
        assert audit is not None
        found, of = Index(lines=audit["lines"].tolist()), audit["rows"]
    ids, count = found.ids, len(found.lines)
    _check_searched(config.drop, about.get("issues", ()))
    inputs = Inputs(count, found.tags, None, audit, about)
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
        result |= _detection(config, ids, decision, detected, np.arange(count) if audit is None else
                             resampled_units(audit["clusters"]))
        tables.append(Table(["detection of wrong labels", ""], [[name, result[name]] for name in (
            "precision", "recall", "f1", "auroc") if result[name]["mean"] is not None], "Detection"))
    columns: dict[str, np.ndarray] = {}
    if audit is not None:
        columns = {**inputs.votes._asdict(), **{name: audit[name] for name in ("bucket", "source", "quantile")}}
    plan = Plan(config.data.path, config.data.limit, np.array(found.lines, np.int64), np.asarray(of), decision.action,
                decision.value, decision.rule, decision.rules, _hash_of(config), columns,
                [*about.get("buckets", ()), None])
    return plan, result, tables


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
        answer = from_cell(item.fields.get("answer"))
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


def read_truth(path: str) -> dict[str, bool]:
    """Reads rows {id, flipped}; returns whether each label is wrong, by the id as text.

    Raises:
        UserError: a row cannot be used, or an id occurs twice.
    """
    truth: dict[str, bool] = {}
    for item in iter_rows(path, {"id": Any, "flipped": Any}):
        if isinstance(item, Rejected):
            raise UserError(f"line {item.line} cannot be used: {item.reason}", path)
        name, value = str(item.fields["id"]), item.fields["flipped"]
        value = _BOOLEANS.get(value.strip().lower()) if isinstance(value, str) else value
        if value not in (True, False):
            raise UserError(f"flipped in line {item.line} must be true or false", path)
        if name in truth:
            raise UserError(f"the id {name!r} occurs twice", path)
        truth[name] = bool(value)
    return truth


def _detection(config: Config, ids: Sequence[str], decision: Decision, detected: np.ndarray, clusters: np.ndarray
               ) -> dict[str, Any]:
    """Measures how well wrong labels are detected by the method.

    Args:
        config: the config.
        ids: id of each pair.
        decision: outcome of the method.
        detected: pairs that the method flips or removes, `[N]` bool; not those that `drop` and `answers` do.
        clusters: number of what an interval resamples, of each pair, `[N]`.
    """
    truth = read_truth(str(config.truth))
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
