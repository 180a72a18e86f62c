"""`jaxllm remove`: takes a document out of a model again, and measures what that changes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import from_yaml
from jaxllm.errors import UserError
from jaxllm.files import plain, write_atomic
from jaxllm.job import open_job
from jaxllm.model import Model, load
from jaxllm.models import merge_adapter
from jaxllm.models.mesh import model_shardings
from jaxllm.models.peft import adapter_folders, load_adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.self_param import job, provenance
from jaxllm.self_param.documents import Document, group, sort_out
from jaxllm.self_param.evaluation import ask, mean_f1
from jaxllm.self_param.inputs import ROW
from jaxllm.text.rows import read_rows


@dataclass(frozen=True)
class Config:
    """Takes a document out of a model that documents were written into one after the other.

    The model of such a run is the base model plus the sum of the run's adapters. That of the document moves from
    adapters/ to removed/; moved back it is in again. All questions of the run are asked before and after.

    What later adapters learned of the document stays: with mixture.recall or replay they rehearsed it, and pairs.jsonl
    and recall.jsonl hold questions about it. result.json and report.html go on describing the run as it was.

    Args:
        out: directory of the finished run.
        document: number of the document, from 0, or the first characters of its text.
    """

    out: Path
    document: str


def run(config: Config) -> Path:
    """Runs the job; returns the path of what it measured."""
    home = Path(config.out).expanduser()
    if not (home / "result.json").is_file():
        raise UserError("there is no finished run in this directory", home, "give --out DIR of one")
    earlier = dataclasses.replace(from_yaml(job.Config, home / "config.yaml"), out=home)
    if earlier.setting != "sequential":
        raise UserError("only of documents written one after the other can one be taken out: those of the setting "
                        "single have a model each, those of batch share an adapter", home)
    with open_job(home, earlier):
        numbers = {folder: provenance.read(folder)["documents"][0]["document"]
                   for folder in adapter_folders(home / "adapters")}
        documents = _documents(earlier, list(numbers))
        folder = find(numbers, documents, config.document)
        aside = home / "removed" / folder.name
        if aside.exists():
            raise UserError("was taken out before, and stands there still", aside, "remove or rename that directory")
        told = _measured(earlier, documents, numbers, folder)
        aside.parent.mkdir(exist_ok=True)
        path = aside.with_suffix(".json")
        write_atomic(path, json.dumps(plain(told), indent=2) + "\n")
        os.rename(folder, aside)
    print(describe(told, documents[told["removed"]]))
    return path


def find(numbers: dict[Path, int], documents: Sequence[Document], wanted: str) -> Path:
    """The adapter that wrote a document.

    Args:
        numbers: of the documents in the model, by their adapters.
        documents: all of the run.
        wanted: a number, or how a text begins.

    Raises:
        UserError: no document is meant, or several are.
    """
    by_number = [folder for folder, number in numbers.items() if wanted == str(number)]
    by_text = [folder for folder, number in numbers.items() if wanted and documents[number].text.startswith(wanted)]
    found = by_number or by_text
    if len(found) != 1:
        listed = "".join(f"\n  {number}: {documents[number].text[:provenance.BEGINNING]}"
                         for number in numbers.values())
        raise UserError(f"{len(found) or 'no'} documents in the model are meant by {wanted!r}; it has{listed}",
                        "document", "give a number of this list")
    return found[0]


def describe(told: dict[str, Any], document: Document) -> str:
    """What was measured, in words."""
    line = lambda name, scores: f"  {name:<26}" + "  ".join(
        f"{arm} {'-' if value is None else f'{value:.3f}'}" for arm, value in scores.items())
    return "\n".join([f"removed document {told['removed']}: {document.text[:60]!r}; mean token F1",
                      line("about it", told["f1_removed"]),
                      line(f"about the {len(told['left'])} left", told["f1_left"])])


def _documents(config: job.Config, folders: Sequence[Path]) -> Sequence[Document]:
    """The run's documents, read again.

    Raises:
        UserError: data or model are not those of the run.
    """
    found = read_rows(config.data.path, ROW, None, config.data.limit_bad, None, config.data.limit)
    documents = group(sort_out(found, config.data.path)[0])[:config.documents]
    model = fingerprint(model_directory(config.model))
    for folder in folders:
        known = provenance.read(folder)
        if known.get("model_fingerprint") != model:
            raise UserError("the model changed since the run", config.model, "put the old one back")
        number, wanted = known["documents"][0]["document"], known["documents"][0]["sha256"]
        if number >= len(documents) or provenance.digest(documents[number].text) != wanted:
            raise UserError(f"document {number} is not the one that was written", config.data.path,
                            "put the old data back")
    return documents


def _measured(config: job.Config, documents: Sequence[Document], numbers: dict[Path, int], folder: Path
              ) -> dict[str, Any]:
    """F1 of the base model, of all adapters, and of all but one."""
    mesh = job.open_mesh(config)
    model = load(config.model, config.device.param_dtype, lambda spec: model_shardings(spec, mesh),
                 config.device.quantize)
    rest = [one for one in numbers if one != folder]
    scores = {name: _scores(config, _with(model, folders), documents)
              for name, folders in (("base", []), ("with", list(numbers)), ("without", rest))}
    left = [numbers[one] for one in rest]
    mean = lambda values: float(np.mean([values[i] for i in left])) if left else None
    return {"removed": numbers[folder], "left": left, "f1": scores,
            "f1_removed": {name: values[numbers[folder]] for name, values in scores.items()},
            "f1_left": {name: mean(values) for name, values in scores.items()}}


def _with(model: Model, folders: Sequence[Path]) -> Model:
    """The model with adapters merged in the order in which the run did."""
    params = model.params
    for folder in folders:
        params = merge_adapter(params, load_adapter(folder, model.spec))
    return dataclasses.replace(model, params=params)


def _scores(config: job.Config, model: Model, documents: Sequence[Document]) -> list[float]:
    """Mean F1 by document of a model that reads nothing."""
    answers = ask(model, documents, config.format, config.sampling, reading=False, dtype=config.device.compute_dtype,
                  seed=config.seed)
    return [mean_f1(own) for own in answers]
