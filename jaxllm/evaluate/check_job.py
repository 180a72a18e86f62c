"""`jaxllm check`: an audit of fine-tuning data before training."""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import DataConfig, check, check_seed
from jaxllm.errors import UserError
from jaxllm.files import plain, write_jsonl
from jaxllm.job import open_job
from jaxllm.model import Model, model_tokenizer
from jaxllm.models import load_spec
from jaxllm.progress import printable
from jaxllm.report import Section, Table, head
from jaxllm.report.page import show
from jaxllm.text.audit import ISSUES, NEAR, Audit, audit_overlap, audit_rows
from jaxllm.text.encoding import (
    MAX_LENGTH,
    encode_all,
    encode_completion,
    encode_pair,
    encode_reward_pair,
    encode_text,
)
from jaxllm.text.forms import FORMS
from jaxllm.text.preferences import PreferenceRows, read_forms
from jaxllm.text.rows import check_share, data_files

# Reasons that a table lists.
_SHOWN_REASONS = 12


@dataclass(frozen=True)
class Config:
    """Audits fine-tuning data before training: rejected lines with their reasons, duplicates, contradictions, length
    bias or balance of classes, overlap with another file, and what is cut or dropped for its length.

    Texts of rows are neither printed nor written.

    Args:
        data: rows as for jaxllm tune, in the form that most of its first lines have; limit_bad is the share of rejected
            lines above which training stops.
        out: directory for result.json, report.html, report.md and rows.jsonl (the issues of every line that has any);
            null writes nothing.
        compare: second data file, such as the test set; rows that have one of its prompts, or nearly, are counted.
        near_duplicates: least similarity of near-duplicates, from 0.5 to 1: the part of their runs of three words that
            they share, in the prompt and in each answer, without case and punctuation; null searches none.
        model: checkpoint with the tokenizer for lengths in tokens; null counts words only.
        max_length: the most tokens of a text in training, as lengths.max_length of jaxllm tune; null is the model's
            context window.
        max_prompt_length: the most tokens of a prompt in training, which is cut at its start; null cuts none.
        json: print one JSON object instead of text; not with out, which has it in result.json.
        seed: seed of the intervals.
    """

    data: DataConfig
    out: Path | None = None
    compare: str | None = None
    near_duplicates: float | None = NEAR
    model: str | None = None
    max_length: int | None = MAX_LENGTH
    max_prompt_length: int | None = None
    json: bool = False
    seed: int = 0

    def __post_init__(self):
        for key, default in (("max_length", MAX_LENGTH), ("max_prompt_length", None)):
            value = getattr(self, key)
            check(value is None or value >= 2, key, f"must be 2 or more, got {value}")
            check(value in (None, default) or self.model is not None, key, "lengths are in tokens of a model",
                  "give --model too")
        check(not self.json or self.out is None, "json", "with out, the object is in result.json", "give one of them")
        check(self.near_duplicates is None or 0.5 <= self.near_duplicates <= 1, "near_duplicates",
              f"must be from 0.5 to 1, or null, got {self.near_duplicates}")
        check_seed(self.seed)


def run(config: Config) -> Path | None:
    """Runs the job: prints the audit and, with `out`, writes it; returns the path of its result.json."""
    if config.out is None:
        _print(config, audit(config))
        return None
    with open_job(config.out, config, "check") as job:
        job.pin_file("data", data_files(config.data.path), config.data.limit)
        if config.compare is not None:
            job.pin_file("compare", data_files(config.compare))
        if job.finished:
            return job.already_done()
        found = audit(config)
        reasons = {line: [reason for _, reason in found.issues[line]] for line in sorted(found.issues)}
        if job.primary:
            write_jsonl(job.rows_path, ({"line": line, "id": found.ids.get(line, line), "issues": own}
                                        for line, own in reasons.items()))
        _print(config, found)
        listed, note = head([[line, "; ".join(own)] for line, own in reasons.items()])
        sections = [*_sections(config, found.result), Section("Lines", parts=[Table(["line", "issues"], listed, note)])]
        headline = Table(["", "count"], [*_counts(found.result).rows, *_issues(found.result).rows])
        job.write_report("Audit of data", _lead(config, found.result), sections, headline)
        return job.write_result(found.result)


def audit(config: Config) -> Audit:
    """Audits the data of a config.

    Raises:
        UserError: a file or the model is missing or cannot be read.
    """
    read = read_forms(config.data.path, limit=config.data.limit)
    found = audit_rows(read, config.seed, config.near_duplicates)
    found.result["too_many_rejected"] = None
    if read.kind == "unpaired":
        good, bad = (sum(row.label == label for row in read.rows) for label in (True, False))
        found.result["desirable_per_undesirable"] = good / bad if bad else None
    if config.compare is not None:
        audit_overlap(found, config.compare)
    if config.model is not None:
        _audit_tokens(found, read, config)
    found.result["issues"] = found.counts()
    try:
        check_share(found.result["lines"] - len(read.rejected), read.rejected, config.data.limit_bad)
    except UserError:
        limit = config.data.limit_bad
        found.result["too_many_rejected"] = f"more than data.limit_bad ({limit:g}) of the lines are rejected"
    return found


def _audit_tokens(found: Audit, read: PreferenceRows, config: Config) -> None:
    """Adds lengths in tokens, and what would be cut, dropped or refused."""
    name = str(config.model)
    spec = load_spec(name)
    tokenizer = model_tokenizer(name, spec)
    limit = min(config.max_length or spec.max_positions, spec.max_positions)
    limits: dict[str, Any] = {"max_length": limit}
    whole = read.kind == "classify" or (read.kind == "paired" and spec.head is not None)
    if not whole:
        limits |= {"start": Model(spec, {}, tokenizer).start, "max_prompt_length": config.max_prompt_length}

    def encode(row: Any) -> tuple[list[int], int]:
        """Returns the lengths of the texts, and the number of tokens that are cut."""
        if read.kind == "classify":
            return [len(encode_text(tokenizer, row.text, row.pair, **limits)[0])], 0
        if whole:
            return [len(ids) for ids in encode_reward_pair(tokenizer, row, **limits)], 0
        encoded = (encode_pair if read.kind == "paired" else encode_completion)(tokenizer, row, **limits)
        return list(encoded.lengths), encoded.cut

    done = encode_all(read.rows, encode)
    for i, reason in done.refused.items():
        found.add(read.lines[i], "refused", reason)
    for i, error in done.too_long.items():
        found.add(read.lines[i], "too_long", f"dropped for its length of {error.tokens} tokens")
    for i, (_, cut) in zip(done.indices, done.encoded, strict=True):
        if cut:
            found.add(read.lines[i], "cut", f"{cut} tokens are cut off")
    for line, row in zip(read.lines, read.rows, strict=True):
        if any(tokenizer.control_tokens_in(text) for text in _texts(vars(row).values())):
            found.add(line, "control", "it spells control tokens")
    lengths = [max(lengths) for lengths, _ in done.encoded] + [error.tokens for error in done.too_long.values()]
    over = done.too_long
    if read.kind == "paired" and not whole:  # a reward model reads what the template writes after the answer too
        over = encode_all(read.rows, lambda row: encode_reward_pair(tokenizer, row, max_length=limit)).too_long
    bad = config.data.limit_bad
    if len(done.refused) > bad * len(read.rows):
        found.result["too_many_rejected"] = f"more than data.limit_bad ({bad:g}) of the rows are refused"
    elif not done.encoded:
        found.result["too_many_rejected"] = "no row can be used"
    found.result["tokens"] = {
        "model": name, "max_length": limit, "rows_cut": sum(cut > 0 for _, cut in done.encoded),
        "tokens_cut": sum(cut for _, cut in done.encoded), "rows_dropped": len(done.too_long),
        "rows_refused": len(done.refused),
        "refused_reasons": dict(collections.Counter(done.refused.values()).most_common()),
        "rows_over_max_length": len(over),
        "longest_text": {name: int(np.quantile(lengths, q, method="nearest")) if lengths else None
                         for name, q in (("median", 0.5), ("95 %", 0.95), ("most", 1.0))}}


def _texts(values: Any) -> list[str]:
    """Lists the texts among the values of a row."""
    return [text for value in values if isinstance(value, str | list)
            for text in ([value] if isinstance(value, str) else [turn["content"] for turn in value])]


def _print(config: Config, found: Audit) -> None:
    if config.json:
        print(json.dumps(plain(found.result), indent=2, ensure_ascii=False))
        return
    lines = [_lead(config, found.result)]
    for section in _sections(config, found.result):
        lines.append(f"\n{section.title}" + (f": {section.text}" if section.text else ""))
        lines += [_aligned(part) for part in section.parts if isinstance(part, Table)]
    print(printable("\n".join(lines)))


def _aligned(table: Table) -> str:
    """Formats a table as text: columns aligned, numbers to the right."""
    header = [list(table.header)] if any(table.header[1:]) and len(table.header) > 2 else []
    cells = [*header, *([show(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    return "\n".join("  " + "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width)
                                      in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells)


def _lead(config: Config, result: dict[str, Any]) -> str:
    forms = ", ".join(f"{n:,} of the form {FORMS[form]}" for form, n in result["forms"].items()) or "none usable"
    refused = f" Training refuses the file: {result['too_many_rejected']}." if result["too_many_rejected"] else ""
    return f"{Path(config.data.path).name}: {result['lines']:,} lines, {forms}.{refused}"


def _sections(config: Config, result: dict[str, Any]) -> list[Section]:
    """Makes the tables of an audit."""
    sections = [Section("Rows", parts=[_counts(result)])]
    if reasons := result["rejected_reasons"]:
        sections.append(Section("Rejected lines", parts=[_reasons(reasons)]))
    sections.append(Section("Issues", parts=[_issues(result)]))
    if length := result.get("length"):
        rows = [["mean words, chosen", length["mean_chosen"]], ["mean words, rejected", length["mean_rejected"]],
                ["chosen is longer", length["chosen_longer"]], ["rejected is longer", length["rejected_longer"]],
                ["equal length", length["equal"]], ["accuracy of \"longer is better\"", length["longer_is_better"]]]
        sections.append(Section("Length bias", parts=[Table(["", "value"], rows, "Equal lengths count one half.")]))
    for name, title in (("completions", "Completions"), ("classes", "Classes")):
        if groups := result.get(name):
            rows = [[group, *spread.values()] for group, spread in groups.items()]
            table = Table([name, "rows", "mean words", "median words", "most words"], rows)
            text = ""
            if ratio := result.get("desirable_per_undesirable"):
                text = f"{ratio:.3g} desirable rows for an undesirable one; KTO's authors advise 1 to 1.33, weighted"
            if name == "classes":
                text = f"always the most frequent class: {result['largest_class']:.3f} right"
                text += "; labels are numbers in some rows and names in others" * (len(result["label_types"]) > 1)
            sections.append(Section(title, text, [table]))
    if tokens := result.get("tokens"):
        rows = [*([f"tokens of the longer text of a row, {name}", value]
                  for name, value in tokens["longest_text"].items()),
                ["rows cut", tokens["rows_cut"]], ["tokens cut off", tokens["tokens_cut"]],
                ["rows dropped for their length", tokens["rows_dropped"]], ["rows refused", tokens["rows_refused"]]]
        if result["kind"] == "paired":
            rows.append(["rows that a reward model drops for their length", tokens["rows_over_max_length"]])
        refused = [_reasons(tokens["refused_reasons"])] if tokens["refused_reasons"] else []
        text = f"with {tokens['model']} and at most {tokens['max_length']:,} tokens"
        sections.append(Section("Tokens", text, [Table(["", "count"], rows), *refused]))
    if overlap := result.get("overlap"):
        rows = [["lines there with a prompt", overlap["lines_there"]], ["prompts in both files", overlap["prompts"]],
                ["rows here with such a prompt", overlap["rows"]]]
        sections.append(Section("Overlap", f"with {overlap['file']}", [Table(["", "count"], rows)]))
    return sections


def _counts(result: dict[str, Any]) -> Table:
    """Lists the numbers of lines, rows and prompts."""
    prompts = result["prompts"]
    counts = [["lines", result["lines"]], ["rows", result["rows"]], ["rejected lines", result["rejected"]],
              ["distinct prompts", prompts["distinct"]], ["prompts of several lines", prompts["repeated"]]]
    counts += [["lines without a prompt", prompts["lines_without"]]] if prompts["lines_without"] else []
    if {"scored", "ranked"} & result["forms"].keys():
        counts += [["ties, which make no pair", result["ties"]], ["answers without a score", result["unscored"]]]
    counts += [[f"rows with a {name}", n] for name, n in result["columns"].items()]
    return Table(["", "count"], counts)


def _issues(result: dict[str, Any]) -> Table:
    """Lists the number of lines with each issue."""
    return Table(["lines with", "count"], [[ISSUES[name], n] for name, n in result["issues"].items()] or [["none", 0]])


def _reasons(reasons: dict[str, int]) -> Table:
    shown = list(reasons.items())[:_SHOWN_REASONS]
    more = f"{len(reasons) - len(shown)} more reasons." if len(reasons) > len(shown) else ""
    return Table(["reason", "count"], [list(item) for item in shown], more)
