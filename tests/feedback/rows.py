"""Files of pairs and scores for the tests of `jaxllm.feedback`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.cli import main

VANILLA = [f"{name}/Vanilla" for name in ("GPT-4", "ChatGPT", "ChatGPT-0301", "LLaMA2", "PaLM2", "Falcon")]
C6, C8 = VANILLA, [*VANILLA, "GPT-4/Metrics_Reference", "ChatGPT/Metrics_Reference"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "prompt": f"Question {number}?", "chosen": f"good answer {number}",
            "rejected": f"bad reply {number} here", **more}


def pairs(count: int) -> list[dict[str, Any]]:
    return [pair(number) for number in range(count)]


def wide(scores: np.ndarray, names: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of scores `[N, M, 2]`, NaN as null."""
    names = names or [f"m{number}" for number in range(scores.shape[1])]
    plain = lambda value: None if np.isnan(value) else float(value)
    return [{"id": f"r{number}", "scores": {name: [plain(one) for one in both] for name, both in zip(names, own,
                                                                                                   strict=True)}}
            for number, own in enumerate(scores)]


def run(verb: str, out: Path, expected: int = 0, **keys: Any) -> dict[str, Any]:
    """Runs a verb; returns its result.json."""
    arguments = [f"--{name.replace('__', '.')}={value}" for name, value in keys.items()]
    assert main([verb, f"--out={out}", *arguments]) == expected
    return json.loads((out / "result.json").read_text()) if expected == 0 else {}


def audit(folder: Path, rows: list[dict[str, Any]], scores: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """Audits rows with given scores, in the folder `audit`."""
    return run("audit", folder / "audit", data__path=write(folder / "rows.jsonl", rows),
               committee__scores=write(folder / "scores.jsonl", scores), **keys)


def clean(folder: Path, method: str, name: str | None = None, **keys: Any) -> dict[str, Any]:
    """Cleans what `audit` audited."""
    return run("clean", folder / (name or method), method=method, data__path=folder / "rows.jsonl",
               audit=folder / "audit", **keys)


def llmbar(shared: Path, members: list[str], noise: bool = False, both_orders: bool = False, subset: str | None = None
           ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows, votes and truth of the LLMBar committee; with noise a fifth of the labels, by a hash, is exchanged."""
    rows, votes, truth = [], [], []
    for row in read(shared / "preferences" / "llmbar_committee.jsonl"):
        if subset is not None and row["subset"] != subset:
            continue
        flipped = noise and int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) % 5 == 0
        label = 3 - row["label"] if flipped else row["label"]
        prompt = row["prompt"] if isinstance(row["prompt"], str) else json.dumps(row["prompt"])
        rows.append({"id": row["id"], "prompt": prompt, "chosen": row[f"response_{label}"],
                     "rejected": row[f"response_{3 - label}"]})
        truth.append({"id": row["id"], "flipped": flipped})
        vote = lambda own, label=label: 0 if own == 0 else 1 if own == label else -1
        for name in members:
            own = {"id": row["id"], "member": name, "vote": vote(row["votes"][name][0])}
            votes.append(own | ({"vote_swapped": vote(row["votes"][name][1])} if both_orders else {}))
    return rows, votes, truth
