"""Report of a fine-tuning run: metrics on held-back rows, and curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.finetune.objectives import Kind
from jaxllm.finetune.tune.config import Config
from jaxllm.report import Lines, Section, Table

TITLES: dict[Kind, str] = {
    "sft": "Supervised fine-tuning", "pairs": "Preference optimization", "unpaired": "Preference optimization",
    "reward": "Reward model", "classify": "Classifier"}
# Curves that are drawn where the run has them: title and label of the axis.
CURVES = {"loss": ("Loss", "loss"), "rewards/accuracies": ("Pairs ranked as labeled", "share"),
          "rewards/margins": ("Margin of the rewards", "reward"), "accuracy": ("Accuracy", "share"),
          "margin": ("Margin of the scores", "score"),
          "logps/chosen": ("Log-probability of chosen completions", "nats"),
          "grad_norm": ("Norm of the gradient", "norm")}


def lead(config: Config, result: Mapping[str, Any]) -> str:
    """Summarizes a run in one or two sentences."""
    losses = " + ".join(f"{weight:g} {name}" if weight != 1 else name for name, weight in result["losses"].items())
    of_loss = f" with the loss {losses}" if losses else ""
    text = (f"{config.model}, method {config.method}{of_loss}: {result['steps']:,} steps on {result['rows']:,} rows.")
    for name in ("rewards/accuracies", "accuracy", "loss"):
        if found := result["eval"].get(name):
            return f"{text} On {result['held_back_rows']:,} held-back rows: {name} {found['mean']:.3f}."
    return text


def sections(config: Config, result: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Builds the sections of the page.

    Args:
        config: config of the run.
        result: contents of result.json.
        metrics: lines of metrics.jsonl.
    """
    names = [*dict.fromkeys([*result["eval"], *(name for name in result["train"] if name in CURVES)])]
    table = Table(["", "last step", "held-back rows"],
                  [[name, result["train"].get(name), result["eval"].get(name)] for name in names],
                  "Held-back rows: mean with a 95 % bootstrap interval over prompts, or rows if there is one prompt.")
    plots = []
    for name, (title, label) in CURVES.items():
        series = {}
        for key, of in ((name, "training"), (f"eval_{name}", "held back")):
            if lines := [line for line in metrics if key in line]:
                series[of] = [line["step"] for line in lines], [line[key] for line in lines]
        if "training" in series:
            plots.append(Lines(title, "step", label, series))
    rows = Table(["", "rows"], [["trained on", result["rows"]], ["held back", result["held_back_rows"]],
                                ["rejected or dropped", result["rejected"]],
                                ["rejected or dropped, of the held-back file", result["held_back_rejected"]],
                                ["truncated, of those trained on", result["truncated"]],
                                ["truncated, of those held back", result["held_back_truncated"]]],
                 f"{result['padding']:.1%} of all positions are padding.")
    return [Section("Metrics", parts=[table]), Section("Training", parts=plots), Section("Rows", parts=[rows])]
