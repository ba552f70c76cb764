"""Twins of `truebits_native.kernels.scaling`."""

from __future__ import annotations

import numpy as np

from truebits_native.reference.difference import compare
from truebits_native.reference.rounding import on_grid, random_words
from truebits_native.types import NEAREST, STOCHASTIC, Difference, Grid, Ranges, Scales


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
