"""Report of an injection run: scores of every method, retention, locality, drift, and all answers."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.report import Bars, Heat, Lines, Section, Table, head
from jaxllm.self_param.config import Method
from jaxllm.self_param.qa_filter import REASONS

LABELS: dict[Method, str] = {
    "closed_book": "closed-book", "open_book": "open-book", "self_param": "SELF-PARAM",
    "finetune": "fine-tuning, same targets", "finetune_questions": "fine-tuning, QA pairs",
    "finetune_context": "fine-tuning, document", "replay": "SELF-PARAM with replay", "retrieval": "BM25"}
SETTINGS = {"single": "each injected into a fresh copy of the model", "batch": "injected together into one model",
            "sequential": "injected one after the other into one model"}
ORDER = tuple(LABELS.values())


def lead(result: Mapping[str, Any]) -> str:
    """Summarizes a run in one sentence."""
    mean = lambda method: f"{result['f1'][method]['mean']:.3f}"
    documents = f"{result['documents']} document" + "s" * (result["documents"] != 1)
    return (f"{documents}, {SETTINGS[result['setting']]}; {result['questions']} test questions. "
            f"Mean token F1: {mean('closed_book')} closed-book, {mean('open_book')} open-book, {mean('self_param')} "
            "after injection (closed-book).")


def sections(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]
             ) -> list[Section]:
    """Builds the sections of the page.

    Args:
        result: contents of result.json.
        rows: contents of rows.jsonl.
        metrics: lines of metrics.jsonl.
    """
    labels: dict[str, str] = {method: label for method, label in LABELS.items() if method in result["f1"]}
    parts = [_scores(result, labels)]
    if result["setting"] == "sequential":
        parts.append(_retention(result, labels))
    if "qa_pairs" in result:
        parts.append(_qa_pairs(result["qa_pairs"]))
    parts += [_locality(result, labels), _training(metrics, labels, result["teacher_cache"])]
    return [*parts, _documents(result, labels), _answers(rows, labels)]


def _scores(result: Mapping[str, Any], labels: Mapping[str, str]) -> Section:
    by_step = _by_step(result)
    value = lambda method, key: by_step[method][key] if method in by_step else None
    base_perplexity = result["perplexity_by_step"][0]
    kinds = {title: result[name] for title, name in (("F1, paraphrases", "f1_paraphrased"),
                                                     ("F1, portability", "f1_portability"))
             if any(own["n"] for own in result[name].values())}
    table = Table(
        ["", "token F1", *kinds, "F1 right after injection", "share of open-book F1", "accuracy",
         "KL to the open-book teacher, nats/token", "locality", "locality, tokens", "drift KL, nats/token",
         "perplexity, unrelated text"],
        [[label, result["f1"][method], *(own[method] for own in kinds.values()), value(method, "efficacy"),
          value(method, "share_of_open_book"), result["accuracy"][method], result["kl"][method],
          result["locality"][method], result["locality_tokens"][method], result["drift_kl"][method],
          _last(value(method, "perplexity_by_step"), base_perplexity if method == "closed_book" else None)]
         for method, label in labels.items()],
        "At the end of the run: means with 95 % bootstrap intervals. Locality: share of probes answered as by the base "
        "model; tokens: share of the tokens of its answers that are predicted as by it. Drift: KL on unrelated text "
        "from the base model. Intervals are over documents: one alone has no width.")
    return Section("Scores", parts=[
        table, Bars("Answers at the end of the run", "token F1",
                    {label: result["f1"][method] for method, label in labels.items()}, top=1.05, order=ORDER),
        Bars("Drift on unrelated text", "nats/token",
             {label: drift for method, label in labels.items() if (drift := result["drift_kl"][method])["n"]},
             order=ORDER)])


def _by_step(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Numbers by injection of every method that has them."""
    return {"self_param": result, **result["baselines"]}


def _retention(result: Mapping[str, Any], labels: Mapping[str, str]) -> Section:
    methods = _by_step(result)
    curves = lambda key, first: {labels[method]: (list(range(first, first + len(own[key]))), own[key])
                                 for method, own in methods.items()}
    return Section("Retention", parts=[
        *[Heat(f"Token F1 by document and injections: {labels[method]}", "document", "injections", own["f1_matrix"])
          for method, own in methods.items()],
        Lines("Retention by lag", "injections since", "token F1", curves("retention_by_lag", 0), order=ORDER),
        Lines("Mean over the documents injected so far", "injections", "token F1", curves("mean_seen", 1),
              order=ORDER)])


def _locality(result: Mapping[str, Any], labels: Mapping[str, str]) -> Section:
    curve = lambda key: {labels[method]: (list(range(1, len(own[key]) + 1)), own[key])
                         for method, own in _by_step(result).items() if own[key]}
    parts = [Lines("Drift on unrelated text", "injection", "nats/token", curve("drift_kl_by_step"), order=ORDER)]
    if locality := curve("locality_by_step"):
        parts.append(Lines("Locality", "injection", "share of probes unchanged", locality, order=ORDER))
    return Section("Locality and drift", parts=parts)


def _qa_pairs(pairs: Mapping[str, Any]) -> Section:
    """Counts the QA pairs, and those that were dropped by reason."""
    reasons = [[REASONS[reason], count] for reason, count in pairs["dropped"].items()]
    about = (f" Those that are not cloze pairs are about {pairs['coverage']:.0%} of the documents' sentences."
             if pairs["generated"] else "")
    if tokens := pairs.get("answer_tokens"):
        about += (f" Of the {sum(tokens.values())} tokens of answers that the model wrote, {tokens['closed_book']} are "
                  "drawn from the closed-book model.")
    return Section("QA pairs", f"{pairs['generated']} pairs and {pairs['cloze']} cloze pairs, {pairs['selected']} of "
                   f"them trained on.{about}",
                   [Table(["dropped because", "pairs"], reasons, "pairs.jsonl has every pair.")])


def _training(metrics: Sequence[Mapping[str, Any]], labels: Mapping[str, str], cache: Mapping[str, float] | None
              ) -> Section:
    """Mean loss over injections by step within an injection."""
    losses: dict[str, dict[int, list[float]]] = {}
    for method in labels:
        first: dict[int, int] = {}  # injection -> step before its first
        for line in metrics:
            if line.get("method") == method:
                start = first.setdefault(line["injection"], line["step"] - 1)
                if line.get("loss") is not None:
                    losses.setdefault(method, collections.defaultdict(list))[line["step"] - start].append(line["loss"])
    means = {labels[method]: (sorted(own), [sum(own[step]) / len(own[step]) for step in sorted(own)])
             for method, own in losses.items()}
    note = "Objectives differ (divergence from the teacher, cross-entropy): compare shapes, not heights."
    if cache is not None:
        note += (f" Of the teacher the {cache['top_k']} most probable tokens are cached, and all others as one, with "
                 f"{cache['rest']:.2%} of the probability; this lowers the KL of the first batch from "
                 f"{cache['kl']:.4f} to {cache['kl_top_k']:.4f} nats/token.")
    return Section("Training", note, [Lines("Mean training loss over injections", "step", "nats/token", means, log=True,
                                      order=ORDER)])


def _documents(result: Mapping[str, Any], labels: Mapping[str, str]) -> Section:
    methods = _by_step(result)
    rows, note = head([[number, result["f1_matrix"][0][number],
                        *(own["f1_matrix"][-1][number] for own in methods.values())]
                       for number in range(result["documents"])], file="result.json")
    return Section("Documents", parts=[Table(
        ["document", "F1, closed-book", *(f"F1, {labels[method]}" for method in methods)], rows, note)])


def _answers(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> Section:
    shown, note = head(rows)
    return Section("Questions and answers", parts=[Table(
        ["document", "question", "reference", *labels.values()],
        [[row["document"], row["question"], " / ".join(row["answers"]), *(row[method]["text"] for method in labels)]
         for row in shown], note)])


def _last(values: Sequence[float] | None, default: float | None) -> float | None:
    return values[-1] if values else default
