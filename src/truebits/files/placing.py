"""Where a GGUF's tensors lie: each gets its bytes in the file, none leaves it, none meets another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple, NoReturn

from truebits import errors
from truebits.errors import ModelFileError, shortened
from truebits.files.tensor import Tensor, check_overlap
from truebits.files.types import BY_NUMBER, FIRST_CLAIMED_TWICE, OPAQUE_NAMES

TOO_LARGE = 1 << 63


class Info(NamedTuple):
    """A tensor info as it stands in a header.

    Attributes
    ----------
    start : int
        Byte offset of the record.
    name : str
    shape : tuple of int
    number : int
        ggml's type id.
    offset : int
        From the data section's start.
    """

    start: int
    name: str
    shape: tuple[int, ...]
    number: int
    offset: int


def place(
    path: Path, infos: Sequence[Info], data_start: int, size: int, alignment: int, part: int
) -> tuple[Tensor, ...]:
    """Give each tensor its bytes in a file of `size` bytes.

    A type that ggml does not define is opaque: its tensors reach to the next offset. So is one that
    forks have numbered, too, where fewer than half of its tensors have the bytes that ggml's needs.

    Raises
    ------
    MisalignedOffset, BadTensorType, BadBlock, SizeOverflow, OutOfBounds, Overlap
    """
    available = max(0, size - data_start)
    sizes = [_measure(path, info, alignment, available) for info in infos]
    ends = dict(pairwise([*sorted({info.offset for info in infos}), available])) if _any_unclear(infos) else {}
    opaque = {info.number for info in infos if info.number not in BY_NUMBER}
    opaque |= _misfits(infos, sizes, ends, alignment)
    tensors = []
    for info, (values, nbytes) in zip(infos, sizes, strict=True):
        _, name, shape, number, offset = info
        if number in opaque:
            type = OPAQUE_NAMES.get(number, f"type_{number}")
            nbytes = max(0, ends[offset] - offset) if values else 0
        else:
            type = BY_NUMBER[number].name
        if offset > available or nbytes > available - offset:
            message = f"needs {nbytes} bytes at {offset} of a data section of {available}"
            _fail(path, errors.OutOfBounds, info, message + _incomplete(infos, sizes, data_start, size, alignment))
        tensors.append(Tensor(name, type, shape, data_start + offset, nbytes, values, part, number in opaque))
    check_overlap(path, tensors)
    return tuple(tensors)


def _measure(path: Path, info: Info, alignment: int, available: int) -> tuple[int, int]:
    """Check one tensor by itself; return its number of values and, of a type that is known, its bytes."""
    if info.offset % alignment:
        _fail(path, errors.MisalignedOffset, info, f"has offset {info.offset}, not a multiple of {alignment}")
    if info.number < 0:
        _fail(path, errors.BadTensorType, info, f"has type {info.number}: types count from 0")
    values = prod(info.shape)
    if values >= TOO_LARGE:
        _fail(path, errors.SizeOverflow, info, f"claims {values} values, 2^63 or more")
    nbytes = 0
    if info.number in BY_NUMBER:
        block = BY_NUMBER[info.number]
        row = info.shape[0] if info.shape else 1
        if row % block.values:
            _fail(path, errors.BadBlock, info, f"has rows of {row} values; {block.name} blocks hold {block.values}")
        nbytes = values // block.values * block.nbytes
        if nbytes >= TOO_LARGE:
            _fail(path, errors.SizeOverflow, info, f"claims {nbytes} bytes, 2^63 or more")
    return values, nbytes


def _incomplete(
    infos: Sequence[Info], sizes: Sequence[tuple[int, int]], data_start: int, size: int, alignment: int
) -> str:
    """Say how much of a file is here, where its tensors lie one behind the other, as writers put them."""
    padded = [nbytes + -nbytes % alignment for _, nbytes in sizes]
    end = max(info.offset + nbytes for info, nbytes in zip(infos, padded, strict=True))
    if end != sum(padded):
        return ""
    whole = data_start + max(info.offset + nbytes for info, (_, nbytes) in zip(infos, sizes, strict=True))
    return f"; an incomplete download? {size:,} of {whole:,} bytes are here"


def _any_unclear(infos: Iterable[Info]) -> bool:
    return any(info.number >= FIRST_CLAIMED_TWICE or info.number not in BY_NUMBER for info in infos)


def _misfits(infos: Sequence[Info], sizes: Sequence[tuple[int, int]], ends: dict[int, int], alignment: int) -> set[int]:
    """Return the known types, of those that forks have numbered, whose size few tensors' places have.

    Room behind the last tensor says nothing: a file may have trailing bytes, or be cut off.
    """
    last = max(ends, default=0)
    fits: dict[int, int] = {}
    for info, (_, nbytes) in zip(infos, sizes, strict=True):
        if info.number in BY_NUMBER and info.number >= FIRST_CLAIMED_TWICE and nbytes:
            room = ends[info.offset] - info.offset - nbytes
            if info.offset != last:
                fits[info.number] = fits.get(info.number, 0) + (1 if 0 <= room < alignment else -1)
    return {number for number, surplus in fits.items() if surplus < 0}


def _fail(path: Path, error: type[ModelFileError], info: Info, message: str) -> NoReturn:
    raise error(path, info.start, f"tensor {shortened(info.name)} {message}")
