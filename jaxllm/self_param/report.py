"""The page about an injection run: scores, curves, and every question with its answers before and after."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.report import Bars, Lines, Section, Table

ARMS = {"before": "before", "with_document": "with the document", "after": "injected", "finetune": "fine-tuned",
        "finetune_questions": "fine-tuned on the pairs", "finetune_context": "fine-tuned on the text",
        "replay": "injected with replay", "retrieval": "BM25"}
HOW = {"single": "each written into a fresh copy of the model", "batch": "written together into one model",
       "sequential": "written one after the other into one model"}
COLORED = tuple(ARMS.values())
# A browser shows a few hundred rows at once without trouble; the rest is in rows.jsonl.
SHOWN_ROWS = 300


def lead(result: Mapping[str, Any]) -> str:
    """What came of the run, in a sentence."""
    mean = lambda name: f"{result[name]['mean']:.3f}"
    return (f"{result['documents']} documents, {HOW[result['setting']]}, and asked about without them afterwards "
            f"({result['questions']} questions): mean token F1 {mean('f1_before')} before, {mean('f1_after')} after; "
            f"{mean('f1_with_document')} with the document in the prompt.")


def sections(result: Mapping[str, Any], records: Sequence[Mapping[str, Any]],
             metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The page's sections.

    Args:
        result: what result.json has.
        records: one a document, with its rows.
        metrics: lines of metrics.jsonl.
    """
    arms = {arm: name for arm, name in ARMS.items() if f"f1_{arm}" in result}
    rows = [row for record in records for row in record["rows"]]
    return [_scores(result, arms), training(metrics, arms), _documents(records, arms), answers(rows, arms)]


def _scores(result: Mapping[str, Any], arms: Mapping[str, str]) -> Section:
    drift = {"after": "drift_kl"} | {arm: f"drift_kl_{arm}" for arm in arms if f"drift_kl_{arm}" in result}
    table = Table(
        ["", "token F1", "the same in other words", "accuracy", "KL to the reader, nats/token",
         "near questions unchanged", "drift, nats/token"],
        [[name, result[f"f1_{arm}"], result.get(f"f1_paraphrased_{arm}"), result[f"accuracy_{arm}"],
          result.get(f"kl_{arm}"), result.get("locality" if arm == "after" else f"locality_{arm}"),
          result.get(drift.get(arm))] for arm, name in arms.items()],
        "Means over documents with 95 % bootstrap intervals. KL is taken on the test's texts, from the model that "
        "reads the document to the one that does not; drift on unrelated text, from the model as it was.")
    return Section("Scores", parts=[
        table, Bars("Answers", "token F1", {name: result[f"f1_{arm}"] for arm, name in arms.items()}, top=1.05,
                    order=COLORED),
        Bars("Movement on unrelated text", "nats/token",
             {arms[arm]: result[key] for arm, key in drift.items() if key in result}, order=COLORED)])


def training(metrics: Sequence[Mapping[str, Any]], arms: Mapping[str, str]) -> Section:
    """Mean loss over injections by step within an injection."""
    losses: dict[str, dict[int, list[float]]] = {}
    for arm in arms:
        first: dict[int, int] = {}  # injection -> step before its first
        for line in metrics:
            if line.get("arm") == arm:
                start = first.setdefault(line.get("document", line.get("injection")), line["step"] - 1)
                if line.get("loss") is not None:
                    losses.setdefault(arm, collections.defaultdict(list))[line["step"] - start].append(line["loss"])
    means = {arms[arm]: (sorted(found), [sum(found[step]) / len(found[step]) for step in sorted(found)])
             for arm, found in losses.items()}
    return Section("Training", "The objectives differ (divergence from the reading model, cross-entropy), so the "
                   "curves compare in shape, not in height.",
                   [Lines("Mean training loss over injections", "step", "nats/token", means, log=True, order=COLORED)])


def _documents(records: Sequence[Mapping[str, Any]], arms: Mapping[str, str]) -> Section:
    rows = [[record["document"], len(record["rows"]), *(record[f"f1_{arm}"] for arm in arms),
             record["kl_before"], record["kl_after"], record["drift_kl_after"]] for record in records[:SHOWN_ROWS]]
    return Section("Documents", parts=[Table(
        ["document", "questions", *(f"F1 {name}" for name in arms.values()), "KL before", "KL injected",
         "drift injected"], rows, _more(len(records), "documents.jsonl"))])


def answers(everything: Sequence[Mapping[str, Any]], arms: Mapping[str, str]) -> Section:
    """Every question with the answers of all arms."""
    rows = [[row["document"], row["question"], " / ".join(row["answers"]), *(row[arm]["text"] for arm in arms)]
            for row in everything[:SHOWN_ROWS]]
    return Section("Questions and answers", parts=[Table(
        ["document", "question", "right", *arms.values()], rows, _more(len(everything), "rows.jsonl"))])


def _more(count: int, file: str) -> str:
    return f"The first {SHOWN_ROWS} of {count:,}; all are in {file}." if count > SHOWN_ROWS else ""
