"""`jaxllm inject --remove`: takes a document out of a model again, and measures what that changes."""

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
from jaxllm.models import merge
from jaxllm.models.network import Params
from jaxllm.models.peft import PROVENANCE, adapter_folders, load_adapters
from jaxllm.models.tensors import fingerprint, model_directory, read_json
from jaxllm.self_param import job
from jaxllm.self_param.documents import Document, group, sort_out
from jaxllm.self_param.evaluation import ask, mean_f1
from jaxllm.self_param.inputs import ROW
from jaxllm.self_param.provenance import digest
from jaxllm.text.model import Model, load
from jaxllm.text.rows import read_rows


@dataclass(frozen=True)
class Config:
    """Takes a document out of a model that documents were written into one after the other.

    The model of such a run is the base model plus the sum of the run's adapters. That of the document moves from
    adapters/ to removed/; moved back by hand it is in again. All questions of the run are asked before and after.

    Args:
        out: directory of the finished run.
        remove: the document: its number, from 0, or how its text begins.
    """

    out: Path
    remove: str


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
        folder = find(home / "adapters", config.remove)
        number = read_json(folder / PROVENANCE)["documents"][0]["document"]
        if fingerprint(model_directory(earlier.model)) != read_json(folder / PROVENANCE)["model_fingerprint"]:
            raise UserError("the model changed since the run", earlier.model, "put the old one back")
        documents = _documents(earlier, home)
        model = load(earlier.model, earlier.device.param_dtype, None, earlier.device.quantise)
        left = [one for one in adapter_folders(home / "adapters") if one != folder]
        scores = {name: _scores(earlier, _with(model, folders), documents)
                  for name, folders in (("base", []), ("with", [*left, folder]), ("without", left))}
        others = [i for i in _numbers(left) if i != number]
        mean = lambda values, which: float(np.mean([values[i] for i in which])) if which else None
        told = {"removed": number, "left": others, "f1": scores,
                "f1_removed": {name: values[number] for name, values in scores.items()},
                "f1_left": {name: mean(values, others) for name, values in scores.items()}}
        aside = home / "removed" / folder.name
        aside.parent.mkdir(exist_ok=True)
        path = aside.with_suffix(".json")
        write_atomic(path, json.dumps(plain(told), indent=2) + "\n")
        os.rename(folder, aside)
    print(describe(told, documents[number]))
    return path


def find(adapters: Path, document: str) -> Path:
    """The adapter that wrote a document.

    Raises:
        UserError: none did, or several.
    """
    known = {folder: read_json(folder / PROVENANCE)["documents"] for folder in adapter_folders(adapters)
             if (folder / PROVENANCE).is_file()}
    by_number = [folder for folder, (one,) in known.items() if document == str(one["document"])]
    by_text = [folder for folder, (one,) in known.items() if document and one["begins"].startswith(document)]
    found = by_number or by_text
    if len(found) != 1:
        listed = "\n".join(f"  {one['document']}: {one['begins']}" for (one,) in known.values())
        raise UserError(f"{len(found) or 'no'} documents in the model are meant by {document!r}; it has\n{listed}",
                        "remove", "give a number of this list, or more of the text's beginning")
    return found[0]


def describe(told: dict[str, Any], document: Document) -> str:
    """What was measured, in words."""
    line = lambda name, scores: f"  {name:<26}" + "  ".join(
        f"{arm} {'-' if value is None else f'{value:.3f}'}" for arm, value in scores.items())
    return "\n".join([f"removed document {told['removed']}: {document.text[:60]!r}; mean token F1",
                      line("about it", told["f1_removed"]),
                      line(f"about the {len(told['left'])} left", told["f1_left"])])


def _documents(config: job.Config, home: Path) -> Sequence[Document]:
    """The run's documents, read again.

    Raises:
        UserError: the data are not those of the run.
    """
    found = read_rows(config.data.path, ROW, None, config.data.limit_bad, None, config.data.limit)
    documents = group(sort_out(found, config.data.path)[0])[:config.documents]
    texts = {number: digest(document.text) for number, document in enumerate(documents)}
    for folder in adapter_folders(home / "adapters"):
        for one in read_json(folder / PROVENANCE)["documents"]:
            if texts.get(one["document"]) != one["sha256"]:
                raise UserError(f"document {one['document']} is not the one that was written", config.data.path,
                                "put the old data back")
    return documents


def _numbers(folders: Sequence[Path]) -> list[int]:
    return [one["document"] for folder in folders for one in read_json(folder / PROVENANCE)["documents"]]


def _with(model: Model, folders: Sequence[Path]) -> Model:
    params: Params = model.params
    for folder in folders:
        params = merge(params, load_adapters(folder, model.spec))
    return dataclasses.replace(model, params=params)


def _scores(config: job.Config, model: Model, documents: Sequence[Document]) -> list[float]:
    """Mean F1 by document of a model that reads nothing."""
    answers = ask(model, documents, config.format, config.sampling, reading=False, dtype=config.device.compute_dtype,
                  seed=config.seed)
    return [mean_f1(own) for own in answers]
