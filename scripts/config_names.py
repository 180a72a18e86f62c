"""Writes the names of config keys that jaxllm.models.families.unread consults, from the installed transformers.

    python scripts/config_names.py

    network_keys.txt       attributes of a config that the code of a model with a vocabulary reads
    generation_keys.txt    fields of `GenerationConfig`, which are in config.json of older checkpoints

Both are data of the package, so that a checkpoint is accepted or refused regardless of the version of transformers.
Names of earlier versions stay: the files only grow.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import transformers
from transformers import GenerationConfig

from jaxllm.models.families import unread

# `config.name`, `self.config.name`, `text_config.name`, but not a method and not the file config.json.
ATTRIBUTE = re.compile(r"\b\w*config\.(?!json\b)([a-z_]\w*)\b(?!\()")
GETATTR = re.compile(r"getattr\(\s*(?:self\.)?\w*config,\s*[\"'](\w+)[\"']")
# Fields of a config class, and keys that it converts to others.
FIELD = re.compile(r"^    ([a-z_]\w*): ", re.MULTILINE)
CONVERTED = re.compile(r"kwargs\.(?:pop|get)\(\s*[\"'](\w+)[\"']")
# The config of RAG's retriever names data sets; a seed is a note of a training run.
SKIPPED_MODELS, SKIPPED_NAMES = ("rag",), {"else", "seed"}


def network_keys() -> set[str]:
    """Returns the names that models with a vocabulary read: an image model has nothing to add to a text model."""
    names: set[str] = set()
    for folder in sorted((Path(transformers.__file__).parent / "models").iterdir()):
        configs = [file.read_text() for file in folder.glob("configuration_*.py")]
        if folder.name in SKIPPED_MODELS or not any("vocab_size" in text for text in configs):
            continue
        for text in configs:
            names.update(FIELD.findall(text), CONVERTED.findall(text))
        for file in folder.glob("modeling_*.py"):
            text = file.read_text()
            names.update(ATTRIBUTE.findall(text), GETATTR.findall(text))
    return names - SKIPPED_NAMES


def write(file: Path, names: set[str]) -> None:
    """Adds names to a file; those that are passed over by their spelling are left out."""
    kept = {name for name in names | unread.read_names(file) if not unread.HARMLESS.search(name)}
    file.write_text("\n".join(textwrap.wrap(" ".join(sorted(kept)), 118)) + "\n")
    print(f"{file.name}: {len(kept)} names")


if __name__ == "__main__":
    write(unread.GENERATION_KEYS, set(GenerationConfig().to_dict()))
    write(unread.NETWORK_KEYS, network_keys() - unread.read_names(unread.GENERATION_KEYS))
