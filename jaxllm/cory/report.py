"""Report of a run: reward against KL, curves by agent and role, exchanges, phases, and samples side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.cory.config import Config
from jaxllm.report import Lines, Points, Section, Table

# Curves by agent, and then by role: key, title, label of the axis.
CURVES = (("task_reward", "Task reward", "reward"), ("kl", "KL divergence from the first model", "nats a response"),
          ("combined_reward", "Task reward less the KL penalty", "reward"), ("entropy", "Entropy", "nats a token"),
          ("length", "Length of responses", "tokens"))
# Iterations of which samples are shown.
_SHOWN = 6


def title(config: Config) -> str:
    """Returns the title of the page."""
    return f"CORY with {config.algorithm}" if config.agents == 2 else f"Reinforcement learning with {config.algorithm}"


def lead(config: Config, result: Mapping[str, Any]) -> str:
    """Summarizes a run in a few sentences."""
    text = (f"{config.model}: {result['iterations']:,} iterations of {config.rows} responses"
            f"{' of each agent' if config.agents == 2 else ''}.")
    for name, own in result["agents"].items():
        if own["after"]:
            before, after = (own[when]["task_reward"]["mean"] for when in ("before", "after"))
            text += (f" {name}: task reward {before:.3f} before and {after:.3f} after, KL "
                     f"{own['after']['kl']['mean']:.2f} nats, on {result['held_back_rows']} held-back queries.")
    return text


def sections(config: Config, result: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]],
             samples: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Builds the sections of the page.

    Args:
        config: config of the run.
        result: contents of result.json.
        metrics: lines of metrics.jsonl.
        samples: lines of rows.jsonl.
    """
    names = list(result["agents"])
    measured = [own[when] for own in result["agents"].values() for when in ("before", "after")]
    table = Table(["", *(f"{name}, {when}" for name in names for when in ("before", "after"))],
                  [*([measure, *(own.get(measure) for own in measured)] for measure in ("task_reward", "kl", "length")),
                   *([f"pass@{k}", *(own.get("pass_at_k", {}).get(str(k)) for own in measured)]
                     for k in config.held_back.pass_at)],
                  "Every agent alone on held-back bare queries: means with 95 % bootstrap intervals.")
    exchanged = [line["iteration"] for line in metrics if line["exchanged"]]
    marks = [iteration + 0.5 for iteration in exchanged]
    by_agent, by_role = [], []
    for key, heading, label in CURVES:
        curve = lambda own: ([line["iteration"] for line in metrics], own)
        series = {name: curve([_number(line["agents"][name][key]) for line in metrics]) for name in names}
        by_agent.append(Lines(heading, "iteration", label, series, marks=marks))
        if config.agents == 2:
            roles = {role: curve([next(_number(own[key]) for own in line["agents"].values() if own["role"] == role)
                                  for line in metrics]) for role in ("pioneer", "observer")}
            by_role.append(Lines(heading, "iteration", label, roles, marks=marks))
    note = "" if config.agents == 1 else "Roles are not exchanged." if not exchanged else (
        f"Roles are exchanged after iterations {', '.join(map(str, exchanged))}, at the dotted lines.")
    phases = Table(["phase", "seconds an iteration"], [[name, value] for name, value in
                                                       result["seconds_per_iteration"].items()],
                   "Means without the first iteration, which compiles.")
    legend = "A small point is an iteration, from light to dark." + (
        " Large points are the held-back queries, from before training to after it, which is filled."
        if result["held_back_rows"] else "")
    frontier = Section("Reward against KL", legend, [_frontier(names, result, metrics)])
    found = [Section("Held-back queries", parts=[table]), frontier, Section("By agent", text=note, parts=by_agent)]
    if by_role:
        found.append(Section("By role", parts=by_role))
    return [*found, Section("Samples", parts=[_samples(names, samples)]), Section("Phases", parts=[phases])]


def _frontier(names: Sequence[str], result: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Points:
    """Places every iteration, and the evaluations, by their KL and task reward."""
    places = lambda found: ([_number(kl) for kl, _ in found], [_number(reward) for _, reward in found])
    points = {name: places([(line["agents"][name]["kl"], line["agents"][name]["task_reward"]) for line in metrics])
              for name in names}
    joined = {}
    for name, own in result["agents"].items() if result["held_back_rows"] else ():
        evaluated = [own["before"], *(line["held_back"][name] for line in metrics if "held_back" in line), own["after"]]
        joined[name] = places([(one["kl"]["mean"], one["task_reward"]["mean"]) for one in evaluated])
    return Points("Task reward against the KL divergence from the first model", "KL, nats a response", "task reward",
                  points, joined)


def _samples(names: Sequence[str], samples: Sequence[Mapping[str, Any]]) -> Table:
    """Shows the first response of every agent over the iterations, side by side."""
    first: dict[int, dict[str, Mapping[str, Any]]] = {}
    for sample in samples:
        first.setdefault(sample["step"], {}).setdefault(sample["agent"], sample)
    steps = sorted(first)
    chosen = sorted({steps[round(i * (len(steps) - 1) / max(_SHOWN - 1, 1))] for i in range(_SHOWN)}) if steps else []
    cell = lambda sample: "" if sample is None else (
        f"{_plain(sample['prompt'])} → {sample['response']} ({sample['task_reward']:.2f})")
    return Table(["iteration", *names], [[step, *(cell(first[step].get(name)) for name in names)] for step in chosen],
                 "The query, the response and its task reward.")


def _number(value: float | None) -> float:
    """Returns a number of metrics.jsonl, where one that was not finite is null."""
    return math.nan if value is None else value


def _plain(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
