"""Whether two tensors can be one, quantized twice: each code stands for an interval, and each two must meet.

What requantizing, another importance matrix or another quantizer does is bounded so for every single value;
what training, merging or an edit does is not. Of ggml's own quantizers no two intervals were found apart that
should meet, but for types whose codes are not the nearest to their values by the scale as it is stored.
"""

from __future__ import annotations

import numpy as np

from truebits.comparing.sides import Side
from truebits.files.types import FLOAT_FORMATS
from truebits.lineage.cells import TYPES, Cells, CodeCells
from truebits.numbers.spelling import find

TOUCHING = 1e-4
"""Of a step. Two intervals that have less in common than this do not meet: a value would have to be on the very
edge of both. An interval without width, of an F32, must only not be so far outside."""

APART = 1e-2
"""Of a step, from which on two intervals are apart whatever the build of ggml."""

HALF_ULP_OF_FP16 = 2.0**-11

CHANCE = 1e-6
"""Share of values, at most, that may be on the edge of both intervals."""

ROUND = {"MXFP4", "TQ2_0"}
"""Types whose scales, and so the edges of their intervals, are round numbers as BF16 has them: values lie on them."""

CHANCE_OF_SEARCHED = 3e-4
FEW = 3
"""The same for types with codes that are not always the nearest, in two that are about as fine: measured 5e-5."""


def has_cells(type: str) -> bool:
    """Tell whether it is known which values a type's codes stand for."""
    return type in TYPES or (type in FLOAT_FORMATS and type != "F64")


class CellOverlap:
    """How many values of two tensors cannot be one value, added up piece by piece.

    Attributes
    ----------
    values, apart, wide_apart : int
        Looked at, and those that do not meet, or are even `APART`.
    """

    def __init__(self, first: str, other: str):
        self.types = first, other
        self.cells = [CodeCells(type) if type in TYPES else None for type in self.types]
        self.not_nearest = [TYPES[type].not_nearest if type in TYPES else 0.0 for type in self.types]
        self.is_exact = not any(self.not_nearest)
        self.values = self.apart = self.wide_apart = 0
        self.steps = [0.0, 0.0]

    def add(self, sides: tuple[Side, Side], first: int, count: int) -> None:
        """Take in a piece of both, whole blocks."""
        a, b = (self._cells(number, sides[number], first, count) for number in (0, 1))
        with np.errstate(all="ignore"):  # NaN, Inf, and scales that are 0
            gap = np.maximum(a.least, b.least) - np.minimum(a.most, b.most)
            step = np.fmin(np.where(a.step > 0, a.step, np.inf), np.where(b.step > 0, b.step, np.inf))
            has_width = all(cells is not None for cells in self.cells)
            edge = -TOUCHING if has_width else TOUCHING
            slack = self._slack(0, a) + self._slack(1, b)
            self.apart += int(np.count_nonzero(gap > edge * step + slack))
            self.wide_apart += int(np.count_nonzero(gap > APART * step + slack))
        self.values += count
        self.steps = [
            total + float(cells.step.sum(dtype=np.float64)) for total, cells in zip(self.steps, (a, b), strict=True)
        ]

    def _cells(self, number: int, side: Side, first: int, count: int) -> Cells:
        singles = side.words(first, count, "F32").view("<f4")
        cells = self.cells[number]
        if cells is not None:
            return cells.of(side.bytes(first, count), singles)
        half = _half_ulp(singles, self.types[number])
        zeros = np.zeros_like(singles)
        return Cells(singles - half, singles + half, zeros, zeros)

    def _slack(self, number: int, cells: Cells) -> np.ndarray | float:
        """Return how far off codes may be that were chosen for a scale (and a minimum) before FP16 rounded it."""
        of = self.cells[number]
        if of is None or not of.codes.not_nearest:
            return 0.0
        most = max(map(abs, of.codes.levels))
        slack: np.ndarray = cells.step * (most + cells.offset) * HALF_ULP_OF_FP16
        return slack

    @property
    def is_possible(self) -> bool:
        """Both can be of the same values."""
        if self.is_exact:
            few = FEW if set(self.types) & ROUND else 0
            return not self.wide_apart and self.apart <= few + CHANCE * self.values
        return self.apart <= FEW + self._chance * self.values

    @property
    def _chance(self) -> float:
        """Return which share may be apart: codes that are not the nearest show where the other side is finer."""
        found = CHANCE_OF_SEARCHED
        for own, other, share in zip(self.steps, self.steps[::-1], self.not_nearest, strict=True):
            found += share * max(0.0, 1 - 2 * other / own) if own else 0.0
        return found


def _half_ulp(singles: np.ndarray, type: str) -> np.ndarray | float:
    """Return how far a value may have been rounded to the type that it is stored in; nothing for F32."""
    format = find(FLOAT_FORMATS[type])
    if format.bits > 16:
        return 0.0
    exponent = np.maximum(np.frexp(singles)[1] - 1 - format.mantissa_bits, format.quantum_exponent)
    exponent[singles == 0] = format.quantum_exponent
    half: np.ndarray = np.ldexp(np.float32(0.5), exponent)
    return half
