"""Values that were FP8 codes (E4M3) times a scale -> the scale and the codes, where there are such.

A scale is shared by a unit of values: a tensor, a row, a block of 128 x 128. The largest of them is one of eight
codes; with the scale that this gives, nearly, the code of each value is known. And each value then says between which
two numbers the scale is, if the value is code times scale, rounded: the scale is what all of them leave. Of several
numbers the one with the fewest bits is taken; one value that is a power of two as a code leaves one only, of values
that are F32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from truebits.files.tensor import Tensor
from truebits.quantizers.small_floats import USUAL_BLOCK, Blocks, spread
from truebits.quantizers.upcasts import rounded

SIDE = USUAL_BLOCK[0]
"""Rows and columns of a block."""

TOPS = (448, 416, 384, 352, 320, 288, 256, 240)
"""Codes that a unit's largest value may be, what quantizers make of it first; all others are these, halved."""

MANTISSA_BITS = {"F32": 23, "F16": 10, "BF16": 7}
LEAST_NORMAL = {"F32": 2.0**-126, "F16": 2.0**-14, "BF16": 2.0**-126}

SAMPLE = 256
"""Values of a unit that are looked at first."""

SLACK, INSIDE = 2.0**-51, 2.0**-40
"""What a quotient of two float64 may be off, doubled; and how far within bounds that are not reached themselves."""

TWICE_ROUNDED = 2.0**-23
"""So much, relatively, bounds may contradict each other where values were rounded to F32, and once more."""

SUBNORMAL, QUANTUM = np.float32(2.0**-6), np.float32(2.0**-9)
"""Of E4M3: codes below are multiples of the quantum."""

NEAR = {"F32": 2.0**-21, "F16": 2.0**-9, "BF16": 2.0**-7}
"""How far off a code, relatively, a value is taken for it, where one value of a unit is no code times the scale."""


class Scaled(NamedTuple):
    """FP8 codes times scales, instead of values.

    Attributes
    ----------
    per : {"block", "row", "tensor"}
        What shares a scale.
    scales : ndarray of float32
        As they are stored: of shape (1,), (rows, 1), or (blocks below each other, blocks side by side).
    values : int
        How many codes.
    finer : int
        Values that code times scale has finer than the file, which rounded them once more.
    """

    per: str
    scales: np.ndarray
    values: int
    finer: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.values + self.scales.nbytes

    def of_rows(self, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
        """Return the scale of each value of some rows, or of each row: shape (rows, columns) or (rows, 1)."""
        rows, columns = shape
        reach = {"block": (SIDE, SIDE), "row": (1, columns), "tensor": (rows, columns)}[self.per]
        down, along = self.scales.shape if self.scales.ndim == 2 else (1, 1)
        blocks = Blocks(*reach, rows, down, along)
        return spread(self.scales.reshape(-1, blocks.scale_columns), blocks, columns, start, stop)

    def codes(self, words: np.ndarray, shape: tuple[int, ...], start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes of some rows, uint8, and the scale of each; `words` are F32, of shape (rows, columns)."""
        scale = self.of_rows(shape, start, start + len(words))
        return codes_of(words.view(np.float32), scale), scale


def scale_shape(tensor: Tensor, per: str) -> tuple[int, ...]:
    """Return the shape of the scales of a matrix."""
    rows, columns = tensor.shape
    return {"block": (-(-rows // SIDE), -(-columns // SIDE)), "row": (rows, 1), "tensor": (1,)}[per]


class UnitScales(NamedTuple):
    """What was found for units of values.

    Attributes
    ----------
    values : ndarray of float32, shape (units,)
        0 where all values are zero, or where there is no scale.
    held : ndarray of bool, shape (units,)
        Codes times the scale give back every value of the unit, after rounding as the file's type does.
    finer : ndarray of int64, shape (units,)
        How many values have more bits as code times scale than in the file.
    """

    values: np.ndarray
    held: np.ndarray
    finer: np.ndarray


def scales_of(values: np.ndarray, stored: str) -> UnitScales:
    """Find the scale of each unit.

    Parameters
    ----------
    values : ndarray of float32, shape (units, n)
    stored : {"F32", "F16", "BF16"}
        What code times scale was rounded to.
    """
    units = len(values)
    found = UnitScales(np.zeros(units, np.float32), np.zeros(units, bool), np.zeros(units, np.int64))
    magnitudes = np.abs(values)
    top = magnitudes.max(axis=1, initial=0).astype(np.float64)
    found.held[top == 0] = True
    is_finite = np.isfinite(top)
    first = np.ascontiguousarray(magnitudes[:, :: max(1, values.shape[1] // SAMPLE)])

    def attempt(some: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Try a scale for each of some units; return those for which it is not right."""
        held, finer = proved(magnitudes[some], scale[:, None], stored)
        kept = some[held]
        found.values[kept], found.finer[kept], found.held[kept] = scale[held], finer[held], True
        return some[~held]

    for code in TOPS:
        some = np.flatnonzero(is_finite & ~found.held)
        low, high = bounds(first[some], top[some] / code, stored)
        may_be = low <= high * (1 + TWICE_ROUNDED)
        some = attempt(some[may_be], _simplest(low[may_be], high[may_be]))
        if not some.size:
            continue
        low, high = bounds(magnitudes[some], top[some] / code, stored)
        for scale in candidates(low, high):
            is_left = ~found.held[some]
            attempt(some[is_left], scale[is_left])
    return found


def bounds(values: np.ndarray, near: np.ndarray, stored: str) -> tuple[np.ndarray, np.ndarray]:
    """Return between which numbers the scale of each unit is, if each value is code times scale, rounded.

    Parameters
    ----------
    values : ndarray of float32, shape (units, n)
        Not negative.
    near : ndarray, shape (units,)
        The scale, nearly.

    Returns
    -------
    tuple of two ndarrays of float64, shape (units,)
        The first is greater than the second where there is no scale.
    """
    levels = levels_of(values, near.astype(np.float32)[:, None])
    words = values.view(np.uint32)
    least = np.float32(LEAST_NORMAL[stored])
    binade = np.maximum((words & np.uint32(0x7F800000)).view(np.float32), least)
    above = binade.astype(np.float64) * 2.0 ** -(1 + MANTISSA_BITS[stored])
    below = np.where((values == binade) & (values > least), above / 2, above)
    is_even = words >> np.uint32(23 - MANTISSA_BITS[stored]) & np.uint32(1) == 0  # ties go there
    slack = np.where(is_even, SLACK, -INSIDE)
    with np.errstate(all="ignore"):
        low = np.where(levels > 0, (values - below) / levels, np.where(values > 0, np.inf, 0.0))
        high = np.where(levels > 0, (values + above) / levels, np.inf)
    low, high = (low * (1 - slack)).max(axis=1, initial=0), (high * (1 + slack)).min(axis=1, initial=np.inf)
    is_beyond = ~(levels <= TOPS[0]).all(axis=1)
    return np.where(is_beyond, np.inf, low), high


def levels_of(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the value of the code nearest to each, of values that are not negative; float32."""
    with np.errstate(all="ignore"):
        quotients = values / scale
        levels = ((quotients.view(np.uint32) + np.uint32(1 << 19)) & np.uint32(0xFFF00000)).view(np.float32)
        np.copyto(levels, np.rint(quotients / QUANTUM) * QUANTUM, where=quotients < SUBNORMAL)
    return levels


def candidates(low: np.ndarray, high: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the scales between each two numbers that are tried; float32, 1 where there is none.

    That with the fewest bits; and where code times scale, rounded to F32 first, was not rounded the way that the
    bounds suppose, those in the middle.
    """
    yield _simplest(low, high)
    is_near = (low <= high * (1 + TWICE_ROUNDED)) & (low > 0) & np.isfinite(high)
    middle = np.where(is_near, (low + high) / 2, 1).astype(np.float32)
    yield middle
    yield np.nextafter(middle, np.float32(0))
    yield np.nextafter(middle, np.float32(np.inf))


def _simplest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the F32 number with the fewest bits between each two; 1 where there is none, or anything will do."""
    found = np.zeros(low.shape)
    high = np.minimum(high, float(np.finfo(np.float32).max))
    exponents = np.frexp(high)[1] - 1
    for bits in range(24):
        step = np.ldexp(1.0, np.maximum(exponents - bits, -149))
        number = np.floor(high / step) * step
        np.copyto(found, number, where=(found == 0) & (number >= low))
    return np.where((found > 0) & (low > 0), found, 1).astype(np.float32)


def proved(values: np.ndarray, scale: np.ndarray, stored: str) -> tuple[np.ndarray, np.ndarray]:
    """Tell which units codes times a scale give back, and how many values of each are finer so.

    Parameters
    ----------
    values : ndarray of float32, shape (units, n)
        Not negative.
    scale : ndarray of float32, shape (units, 1) or (units, n)

    Returns
    -------
    tuple of ndarray of bool and ndarray of int64, shape (units,)
    """
    words = values.view(np.uint32)
    levels = levels_of(values, scale)
    with np.errstate(all="ignore"):
        made = levels * scale
        held = (rounded(made, stored) == words).all(axis=1) & (levels <= TOPS[0]).all(axis=1)
    return held, np.count_nonzero(made.view(np.uint32) != words, axis=1)


def codes_of(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the E4M3 code of each value.

    Parameters
    ----------
    values : ndarray of float32
    scale : ndarray of float32
        Of a shape that goes with theirs.

    Returns
    -------
    ndarray of uint8
    """
    levels = levels_of(np.abs(values), scale)
    normal = (levels.view(np.uint32) >> np.uint32(20)) - np.uint32((127 - 7) << 3)
    codes = np.where(levels < SUBNORMAL, levels / QUANTUM, normal).astype(np.uint8)
    return codes | np.signbit(values).astype(np.uint8) << np.uint8(7)


def odd_one(values: np.ndarray, stored: str) -> int | None:
    """Return which value of a unit is no code times the scale of all others; None if several are not.

    Parameters
    ----------
    values : ndarray of float32, shape (n,)
    """
    magnitudes = np.abs(values)
    largest = np.argsort(magnitudes)[-2:]
    for top in magnitudes[largest[::-1]]:
        for code in TOPS:
            scale = np.array([top / code], np.float32)
            levels = levels_of(magnitudes, scale)
            with np.errstate(all="ignore"):
                off = np.flatnonzero(~(np.abs(magnitudes / scale - levels) <= NEAR[stored] * levels))
            others = np.delete(magnitudes, off)[None]
            if off.size == 1 and scales_of(others, stored).held[0]:
                return int(off[0])
    return None
