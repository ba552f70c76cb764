"""What one GGUF file says about itself, once it has been read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import ClassVar

from truebits import errors
from truebits.files.tensor import Finding, Tensor

U64 = Struct("<Q")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
SCALAR = {kind: Struct("<" + code) for kind, code in SCALARS.items()}
UINT32, INT32, STRING, ARRAY, LAST_KIND = 4, 5, 8, 9, 12

LLAMA_CPP_NAME = 64


@dataclass(frozen=True)
class Header:
    """What one GGUF file says about itself.

    Attributes
    ----------
    path : Path
    size : int
        Of the file, in bytes.
    version, alignment : int
    keys : dict of str to (int, int)
        Value type and byte offset of the value, by key.
    tensors : tuple of Tensor
        In the header's order.
    data_start : int
        Byte offset of the data section.
    header_bytes : int
        Where the header ends; padding follows.
    """

    format: ClassVar[str] = "gguf"

    path: Path
    size: int
    version: int
    alignment: int
    keys: dict[str, tuple[int, int]] = field(repr=False)
    tensors: tuple[Tensor, ...] = field(repr=False)
    data_start: int
    header_bytes: int

    def value(self, data: mmap.mmap | bytes, key: str) -> int | float | bool | str | None:
        """Decode one scalar or string of the file's `data`; None where the key is absent or an array."""
        kind, offset = self.keys.get(key, (ARRAY, 0))
        if kind == ARRAY:
            return None
        if kind == STRING:
            (length,) = U64.unpack_from(data, offset)
            return data[offset + 8 : offset + 8 + length].decode("utf-8", "surrogateescape")
        return SCALAR[kind].unpack_from(data, offset)[0]

    def findings(self, data: mmap.mmap | bytes) -> Iterator[Finding]:
        """Yield what is legal but odd: a reader warns of it, a writer refuses it."""
        for tensor in self.tensors:
            if not tensor.name:
                yield Finding(errors.BadName, tensor.offset, "a tensor has an empty name", True)
            length = len(tensor.name.encode("utf-8", "surrogateescape"))
            if length >= LLAMA_CPP_NAME:
                message = f"tensor name of {length} bytes; llama.cpp reads fewer than {LLAMA_CPP_NAME}"
                yield Finding(errors.BadName, tensor.offset, message, False)
            if tensor.opaque:
                message = f"tensor {tensor.label} has {tensor.type}, newer than this truebits: its bytes are not read"
                yield Finding(errors.BadTensorType, tensor.offset, message, True)
        yield from self._gaps(data)

    def _gaps(self, data: mmap.mmap | bytes) -> Iterator[Finding]:
        """Account for every byte of the data section: tensors in order, zero padding between."""
        end = self.header_bytes
        for tensor in self.tensors:
            if not tensor.nbytes:
                continue
            start = aligned(end, self.alignment)
            if tensor.offset != start:
                message = f"tensor {tensor.label} starts at {tensor.offset}, expected {start}: a gap, or another order"
                yield Finding(errors.OddLayout, tensor.offset, message, True)
                return
            if end != start and data[end:start].strip(b"\0"):
                yield Finding(errors.UnexplainedBytes, end, f"padding before {tensor.label} is not zero", True)
            end = tensor.offset + tensor.nbytes
        padded = min(aligned(end, self.alignment), self.size)
        if end < padded and data[end:padded].strip(b"\0"):
            yield Finding(errors.UnexplainedBytes, end, "padding after the last tensor is not zero", True)
        if padded < self.size:
            message = f"{self.size - padded} bytes follow the last tensor"
            yield Finding(errors.UnexplainedBytes, padded, message, True)


def aligned(offset: int, alignment: int) -> int:
    """Return the first multiple of `alignment` that is not below `offset`."""
    return offset + -offset % alignment
