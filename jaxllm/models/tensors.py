"""Files of a checkpoint directory: finding it, its JSON files, and its tensors by name. Only safetensors are read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes
import numpy as np

from jaxllm.assets import resolve
from jaxllm.errors import UserError
from jaxllm.files import storage
from jaxllm.models.gguf.header import is_gguf, read_header

INDEX = "model.safetensors.index.json"
# Name of a dtype in a safetensors header -> numpy dtype.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu)}
# Suffix of the tensor with the factors of an 8-bit tensor, one per block.
SCALES = "_scale_inv"
# A fingerprint hashes files of at most `_WHOLE` bytes whole, and of larger ones `_BLOCK` bytes of every `_STRIDE`.
_WHOLE, _BLOCK, _STRIDE = 2**25, 2**12, 2**20


def model_directory(model: str | Path) -> Path:
    """Returns the path of a checkpoint: `tiny`, a local directory, a GGUF file, or a Hub id (fetched or cached).

    Raises:
        UserError: there is no such checkpoint.
    """
    if not str(model).strip():
        raise UserError("no model given", "model")
    path = resolve(model)
    if path.is_dir() or is_gguf(path):
        return path
    name = str(model)
    if path.suffix == ".gguf":
        raise UserError("not a GGUF file" if path.exists() else "no such file", model)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError("no checkpoint directory", model, "give a directory with config.json and *.safetensors, "
                        "a GGUF file, a Hub id such as org/name, or 'tiny'")
    from huggingface_hub import snapshot_download  # costs a third of a second, and most runs are local

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model",
                                                            "*.model.v*", "merges.txt", "vocab.txt", "*.spm",
                                                            "*.tiktoken", "bpe.codes"],
                                      ignore_patterns=["consolidated*", "original/*"]))
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = str(error).splitlines()[0]
        raise UserError(f"neither a directory nor a model that the Hub would give: {reason}", name,
                        "check the name, the connection, and HF_HUB_OFFLINE") from error


def fingerprint(folder: Path) -> str:
    """Hashes the files of a checkpoint or an adapter, 16 hex digits; a missing folder has the hash of an empty one.

    A GGUF file is a checkpoint as well.

    Files of at most 32 MB are hashed whole. Of larger ones the hash has the header and the first 4 KB of every tensor
    (safetensors and GGUF; other formats have neither), and 4 KB in every MB. Two checkpoints have one fingerprint if
    their large files have the same sizes and differ in none of these bytes: where a few rows of a large matrix were
    changed, and none of them is hashed.
    """
    digest = hashlib.sha256()
    files = [folder] if folder.is_file() else sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    for file in files:
        size = file.stat().st_size
        name = file.name if file == folder else file.relative_to(folder)
        digest.update(f"{name} {size}\n".encode())
        with open(file, "rb", buffering=0) as opened:
            for start, stop in [(0, size)] if size <= _WHOLE else _hashed_ranges(file, size):
                opened.seek(start)
                digest.update(opened.read(stop - start))
    return digest.hexdigest()[:16]


def _hashed_ranges(file: Path, size: int) -> list[tuple[int, int]]:
    """Lists the byte ranges of a large file that a fingerprint hashes; they ascend and do not overlap."""
    starts = {*range(0, size - _BLOCK, _STRIDE), size - _BLOCK}
    tensors = _tensor_starts(file, size)
    header = min(tensors, default=0)
    ranges, end = [(0, header)], header
    for start in sorted(starts | tensors):
        stop = min(start + _BLOCK, size)
        if stop > end:
            ranges.append((max(start, end), stop))
            end = stop
    return ranges


def _tensor_starts(file: Path, size: int) -> set[int]:
    """Finds the first byte of every tensor of a safetensors or GGUF file; none of another or a damaged file."""
    try:
        if is_gguf(file):
            return {tensor.start for tensor in read_header(file).tensors.values()}
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length <= size - 8 else {}
        starts = {8 + length + about["data_offsets"][0] for name, about in header.items() if name != "__metadata__"}
    except (UserError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()
    return {start for start in starts if 0 <= start < size}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file; raises a `UserError` that explains what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("the file is missing", path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid JSON: {error}", path) from None
    if not isinstance(content, dict):
        raise UserError("must hold a JSON object", path)
    return content


def open_safetensors(file: Path, stack: contextlib.ExitStack) -> Any:
    """Opens one safetensors file for lazy access; it is closed with `stack`."""
    from safetensors import SafetensorError, safe_open

    try:
        return stack.enter_context(safe_open(file, framework="numpy"))
    except FileNotFoundError:
        raise UserError("the file is missing", file, "fetch the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a whole safetensors file: {error}", file, "fetch the file again") from None


@dataclasses.dataclass(frozen=True)
class Entry:
    """Location of a tensor.

    Attributes:
        file: the name of its file.
        handle: the file, open.
        dtype: name of the dtype in the header.
        shape: shape of the tensor.
        start: its first byte in the file.
    """

    file: Path
    handle: BinaryIO
    dtype: str
    shape: tuple[int, ...]
    start: int


def _entries(file: Path, stack: contextlib.ExitStack) -> dict[str, Entry]:
    """Lists all tensors of a file, which stays open as long as `stack`."""
    with contextlib.ExitStack() as checked:
        open_safetensors(file, checked)
    handle = stack.enter_context(open(file, "rb"))
    size = int.from_bytes(handle.read(8), "little")
    header = json.loads(handle.read(size))
    return {name: Entry(file, handle, about["dtype"], tuple(about["shape"]), 8 + size + about["data_offsets"][0])
            for name, about in header.items() if name != "__metadata__"}


class TensorSource(Protocol):
    """The tensors of a checkpoint by their names in the hub's layout: `Tensors` or `gguf.tensors.GGUFTensors`.

    Attributes:
        path: the checkpoint.
        files: name -> location with the attribute `file`.
    """

    path: Path
    files: Any

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> str: ...

    def check_formats(self) -> None: ...

    def read(self, name: str) -> np.ndarray: ...


class Tensors:
    """Lazy access to a checkpoint's safetensors files, by tensor name; a context manager.

    Numbers are read, not mapped: pages of a mapped file stay in the process until it is closed, and count as memory of
    a process that has to hold the parameters as well.

    Attributes:
        path: the directory.
        files: name -> location of the tensor.
    """

    def __init__(self, path: Path, quantization: Mapping[str, Any] | None = None):
        """Opens all files.

        Args:
            path: the directory.
            quantization: `quantization_config` of its config.json, where there is one.
        """
        self.path, self.files, self._stack = path, {}, contextlib.ExitStack()
        self.block = (quantization or {}).get("weight_block_size")
        try:
            for file, listed in self._shards(path).items():
                entries = _entries(file, self._stack)
                if lost := sorted(set(listed) - entries.keys()):
                    raise UserError(f"the index lists '{lost[0]}' for it, which is not in it", file,
                                    "fetch the checkpoint again")
                if twice := sorted(self.files.keys() & entries.keys()):
                    raise UserError(f"'{twice[0]}' is also in {self.files[twice[0]].file.name}", file,
                                    "remove one of the two, or fetch the checkpoint again")
                self.files |= entries
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def _shards(path: Path) -> dict[Path, list[str]]:
        """Returns files, each with the tensors that an index lists for it."""
        if (path / INDEX).exists():
            names = read_json(path / INDEX).get("weight_map")
            if not isinstance(names, dict):
                raise UserError("has no weight_map", path / INDEX)
            if not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
                raise UserError("names a file outside its directory", path / INDEX)
            return {path / file: [name for name, where in names.items() if where == file]
                    for file in sorted(set(names.values()))}
        if (path / "model.safetensors").exists():
            return {path / "model.safetensors": []}
        pickled = sorted(path.glob("*.bin")) + sorted(path.glob("*.pt"))
        raise UserError(
            "no model.safetensors" + (f"; {pickled[0].name} is not read, it can run code" if pickled else ""),
            path, "convert the checkpoint to safetensors" if pickled else None)

    def names(self) -> list[str]:
        """Returns the names of all tensors with parameters, without the factors of 8-bit tensors."""
        return sorted(name for name in self.files if not self._is_scale(name))

    def _is_scale(self, name: str) -> bool:
        return name.endswith(SCALES) and name.removesuffix(SCALES) in self.files

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files[name].shape

    def dtype(self, name: str) -> str:
        """Returns the name of a tensor's dtype in the header."""
        return self.files[name].dtype

    def check_formats(self) -> None:
        """Raises a `UserError` for the first tensor with an unsupported dtype or without its factors."""
        for name, entry in sorted(self.files.items()):
            if entry.dtype not in DTYPES:
                raise UserError(f"tensor '{name}' has type {entry.dtype}; only {', '.join(DTYPES)} are read",
                                entry.file)
            if (self.block is not None and not self._is_scale(name) and DTYPES[entry.dtype].itemsize == 1
                    and name + SCALES not in self.files):
                raise UserError(f"tensor '{name}' has 8 bits, and its factors ('{name}{SCALES}') are missing",
                                entry.file, "fetch the checkpoint again")

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor in its stored dtype; an 8-bit tensor with factors is dequantized to float32.

        Raises:
            UserError: an unsupported dtype, or factors that do not fit the tensor.
        """
        value = self._stored(name)
        return value if name + SCALES not in self.files else self._scaled(name, value)

    def _stored(self, name: str) -> np.ndarray:
        entry = self.files[name]
        data = np.empty(math.prod(entry.shape) * DTYPES[entry.dtype].itemsize, np.uint8)
        entry.handle.seek(entry.start)
        if entry.handle.readinto(data) != data.nbytes:
            raise UserError(f"the file ends within tensor '{name}'", entry.file, "fetch the file again")
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def _scaled(self, name: str, value: np.ndarray) -> np.ndarray:
        scales, block = name + SCALES, self.block
        factors = self._stored(scales).astype(np.float32, copy=False)
        if not (isinstance(block, list | tuple) and len(block) == value.ndim == factors.ndim == 2 and all(
                -(-size // step) == n for size, step, n in zip(value.shape, block, factors.shape, strict=True))):
            raise UserError(f"'{scales}' of shape {list(factors.shape)} does not fit '{name}' of shape "
                            f"{list(value.shape)} in blocks of {block}", self.files[scales].file)
        out = value.astype(np.float32)
        rows, columns = block
        for i, row in enumerate(factors):  # one block row at a time: no second array of the tensor's size is made
            out[i * rows:(i + 1) * rows] *= np.repeat(row, columns)[:value.shape[1]]
        return out


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes one safetensors file; a full disk is a `StorageError`."""
    from safetensors.numpy import save_file

    with storage(path):
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)  # the library makes it private
