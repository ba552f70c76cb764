"""PrecisionProfile: counts of exponents and trailing zeros, and every question asked of them.

Whether an F32 value fits a floating-point format depends on its exponent and on how many of its
mantissa's low bits are zero, so a table of these two, counted once, answers for every format, every
cut and every k, exactly. F16 and BF16 tensors are counted as the F32 of the same values; F64 has a
table of its own. Tables add up: chunks to tensors, tensors to groups, files to surveys.

Two magnitudes need more, and `scan` counts them in bins of their own. The exponent 8 binade of FP8 E4M3FN
ends at 448, and 480 (its NaN code) has the exponent and trailing zeros of 288, 352 and 416. FP16 ends at 65504,
where clipped values stand; 511 others look like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from truebits.numbers.formats import Format
from truebits.numbers.spelling import find
from truebits.precision.bins import APART, FLOAT_LAYOUTS, Layout

REPORTED_FORMATS = ("bf16", "fp16", "tf32", "fp8_e5m2", "fp8_e4m3fn")
"""The formats a report counts the exact values of."""


@cache
def _mask(type: str, question: str, argument: int | Format) -> np.ndarray:
    return getattr(FLOAT_LAYOUTS[type], question)(argument)


@cache
def _reported(type: str) -> np.ndarray:
    """The masks of every number in `PrecisionProfile.answers`, int64 of shape (bins, numbers)."""
    layout = FLOAT_LAYOUTS[type]
    masks = [layout.low_zero(bits) for bits in range(1, layout.word_bits)]
    masks += [layout.fits(find(name)) for name in REPORTED_FORMATS]
    masks += [layout.is_nan, layout.is_inf, layout.is_zero, layout.is_subnormal]
    return np.stack(masks, axis=1).astype(np.int64)


class Questions:
    """Questions asked of many profiles of a storage type at once.

    Parameters
    ----------
    masks : sequence of ndarray of bool
        Of each question, the bins whose values are counted. Bins with the same answers are of one kind.
    """

    def __init__(self, masks: Sequence[np.ndarray]):
        numbers = np.arange(len(masks))
        kinds, self.kind = np.unique((np.stack(masks, 1) << numbers).sum(axis=1), return_inverse=True)
        self.answers = kinds[:, None] >> numbers & 1

    def of(self, profiles: Sequence[PrecisionProfile]) -> np.ndarray:
        """Count the values of each profile; int64 of shape (questions, profiles)."""
        owners = np.repeat(np.arange(len(profiles)), [one.bins.size for one in profiles])
        places = owners * len(self.answers) + self.kind[np.concatenate([one.bins for one in profiles])]
        counts = np.zeros(len(profiles) * len(self.answers), np.int64)
        np.add.at(counts, places, np.concatenate([one.counts for one in profiles]))
        return (counts.reshape(len(profiles), -1) @ self.answers).T


@dataclass(eq=False, slots=True)
class PrecisionProfile:
    """Exact counts of the values of one or more tensors of one storage type.

    Profiles add up with ``+`` and `merge`.

    Attributes
    ----------
    type : str
        Storage type: F32, F16, BF16 or F64.
    bins : ndarray of int64, shape (n,)
        Flat indices into the layout's table, ascending.
    counts : ndarray of int64, shape (n,)
    """

    type: str
    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def merge(cls, profiles: Iterable[PrecisionProfile]) -> PrecisionProfile:
        """Add profiles of the same storage type up.

        Raises
        ------
        ValueError
            There is none, or their storage types differ.
        """
        profiles = list(profiles)
        types = {profile.type for profile in profiles}
        if len(types) != 1:
            raise ValueError(f"profiles of one storage type add up, not of {sorted(types)}")
        if len(profiles) == 1:
            return profiles[0]
        bins = np.concatenate([profile.bins for profile in profiles])
        counts = np.concatenate([profile.counts for profile in profiles])
        return cls.of(types.pop(), bins, counts)

    @classmethod
    def of(cls, type: str, bins: np.ndarray, counts: np.ndarray) -> PrecisionProfile:
        """Build a profile from bins in any order, which may repeat."""
        table = np.zeros(FLOAT_LAYOUTS[type].bins, np.int64)
        np.add.at(table, bins, counts)
        occurring = np.flatnonzero(table)
        return PrecisionProfile(type, occurring, table[occurring])

    def __add__(self, other: PrecisionProfile) -> PrecisionProfile:
        return PrecisionProfile.merge([self, other])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PrecisionProfile)
            and self.type == other.type
            and np.array_equal(self.bins, other.bins)
            and np.array_equal(self.counts, other.counts)
        )

    @property
    def layout(self) -> Layout:
        return FLOAT_LAYOUTS[self.type]

    @property
    def values(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    @property
    def table(self) -> np.ndarray:
        """The counts as exponent x trailing zeros, int64 of shape (256, 24); F64: (2048, 53)."""
        layout = self.layout
        flat = np.zeros(layout.bins, np.int64)
        flat[self.bins] = self.counts
        for magnitude, place in APART.items():
            flat[layout.bin_of(*place)] += flat[layout.bin_apart(magnitude)]
        return flat[: -len(APART)].reshape(layout.shape)

    def count(self, mask: np.ndarray) -> int:
        """Number of values in the bins where `mask`, bool by bin, is True."""
        return int(self.counts[mask[self.bins]].sum())

    def low_zero(self, bits: int) -> int:
        """Number of values whose low `bits` bits are zero; 16 is the report's number for F32.

        Raises
        ------
        ValueError
            `bits` is not 1 to word size - 1.
        """
        if not 1 <= bits < self.layout.word_bits:
            raise ValueError(f"bits is {bits}, allowed are 1 to {self.layout.word_bits - 1} for {self.type}")
        return self.count(_mask(self.type, "low_zero", bits))

    def changed_by_cut(self, bits: int) -> int:
        """Number of values that setting the low `bits` bits to zero would change."""
        return self.values - self.count(_mask(self.type, "unchanged", bits))

    def changed_by_cast(self, format: Format, flush_subnormals: bool = False) -> int:
        """Number of values that rounding to a format changes, but for -0 where the format has none.

        The same for every rounding: a value that is exact stays, every other one has to move.
        """
        changed = ~_mask(self.type, "fits", format)
        return self.count(changed | _mask(self.type, "flushed", format) if flush_subnormals else changed)

    def fits(self, to: str | Format) -> int:
        """Number of values that are exact in a format: a round trip gives them back.

        Inf is exact where the format has Inf; a NaN where its payload survives.
        """
        return self.count(_mask(self.type, "fits", find(to) if isinstance(to, str) else to))

    def answers(self) -> dict[str, Any]:
        """Every number that `scan --json` gives of a tensor, by its key there."""
        bits = range(1, self.layout.word_bits)
        numbers = iter((self.counts @ _reported(self.type)[self.bins]).tolist())
        return {
            "values": self.values,
            "low_zero": {str(k): next(numbers) for k in bits},
            "fits": {name: next(numbers) for name in REPORTED_FORMATS},
            **{key: next(numbers) for key in ("nan", "inf", "zero", "subnormal")},
        }

    @property
    def magnitude(self) -> int | None:
        """The bin of the only magnitude that finite values have, where one bin tells that it is one; else None."""
        layout = self.layout
        if self.bins.size != 1:
            return None
        bin = int(self.bins[0])
        least_bits = layout.table_bits - int(layout.trailing[bin])
        is_one = not layout.is_special[bin] and least_bits <= (layout.exponent[bin] > 0)
        return bin if is_one else None

    @property
    def zero(self) -> int:
        return self.count(self.layout.is_zero)

    @property
    def subnormal(self) -> int:
        """Number of values that are subnormal in their storage type."""
        return self.count(self.layout.is_subnormal)

    @property
    def inf(self) -> int:
        return self.count(self.layout.is_inf)

    @property
    def nan(self) -> int:
        return self.count(self.layout.is_nan)

    def _by_exponent(self) -> np.ndarray:
        """Counts of finite values that are not zero, by biased exponent of the table."""
        layout = self.layout
        usual = ~(layout.is_zero | layout.is_special)[self.bins]
        return np.bincount(layout.exponent[self.bins[usual]], self.counts[usual])

    @property
    def exponent_range(self) -> tuple[int, int] | None:
        """Least and greatest ``floor(log2(abs(value)))`` of finite, non-zero values.

        Subnormal F32 and F64 count as the exponent below the least normal one.
        """
        occurring = np.flatnonzero(self._by_exponent())
        if not occurring.size:
            return None
        return int(occurring[0]) - self.layout.table_bias, int(occurring[-1]) - self.layout.table_bias

    @property
    def exponent_entropy(self) -> float:
        """Shannon entropy, in bits, of the exponent of finite, non-zero values."""
        counts = self._by_exponent()
        share = counts[counts > 0] / max(1, counts.sum())
        return float(max(0.0, -(share * np.log2(share)).sum()))

    def mantissa_bits(self, share: float = 1.0) -> int:
        """Fewest leading mantissa bits that hold at least this share of the finite values exactly."""
        layout = self.layout
        finite = ~layout.is_special[self.bins]
        used = layout.mantissa_bits - layout.own_trailing[self.bins[finite]]
        counts = np.bincount(used, self.counts[finite], layout.mantissa_bits + 1).cumsum()
        return int(np.searchsorted(counts, share * counts[-1] - 1e-9)) if counts[-1] else 0

    @property
    def narrowest(self) -> str | None:
        """The narrowest storage type of GGUF that holds every value exactly; None if only its own."""
        for name in ("bf16", "fp16", "f32"):
            if find(name).bits < self.layout.word_bits and self.fits(name) == self.values:
                return name
        return None

    @property
    def bytes_saved(self) -> int:
        """Bytes that storing the values as `narrowest` would save, without changing any."""
        if self.narrowest is None:
            return 0
        return self.values * (self.layout.word_bits - find(self.narrowest).bits) // 8
