"""Values that were dequantized -> the blocks of one of ggml's types that stand for them, where there are such.

The values of a block are whole numbers times a scale; in Q4_1 and Q5_1 an offset is added. The largest value is one of
few whole numbers, so that few scales come into question, the one that ggml's own quantizer would have taken first. A
scale is right if it makes whole numbers of all values, and these give the values back, bit for bit. Which whole number
the largest value is at least, the greatest common divisor of all values tells.

Values that were rounded once more, to F16 or BF16, leave more than one scale open: those near the one that the
largest value gives are tried, and one is right that gives the values back after the same rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from truebits_native.codes import ue4m3_singles
from truebits_native.types import FLOAT_POINT_FOUR, LAYOUTS, UE4M3

TYPES = ("MXFP4", "Q4_0", "NVFP4", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Fewest bits first."""

USUAL_TOP = {"Q8_0": 127, "Q4_0": -8, "Q5_0": -16, "MXFP4": 8, "NVFP4": 12}
"""The whole number that ggml's quantizer makes of a block's largest value, or one of them."""

NEAR = {"F32": 0, "F16": 2, "BF16": 9}
"""How many of FP16's numbers to either side may be the scale, by what the values were rounded to."""

MOST_SPREAD = 30
"""Binades between the values of a block: between whole numbers of any type there are fewer."""

NO_CODE, ZERO = 1 << 15, 128


def repacked(words: np.ndarray, type: str, stored: str = "F32") -> Repacked:
    """Find the blocks of a type that stand for values.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
        The values of whole blocks, as F32 words.
    type : str
        One of `TYPES`.
    stored : {"F32", "F16", "BF16"}
        What the blocks' values were rounded to. F32: to nothing, the blocks give back every bit.
    """
    groups = Repacked(words, type, stored)
    with np.errstate(all="ignore"):  # scales that are zero, and those that FP16 does not have
        _find_offsets(groups) if LAYOUTS[type].offset_at is not None else _find_scales(groups)
    return groups


class Repacked:
    """Groups of values that share a scale, and what was found for them.

    Attributes
    ----------
    words : ndarray of uint32, shape (groups, values)
    scale, offset : ndarray of uint16, shape (groups,)
        As the type stores them.
    levels : ndarray of float32, shape (groups, values)
        The whole numbers.
    found, open : ndarray of bool, shape (groups,)
        What stands for the values is found, or may be yet: not where one is no finite number.
    finer : ndarray of int64, shape (groups,)
        How many values have more bits in the block than they had: 0 but for those that were rounded once more.
    """

    def __init__(self, words: np.ndarray, type: str, stored: str):
        self.layout = LAYOUTS[type]
        self.type, self.stored = type, stored
        self.words = words.reshape(-1, self.layout.values // self.layout.groups)
        self.values = self.words.view(np.float32)
        self.scale, self.offset = np.zeros((2, len(self.words)), np.uint16)
        self.levels = np.zeros(self.words.shape, np.float32)
        self.open = ((self.words & np.uint32(0x7F800000)) != 0x7F800000).all(axis=1)
        self.found: np.ndarray = np.zeros(len(self.words), bool)
        self.finer = np.zeros(len(self.words), np.int64)

    def attempt(self, some: np.ndarray, scale: _Numbers, offset: _Numbers | None = None) -> None:
        """Try a scale for each of some groups, and an offset."""
        x, factor = self.values[some], scale.values[:, None]
        levels = (x - offset.values[:, None] if offset else x) / factor
        np.clip(levels, self.layout.levels.min(), self.layout.levels.max(), out=levels)
        np.rint(levels, out=levels)
        levels += 0.0  # codes know no -0
        nothing = np.flatnonzero(scale.values == 0)
        if nothing.size:
            opposite = np.signbit(x[nothing]) != np.signbit(factor[nothing])
            levels[nothing] = 0 if offset else np.where(opposite, -1, 0)
        made = levels * factor
        if offset:
            made += offset.values[:, None]
        right = rounded(made, self.stored) == self.words[some]
        if self.layout.levels is FLOAT_POINT_FOUR:
            right &= _codes(self.type)[levels.astype(np.int64) + ZERO] != NO_CODE
        is_held = right.all(axis=1)
        kept = some[is_held]
        self.scale[kept], self.levels[kept] = scale.words[is_held], levels[is_held]
        self.found[kept], self.open[kept] = True, False
        if offset:
            self.offset[kept] = offset.words[is_held]
        if self.stored != "F32":
            self.finer[kept] = np.count_nonzero(made[is_held].view(np.uint32) != self.words[kept], axis=1)

    @property
    def held(self) -> np.ndarray:
        """Which blocks stand for their values; bool of shape (blocks,)."""
        held: np.ndarray = np.logical_and.reduce(self.found.reshape(-1, self.layout.groups), axis=1)
        return held

    @property
    def raw(self) -> np.ndarray:
        """The blocks as ggml lays them out (``ggml-common.h``), uint8 of shape (n, bytes of a block)."""
        layout, groups = self.layout, self.layout.groups
        codes = _codes(self.type)[self.levels.astype(np.int64) + ZERO].astype(np.uint8)
        if layout.scale.nbytes == 1:
            parts: list[np.ndarray] = [self.scale.astype(np.uint8).reshape(-1, groups)]
        else:
            words = (self.scale, self.offset) if layout.offset_at is not None else (self.scale,)
            parts = [of[:, None].view(np.uint8) for of in words]
        if layout.levels.size == 256:
            return np.concatenate([*parts, codes], axis=1)
        if layout.levels.size == 32:
            parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
        half = codes.shape[1] // 2
        nibbles = codes[:, :half] & 15 | codes[:, half:] << np.uint8(4)
        return np.concatenate([*parts, nibbles.reshape(-1, groups * half)], axis=1)


class _Numbers(NamedTuple):
    """Scales or offsets: as a type stores them, and as float32."""

    words: np.ndarray
    values: np.ndarray


def _find_scales(groups: Repacked) -> None:
    """Find whole numbers times a scale."""
    values, usual = groups.values, USUAL_TOP[groups.type]
    top = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)[:, 0].astype(np.float64)
    if usual > 0:
        top = np.abs(top)
    least = np.ones(len(top), np.int64)
    for level in _tops(groups.type):
        for step in _steps(groups.stored):
            some = np.flatnonzero(groups.open & (level % np.maximum(least, 1) == 0))
            if some.size:
                groups.attempt(some, _scales(top[some] / level, groups.type, step))
            if not groups.open.any():
                return
        if level == usual and groups.stored == "F32":
            some = np.flatnonzero(groups.open)
            least[some] = _least_top(values[some])
        elif groups.type == "Q8_0" and groups.stored != "F32":
            return  # 127 whole numbers times as many scales: only what ggml's quantizer makes


def _tops(type: str) -> Iterator[int]:
    """Yield the whole numbers that a block's largest value may be, ggml's own first."""
    usual = USUAL_TOP[type]
    yield usual
    for level in sorted({abs(int(one)) for one in LAYOUTS[type].levels} - {0}, reverse=True):
        yield from (one for one in (level, -level) if one != usual)


def _least_top(values: np.ndarray) -> np.ndarray:
    """Return the least whole number that each group's largest value can be, so that all others are whole, too."""
    fractions, exponents = np.frexp(values.astype(np.float64))
    whole = np.ldexp(fractions, 24).astype(np.int64)
    exponents = np.where(whole == 0, 1 << 16, exponents)
    shifts: np.ndarray = np.where(whole == 0, 0, exponents - exponents.min(axis=1, keepdims=True))
    whole = np.abs(whole) << np.minimum(shifts, MOST_SPREAD)
    divisor = np.maximum(np.gcd.reduce(whole, axis=1), 1)
    return np.where(shifts.max(axis=1) > MOST_SPREAD, 1 << 30, whole.max(axis=1) // divisor)


def _find_offsets(groups: Repacked) -> None:
    """Find whole numbers times a scale, with an offset added."""
    low, high = (of(groups.values, axis=1).astype(np.float64) for of in (np.min, np.max))
    most = LAYOUTS[groups.type].levels.size - 1
    for span in range(most, 0, -1):
        spacing = (high - low) / span
        candidates = groups.open if span == most else _even(groups, low, high, span)
        for first, offset_step, scale_step in product(
            range(most - span + 1), _steps(groups.stored), _steps(groups.stored, 1)
        ):
            some = np.flatnonzero(candidates & groups.open)
            if not some.size:
                break
            offset = _halves(low[some] - first * spacing[some], offset_step)
            reach = high[some] - offset.values if first == 0 else high[some] - low[some]
            groups.attempt(some, _halves(reach / span, scale_step), offset)
        if groups.stored != "F32" or not groups.open.any():
            return  # of rounded values only what ggml's quantizer makes: the least value is the offset


def _even(groups: Repacked, low: np.ndarray, high: np.ndarray, span: int) -> np.ndarray:
    """Tell which open groups may have their values at even distances, so many from the least to the largest."""
    candidates = groups.open.copy()
    some = np.flatnonzero(candidates)
    least, spacing = low[some, None], ((high - low)[some] / span)[:, None]
    slack = np.maximum(np.abs(low), np.abs(high))[some, None] * 2.0**-22
    steps = (groups.values[some] - least) / spacing
    candidates[some] = (np.abs(steps - np.rint(steps)) * spacing <= slack).all(axis=1)
    return candidates


def _steps(stored: str, least: int = 0) -> Iterator[int]:
    """Yield how far to go from the nearest number: 0, 1, -1, 2, ..."""
    yield 0
    for step in range(1, max(NEAR[stored], least) + 1):
        yield from (step, -step)


def _scales(x: np.ndarray, type: str, step: int) -> _Numbers:
    """Return the scales of a type that are nearest to numbers; those of FP4 are doubled, as its levels are."""
    if type == "MXFP4":
        exponents = np.where(x > 0, np.clip(np.frexp(x)[1] + 127, 0, 254), 0)
        return _Numbers(exponents.astype(np.uint16), np.ldexp(np.float32(1), exponents - 128))
    if type == "NVFP4":
        table = ue4m3_singles()[: UE4M3.special]
        words = np.searchsorted((table[1:] + table[:-1]) / 2, x)
        return _Numbers(words.astype(np.uint16), table[words])
    return _halves(x, step)


def _halves(x: np.ndarray, step: int) -> _Numbers:
    """Return the FP16 numbers so many steps away from the nearest to numbers."""
    nearest = x.astype(np.float16).view(np.uint16)
    words = (nearest.astype(np.int32) + step).astype(np.uint16)
    words = np.where((words ^ nearest) & 0x8000 | ((words & 0x7C00) == 0x7C00), nearest, words)
    return _Numbers(words, words.view(np.float16).astype(np.float32))


def rounded(values: np.ndarray, stored: str) -> np.ndarray:
    """Return float32 values rounded to a type, as F32 words."""
    if stored == "F16":
        return values.astype(np.float16).astype(np.float32).view(np.uint32)
    words = values.view(np.uint32)
    if stored == "BF16":
        return words + (0x7FFF + (words >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return words


@cache
def _codes(type: str) -> np.ndarray:
    """Return the code of each whole number from -`ZERO` on; `NO_CODE` of those that are no level of the type."""
    codes = np.full(2 * ZERO + 1, NO_CODE, np.uint16)
    levels = LAYOUTS[type].levels
    codes[levels[::-1].astype(np.int64) + ZERO] = np.arange(levels.size)[::-1]
    return codes
