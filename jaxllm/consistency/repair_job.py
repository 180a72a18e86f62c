"""`jaxllm repair`: conflict-free comparisons from noisy ones, and rows to train a judge on them (REPAIR)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxllm.config import DataConfig, check, check_seed
from jaxllm.consistency.comparisons import Comparisons
from jaxllm.consistency.data import Instance, read_instances
from jaxllm.consistency.ranking import ESTIMATORS, PRIOR, Ranking
from jaxllm.consistency.repair import (
    OPTIONAL,
    REQUIRED,
    Repaired,
    better,
    flip_labels,
    group_comparisons,
    repair,
    row_problem,
)
from jaxllm.consistency.templates import Template, load_template
from jaxllm.files import jsonable, write_jsonl
from jaxllm.job import open_job
from jaxllm.progress import notice
from jaxllm.report import Graph, Section, Table, head
from jaxllm.text.rows import Rejected, check_share, data_files, read_rows

__all__ = ["Config", "run"]

Estimator = Literal["win_loss", "borda", "elo", "bradley_terry", "copeland", "rank_centrality", "schulze", "kemeny"]
# Items of an instance that is drawn.
MOST_DRAWN = 16


@dataclass(frozen=True)
class Config:
    """Repairs noisy comparisons: an order of each instance's items, and all comparisons that follow from it.

    The rows that are written contradict one another nowhere (REPAIR, 2410.02205).

    Args:
        out: directory for the results.
        data: rows {instance, first, second, winner, relation?}; winner is first, second or tie. Where relation is
            negated it is the item that the answer to the negated question names, the worse one.
        estimator: how an order is found from comparisons that contradict one another; see docs/consistency.md.
        permutations: for elo, the mean over this many random orders of the comparisons; 0 uses theirs.
        prior: for bradley_terry and rank_centrality, wins that are added to both items of every pair that was compared.
        both_orders: write each comparison in both orders of presentation.
        negations: write each comparison with the negated question as well.
        require_connected: write no comparison of items that no chain of comparisons connects.
        min_margin: least difference of scores, in units of the estimator.
        contradictory: several answers to the same question are votes (count), or are all left out (reject).
        flip: exchange winner and loser in this share of the rows first, to simulate noise.
        items: rows {id, context?, items, human?} of the instances; comparisons name items by their numbers from 0 or by
            their texts, and are written with numbers.
        export: write export.jsonl for jaxllm tune: sft {prompt, completion} or preference {prompt, chosen, rejected}.
        template: question of the exported prompts, as in jaxllm consistency.
        format: exported prompts are conversations (chat), or texts that a base model continues (plain).
        rows: export this many rows, drawn at random; null exports all.
        seed: base of all random draws.
    """

    out: Path
    data: DataConfig
    estimator: Estimator = "win_loss"
    permutations: int = 0
    prior: float = PRIOR
    both_orders: bool = True
    negations: bool = False
    require_connected: bool = False
    min_margin: float = 0.0
    contradictory: Literal["count", "reject"] = "count"
    flip: float = 0.0
    items: DataConfig | None = None
    export: Literal["sft", "preference"] | None = None
    template: str = "overall"
    format: Literal["chat", "plain"] = "chat"
    rows: int | None = None
    seed: int = 0

    def __post_init__(self):
        check(0 <= self.flip <= 1, "flip", f"must be between 0 and 1, got {self.flip:g}")
        check(self.permutations >= 0, "permutations", f"must be 0 or more, got {self.permutations}")
        check(self.permutations == 0 or self.estimator == "elo", "permutations",
              f"does not apply to {self.estimator}, which does not depend on the order", "leave it out")
        check(0 <= self.prior < math.inf, "prior", f"must be 0 or more, got {self.prior:g}")
        check(self.prior == PRIOR or self.estimator in ("bradley_terry", "rank_centrality"), "prior",
              f"does not apply to {self.estimator}", "leave it out")
        check(self.min_margin >= 0, "min_margin", f"must be 0 or more, got {self.min_margin:g}")
        check(self.export is None or self.items is not None, "items", "is needed for export: it has the texts",
              "give --items.path")
        check(self.rows is None or self.rows >= 1, "rows", f"must be 1 or more, got {self.rows}")
        for name, value, use in (("rows", None, "number of exported rows"), ("template", "overall", "question of "
                                 "exported prompts"), ("format", "chat", "form of exported prompts")):
            check(self.export is not None or getattr(self, name) == value, name, f"is the {use}", "set export")
        check_seed(self.seed)

    @property
    def estimate(self) -> Callable[[Comparisons], Ranking]:
        """The estimator with its settings."""
        settings: dict[str, dict[str, Any]] = {
            "elo": {"permutations": self.permutations, "seed": self.seed},
            "bradley_terry": {"prior": self.prior}, "rank_centrality": {"prior": self.prior}}
        return partial(ESTIMATORS[self.estimator], **settings.get(self.estimator, {}))


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json.

    Raises:
        UserError: the comparisons or the items cannot be used, or there is no estimate for an instance.
    """
    template = load_template(config.template)
    with open_job(config.out, config, "repair") as job:
        data = config.data
        job.pin_file("data", data_files(data.path), data.limit)
        if config.items is not None:
            job.pin_file("items", data_files(config.items.path), config.items.limit)
            job.pin("template", template.sha256)
        if job.finished:
            return job.already_done()
        instances: list[Instance] = []
        rejected_items: list[Rejected] = []
        if config.items is not None:
            instances, of_items = read_instances(config.items.path, config.items.limit, config.items.limit_bad)
            if rejected_items := of_items.rejected:
                notice(f"{len(rejected_items)} rows of items cannot be used: {rejected_items[0]}")
        by_id = {str(instance.id): instance for instance in instances}
        refusal = row_problem if config.items is None else partial(_numbered, by_id)
        found = read_rows(data.path, REQUIRED, OPTIONAL, data.limit_bad, job.rejected_path, data.limit, refusal)
        original = list(map(jsonable, found.rows))
        given, flipped = original, np.zeros(len(original), bool)
        if config.flip:
            given, flipped = flip_labels(original, config.flip, config.seed)
            write_jsonl(job.directory / "noisy.jsonl", given)
        repaired = repair(given, config.estimate, both_orders=config.both_orders, negations=config.negations,
                          require_connected=config.require_connected, min_margin=config.min_margin, seed=config.seed,
                          source=data.path, lines=found.lines, contradictory=config.contradictory)
        if repaired.rejected or rejected_items:
            job.write_rejected(map(vars, [*rejected_items, *found.rejected, *repaired.rejected]))
            check_share(len(given) - len(repaired.rejected), repaired.rejected, data.limit_bad, job.rejected_path)
        write_jsonl(job.rows_path, repaired.rows)
        write_jsonl(job.directory / "audit.jsonl", repaired.audit)
        result: dict[str, Any] = {"estimator": config.estimator, **repaired.statistics,
                                  "rejected": len(found.rejected) + len(repaired.rejected),
                                  "rejected_items": len(rejected_items)}
        result["before"]["human_agreement"] = _human_agreement(given, by_id)
        result["after"]["human_agreement"] = _human_agreement(repaired.rows, by_id)
        if config.flip:
            result["flipped"] = _recovery(original, found.lines, flipped, repaired.audit)
        if config.items is not None and config.export is not None:
            exported = list(_export(config, template, repaired.rows, by_id))
            result["exported"] = len(exported)
            write_jsonl(job.directory / "export.jsonl", exported)
        if not repaired.rows:
            notice("no comparison is left: no instance has items with different scores")
        job.write_report("Repaired comparisons", _lead(result), _sections(result, repaired, given))
        return job.write_result(result)


def _recovery(rows: Sequence[Mapping[str, Any]], lines: Sequence[int], flipped: np.ndarray,
              audit: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts what the repair made of labels that were flipped, and of those that were not."""
    own = {line: (row["winner"], bool(flip)) for line, row, flip in zip(lines, rows, flipped, strict=True)}
    counts = {"flipped": int(flipped.sum()), "restored": 0, "left_flipped": 0, "spoiled": 0, "undecided": 0}
    for entry in audit:
        winner, flip = own[entry["line"]]
        if winner == "tie":
            continue
        if entry["repaired"] is None:
            counts["undecided"] += 1
        elif flip:
            counts["restored" if entry["repaired"] == winner else "left_flipped"] += 1
        elif entry["repaired"] != winner:
            counts["spoiled"] += 1
    decided = [entry for entry in audit if entry["repaired"] is not None and own[entry["line"]][0] != "tie"]
    right = sum(entry["repaired"] == own[entry["line"]][0] for entry in decided)
    named = int(sum(row["winner"] != "tie" for row in rows))
    return counts | {"right_before": 1 - counts["flipped"] / named if named else None,
                     "right_after": right / len(decided) if decided else None}


def _human_agreement(rows: Sequence[Mapping[str, Any]], by_id: Mapping[str, Instance]) -> float | None:
    """Computes the share of comparisons for the item that people prefer, of those on which both decide."""
    right = []
    for row in rows:
        instance = by_id.get(str(row["instance"]))
        if instance is None or instance.order is None or row["winner"] == "tie":
            continue
        preferred = instance.order[row["first"], row["second"]]
        if abs(preferred) == 1:
            right.append((preferred > 0) == (better(row) == "first"))
    return float(np.mean(right)) if right else None


def _export(config: Config, template: Template, rows: Sequence[Mapping[str, Any]], by_id: Mapping[str, Instance]
            ) -> Iterator[dict[str, Any]]:
    """Yields fine-tuning rows of comparisons that name items by their numbers."""
    chosen: Sequence[int] = range(len(rows))
    if config.rows is not None and config.rows < len(rows):
        chosen = sorted(np.random.default_rng(config.seed).permutation(len(rows))[:config.rows].tolist())
    builders: dict[str, Any] = {}
    for number in chosen:
        row = rows[number]
        name = str(row["instance"])
        instance = by_id[name]
        if name not in builders:
            builders[name] = template.builder(instance.context, instance.items)
        first, second = row["first"], row["second"]
        negated, chat = row["relation"] == "negated", config.format == "chat"
        prompt = builders[name](first, second, negated=negated, chat=chat)
        right, wrong = template.options if row["winner"] == "first" else template.options[::-1]
        answer = (lambda text: [{"role": "assistant", "content": text}]) if chat else (lambda text: f" {text}")
        shown = [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt
        key = f"{name}/{first}/{second}" + ("/negated" if negated else "")
        if config.export == "sft":
            yield {"id": key, "prompt": shown, "completion": answer(right)}
        else:
            yield {"id": key, "prompt": shown, "chosen": answer(right), "rejected": answer(wrong)}


def _numbered(by_id: Mapping[str, Instance], row: dict[str, Any]) -> str | None:
    """Replaces the names in a row by the id of the instance and the numbers of items, or returns why it cannot."""
    if (reason := row_problem(row)) is not None:
        return reason
    instance = by_id.get(str(row["instance"]))
    if instance is None:
        return f"there are no items of the instance {row['instance']!r} that can be used"
    for slot in ("first", "second"):
        name = row[slot]
        matches = {i for i, text in enumerate(instance.items) if text == name}
        if str(name).isascii() and str(name).isdecimal() and int(name) < len(instance.items):
            matches.add(int(name))
        if len(matches) != 1:
            return (f"instance {instance.id!r} has no item {name!r}" if not matches else
                    f"{name!r} may be any of the items {sorted(matches)} of the instance {instance.id!r}")
        row[slot] = matches.pop()
    row["instance"] = instance.id
    return None if row["first"] != row["second"] else "an item is compared with itself"


def _lead(result: Mapping[str, Any]) -> str:
    before, after = result["before"], result["after"]
    share = result["overturned_share"]
    text = (f"{before['rows']:,} comparisons of {before['instances']:,} instances became {after['rows']:,} without "
            "conflict.")
    text += "" if share is None else f" {share:.1%} of the labels were overturned."
    return text if result["distance"] is None else (
        f"{text} Every order of the items contradicts {result['distance']:,} comparisons or more.")


def _sections(result: Mapping[str, Any], repaired: Repaired, given: Sequence[Mapping[str, Any]]) -> list[Section]:
    names = {"rows": "comparisons", "ties": "ties", "pairs": "pairs of items", "coverage": "share of all pairs",
             "conflicting_pairs": "pairs with both winners", "cycles": "cycles of three items",
             "cyclic_instances": "instances with a cycle", "s_tran": "s_tran(5)", "s_comm": "s_comm",
             "human_agreement": "agreement with people", "rows_per_instance": "comparisons an instance",
             "first_slot": "share won by the first slot"}
    found = [Section("Before and after", parts=[Table(["", "before", "after"], [
        [label, result["before"][name], result["after"][name]] for name, label in names.items()])])]
    if "flipped" in result:
        own = result["flipped"]
        labels = {"flipped": "labels flipped", "restored": "of those restored", "left_flipped": "of those left",
                  "spoiled": "right labels overturned", "undecided": "comparisons without a row",
                  "right_before": "right labels before", "right_after": "right labels after, of those decided"}
        found.append(Section("Simulated noise", parts=[Table(["", ""], [[label, own[name]] for name, label in
                                                                        labels.items()])]))
    found += _pictures(repaired, given)
    overturned = [entry for entry in repaired.audit if entry["outcome"] == "overturned"]
    overturned.sort(key=lambda entry: -entry["margin"])
    rows, note = head(overturned, 40, "audit.jsonl")
    found.append(Section("Overturned comparisons", "The clearest ones." if rows else "None was overturned.", [Table(
        ["line", "instance", "first", "second", "was", "is", "margin"],
        [[entry["line"], str(entry["instance"]), str(entry["first"])[:200], str(entry["second"])[:200],
          entry["winner"], entry["repaired"], entry["margin"]] for entry in rows], note)] if rows else []))
    return found


def _pictures(repaired: Repaired, given: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Draws the instance in which most was overturned, before and after."""
    counts: dict[Any, int] = {}
    for entry in repaired.audit:
        counts[entry["instance"]] = counts.get(entry["instance"], 0) + (entry["outcome"] == "overturned")
    before = {one.name: one for one in group_comparisons(given)}
    drawn = [name for name in counts if counts[name] and len(before[name].items) <= MOST_DRAWN]
    if not drawn:
        return []
    name = max(drawn, key=counts.__getitem__)
    items = before[name].items
    margins = before[name].comparisons.margins
    was = [(int(i), int(j)) for i, j in np.argwhere(margins > 0)]
    edges = set()
    for row in repaired.rows:
        if row["instance"] == name and row["relation"] == "original":
            first, second = items.index(row["first"]), items.index(row["second"])
            edges.add((first, second) if row["winner"] == "first" else (second, first))
    labels = [str(item)[:8] for item in items]
    turned = [edge for edge in was if edge[::-1] in edges]
    return [Section("One instance", f"Instance {name}, in which most labels were overturned; these are in color.", [
        Graph("Before", labels, was, turned),
        Graph("After", labels, sorted(edges), [edge[::-1] for edge in turned])])]
