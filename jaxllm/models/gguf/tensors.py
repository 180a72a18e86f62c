"""Tensors of a GGUF file, under the names and in the layout of the hub's checkpoints.

llama.cpp renames tensors and rearranges some of them; blocks of 2 to 8 bits are dequantized by the library `gguf`.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxllm.errors import UserError
from jaxllm.models.families import tensor_maps
from jaxllm.models.gguf.header import Header, TensorInfo, read_header
from jaxllm.models.matching import names_of
from jaxllm.models.spec import ModelSpec

# Formats that are not blocks: code in ggml -> (name in a safetensors header, numpy dtype).
PLAIN = {0: ("F32", np.dtype(np.float32)), 1: ("F16", np.dtype(np.float16)),
         30: ("BF16", np.dtype(ml_dtypes.bfloat16)), 28: ("F64", np.dtype(np.float64))}
# Blocks are dequantized in slabs of this number of values, which bounds the memory of intermediate results.
SLAB = 2**20
# Tensors that describe rotary positions, which `config` reads, and are no parameters.
NO_PARAMETERS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# Architectures with rows of queries and keys in the order that rotates neighbours, and not halves, of a head.
INTERLEAVED_ROTATION = ("llama", "granite", "smollm3")


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A tensor under its name in the hub's layout.

    Attributes:
        file: the GGUF file.
        name: name in the file.
        info: its location; that of one expert where the file has all of them in one tensor.
        shape: in the hub's layout.
    """

    file: Path
    name: str
    info: TensorInfo
    shape: tuple[int, ...]


class GGUFTensors:
    """Lazy access to the tensors of a GGUF file, like `tensors.Tensors` to safetensors; a context manager.

    Attributes:
        path: the file.
        files: name in the hub's layout, or the file's own where a tensor has no parameter -> location.
    """

    def __init__(self, path: Path, spec: ModelSpec, dtype: Any = np.float32):
        """Opens a file; blocks are dequantized to `dtype`, so that a tensor in float32 is never in memory for bfloat16.
        """
        self.path, self.spec, self.dtype_of_blocks, self.header = path, spec, np.dtype(dtype), read_header(path)
        self.files = _locate(self.header, spec)
        self._file: Any = open(path, "rb")

    def __enter__(self) -> GGUFTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Returns the names of all tensors with parameters."""
        return sorted(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files[name].shape

    def dtype(self, name: str) -> str:
        """Returns the dtype in which a tensor is stored; float32 for blocks."""
        return PLAIN.get(self.files[name].info.type, PLAIN[0])[0]

    def types(self) -> dict[str, int]:
        """Counts the tensors of every format in the file."""
        from gguf import GGMLQuantizationType

        codes = collections.Counter(info.type for info in self.header.tensors.values())
        return {GGMLQuantizationType(code).name: count for code, count in codes.most_common()}

    def check_formats(self) -> None:
        """Raises a `UserError` for the first tensor in a format that cannot be read."""
        for code in {entry.info.type for entry in self.files.values()} - PLAIN.keys():
            _dequantize(code, np.zeros(_block(code)[1], np.uint8), self.path)

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor in the hub's layout, in its stored dtype; blocks in that of this object."""
        entry = self.files[name]
        value = self._stored(entry.info)
        part, kind = entry.name.removeprefix("blk.").partition(".")[2] or entry.name, entry.name.rpartition(".")[2]
        heads, kv_heads, size = self.spec.heads, self.spec.kv_heads, self.spec.head_dim
        architecture = self.header.architecture
        if architecture in INTERLEAVED_ROTATION and part.startswith(("attn_q.", "attn_k.")):
            pairs = value.reshape(heads if part.startswith("attn_q.") else kv_heads, size // 2, 2, *value.shape[1:])
            return pairs.swapaxes(1, 2).reshape(value.shape)
        if self.spec.norm_offset and entry.name.endswith("norm.weight"):  # stored as 1 + weight
            return value.astype(np.float32) - 1
        if architecture == "gptneox" and part.startswith("attn_qkv."):  # all queries, all keys, all values
            return value.reshape(3, heads, size, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
        return value.T if _is_transposed(architecture, part, kind) else value

    def _stored(self, info: TensorInfo) -> np.ndarray:
        if info.type in PLAIN:
            data = np.empty(info.nbytes, np.uint8)
            self._fill(data, info.start)
            return data.view(PLAIN[info.type][1]).reshape(info.shape)
        block, block_bytes = _block(info.type)
        out = np.empty(math.prod(info.shape), self.dtype_of_blocks)
        for start in range(0, out.size, SLAB):  # a slab is a whole number of blocks: all have 2^k values
            count = min(SLAB, out.size - start)
            data = np.empty(count // block * block_bytes, np.uint8)
            self._fill(data, info.start + start // block * block_bytes)
            with np.errstate(over="ignore"):  # reported by `convert`, with the parameter's name
                out[start:start + count] = _dequantize(info.type, data, self.path)
        return out.reshape(info.shape)

    def _fill(self, data: np.ndarray, start: int) -> None:
        self._file.seek(start)
        if self._file.readinto(data) != data.nbytes:
            raise UserError("the file became shorter while it was read", self.path, "fetch the file again")


def _block(code: int) -> tuple[int, int]:
    """Returns the values and the bytes of a block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType(code)]


def _dequantize(code: int, data: np.ndarray, path: Path) -> np.ndarray:
    """Dequantizes blocks, as bytes, to a flat array."""
    from gguf import GGMLQuantizationType, dequantize

    try:
        return dequantize(data[None], GGMLQuantizationType(code))[0]
    except NotImplementedError:
        raise UserError(f"tensors in the format {GGMLQuantizationType(code).name} are not supported", path) from None


def _is_transposed(architecture: str, part: str, kind: str) -> bool:
    """Whether a matrix is `[in, out]` in the hub's checkpoints of its family: the layers of GPT-2."""
    return architecture == "gpt2" and kind == "weight" and part.startswith(("attn_qkv", "attn_output", "ffn_"))


def _locate(header: Header, spec: ModelSpec) -> dict[str, _Entry]:
    """Finds every tensor of a network in a file, and lists the file's other tensors under their own names."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    codes = {name: code for code, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(codes[header.architecture], spec.layers)
    tied_or_not = [*tensor_maps(spec), *tensor_maps(dataclasses.replace(spec, tied=False))]
    entries, used = {}, set(NO_PARAMETERS)
    for leaf in tied_or_not:
        for index, hub_name in names_of(leaf, spec):
            stored = names.get_name(re.sub(r"\.experts\.\d+\.", ".experts.", hub_name), (".weight", ".bias"))
            if stored is None or stored not in header.tensors:
                continue
            info = header.tensors[stored]
            if "{e}" in leaf.name:
                info = _expert(info, index[-1], spec.experts.count, header.path)
            part, kind = stored.removeprefix("blk.").partition(".")[2], stored.rpartition(".")[2]
            shape = info.shape[::-1] if _is_transposed(header.architecture, part, kind) else info.shape
            entries[hub_name] = _Entry(header.path, stored, info, shape)
            used.add(stored)
    return entries | {name: _Entry(header.path, name, info, info.shape)
                      for name, info in header.tensors.items() if name not in used}


def _expert(info: TensorInfo, expert: int, count: int, path: Path) -> TensorInfo:
    """Returns the location of one expert's matrix in the tensor of all experts."""
    if len(info.shape) != 3 or info.shape[0] != count:
        raise UserError(f"a tensor of {count} experts has shape {list(info.shape)}", path)
    nbytes = info.nbytes // count
    return TensorInfo(info.shape[1:], info.type, info.start + expert * nbytes, nbytes)
