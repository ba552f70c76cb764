"""Twins of `truebits_native.kernels.rounding`."""

from __future__ import annotations

import numpy as np

from truebits_native.reference.difference import compare
from truebits_native.types import AWAY, GOLDEN, MIX_1, MIX_2, NEAREST, STOCHASTIC, Difference, Grid


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


def random_words(key: int, first: int, count: int) -> np.ndarray:
    """Return 32 random bits for each of the positions from `first` on; uint32.

    SplitMix64 (Steele, Lea, Flood 2014) at state `key` + position: any position by itself.
    """
    with np.errstate(over="ignore"):
        state = (np.arange(count, dtype=np.uint64) + np.uint64(first)) * np.uint64(GOLDEN) + np.uint64(key)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(MIX_1)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(MIX_2)
        return ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


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


def round_floats(
    words: np.ndarray, grid: Grid, rounding: int = NEAREST, key: int = 0, first: int = 0, *, measured: bool = True
) -> Difference:
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
    measured : bool
        False: only count what changed and what was beyond the grid.

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
    saturated = int(np.count_nonzero(lost))
    if not measured:
        return Difference(words.size, int(np.count_nonzero(old != words)), saturated=saturated)
    return compare(old, words)._replace(saturated=saturated)


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
