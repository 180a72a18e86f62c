"""Sections of the reports of `generate` and `score`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxllm.report import Histogram, Section, Table, head

# Rows and, next to a text, labels that a page shows.
SHOWN_ROWS, SHOWN_LABELS = 200, 6


def generated(result: Mapping[str, Any], lengths: Sequence[int], rows: Iterable[Mapping[str, Any]]) -> list[Section]:
    """Builds the sections on completions: counts, lengths, and the first completions.

    Args:
        result: contents of result.json.
        lengths: number of tokens of every completion.
        rows: the first rows of rows.jsonl, `SHOWN_ROWS` at most.
    """
    counts = Table(["", "count"], [["rows", result["rows"]], ["rejected rows", result["rejected"]],
                                   ["completions", len(lengths)], ["tokens", result["tokens"]],
                                   *([f"ended by {reason}", n] for reason, n in result["finished"].items())])
    shown = [[row["id"], prompt_text(row["prompt"]), completion["text"], completion["logprob"],
              completion["finish_reason"]] for row in rows for completion in row["completions"]][:SHOWN_ROWS]
    note = f"The first {len(shown)} of {len(lengths):,}; rows.jsonl has all." if len(shown) < len(lengths) else ""
    return [Section("Counts", parts=[counts, Histogram("Length of completions", "tokens", lengths)]),
            Section("Completions", parts=[Table(
                ["id", "prompt", "completion", "log-probability, nats", "ended by"], shown, note)])]


def scored(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], texts: Sequence[tuple[str, str]]
           ) -> list[Section]:
    """Builds the sections on scored texts: means, distribution, and the first texts.

    Args:
        result: contents of result.json.
        rows: contents of rows.jsonl.
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
    """Builds the sections on classified texts: means, distribution of every label, and the first texts.

    Args:
        result: contents of result.json.
        rows: contents of rows.jsonl.
        texts: the rows of the data.
    """
    labels = result["labels"]
    counts = Table(["", "count"], [["rows", result["rows"]], ["rejected rows", result["rejected"]],
                                   ["tokens", result["tokens"]]])
    columns = {"label": labels, "mean score": result["mean_score"]}
    if "highest" in result:
        columns["highest in rows"] = result["highest"]
    means = Table(list(columns), [list(line) for line in zip(*columns.values(), strict=True)])
    spread = [Histogram(f"Scores: {label}", "score", [row["score"][i] for row in rows])
              for i, label in enumerate(labels[:SHOWN_LABELS])]
    measures = []
    if "accuracy" in result:
        measures = [Table(["", "value"], [
            ["accuracy, with a 95 % interval", result["accuracy"]], ["macro F1", result["macro_f1"]],
            ["log loss, nats", result["calibration"]["log_loss"]], ["Brier score", result["calibration"]["brier"]],
            ["expected calibration error", result["calibration"]["ece"]]]),
            Table(["class", "rows", "precision", "recall", "F1"], [
                [name, own["n"], own["precision"], own["recall"], own["f1"]]
                for name, own in result["classes"].items()])]
    first, note = head(rows)
    shown = [[row["id"], _text(text), *row["score"][:SHOWN_LABELS]] for row, text in zip(first, texts, strict=False)]
    return [Section("Counts", parts=[counts, means, *measures, *spread]), Section("Texts", parts=[Table(
        ["id", "text", *labels[:SHOWN_LABELS]], shown, note)])]


def compared(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[str, Any]]
             ) -> list[Section]:
    """Builds the sections on compared answers: accuracy, margins, calibration, subsets, and the first pairs.

    Args:
        result: contents of result.json.
        rows: contents of rows.jsonl.
        texts: the rows of the data.
    """
    calibration, length = result["calibration"], result["length"]
    measures = Table(["", "value"], [
        ["pairs", result["rows"]], ["rejected rows", result["rejected"]], ["accuracy", result["accuracy"]],
        ["ties", result["ties"]], ["mean margin", result["margin"]], ["log loss, nats", calibration["log_loss"]],
        ["Brier score", calibration["brier"]],
        ["expected calibration error", calibration["ece"]],
        ["accuracy of preferring the longer answer", length["longer_is_better"]],
        ["accuracy where the chosen answer is longer", length["chosen_longer"]["accuracy"]],
        ["accuracy where the chosen answer is shorter", length["chosen_shorter"]["accuracy"]]],
        "With a 95 % interval; ties count as wrong, equal lengths one half.")
    margins = Histogram("Margins", "score of the chosen answer - score of the rejected answer",
                        [row["chosen"] - row["rejected"] for row in rows])
    reliability = Table(["confidence", "accuracy", "pairs"], [
        [own["confidence"], own["accuracy"], own["n"]] for own in calibration["reliability"]],
        "Probability of the preferred answer, and how often it is the chosen one.")
    sections = [Section("Measures", parts=[measures, margins, reliability])]
    if "subsets" in result:
        subsets = Table(["subset", "accuracy", "ties", "pairs"], [
            [name, own["accuracy"], own["ties"], own["n"]] for name, own in result["subsets"].items()])
        missing = f"Without rows: {', '.join(result['missing'])}." if result["missing"] else ""
        known = Table(["section of RewardBench", "accuracy"],
                      [*map(list, result["sections"].items()), ["overall", result["overall"]]], missing)
        sections.append(Section("Subsets", parts=[known, subsets] if result["sections"] else [subsets]))
    first, note = head(rows)
    shown = [[row["id"], prompt_text(text["prompt"]) if "prompt" in text else "", prompt_text(text["chosen"]),
              prompt_text(text["rejected"]), row["chosen"], row["rejected"]]
             for row, text in zip(first, texts, strict=False)]
    return [*sections, Section("Pairs", parts=[Table(
        ["id", "prompt", "chosen", "rejected", "score of chosen", "score of rejected"], shown, note)])]


def _text(row: Mapping[str, Any]) -> str:
    """Formats a text, two texts, or a conversation."""
    if row.get("messages") is not None:
        return prompt_text(row["messages"])
    if row.get("prompt") is not None:
        return prompt_text(row["prompt"]) + "\n" + row["completion"]
    return "\n".join(part for part in (row["text"], row.get("text_pair")) if part is not None)


def prompt_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Formats a prompt, or a conversation turn by turn."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {_content(turn.get('content'))}" for turn in prompt)


def _content(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
