"""`jaxllm demo`: injects a few packaged documents into a small model, which then answers without them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxllm.assets import asset_path
from jaxllm.compile_cache import enable_compile_cache
from jaxllm.config import check, check_seed
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.parsing import parse
from jaxllm.self_param import job

# Settings of each model's demonstration.
SETTINGS = {"tiny": "self_param_tiny.yaml", "smollm2": "self_param_smollm2.yaml"}


@dataclass(frozen=True)
class Config:
    """A short run of `jaxllm inject` on texts that the model was not trained on.

    Args:
        out: directory for the results.
        model: tiny: the packaged model and documents of its world; smollm2: SmolLM2-135M-Instruct, which `make models`
            fetches, and passages about real places.
        documents: number of documents; smollm2 has three.
        seed: seed of all random draws.
    """

    out: Path = Path("runs/demo")
    model: Literal["tiny", "smollm2"] = "tiny"
    documents: int = 3
    seed: int = 0

    def __post_init__(self):
        check(self.documents >= 1, "documents", f"must be 1 or more, got {self.documents}")
        check_seed(self.seed)


def run(config: Config) -> Path:
    """Runs the job and prints a summary; returns the path of result.json."""
    settings = asset_path(SETTINGS[config.model])
    inject = parse(job.Config, [
        f"--config={settings}", f"--out={config.out}", f"--documents={config.documents}", f"--seed={config.seed}"])
    enable_compile_cache()
    result_path = job.run(inject)
    assert result_path is not None  # only a dry run leaves no result
    print(describe(result_path))
    return result_path


def describe(result_path: Path) -> str:
    """Summarizes a finished run in six lines: an example, then the means."""
    result = json.loads(result_path.read_text())
    rows = read_jsonl(result_path.parent / "rows.jsonl")
    learned = [row for row in rows if row["self_param"]["f1"] > row["closed_book"]["f1"]] or rows
    if not learned:
        raise UserError("the run has no rows", result_path.parent)
    row, mean = learned[0], lambda metric, method: result[metric][method]["mean"]
    baseline = "finetune" in result["f1"]
    return "\n".join([
        f"Question: {row['question']}  (reference: {row['answers'][0]})",
        f"Answers: closed-book '{row['closed_book']['text']}', open-book '{row['open_book']['text']}', "
        f"after injection (closed-book) '{row['self_param']['text']}'.",
        f"Mean F1 over {result['questions']} questions on {result['documents']} "
        f"document{'s' * (result['documents'] != 1)}: closed-book "
        f"{mean('f1', 'closed_book'):.2f}, open-book {mean('f1', 'open_book'):.2f}, injected "
        f"{mean('f1', 'self_param'):.2f}" + (f", plain fine-tuning {mean('f1', 'finetune'):.2f}." if baseline else "."),
        f"Drift on unrelated text: {mean('drift_kl', 'self_param'):.3f} nats per token"
        + (f" (plain fine-tuning: {mean('drift_kl', 'finetune'):.3f})." if baseline else "."),
        f"Answers that contain a reference: closed-book {mean('accuracy', 'closed_book'):.2f}, open-book "
        f"{mean('accuracy', 'open_book'):.2f}, injected {mean('accuracy', 'self_param'):.2f}. What the model cannot "
        "read out of the document (open-book) it cannot learn.",
        f"Report: {result_path.parent / 'report.html'}. The same directory has all answers (rows.jsonl), the adapters "
        f"(adapters/) and the numbers (result.json)."])
