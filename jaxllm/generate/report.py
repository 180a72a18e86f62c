"""Pages about runs of `generate` and `score`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.report import Histogram, Section, Table, head

# Columns that fit on the page next to a text.
SHOWN_LABELS = 6


def generated(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Sections on completions: how many, how long, and the first of them."""
    everything = [completion for row in rows for completion in row["completions"]]
    counts = Table(["", "count"], [["rows", result["rows"]], ["rejected rows", result["rejected"]],
                                   ["completions", len(everything)], ["tokens", result["tokens"]],
                                   *([f"ended by {reason}", n] for reason, n in result["finished"].items())])
    lengths = Histogram("Length of completions", "tokens", [len(one["token_ids"]) for one in everything])
    first, note = head([(row, completion) for row in rows for completion in row["completions"]])
    shown = [[row["id"], _prompt(row["prompt"]), completion["text"], completion["logprob"], completion["finish_reason"]]
             for row, completion in first]
    return [Section("Counts", parts=[counts, lengths]), Section("Completions", parts=[Table(
        ["id", "prompt", "completion", "log-probability, nats", "ended by"], shown, note)])]


def scored(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], texts: Sequence[tuple[str, str]]
           ) -> list[Section]:
    """Sections on scored texts: means, spread, and the first of them.

    Args:
        result: what result.json has.
        rows: what rows.jsonl has.
        texts: prompt and completion of each row.
    """
    counts = Table(["", "value"], [["rows", result["rows"]], ["rejected rows", result["rejected"]],
                                   ["tokens", result["tokens"]], ["nats per token", result["nats_per_token"]]])
    spread = Histogram("Surprise of completions", "nats per token",
                       [-row["logprob"] / max(row["tokens"], 1) for row in rows])
    first, note = head(rows)
    shown = [[row["id"], prompt, completion, row["logprob"], row["tokens"]]
             for row, (prompt, completion) in zip(first, texts, strict=False)]
    return [Section("Counts", parts=[counts, spread]), Section("Texts", parts=[Table(
        ["id", "prompt", "completion", "log-probability, nats", "tokens"], shown, note)])]


def classified(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[str, Any]]
               ) -> list[Section]:
    """Sections on texts that a classifier scored: means, spread of every label, and the first texts.

    Args:
        result: what result.json has.
        rows: what rows.jsonl has.
        texts: the rows of the data.
    """
    labels = result["labels"]
    counts = Table(["", "count"], [["rows", result["rows"]], ["rejected rows", result["rejected"]],
                                   ["tokens", result["tokens"]]])
    means = Table(["label", "mean score", "highest in rows"],
                  [list(line) for line in zip(labels, result["mean_score"], result["highest"], strict=True)])
    spread = [Histogram(f"Scores: {label}", "score", [row["score"][i] for row in rows])
              for i, label in enumerate(labels[:SHOWN_LABELS])]
    first, note = head(rows)
    shown = [[row["id"], _text(text), *row["score"][:SHOWN_LABELS]] for row, text in zip(first, texts, strict=False)]
    return [Section("Counts", parts=[counts, means, *spread]), Section("Texts", parts=[Table(
        ["id", "text", *labels[:SHOWN_LABELS]], shown, note)])]


def _text(row: Mapping[str, Any]) -> str:
    """A text, two texts, or a conversation."""
    if row.get("messages") is not None:
        return _prompt(row["messages"])
    return "\n".join(part for part in (row["text"], row.get("text_pair")) if part is not None)


def _prompt(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """A prompt as it is, a conversation turn by turn."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {_content(turn.get('content'))}" for turn in prompt)


def _content(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
