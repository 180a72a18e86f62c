"""`jaxllm recommend`: how often a judge's list holds the title that was recommended next in a dialogue."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed
from jaxllm.devices import DeviceConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.recommend.catalog import Catalog, Match, title_name
from jaxllm.evaluate.recommend.replies import titles_in
from jaxllm.evaluate.recommend.scores import CUTS, KNOWN_WITHIN, measures, ranking
from jaxllm.job import Job, open_job
from jaxllm.judge import (
    Completions,
    JudgeConfig,
    JudgedRow,
    Prompt,
    judge_rows,
    open_judge,
    split_answerable,
)
from jaxllm.report import Bars, Section, Table, head
from jaxllm.statistics import clustered
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share, data_files, read_rows

CONDITIONS = ("all", "recommendation", "discussion")
MEASURES = tuple(f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in CUTS)
# (Leave out titles outside the catalog, leave out titles that the dialogue mentions) -> name in the results.
SETTINGS = {(False, False): "as_listed", (False, True): "without_seen", (True, False): "known_only",
            (True, True): "known_only_without_seen"}


@dataclass(frozen=True)
class Config:
    """Prompts a judge for titles in the middle of dialogues and ranks those that were recommended next (2410.00487).

    Args:
        data: rows {context, speakers, rec_ids, id?, dialog_id?, prev_titles?}: utterances, their speakers, and the
            items recommended next. A target counts as discussion if it is among prev_titles or, without these, if the
            dialogue mentions it; as recommendation otherwise.
        catalog: rows {item_id, title}: all items that can be recommended.
        out: directory for the results.
        judge: the judge.
        prompt: template of the prompt; {dialogue} and {titles} are replaced by the dialogue and the number of titles.
        titles: number of titles in a list.
        sampling: generation of the lists.
        legacy: parse replies as the paper's evaluation did.
        device: number formats of a local judge.
        seed: base of all random draws.
    """

    data: DataConfig
    catalog: str
    out: Path
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    prompt: str = ("You help people choose films. Read the conversation below and recommend {titles} films that fit. "
                   "Answer with a numbered list of titles and nothing else.\n\n{dialogue}\nSystem:")
    titles: int = 20
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=512))
    legacy: bool = False
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check("{dialogue}" in self.prompt, "prompt", "must hold {dialogue}")
        check(self.titles >= 1, "titles", f"must be 1 or more, got {self.titles}")
        check(self.sampling.n == 1, "sampling.n", f"one list a dialogue, got {self.sampling.n}")
        check_seed(self.seed)


@dataclass(frozen=True)
class Turn:
    """A turn of a dialogue in which something was recommended.

    Attributes:
        line, row: as read.
        id, dialogue: ids of the row and of its dialogue.
        targets: names of the recommended items.
    """

    line: int
    row: dict[str, Any]
    id: Any
    dialogue: str
    targets: tuple[str, ...]

    def seen(self, name: str) -> bool:
        """Whether the dialogue mentions this name before the turn."""
        if (titles := self.row.get("prev_titles")) is not None:
            return name in {title_name(title) for title in titles}
        context = unicodedata.normalize("NFC", " ".join(self.row["context"]))
        return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", context, re.IGNORECASE) is not None


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    with open_job(config.out, config, "recommend") as job:
        fields = {"context": list[str], "speakers": list[str], "rec_ids": list[int]}
        data = read_rows(config.data.path, fields, {"id": Any, "dialog_id": Any, "prev_titles": list[str]},
                         config.data.limit_bad, job.rejected_path, config.data.limit)
        items = read_rows(config.catalog, {"item_id": int, "title": str}, limit_bad=config.data.limit_bad)
        job.pin_file("data", data_files(config.data.path), config.data.limit)
        job.pin_file("catalog", data_files(config.catalog))
        return job.already_done() if job.finished else _run(config, job, data, items)


def _run(config: Config, job: Job, data: RowSet, listed: RowSet) -> Path:
    items = {row["item_id"]: row["title"] for row in listed.rows}
    turns, rejected = _turns(config, data, items)
    job.write_rejected(rejected)
    check_share(len(turns), rejected, config.data.limit_bad)
    catalog, judge = Catalog(items), open_judge(config.judge, config.device, job.directory)
    reject = lambda turn, reason: Rejected(config.data.path, turn.line, reason, as_text(turn.row))
    prompt = lambda turn: _prompt(config, turn)
    turns, more = split_answerable(judge, turns, prompt, config.sampling.max_tokens, reject)
    rejected = sorted([*rejected, *more], key=lambda row: row.line)
    job.write_rejected(rejected)
    check_share(len(turns), rejected, config.data.limit_bad)
    summary = judge_rows(job, judge, turns, prompt, Completions(config.sampling), seed=config.seed,
                         prices=config.judge.prices, fields=_reply, name="recommend", unit="replies")
    answered = [(turn, row["reply"]) for turn, row in zip(turns, job.iter_rows(), strict=True) if row["valid"]]
    if not answered:
        raise UserError(f"the judge has no answer to any of {len(turns)} prompts", job.directory / "rows.jsonl",
                        "the reasons are in its rows")
    result, table = evaluate(config, [turn for turn, _ in answered], [reply for _, reply in answered], catalog)
    result |= {"rejected": len(rejected), "items": len(items), "turns_without_reply": summary.invalid,
               "prompt_tokens": summary.prompt_tokens, "completion_tokens": summary.completion_tokens,
               "cost": summary.cost}
    count = len({turn.dialogue for turn, _ in answered})
    job.write_report("Recommendations", f"{len(answered):,} turns of {count:,} dialogues.", _sections(result, table))
    return job.write_result(result)


def _reply(turn: Turn, outcome: JudgedRow) -> dict[str, Any]:
    """Columns of rows.jsonl."""
    return {"id": turn.id, "reply": outcome.samples[0].text if outcome.samples else None}


def _turns(config: Config, data: RowSet, items: dict[int, str]) -> tuple[list[Turn], list[Rejected]]:
    """Separates valid rows from rejected ones."""
    turns, rejected = [], list(data.rejected)
    for line, row in zip(data.lines, data.rows, strict=True):
        unknown = [item for item in row["rec_ids"] if not title_name(items.get(item, ""))]
        reason = ("context and speakers differ in length" if len(row["context"]) != len(row["speakers"]) else
                  "rec_ids is empty" if not row["rec_ids"] else
                  f"item {unknown[0]} is not in the catalog" if unknown else None)
        if reason is not None:
            rejected.append(Rejected(config.data.path, line, reason, as_text(row)))
            continue
        targets = tuple(dict.fromkeys(title_name(items[item]) for item in row["rec_ids"]))
        turns.append(Turn(line, row, row.get("id", line), str(row.get("dialog_id", line)), targets))
    return turns, sorted(rejected, key=lambda row: row.line)


def _prompt(config: Config, turn: Turn) -> Prompt:
    text = config.prompt.replace("{titles}", str(config.titles)).replace("{dialogue}", dialogue(turn.row))
    return Prompt(text, str(turn.id))


def dialogue(row: dict[str, Any]) -> str:
    """Formats a dialogue, one utterance a line; line breaks within one would let it pose as another speaker's."""
    return "\n".join(f"{' '.join(speaker.split())}: {' '.join(text.split())}"
                     for speaker, text in zip(row["speakers"], row["context"], strict=True))


def evaluate(config: Config, turns: Sequence[Turn], replies: Sequence[str],
             catalog: Catalog) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores replies.

    Returns:
        Contents of result.json, and for every turn its targets, the listed titles and the names they match.
    """
    lists = [titles_in(reply, config.titles, config.legacy) for reply in replies]
    matches = iter(catalog.match([title for titles in lists for title in titles]))
    matched: list[list[Match]] = [[next(matches) for _ in titles] for titles in lists]
    rows = [(turn, target, turn.seen(target), own) for turn, own in zip(turns, matched, strict=True)
            for target in turn.targets]
    result: dict[str, Any] = {}
    for (known, unseen), name in SETTINGS.items():
        values = []
        for turn, target, _, own in rows:
            seen = {match.name for match in own if turn.seen(match.name)} if unseen else ()
            values.append(measures(ranking(own, seen, known), target))
        result[name] = {condition: _means(config, rows, values, condition) for condition in CONDITIONS}
    everything = [match for own in matched for match in own]
    result = result[SETTINGS[False, False]] | {
        "settings": result, "turns": len(turns), "targets": len(rows),
        "targets_discussed": sum(seen for _, _, seen, _ in rows),
        "titles_per_reply": float(np.mean([len(titles) for titles in lists])),
        "known_titles": float(np.mean([match.distance <= KNOWN_WITHIN for match in everything])) if everything else 0.0,
        "replies_without_titles": float(np.mean([not own or all(match.distance > KNOWN_WITHIN for match in own)
                                                 for own in matched]))}
    table = [{"turn": turn.id, "targets": list(turn.targets), "titles": titles, "names": [match.name for match in own]}
             for turn, titles, own in zip(turns, lists, matched, strict=True)]
    return result, table


def _means(config: Config, rows: Sequence[tuple[Turn, str, bool, Any]], values: Sequence[dict[str, float]],
           condition: str) -> dict[str, Any] | None:
    """Means over targets of a condition; a dialogue's targets are not independent, so whole dialogues are resampled."""
    chosen = [i for i, (_, _, seen, _) in enumerate(rows)
              if condition == "all" or seen == (condition == "discussion")]
    if not chosen:
        return None
    dialogues = [rows[i][0].dialogue for i in chosen]
    return {name: clustered([values[i][name] for i in chosen], dialogues, config.seed) for name in MEASURES}


def _sections(result: dict[str, Any], table: Sequence[dict[str, Any]]) -> list[Section]:
    names = {"as_listed": "as listed", "without_seen": "without titles of the dialogue",
             "known_only": "known titles only", "known_only_without_seen": "both"}
    columns = ("recall@1", "recall@5", "recall@20", "ndcg@20", "mrr@20")
    rows = [[names[setting], condition, *(means[name] for name in columns)]
            for setting, conditions in result["settings"].items() for condition, means in conditions.items() if means]
    scores = Table(["list", "targets", *columns], rows,
                   "Means over targets with 95 % intervals from resampled dialogues.")
    plot = Bars("Recall in all turns", "share", {f"@{k}": result["all"][f"recall@{k}"] for k in CUTS})
    shown, note = head(table, file="")
    turns = Table(["turn", "recommended there", "listed"],
                  [[row["turn"], " / ".join(row["targets"]), " / ".join(row["titles"])] for row in shown], note)
    lead = (f"{result['targets']:,} targets, {result['targets_discussed']:,} of which the dialogue mentions before; "
            f"{result['titles_per_reply']:.1f} titles a reply, {result['known_titles']:.0%} of them in the catalog; "
            f"{result['turns_without_reply']:,} turns without a reply.")
    return [Section("Scores", lead, [scores, plot]), Section("Turns", parts=[turns])]
