"""Reward model, supervised fine-tuning and DPO on sentiment pairs with SmolLM2, with baselines; one run per seed.

    python scripts/preference_table.py DATA_FOLDER OUT [--seeds 0 1 2] [--pairs 400] [--held_back 300]

A pair is a positive and a negative sentence of movie reviews, of `mr_sentences_{train,test}.jsonl.gz` {text, label}.
Finished steps are not repeated: the same command resumes a stopped run. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from preference_baselines import baselines, cell
from verbs import call, check_files

from jaxllm.files import write_atomic, write_jsonl
from jaxllm.statistics import interval

PROMPT = [{"role": "user", "content": "Write one sentence of a positive movie review."}]
TRAIN = ["--train.batch_size=8", "--train.epochs=1", "--train.remat=none", "--train.save_every=10", "--lora.rank=16",
         "--lora.alpha=32"]
SAMPLES = 48


def rows_of(path: Path) -> list[dict]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def write_pairs(source: Path, path: Path, count: int) -> list[dict]:
    """Pairs positive with negative sentences, in the order of the file."""
    rows = rows_of(source)
    chosen, rejected = ([row for row in rows if row["label"] == label] for label in (1, 0))
    pairs = [{"id": f"{a['id']} {b['id']}", "prompt": PROMPT, "chosen": a["text"], "rejected": b["text"]}
             for a, b in zip(chosen[:count], rejected[:count], strict=True)]
    write_jsonl(path, pairs)
    return pairs


def result(path: Path) -> dict:
    return json.loads((path / "result.json").read_text())


def run_seed(out: Path, seed: int, train: Path, held_back: Path) -> dict:
    folder = out / f"seed{seed}"
    data = [f"--data.path={train}", f"--held_back.path={held_back}", f"--seed={seed}", *TRAIN]
    call("tune", "--method=reward", "--model=smollm2", "--train.lr=2e-4", f"--out={folder / 'reward'}", *data)
    call("tune", "--method=sft", "--model=smollm2", "--train.lr=2e-4", "--save=model", f"--out={folder / 'sft'}", *data)
    base = str(folder / "sft" / "model")
    call("tune", "--method=dpo", f"--model={base}", "--train.lr=2e-4", f"--out={folder / 'dpo'}", *data)
    prompts = out / "prompts.jsonl"
    write_jsonl(prompts, [{"messages": PROMPT}])
    found = {name: result(folder / name)["eval"] for name in ("reward", "sft", "dpo")}
    for name, more in (("sft", []), ("dpo", [f"--adapter={folder / 'dpo' / 'adapter'}"])):
        texts = folder / f"texts_{name}"
        call("generate", f"--model={base}", f"--data.path={prompts}", f"--out={texts}", f"--sampling.n={SAMPLES}",
             "--sampling.max_tokens=48", f"--seed={seed}", *more)
        row = json.loads((texts / "rows.jsonl").read_text().splitlines()[0])
        texts = [completion["text"] for completion in row["completions"]]
        write_jsonl(folder / f"{name}.jsonl", [
            {"messages": [*PROMPT, {"role": "assistant", "content": text}]} for text in texts if text.strip()])
        scores = folder / f"scores_{name}"
        call("score", "--model=smollm2", f"--adapter={folder / 'reward' / 'adapter'}", f"--out={scores}",
             f"--data.path={folder / f'{name}.jsonl'}")
        rewards = [json.loads(line)["score"][0] for line in (scores / "rows.jsonl").read_text().splitlines()]
        found[f"reward of {name} texts"] = interval(rewards)  # of those that are not empty
    return found


def table(seeds: dict[int, dict], reference: dict[str, dict]) -> str:
    lines = ["| | " + " | ".join(f"seed {seed}" for seed in seeds) + " |", "|---" * (len(seeds) + 1) + "|"]
    rows = [("reward model, accuracy", "reward", "accuracy"), ("SFT, loss", "sft", "loss"),
            ("SFT, token accuracy", "sft", "mean_token_accuracy"), ("DPO, accuracy", "dpo", "rewards/accuracies"),
            ("DPO, margin", "dpo", "rewards/margins")]
    for label, step, name in rows:
        lines.append(f"| {label} | " + " | ".join(cell(found[step][name]) for found in seeds.values()) + " |")
    for name in ("sft", "dpo"):
        lines.append(f"| reward of {name.upper()}'s texts | "
                     + " | ".join(f"{cell(value)} ({value['n']} texts)" for found in seeds.values()
                                  for value in [found[f"reward of {name} texts"]]) + " |")
    lines += [f"| {name} | " + " | ".join([cell(value)] * len(seeds)) + " |" for name, value in reference.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--held_back", type=int, default=300)
    options = parser.parse_args()
    sources = [options.data / f"mr_sentences_{name}.jsonl.gz" for name in ("train", "test")]
    check_files(parser, *sources)
    options.out.mkdir(parents=True, exist_ok=True)
    paths = options.out / "train.jsonl", options.out / "held_back.jsonl"
    train = write_pairs(sources[0], paths[0], options.pairs)
    held_back = write_pairs(sources[1], paths[1], options.held_back)
    seeds: dict[int, dict] = {}
    for seed in options.seeds:
        seeds[seed] = run_seed(options.out, seed, *paths)
        text = table(seeds, {name: interval(won) for name, won in baselines(train, held_back).items()})
        write_atomic(options.out / "table.md", text + "\n")
        print(text)


if __name__ == "__main__":
    main()
