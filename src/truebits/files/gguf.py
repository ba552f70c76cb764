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
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from pathlib import Path
from struct import Struct
from typing import NamedTuple, NoReturn

from truebits import errors
from truebits.errors import ModelFileError, printable
from truebits.files.layout import Finding, Tensor

U32, I32, U64 = Struct("<I"), Struct("<i"), Struct("<Q")

KEY_VALUE_BYTES, TENSOR_INFO_BYTES, STRING_BYTES = 14, 24, 8
"""The smallest records: what a count is checked against."""

LONGEST_NAME, LLAMA_CPP_NAME = 65_535, 64
MOST_DIMENSIONS = 4
TOO_LARGE = 1 << 63
SHAPE_TYPE_OFFSET = tuple(Struct(f"<{n_dims}QiQ") for n_dims in range(MOST_DIMENSIONS + 1))

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
SCALAR = {kind: Struct("<" + code) for kind, code in SCALARS.items()}
UINT32, STRING, ARRAY, LAST_KIND = 4, 8, 9, 12


class BlockType(NamedTuple):
    """How a ggml type stores values: `values` of them in `nbytes` bytes."""

    name: str
    values: int
    nbytes: int


TYPES = {
    number: BlockType(name, values, nbytes)
    for number, name, values, nbytes in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 36),
        (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210), (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2),
        (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8), (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36), (41, "Q1_0", 128, 18), (42, "Q2_0", 64, 18),
    )
}  # fmt: skip
"""ggml's types (``ggml.h``, ``ggml-common.h``). Q8_1 is 36 bytes; gguf-py says 40, wrongly."""

REMOVED_TYPES = {4, 5, 31, 32, 33, 36, 37, 38}


class Limits(NamedTuple):
    """What a header may ask of the reader; more raises `LimitExceeded`."""

    max_header_bytes: int = 256 << 20
    max_keys: int = 65_536
    max_tensors: int = 65_536
    max_strings: int = 16 << 20


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
    """

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
            start = _aligned(end, self.alignment)
            if tensor.offset != start:
                message = f"tensor {tensor.label} starts at {tensor.offset}, expected {start}: a gap, or another order"
                yield Finding(errors.OddLayout, tensor.offset, message, True)
                return
            if end != start and data[end:start].strip(b"\0"):
                yield Finding(errors.UnexplainedBytes, end, f"padding before {tensor.label} is not zero", True)
            end = tensor.offset + tensor.nbytes
        padded = min(_aligned(end, self.alignment), self.size)
        if end < padded and data[end:padded].strip(b"\0"):
            yield Finding(errors.UnexplainedBytes, end, "padding after the last tensor is not zero", True)
        if padded < self.size:
            message = f"{self.size - padded} bytes follow the last tensor"
            yield Finding(errors.UnexplainedBytes, padded, message, True)


def _aligned(offset: int, alignment: int) -> int:
    return offset + -offset % alignment


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


class _Walk:
    """One pass over a header; `at` is the byte offset of the next record."""

    def __init__(self, data: mmap.mmap | bytes, path: Path, limits: Limits):
        self.data = data
        self.path = path
        self.limits = limits
        self.size = len(data)
        self.at = 0
        self.strings = 0

    def fail(self, error: type[ModelFileError], offset: int, message: str) -> NoReturn:
        raise error(self.path, offset, message)

    def header(self, part: int) -> Header:
        check_magic(self.data[:64], self.path)
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
        data_start = _aligned(self.at, alignment) if n_tensors else self.at
        header_bytes = self.at
        tensors = self.place(infos, data_start, alignment, part)
        return Header(self.path, self.size, version, alignment, keys, tensors, data_start, header_bytes)

    def number(self, kind: Struct) -> int:
        return self.record(kind)[0]

    def record(self, kind: Struct) -> tuple:
        at = self.at
        self.check_length(kind.size)
        try:
            numbers = kind.unpack_from(self.data, at)
        except struct.error:
            message = f"the header ends here: {kind.size} bytes needed, {self.size - at} left"
            self.fail(errors.HeaderTruncated, at, message)
        self.at = at + kind.size
        return numbers

    def check_length(self, more: int) -> None:
        """Refuse a header that `more` bytes make longer than the limit."""
        if self.at + more > self.limits.max_header_bytes:
            message = f"the header is longer than the limit of {self.limits.max_header_bytes} bytes"
            self.fail(errors.LimitExceeded, self.at, message)

    def string(self) -> bytes:
        start = self.at
        length = self.number(U64)
        if length > self.size - self.at:
            message = f"a string of {length} bytes where {self.size - self.at} are left"
            self.fail(errors.BadStringLength, start, message)
        self.check_length(length)
        text = self.data[self.at : self.at + length]
        self.at += length
        return text

    def check_count(self, what: str, count: int, smallest: int, limit: int, offset: int) -> None:
        possible = (self.size - self.at) // smallest
        if count > possible:
            self.fail(errors.BadCount, offset, f"{count} {what} claimed, {possible} could fit in the file")
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
        start = self.at
        length = self.number(U64)
        if length > self.size - self.at:
            message = f"a string of {length} bytes where {self.size - self.at} are left"
            self.fail(errors.BadStringLength, start, message)
        self.check_length(length)
        self.at += length

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
            message = f"an array of {count} elements of at least {smallest} bytes where {left} bytes are left"
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

    def tensor_infos(self, count: int) -> list[tuple[int, str, tuple[int, ...], int, int]]:
        """Read (record offset, name, shape, type, relative offset) of each tensor."""
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
            n_dims = self.number(U32)
            if n_dims > MOST_DIMENSIONS:
                message = f"{n_dims} dimensions, allowed are {MOST_DIMENSIONS}"
                self.fail(errors.TooManyDimensions, self.at - 4, message)
            *shape, type_id, relative = self.record(SHAPE_TYPE_OFFSET[n_dims])
            if max(shape, default=0) >= TOO_LARGE:
                message = f"a dimension of {max(shape)}, allowed is less than 2^63"
                self.fail(errors.BadDimension, start, message)
            infos.append((start, name, tuple(shape), type_id, relative))
        return infos

    def place(self, infos: list, data_start: int, alignment: int, part: int) -> tuple[Tensor, ...]:
        """Give each tensor its bytes in the file and check that none leaves it or meets another."""
        available = max(0, self.size - data_start)
        tensors = []
        for start, name, shape, type_id, relative in infos:
            if relative % alignment:
                message = f"offset {relative} of tensor {printable(name)} is not a multiple of {alignment}"
                self.fail(errors.MisalignedOffset, start, message)
            values, type_name, nbytes = self.measure(start, name, shape, type_id)
            if relative > available or nbytes > available - relative:
                message = (
                    f"tensor {printable(name)} needs {nbytes} bytes at {relative} of a data section of {available}"
                )
                self.fail(errors.OutOfBounds, start, message)
            opaque = type_id not in TYPES
            tensors.append(Tensor(name, type_name, shape, data_start + relative, nbytes, values, part, opaque))
        tensors = self.bound_opaque(tensors)
        self.check_overlap(tensors)
        return tuple(tensors)

    def measure(self, start: int, name: str, shape: tuple[int, ...], type_id: int) -> tuple[int, str, int]:
        """Return a tensor's number of values, type name and bytes (0 where the type is opaque)."""
        values = 1
        for dim in shape:
            values *= dim
        if values >= TOO_LARGE:
            self.fail(errors.SizeOverflow, start, f"tensor {printable(name)} claims {values} values, 2^63 or more")
        block = TYPES.get(type_id)
        if block is None:
            if type_id < 0 or type_id in REMOVED_TYPES:
                self.fail(
                    errors.BadTensorType,
                    start,
                    f"tensor {printable(name)} has type {type_id}, removed or never defined",
                )
            return values, f"type_{type_id}", 0
        row = shape[0] if shape else 1
        if row % block.values:
            message = f"rows of {row} values in tensor {printable(name)}; {block.name} blocks hold {block.values}"
            self.fail(errors.BadBlock, start, message)
        nbytes = values // block.values * block.nbytes
        if nbytes >= TOO_LARGE:
            self.fail(errors.SizeOverflow, start, f"tensor {printable(name)} claims {nbytes} bytes, 2^63 or more")
        return values, block.name, nbytes

    def check_overlap(self, tensors: list[Tensor]) -> None:
        end, before = 0, None
        for tensor in sorted((t for t in tensors if t.nbytes), key=lambda t: t.offset):
            if tensor.offset < end:
                assert before is not None
                message = f"tensor {tensor.label} starts at {tensor.offset}, inside {before.label}, which ends at {end}"
                self.fail(errors.Overlap, tensor.offset, message)
            end, before = tensor.offset + tensor.nbytes, tensor

    def bound_opaque(self, tensors: list[Tensor]) -> list[Tensor]:
        """Let a tensor of unknown type reach to the next one's offset."""
        if not any(tensor.opaque for tensor in tensors):
            return tensors
        offsets = [*sorted({tensor.offset for tensor in tensors}), self.size]
        following = dict(pairwise(offsets))
        return [
            t._replace(nbytes=max(0, following[t.offset] - t.offset)) if t.opaque and t.values else t for t in tensors
        ]


LOOKALIKES = (
    (rb"version https://git-lfs", "a Git-LFS pointer: run `git lfs pull` to get the file itself"),
    (rb"\s*<(!doctype|html|\?xml|head|body|Error)", "an HTML or XML page: the download saved an error page"),
    (rb"(?s)....\0\0\0\0\{", "a safetensors file"),
    (rb"\s*[\[{]", "JSON text: the download saved an error answer"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first"),
    (rb"PK\x03\x04", "a zip archive (a llamafile, or a PyTorch .pt checkpoint)"),
    (rb"\x7fELF|MZ", "an executable (a llamafile?)"),
    (rb"\x80[\x02-\x05]", "a Python pickle"),
    (rb"lmgg|fmgg|tjgg|algg|ggml|ggmf|ggjt|ggla", "an old GGML file: convert it with llama.cpp's tools"),
    (rb"\xef\xbb\xbf", "text with a UTF-8 byte-order mark"),
    (rb"\x00+\Z", "all zeros: an unfinished download"),
)


def check_magic(head: bytes, path: Path) -> None:
    """Refuse what does not start with ``GGUF``, saying what it looks like.

    Parameters
    ----------
    head : bytes
        The file's first 64 bytes, or all of them.
    path : Path
    """
    if not head:
        raise errors.EmptyFile(path, 0, "the file is empty: 0 bytes, a GGUF has at least 24")
    if head[:4] == b"GGUF":
        return
    if head[:4] == b"FUGG":
        raise errors.BigEndian(path, 0, "starts with FUGG: a big-endian file")
    for pattern, looks_like in LOOKALIKES:
        if re.match(pattern, head, re.IGNORECASE):
            raise errors.NotGGUF(path, 0, f"not a GGUF file; it looks like {looks_like}")
    raise errors.NotGGUF(path, 0, f"not a GGUF file: it starts with {head[:4].hex(' ')}, not 47 47 55 46 (GGUF)")
