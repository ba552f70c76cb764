"""Counts -> what they say for each number format: who does not fit, and how much chance it would take.

The null model: in a value of a wider format the bits that a narrower one lacks are zero by chance only, each
once in two. A normal F32 is exact in BF16 once in 2^16, in FP16 once in 2^13; a normal FP16 is exact in BF16
once in 2^3; near the ends of a format's range it has fewer bits, and these are what is counted. Values with at
most `FEW_BITS` mantissa bits (0, 0.5, 1, 1.5, ...) are exact in every format and tell nothing.

Evidence adds up: tensor to tensor, as the counts do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import combinations

import numpy as np

from truebits.files.types import FLOAT_FORMATS
from truebits.numbers.formats import Format
from truebits.numbers.spelling import find
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.profile import PrecisionProfile

FEW_BITS = 1

MOST = 0.999
"""Share of the values for which the format that holds most of them is named, too."""

LADDER = ("fp8_e5m2", "fp8_e4m3fn", "bf16", "fp16", "tf32", "f32", "f64")
"""Formats by their mantissa, narrowest first."""

WHOLE_FP8, WHOLE_BF16 = 3, 7
"""Mantissa bits, of which a whole number of exponent e leaves all but e zero."""

SUMS = (
    *("telling", "flushed_bits", "at_end", "infinite", "last_bits", "last_bits_set", "fractions"),
    *("whole_bits_fp8", "whole_bits"),
)

LOST_BY_FP16 = -17
"""Below 2 to this power a BF16 value is finer than FP16's quantum, 2^-24."""


def ladder(type: str) -> tuple[str, ...]:
    """Return the formats a storage type's values may have come from, its own last."""
    return LADDER[: LADDER.index(FLOAT_FORMATS[type]) + 1] if type != "F16" else (*LADDER[:3], "fp16")


@dataclass(frozen=True)
class Evidence:
    """What the counts of one or more tensors of one storage type say.

    Attributes
    ----------
    type : str
        F32, F16, BF16 or F64.
    values : int
        Those that are numbers, Inf included.
    outside : dict of str to int
        By format of the storage type's `ladder`: values that it does not hold exactly.
    bits : dict of (str, str) to int
        By format, and a wider one: bits of the values inside that are zero by chance only if the values are
        in truth of the wider one.
    kinds : dict of (str, str) to int
        The same of different magnitudes, so many as there can be: what is multiplied by one number is no more proof
        than that number.
    telling : int
        Values with more than `FEW_BITS` mantissa bits.
    magnitude : int or None
        Of a constant: the only bin, of at most `FEW_BITS` mantissa bits.
    flushed_bits : int
        Bits that BF16 has below FP16's quantum, and that are zero.
    at_end : int
        Values of +-65504.
    infinite : int
    converted : int
        Values that were judged as they were before a converter changed them.
    nan : int
        Further values, which are none.
    last_bits, last_bits_set : int
        Values that tell in FP16's normal range, and those of them that set the last bit it has. A true FP16 does
        that once in two.
    fractions : int
        Values that are not whole numbers.
    whole_bits : int
        Bits after the point that the others have in BF16 (in FP8, if it holds them all), and that are zero.
    scaled : dict of str to int
        By format: values that were held against it times a power of two, as `at_scale` has it.
    """

    type: str
    values: int
    outside: dict[str, int]
    bits: dict[tuple[str, str], int]
    kinds: dict[tuple[str, str], int]
    telling: int = 0
    magnitude: int | None = None
    flushed_bits: int = 0
    at_end: int = 0
    infinite: int = 0
    converted: int = 0
    nan: int = 0
    last_bits: int = 0
    last_bits_set: int = 0
    fractions: int = 0
    whole_bits: int = 0
    scaled: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: PrecisionProfile) -> Evidence:
        """Read a profile's counts."""
        type, names = profile.type, ladder(profile.type)
        formats = tuple(at_scale(profile, find(name)) for name in names)
        table = _questions(type, formats)[profile.bins]
        numbers = iter((profile.counts @ table).tolist())
        outside = {name: next(numbers) for name in names}
        pairs = tuple(combinations(names, 2))
        bits = {pair: next(numbers) for pair in pairs}
        most = np.minimum(profile.counts, _magnitudes(type)[profile.bins])
        kinds = dict(zip(pairs, (most @ table[:, len(names) : len(names) + len(pairs)]).tolist(), strict=True))
        sums = dict(zip(SUMS, numbers, strict=True))
        in_fp8, in_bf16 = sums.pop("whole_bits_fp8"), sums.pop("whole_bits")
        sums["whole_bits"] = in_bf16 if outside["fp8_e4m3fn"] else in_fp8
        nan = profile.nan
        values = profile.values - nan
        scaled = {name: values for name, of in zip(names, formats, strict=True) if of.bias != find(name).bias}
        return cls(type, values, outside, bits, kinds, magnitude=profile.magnitude, nan=nan, scaled=scaled, **sums)

    @classmethod
    def merge(cls, parts: Iterable[Evidence]) -> Evidence:
        """Add evidence of one storage type up.

        Raises
        ------
        ValueError
            There is none, or the storage types differ.
        """
        parts = list(parts)
        types = {part.type for part in parts}
        if len(types) != 1:
            raise ValueError(f"evidence of one storage type adds up, not of {sorted(types)}")
        if len(parts) == 1:
            return parts[0]
        magnitudes = {part.magnitude for part in parts}
        added = (one.name for one in fields(cls) if one.type == "int")
        return cls(
            type=types.pop(),
            outside={name: sum(part.outside[name] for part in parts) for name in parts[0].outside},
            bits={pair: sum(part.bits[pair] for part in parts) for pair in parts[0].bits},
            kinds={pair: sum(part.kinds[pair] for part in parts) for pair in parts[0].kinds},
            scaled=dict(sum((Counter(part.scaled) for part in parts), Counter())),
            magnitude=magnitudes.pop() if len(magnitudes) == 1 else None,
            **{name: sum(getattr(part, name) for part in parts) for name in added},
        )


def at_scale(profile: PrecisionProfile, format: Format) -> Format:
    """Return an FP8 format times the power of two that puts the largest value into its highest binade.

    A format that holds every value as it is stays, and so does one that has too few bits at any scale.
    """
    if format.bits > 8 or profile.fits(format) == profile.values:
        return format
    finer = profile.count(_has_more_bits(profile.type, format.mantissa_bits))
    if finer > most_exceptions(profile.values) or profile.exponent_range is None:
        return format
    shift = profile.exponent_range[1] - format.largest_exponent
    return replace(format, bias=format.bias - shift, special="ieee" if format.has_inf else "none")


def most_exceptions(values: int) -> float:
    """Return how many values may be exceptions from what most are."""
    return max(1, (1 - MOST) * values)


@cache
def _magnitudes(type: str) -> np.ndarray:
    """How many different magnitudes a bin can have, by bin."""
    layout = FLOAT_LAYOUTS[type]
    return 1 << np.clip(layout.table_bits - layout.trailing - 1, 0, 40)


@cache
def _has_more_bits(type: str, bits: int) -> np.ndarray:
    """Which bins' values have more mantissa bits than a number; by bin."""
    layout = FLOAT_LAYOUTS[type]
    return ~layout.is_special & (layout.trailing < layout.table_bits - bits)


@cache
def _questions(type: str, formats: tuple[Format, ...]) -> np.ndarray:
    """What each bin adds to the numbers of `Evidence.of`; int64 of shape (bins, numbers)."""
    layout = FLOAT_LAYOUTS[type]
    exponent = layout.exponent - layout.table_bias
    held = {format: layout.fits(format) | layout.is_nan for format in formats}
    tells = ~layout.is_special & (layout.exponent > 0) & (layout.trailing < layout.table_bits - FEW_BITS)
    bits_of = {format: np.clip(exponent - format.quantum_exponent, 0, format.mantissa_bits) for format in formats}
    fp16 = find("fp16")
    below_fp16 = tells & (exponent >= fp16.quantum_exponent)
    in_fp16 = tells & (exponent >= fp16.smallest_normal_exponent) & (exponent <= fp16.largest_exponent)
    is_whole = layout.is_zero | (layout.lowest >= 0)
    after_point = [tells & is_whole & (exponent < bits) for bits in (WHOLE_FP8, WHOLE_BF16)]
    columns = [
        *(~held[format] for format in formats),
        *((held[a] & tells) * np.maximum(bits_of[b] - bits_of[a], 0) for a, b in combinations(formats, 2)),
        tells,
        below_fp16 * np.maximum(LOST_BY_FP16 - exponent, 0),
        np.arange(layout.bins) == layout.bin_apart(fp16.largest),
        layout.is_inf,
        in_fp16,
        in_fp16 & (layout.trailing == layout.table_bits - fp16.mantissa_bits),
        ~layout.is_special & ~is_whole,
        after_point[0] * (WHOLE_FP8 - exponent),
        after_point[1] * (WHOLE_BF16 - exponent),
    ]
    return np.stack(columns, axis=1).astype(np.int64)
