"""The header of a GGUF file: its metadata, and the location of every tensor.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every length is checked against the
size of the file before anything is read or allocated. The library `gguf` checks less, and takes half a minute for a
vocabulary of 262,144 tokens; it has the formats of quantized blocks.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Codes of scalar types -> numpy dtypes; 8 is text, 9 is an array.
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8",
           12: "<f8"}
TEXT, ARRAY = 8, 9
MAX_DIMENSIONS = 4


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Location of a tensor.

    Attributes:
        shape: as numpy has it, slowest axis first.
        type: code of its format in ggml.
        start: its first byte in the file.
        nbytes: its size in the file.
    """

    shape: tuple[int, ...]
    type: int
    start: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Header:
    """Metadata and tensors of a GGUF file.

    Attributes:
        path: the file.
        metadata: key -> number, text, or list of these.
        tensors: name -> location.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Reads the header of a GGUF file; the last few are remembered as long as the file does not change.

    Raises:
        UserError: it is damaged, or a part of a split file.
    """
    about = path.stat()
    return _read_header(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read_header(path: Path, size: int, _: int) -> Header:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _parse(path, _Cursor(data, size), size)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"not a whole GGUF file: {error}", path, "fetch the file again") from None
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise UserError("one part of a split GGUF file", path, "join the parts with `llama-gguf-split --merge`")
    return header


class _Cursor:
    """Reads values from a header, one after the other; raises a `ValueError` at the end of the file."""

    def __init__(self, data: mmap.mmap, size: int):
        self.data, self.size, self.position = data, size, 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise ValueError(f"it ends within its header, at byte {self.size}")
        self.position += count
        return self.data[self.position - count:self.position]

    def number(self, code: str) -> int:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode()

    def value(self, code: int) -> Any:
        if code in SCALARS:
            return self.array(code, 1)[0]
        if code == TEXT:
            return self.text()
        if code != ARRAY:
            raise ValueError(f"a value has the unknown type {code}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in SCALARS:
            return self.array(inner, count)
        if inner != TEXT:
            raise ValueError(f"an array has values of the unsupported type {inner}")
        if count > (self.size - self.position) // 8:  # a text has at least its length
            raise ValueError("an array is longer than the file")
        return [self.text() for _ in range(count)]

    def array(self, code: int, count: int) -> list[Any]:
        dtype = np.dtype(SCALARS[code])
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        # The shortest decimal number that is the same in float32: 1e-05 and not 9.999999747378752e-06.
        return [float(str(value)) for value in values] if code == 6 else values.tolist()


def _parse(path: Path, cursor: _Cursor, size: int) -> Header:
    from gguf import GGML_QUANT_SIZES

    if cursor.take(len(MAGIC)) != MAGIC:
        raise ValueError("its first bytes are not GGUF")
    if (version := cursor.number("<I")) not in VERSIONS:
        raise ValueError(f"version {version} is not supported (have: {', '.join(map(str, VERSIONS))})")
    tensor_count, key_count = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"the key {key!r} appears twice")
        metadata[key] = cursor.value(cursor.number("<I"))
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.number("<I")
        if name in infos or dimensions > MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name!r} appears twice or has {dimensions} dimensions")
        shape = tuple(cursor.number("<Q") for _ in range(dimensions))
        infos[name] = shape[::-1], cursor.number("<I"), cursor.number("<Q")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"the alignment is {alignment!r}")
    data_start = -(-cursor.position // alignment) * alignment
    tensors = {}
    for name, (shape, code, offset) in infos.items():
        if code not in GGML_QUANT_SIZES:
            raise ValueError(f"the tensor {name!r} has the unknown format {code}")
        block, block_bytes = GGML_QUANT_SIZES[code]
        if shape and shape[-1] % block:
            raise ValueError(f"the tensor {name!r} of shape {list(shape)} is not made of blocks of {block}")
        nbytes = math.prod(shape) // block * block_bytes
        if data_start + offset + nbytes > size:
            raise ValueError(f"it ends within the tensor {name!r}")
        tensors[name] = TensorInfo(shape, code, data_start + offset, nbytes)
    return Header(path, metadata, tensors)
