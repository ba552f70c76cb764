"""What the kernels and their twins speak of: tables, grids, scales, differences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

TABLE = (256, 24)
"""Exponent x trailing zeros of an F32's 23-bit mantissa (23 where it is zero)."""

BINS = TABLE[0] * TABLE[1]

DOUBLE_TABLE = (2048, 53)
"""The same for F64 and its 52-bit mantissa."""

Ranges = np.ndarray

Sparse = tuple[np.ndarray, np.ndarray, np.ndarray]

NEAREST, TRUNCATE, STOCHASTIC, AWAY = range(4)
"""Roundings: to the nearest, ties to even; toward zero; up by chance; to the nearest, ties away from zero."""

ROUND_CHUNK = 1 << 13
"""Words whose errors are summed up together."""

LANES, ROWS = 256, 8
"""Partial sums of a chunk: value i goes to lane ``i % LANES``, `ROWS` rows added up before they are added to
the lanes, in order; then the lanes' upper half is added to the lower until one is left."""

GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Grid(NamedTuple):
    """The values of a number format that others are rounded to.

    Attributes
    ----------
    mantissa_bits : int
        0 to that of the words, 23 or 52.
    least_exponent : int
        Of the smallest normal value; below it values are multiples of
        ``2**(least_exponent - mantissa_bits)``.
    largest : float
        Greatest finite value.
    beyond : float
        What a value becomes that would be rounded to more: `largest`, inf or nan.
    infinity : float
        What Inf becomes: inf, `largest` or nan.
    nan_bits : int
        Leading mantissa bits that a NaN keeps: where none is left the quiet bit is set.
        0 makes every NaN the quiet one; -1: the format has none, it becomes `largest`.
    has_subnormals : bool
        False: what is rounded to less than the smallest normal value becomes zero.
    has_negative_zero : bool
    """

    mantissa_bits: int
    least_exponent: int
    largest: float
    beyond: float
    infinity: float
    nan_bits: int
    has_subnormals: bool = True
    has_negative_zero: bool = True


class Scales(NamedTuple):
    """One scale for each unit of values: a value x becomes ``clip(round(x * inverse), low, high) * scale``.

    Attributes
    ----------
    inverse, scale, low, high : ndarray of float32, shape (units,)
    """

    inverse: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray


class WordGrid(NamedTuple):
    """A `Grid` in F32 words, as the kernels ask for it.

    Attributes
    ----------
    shift : uint32
        Mantissa bits that a normal value loses.
    least_normal : uint32
        Words from here on are normal; smaller ones are multiples of `quantum`.
    quantum, per_quantum : float32
    largest, beyond, infinity : uint32
    nan_kept, nan_set : uint32
        Bits a NaN keeps, and those it gets where no mantissa bit is left.
    nan_lost : uint32
        1 where the format has no NaN.
    least_kept : uint32
        Smaller results become zero.
    zero_sign : uint32
        The sign bit, if zero keeps it.
    """

    shift: np.uint32
    least_normal: np.uint32
    quantum: np.float32
    per_quantum: np.float32
    largest: np.uint32
    beyond: np.uint32
    infinity: np.uint32
    nan_kept: np.uint32
    nan_set: np.uint32
    nan_lost: np.uint32
    least_kept: np.uint32
    zero_sign: np.uint32


def word_grid(grid: Grid) -> WordGrid:
    """Put a grid into F32 words."""

    def word(value: float) -> np.uint32:
        return np.abs(np.float32(value)).view(np.uint32)

    normal = word(2.0**grid.least_exponent) if grid.least_exponent > -126 else np.uint32(0)
    quantum = max(grid.least_exponent - grid.mantissa_bits, -126)
    kept = np.uint32(0x7FFFFFFF >> (23 - grid.nan_bits) << (23 - grid.nan_bits)) if grid.nan_bits >= 0 else np.uint32(0)
    return WordGrid(
        np.uint32(23 - grid.mantissa_bits),
        normal,
        np.float32(2.0**quantum),
        np.float32(2.0**-quantum),
        word(grid.largest),
        word(grid.beyond),
        word(grid.infinity),
        kept,
        np.uint32(0x00400000) if grid.nan_bits >= 0 else word(grid.largest),
        np.uint32(grid.nan_bits < 0),
        np.uint32(0) if grid.has_subnormals else word(2.0**grid.least_exponent),
        np.uint32(0x80000000) if grid.has_negative_zero else np.uint32(0),
    )


class Difference(NamedTuple):
    """How far words of one type are from others of the same values; adds up with `merged`.

    Values that were Inf or NaN have no error. One that becomes so has an infinite one.

    Attributes
    ----------
    values, changed : int
    flushed : int
        Became zero.
    saturated : int
        Were beyond what their format holds.
    max_ulp : int
        Largest distance, in units of the words' last place.
    max_abs, max_rel : float
        Largest error, and largest error over the value's magnitude; of F32 rounded once.
    squared_error, squares, products, other_squares : float
        Sums of squared errors, of the squared values, of values times what they are compared with, and of
        the squares of that.
    raised : int
        Were zero, and are not now.
    replaced : int
        Were Inf or NaN, and are another value now.
    """

    values: int = 0
    changed: int = 0
    flushed: int = 0
    saturated: int = 0
    max_ulp: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    squared_error: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    other_squares: float = 0.0
    raised: int = 0
    replaced: int = 0

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the values and what they are compared with; nan where one is all zero."""
        power = math.sqrt(self.squares) * math.sqrt(self.other_squares)
        return max(-1.0, min(1.0, self.products / power)) if 0 < power < math.inf else math.nan

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.squared_error / self.values if self.values else 0.0

    @property
    def rms(self) -> float:
        """Root of the mean squared error."""
        return math.sqrt(self.mse)

    @property
    def snr_db(self) -> float:
        """Ratio of the values' power to that of the errors, in dB; inf where there is no error."""
        if not self.squared_error:
            return math.inf
        if not self.squares or math.isinf(self.squared_error):
            return -math.inf
        return 10 * (math.log10(self.squares) - math.log10(self.squared_error))


def merged(parts: Iterable[Difference]) -> Difference:
    """Add up differences, in the order given."""
    whole = Difference()
    for part in parts:
        counts = (a + b for a, b in zip(whole[:4], part[:4], strict=True))
        most = (max(a, b) for a, b in zip(whole[4:7], part[4:7], strict=True))
        sums = (a + b for a, b in zip(whole[7:], part[7:], strict=True))
        whole = Difference(*counts, *most, *sums)
    return whole


FACTS = ("blocks", "special", "zero", "negative", "usual", "least", "greatest", "exponents")
"""What a row of facts about blocks holds: how many there are; of their floating-point scales, those that are Inf or
NaN (or whose offset is), zero, negative, and finite but not zero; of these last, the bits of the least and the
greatest magnitude (`NO_SCALE` and 0 if none), and the sum of the exponents."""

BLOCKS, SPECIAL, ZERO, NEGATIVE, USUAL, LEAST, GREATEST, EXPONENTS = range(len(FACTS))

NO_SCALE = 1 << 16
"""The least scale where no scale is finite and not zero."""


def add_facts(into: np.ndarray, more: np.ndarray) -> None:
    """Merge rows of facts, in place; shape (..., len(FACTS))."""
    least = np.minimum(into[..., LEAST], more[..., LEAST])
    greatest = np.maximum(into[..., GREATEST], more[..., GREATEST])
    into += more
    into[..., LEAST], into[..., GREATEST] = least, greatest


FLOAT_POINT_FOUR = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16)
"""What the codes of FP4 E2M1 stand for, doubled, as ggml keeps them."""


class ScaleFormat(NamedTuple):
    """How to read the bits of a scale.

    Attributes
    ----------
    nbytes : int
    magnitude : int
        Mask of the bits but the sign.
    special : int
        Least magnitude that is Inf or NaN.
    shift, bias : int
        The magnitude's bits from `shift` on are the exponent, with this bias.
    first : int
        Added to a magnitude, so that 0 is the value 0 only: E8M0 has none.
    """

    nbytes: int
    magnitude: int
    special: int
    shift: int
    bias: int
    first: int = 0


HALF = ScaleFormat(2, 0x7FFF, 0x7C00, 10, 15)
E8M0 = ScaleFormat(1, 0xFF, 256, 0, 128, first=1)
UE4M3 = ScaleFormat(1, 0x7F, 0x7F, 3, 7)


class BlockLayout(NamedTuple):
    """One block type.

    Attributes
    ----------
    values, nbytes, groups : int
        Per block.
    levels : ndarray of int16
        What each code stands for, before it is scaled.
    scale_at : int
        Byte of the scale that a block stores in floating point; all follow where there are several `scales`.
    offset_at : int or None
        Byte of the FP16 that offsets are multiples of.
    scale : ScaleFormat
    scales : int
    cell : int
        How many neighbouring codes are counted as one.
    """

    values: int
    nbytes: int
    groups: int
    levels: np.ndarray
    scale_at: int = 0
    offset_at: int | None = None
    scale: ScaleFormat = HALF
    scales: int = 1
    cell: int = 1


def _levels(count: int, zero: int = 0) -> np.ndarray:
    return np.arange(count, dtype=np.int16) - np.int16(zero)


LAYOUTS = {
    "Q4_0": BlockLayout(32, 18, 1, _levels(16, 8)),
    "Q4_1": BlockLayout(32, 20, 1, _levels(16), offset_at=2),
    "Q5_0": BlockLayout(32, 22, 1, _levels(32, 16)),
    "Q5_1": BlockLayout(32, 24, 1, _levels(32), offset_at=2),
    "Q8_0": BlockLayout(32, 34, 1, np.arange(256).astype(np.uint8).view(np.int8).astype(np.int16), cell=4),
    "Q2_K": BlockLayout(256, 84, 16, _levels(4), 80, 82),
    "Q3_K": BlockLayout(256, 110, 16, _levels(8, 4), 108),
    "Q4_K": BlockLayout(256, 144, 8, _levels(16), offset_at=2),
    "Q5_K": BlockLayout(256, 176, 8, _levels(32), offset_at=2),
    "Q6_K": BlockLayout(256, 210, 16, _levels(64, 32), 208),
    "TQ1_0": BlockLayout(256, 54, 1, _levels(3, 1), 52),
    "TQ2_0": BlockLayout(256, 66, 1, _levels(4, 1), 64),
    "MXFP4": BlockLayout(32, 17, 1, FLOAT_POINT_FOUR, scale=E8M0),
    "NVFP4": BlockLayout(64, 36, 4, FLOAT_POINT_FOUR, scale=UE4M3, scales=4),
}
