"""Provenance of an adapter: which documents it holds, of which run and model."""

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
from jaxllm.self_param.config import Config, Method
from jaxllm.self_param.data import Document

# Characters of a document's text that are stored, to recognize it.
EXCERPT = 80


def digest(text: str) -> str:
    """Computes the SHA-256 of a text, in hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """Reads the provenance of an adapter that holds one document.

    Raises:
        UserError: there is none, or it is of another form.
    """
    content = read_json(folder / PROVENANCE)
    documents = content.get("documents")
    if not (isinstance(documents, list) and len(documents) == 1 and isinstance(documents[0], dict)
            and isinstance(documents[0].get("document"), int) and isinstance(documents[0].get("sha256"), str)):
        raise UserError("does not name one document", folder / PROVENANCE, "move this adapter out of the folder")
    return content


def provenance(config: Config, documents: Sequence[Document], group: Sequence[int],
               targets: Sequence[Sequence[Sequence[int]]], method: Method) -> dict[str, Any]:
    """Describes an injection.

    Args:
        config: settings of the run.
        documents: all documents of the run.
        group: indices of the injected documents.
        targets: ids of their QA targets.
        method: method that trained the adapter.
    """
    return {
        "documents": [{"document": number, "sha256": digest(documents[number].text),
                       "begins": documents[number].text[:EXCERPT]} for number in group],
        "setting": config.setting, "method": method, "seed": config.seed, "model": config.model,
        "model_fingerprint": fingerprint(model_directory(config.model)),
        "targets_sha256": digest(json.dumps(targets)), "jaxllm": jaxllm.__version__}
