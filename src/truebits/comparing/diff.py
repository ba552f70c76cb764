"""Model against model: which values differ, by how much, and where.

Equal bytes are proved by comparing them. Only tensors that differ are measured: in their own words if both
are plain and of one type, else as the F32 values that each of them means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite, lcm
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.errors import UsageError, printable, shortened
from truebits.files.mapping import MappedFile
from truebits.files.model import Model, Regexes, open_model
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES, FP8_FORMATS
from truebits.numbers.words import to_singles
from truebits.precision.batches import Progress
from truebits.precision.coverage import Coverage
from truebits.quantizers.ggml import in_rows
from truebits_native import reference
from truebits_native.reference import Difference, merged

PIECE_VALUES = 1 << 22
"""Compared at a time; half as many where words have to be made of them first."""

SEARCH_VALUES = 1 << 15
"""Looked at one by one at a time, for the one that differs most."""

ITEM_BYTES = {**FLOAT_BYTES, **dict.fromkeys(FP8_FORMATS, 1)}
"""Bytes per value of the types that have no blocks."""

METRICS = ("changed", "max_abs", "max_rel", "max_ulp", "mse", "rms")
"""What a gate can limit: less is better, 0 is the same."""


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


@dataclass(frozen=True)
class TensorDiff:
    """One tensor in both models.

    Attributes
    ----------
    name : str
    types : (str, str)
    shapes : (tuple of int, tuple of int)
        Both with their dimensions in the order of the first side's file.
    values : int
        Of the first side.
    difference : Difference or None
        None where the bytes are equal, or where values cannot be compared.
    first, worst : Place or None
        The first value that differs, and the first of those with the largest error.
    problem : str or None
        Why values cannot be compared.
    """

    name: str
    types: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    values: int
    difference: Difference | None = None
    first: Place | None = None
    worst: Place | None = None
    problem: str | None = None

    @property
    def changed(self) -> int:
        """Values that differ."""
        return self.difference.changed if self.difference else 0

    @property
    def is_same(self) -> bool:
        """Type, shape and every byte are the same: only what differs in bytes is measured."""
        is_alike = self.types[0] == self.types[1] and self.shapes[0] == self.shapes[1]
        return is_alike and self.difference is None and self.problem is None

    @property
    def is_unknown(self) -> bool:
        """The types differ, and one of them has no values that could be compared: they may be the same."""
        return self.problem is not None and self.types[0] != self.types[1] and self.shapes[0] == self.shapes[1]


class KeyDiff(NamedTuple):
    """A metadata key whose value differs; None where a side does not have it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Diff:
    """What `diff` found.

    Attributes
    ----------
    a, b : str
        Paths.
    tensors : tuple of TensorDiff
        Those in both, in the first model's order.
    only_a, only_b : tuple of str
        Names of tensors that the other side does not have.
    metadata : tuple of KeyDiff
    coverage : Coverage
        What was compared of the first model's tensors.
    """

    a: str
    b: str
    tensors: tuple[TensorDiff, ...] = field(repr=False)
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    metadata: tuple[KeyDiff, ...] = ()
    coverage: Coverage = field(repr=False, default_factory=Coverage)

    @property
    def is_same(self) -> bool:
        """Tensors and metadata are the same."""
        return self.verdict == "same"

    @property
    def verdict(self) -> str:
        """``same``, ``different``, or ``not verified`` where only what could not be compared may differ."""
        odd = [tensor for tensor in self.tensors if not tensor.is_same]
        if self.only_a or self.only_b or self.metadata or not all(tensor.is_unknown for tensor in odd):
            return "different"
        return "not verified" if odd else "same"

    @property
    def values(self) -> int:
        """Values in tensors that both have."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def changed(self) -> int:
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def total(self) -> Difference:
        """Figures over all tensors that differ."""
        return merged(tensor.difference for tensor in self.tensors if tensor.difference is not None)

    def over(self, metric: str, limit: float) -> list[str]:
        """Say what is above a limit, or differs and cannot be measured; nothing if the gate is passed.

        What may be the same and cannot be compared is neither: see `unknown`.

        Raises
        ------
        UsageError
            No such metric, or a limit that could never be exceeded, or only by mistake.
        """
        check_limit(metric, limit)
        failed = [
            f"{name} is only in {printable(side)}"
            for side, names in ((self.a, self.only_a), (self.b, self.only_b))
            for name in names
        ]
        for tensor in self.tensors:
            if tensor.problem and not tensor.is_unknown:
                failed.append(f"{tensor.name}: {tensor.problem}")
            elif tensor.difference is not None and not figure(tensor.difference, metric) <= limit:
                failed.append(
                    f"{tensor.name}: {metric} is {figure(tensor.difference, metric):.6g}, more than {limit:g}"
                )
        return failed

    @property
    def unknown(self) -> tuple[TensorDiff, ...]:
        """The tensors that may be the same and cannot be compared."""
        return tuple(tensor for tensor in self.tensors if tensor.is_unknown)


def check_limit(metric: str, limit: float) -> None:
    """Raise `UsageError` for a gate that lets nothing or everything pass."""
    if metric not in METRICS:
        raise UsageError(f"no metric is called {metric!r}; there are {', '.join(METRICS)}")
    if not isfinite(limit) or limit < 0:
        raise UsageError(f"a limit of {limit} for {metric} lets nothing or everything pass: give 0 or more")


def figure(of: Difference, metric: str) -> float:
    """Return one of `METRICS`."""
    return float(getattr(of, metric))


def diff(
    a: Model | str | os.PathLike[str],
    b: Model | str | os.PathLike[str],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Diff:
    """Compare two models tensor by tensor.

    Parameters
    ----------
    a, b : Model or path-like
    select, exclude : regex or regexes, optional
        Which tensors of each.
    threads, progress
        As for `scan`.

    Returns
    -------
    Diff

    Raises
    ------
    SelectionError, ModelFileError, OSError
    """
    ours, theirs = (side if isinstance(side, Model) else open_model(side) for side in (a, b))
    chosen = [{tensor.name: tensor for tensor in side.select(select, exclude)} for side in (ours, theirs)]
    both = [(tensor, chosen[1][name]) for name, tensor in chosen[0].items() if name in chosen[1]]
    native.expect_work("rounding", sum(tensor.values for tensor, _ in both))
    total, done, found = sum(tensor.nbytes for tensor, _ in both), 0, []
    for old, new in both:
        found.append(_compared(Side(ours, old), Side(theirs, new), threads))
        done += old.nbytes
        if progress is not None:
            progress(done, total)
    only = [tuple(tensor.label for name, tensor in chosen[i].items() if name not in chosen[1 - i]) for i in (0, 1)]
    not_read = dict.fromkeys(chosen[0].keys() - chosen[1].keys(), "the other side has none of this name")
    not_read |= {old.name: of.problem for (old, _), of in zip(both, found, strict=True) if of.problem}
    coverage = Coverage.of(ours.tensors, not_read, chosen[0].keys())
    metadata = tuple(_metadata(ours, theirs))
    return Diff(str(ours.path), str(theirs.path), tuple(found), only[0], only[1], metadata, coverage)


class Side(NamedTuple):
    """One side of a comparison: a tensor of a model, read piece by piece."""

    model: Model
    tensor: Tensor

    def map(self) -> MappedFile:
        return self.model.parts[self.tensor.part].map()

    @property
    def block(self) -> tuple[int, int]:
        """Values and bytes of a block."""
        if self.tensor.type in ITEM_BYTES:
            return 1, ITEM_BYTES[self.tensor.type]
        layout = BY_NAME[self.tensor.type]
        return layout.values, layout.nbytes

    def expect(self, file: MappedFile) -> None:
        """Say that the whole tensor will be read."""
        file.expect(self.tensor.offset, self.tensor.offset + self.tensor.nbytes)

    def bytes(self, file: MappedFile, first: int, count: int) -> np.ndarray:
        """View the bytes of `count` values, whole blocks, from value `first` on."""
        file.check()
        values, nbytes = self.block
        return np.frombuffer(
            file.data, np.uint8, count // values * nbytes, self.tensor.offset + first // values * nbytes
        )

    def words(self, file: MappedFile, first: int, count: int, type: str) -> np.ndarray:
        """Return values as words of `type`: their own, F32, or F64."""
        data = self.bytes(file, first, count)
        own = self.tensor.type
        if own in ITEM_BYTES:
            words = data.view(f"<u{ITEM_BYTES[own]}")
            return words if own == type else _as_type(words, own, type)
        import gguf

        with np.errstate(invalid="ignore", over="ignore"):  # scales that are NaN or Inf
            values = gguf.quants.dequantize(in_rows(data, *self.block), gguf.GGMLQuantizationType[own]).ravel()
        return _as_type(values.view(np.uint32), "F32", type)

    def forget(self, file: MappedFile, first: int, count: int) -> None:
        """Unmap the pages of values that were read."""
        values, nbytes = self.block
        start = self.tensor.offset + first // values * nbytes
        file.forget(start, start + count // values * nbytes)


def _as_type(words: np.ndarray, own: str, type: str) -> np.ndarray:
    if type != "F64":
        return to_singles(words, own)
    if own == "F64":
        return words
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return to_singles(words, own).view("<f4").astype("<f8").view("<u8")


def _compared(ours: Side, theirs: Side, threads: int | None) -> TensorDiff:
    """Compare one tensor with its namesake."""
    a, b = ours.tensor, theirs.tensor
    if ours.model.format != theirs.model.format:  # GGUF has the fastest dimension first, safetensors last
        b = b._replace(shape=b.shape[::-1])
    same = TensorDiff(a.label, (a.type, b.type), (a.shape, b.shape), a.values)
    problem = _problem(a, b)
    with ours.map() as left, theirs.map() as right:
        ours.expect(left)
        theirs.expect(right)
        if problem is None and a.type == b.type and same_bytes(ours, theirs, left, right, threads):
            return same
        if problem is None:
            return _measured(same, ours, theirs, left, right, threads)
        if (a.type, a.shape, a.nbytes) == (b.type, b.shape, b.nbytes) and _equal(left, a, right, b):
            return same
    return TensorDiff(same.name, same.types, same.shapes, same.values, problem=problem)


def _problem(a: Tensor, b: Tensor) -> str | None:
    """Say why the values of two tensors cannot be compared."""
    if a.shape != b.shape:
        shapes = (" x ".join(map(str, tensor.shape)) for tensor in (a, b))
        return f"its shapes differ: {' and '.join(shapes)}"
    import gguf

    for tensor in (a, b):
        if tensor.type not in ITEM_BYTES:
            number = gguf.GGMLQuantizationType.__members__.get(tensor.type)
            if tensor.opaque or number is None or number not in gguf.quants._type_traits:
                differ = "the bytes differ, and " if a.type == b.type else ""
                return f"{differ}{tensor.type} has no values that could be compared"
    return None


def _equal(left: MappedFile, a: Tensor, right: MappedFile, b: Tensor) -> bool:
    if not a.nbytes:  # its offset may be past the end of the file
        return True
    old = np.frombuffer(left.data, np.uint8, a.nbytes, a.offset)
    return np.array_equal(old, np.frombuffer(right.data, np.uint8, b.nbytes, b.offset))


def spans(values: int, size: int, *blocks: int) -> Iterator[tuple[int, int]]:
    """Yield the first value and the number of values of each piece of about `size`, in whole blocks of both sides."""
    together = lcm(*blocks)
    step = max(1, size // together) * together
    for first in range(0, values, step):
        yield first, min(step, values - first)


def same_bytes(ours: Side, theirs: Side, left: MappedFile, right: MappedFile, threads: int | None) -> bool:
    """Tell whether two tensors of one type are the same, byte for byte."""
    for first, count in spans(ours.tensor.values, PIECE_VALUES, ours.block[0]):
        old, new = ours.bytes(left, first, count), theirs.bytes(right, first, count)
        if not np.array_equal(old[:SEARCH_VALUES], new[:SEARCH_VALUES]):  # most tensors that differ do so at once
            return False
        whole = old.size // 4 * 4
        if native.differing_count(old[:whole].view("<u4"), new[:whole].view("<u4"), threads=threads):
            return False
        if not np.array_equal(old[whole:], new[whole:]):
            return False
        ours.forget(left, first, count)
        theirs.forget(right, first, count)
    return True


def _measured(
    same: TensorDiff, ours: Side, theirs: Side, left: MappedFile, right: MappedFile, threads: int | None
) -> TensorDiff:
    """Measure two tensors of one shape, and find where they differ first and most."""
    type = _common(*same.types)

    def words(span: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return ours.words(left, *span, type), theirs.words(right, *span, type)

    parts: list[Difference] = []
    first_span = worst_span = None
    largest = -1.0
    size = PIECE_VALUES if same.types == ("F32", "F32") else PIECE_VALUES // 2
    for span in spans(ours.tensor.values, size, ours.block[0], theirs.block[0]):
        old, new = words(span)
        part = _judged(_difference(old, new, type, threads), 8 * old.itemsize)
        if part.changed and first_span is None:
            first_span = span
        if part.changed and part.max_abs > largest:
            worst_span, largest = span, part.max_abs
        parts.append(part)
        ours.forget(left, *span)
        theirs.forget(right, *span)
    first = worst = None
    if first_span and worst_span:
        old, new = words(first_span)
        first = place_of(old, new, first_span[0], type, _first(old, new))
        old, new = words(worst_span)
        worst = place_of(old, new, worst_span[0], type, _worst(old, new, type, largest))
    return TensorDiff(same.name, same.types, same.shapes, same.values, merged(parts), first, worst)


def _common(a: str, b: str) -> str:
    """Return the type in whose words two types are compared."""
    if a == b and a in FLOAT_BYTES:
        return a
    return "F64" if "F64" in (a, b) else "F32"


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


def _metadata(ours: Model, theirs: Model) -> Iterator[KeyDiff]:
    """Yield the keys whose values differ, of the first file of each model."""
    a, b = ours.parts[0], theirs.parts[0]
    with a.map() as left, b.map() as right:
        for key in dict.fromkeys([*a.header.keys, *b.header.keys]):
            sides = [(part, file) for part, file in ((a, left), (b, right)) if key in part.header.keys]
            raw = [part.raw_value(file.data, key) for part, file in sides]
            if len(raw) == 1 or raw[0] != raw[1]:
                texts = {id(part): _shown(part.header.value(file.data, key)) for part, file in sides}
                yield KeyDiff(printable(key), texts.get(id(a)), texts.get(id(b)))


def _shown(value: float | str | bool | None) -> str:
    return "an array" if value is None else shortened(str(value))
