"""Sections of the report of `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.generate.report import prompt_text
from jaxllm.report import Bars, Section, Table, head

_SHARES = {"win": "A wins", "tie": "ties", "loss": "B wins", "win_tie": "A is at least as good: wins and ties",
           "win_rate": "win rate of A: wins and half of the ties", "net_win": "wins less losses",
           "length_controlled_win_rate": "win rate of A at equal length"}
_JUDGE = {"position_consistency": "prompts with the same verdict in both orders",
          "first_wins": "verdicts for the answer that is read first", "invalid_verdicts": "invalid verdicts"}


def sections(result: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Builds the sections: shares, the judge's consistency, lengths, and the first rows.

    Args:
        result: contents of result.json.
        table: contents of rows.jsonl.
    """
    counts = result["outcomes"]
    lead = (f"A wins {counts['win']:,}, ties {counts['tie']:,} and loses {counts['loss']:,} prompts; "
            f"{counts['none']:,} have no outcome.")
    note = "95 % intervals from resampled prompts; at equal length, from the regression."
    if reason := result["length_controlled_reason"]:
        note += f" Equal length is too far from these answers: {reason} (words)."
    outcomes = Table(["", "share"], [*([name, result[key]] for key, name in _SHARES.items()),
                                     ["p-value of the sign test of wins against losses", result["sign_test_p"]]], note)
    drawn = {_SHARES[key]: result[key] for key in ("win", "tie", "loss") if result[key] is not None}
    plot = Bars("Outcomes", "share of prompts", drawn, top=1.0)
    judge = Table(["", "share"], [[name, result[key]] for key, name in _JUDGE.items()])
    answers = Table(["", "A", "B"], [["words per answer", result["words_a"], result["words_b"]],
                                     ["score", result["score_a"], result["score_b"]]],
                    f"{result['identical_answers']:,} pairs of answers are identical.")
    shown, note = head(table)
    rows = Table(["id", "prompt", "A", "B", "verdicts", "outcome of A"],
                 [[row["id"], prompt_text(row["prompt"]), row["answer_a"], row["answer_b"],
                   ", ".join(str(verdict or "invalid") for verdict in row["verdicts"].values()), row["outcome"]]
                  for row in shown], note)
    return [Section("Outcomes", lead, [outcomes, plot]), Section("Judge", parts=[judge]),
            Section("Answers", parts=[answers, rows])]
