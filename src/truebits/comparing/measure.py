"""Two tensors of one shape: whether their bytes are the same, and if not, how far their values are apart.

Bytes first, at the speed of memory. Of quantized tensors that differ in a few blocks only these are dequantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.comparing import sides
from truebits.comparing.sides import ITEM_BYTES, AnySide, QuantizedSide, spans
from truebits.files.mapping import MappedFile
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.words import to_singles
from truebits_native import reference
from truebits_native.reference import Difference, merged

SEARCH_VALUES = 1 << 15
"""Looked at one by one at a time, for the one that differs most."""

SLICE_BYTES = 1 << 20
"""Compared at a time by NumPy: what it makes on the way stays in the cache."""

LARGE_BYTES = 1 << 28
"""A tensor of more bytes is compared on all cores."""

FEW_BLOCKS = 1 << 12
"""So many blocks that differ are looked at alone; where there are more, all of the tensor is measured."""


class Place(NamedTuple):
    """One value of a tensor, on both sides.

    Attributes
    ----------
    at : int
        Index of the value in its tensor.
    a, b : float
    word_a, word_b : str
        In hex: the words in the file, or F32 words where the sides differ in type or are quantized.
    """

    at: int
    a: float
    b: float
    word_a: str
    word_b: str


class Measured(NamedTuple):
    """How far apart two tensors are.

    Attributes
    ----------
    difference : Difference
    first, worst : Place or None
        The first value that differs, and the first of those with the largest error.
    """

    difference: Difference
    first: Place | None = None
    worst: Place | None = None


@dataclass
class Both:
    """Two tensors of one shape, mapped."""

    ours: AnySide
    theirs: AnySide
    threads: int | None

    @property
    def values(self) -> int:
        return self.ours.tensor.values

    @property
    def type(self) -> str:
        """In whose words they are compared."""
        a, b = self.ours.tensor.type, self.theirs.tensor.type
        if a == b and a in FLOAT_BYTES:
            return a
        return "F64" if "F64" in (a, b) else "F32"

    def bytes(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        return self.ours.bytes(first, count), self.theirs.bytes(first, count)

    def words(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        return self.ours.words(first, count, self.type), self.theirs.words(first, count, self.type)

    def forget(self, first: int, count: int) -> None:
        """Unmap the pages of values that were read."""
        self.ours.forget(first, count)
        self.theirs.forget(first, count)

    @property
    def is_quantized(self) -> bool:
        """A side's values are more than its bytes: settings of its checkpoint say what they mean."""
        return isinstance(self.ours, QuantizedSide) or isinstance(self.theirs, QuantizedSide)

    def same_bytes(self) -> bool:
        """Tell whether they are of one type, and the same byte for byte."""
        if self.ours.tensor.type != self.theirs.tensor.type:
            return False
        stored, others = self.ours.stored, self.theirs.stored
        if [tensor.nbytes for _, tensor in stored] != [tensor.nbytes for _, tensor in others]:
            return False
        return all(self._same_range(*ours, *theirs) for ours, theirs in zip(stored, others, strict=True))

    def _same_range(self, left: MappedFile, a: Tensor, right: MappedFile, b: Tensor) -> bool:
        step = 4 * sides.PIECE_VALUES
        for at in range(0, a.nbytes, step):
            size = min(step, a.nbytes - at)
            pieces = []
            for file, start in ((left, a.offset + at), (right, b.offset + at)):
                file.check()
                file.expect_all([(start, start + size)])  # what makes a remote file fetch them
                pieces.append(np.frombuffer(file.data, np.uint8, size, start))
            if not _equal(pieces[0], pieces[1], self.threads, a.nbytes > LARGE_BYTES):
                return False
            left.forget(a.offset + at, a.offset + at + size)
            right.forget(b.offset + at, b.offset + at + size)
        return True

    def few_blocks(self) -> np.ndarray | None:
        """Return which blocks differ; None if there are many, or the tensors have none."""
        values, nbytes = self.ours.block
        types = {self.ours.tensor.type, self.theirs.tensor.type}
        if self.is_quantized or len(types) > 1 or types <= ITEM_BYTES.keys():
            return None
        found: list[np.ndarray] = []
        for first, count in spans(self.values, sides.PIECE_VALUES // 4, values):
            old, new = self.bytes(first, count)
            if not _equal(old, new, self.threads, is_large=False):
                differs = (old.reshape(-1, nbytes) != new.reshape(-1, nbytes)).any(axis=1)
                found.append(first // values + np.flatnonzero(differs))
            if sum(some.size for some in found) > FEW_BLOCKS:
                return None
            self.forget(first, count)
        return np.concatenate([np.empty(0, np.int64), *found])

    def measured(self) -> Measured:
        """Measure them, and find where they differ first and most."""
        blocks = self.few_blocks()
        if blocks is not None and 16 * blocks.size * self.ours.block[0] < self.values:
            return self._of_blocks(blocks)
        return self._of_all()

    def _of_blocks(self, blocks: np.ndarray) -> Measured:
        """Measure what differs; how strong the whole signal is, is not known then."""
        each, _ = self.ours.block
        parts, places = [], []
        for block in blocks.tolist():
            old, new = self.words(block * each, each)
            part = _judged(reference.compare(old, new), 32)
            parts.append(part)
            if part.changed:
                places += [
                    (part.max_abs, place_of(old, new, block * each, "F32", at))
                    for at in (_first(old, new), _worst(old, new, "F32", part.max_abs))
                ]
        whole = merged(parts)._replace(values=self.values, squares=nan, products=nan, other_squares=nan)
        if not places:
            return Measured(whole)
        largest = max(error for error, _ in places)
        worst = next(place for error, place in places[1::2] if error == largest)
        return Measured(whole, places[0][1], worst)

    def _of_all(self) -> Measured:
        parts: list[Difference] = []
        first_span = worst_span = None
        largest = -1.0
        types = self.ours.tensor.type, self.theirs.tensor.type
        size = sides.PIECE_VALUES if types == ("F32", "F32") else sides.PIECE_VALUES // 2
        for span in spans(self.values, size, self.ours.block[0], self.theirs.block[0]):
            old, new = self.words(*span)
            part = _judged(_difference(old, new, self.type, self.threads), 8 * old.itemsize)
            if part.changed and first_span is None:
                first_span = span
            if part.changed and part.max_abs > largest:
                worst_span, largest = span, part.max_abs
            parts.append(part)
            self.forget(*span)
        first = worst = None
        if first_span and worst_span:
            old, new = self.words(*first_span)
            first = place_of(old, new, first_span[0], self.type, _first(old, new))
            old, new = self.words(*worst_span)
            worst = place_of(old, new, worst_span[0], self.type, _worst(old, new, self.type, largest))
        return Measured(merged(parts), first, worst)


def _equal(old: np.ndarray, new: np.ndarray, threads: int | None, is_large: bool) -> bool:
    """Tell whether bytes are the same; in a large tensor on all cores, which takes a kernel to be loaded."""
    if not np.array_equal(old[:SEARCH_VALUES], new[:SEARCH_VALUES]):  # most tensors that differ do so at once
        return False
    whole = old.size // 4 * 4 if is_large else 0
    if native.differing_count(old[:whole].view("<u4"), new[:whole].view("<u4"), threads=threads):
        return False
    slices = (slice(at, at + SLICE_BYTES) for at in range(whole, old.size, SLICE_BYTES))
    return all(np.array_equal(old[one], new[one]) for one in slices)


def _difference(old: np.ndarray, new: np.ndarray, type: str, threads: int | None) -> Difference:
    if old.itemsize != 2:
        return native.compare(old, new, threads)
    found = native.compare(to_singles(old, type, threads), to_singles(new, type, threads), threads)
    return found._replace(max_ulp=reference.half_distance(old, new, type))


def _judged(of: Difference, bits: int) -> Difference:
    """Count what was NaN or Inf and is another value now as infinitely wrong, and relatively what was zero.

    `native.compare` gives them no error: rounding leaves them as they are.
    """
    if of.replaced:
        return of._replace(max_abs=np.inf, max_rel=np.inf, squared_error=np.inf, max_ulp=1 << bits)
    return of._replace(max_rel=np.inf) if of.raised else of


def _values(words: np.ndarray, type: str) -> np.ndarray:
    """Return words as numbers, float32 or float64."""
    return words.view("<f8") if type == "F64" else to_singles(words, type).view("<f4")


def _first(old: np.ndarray, new: np.ndarray) -> int:
    """Find the first value that differs."""
    for start in range(0, old.size, SEARCH_VALUES):
        differs = old[start : start + SEARCH_VALUES] != new[start : start + SEARCH_VALUES]
        if differs.any():
            return start + int(np.argmax(differs))
    raise ValueError("no value differs")


def _worst(old: np.ndarray, new: np.ndarray, type: str, largest: float) -> int:
    """Find the first value that differs by as much as `largest`, the most that any does."""
    for start in range(0, old.size, SEARCH_VALUES):
        ours, theirs = old[start : start + SEARCH_VALUES], new[start : start + SEARCH_VALUES]
        a, b = _values(ours, type), _values(theirs, type)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(b - a)
            if error.max() < largest:  # not, if there is a NaN
                continue
            error = np.nan_to_num(error, nan=np.inf, posinf=np.inf)
        error[np.isnan(a) & np.isnan(b)] = 0
        error[ours == theirs] = -1
        if error.max() >= largest:
            return start + int(np.argmax(error))
    raise ValueError(f"no value differs by {largest}")


def place_of(old: np.ndarray, new: np.ndarray, start: int, type: str, at: int) -> Place:
    """Tell of one value of a piece that begins with value `start`."""
    a, b = old[at : at + 1], new[at : at + 1]
    digits = 2 * old.itemsize
    ours, theirs = (float(_values(words, type)[0]) for words in (a, b))
    return Place(start + at, ours, theirs, f"{a[0]:0{digits}x}", f"{b[0]:0{digits}x}")
