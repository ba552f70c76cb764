"""One tensor against its namesake in another GGUF: the same values, rounded, quantized otherwise, or others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product

import numpy as np

from truebits.comparing.measure import Both
from truebits.comparing.sides import PIECE_VALUES, Side, spans
from truebits.files.types import FLOAT_BYTES
from truebits.lineage.detours import Detour, through_blocks
from truebits.lineage.kin import Kin, Relation
from truebits.lineage.overlap import CellOverlap, has_cells
from truebits.lineage.ways import BF16, CLIPPED, CLIPPED_TEXT, FP16, Cast, same
from truebits.precision.undone import Change
from truebits.quantizers.blocks import has_values
from truebits_native.pool import in_order

WAYS = (
    (FP16, "FP16"),
    (CLIPPED, f"FP16, {CLIPPED_TEXT}"),
    (BF16, "BF16"),
    (Cast("bf16", "truncate"), "BF16, truncated"),
    (Cast("fp16", "truncate"), "FP16, truncated"),
)
"""Roundings that are tried."""

CHANGED_BY_ROUNDING = 1 / 64
"""Of values with more bits than a format has, far more than this share do not fit it; a few that do not, among
many that do, were changed one by one."""

FEW = 4
"""So few values tell nothing of it."""

FIRST_LOOK = 1024
"""Values of which most quantizations are known not to be what became of a tensor."""

FAR = 0.5
"""Squared errors over squares: no quantization is as far off, and what is unrelated is farther."""

SMALLEST_FP16, LARGEST_FP16 = 2.0**-14, 65504.0
"""Outside of these FP16 does not have all BF16 values: there few values may be rounded, the rest not."""


def relation(first: Side, other: Side, change: Change | None, threads: int | None) -> Relation:
    """Tell what a tensor is to the first model's, of the same shape."""
    types = first.tensor.type, other.tensor.type
    if Both(first, other, threads).same_bytes():
        return Relation(Kin.SAME)
    plain = [type in FLOAT_BYTES for type in types]
    if all(plain):
        found = _rounded(first, other, change, threads)
        return _through_blocks(first, other, threads) or found if found.kin is Kin.OTHER_VALUES else found
    if not all(type in FLOAT_BYTES or has_values(type) for type in types):
        return Relation(Kin.UNCOMPARED, f"of {' and '.join(sorted(set(types)))} no values are known")
    if all(same(a, b).all() for a, b in _pieces(first, other, "F32")):
        return Relation(Kin.SAME)
    unknown = [type for type in types if not has_cells(type)]
    if unknown:
        why = f"what another quantizer may do to {unknown[0]} is not known, and the values differ"
        return Relation(Kin.UNCOMPARED, why)
    return _requantized(first, other)


def _requantized(first: Side, other: Side) -> Relation:
    """Tell whether two tensors, at least one of them quantized, can be of the same values."""
    overlap = CellOverlap(first.tensor.type, other.tensor.type)
    for at, count in spans(first.tensor.values, PIECE_VALUES // 8, first.block[0], other.block[0]):
        overlap.add((first, other), at, count)
        first.forget(at, count)
        other.forget(at, count)
    if overlap.is_possible:
        return Relation(Kin.REQUANTIZED)
    return Relation(Kin.OTHER_VALUES, f"{overlap.apart:,} of {overlap.values:,} cannot be one value, quantized twice")


def _pieces(first: Side, other: Side, type: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield both sides piece by piece, as words of a type."""
    for at, count in spans(first.tensor.values, PIECE_VALUES // 4, first.block[0], other.block[0]):
        yield first.words(at, count, type), other.words(at, count, type)
        for side in (first, other):
            side.file.check()
            side.forget(at, count)


def _rounded(first: Side, other: Side, change: Change | None, threads: int | None) -> Relation:
    """Tell what unquantized values are to others."""
    if "F64" in (first.tensor.type, other.tensor.type):
        equal = all(np.array_equal(*pair) for pair in _pieces(first, other, "F64"))
        return Relation(Kin.SAME if equal else Kin.OTHER_VALUES)
    if all(same(a, b).all() for a, b in _pieces(first, other, "F32")):
        return Relation(Kin.SAME)
    left = [(kin, cast, detail) for kin in (Kin.ROUNDED, Kin.FINER) for cast, detail in WAYS]
    values = first.tensor.values
    differing, in_range, is_natural = 0, 0, values <= FEW

    def look(pair: tuple[np.ndarray, np.ndarray]) -> tuple[list[tuple[Kin, Cast, str]], int, int]:
        explain = [way for way in left if _explains(way[1], *(pair if way[0] is Kin.ROUNDED else pair[::-1]), change)]
        return explain, *((0, 0) if is_natural else _differing(*pair))

    for explain, differ, inside in in_order(look, _pieces(first, other, "F32"), threads):
        left = [way for way in left if way in explain]
        if not left:
            return Relation(Kin.OTHER_VALUES)
        differing, in_range = differing + differ, in_range + inside
        is_natural = is_natural or differing > max(1, CHANGED_BY_ROUNDING * values)
    kin, cast, detail = left[0]
    if is_natural or (cast.format == "fp16" and not in_range):
        return Relation(kin, detail)
    return Relation(Kin.OTHER_VALUES, f"{differing:,} of {values:,} differ")


def _differing(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Count what differs, and what of it is within FP16's range."""
    magnitude = np.abs(a[~same(a, b)].view("<f4"))
    return magnitude.size, int(np.count_nonzero((magnitude >= SMALLEST_FP16) & (magnitude <= LARGEST_FP16)))


def _through_blocks(first: Side, other: Side, threads: int | None) -> Relation | None:
    """Tell whether one of two tensors is the other, quantized by a reference quantizer and dequantized again."""
    shape = first.tensor.shape
    if len(shape) < 2 or not first.tensor.values or "F64" in (first.tensor.type, other.tensor.type):
        return None
    a, b = (words[:FIRST_LOOK] for words in next(_pieces(first, other, "F32")))
    values, differences = a.view("<f4").astype(np.float64), a.view("<f4").astype(np.float64) - b.view("<f4")
    if not np.square(differences).sum() < FAR * np.square(values).sum():
        return None
    for detour, kin, cast in product(through_blocks(shape[0]), (Kin.ROUNDED, Kin.FINER), (None, FP16, BF16)):
        fine, coarse = (first, other) if kin is Kin.ROUNDED else (other, first)
        start = (a, b) if kin is Kin.ROUNDED else (b, a)
        if all(_is_detoured(detour, cast, *pair, threads) for pair in chain([start], _pieces(fine, coarse, "F32"))):
            return Relation(kin, detour.name)
    return None


def _is_detoured(detour: Detour, cast: Cast | None, fine: np.ndarray, coarse: np.ndarray, threads: int | None) -> bool:
    words = detour.apply(fine.view("<f4")).view("<u4")
    if cast is not None:
        cast.apply(words, threads)
    return bool(same(words, coarse).all())


def _explains(cast: Cast, fine: np.ndarray, coarse: np.ndarray, change: Change | None) -> bool:
    """Tell whether F32 words are others, rounded: as they stand, or before a converter changed them."""
    rounded = fine.copy()
    cast.apply(rounded, 1)
    if same(rounded, coarse).all():
        return True
    return change is not None and _explains_before(cast, fine, coarse, change)


def _explains_before(cast: Cast, fine: np.ndarray, coarse: np.ndarray, change: Change) -> bool:
    """Tell whether values were rounded before a converter changed them, which hides their last bits."""
    stored = fine.view("<f4")
    found = np.zeros(fine.size, bool)
    for step in (-1, 0, 1):
        with np.errstate(all="ignore"):  # what no converter can have written
            hidden = stored.astype(np.float64) + step * np.spacing(np.abs(stored)).astype(np.float64)
            source = change.back(hidden).astype("<f4").view(np.uint32)
            cast.apply(source, 1)
            again = change.forth(source.view("<f4")).astype("<f4").view(np.uint32)
        found |= same(again, coarse)
    return bool(found.all())
