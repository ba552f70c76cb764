"""The NumPy twins: what the kernels are held to, bit for bit. No numba import.

Each function has the name and the signature of the kernel it defines, except that the
kernels' front doors in `truebits_native` also take the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np

TABLE = (256, 24)
"""Exponent x trailing zeros of an F32's 23-bit mantissa (23 where it is zero)."""

BINS = TABLE[0] * TABLE[1]

DOUBLE_TABLE = (2048, 53)
"""The same for F64 and its 52-bit mantissa."""

BLOCK = 1 << 17
"""Values that `profiles` holds in memory at a time."""

Ranges = np.ndarray
Sparse = tuple[np.ndarray, np.ndarray, np.ndarray]


def low_zero_count(words: np.ndarray, bits: int) -> int:
    """Count the words whose low `bits` bits are zero.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    bits : int
        1 to 31.

    Returns
    -------
    int
    """
    return int(np.count_nonzero((words & np.uint32((1 << bits) - 1)) == 0))


def low_zero_counts(words: np.ndarray, starts: Ranges, stops: Ranges, bits: int) -> np.ndarray:
    """Do `low_zero_count` for each range ``words[start:stop]``; int64, one per range."""
    return matching_counts(words, starts, stops, (1 << bits) - 1, 0)


def matching_counts(words: np.ndarray, starts: Ranges, stops: Ranges, mask: int, pattern: int) -> np.ndarray:
    """Count, in each range ``words[start:stop]``, the words that show `pattern` under `mask`; int64."""
    mask, pattern = words.dtype.type(mask), words.dtype.type(pattern)
    pairs = zip(starts, stops, strict=True)
    return np.array([np.count_nonzero(words[start:stop] & mask == pattern) for start, stop in pairs], np.int64)


def differing_count(before: np.ndarray, after: np.ndarray, mask: int = 0xFFFFFFFF) -> int:
    """Count the words of two uint32 arrays of one size that differ in the bits of `mask`."""
    return int(np.count_nonzero((before ^ after) & np.uint32(mask)))


def single_bins(words: np.ndarray) -> np.ndarray:
    """Return the flat index into `TABLE` of each F32: exponent * 24 + trailing zeros."""
    mantissa = words | np.uint32(1 << 23)
    lowest = mantissa & (~mantissa + np.uint32(1))
    trailing = (lowest.astype(np.float32).view(np.uint32) >> np.uint32(23)) - np.uint32(127)
    exponent = (words >> np.uint32(23)) & np.uint32(0xFF)
    return exponent * np.uint32(24) + trailing


def double_bins(words: np.ndarray) -> np.ndarray:
    """Return the flat index into `DOUBLE_TABLE` of each F64 (uint64 words)."""
    mantissa = words | np.uint64(1 << 52)
    lowest = mantissa & (~mantissa + np.uint64(1))
    trailing = (lowest.astype(np.float64).view(np.uint64) >> np.uint64(52)) - np.uint64(1023)
    exponent = (words >> np.uint64(52)) & np.uint64(0x7FF)
    return exponent * np.uint64(53) + trailing


def half_bins() -> np.ndarray:
    """Return the bin of each of the 65,536 F16 patterns: that of the F32 of the same value."""
    words = np.arange(1 << 16, dtype=np.uint16)
    singles = words.view(np.float16).astype(np.float32).view(np.uint32)
    special = (words & 0x7C00) == 0x7C00
    payload = (words & 0x3FF).astype(np.uint32) << 13
    return single_bins(np.where(special, np.uint32(0x7F800000) | payload, singles)).astype(np.uint16)


def bfloat_bins() -> np.ndarray:
    """Return the bin of each of the 65,536 BF16 patterns: that of the F32 of the same value."""
    return single_bins(np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).astype(np.uint16)


def profile(words: np.ndarray) -> np.ndarray:
    """Count F32 words by exponent and trailing zeros of the mantissa.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)

    Returns
    -------
    ndarray of int64, shape (256, 24)
        ``[e, t]``: words with biased exponent e whose 23-bit mantissa has t trailing zero bits;
        t is 23 where the mantissa is zero.
    """
    return np.bincount(single_bins(words).astype(np.int64), minlength=BINS).reshape(TABLE)


def profiles(words: np.ndarray, starts: Ranges, stops: Ranges, bins: np.ndarray | None = None) -> Sparse:
    """Do `profile` for each range ``words[start:stop]``, without the zeros.

    Parameters
    ----------
    words : ndarray of uint32, uint64 or uint16, shape (n,)
        F32 or F64 words, or the 16-bit patterns of the type that `bins` belongs to.
    starts, stops : ndarray of int64, shape (m,)
    bins : ndarray of uint16, shape (65536,), optional
        `half_bins` or `bfloat_bins`, for 16-bit words.

    Returns
    -------
    bins, counts : ndarray of int64
        The flat bins that occur, ascending within each range, and how often.
    splits : ndarray of int64, shape (m + 1,)
        Range i has ``bins[splits[i] : splits[i + 1]]``.
    """
    width = DOUBLE_TABLE[0] * DOUBLE_TABLE[1] if words.dtype == np.uint64 else BINS
    lengths = stops - starts
    ends = np.cumsum(lengths)
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for low in range(0, int(lengths.sum()), BLOCK):
        flat = np.arange(low, min(low + BLOCK, int(ends[-1])))
        first, last = np.searchsorted(ends, flat[[0, -1]], "right")
        inside = np.minimum(ends[first : last + 1], flat[-1] + 1) - np.maximum(
            ends[first : last + 1] - lengths[first : last + 1], low
        )
        owner = np.repeat(np.arange(first, last + 1), inside)
        block = words[flat - (ends - stops)[owner]]
        if bins is not None:
            found = bins[block]
        else:
            found = double_bins(block) if words.dtype == np.uint64 else single_bins(block)
        key, count = np.unique(owner * width + found.astype(np.int64), return_counts=True)
        keys.append(key)
        counts.append(count)
    merged, totals = keys[-1], counts[-1]
    if len(keys) > 2:
        merged, where = np.unique(np.concatenate(keys), return_inverse=True)
        totals = np.zeros(merged.size, np.int64)
        np.add.at(totals, where, np.concatenate(counts))
    splits = np.searchsorted(merged, np.arange(starts.size + 1) * width)
    return merged % width, totals, splits


def truncate(words: np.ndarray, bits: int) -> int:
    """Set the low `bits` bits of F32 words to zero, in place.

    Inf stays Inf. A NaN stays a NaN: where the cut would leave no mantissa bit, the quiet bit
    is set. Cutting twice is cutting once.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
        Changed in place.
    bits : int
        1 to 31.

    Returns
    -------
    int
        How many words changed.
    """
    mask = np.uint32(0xFFFFFFFF >> bits << bits)
    magnitude = words & np.uint32(0x7FFFFFFF)
    special = magnitude >= np.uint32(0x7F800000)
    cut = np.where(special, words & (mask | np.uint32(0xFF800000)), words & mask)
    lost = (magnitude > np.uint32(0x7F800000)) & ((cut & np.uint32(0x007FFFFF)) == 0)
    cut[lost] |= np.uint32(0x00400000)
    changed = int(np.count_nonzero(cut != words))
    words[:] = cut
    return changed


NEAREST, TRUNCATE, STOCHASTIC, AWAY = range(4)
"""Roundings: to the nearest, ties to even; toward zero; up by chance; to the nearest, ties away from zero."""

ROUND_CHUNK = 1 << 13
"""Words whose errors are summed up together."""

LANES, ROWS = 256, 8
"""Partial sums of a chunk: value i goes to lane ``i % LANES``, `ROWS` rows added up before they are added to
the lanes, in order; then the lanes' upper half is added to the lower until one is left."""


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


def random_words(key: int, first: int, count: int) -> np.ndarray:
    """Return 32 random bits for each of the positions from `first` on; uint32.

    SplitMix64 (Steele, Lea, Flood 2014) at state `key` + position: any position by itself.
    """
    with np.errstate(over="ignore"):
        state = (np.arange(count, dtype=np.uint64) + np.uint64(first)) * np.uint64(GOLDEN) + np.uint64(key)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(MIX_1)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(MIX_2)
        return ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def whole_numbers(numbers: np.ndarray, rounding: int, random: np.ndarray | None) -> np.ndarray:
    """Round non-negative float64 numbers to whole ones."""
    if rounding == NEAREST:
        return np.rint(numbers)
    floor = np.floor(numbers)
    if random is not None:
        return floor + (random * 2.0**-32 < numbers - floor)
    return floor + (numbers - floor >= 0.5) if rounding == AWAY else floor


def on_grid(magnitudes: np.ndarray, grid: Grid, rounding: int, random: np.ndarray | None) -> np.ndarray:
    """Round finite, non-negative float64 values to a grid without an end."""
    _, exponent = np.frexp(magnitudes)
    quantum = np.maximum(exponent - 1, grid.least_exponent) - grid.mantissa_bits
    with np.errstate(over="ignore"):  # an F64 rounded up to 2^1024
        rounded = np.ldexp(whole_numbers(np.ldexp(magnitudes, -quantum), rounding, random), quantum)
    return np.where(rounded < 2.0**grid.least_exponent, 0.0, rounded) if not grid.has_subnormals else rounded


def round_floats(words: np.ndarray, grid: Grid, rounding: int = NEAREST, key: int = 0, first: int = 0) -> Difference:
    """Round F32 or F64 words to a grid, in place.

    Parameters
    ----------
    words : ndarray of uint32 or uint64, shape (n,)
        Changed in place.
    grid : Grid
    rounding : int
        `NEAREST`, `TRUNCATE` or `STOCHASTIC`.
    key, first : int
        Of stochastic rounding: the generator's key, and the position of the first word in it.

    Returns
    -------
    Difference
        Of the words before and after.
    """
    old, values = words.copy(), words.view(f"<f{words.itemsize}")
    magnitudes = np.abs(values)
    finite, nan, inf = np.isfinite(values), np.isnan(values), np.isinf(values)
    random = random_words(key, first, words.size) if rounding == STOCHASTIC else None
    rounded = on_grid(np.where(finite, magnitudes, 0).astype(np.float64), grid, rounding, random)
    beyond = rounded > grid.largest
    rounded[beyond] = grid.beyond
    rounded[inf] = grid.infinity
    with np.errstate(over="ignore", invalid="ignore"):
        new = np.abs(rounded).astype(values.dtype).view(words.dtype)
    new[nan] = _kept_nan(words[nan], grid)
    sign = words & words.dtype.type(1 << (8 * words.itemsize - 1))
    if not grid.has_negative_zero:
        sign[new == 0] = 0
    words[:] = new | sign
    lost = beyond | (nan & (grid.nan_bits < 0)) | (inf & (grid.infinity != np.inf))
    return compare(old, words)._replace(saturated=int(np.count_nonzero(lost)))


def _kept_nan(words: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the magnitude of what each NaN becomes."""
    word = words.dtype.type
    if grid.nan_bits < 0:
        return np.full(words.size, np.array(grid.largest, f"<f{words.itemsize}").view(word))
    mantissa = 52 if words.itemsize == 8 else 23
    infinity = word(((1 << (8 * words.itemsize - 1)) - 1) >> mantissa << mantissa)
    payload = word((1 << mantissa) - (1 << (mantissa - grid.nan_bits)))
    kept = words & (infinity | payload)
    kept[kept == infinity] |= word(1 << (mantissa - 1))
    return kept


def compare(before: np.ndarray, after: np.ndarray) -> Difference:
    """Measure how far words are from others.

    Parameters
    ----------
    before, after : ndarray of uint32 (F32) or uint64 (F64), shape (n,)

    Returns
    -------
    Difference
        Its `saturated` is 0: the words do not tell.
    """
    chunks = range(0, before.size, ROUND_CHUNK)
    return merged(_compared(before[at : at + ROUND_CHUNK], after[at : at + ROUND_CHUNK]) for at in chunks)


def _compared(before: np.ndarray, after: np.ndarray) -> Difference:
    changed = before != after
    replaced = changed & _is_replaced(before, after)
    before, after = _specials_aside(before, after)
    old, new = (words.view(f"<f{words.itemsize}") for words in (before, after))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        error = np.abs(new - old)
        relative = np.nan_to_num(error / np.where(old == 0, np.inf, np.abs(old)), nan=np.inf, posinf=np.inf)
    bits = 8 * before.itemsize - 1
    word = before.dtype.type
    ours, theirs = (words & word((1 << bits) - 1) for words in (before, after))
    apart = np.where(
        (before ^ after) >> word(bits) == 0, np.maximum(ours, theirs) - np.minimum(ours, theirs), ours + theirs
    )
    wide, other = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        error_of_sums = error.astype(np.float64)
        errors, squares, products, other_squares = (
            _in_lanes(terms) for terms in (error_of_sums * error_of_sums, wide * wide, wide * other, other * other)
        )
    return Difference(
        before.size,
        int(np.count_nonzero(changed)),
        int(np.count_nonzero((ours != 0) & (theirs == 0))),
        0,
        int(apart.max(initial=0)),
        float(error.max(initial=0)),
        float(relative.max(initial=0)),
        errors,
        squares,
        products if math.isfinite(products) else math.inf,
        other_squares,
        int(np.count_nonzero((ours == 0) & (theirs != 0))),
        int(np.count_nonzero(replaced)),
    )


def _is_replaced(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Tell which words were Inf or NaN, but for a NaN that is one still."""
    old, new = (words.view(f"<f{words.itemsize}") for words in (before, after))
    return ~np.isfinite(old) & ~(np.isnan(old) & np.isnan(new))


def _specials_aside(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make pairs that have no error equal, and what became NaN the Inf of its sign."""
    old, new = (words.view(f"<f{words.itemsize}") for words in (before, after))
    usual = np.isfinite(old)
    infinity = after & np.array(-np.inf, old.dtype).view(before.dtype)
    return np.where(usual, before, 0), np.where(usual, np.where(np.isnan(new), infinity, after), 0)


def _in_lanes(terms: np.ndarray) -> float:
    """Sum up at most `ROUND_CHUNK` float64, in the order that `LANES` defines."""
    step = LANES * ROWS
    padded = np.zeros(-(-terms.size // step) * step)
    padded[: terms.size] = terms
    rows = np.add.accumulate(padded.reshape(-1, ROWS, LANES), axis=1)[:, -1]
    lanes = np.add.accumulate(rows, axis=0)[-1]
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


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


def round_scaled(
    words: np.ndarray,
    unit: int,
    offset: int,
    scales: Scales,
    grid: Grid,
    rounding: int = NEAREST,
    key: int = 0,
    first: int = 0,
) -> Difference:
    """Round F32 words to a grid of which each unit of values has its own multiple, in place.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
        Finite values; changed in place.
    unit : int
        Values per scale.
    offset : int
        Place of the first word in its unit, 0 to unit - 1.
    scales : Scales
        From the first word's unit on.
    grid : Grid
        Of the scaled values; its end and its specials are not asked for.
    rounding, key, first
        As for `round_floats`; also `AWAY`.

    Returns
    -------
    Difference
    """
    old, values = words.copy(), words.view("<f4")
    of = (np.arange(words.size) + offset) // unit
    with np.errstate(over="ignore", under="ignore"):
        scaled = values * scales.inverse[of]
    random = random_words(key, first, words.size) if rounding == STOCHASTIC else None
    rounded = on_grid(np.abs(scaled).astype(np.float64), grid, rounding, random)
    rounded = np.copysign(rounded, scaled).astype(np.float32)
    if not grid.has_negative_zero:
        rounded[rounded == 0] = 0
    low, high = scales.low[of], scales.high[of]
    saturated = int(np.count_nonzero((rounded < low) | (rounded > high)))
    with np.errstate(over="ignore", under="ignore"):
        values[:] = np.where(rounded < low, low, np.where(rounded > high, high, rounded)) * scales.scale[of]
    return compare(old, words)._replace(saturated=saturated)


def ordered(words: np.ndarray) -> np.ndarray:
    """Return int32 that are ordered as the F32 words' values are; its own inverse."""
    signed = words.view(np.int32)
    return signed ^ ((signed >> np.int32(31)) & np.int32(0x7FFFFFFF))


def extremes(words: np.ndarray, starts: Ranges, stops: Ranges) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest F32 of each range ``words[start:stop]``; NaN where not all are finite.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Not empty.

    Returns
    -------
    low, high : ndarray of float32, shape (m,)
    """
    found = np.empty((2, starts.size), np.int32)
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        order = ordered(words[start:stop])
        found[:, i] = order.min(), order.max()
    low, high = ordered(found.view(np.uint32)).view(np.float32)
    usual = np.isfinite(low) & np.isfinite(high)
    return np.where(usual, low, np.nan), np.where(usual, high, np.nan)


def scale_errors(words: np.ndarray, starts: Ranges, stops: Ranges, scales: Scales) -> np.ndarray:
    """Return the squared error that each of several scales makes of each range of F32 words.

    Values are rounded to whole numbers of the scale, to the nearest, ties to even.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
    scales : Scales
        Of shape (m, candidates).

    Returns
    -------
    ndarray of float64, shape (m, candidates)
        Summed up value by value.
    """
    errors = np.empty(scales.scale.shape)
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        inverse, scale, low, high = (of[i] for of in scales)
        values = words[start:stop].view("<f4")[:, np.newaxis]
        rounded = np.clip(np.rint(values * inverse), low, high) * scale
        error = (rounded - values).astype(np.float64)
        errors[i] = np.add.accumulate(error * error, axis=0)[-1]
    return errors


@cache
def half_singles() -> np.ndarray:
    """Return the F32 word of each of the 65,536 F16 patterns; NaNs keep their bits."""
    words = np.arange(1 << 16, dtype=np.uint16)
    special = (words & 0x7C00) == 0x7C00
    singles = np.where(special, 0, words).astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    wide = words.astype(np.uint32)
    return np.where(special, ((wide & 0x8000) << 16) | 0x7F800000 | ((wide & 0x3FF) << 13), singles)


def widened(words: np.ndarray, kind: str) -> np.ndarray:
    """Return the F32 words of F16 or BF16 words; uint32."""
    return words.astype(np.uint32) << np.uint32(16) if kind == "BF16" else half_singles()[words]


def narrowed(words: np.ndarray, kind: str) -> np.ndarray:
    """Return the F16 or BF16 words of F32 words that are exact in it; uint16."""
    if kind == "BF16":
        return (words >> np.uint32(16)).astype(np.uint16)
    special = (words & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    halves = np.where(special, 0, words).view(np.float32).astype(np.float16).view(np.uint16)
    kept = (
        ((words >> np.uint32(16)) & np.uint32(0x8000))
        | np.uint32(0x7C00)
        | ((words >> np.uint32(13)) & np.uint32(0x3FF))
    )
    return np.where(special, kept, halves).astype(np.uint16)


HALF_INFINITY = {"F16": np.uint16(0x7C00), "BF16": np.uint16(0x7F80)}


def half_distance(before: np.ndarray, after: np.ndarray, kind: str) -> int:
    """Return the largest distance between F16 or BF16 words, in units of the last place.

    As in `compare` there is none from Inf or NaN, and that to a NaN is that to Inf.
    """
    infinity = HALF_INFINITY[kind]
    ours, theirs = (np.minimum(words & np.uint16(0x7FFF), infinity) for words in (before, after))
    apart = np.maximum(ours, theirs) - np.minimum(ours, theirs)
    crossing = ((before ^ after) & np.uint16(0x8000)) != 0
    if crossing.any():
        apart[crossing] = ours[crossing] + theirs[crossing]
    return int(np.where(ours < infinity, apart, 0).max(initial=0))
