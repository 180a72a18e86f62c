"""`jaxllm demo`: the packaged model reads a few documents, learns them, and answers without them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jaxllm.assets import asset_path
from jaxllm.config import check, check_seed, parse
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.self_param import job


@dataclass(frozen=True)
class Config:
    """A short run of `jaxllm inject` on the packaged model and documents that it has never seen.

    Args:
        out: directory for the results.
        documents: how many documents.
        seed: of everything that is drawn.
    """

    out: Path = Path("runs/demo")
    documents: int = 3
    seed: int = 0

    def __post_init__(self):
        check(self.documents >= 1, "documents", f"must be 1 or more, got {self.documents}")
        check_seed(self.seed)


def run(config: Config) -> Path:
    """Runs the job, says in five lines what happened; returns the path of its result.json."""
    recipe = asset_path("self_param_tiny.yaml")
    result_path = job.run(parse(job.Config, [
        f"--config={recipe}", f"--out={config.out}", f"--documents={config.documents}", f"--seed={config.seed}"]))
    print(describe(result_path))
    return result_path


def describe(result_path: Path) -> str:
    """Five lines about a finished run: an example first, then the means."""
    result = json.loads(result_path.read_text())
    rows = read_jsonl(result_path.parent / "rows.jsonl")
    learned = [row for row in rows if row["after"]["f1"] > row["before"]["f1"]] or rows
    if not learned:
        raise UserError("the run has no rows", result_path.parent)
    row, mean = learned[0], lambda name: result[name]["mean"]
    return "\n".join([
        f"Asked: {row['question']}  (right: {row['answers'][0]})",
        f"Before reading it said '{row['before']['text']}', with the document before it "
        f"'{row['with_document']['text']}', after injection, without the document, '{row['after']['text']}'.",
        f"Over {result['documents']} documents, {result['questions']} questions, mean F1: before "
        f"{mean('f1_before'):.2f}, with the document {mean('f1_with_document'):.2f}, injected "
        f"{mean('f1_after'):.2f}, plain fine-tuning {mean('f1_finetune'):.2f}.",
        f"On unrelated text the model moved by {mean('drift_kl'):.3f} nats per token "
        f"(plain fine-tuning: {mean('drift_kl_finetune'):.3f}).",
        f"To look at: {result_path.parent / 'report.html'}. Beside it are all answers (rows.jsonl), the adapters "
        f"(adapters/) and the numbers (result.json)."])
