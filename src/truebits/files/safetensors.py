"""The safetensors header of a file nobody vouches for.

Layout (huggingface/safetensors, README): length of the header u64, the header, data. The header is a JSON
object that begins with ``{`` and may be padded with spaces; it maps each tensor's name to ``dtype``,
``shape`` (the last dimension is the fastest) and ``data_offsets``, begin and end in the data, and
``__metadata__`` to strings by string. The data has no holes.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import ClassVar

from truebits import errors
from truebits.errors import printable, shortened
from truebits.files.gguf import LONGEST_NAME, Limits
from truebits.files.header import STRING, U64
from truebits.files.json_tokens import JsonText
from truebits.files.placing import TOO_LARGE
from truebits.files.tensor import Oddity, Tensor, check_overlap
from truebits.files.types import BY_DTYPE

LONGEST_HEADER = 100_000_000
"""The format's own limit."""

MOST_DIMENSIONS = 64
"""NumPy's and PyTorch's; the format has none."""

FIELDS = ("dtype", "shape", "data_offsets")

NUMBER = rb"(?:0|[1-9][0-9]{0,17})"
USUAL = re.compile(
    rb' ?"([ !#-\[\]-~]{0,65535}+)": ?(?P<value>\{"dtype": ?"([A-Z0-9_]+)", ?'
    rb'"shape": ?\[((?:%b(?:, ?%b){0,7}+)?)\], ?"data_offsets": ?\[(%b), ?(%b)\]\})' % (NUMBER, NUMBER, NUMBER, NUMBER)
)
"""A tensor as the format's own writer and Python's json put it; any other goes token by token."""


Measured = tuple[str, tuple[int, ...], int, int]
"""Type, shape, values and bytes: most tensors of a model share these with others."""


@dataclass(frozen=True)
class SafetensorsHeader:
    """What one safetensors file says about itself; has what a GGUF's `Header` has for readers.

    Attributes
    ----------
    path : Path
    size : int
        Of the file, in bytes.
    keys : dict of str to (int, int)
        Of ``__metadata__``: value type, always GGUF's for strings, and byte offset of the value, by key.
    tensors : tuple of Tensor
        In the header's order.
    data_start : int
        Byte offset of the data.
    """

    format: ClassVar[str] = "safetensors"

    path: Path
    size: int
    keys: dict[str, tuple[int, int]] = field(repr=False)
    tensors: tuple[Tensor, ...] = field(repr=False)
    data_start: int

    def value(self, data: mmap.mmap | bytes, key: str) -> str | None:
        """Decode one string of the file's `data`; None where the key is absent."""
        if key not in self.keys:
            return None
        return JsonText(data, self.path, self.keys[key][1], self.data_start).string()

    def length(self, data: mmap.mmap | bytes, key: str) -> None:
        """Return None: the format has no arrays."""

    def elements(self, data: mmap.mmap | bytes, key: str) -> Iterator[str]:
        """Decode a string as an array of one; an absent key as an empty one."""
        text = self.value(data, key)
        if text is not None:
            yield text

    def findings(self, data: mmap.mmap | bytes) -> Iterator[Oddity]:
        """Yield what the format forbids and a reader can live with: bytes of the data that are no tensor's."""
        end = self.data_start
        for tensor in sorted((one for one in self.tensors if one.nbytes), key=attrgetter("offset")):
            if tensor.offset != end:
                message = f"{tensor.offset - end} bytes before tensor {shortened(tensor.name)} belong to no tensor"
                yield Oddity(errors.OddLayout, end, message, True)
            end = tensor.offset + tensor.nbytes
        if end != self.size:
            yield Oddity(errors.UnexplainedBytes, end, f"{self.size - end} bytes follow the last tensor", True)


def read_header(data: mmap.mmap | bytes, path: Path, part: int, limits: Limits) -> SafetensorsHeader:
    """Walk the header in `data`, all of one file.

    Parameters
    ----------
    data : mmap.mmap or bytes
        The whole file.
    path : Path
        For errors and later reads.
    part : int
        Number of the file in its model, from 0.
    limits : Limits

    Raises
    ------
    ModelFileError
        The subclass of the first broken rule.
    """
    return _Walk(data, path, part, limits).header()


class _Walk(JsonText):
    """One pass over a header."""

    def __init__(self, data: mmap.mmap | bytes, path: Path, part: int, limits: Limits):
        super().__init__(data, path, 8, 8)
        self.part = part
        self.limits = limits
        self.size = len(data)
        self.beyond: tuple[int, str] | None = None
        self.measured: dict[tuple[bytes, bytes], Measured] = {}

    def header(self) -> SafetensorsHeader:
        self.find_end()
        if self.data[8:9] != b"{":
            self.expected("the { that every header begins with", errors.BadJson)
        keys: dict[str, tuple[int, int]] = {}
        tensors: list[Tensor] = []
        most = self.limits.max_tensors
        for at, name in self.members(twice=errors.DuplicateTensor, usual=USUAL):
            if name == "__metadata__":
                keys = self.metadata()
                continue
            if len(tensors) == most:
                self.fail(errors.LimitExceeded, at, f"more tensors than the limit of {most}")
            tensors.append(self.usual_tensor(at, name) or self.tensor(at, name))
        self.end()
        self.check_bounds(tensors)
        check_overlap(self.path, tensors)
        return SafetensorsHeader(self.path, self.size, keys, tuple(tensors), self.stop)

    def check_bounds(self, tensors: list[Tensor]) -> None:
        """Raise `OutOfBounds` if a tensor leaves the file; where the tensors have no holes, say how much is here."""
        if self.beyond is None:
            return
        at, message = self.beyond
        message += str(self.size - self.stop)
        end = max(tensor.offset + tensor.nbytes for tensor in tensors)
        if end - self.stop == sum(tensor.nbytes for tensor in tensors):
            message += f"; an incomplete download? {self.size:,} of {end:,} bytes are here"
        self.fail(errors.OutOfBounds, at, message)

    def find_end(self) -> None:
        """Read the header's length, and check it before anything else is read."""
        if self.size < 8:
            message = f"{self.size} bytes, a safetensors file has at least 8 and a header"
            self.fail(errors.HeaderTruncated, 0, message)
        (length,) = U64.unpack_from(self.data, 0)
        if length > self.size - 8:
            message = f"a header of {length} bytes where {self.size - 8} are left: damaged, or an unfinished download"
            self.fail(errors.HeaderTruncated, 0, message)
        limit = min(self.limits.max_header_bytes, LONGEST_HEADER)
        if length > limit:
            self.fail(errors.LimitExceeded, 0, f"a header of {length} bytes, the limit is {limit}")
        self.stop = 8 + length

    def metadata(self) -> dict[str, tuple[int, int]]:
        keys: dict[str, tuple[int, int]] = {}
        for at, key in self.members(errors.BadMetadata):
            if len(keys) == self.limits.max_keys:
                self.fail(errors.LimitExceeded, at, f"more metadata than the limit of {len(keys)} keys")
            keys[key] = STRING, self.skip_space()
            self.string(errors.BadMetadata)
        return keys

    def check_name(self, at: int, name: str) -> None:
        if "\0" in name:
            self.fail(errors.NulInName, at, f"tensor name {printable(name[:64])} holds a NUL byte")
        length = len(name.encode())
        if length > LONGEST_NAME:
            self.fail(errors.BadName, at, f"a tensor name of {length} bytes, allowed are {LONGEST_NAME}")

    def usual_tensor(self, start: int, name: str) -> Tensor | None:
        """Read a tensor that was matched as one; None, and back where it begins, if token by token is called for."""
        whole = self.whole
        if whole is None:
            return None
        stored, begin, end = (whole[3], whole[4]), int(whole[5]), int(whole[6])
        type = stored[0].decode()
        if type not in BY_DTYPE or begin > end:
            self.at = whole.start("value")
            return None
        if stored not in self.measured:
            shape = tuple(map(int, stored[1].split(b","))) if stored[1] else ()
            self.measured[stored] = self.measure(start, name, type, shape)
        return self.placed(start, name, self.measured[stored], begin, end)

    def tensor(self, start: int, name: str) -> Tensor:
        """Read what stands under a tensor's name, and check that it adds up."""
        self.check_name(start, name)
        type, offsets = "", (0, 0)
        shape: tuple[int, ...] = ()
        seen = []
        for at, key in self.members(errors.BadField):
            if key not in FIELDS:
                message = f"tensor {shortened(name)} has a field {printable(key[:64])}, allowed are {', '.join(FIELDS)}"
                self.fail(errors.BadField, at, message)
            seen.append(key)
            if key == "dtype":
                type = self.dtype(name)
            elif key == "shape":
                shape = self.shape()
            else:
                offsets = self.offsets(name)
        missing = [key for key in FIELDS if key not in seen]
        if missing:
            self.fail(errors.BadField, start, f"tensor {shortened(name)} has no {' and no '.join(missing)}")
        return self.placed(start, name, self.measure(start, name, type, shape), *offsets)

    def dtype(self, name: str) -> str:
        at = self.skip_space()
        type = self.string(errors.BadField)
        if type not in BY_DTYPE:
            message = f"tensor {shortened(name)} has dtype {printable(type[:64])}, which safetensors does not have"
            self.fail(errors.BadTensorType, at, message)
        return type

    def shape(self) -> tuple[int, ...]:
        shape: list[int] = []
        for at in self.elements(errors.BadField):
            dimension = self.integer(errors.BadDimension)
            if not 0 <= dimension < TOO_LARGE:
                self.fail(errors.BadDimension, at, f"a dimension of {dimension}, allowed are 0 to 2^63 - 1")
            if len(shape) == MOST_DIMENSIONS:
                self.fail(errors.TooManyDimensions, at, f"more than {MOST_DIMENSIONS} dimensions")
            shape.append(dimension)
        return tuple(shape)

    def offsets(self, name: str) -> tuple[int, int]:
        start = self.skip_space()
        found: list[int] = []
        for at in self.elements(errors.BadField):
            if len(found) == 2:
                self.fail(errors.BadField, at, f"tensor {shortened(name)} has more than two data_offsets")
            found.append(self.integer(errors.BadField))
        if len(found) != 2:
            self.fail(errors.BadField, start, f"tensor {shortened(name)} has {len(found)} data_offsets, expected 2")
        begin, end = found
        if not 0 <= begin <= end:
            message = f"tensor {shortened(name)} reaches from {begin} to {end}: it would end before it begins"
            self.fail(errors.BadRange, start, message)
        return begin, end

    def measure(self, start: int, name: str, type: str, shape: tuple[int, ...]) -> Measured:
        """Check that a tensor's values can be counted, and fill whole bytes."""
        values = prod(shape)
        nbytes, more = divmod(values * BY_DTYPE[type].bits, 8)
        if values >= TOO_LARGE or nbytes >= TOO_LARGE:
            self.fail(
                errors.SizeOverflow, start, f"tensor {shortened(name)} claims {values} values, 2^63 bytes or more"
            )
        if more:
            message = f"{values} values of tensor {shortened(name)} in {type} do not fill whole bytes"
            self.fail(errors.BadBlock, start, message)
        return type, shape, values, nbytes

    def placed(self, start: int, name: str, measured: Measured, begin: int, end: int) -> Tensor:
        """Check that a tensor has the bytes that it needs."""
        type, shape, values, nbytes = measured
        if end - begin != nbytes:
            message = f"tensor {shortened(name)} has {end - begin} bytes, its shape and dtype need {nbytes}"
            self.fail(errors.SizeMismatch, start, message)
        if end > self.size - self.stop and self.beyond is None:
            self.beyond = start, f"tensor {shortened(name)} needs bytes {begin} to {end} of a data section of "
        return tuple.__new__(Tensor, (name, type, shape, self.stop + begin, nbytes, values, self.part, False))
