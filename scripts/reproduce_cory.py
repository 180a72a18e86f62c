"""PPO against CORY and its ablations, over KL coefficients, learning rates and seeds: frontier of reward against KL.

    python scripts/reproduce_cory.py CONFIG OUT [--variants ppo cory ...] [--kl 0.1 0.3 1.0] [--lr 1e-3] [--seeds 0 1 2]
                                     [--minutes 8] [-- --KEY VALUE ...]

Variants: ppo; ppo_twice (twice the iterations, so that it has as many samples as CORY); ppo_big (of the model --big);
cory; no_transfer (both agents see the query alone); no_exchange; own and mean (rewards). What follows `--` are keys of
`jaxllm rl` for all runs. After --minutes the running one is stopped with a checkpoint; the same command continues, and
runs of another config, model or data in OUT are refused.

Of every run, the last state on held-back bare queries counts; of two agents the mean. A run has collapsed if the
training reward of one of its agents at the end is below that at the start, or fell by more than half of its gain from
the best tenth of its iterations, both by more than the noise between iterations explains. KL growth is that of the last
tenth over that in the middle. Where rewards are 0 or 1, `-- --held_back.samples 8 --held_back.pass_at '[1, 2, 4, 8]'`
adds pass@k. The hypervolume is the area between the points (task reward, -KL) of a variant's mean runs and the point of
the reward of its first model and the largest KL of all. It is that of the settings and seeds that all variants have, so
that variants can be compared before all runs are done; its interval resamples the seeds of every setting. Writes
OUT/table.md, results.json and frontier.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from verbs import call_all, parse_with_keys

from jaxllm.cory import Config
from jaxllm.files import write_atomic
from jaxllm.parsing import parse
from jaxllm.report.plots import COLORS
from jaxllm.statistics import interval
from jaxllm.train import read_metrics

VARIANTS = {"ppo": ["--agents=1"], "ppo_twice": ["--agents=1"], "ppo_big": ["--agents=1"], "cory": ["--agents=2"],
            "no_transfer": ["--agents=2", "--cory.transfer=false"],
            "no_exchange": ["--agents=2", "--exchange_every=null"],
            "own": ["--agents=2", "--cory.reward=own"], "mean": ["--agents=2", "--cory.reward=mean"]}
DRAWS = 2000


def keys(options: argparse.Namespace, variant: str, kl: float, lr: float | None, seed: int) -> list[str]:
    """Returns the arguments of one run."""
    own = [f"--config={options.config}", *options.rest, *VARIANTS[variant], f"--kl.coef={kl}", f"--seed={seed}",
           "--save=nothing"]
    own += [] if lr is None else [f"--train.lr={lr}"]
    if variant == "ppo_twice":
        config = parse(Config, [*own, "--out=x"])
        own.append(f"--iterations={2 * config.iterations}")
    return own + ([f"--model={options.big}"] if variant == "ppo_big" else [])


def measured(folder: Path) -> dict[str, Any]:
    """Reads the numbers of a finished run."""
    result, metrics = json.loads((folder / "result.json").read_text()), read_metrics(folder / "metrics.jsonl")
    agents = result["agents"].values()
    if not all(agent["after"] for agent in agents):
        raise SystemExit(f"{folder}: no held-back queries, which the runs are compared by: set held_back.rows above 0")
    mean = lambda when, name: float(np.mean(np.array([agent[when][name]["mean"] for agent in agents], float)))
    kl, tenth = curves(metrics, "kl").mean(0), max(len(metrics) // 10, 1)
    middle = kl[len(kl) // 2 - tenth // 2:][:tenth].mean()
    return {"start": mean("before", "task_reward"), "task_reward": mean("after", "task_reward"),
            "kl": mean("after", "kl"), "length": mean("after", "length"),
            "collapsed": any(map(collapsed, curves(metrics, "task_reward"))),
            "pass_at_k": {k: float(np.mean([agent["after"]["pass_at_k"][k]["mean"] for agent in agents]))
                          for k in next(iter(agents))["after"].get("pass_at_k", {})},
            "kl_growth": 1.0 if middle == 0 else float(kl[-tenth:].mean() / middle),
            "seconds": sum(result["seconds_per_iteration"].values()) * result["iterations"]}


def curves(metrics: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """Returns a number of every agent and iteration, `[A, I]`; NaN where it was not finite, which is null in a file."""
    return np.array([[own[name] for own in line["agents"].values()] for line in metrics], float).T


def collapsed(rewards: np.ndarray) -> bool:
    """Decides whether a curve of training rewards ends below its start, or lost more than half of its gain.

    Means of tenths are compared. Their noise is estimated from the differences between adjacent iterations, and a fall
    has to exceed four times that of a difference of two means: the best of many tenths is high by chance.
    """
    if not np.isfinite(rewards).all():
        return True
    tenth = max(len(rewards) // 10, 1)
    means = np.convolve(rewards, np.ones(tenth) / tenth, "valid")
    noise = 4 * np.sqrt(2 / tenth) * np.std(np.diff(rewards)) / np.sqrt(2)
    start, best, end = means[0], means.max(), means[-1]
    return bool(end < start - noise or best - end > max(0.5 * (best - start), noise))


def hypervolume(points: Sequence[tuple[float, float]], start: float, worst: float) -> float:
    """Computes the area that points (reward, kl) dominate, above the reward `start` and below the KL `worst`."""
    area, reached = 0.0, start
    for reward, kl in sorted(points, key=lambda point: point[1]):
        if reward > reached:
            area += (reward - reached) * max(worst - kl, 0.0)
            reached = reward
    return area


def summarize(runs: dict[tuple, dict[str, Any]]) -> dict[str, Any]:
    """Computes means over seeds, and hypervolumes with intervals of the runs that all variants have."""
    variants = list(dict.fromkeys(key[0] for key in runs))
    shared = [cell for cell in dict.fromkeys(key[1:] for key in runs) if all((one, *cell) in runs for one in variants)]
    worst = max((runs[one, *cell]["kl"] for one in variants for cell in shared), default=0.0)
    rows, volumes = [], {}
    for variant in variants:
        settings = list(dict.fromkeys(key[1:3] for key in runs if key[0] == variant))
        seeds = sorted({key[3] for key in runs if key[0] == variant})
        for kl, lr in settings:
            own = [runs[variant, kl, lr, seed] for seed in seeds if (variant, kl, lr, seed) in runs]
            rows.append({"variant": variant, "kl_coef": kl, "lr": lr, "seeds": len(own),
                         "collapsed": sum(run["collapsed"] for run in own),
                         "pass_at_k": {k: interval([run["pass_at_k"][k] for run in own]) for k in own[0]["pass_at_k"]
                                       if all(k in run["pass_at_k"] for run in own)},
                         **{name: interval([run[name] for run in own]) for name in (
                             "task_reward", "kl", "length", "kl_growth", "seconds")}})
        if shared:
            volumes[variant] = volume_of({cell: runs[variant, *cell] for cell in shared}, worst)
    return {"runs": len(runs), "runs_left_out": len(runs) - len(shared) * len(variants), "rows": rows,
            "hypervolume": volumes}


def volume_of(runs: dict[tuple, dict[str, Any]], worst: float) -> dict[str, Any]:
    """Computes the hypervolume of a variant, with an interval over seeds and the reward of its first model, `start`.

    Args:
        runs: by KL coefficient, learning rate and seed.
        worst: KL of the reference point.
    """
    start = float(np.mean([run["start"] for run in runs.values()]))
    settings: dict[tuple, list[tuple[float, float]]] = {}
    for (kl, lr, _), run in runs.items():
        settings.setdefault((kl, lr), []).append((run["task_reward"], run["kl"]))
    points = [np.array(own) for own in settings.values()]
    volume = lambda chosen: hypervolume([tuple(own.mean(0)) for own in chosen], start, worst)
    random = np.random.default_rng(0)
    draws = [volume([own[random.integers(0, len(own), len(own))] for own in points]) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"start": start, "mean": volume(points), "ci_low": float(low), "ci_high": float(high), "n": len(runs)}


def table(summary: dict[str, Any]) -> str:
    """Formats the summary as Markdown."""
    def cell(value: dict[str, Any], digits: int = 2) -> str:
        mean, low, high = (f"{value[name]:.{digits}f}" for name in ("mean", "ci_low", "ci_high"))
        return f"{mean} [{low}, {high}]"

    passes = sorted({k for row in summary["rows"] for k in row["pass_at_k"]}, key=int)
    names = ("variant", "KL coefficient", "rate", "seeds", "task reward", *(f"pass@{k}" for k in passes), "KL, nats",
             "KL growth", "length", "collapsed", "minutes")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in summary["rows"]:
        rate = "" if row["lr"] is None else f"{row['lr']:g}"
        passed = [cell(row["pass_at_k"][k]) if k in row["pass_at_k"] else "–" for k in passes]
        numbers = (row["variant"], f"{row['kl_coef']:g}", rate, row["seeds"], cell(row["task_reward"]), *passed,
                   cell(row["kl"]), cell(row["kl_growth"]), cell(row["length"], 1), row["collapsed"],
                   f"{row['seconds']['mean'] / 60:.1f}")
        lines.append(f"| {' | '.join(map(str, numbers))} |")
    lines += ["", "| variant | reward of the first model | hypervolume | runs in it |", "|---|---|---|---|",
              *(f"| {name} | {value['start']:.2f} | {cell(value, 1)} | {value['n']} |"
                for name, value in summary["hypervolume"].items())]
    if summary["runs_left_out"]:
        lines += ["", f"Not in the hypervolumes: {summary['runs_left_out']} runs with settings and seeds that another "
                  "variant lacks."]
    return "\n".join(lines) + "\n"


def draw(summary: dict[str, Any], path: Path) -> None:
    """Draws the frontier of every variant."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for color, variant in zip(COLORS * 2, dict.fromkeys(row["variant"] for row in summary["rows"]), strict=False):
        rows = sorted((row for row in summary["rows"] if row["variant"] == variant), key=lambda row: row["kl"]["mean"])
        mean = {name: np.array([row[name]["mean"] for row in rows]) for name in ("kl", "task_reward")}
        around = {name: np.abs(np.array([[row[name]["ci_low"], row[name]["ci_high"]] for row in rows]).T - mean[name])
                  for name in mean}
        axes.errorbar(mean["kl"], mean["task_reward"], xerr=around["kl"], yerr=around["task_reward"], color=color,
                      marker="o", ms=4, lw=1, label=variant)
    axes.set_xlabel("KL divergence from the first model, nats a response")
    axes.set_ylabel("task reward on bare queries")
    axes.legend(frameon=False)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["ppo", "ppo_twice", "cory", "no_transfer",
                                                                            "no_exchange", "own", "mean"])
    parser.add_argument("--kl", nargs="+", type=float, default=[0.1, 0.3, 1.0])
    parser.add_argument("--lr", nargs="+", type=float, default=[None])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--big", default="", help="model of ppo_big, about twice the size")
    parser.add_argument("--minutes", type=float, help="stop after this time")
    options = parse_with_keys(parser)
    if "ppo_big" in options.variants and not options.big:
        parser.error("ppo_big needs --big MODEL")
    settings = {options.out / f"{variant}_kl{kl:g}{'' if lr is None else f'_lr{lr:g}'}_seed{seed}":
                (variant, kl, lr, seed) for seed, kl, lr, variant in itertools.product(
                    options.seeds, options.kl, options.lr, options.variants)}
    finished, status = call_all("rl", {folder: keys(options, *own) for folder, own in settings.items()},
                                options.minutes)
    if runs := {settings[folder]: measured(folder) for folder in finished}:
        summary = summarize(runs)
        write_atomic(options.out / "results.json", json.dumps(summary, indent=2) + "\n")
        write_atomic(options.out / "table.md", table(summary))
        draw(summary, options.out / "frontier.svg")
        print(table(summary))
    return status


if __name__ == "__main__":
    sys.exit(main())
