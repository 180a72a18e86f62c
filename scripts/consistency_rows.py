"""Rows for `jaxllm consistency` and `jaxllm rank` from SummEval, NovelEval, CaTeRS, and rated reviews.

    python scripts/consistency_rows.py summeval.jsonl rows.jsonl --documents 10 --items 8 --context_tokens 256 \
        --model smollm2

Each data set has its template: coherence for SummEval, relevance for NovelEval, temporal for CaTeRS, and
configs/consistency/reviews.yaml for reviews `{text, rating}`, of which a row has one of each rating. `--simulate B`
adds the matrices of a judge without noise, for `--judge.kind matrix`: it knows the scores (of CaTeRS the order in which
events are mentioned), and adds B to the log-odds of the item that is shown first.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.files import write_jsonl
from jaxllm.text.readers import read_raw

# Events that a story must have; stories with fewer make few subsets of five.
EVENTS = 7


def summeval(row: Mapping[str, Any], dimension: str) -> dict[str, Any]:
    """Returns the summaries of an article, with the mean scores of the experts."""
    return {"id": row["doc_id"], "context": row["source"], "items": [own["summary"] for own in row["candidates"]],
            "human": [own["expert"][dimension] for own in row["candidates"]]}


def noveleval(row: Mapping[str, Any], dimension: str) -> dict[str, Any]:
    """Returns the passages for a query, with their relevance."""
    return {"id": row["query_id"], "context": row["query"], "items": [own["text"] for own in row["candidates"]],
            "human": [own["relevance"] for own in row["candidates"]]}


def caters(row: Mapping[str, Any], dimension: str) -> dict[str, Any] | None:
    """Returns the events of a story, with the pairs of which one happens before the other."""
    number = {own["id"]: i for i, own in enumerate(row["events"])}
    if len(number) < EVENTS:
        return None
    before = {(number[own["arg1"]], number[own["arg2"]]) for own in row["relations"]
              if own["type"].endswith("BEFORE")}
    return {"id": row["story_id"], "context": " ".join(row["sentences"]),
            "items": _distinct([own["text"] for own in row["events"]]), "human": sorted(map(list, before))}


def _distinct(texts: Sequence[str]) -> list[str]:
    """Numbers the mentions of events with the same text: "fell (mention 2 of 3)"."""
    total, seen = Counter(texts), Counter[str]()
    found = []
    for text in texts:
        seen[text] += 1
        found.append(text if total[text] == 1 else f"{text} (mention {seen[text]} of {total[text]})")
    return found


def reviews(rows: Iterable[Mapping[str, Any]], characters: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yields as many rows as there are reviews of every rating, with one of each, in an order that is drawn."""
    rng, by_rating = random.Random(seed), defaultdict[int, list[str]](list)
    for row in rows:
        if len(row["text"]) <= characters:
            by_rating[row["rating"]].append(row["text"])
    for number, texts in enumerate(zip(*(rng.sample(own, len(own)) for own in by_rating.values()), strict=False)):
        items = rng.sample(list(zip(texts, by_rating, strict=True)), len(texts))
        yield {"id": str(number), "items": [text for text, _ in items], "human": [rating for _, rating in items]}


def simulated(human: Sequence[Any], count: int, bias: float) -> dict[str, Any]:
    """Returns the matrices p and q `[N, N]` of a judge that knows the scores, or takes pairs in the order of items."""
    pairs = not human or isinstance(human[0], list)
    scores = np.array(range(count, 0, -1) if pairs else human, float)
    difference = scores[:, None] - scores
    return {name: (1 / (1 + np.exp(-bias - sign * difference))).tolist() for name, sign in (("p", 1), ("q", -1))}


KINDS = {"doc_id": summeval, "query_id": noveleval, "story_id": caters}


def chosen_rows(path: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the rows with enough items, without those to skip, and no more than are wanted."""
    rows = []
    for raw in read_raw(path):
        if isinstance(raw.row, str):
            raise SystemExit(f"{path}, line {raw.line}: {raw.row}")
        rows.append(raw.row)
    converted = reviews(rows, options.characters, options.seed) if rows and "rating" in rows[0] else (
        next(convert for key, convert in KINDS.items() if key in source)(source, options.dimension) for source in rows)
    last = None if options.documents is None else options.skip + options.documents
    yield from itertools.islice((row for row in converted if row is not None), options.skip, last)


def rows_of(path: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Converts the rows of a data set; with fewer items than a row has, those are drawn."""
    rng, cut = np.random.default_rng(options.seed), _cutter(options)
    for row in chosen_rows(path, options):
        if options.items is not None and len(row["items"]) > options.items:
            chosen = sorted(rng.permutation(len(row["items"]))[:options.items].tolist())
            place = {old: new for new, old in enumerate(chosen)}
            pairs = bool(row["human"]) and isinstance(row["human"][0], list)
            row["human"] = [[place[i], place[j]] for i, j in row["human"] if i in place and j in place] if pairs else [
                row["human"][i] for i in chosen]
            row["items"] = [row["items"][i] for i in chosen]
        if "context" in row:
            row["context"] = cut(row["context"])
        yield row if options.simulate is None else row | simulated(row["human"], len(row["items"]), options.simulate)


def _cutter(options: argparse.Namespace):
    if options.context_tokens is None:
        return lambda text: text
    from jaxllm.model import load

    tokenizer = load(options.model).tokenizer
    return lambda text: tokenizer.decode(tokenizer.encode(text)[:options.context_tokens]).strip()


def main(words: Sequence[str] | None = None) -> None:
    """Writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="file of the data set")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--dimension", default="coherence", help="scores of SummEval (coherence)")
    parser.add_argument("--documents", type=int, help="number of rows; all by default")
    parser.add_argument("--skip", type=int, default=0, help="rows that are passed over first (0)")
    parser.add_argument("--items", type=int, help="items of a row at most; all by default")
    parser.add_argument("--characters", type=int, default=300, help="reviews that are longer are left out (300)")
    parser.add_argument("--context_tokens", type=int, help="contexts are cut to this many tokens of --model")
    parser.add_argument("--model", default="smollm2", help="model with the tokenizer for --context_tokens (smollm2)")
    parser.add_argument("--simulate", type=float, metavar="B", help="add matrices of a judge with this position bias")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    rows = list(rows_of(options.source, options))
    write_jsonl(options.target, rows)
    print(f"{len(rows)} rows, {sum(len(row['items']) for row in rows)} items")


if __name__ == "__main__":
    main()
