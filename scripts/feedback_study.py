"""Cleaning of noisy sentiment preferences: what noise costs a reward model, and what each method recovers.

    python scripts/feedback_study.py SENTIMENT_FOLDER OUT [--model smollm2] [--seeds 0 1 2] [--kind uniform] [--rate .4]
    python scripts/feedback_study.py SENTIMENT_FOLDER OUT --cost --seeds 100 101    # what kinds and rates of noise cost

A pair is a positive (chosen) and a negative sentence of movie reviews. Rewards are linear in the frozen last hidden
state of a language model. For each seed the sentences of the training file are split into pairs for training, for the
committee (each member is trained on a fold of its own, with right labels, as reward models of others are), and for
validation; pairs of the test file are the test. Noise exchanges labels of the training pairs. `jaxllm audit` and
`jaxllm clean` clean them with every method, and a reward is trained on each outcome: its penalty is chosen by
cross-validation on the same rows. Recovery is the share of what noise cost that a method brings back. Finished steps
are not repeated; another model, or other data, need another OUT.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from verbs import call, check_files

import jaxllm
from jaxllm.compile_cache import enable_compile_cache
from jaxllm.devices import DeviceConfig
from jaxllm.feedback.difficulty import of_rows
from jaxllm.feedback.heads import PENALTIES, fit_reward, last_states
from jaxllm.feedback.noise import flips
from jaxllm.files import read_jsonl, write_atomic, write_jsonl
from jaxllm.text.encoding import encode_reward_pair
from jaxllm.text.forms import PairRow

PROMPT = [{"role": "user", "content": "Write one sentence of a movie review."}]
MEMBERS, FOLD, VALIDATION, TEST_PER_SENTENCE = 8, 150, 400, 2
JUDGED = 100  # training pairs, drawn at random, on which the rate of noise is counted
FRACTIONS = (0.1, 0.2, 0.3, 0.4)
# The methods of PrefCleanBench that need no tags; those with a fraction are run with each.
BENCH = [("llm_judge_r", {}), ("llm_judge_f", {}), ("vote_all_r", {}), ("vote_all_f", {}), ("vote_maj_r", {}),
         ("vote_maj_f", {}), *((name, {"fraction": p}) for name in ("rwgap_r", "rwgap_f", "ifd_r", "ifd_gap_r",
                                                                    "ifd_gap_f") for p in FRACTIONS)]
# Source-Aware Cleaning by the most votes that a wrong label may have; its thresholds are not published.
SAC = [("sac", {"votes": votes}) for votes in range(4)]
OTHERS = [("random_r", {}), ("random_f", {}), ("vote_full", {}), ("small_loss_r", {"fraction": 0.2}),
          ("confident_r", {}), ("confident_f", {}), ("weighted_r", {}), ("weighted_f", {}), ("calibrated_r", {}),
          ("calibrated_f", {}), ("soft_votes", {}), ("soft_calibrated", {}), ("weight_votes", {}), ("margins", {}),
          ("smooth", {"epsilon": 0.2})]
COUNTED = ("calibrated_r", "calibrated_f", "soft_calibrated")


def sentences(path: Path) -> tuple[list[str], list[str]]:
    """Reads positive and negative sentences."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return tuple([row["text"] for row in rows if row["label"] == label] for label in (1, 0))  # type: ignore[return-value]


def pin(out: Path, settings: dict[str, Any]) -> None:
    """Writes what the results of a folder depend on, or ends the script where they depend on something else."""
    path = out / "settings.json"
    if path.exists() and (before := json.loads(path.read_text())) != settings:
        raise SystemExit(f"{out} has results of {before}, not of {settings}: give another folder")
    write_atomic(path, json.dumps(settings, indent=2))


def states(model: jaxllm.Model, name: str, positive: list[str], negative: list[str], out: Path) -> np.ndarray:
    """Computes the features of sentences, paired as they come, `[N, 2, D]`."""
    rows = [PairRow(PROMPT, *pair) for pair in zip(positive, negative, strict=False)]
    pairs = [encode_reward_pair(model.tokenizer, row) for row in rows]
    return last_states(model, pairs, out / "features", name, 32, DeviceConfig().compute_dtype).astype(np.float64)


def trained(rows: list[dict[str, Any]], difference: dict[str, np.ndarray]) -> np.ndarray:
    """Trains a reward on rows; its penalty is the best in three-fold cross-validation on them."""
    x = np.stack([difference[row["id"]] * (1 if row["chosen"] == row["positive"] else -1) for row in rows])
    columns = {name: np.array([row.get(column, default) for row in rows], float) for name, column, default in (
        ("probability", "label_probability", 1.0), ("weight", "weight", 1.0), ("margin", "margin", 0.0))}
    fold = np.arange(len(x)) % 3
    part = lambda where: {name: values[where] for name, values in columns.items()}
    right = lambda penalty: np.mean([np.average((x[fold == own] @ fit_reward(x[fold != own], penalty, **part(
        fold != own)) > 0) == (columns["probability"][fold == own] >= 0.5)) for own in range(3)])
    return fit_reward(x, max(PENALTIES, key=right), **columns)


class Split:
    """Data of one seed."""

    def __init__(self, seed: int, train: np.ndarray, test: np.ndarray, positive: list[str], negative: list[str]):
        order = np.random.default_rng(seed).permutation(len(train))
        self.committee, rest = order[:MEMBERS * FOLD], order[MEMBERS * FOLD:]
        self.validation, self.training = rest[:VALIDATION], rest[VALIDATION:]
        scale = train[order].reshape(-1, train.shape[-1]).std(0) + 1e-6
        self.train, self.positive, self.negative = train / scale, positive, negative
        # Every test sentence is in several pairs, with other partners; pairs of a positive sentence are a cluster.
        partners = np.concatenate([np.roll(np.arange(len(test)), shift) for shift in range(TEST_PER_SENTENCE)])
        own = np.tile(np.arange(len(test)), TEST_PER_SENTENCE)
        self.test, self.clusters = (test[own, 0] - test[partners, 1]) / scale, own

    def rows(self, flipped: np.ndarray, numbers: np.ndarray | None = None) -> list[dict[str, Any]]:
        """Makes rows with exchanged labels: those for training, or of other pairs."""
        made = []
        for number, wrong in zip((self.training if numbers is None else numbers).tolist(), flipped, strict=True):
            answers = (self.positive[number], self.negative[number])
            chosen, rejected = answers[::-1] if wrong else answers
            made.append({"id": str(number), "prompt": PROMPT, "chosen": chosen, "rejected": rejected,
                         "positive": answers[0]})
        return made

    def difficulties(self, flipped: np.ndarray, both: np.ndarray) -> list[dict[str, Any]]:
        """Makes the rows of difficulties, of the answers of `rows`, from those of all sentences, positive first."""
        return [{"id": str(number), "chosen": _number(own[int(wrong)]), "rejected": _number(own[1 - int(wrong)])}
                for number, own, wrong in zip(self.training.tolist(), both[self.training].tolist(), flipped,
                                              strict=True)]

    def noise(self, kind: str, rate: float, seed: int) -> np.ndarray:
        """Draws which training labels are exchanged."""
        words = np.array([[len(self.positive[n].split()), len(self.negative[n].split())] for n in self.training])
        gaps = np.abs(np.diff(self.scores.mean(1), axis=1)[:, 0]) if kind == "margin" else None
        return flips([str(number) for number in self.training], rate, kind, seed=seed, words=words, margins=gaps)

    @functools.cached_property
    def members(self) -> np.ndarray:
        """Rewards of the committee's members, `[D, M]`, each trained on a fold of its own."""
        return np.stack([fit_reward(own[:, 0] - own[:, 1], 0.1)
                         for own in np.split(self.train[self.committee], MEMBERS)], 1)

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The committee's scores of the training pairs, positive first, `[N, M, 2]`."""
        return np.moveaxis(self.train[self.training] @ self.members, 2, 1)

    def differences(self) -> dict[str, np.ndarray]:
        """Returns positive less negative features of each pair."""
        return {str(number): self.train[number, 0] - self.train[number, 1] for number in range(len(self.train))}

    def measured(self, weights: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns which test pairs a reward gets right, and its accuracy on the validation pairs."""
        validation = self.train[self.validation, 0] - self.train[self.validation, 1]
        return self.test @ weights > 0, float((validation @ weights > 0).mean())


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def cleaned(folder: Path, rows: Path, method: str, keys: dict[str, Any], seed: int, count: int | None
            ) -> list[dict[str, Any]]:
    """Runs `jaxllm clean`; returns the rows."""
    name = "_".join([method, *map(str, keys.values())])
    out, audit = folder / name, folder / "audit"
    if method == "sac":
        audit = folder / f"audit {keys['votes']}" if keys["votes"] else audit
        keys = {}
    elif method.endswith(" counted"):
        audit, method = folder / "audit counted", method.removesuffix(" counted")
    keys = ({"count": count} if method[:6] == "random" and count else {}) | keys
    keys |= {"member": "m0"} if method.startswith("llm_judge") else {}
    keys |= {"ifd.path": folder / "ifd.jsonl"} if method.startswith("ifd") else {}
    call("clean", "--method", method, "--data.path", rows, "--audit", audit, "--truth",
         folder / "truth.jsonl", "--out", out, "--seed", seed, "--force", "true",
         *(word for key, value in keys.items() for word in (f"--{key}", value)))
    return read_jsonl(out / "cleaned.jsonl")


def one_seed(split: Split, folder: Path, kind: str, rate: float, seed: int, ifd: np.ndarray
             ) -> dict[str, dict[str, Any]]:
    """Cleans with every method and trains on each outcome; returns right test pairs, validation accuracy, detection.

    `ifd` are the difficulties of all sentences, `[N, 2]`, positive first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flipped = split.noise(kind, rate, seed)
    rows, difference = split.rows(flipped), split.differences()
    path = folder / "rows.jsonl"
    write_jsonl(path, rows)
    write_jsonl(folder / "truth.jsonl", [{"id": row["id"], "flipped": bool(own)} for row, own in zip(rows, flipped,
                                                                                                     strict=True)])
    write_jsonl(folder / "scores.jsonl", [
        {"id": row["id"], "scores": {f"m{m}": both[::-1].tolist() if own else both.tolist() for m, both in
                                     enumerate(scores)}}
        for row, own, scores in zip(rows, flipped, split.scores, strict=True)])
    write_jsonl(folder / "ifd.jsonl", split.difficulties(flipped, ifd))
    sample = np.random.default_rng(seed).permutation(len(rows))[:JUDGED]
    counted = min(max(float(flipped[sample].mean()), 0.01), 0.49)
    for name, more in (("audit", []), ("audit counted", ["--committee.noise", counted]),
                       *((f"audit {votes}", ["--sources.most_votes", votes]) for votes in range(1, 4))):
        call("audit", "--data.path", path, "--committee.scores", folder / "scores.jsonl", "--out", folder / name, *more)
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, own: list[dict[str, Any]], detection: dict[str, Any] | None = None) -> None:
        right, validation = split.measured(trained(own, difference))
        found[name] = {"right": right.tolist(), "validation": validation, "rows": len(own)} | (detection or {})

    add("clean", split.rows(np.zeros(len(flipped), bool)))
    add("noisy", rows)
    # The committee's right labels explain a part of what cleaning by it recovers.
    add("the committee's pairs", split.rows(np.zeros(len(split.committee), bool), split.committee))
    right, validation = split.measured(split.members.mean(1))
    found["the committee"] = {"right": right.tolist(), "validation": validation, "rows": 0}
    acted = None
    # Removal at random of as many pairs as the methods with a fraction remove; random_r has the size of SAC.
    drawn = [("random_r", {"count": int(share * len(rows) + 1e-9)}) for share in FRACTIONS]
    for method, keys in [*SAC, *OTHERS, *BENCH, *drawn, *((f"{name} counted", {}) for name in COUNTED)]:
        name = "_".join([method, *map(str, keys.values())])
        own = cleaned(folder, path, method, keys, seed, acted)
        result = json.loads((folder / name / "result.json").read_text())
        if method == "sac":
            add(name, own, {measure: result[measure]["mean"] for measure in ("precision", "recall", "f1", "auroc")})
            best = max((own for own in found if own.startswith("sac")), key=lambda own: found[own]["validation"])
            acted = json.loads((folder / best / "result.json").read_text())["detection"]["detected"]
            continue
        add(name, own, {measure: result[measure]["mean"] for measure in ("precision", "recall", "f1", "auroc")})
    return found


def preference_optimization(split: Split, folder: Path, model: str, pairs: int, best: dict[str, str],
                            test: tuple[list[str], list[str]], seed: int) -> dict[str, dict[str, Any]]:
    """Trains the language model itself by DPO on some of the pairs: right and noisy labels, cleaned, random removal.

    One epoch each: a method that removes pairs makes fewer steps, and is compared with as many noisy pairs, drawn at
    random. Returns the metrics of the test pairs, and the number of training pairs, by variant.
    """
    used = set(map(str, split.training[:pairs].tolist()))
    held_back = folder / "test.jsonl"
    write_jsonl(held_back, [{"id": str(n), "prompt": PROMPT, "chosen": chosen, "rejected": rejected}
                            for n, (chosen, rejected) in enumerate(zip(*test, strict=False)) if n < 200])
    noisy = read_jsonl(folder / "rows.jsonl")
    files = {"clean": split.rows(np.zeros(len(split.training), bool)), "noisy": noisy}
    files |= {name: read_jsonl(folder / name / "cleaned.jsonl") for name in (*best.values(), "random_r")}
    own = lambda row: {key: value for key, value in row.items() if key != "positive"}
    files = {name: [own(row) for row in rows if row["id"] in used] for name, rows in files.items()}
    for name in dict.fromkeys(best.values()):
        if (left := len(files[name])) < len(files["noisy"]):
            drawn = np.random.default_rng(seed).permutation(len(files["noisy"]))[:left]
            files[f"random for {name}"] = [files["noisy"][number] for number in np.sort(drawn)]
    found = {}
    for name, rows in files.items():
        path = folder / f"dpo_{name}.jsonl"
        write_jsonl(path, rows)
        out = folder / f"dpo_{name}"
        call("tune", "--method", "dpo", "--model", model, "--data.path", path, "--held_back.path", held_back, "--out",
             out, "--train.batch_size", 8, "--train.epochs", 1, "--train.lr", 2e-4, "--train.remat", "none",
             "--lora.rank", 16, "--lora.alpha", 32, "--seed", seed)
        found[name] = json.loads((out / "result.json").read_text())["eval"] | {"pairs": len(rows)}
        print(f"DPO {name}: {found[name]}", flush=True)
    return found


def table(results: list[dict[str, dict[str, Any]]], clusters: np.ndarray, draws: int = 2000) -> tuple[str, dict]:
    """Formats accuracy and recovery over the seeds, with intervals that resample positive test sentences."""
    rng, names = np.random.default_rng(0), list(results[0])
    right = {name: np.mean([own[name]["right"] for own in results], 0) for name in names}
    count = clusters.max() + 1
    sums = {name: np.bincount(clusters, values, count) for name, values in right.items()}
    size = np.bincount(clusters, minlength=count)
    drawn = [rng.integers(count, size=count) for _ in range(draws)]
    accuracy = {name: np.array([own[chosen].sum() / size[chosen].sum() for chosen in drawn])
                for name, own in sums.items()}
    mean = lambda name, key: np.mean([own[name][key] for own in results if own[name].get(key) is not None] or [np.nan])
    cost = right["clean"].mean() - right["noisy"].mean()
    lines = ["| method | pairs | accuracy | recovered | detection F1 | AUROC |", "|---|---|---|---|---|---|"]
    summary = {}
    for name in sorted(names, key=lambda name: -right[name].mean()):
        share = (accuracy[name] - accuracy["noisy"]) / (accuracy["clean"] - accuracy["noisy"])
        low, high = np.quantile(share, [0.025, 0.975])
        value = (right[name].mean() - right["noisy"].mean()) / cost
        a_low, a_high = np.quantile(accuracy[name], [0.025, 0.975])
        summary[name] = {"accuracy": right[name].mean(), "recovered": value, "ci_low": low, "ci_high": high,
                         "validation": mean(name, "validation")}
        lines.append(f"| {name} | {mean(name, 'rows'):.0f} | {right[name].mean():.3f} [{a_low:.3f}, {a_high:.3f}] | "
                     f"{value:.0%} [{low:.0%}, {high:.0%}] | {mean(name, 'f1'):.2f} | {mean(name, 'auroc'):.2f} |")
    return "\n".join(lines), summary


def main() -> None:
    """Runs the split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kind", default="uniform", choices=("uniform", "length", "margin"))
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--cost", action="store_true", help="measure only what kinds and rates of noise cost")
    parser.add_argument("--dpo", type=int, default=0, help="train the model by DPO too, on this many pairs of a seed")
    parser.add_argument("--pairs", type=int, help="use the first pairs of both files only")
    options = parser.parse_args()
    paths = [options.data / f"mr_sentences_{name}.jsonl.gz" for name in ("train", "test")]
    check_files(parser, *paths)
    options.out.mkdir(parents=True, exist_ok=True)
    pin(options.out, {"model": options.model, "pairs": options.pairs,
                      "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]})
    enable_compile_cache()
    train, test = map(sentences, paths)
    if options.pairs:
        train, test = ([side[:options.pairs] for side in own] for own in (train, test))
    model = jaxllm.load(options.model)
    features = [states(model, options.model, *own, options.out) for own in (train, test)]
    path, ifd = options.out / "difficulties.npy", np.zeros((0, 2))
    if not options.cost:
        if not path.exists():
            part = path.with_suffix(".part.npy")  # a stopped run leaves no half of the file
            pairs = [PairRow(PROMPT, *pair) for pair in zip(*train, strict=False)]
            np.save(part, of_rows(jaxllm.Generator(model), pairs))
            part.replace(path)
        ifd = np.load(path)
    results, clusters = [], np.zeros(0, int)
    for seed in options.seeds:
        split = Split(seed, *features, *train)
        clusters = split.clusters
        if options.cost:
            clean = split.measured(trained(split.rows(np.zeros(len(split.training), bool)), split.differences()))[0]
            print(f"seed {seed}: clean {clean.mean():.3f}")
            for kind in ("uniform", "length", "margin"):
                for rate in (0.2, 0.3, 0.4):
                    noisy = split.measured(trained(split.rows(split.noise(kind, rate, seed)), split.differences()))[0]
                    print(f"  {kind} {rate}: costs {100 * (clean.mean() - noisy.mean()):.1f} points", flush=True)
            continue
        folder = options.out / f"{options.kind}_{options.rate}_{seed}"
        done = folder / "found.json"
        if not done.exists():
            write_atomic(done, json.dumps(one_seed(split, folder, options.kind, options.rate, seed, ifd)))
        results.append(json.loads(done.read_text()))
    if results:
        text, summary = table(results, clusters)
        bench = {"_".join([method, *map(str, keys.values())]) for method, keys in BENCH}
        best = {name: max(own, key=lambda one: summary[one]["validation"]) for name, own in (
            ("PrefCleanBench", bench), ("SAC", {f"sac_{keys['votes']}" for _, keys in SAC}))}
        print(f"{text}\n\nbest on the validation pairs: {best}; {len(clusters)} test pairs")
        name = f"{options.kind}_{options.rate}"
        write_atomic(options.out / f"summary_{name}.json", json.dumps(summary | {"best": best}, indent=2))
        if options.dpo:
            dpo = {seed: preference_optimization(Split(seed, *features, *train), options.out / f"{name}_{seed}",
                                                 options.model, options.dpo, best, test, seed)
                   for seed in options.seeds}
            write_atomic(options.out / f"dpo_{name}.json", json.dumps(dpo, indent=2))


if __name__ == "__main__":
    main()
