"""The GGUF header of a file nobody vouches for.

Every count, length, dimension and offset is a claim, checked against the file's
size with Python integers (they do not wrap) before it is used and before
anything is allocated. Values are skipped, not decoded: `Header.value` decodes
the one that is asked for.

Layout (ggml's ``docs/gguf.md``): ``GGUF``, version u32, n_tensors u64, n_kv u64,
key-values, tensor infos, padding to the alignment, data.
"""

from __future__ import annotations

import mmap
import struct
from itertools import repeat
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, NoReturn

from truebits import errors
from truebits.errors import ModelFileError, printable
from truebits.files.header import ARRAY, LAST_KIND, SCALAR, STRING, U64, UINT32, Header, aligned
from truebits.files.placing import TOO_LARGE, Info, place
from truebits.files.sniff import HEAD_BYTES, refuse

U32, I32 = Struct("<I"), Struct("<i")

KEY_VALUE_BYTES, TENSOR_INFO_BYTES, STRING_BYTES = 14, 24, 8
"""The smallest records: what a count is checked against."""

LONGEST_NAME = 65_535
MOST_DIMENSIONS = 8
SHAPE_TYPE_OFFSET = tuple(Struct(f"<{n_dims}QiQ") for n_dims in range(MOST_DIMENSIONS + 1))


CUT = ": damaged, or an incomplete download?"


class Limits(NamedTuple):
    """What a header may ask of the reader; more raises `LimitExceeded`."""

    max_header_bytes: int = 256 << 20
    max_keys: int = 65_536
    max_tensors: int = 65_536
    max_strings: int = 16 << 20


def read_header(data: mmap.mmap | bytes, path: Path, part: int, limits: Limits) -> Header:
    """Walk the header in `data`, all of one file.

    Parameters
    ----------
    data : mmap.mmap or bytes
        The whole file.
    path : Path
        For errors and later reads.
    part : int
        Number of the file in its shard set, from 0.
    limits : Limits

    Raises
    ------
    ModelFileError
        The subclass of the first broken rule.
    """
    return _Walk(data, path, limits).header(part)


def value_bytes(data: mmap.mmap | bytes, header: Header, key: str) -> bytes:
    """Return the bytes of one metadata value, as they stand in the file."""
    kind, start = header.keys[key]
    walk = _Walk(data, header.path, Limits(*[header.header_bytes] * len(Limits._fields)))
    walk.at = start
    walk.skip(kind)
    return data[start : walk.at]


class _Walk:
    """One pass over a header; `at` is the byte offset of the next record."""

    def __init__(self, data: mmap.mmap | bytes, path: Path, limits: Limits):
        self.data = data
        self.path = path
        self.limits = limits
        self.size = len(data)
        self.end = min(self.size, limits.max_header_bytes)
        self.at = 0
        self.strings = 0

    def fail(self, error: type[ModelFileError], offset: int, message: str) -> NoReturn:
        raise error(self.path, offset, message)

    def header(self, part: int) -> Header:
        if self.data[:4] != b"GGUF":
            refuse(self.data[:HEAD_BYTES], self.path)
        self.at = 4
        version = self.number(U32)
        if version & 0xFFFF == 0 and version:
            self.fail(
                errors.BigEndian, 4, f"version {version:#010x} is byte-swapped (allowed: 2, 3): a big-endian file"
            )
        if version not in (2, 3):
            self.fail(errors.BadVersion, 4, f"version {version}, allowed are 2 and 3")
        n_tensors, n_keys = self.number(U64), self.number(U64)
        self.check_count("key-values", n_keys, KEY_VALUE_BYTES, self.limits.max_keys, 16)
        self.check_count("tensors", n_tensors, TENSOR_INFO_BYTES, self.limits.max_tensors, 8)
        keys = self.key_values(n_keys)
        alignment = self.alignment(keys)
        infos = self.tensor_infos(n_tensors)
        data_start = aligned(self.at, alignment) if n_tensors else self.at
        header_bytes = self.at
        tensors = place(self.path, infos, data_start, self.size, alignment, part)
        return Header(self.path, self.size, version, alignment, keys, tensors, data_start, header_bytes)

    def number(self, kind: Struct) -> int:
        return self.record(kind)[0]

    def record(self, kind: Struct) -> tuple[Any, ...]:
        at = self.at
        end = at + kind.size
        if end > self.end:
            self.check_length(kind.size)
            message = f"the header ends here: {kind.size} bytes needed, {self.size - at} left{CUT}"
            self.fail(errors.HeaderTruncated, at, message)
        self.at = end
        return kind.unpack_from(self.data, at)

    def check_length(self, more: int) -> None:
        """Refuse a header that `more` bytes make longer than the limit."""
        if self.at + more > self.limits.max_header_bytes:
            message = f"the header is longer than the limit of {self.limits.max_header_bytes} bytes"
            self.fail(errors.LimitExceeded, self.at, message)

    def string(self) -> bytes:
        start = self.skip_string()
        return self.data[start : self.at]

    def skip_string(self) -> int:
        """Step over a string; return where its text starts."""
        (length,) = self.record(U64)
        start = self.at
        if length > self.end - start:
            if length > self.size - start:
                message = f"a string of {length} bytes where {self.size - start} are left{CUT}"
                self.fail(errors.BadStringLength, start - 8, message)
            self.check_length(length)
        self.at = start + length
        return start

    def check_count(self, what: str, count: int, smallest: int, limit: int, offset: int) -> None:
        possible = (self.size - self.at) // smallest
        if count > possible:
            self.fail(errors.BadCount, offset, f"{count} {what} claimed, {possible} could fit in the file{CUT}")
        if count > limit:
            self.fail(errors.LimitExceeded, offset, f"{count} {what}, the limit is {limit}")

    def key_values(self, count: int) -> dict[str, tuple[int, int]]:
        keys: dict[str, tuple[int, int]] = {}
        for _ in repeat(None, count):
            start = self.at
            name = self.string()
            if not name:
                self.fail(errors.BadKey, start, "an empty key: at least 1 byte is required")
            if b"\0" in name:
                self.fail(errors.NulInName, start, f"key {printable(name[:64])} holds a NUL byte")
            key = name.decode("utf-8", "surrogateescape")
            if key in keys:
                self.fail(
                    errors.DuplicateKey, start, f"key {printable(name[:64])} stands twice; the first at {keys[key][1]}"
                )
            kind = self.kind()
            keys[key] = kind, self.at
            self.skip(kind)
        return keys

    def kind(self) -> int:
        start = self.at
        kind = self.number(I32)
        if not 0 <= kind <= LAST_KIND:
            self.fail(errors.BadValueType, start, f"value type {kind}, allowed are 0 to {LAST_KIND}")
        return kind

    def skip(self, kind: int) -> None:
        if kind == ARRAY:
            self.skip_array()
            return
        if kind != STRING:
            self.number(SCALAR[kind])
            return
        self.skip_string()

    def skip_array(self) -> None:
        start = self.at
        kind = self.kind()
        if kind == ARRAY:
            self.fail(errors.NestedArray, start, "an array of arrays (value type 9 inside 9), which GGUF does not have")
        count_at = self.at
        count = self.number(U64)
        smallest = STRING_BYTES if kind == STRING else SCALAR[kind].size
        left = self.size - self.at
        if count > left // smallest:
            message = f"an array of {count} elements of at least {smallest} bytes where {left} bytes are left{CUT}"
            self.fail(errors.BadArrayLength, count_at, message)
        if kind == STRING:
            self.skip_strings(count)
        else:
            self.check_length(count * smallest)
            self.at += count * smallest

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings: the loop that a 32,000-token vocabulary waits for.

        Offsets only grow, so a length that points past the end makes the next read fail, and the
        check after the loop catches the last one. A second, checked walk then finds the culprit.
        """
        self.strings += count
        if self.strings > self.limits.max_strings:
            message = f"{self.strings} strings in arrays, the limit is {self.limits.max_strings}"
            self.fail(errors.LimitExceeded, self.at, message)
        data, unpack, at = self.data, U64.unpack_from, self.at
        try:
            for _ in repeat(None, count):
                (length,) = unpack(data, at)
                at += length + 8
        except (struct.error, OverflowError):
            at = self.size + 1
        if at > self.size:
            for _ in repeat(None, count):
                self.skip(STRING)
        self.at = at
        self.check_length(0)

    def alignment(self, keys: dict[str, tuple[int, int]]) -> int:
        if "general.alignment" not in keys:
            return 32
        kind, offset = keys["general.alignment"]
        if kind != UINT32:
            self.fail(errors.BadAlignment, offset, f"general.alignment has value type {kind}, allowed is u32 (4)")
        (alignment,) = U32.unpack_from(self.data, offset)
        if alignment.bit_count() != 1:
            self.fail(errors.BadAlignment, offset, f"general.alignment is {alignment}, not a power of two")
        return alignment

    def tensor_infos(self, count: int) -> list[Info]:
        infos = []
        names = set()
        for _ in repeat(None, count):
            start = self.at
            raw = self.string()
            if len(raw) > LONGEST_NAME:
                self.fail(errors.BadName, start, f"a tensor name of {len(raw)} bytes, allowed are {LONGEST_NAME}")
            if b"\0" in raw:
                self.fail(errors.NulInName, start, f"tensor name {printable(raw)} holds a NUL byte")
            name = raw.decode("utf-8", "surrogateescape")
            if name in names:
                self.fail(errors.DuplicateTensor, start, f"tensor {printable(raw)} stands twice")
            names.add(name)
            (n_dims,) = self.record(U32)
            if n_dims > MOST_DIMENSIONS:
                message = f"{n_dims} dimensions, allowed are {MOST_DIMENSIONS}"
                self.fail(errors.TooManyDimensions, self.at - 4, message)
            fields = self.record(SHAPE_TYPE_OFFSET[n_dims])
            shape = fields[:n_dims]
            if max(shape, default=0) >= TOO_LARGE:
                message = f"a dimension of {max(shape)}, allowed is less than 2^63"
                self.fail(errors.BadDimension, start, message)
            infos.append(Info(start, name, shape, *fields[n_dims:]))
        return infos
