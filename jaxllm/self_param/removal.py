"""`jaxllm remove`: removes a document from the model of a sequential inject run, and measures the effect."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.compile_cache import enable_compile_cache
from jaxllm.errors import UserError
from jaxllm.evaluate.qa import score_answer
from jaxllm.files import expanded, plain, write_atomic
from jaxllm.generate import Generator
from jaxllm.job import open_job
from jaxllm.models.peft import adapter_folders, load_adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.parsing import from_yaml
from jaxllm.self_param import job, provenance
from jaxllm.self_param.data import Document, read_documents
from jaxllm.self_param.evaluation import answer_questions
from jaxllm.self_param.prompts import Prompts


@dataclass(frozen=True)
class Config:
    """Removes a document from the model of a sequential inject run.

    The model of such a run is the base model plus the sum of the adapters in adapters/. The document's adapter moves to
    removed/; moved back it is part of the model again. All test questions of the run are answered with and without it.

    What later adapters learned about the document stays: mixture.rehearsal and replay revisit it, and pairs.jsonl and
    records.jsonl contain questions about it. result.json and report.html keep describing the original run.

    Args:
        out: directory of the finished run.
        document: number of the document, from 0, or the first characters of its text.
    """

    out: Path
    document: str


def run(config: Config) -> Path:
    """Runs the job; returns the path of the measured scores."""
    home = expanded(config.out)
    if not (home / "result.json").is_file():
        raise UserError("there is no finished run in this directory", home, "give --out DIR of one")
    earlier = dataclasses.replace(from_yaml(job.Config, home / "config.yaml"), out=home)
    if earlier.setting != "sequential":
        raise UserError(f"the run has setting {earlier.setting}; only sequential injection keeps one adapter per "
                        "document in one model", home)
    if earlier.device.compile_cache:
        enable_compile_cache()
    with open_job(home, earlier, "inject"):
        numbers = {folder: provenance.read(folder)["documents"][0]["document"]
                   for folder in adapter_folders(home / "adapters")}
        documents = _documents(earlier, list(numbers))
        folder = find_adapter(numbers, documents, config.document)
        target = home / "removed" / folder.name
        if target.exists():
            raise UserError(f"document was already removed; its adapter is in removed/{folder.name}", target,
                            "remove or rename that directory")
        scores = _measure(earlier, documents, numbers, folder)
        target.parent.mkdir(exist_ok=True)
        path = target.with_suffix(".json")
        write_atomic(path, json.dumps(plain(scores), indent=2) + "\n")
        os.rename(folder, target)
    print(describe(scores, documents[scores["removed"]]))
    return path


def find_adapter(numbers: dict[Path, int], documents: Sequence[Document], wanted: str) -> Path:
    """Finds the adapter of a document.

    Args:
        numbers: adapter folder -> number of its document, for all adapters of the model.
        documents: all documents of the run.
        wanted: number of a document, or the first characters of its text.

    Raises:
        UserError: no document matches, or several do.
    """
    by_number = [folder for folder, number in numbers.items() if wanted == str(number)]
    by_text = [folder for folder, number in numbers.items() if wanted and documents[number].text.startswith(wanted)]
    matches = by_number or by_text
    if len(matches) != 1:
        listed = "".join(f"\n  {number}: {documents[number].text[:provenance.EXCERPT]!r}"
                         for number in numbers.values())
        raise UserError(f"{wanted!r} matches {len(matches) or 'no'} injected document{'s' if matches else ''}; the "
                        f"model contains{listed}", "document", "give a number of this list")
    return matches[0]


def describe(scores: dict[str, Any], document: Document) -> str:
    """Summarizes the measured scores in three lines."""
    line = lambda name, values: f"  {name:<26}" + "  ".join(
        f"{variant} {'-' if value is None else f'{value:.3f}'}" for variant, value in values.items())
    return "\n".join([f"removed document {scores['removed']}: {document.text[:60]!r}; mean token F1",
                      line("on this document", scores["f1_removed"]),
                      line(f"on the {len(scores['left'])} others", scores["f1_left"])])


def _documents(config: job.Config, folders: Sequence[Path]) -> Sequence[Document]:
    """Reads the documents of the run again.

    Raises:
        UserError: the data or the model changed since the run.
    """
    documents = read_documents(config)
    model = fingerprint(model_directory(config.model))
    for folder in folders:
        content = provenance.read(folder)
        if content.get("model_fingerprint") != model:
            raise UserError("the model changed since the run", config.model, "restore the old one")
        number, digest = content["documents"][0]["document"], content["documents"][0]["sha256"]
        if number >= len(documents) or provenance.digest(documents[number].text) != digest:
            raise UserError(f"document {number} is not the injected one", config.data.path, "restore the old data")
    return documents


def _measure(config: job.Config, documents: Sequence[Document], numbers: dict[Path, int], folder: Path
             ) -> dict[str, Any]:
    """Measures F1 of the base model, of the model with all adapters, and of that without one."""
    mesh = job.training_mesh(config)
    generator = Generator(job.load_model(config, mesh), dtype=config.device.compute_dtype, mesh=mesh,
                          batch_size=config.generation_batch_size, donate=True)
    others = [own for own in numbers if own != folder]
    scores = {name: _scores(config, generator, folders, documents)
              for name, folders in (("base", []), ("with", list(numbers)), ("without", others))}
    left = [numbers[own] for own in others]
    mean = lambda values: float(np.mean([values[i] for i in left])) if left else None
    return {"removed": numbers[folder], "left": left, "f1": scores,
            "f1_removed": {name: values[numbers[folder]] for name, values in scores.items()},
            "f1_left": {name: mean(values) for name, values in scores.items()}}


def _scores(config: job.Config, base: Generator, folders: Sequence[Path], documents: Sequence[Document]) -> list[float]:
    """Measures the closed-book F1 by document with some adapters merged, in the order of the run."""
    generator = base
    for folder in folders:
        generator = generator.merged(load_adapter(folder, base.model.spec), donate=generator is not base)
    questions = [(None, pair.question) for document in documents for pair in document.questions]
    prompts = Prompts(base.model, config.format)
    answers = iter(answer_questions(generator, prompts, questions, config.sampling, seed=config.seed))
    return [float(np.mean([score_answer(next(answers), pair.answers).f1 for pair in document.questions]))
            for document in documents]
