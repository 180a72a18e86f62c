"""Writing of checkpoint directories: tensors under their Hugging Face names, config, tokenizer."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxllm.directories import new_directory
from jaxllm.errors import UserError
from jaxllm.files import write_atomic
from jaxllm.models import native
from jaxllm.models.families import TensorMap, tensor_maps, write_config
from jaxllm.models.families.table import fuse
from jaxllm.models.gguf.header import is_gguf
from jaxllm.models.gguf.tokenizer import has_tokenizer, tokenizer_files
from jaxllm.models.matching import lookup, names_of
from jaxllm.models.params import Params
from jaxllm.models.quantized import scheme_of
from jaxllm.models.spec import ModelSpec
from jaxllm.models.tensors import INDEX, model_directory, read_json, save_tensors

# Files and folders of tokenizers, those of older versions and other libraries too, and generation settings.
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json", "chat_template*",
                   "additional_chat_templates", "*.jinja", "*.model", "*.spm", "*.tiktoken", "tekken.json", "bpe.codes",
                   "generation_config.json")
# Files that are written anew: weights, their index and config, and what `convert` adds.
REPLACED_FILES = ("*.safetensors", INDEX, "config.json", native.FOLDER, native.ABOUT, "config.yaml", "result.json")
Layout = Literal["hf", "orbax"]
MAX_SHARD_BYTES = 5 * 2**30


def save_model(path: str | Path, spec: ModelSpec, params: Params, tokenizer_source: str | Path | None = None,
               max_shard_bytes: int = MAX_SHARD_BYTES, layout: Layout = "hf") -> Path:
    """Writes a checkpoint directory, which appears whole or not at all.

    Args:
        path: must not exist yet, or be empty.
        spec, params: the network; layers stacked.
        tokenizer_source: checkpoint from which tokenizer and generation settings are copied; from a GGUF file the
            tokenizer is built.
        max_shard_bytes: a larger checkpoint becomes several files and an index.
        layout: `hf` is safetensors that torch transformers loads; `orbax` also holds quantized matrices.

    Returns:
        `path`.

    Raises:
        UserError: the directory holds something, or quantized weights are to be written as `hf`.
    """
    with new_directory(path) as target:
        write_model(target, spec, params, tokenizer_source, max_shard_bytes, layout)
    return Path(path)


def write_model(target: Path, spec: ModelSpec, params: Params, tokenizer_source: str | Path | None,
                max_shard_bytes: int = MAX_SHARD_BYTES, layout: Layout = "hf") -> list[str]:
    """Writes a checkpoint's files into an existing directory; see `save_model`.

    Returns:
        Names of the files and folders of `tokenizer_source` that have no counterpart.
    """
    if layout == "orbax":
        native.save(target, spec, params)
    elif scheme_of(params) is not None:
        raise UserError("quantized weights have no place in the hub's layout", fix="write them in Orbax's, or "
                        "dequantize them")
    else:
        _write_shards(target, spec, params, max_shard_bytes)
    dtype = str(params["embed"].dtype)
    write_atomic(target / "config.json", json.dumps(write_config(spec, dtype), indent=2) + "\n")
    if tokenizer_source is None:
        return []
    source = model_directory(tokenizer_source)
    if is_gguf(source):
        files = tokenizer_files(source) if has_tokenizer(source) else {}
        for name, content in files.items():
            (target / name).parent.mkdir(exist_ok=True)
            write_atomic(target / name, content)
        _set_padding(target, spec)
        return []
    left = []
    for file in sorted(source.iterdir()):
        if _matches(file.name, TOKENIZER_FILES):
            _copy(file, target / file.name)
        elif not _matches(file.name, (*REPLACED_FILES, ".*")):
            left.append(file.name + "/" * file.is_dir())
    _set_padding(target, spec)
    return left


def _copy(source: Path, target: Path) -> None:
    """Copies a file or a folder; raises a `UserError` for the first file that cannot be read."""
    if source.is_dir():
        target.mkdir()
        for file in sorted(source.iterdir()):
            _copy(file, target / file.name)
        return
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be copied: {error.strerror}", source, "fetch the file again, or remove it") from None
    target.write_bytes(content)


def _set_padding(target: Path, spec: ModelSpec) -> None:
    """Makes the tokenizer pad with the padding token by which torch finds the end of a text, the config's."""
    if spec.head is None or not spec.head.before_padding or not (target / "tokenizer.json").is_file():
        return
    added = {token["id"]: token["content"] for token in read_json(target / "tokenizer.json").get("added_tokens", ())}
    padding = added.get(spec.pad_id)
    for file in (target / "tokenizer_config.json", target / "special_tokens_map.json"):
        if padding is None or not file.is_file():
            continue
        settings = read_json(file)
        present = settings.get("pad_token")
        if padding != (present.get("content") if isinstance(present, dict) else present):
            write_atomic(file, json.dumps(settings | {"pad_token": padding}, indent=2, ensure_ascii=False) + "\n")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _write_shards(target: Path, spec: ModelSpec, params: Params, limit: int) -> None:
    """Writes safetensors files of at most `limit` bytes, one in host memory at a time, and their index."""
    shards, total = [[]], 0
    for tensor in _exports(spec, params):
        if shards[-1] and sum(export.nbytes for export in shards[-1]) + tensor.nbytes > limit:
            shards.append([])
        shards[-1].append(tensor)
        total += tensor.nbytes
    count = len(shards)
    files = (["model.safetensors"] if count == 1 else
             [f"model-{k + 1:05d}-of-{count:05d}.safetensors" for k in range(count)])
    for file, shard in zip(files, shards, strict=True):
        save_tensors(target / file, {tensor.name: tensor.value(params) for tensor in shard})
    if count > 1:
        weight_map = {tensor.name: file for file, shard in zip(files, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_atomic(target / INDEX, json.dumps(index, indent=2))


@dataclasses.dataclass(frozen=True)
class _Export:
    """A tensor to be written: its name, the leaves that it is fused from, its index in them, its size in bytes."""

    name: str
    leaves: Sequence[TensorMap]
    index: tuple[int, ...]
    nbytes: int

    def value(self, params: Params) -> np.ndarray:
        tensor = fuse(self.leaves, [np.asarray(lookup(params, leaf.path)[self.index]) for leaf in self.leaves])
        return np.ascontiguousarray(tensor.T if self.leaves[0].transpose else tensor)


def _exports(spec: ModelSpec, params: Params) -> list[_Export]:
    """Returns all tensors of a checkpoint, in the order of the family's table."""
    shared: dict[str, list[TensorMap]] = collections.defaultdict(list)
    for leaf in tensor_maps(spec):
        shared[leaf.name].append(leaf)
    exports = []
    for leaves in shared.values():
        parts = names_of(leaves[0], spec)
        size = sum(lookup(params, leaf.path).nbytes for leaf in leaves) // len(parts)
        exports += [_Export(name, leaves, index, size) for index, name in parts]
    return exports
