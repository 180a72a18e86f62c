"""Writes paraphrases of the questions about the packaged documents, from the patterns of the invented world.

    python scripts/tiny_paraphrases.py [--documents 40] [--out jaxllm/assets/tiny/paraphrases.jsonl]

Rows are {context, question, answers} like those of documents.jsonl. A question is recognized by its pattern; its
paraphrase is the next pattern of the same relation, with the same entity.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from tiny_tables import FACTS

ASSETS = Path(__file__).resolve().parent.parent / "jaxllm" / "assets" / "tiny"


def paraphrase(question: str) -> str | None:
    """Returns the question in the next pattern of its relation; None where there is no other."""
    for relations in FACTS.values():
        for _, _, patterns in relations.values():
            for number, pattern in enumerate(patterns):
                before, after = map(re.escape, pattern.split("{e}"))
                if match := re.fullmatch(f"{before}(.+){after}", question):
                    other = patterns[(number + 1) % len(patterns)]
                    return None if other == pattern else other.format(e=match[1])
    raise ValueError(f"no pattern of the world matches {question!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ASSETS / "paraphrases.jsonl")
    options = parser.parse_args()
    rows = [json.loads(line) for line in (ASSETS / "documents.jsonl").read_text().splitlines()]
    first = list(dict.fromkeys(row["context"] for row in rows))[:options.documents]
    paraphrases = [row | {"question": other} for row in rows
            if row["context"] in first and (other := paraphrase(row["question"])) is not None]
    options.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in paraphrases))
    print(f"{len(paraphrases)} questions about {len(first)} documents in {options.out}")


if __name__ == "__main__":
    main()
