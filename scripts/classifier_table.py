"""A classifier of movie reviews with SmolLM2 and an adapter, against TF-IDF and logistic regression.

    pip install scikit-learn
    python scripts/classifier_table.py DATA_FOLDER OUT [--rows N] [--tokens 256] [--batch 32] [--seed 0]

Trains one epoch on `imdb_train.jsonl.gz` {text, label} and tests on all rows of `imdb_test.jsonl.gz`. Both classifiers
see the start of a review, as many tokens of SmolLM2 as --tokens. Finished steps are not repeated: the same command
resumes a stopped run, and other arguments need another OUT. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from verbs import call, check_files

import jaxllm
from jaxllm.files import read_jsonl, write_atomic, write_jsonl
from jaxllm.statistics import interval
from jaxllm.text.tokenizer import Tokenizer


def shortened(path: Path, tokenizer: Tokenizer, tokens: int, rows: int | None) -> list[dict]:
    """Reads rows {text, label}, each with the first tokens of its text."""
    with gzip.open(path, "rt") as file:
        found = [json.loads(line) for line in file][:rows]
    texts = [tokenizer.decode(tokenizer.encode(row["text"])[:tokens]) for row in found]
    return [{"id": row["id"], "text": text, "label": row["label"]} for row, text in zip(found, texts, strict=True)]


def by_words(train: list[dict], test: list[dict]) -> np.ndarray:
    """Predicts the class from words and pairs of words."""
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
                          LogisticRegression(C=10.0, max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    return model.predict([row["text"] for row in test])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sources = {name: options.data / f"imdb_{name}.jsonl.gz" for name in ("train", "test")}
    check_files(parser, *sources.values())
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = jaxllm.load("smollm2").tokenizer
    paths = {name: options.out / f"{name}.jsonl" for name in sources}
    for name, source in sources.items():
        # A decoded text may have a token more when it is encoded again.
        write_jsonl(paths[name], shortened(source, tokenizer, options.tokens - 2,
                                           options.rows if name == "train" else None))
    train, test = (read_jsonl(path) for path in paths.values())
    classifier, scores = options.out / "classifier", options.out / "scores"
    call("tune", "--method=classify", "--model=smollm2", f"--data.path={paths['train']}", f"--out={classifier}",
         f"--lengths.max_length={options.tokens}", "--lora.rank=16", "--lora.alpha=32", "--train.lr=2e-4",
         "--train.epochs=1", "--train.warmup_steps=20", f"--train.batch_size={options.batch}",
         "--train.packing=true", "--train.remat=full", "--train.save_every=20", "--device.compute=bfloat16",
         "--held_back.share=0", f"--seed={options.seed}")
    call("score", "--model=smollm2", f"--adapter={classifier / 'adapter'}", f"--data.path={paths['test']}",
         f"--out={scores}", "--device.compute=bfloat16")
    labels = np.array([row["label"] for row in test])
    ours = np.argmax([row["score"] for row in read_jsonl(scores / "rows.jsonl")], axis=1) == labels
    words = by_words(train, test) == labels
    cell = lambda values: "{mean:.4f} [{ci_low:.4f}, {ci_high:.4f}]".format(**interval(values))
    lines = [f"{len(train):,} reviews to train on, {len(test):,} to test, at most {options.tokens} tokens each.", "",
             "| classifier | accuracy |", "|---|---|", f"| SmolLM2-135M-Instruct, LoRA | {cell(ours)} |",
             f"| TF-IDF, logistic regression | {cell(words)} |",
             f"| difference, paired | {cell(ours.astype(float) - words)} |"]
    write_atomic(options.out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
