"""Programs with labels, recorded answers to them, and runs of `jaxllm judge` on both."""

from __future__ import annotations

import json

from jaxllm.cli import main
from jaxllm.files import read_jsonl, write_jsonl

LABELS = {"a": (1, 0), "b": (1, 0), "c": (0, 0), "d": (1, 1)}


def programs(**extra):
    return [{"id": f"{group}{number}", "task": f"Do {group}.", "candidate": f"    total = {number}\n    return total\n",
             "declaration": "def f():\n", "reference": "    return 0\n", "language": ("python", "go")[number],
             "label": label, "group": group, **extra}
            for group, labels in LABELS.items() for number, label in enumerate(labels)]


def right(row):
    """The answer of a judge that is right in all but one case."""
    return bool(row["label"]) != (row["id"] == "d1")


class Files:
    """Rows and recorded answers in a directory, and runs on them."""

    def __init__(self, folder):
        self.folder, self.runs = folder, 0

    def run(self, answers, *options, rows=None, out=None):
        self.runs += 1
        write_jsonl(self.folder / "rows.jsonl", programs() if rows is None else rows)
        write_jsonl(self.folder / "answers.jsonl", answers)
        self.out = self.folder / (out or f"out{self.runs}")
        self.status = main(["judge", "--data.path", str(self.folder / "rows.jsonl"), "--judge.kind", "recorded",
                            "--judge.path", str(self.folder / "answers.jsonl"), "--out", str(self.out), *options])
        if not (self.out / "result.json").is_file():
            return None, None
        return json.loads((self.out / "result.json").read_text()), read_jsonl(self.out / "rows.jsonl")


def recorded(step, text, **extra):
    return [{"id": f"{row['id']}/{step}", "texts": text(row) if isinstance(text(row), list) else [text(row)], **extra}
            for row in programs()]


def direct(**extra):
    return recorded("direct", lambda row: "Yes" if right(row) else "No", **extra)
