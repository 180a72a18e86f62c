"""Where an injection's adapter comes from: kept beside it, and read again to take a document out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxllm
from jaxllm.errors import UserError
from jaxllm.models.peft import PROVENANCE
from jaxllm.models.tensors import fingerprint, model_directory, read_json
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document
from jaxllm.self_param.streams import Streams

# Enough of a document's text to know it again.
BEGINNING = 80


def digest(text: str) -> str:
    """SHA-256 of a text, in hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """The provenance of an adapter that wrote one document.

    Raises:
        UserError: there is none, or another.
    """
    found = read_json(folder / PROVENANCE)
    documents = found.get("documents")
    if not (isinstance(documents, list) and len(documents) == 1 and isinstance(documents[0], dict)
            and isinstance(documents[0].get("document"), int) and isinstance(documents[0].get("sha256"), str)):
        raise UserError("does not tell of one document", folder / PROVENANCE, "take this adapter out of the folder")
    return found


def provenance(config: Config, documents: Sequence[Document], streams: Sequence[Sequence[Streams]],
               group: Sequence[int], arm: str) -> dict[str, Any]:
    """What an injection wrote, from what, and into which model.

    Args:
        config: of the job.
        documents: all of the job.
        streams: their targets.
        group: numbers of the documents that the injection wrote, from 0.
        arm: what was run, by its name in the results.
    """
    targets = [[list(target.student) for target in one.questions] for number in group for one in streams[number]]
    return {
        "documents": [{"document": number, "sha256": digest(documents[number].text),
                       "begins": documents[number].text[:BEGINNING]} for number in group],
        "setting": config.setting, "arm": arm, "seed": config.seed, "model": config.model,
        "model_fingerprint": fingerprint(model_directory(config.model)),
        "targets_sha256": digest(json.dumps(targets)), "jaxllm": jaxllm.__version__}
