"""`jaxllm recommend`: dialogues in, how often a judge's list has the title that was really recommended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed
from jaxllm.devices import DeviceConfig, check_one_process
from jaxllm.evaluate.recommend.catalog import Catalog, Match, title_name
from jaxllm.evaluate.recommend.replies import titles_in
from jaxllm.evaluate.recommend.scores import CUTS, KNOWN_WITHIN, measures, ranking
from jaxllm.job import Job, open_job
from jaxllm.judge import Judge, JudgeConfig, Prompt, open_judge
from jaxllm.progress import bar
from jaxllm.report import Bars, Section, Table
from jaxllm.statistics import clustered
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share, read_rows

CONDITIONS = ("all", "recommendation", "discussion")
MEASURES = tuple(f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in CUTS)
# Whether titles outside the catalog and titles that the dialogue has are left out of a list -> name in the results.
SETTINGS = {(False, False): "as_listed", (False, True): "without_seen", (True, False): "known_only",
            (True, True): "known_only_without_seen"}
SHOWN_ROWS = 200


@dataclass(frozen=True)
class Config:
    """Asks for titles in the middle of dialogues, and looks for those that were recommended there (2410.00487).

    Args:
        data: rows {context, speakers, rec_ids, id?, dialog_id?, prev_titles?}: what was said, by whom, and which items
            were recommended next. A target counts as discussed if it is among prev_titles or, without these, if the
            dialogue names it; as recommended otherwise.
        catalog: rows {item_id, title}: all that can be recommended.
        out: directory for the results.
        judge: who is asked.
        prompt: how; {dialogue} and {titles} stand for what was said and for how many titles are wanted.
        titles: how many titles are wanted.
        sampling: of the replies.
        legacy: reads replies as the paper's evaluation did.
        device: precision of a local judge.
        seed: of all that is drawn.
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
    """A place in a dialogue where something was recommended.

    Attributes:
        line, row: as read.
        id, dialogue: of the row, and of the dialogue that it is from.
        targets: names of what was recommended.
    """

    line: int
    row: dict[str, Any]
    id: Any
    dialogue: str
    targets: tuple[str, ...]

    def seen(self, name: str) -> bool:
        """Whether the dialogue has this name before."""
        if (titles := self.row.get("prev_titles")) is not None:
            return name in {title_name(title) for title in titles}
        return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", " ".join(self.row["context"]), re.IGNORECASE) is not None


def run(config: Config) -> Path:
    """Runs the job, or the rest of it; returns the path of its result.json."""
    check_one_process("recommend")
    with open_job(config.out, config) as job:
        fields = {"context": list[str], "speakers": list[str], "rec_ids": list[int]}
        found = read_rows(config.data.path, fields, {"id": Any, "dialog_id": Any, "prev_titles": list[str]},
                          config.data.limit_bad, job.rejected_path, config.data.limit)
        listed = read_rows(config.catalog, {"item_id": int, "title": str}, limit_bad=config.data.limit_bad)
        job.pin("data", found.rows)
        job.pin("catalog", listed.rows)
        return job.already_done() if job.finished else _run(config, job, found, listed)


def _run(config: Config, job: Job, found: RowSet, listed: RowSet) -> Path:
    items = {row["item_id"]: row["title"] for row in listed.rows}
    turns, rejected = _turns(config, found, items)
    job.write_rejected(rejected)
    check_share(len(turns), rejected, config.data.limit_bad)
    catalog, judge = Catalog(items), open_judge(config.judge, config.device)
    job.pin("judge", judge.identity)
    turns, prompts, rejected = _answerable(config, judge, turns, rejected)
    job.write_rejected(rejected)
    check_share(len(turns), rejected, config.data.limit_bad)
    done = job.rows_done()
    with bar(len(turns), "recommend", "replies", done=len(done)) as show:
        tell, write, taken = job.progress(show), job.in_order(len(done)), len(done)

        def take(number: int, answers: Sequence[Any]) -> None:
            nonlocal taken
            write(len(done) + number, {"id": turns[len(done) + number].id, "reply": answers[0].text})
            taken += 1
            tell(taken)

        if prompts[len(done):]:
            judge.complete(prompts[len(done):], config.sampling, seed=config.seed, on_answer=take)
    said = [row["reply"] for row in job.rows_done()]
    result, table = evaluate(config, turns, said, catalog)
    count = len({turn.dialogue for turn in turns})
    job.write_report("Recommendations", f"{len(turns):,} turns of {count:,} dialogues.", _sections(result, table))
    return job.write_result(result | {"rejected": len(rejected), "items": len(items)})


def _turns(config: Config, found: RowSet, items: dict[int, str]) -> tuple[list[Turn], list[Rejected]]:
    """Rows that can be used, and the others with reasons."""
    turns, rejected = [], list(found.rejected)
    for line, row in zip(found.lines, found.rows, strict=True):
        unknown = [one for one in row["rec_ids"] if not title_name(items.get(one, ""))]
        reason = ("context and speakers differ in length" if len(row["context"]) != len(row["speakers"]) else
                  "rec_ids is empty" if not row["rec_ids"] else
                  f"item {unknown[0]} is not in the catalog" if unknown else None)
        if reason is not None:
            rejected.append(Rejected(config.data.path, line, reason, as_text(row)))
            continue
        targets = tuple(dict.fromkeys(title_name(items[one]) for one in row["rec_ids"]))
        turns.append(Turn(line, row, row.get("id", line), str(row.get("dialog_id", line)), targets))
    return turns, sorted(rejected, key=lambda one: one.line)


def _answerable(config: Config, judge: Judge, turns: Sequence[Turn],
                rejected: Sequence[Rejected]) -> tuple[list[Turn], list[Prompt], list[Rejected]]:
    """Turns that the judge can answer, what it is asked about each, and all rows that are put aside."""
    ask = config.prompt.replace("{titles}", str(config.titles))
    asked = [(turn, Prompt(ask.replace("{dialogue}", dialogue(turn.row)), str(turn.id))) for turn in turns]
    reasons = [judge.obstacle(prompt, config.sampling.max_tokens) for _, prompt in asked]
    kept = [one for one, reason in zip(asked, reasons, strict=True) if reason is None]
    aside = [Rejected(config.data.path, turn.line, reason, as_text(turn.row))
             for turn, reason in zip(turns, reasons, strict=True) if reason is not None]
    return ([turn for turn, _ in kept], [prompt for _, prompt in kept],
            sorted([*rejected, *aside], key=lambda one: one.line))


def dialogue(row: dict[str, Any]) -> str:
    """What was said, a line each; line breaks within it would look like another's words."""
    return "\n".join(f"{speaker}: {' '.join(text.split())}"
                     for speaker, text in zip(row["speakers"], row["context"], strict=True))


def evaluate(config: Config, turns: Sequence[Turn], replies: Sequence[str],
             catalog: Catalog) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores replies; what result.json has, and for every turn what was found."""
    lists = [titles_in(reply, config.titles, config.legacy) for reply in replies]
    matched = iter(catalog.match([title for titles in lists for title in titles]))
    found: list[list[Match]] = [[next(matched) for _ in titles] for titles in lists]
    rows = [(turn, target, turn.seen(target), own) for turn, own in zip(turns, found, strict=True)
            for target in turn.targets]
    result: dict[str, Any] = {}
    for (known, unseen), name in SETTINGS.items():
        values = []
        for turn, target, _, own in rows:
            seen = {one.name for one in own if turn.seen(one.name)} if unseen else ()
            values.append(measures(ranking(own, seen, known), target))
        result[name] = {condition: _means(config, rows, values, condition) for condition in CONDITIONS}
    everything = [one for own in found for one in own]
    result = result[SETTINGS[False, False]] | {
        "settings": result, "turns": len(turns), "targets": len(rows),
        "targets_discussed": sum(seen for _, _, seen, _ in rows),
        "titles_per_reply": float(np.mean([len(titles) for titles in lists])),
        "known_titles": float(np.mean([one.distance <= KNOWN_WITHIN for one in everything])) if everything else 0.0,
        "replies_without_titles": float(np.mean([not own or all(one.distance > KNOWN_WITHIN for one in own)
                                                 for own in found]))}
    table = [{"turn": turn.id, "targets": list(turn.targets), "titles": titles, "names": [one.name for one in own]}
             for turn, titles, own in zip(turns, lists, found, strict=True)]
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
    rows = [[names[setting], condition, *(found[name] for name in ("recall@1", "recall@5", "recall@20", "ndcg@20",
                                                                   "mrr@20"))]
            for setting, conditions in result["settings"].items() for condition, found in conditions.items() if found]
    scores = Table(["list", "targets", "recall@1", "recall@5", "recall@20", "ndcg@20", "mrr@20"], rows,
                   "Means over targets with 95 % intervals from resampled dialogues.")
    plot = Bars("Recall in all turns", "share", {f"@{k}": result["all"][f"recall@{k}"] for k in CUTS})
    shown = Table(["turn", "recommended there", "listed"],
                  [[row["turn"], " / ".join(row["targets"]), " / ".join(row["titles"])] for row in table[:SHOWN_ROWS]],
                  f"The first {SHOWN_ROWS} of {len(table):,}." if len(table) > SHOWN_ROWS else "")
    return [Section("Scores", f"{result['targets']:,} targets, {result['targets_discussed']:,} of which the dialogue "
                    f"had named; {result['titles_per_reply']:.1f} titles a reply, {result['known_titles']:.0%} of them "
                    "in the catalog.", [scores, plot]), Section("Turns", parts=[shown])]
