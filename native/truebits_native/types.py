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
