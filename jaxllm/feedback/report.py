"""Report of an audit: votes, buckets, members, calibration, sources, suspicious pairs with their texts folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.feedback.config import AuditConfig
from jaxllm.feedback.data import Pairs
from jaxllm.feedback.findings import Findings
from jaxllm.feedback.sources import CODES, RULES, SOURCES
from jaxllm.report import Bars, Heat, Lines, Section, Table
from jaxllm.text.audit import ISSUES
from jaxllm.text.forms import PairRow, Text

# Characters of a text that the page shows.
LONG = 1500
# Shares of human-coded items of HH with low agreement, and of items with two bad answers, by source (2410.01957v2):
# no shares of all pairs, since people coded items that were selected for their disagreement.
PAPER = {"1": (0.02, 0.0), "2": (0.28, 0.0), "3": (0.29, 0.25), "4": (0.37, 0.0), "5": (0.0, 0.39), "6": (0.04, 0.36)}


def lead(result: Mapping[str, Any]) -> str:
    """Describes the outcome in two sentences."""
    low = result["low_or_none"]
    text = f"{result['rows']:,} pairs, {result['voters']} voting members."
    if low is not None:
        own = result["calibration"]
        text += (f" Less than half of the members agree with the label on {low['mean']:.1%} of the pairs; by the "
                 f"calibrated committee {own['labels_below_one_half']:,} labels are more likely wrong than right, if "
                 f"{own['noise']:.1%} are wrong in all.")
    return text


def sections(config: AuditConfig, result: Mapping[str, Any], pairs: Pairs, found: Findings, shown: Sequence[int],
             texts: Mapping[int, PairRow]) -> list[Section]:
    """Builds the sections.

    Args:
        config: the config.
        result: contents of result.json.
        pairs, found: the pairs and the findings on them.
        shown: numbers of the pairs that are listed.
        texts: their texts.
    """
    return [_votes(result), _members(result), _calibration(result), _sources(result), _data(result),
            _suspicious(pairs, found, shown, texts)]


def _votes(result: Mapping[str, Any]) -> Section:
    bars = {str(votes): own for votes, own in enumerate(result["vote_shares"])}
    rows = [[name, n, result["bucket_shares"][name]] for name, n in result["buckets"].items()]
    rows += [["without votes", result["without_votes"], None]] if result["without_votes"] else []
    sizes = [[one["members"], one["low_or_none"], one["spread"], one["same_verdict"], one["agreement_with_people"]]
             for one in result["committee_sizes"]]
    return Section("Votes for the label", " ".join(result["notes"]), [
        Table(["bucket", "pairs", "share"], rows, "95 % intervals from resampled prompts."),
        *([Bars("Votes for the label", "share of the pairs", bars, x="members that agree with the label")] if bars
          else []),
        Table(["members", "minority agrees", "spread over committees", "verdict of the whole committee",
               "agrees with people"], sizes, "Smaller committees, drawn at random.")])


def _members(result: Mapping[str, Any]) -> Section:
    rows = [[name, own["kind"] + (f" ({own['criterion']})" if own["criterion"] else ""), own["agreement"],
             own["agreement_with_people"], own["ties"], own["abstained"], own.get("same_in_both_orders"),
             own.get("prefers_longer"), own["sign_test_p"], result["calibration"]["weights"].get(name)]
            for name, own in result["members"].items()]
    kappa = result["kappa"]
    agreement = [[label, kappa[name], kappa[name]["undefined"]] for name, label in (
        ("percent", "pairs of members that agree"), ("fleiss", "Fleiss' kappa"),
        ("krippendorff", "Krippendorff's alpha")) if kappa[name]["mean"] is not None]
    parts: list[Any] = [Table(["member", "kind", "agrees with the label", "agrees with people", "ties", "abstains",
                               "same in both orders", "prefers the longer", "sign test p", "weight"], rows)]
    parts += [Table(["agreement among members", "", "resamples without a value"], agreement)] if agreement else []
    own = result["correlation"]
    if len(own["members"]) > 1:
        parts.append(Heat("Correlation of the votes, 0 where negative", "member", "member",
                          [[max(value or 0.0, 0.0) for value in row] for row in own["matrix"]]))
        parts.append(Table(["number", "member"], [[number, name] for number, name in enumerate(own["members"])]))
    return Section("Members", "", parts)


def _calibration(result: Mapping[str, Any]) -> Section:
    own = result["calibration"]
    rows = [["share of wrong labels expected before the members are heard", own["expected_noise"]],
            ["the same by the likelihood of the labels", own["noise"]],
            ["mean probability that a label is wrong, which depends on the former", own["expected_wrong_labels"]],
            ["labels that are more likely wrong than right", own["labels_below_one_half"]],
            ["estimated precision of \"no votes: the label is wrong\"", own["precision_of_votes"]["no votes"]],
            ["estimated precision of \"a minority of votes: the label is wrong\"",
             own["precision_of_votes"]["a minority of votes"]]]
    parts: list[Any] = [Table(["", "value"], rows)]
    if "reliability" in own:
        bins = [one for one in own["reliability"]["reliability"]]
        xs = [one["confidence"] for one in bins]
        parts.append(Lines("Probability that a label is right, against people", "probability", "share right",
                           {"labels": (xs, [one["accuracy"] for one in bins]), "perfect": ([0.0, 1.0], [0.0, 1.0])}))
    return Section("Calibration", "Flips are worth their risk where the estimated precision is above one half.", parts)


def _sources(result: Mapping[str, Any]) -> Section:
    total = max(result["rows"], 1)
    rows = []
    for name, meaning in SOURCES.items():
        n, paper = result["sources"][name], PAPER.get(name)
        rows.append([name, meaning, n, n / total, *(paper or (None, None))])
    domains = result["sources_by_domain"]
    parts = [Table(["source", "meaning", "pairs", "share", "paper: items of low agreement", "paper: two bad answers"],
                   rows, "The paper's shares are of items that people coded, not the same quantity. Rules and "
                         "thresholds are a reconstruction.")]
    if len(domains) > 1:
        parts.append(Table(["domain", *SOURCES], [[name, *own.values()] for name, own in domains.items()]))
    parts.append(Table(["rule that fired", "pairs"], [[rule, n] for rule, n in result["rules"].items()]))
    return Section("Sources of unreliability", "", parts)


def _data(result: Mapping[str, Any]) -> Section:
    own = result["data"]
    rows = [["rows", own["rows"]], ["rejected lines", own["rejected"]],
            ["distinct prompts", own["prompts"]["distinct"]]]
    rows += [[ISSUES[name], n] for name, n in own["issues"].items()]
    if length := own.get("length"):
        rows += [["mean words, chosen", length["mean_chosen"]], ["mean words, rejected", length["mean_rejected"]],
                 ["accuracy of \"longer is better\"", length["longer_is_better"]]]
    if overlap := own.get("overlap"):
        rows += [[f"rows with a prompt of {overlap['file']}", overlap["rows"]]]
    return Section("Data", parts=[Table(["", "value"], rows)])


def _suspicious(pairs: Pairs, found: Findings, shown: Sequence[int], texts: Mapping[int, PairRow]) -> Section:
    rows = []
    for number in shown:
        row = texts.get(number)
        rows.append([str(pairs.ids[number]), float(found.right[number]),
                     f"{found.count.votes[number]} of {found.count.voters[number]}",
                     CODES[found.source[number]], RULES[found.rule[number]], ", ".join(pairs.issues[number]),
                     "" if row is None else f"PROMPT\n{_clipped(row.prompt)}\n\nCHOSEN\n{_clipped(row.chosen)}\n\n"
                                            f"REJECTED\n{_clipped(row.rejected)}"])
    table = Table(["id", "P(label is right)", "votes", "source", "rule", "issues", "texts"], rows, filters=(3,),
                  folded=(6,))
    return Section("Suspicious labels", "Least likely to be right, by the calibrated committee. Texts may be harmful.",
                   [table] if rows else [])


def _clipped(text: Text) -> str:
    if not isinstance(text, str):
        text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in text)
    return text if len(text) <= LONG else f"{text[:LONG]} ..."
