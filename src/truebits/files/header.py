"""What one GGUF file says about itself, once it has been read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from struct import Struct
from typing import ClassVar

from truebits import errors
from truebits.files.tensor import Oddity, Tensor, named
from truebits.files.types import BY_NUMBER

U64, KIND = Struct("<Q"), Struct("<i")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
SCALAR = {kind: Struct("<" + code) for kind, code in SCALARS.items()}
UINT32, INT32, STRING, ARRAY, LAST_KIND = 4, 5, 8, 9, 12

LONGEST_PADDING = 16 << 20
"""Of one file, that is looked at: an alignment may be 2^31, and nobody who means well pads so far."""

MOST_TYPES = 8

LLAMA_CPP_NAME, LLAMA_CPP_DIMENSIONS = 64, 4


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
        return None if self.keys.get(key, (ARRAY, 0))[0] == ARRAY else next(self.elements(data, key))

    def length(self, data: mmap.mmap | bytes, key: str) -> int | None:
        """Return how many elements an array has; None where the value is no array."""
        kind, offset = self.keys[key]
        return U64.unpack_from(data, offset + 4)[0] if kind == ARRAY else None

    def elements(self, data: mmap.mmap | bytes, key: str) -> Iterator[int | float | bool | str]:
        """Decode an array one by one; a scalar or string is an array of one, an absent key an empty one."""
        kind, at = self.keys.get(key, (ARRAY, 0))
        if key not in self.keys:
            return
        count = 1
        if kind == ARRAY:
            (kind,), (count,), at = KIND.unpack_from(data, at), U64.unpack_from(data, at + 4), at + 12
        for _ in repeat(None, count):
            if kind == STRING:
                (length,) = U64.unpack_from(data, at)
                yield data[at + 8 : at + 8 + length].decode("utf-8", "surrogateescape")
                at += 8 + length
            else:
                yield SCALAR[kind].unpack_from(data, at)[0]
                at += SCALAR[kind].size

    def findings(self, data: mmap.mmap | bytes) -> Iterator[Oddity]:
        """Yield what is legal but odd: a reader warns of it, a writer refuses it."""
        yield from self._names()
        yield from self._dimensions()
        yield from self._opaque()
        yield from self._gaps(data)

    def _names(self) -> Iterator[Oddity]:
        for tensor in self.tensors:
            if not tensor.name:
                yield Oddity(errors.BadName, tensor.offset, "a tensor has an empty name", True)
        long = [one for one in self.tensors if len(one.name.encode("utf-8", "surrogateescape")) >= LLAMA_CPP_NAME]
        if long:
            message = f"{named(long)}: a name of {LLAMA_CPP_NAME} bytes or more; llama.cpp reads fewer"
            yield Oddity(errors.BadName, long[0].offset, message, False)

    def _dimensions(self) -> Iterator[Oddity]:
        many = [one for one in self.tensors if len(one.shape) > LLAMA_CPP_DIMENSIONS]
        if many:
            message = f"{named(many)}: more than {LLAMA_CPP_DIMENSIONS} dimensions: llama.cpp does not read such a file"
            yield Oddity(errors.TooManyDimensions, many[0].offset, message, True)

    def _opaque(self) -> Iterator[Oddity]:
        """One finding for each type that is not read."""
        types: dict[str, list[Tensor]] = {}
        for tensor in self.tensors:
            if tensor.opaque:
                types.setdefault(tensor.type, []).append(tensor)
        for type, tensors in islice(types.items(), MOST_TYPES):
            known = BY_NUMBER.get(int(type[5:])) if type.startswith("type_") else None
            why = (
                f"but not the bytes that {known.name}, ggml's type of this number, takes "
                f"({known.values} values in {known.nbytes}): another program's"
                if known
                else "which ggml does not define now"
            )
            message = f"{named(tensors)}: type {type}, {why}; not read"
            yield Oddity(errors.BadTensorType, tensors[0].offset, message, True)
        if len(types) > MOST_TYPES:
            message = f"{len(types) - MOST_TYPES} more types that ggml does not define now: their bytes are not read"
            yield Oddity(errors.BadTensorType, tensors[0].offset, message, True)

    def _gaps(self, data: mmap.mmap | bytes) -> Iterator[Oddity]:
        """Account for every byte of the data section: tensors in order, zero padding between."""
        end, looked_at = self.header_bytes, 0
        odd: list[int] = []
        unseen: list[int] = []
        ranges = ((one.offset, one.nbytes) for one in self.tensors if one.nbytes)
        for offset, nbytes in chain(ranges, [(None, 0)]):
            start = min(aligned(end, self.alignment), self.size)
            if offset not in (None, start):
                message = f"the tensor at {offset} is expected at {start}: a gap, or another order than the header's"
                yield Oddity(errors.OddLayout, offset or 0, message, True)
                return
            looked_at += start - end
            if looked_at > LONGEST_PADDING:
                unseen.append(end)
            elif not is_zero(data, end, start):
                odd.append(end)
            end = start if offset is None else start + nbytes
        if unseen:
            message = f"padding of {looked_at} bytes: not looked at from {unseen[0]} on"
            yield Oddity(errors.OddLayout, unseen[0], message, True)
        if odd:
            places = f"in {len(odd)} places, the first " if len(odd) > 1 else ""
            yield Oddity(errors.UnexplainedBytes, odd[0], f"padding is not zero: {places}at {odd[0]}", True)
        if end < self.size:
            yield Oddity(errors.UnexplainedBytes, end, f"{self.size - end} bytes follow the last tensor", True)


def is_zero(data: mmap.mmap | bytes, start: int, stop: int) -> bool:
    """Tell whether a range of bytes is all zeros."""
    return not data[start:stop].strip(b"\0")


def aligned(offset: int, alignment: int) -> int:
    """Return the first multiple of `alignment` that is not below `offset`."""
    return offset + -offset % alignment
