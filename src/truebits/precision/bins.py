"""The bins that values are counted in: exponent x trailing zeros of the mantissa, and what each bin's values are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from truebits.numbers.formats import Format

APART = {480.0: (8, 3), 65504.0: (15, 10)}
"""Magnitudes with bins of their own, after the table's: exponent, and mantissa bits in use."""


@dataclass(frozen=True)
class Layout:
    """The table of one storage type: the bins of the F32 (or F64) that holds the same value.

    Attributes
    ----------
    type : str
        Storage type: F32, F16, BF16 or F64.
    word_bits : int
    mantissa_bits, bias, exponent_bits : int
        Of the storage type itself.
    table_bits, table_bias : int
        Mantissa bits and bias of the type whose table is used.
    """

    type: str
    word_bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    table_bits: int = 23
    table_bias: int = 127

    @property
    def columns(self) -> int:
        return self.table_bits + 1

    @property
    def shape(self) -> tuple[int, int]:
        return 2 * (self.table_bias + 1), self.columns

    def bin_of(self, exponent: int, mantissa_bits: int) -> int:
        """Return the bin of values with an exponent and so many mantissa bits in use."""
        return (exponent + self.table_bias) * self.columns + self.table_bits - mantissa_bits

    def bin_apart(self, magnitude: float) -> int:
        """Return the bin of a value of `APART`."""
        return self.shape[0] * self.columns + list(APART).index(magnitude)

    @property
    def bins(self) -> int:
        """How many there are."""
        return self.shape[0] * self.columns + len(APART)

    @cached_property
    def exponent(self) -> np.ndarray:
        """Biased exponent of the table's type, by bin."""
        table = np.repeat(np.arange(self.shape[0]), self.columns)
        return np.append(table, [exponent + self.table_bias for exponent, _ in APART.values()])

    @cached_property
    def trailing(self) -> np.ndarray:
        """Trailing zeros of the mantissa in the table's type, by bin."""
        table = np.tile(np.arange(self.columns), self.shape[0])
        return np.append(table, [self.table_bits - bits for _, bits in APART.values()])

    @cached_property
    def is_special(self) -> np.ndarray:
        """Inf or NaN, by bin."""
        return self.exponent == self.shape[0] - 1

    @cached_property
    def is_inf(self) -> np.ndarray:
        return self.is_special & (self.trailing == self.table_bits)

    @cached_property
    def is_nan(self) -> np.ndarray:
        return self.is_special & (self.trailing < self.table_bits)

    @cached_property
    def is_zero(self) -> np.ndarray:
        return (self.exponent == 0) & (self.trailing == self.table_bits)

    @cached_property
    def is_subnormal(self) -> np.ndarray:
        """Subnormal in the storage type, by bin."""
        return ~self.is_zero & ~self.is_special & (self.exponent - self.table_bias < 1 - self.bias)

    @cached_property
    def lowest(self) -> np.ndarray:
        """Exponent of the lowest set bit of a finite, non-zero value, by bin."""
        return np.maximum(self.exponent, 1) - self.table_bias - self.table_bits + self.trailing

    @cached_property
    def own_exponent(self) -> np.ndarray:
        """Biased exponent in the storage type itself, by bin."""
        own = np.maximum(self.exponent - self.table_bias + self.bias, 0)
        return np.where(self.is_special, (1 << self.exponent_bits) - 1, np.where(self.is_zero, 0, own))

    @cached_property
    def own_trailing(self) -> np.ndarray:
        """Trailing zeros of the mantissa in the storage type itself, by bin."""
        own = self.trailing - (self.table_bits - self.mantissa_bits)
        quantum = 1 - self.bias - self.mantissa_bits
        own = np.where(self.is_subnormal, self.lowest - quantum, own)
        return np.where(self.is_zero, self.mantissa_bits, own)

    def low_zero(self, bits: int) -> np.ndarray:
        """Low `bits` bits of the word are zero, by bin."""
        if bits <= self.mantissa_bits:
            return self.own_trailing >= bits
        low_exponent = (1 << (bits - self.mantissa_bits)) - 1
        return (self.own_trailing == self.mantissa_bits) & (self.own_exponent & low_exponent == 0)

    def unchanged(self, bits: int) -> np.ndarray:
        """Cutting the low `bits` bits gives the same word (`truebits_native.truncate`), by bin."""
        quiet = self.is_nan & (self.own_trailing >= min(bits, self.mantissa_bits - 1))
        return np.where(self.is_special, self.is_inf | quiet, self.low_zero(bits))

    def fits(self, format: Format) -> np.ndarray:
        """The round trip through `format` gives the same value (a NaN: the same bits), by bin.

        A finite value fits if it is not above the format's largest exponent, and its lowest bit
        not below the format's quantum at that exponent.
        """
        exponent = self.exponent - self.table_bias
        floor = np.maximum(exponent, format.smallest_normal_exponent) - format.mantissa_bits
        fits = (self.lowest >= floor) & (exponent <= format.largest_exponent)
        if format.special == "nan":
            fits[self.bin_apart(480.0)] &= format.largest >= 480
        payload = self.table_bits - (format.mantissa_bits if format.bits >= 16 else 1)
        fits = np.where(self.is_nan, (self.trailing >= payload) & format.has_nan, fits)
        return np.where(self.is_inf, format.has_inf, fits | self.is_zero)

    def flushed(self, format: Format) -> np.ndarray:
        """Below the format's smallest normal value, and not zero, by bin."""
        return ~self.is_zero & (self.exponent - self.table_bias < format.smallest_normal_exponent)


FLOAT_LAYOUTS = {
    layout.type: layout
    for layout in (
        Layout("F32", 32, 8, 23, 127),
        Layout("F16", 16, 5, 10, 15),
        Layout("BF16", 16, 8, 7, 127),
        Layout("F64", 64, 11, 52, 1023, 52, 1023),
    )
}
