"""From preference data to a table: audit, clean by each method, fine-tune, generate, compare; one config.

    python scripts/feedback_pipeline.py --config configs/feedback/pipeline_tiny.yaml --out OUT
    python scripts/feedback_pipeline.py --config mine.yaml --data.path rows.jsonl --prompts.path prompts.jsonl --out OUT

Every method's rows train a model (`jaxllm tune`: supervised fine-tuning if there is a config for it, then preference
optimization); it answers the test prompts (`jaxllm generate`), a gold reward model scores its answers, and `jaxllm
compare` counts wins, ties and losses against the model of the rows as they came. A random removal of the same size as
each removal is a method too. Finished steps are not repeated. Without --data.path the data are of the packaged model's
world: reviews of which the positive one is better, labels exchanged by --noise.rate, a simulated committee, and a gold
reward model that is trained on other pairs.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tiny_world import ADJECTIVES, REMARKS, WORDS, World
from verbs import call

from jaxllm.assets import resolve
from jaxllm.config import DataConfig, check, to_yaml
from jaxllm.errors import UserError
from jaxllm.feedback.clean_job import read_truth
from jaxllm.feedback.config import CommitteeConfig
from jaxllm.feedback.noise import flips
from jaxllm.files import read_jsonl, write_atomic, write_jsonl
from jaxllm.parsing import parse
from jaxllm.statistics import clustered, paired

# Shares of right votes of the simulated members.
ACCURACIES = (0.6, 0.65, 0.7, 0.75, 0.8)


@dataclass(frozen=True)
class NoiseConfig:
    """Labels of the packaged world's pairs that are exchanged.

    Args:
        kind: uniform or length.
        rate: share of the labels.
    """

    kind: Literal["uniform", "length"] = "uniform"
    rate: float = 0.4


@dataclass(frozen=True)
class CommitteeSection:
    """The committee as a section of a config file."""

    committee: CommitteeConfig


@dataclass(frozen=True)
class Config:
    """Measures what cleaning preference data is worth to a model that is trained on them.

    Args:
        out: directory for the runs and the table.
        model: model to fine-tune.
        data: preference pairs; null makes pairs of the packaged world.
        prompts: test prompts {id?, prompt}.
        truth: rows {id, flipped} of exchanged labels, for the detection and the variant clean.
        committee: the committee.
        gold: reward model that scores the answers; no model of the committee (members of committee.scores are unknown).
        methods: methods of jaxllm clean, with keys of their own where needed, such as "rwgap_r --fraction 0.2".
        sft: config of jaxllm tune for supervised fine-tuning; null goes without.
        dpo: config of jaxllm tune for preference optimization.
        compare: config of jaxllm compare; null compares by the gold reward model alone.
        judge: model that judges for `compare`; none of the committee.
        stop: texts that end an answer.
        max_tokens: the most tokens of an answer.
        noise: labels that are exchanged in pairs of the packaged world.
        pairs: number of these pairs.
        force: do flips of low estimated precision.
        seeds: seeds of the fine-tuning.
        seed: seed of the data and the cleaning.
    """

    out: Path
    model: str = "tiny"
    data: DataConfig | None = None
    prompts: DataConfig | None = None
    truth: str | None = None
    committee: CommitteeConfig | None = None
    gold: str | None = None
    methods: list[str] = field(default_factory=lambda: ["sac", "vote_maj_r", "vote_maj_f", "calibrated_r"])
    sft: str | None = None
    dpo: str = "configs/feedback/prefcleanbench_dpo.yaml"
    compare: str | None = None
    judge: str | None = None
    stop: list[str] = field(default_factory=list)
    max_tokens: int = 256
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    pairs: int = 400
    force: bool = False
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    seed: int = 0

    def __post_init__(self):
        given = [name for name in ("data", "prompts", "committee", "gold") if getattr(self, name) is not None]
        check(len(given) in (0, 4), "data", "data, prompts, committee and gold go together", "give all four, or none")
        check((self.compare is None) == (self.judge is None), "judge", "compare and judge go together",
              "give both, or neither")
        if self.committee is not None:
            models = {_place(name) for member in self.committee.members for name in (
                member.model, member.reference, None if member.judge is None else member.judge.model)}
            for key, what in (("gold", "the gold reward model"), ("judge", "the judge")):
                name = getattr(self, key)
                check(name is None or _place(name) not in models, key, f"{what} is a model of the committee",
                      "evaluate with a model that has no part in the cleaning")


def _place(name: str | None) -> str | None:
    """Returns one spelling of a model: the path of a directory or a packaged model, else the name."""
    if name is None:
        return None
    path = resolve(name)
    return str(path.resolve()) if path.exists() else name


def _folder(name: str) -> str:
    """Returns a file name for a variant."""
    return re.sub(r"[^\w.-]+", "_", name)


def data_keys(data: DataConfig) -> list[Any]:
    """Returns the arguments of a verb that reads a data file."""
    limit = [] if data.limit is None else ["--data.limit", data.limit]
    return ["--data.path", data.path, "--data.limit_bad", data.limit_bad, *limit]


def toy_pairs(count: int, seed: int, name: str) -> list[dict[str, Any]]:
    """Makes pairs of the packaged world: the positive review is chosen."""
    world = World(seed, heldout=True)
    rng, rows = random.Random(seed), []
    for number in range(count):
        level = rng.choice((1, 2))
        chosen, rejected = (f" {rng.choice(ADJECTIVES[sign * level])}. {rng.choice(REMARKS[sign * level])}"
                            for sign in (1, -1))
        prompt = f"Review: The {rng.choice(WORDS['thing'])} in {world.name()} was"
        rows.append({"id": f"{name}{number}", "prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def toy(config: Config) -> Config:
    """Makes data, a simulated committee and a gold reward model of the packaged world."""
    folder = config.out / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    rows = toy_pairs(config.pairs, 1000 + config.seed, "r")
    words = np.array([[len(row[side].split()) for side in ("chosen", "rejected")] for row in rows])
    wrong = flips([row["id"] for row in rows], config.noise.rate, config.noise.kind, seed=config.seed, words=words)
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} if own else row
               for row, own in zip(rows, wrong, strict=True)]
    write_jsonl(folder / "rows.jsonl", swapped)
    write_jsonl(folder / "truth.jsonl", [{"id": row["id"], "flipped": bool(own)} for row, own in zip(rows, wrong,
                                                                                                     strict=True)])
    write_jsonl(folder / "prompts.jsonl", [{"id": row["id"], "prompt": row["prompt"]}
                                           for row in toy_pairs(100, 2000 + config.seed, "t")])
    rng = np.random.default_rng(config.seed)
    write_jsonl(folder / "votes.jsonl", [
        {"id": row["id"], "member": f"m{number}", "vote": 1 if (rng.random() < accuracy) != own else -1}
        for row, own in zip(rows, wrong.tolist(), strict=True) for number, accuracy in enumerate(ACCURACIES)])
    write_jsonl(folder / "gold.jsonl", toy_pairs(400, 3000 + config.seed, "g"))
    call("tune", "--method", "reward", "--model", config.model, "--data.path", folder / "gold.jsonl", "--out",
         folder / "gold", "--save", "model", "--train.lr", 1e-3, "--train.epochs", 1, "--train.batch_size", 16,
         "--held_back.share", 0)
    committee = CommitteeConfig(str(folder / "votes.jsonl"), noise=min(max(config.noise.rate, 0.01), 0.45))
    return dataclasses.replace(
        config, data=DataConfig(str(folder / "rows.jsonl")), prompts=DataConfig(str(folder / "prompts.jsonl")),
        truth=str(folder / "truth.jsonl"), committee=committee, gold=str(folder / "gold" / "model"))


def variants(config: Config) -> dict[str, Path]:
    """Audits and cleans; returns the rows of each variant."""
    assert config.data is not None and config.committee is not None
    section = config.out / "committee.yaml"
    write_atomic(section, to_yaml(CommitteeSection(config.committee)))
    audit, data = config.out / "audit", data_keys(config.data)
    call("audit", "--config", section, *data, "--out", audit, "--seed", config.seed)
    call("clean", "--method", "none", *data, "--out", config.out / "cleaned" / "none")
    found = {"noisy": config.out / "cleaned" / "none" / "cleaned.jsonl"}
    if config.truth is not None:
        rows, wrong = read_jsonl(found["noisy"]), read_truth(config.truth)
        found["clean"] = config.out / "clean.jsonl"
        write_jsonl(found["clean"], [row | {"chosen": row["rejected"], "rejected": row["chosen"]}
                                     if wrong.get(str(row["id"])) else row for row in rows])
    truth = [] if config.truth is None else ["--truth", config.truth]
    for method in config.methods:
        out = config.out / "cleaned" / _folder(method)
        call("clean", "--method", *shlex.split(method), *data, "--audit", audit, "--out", out, *truth,
             "--force", str(config.force).lower(), "--seed", config.seed)
        found[method] = out / "cleaned.jsonl"
        removed = json.loads((out / "result.json").read_text())["actions"]["remove"]
        if removed:
            name = f"random for {method}"
            out = config.out / "cleaned" / _folder(name)
            call("clean", "--method", "random_r", "--count", removed, *data, "--audit", audit, "--out", out, *truth,
                 "--seed", config.seed)
            found[name] = out / "cleaned.jsonl"
    return found


def measured(config: Config, name: str, rows: Path, seed: int) -> dict[str, Any]:
    """Fine-tunes on rows; returns the gold rewards of the answers, in the order of the prompts."""
    assert config.prompts is not None
    folder = config.out / "runs" / f"{_folder(name)}_{seed}"
    base = config.model
    if config.sft is not None:
        call("tune", "--config", config.sft, "--model", base, "--data.path", rows, "--out", folder / "sft",
             "--seed", seed)
        base = str(folder / "sft" / "model")
    call("tune", "--config", config.dpo, "--model", base, "--data.path", rows, "--out", folder / "dpo",
         "--seed", seed)
    call("generate", "--model", base, "--adapter", folder / "dpo" / "adapter", *data_keys(config.prompts),
         "--out", folder / "answers", "--sampling.max_tokens", config.max_tokens, "--sampling.temperature", 1.0,
         "--seed", seed,
         *([f"--sampling.stop={json.dumps(config.stop)}"] if config.stop else []))
    answers = read_jsonl(folder / "answers" / "rows.jsonl")
    texts = [{"id": row["id"], "prompt": row["prompt"], "completion": row["completions"][0]["text"] or " "}
             for row in answers]
    write_jsonl(folder / "texts.jsonl", texts)
    call("score", "--model", config.gold, "--data.path", folder / "texts.jsonl", "--out", folder / "gold")
    return {"gold": [row["score"][0] for row in read_jsonl(folder / "gold" / "rows.jsonl")],
            "words": float(np.mean([len(row["completion"].split()) for row in texts])), "texts": folder / "texts.jsonl"}


def judged(config: Config, name: str, own: Sequence[dict[str, Any]], noisy: Sequence[dict[str, Any]]
           ) -> list[dict[str, Any]]:
    """Lets the judge compare the answers of a variant with those of the noisy rows; returns its shares by seed."""
    assert config.prompts is not None
    if config.compare is None or name == "noisy":
        return []
    shares = []
    for seed, one, other in zip(config.seeds, own, noisy, strict=True):
        out = config.out / "compared" / f"{_folder(name)}_{seed}"
        call("compare", "--config", config.compare, "--judge.model", config.judge, *data_keys(config.prompts),
             "--answers_a", one["texts"], "--answers_b", other["texts"], "--out", out)
        found = json.loads((out / "result.json").read_text())
        shares.append({key: found[key] for key in ("win", "tie", "loss", "win_tie", "outcomes")})
    return shares


def _win_tie(shares: Sequence[dict[str, Any]]) -> str:
    known = [one["win_tie"]["mean"] for one in shares if one["win_tie"] is not None]
    return f"{np.mean(known):.2f}" if known else "-"


def main() -> None:
    """Runs the pipeline, and prints a Markdown table."""
    try:
        config = parse(Config, sys.argv[1:])
        config.out.mkdir(parents=True, exist_ok=True)
        if config.data is None:
            config = toy(config)
        files = variants(config)
    except UserError as error:
        raise SystemExit(f"feedback_pipeline: {error}") from None
    lines = ["| variant | pairs | gold reward | less noisy | p | wins | ties | losses | words | judge: wins and ties |",
             "|---" * 10 + "|"]
    results: dict[str, Any] = {}
    found = {name: [measured(config, name, rows, seed) for seed in config.seeds] for name, rows in files.items()}
    noisy = np.array([own["gold"] for own in found["noisy"]])
    for name, own in found.items():
        gold = np.array([one["gold"] for one in own])
        difference = paired(gold.mean(0), noisy.mean(0), config.seed)
        better, equal = (gold > noisy).mean(), (gold == noisy).mean()
        pairs = len(read_jsonl(files[name]))
        results[name] = {"pairs": pairs, "gold": clustered(gold.mean(0), np.arange(gold.shape[1]), config.seed),
                         "less_noisy": difference, "wins": better, "ties": equal, "losses": 1 - better - equal}
        results[name]["judged"] = judged(config, name, own, found["noisy"])
        mean = results[name]["gold"]
        lines.append(f"| {name} | {pairs} | {mean['mean']:.3f} [{mean['ci_low']:.3f}, {mean['ci_high']:.3f}] | "
                     f"{difference['mean']:+.3f} [{difference['ci_low']:+.3f}, {difference['ci_high']:+.3f}] | "
                     f"{difference['p']:.3f} | {better:.2f} | {equal:.2f} | {1 - better - equal:.2f} | "
                     f"{np.mean([one['words'] for one in own]):.1f} | {_win_tie(results[name]['judged'])} |")
    write_atomic(config.out / "results.json", json.dumps(results, indent=2))
    tests = len(files) - 1
    print("\n".join(lines) + f"\n\n{tests} methods are compared with noisy: multiply p by {tests} (Bonferroni). "
          "Intervals resample prompts; rewards are means over the seeds.")


if __name__ == "__main__":
    main()
