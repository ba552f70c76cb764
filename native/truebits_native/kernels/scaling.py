"""Rounding with shared scales: the extremes a scale is made of, the error it would make, the rounding."""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel
from truebits_native.kernels.difference import tally
from truebits_native.kernels.rounding import INFINITY, MAGNITUDE, ZERO, random_word, round_magnitude
from truebits_native.types import STOCHASTIC

EITHER_WHOLE = np.float32(1.5 * (1 << 23))
"""Added and taken away again it rounds an F32 of either sign to a whole number, ties to even."""

SIGN = np.uint32(0x80000000)
REST = np.int32(0x7FFFFFFF)


@kernel
def find_extremes(words, begin, end, least, most, special):
    """Find the least and greatest of each chunk, as `reference.ordered` int32, and 1 where one is not finite."""
    for chunk in range(begin.size):
        low, high, top = REST, np.int32(~REST), ZERO
        piece = words[begin[chunk] : end[chunk]]
        for i in range(np.uint64(piece.size)):
            word = np.uint32(piece[i])
            order = np.int32(word)
            order = np.int32(order ^ np.int32(np.int32(order >> np.int32(31)) & REST))
            low = order if order < low else low
            high = order if order > high else high
            magnitude = np.uint32(word & MAGNITUDE)
            top = magnitude if magnitude > top else top
        least[chunk], most[chunk], special[chunk] = low, high, top >= INFINITY


@kernel
def sum_scale_errors(values, begin, end, owner, inverse, scale, low, high, errors):
    """Sum up, in each chunk of F32 values, the squared error of every candidate scale of its owner."""
    for chunk in range(begin.size):
        of, mine = owner[chunk], errors[chunk]
        inverses, scales, lows, highs = inverse[of], scale[of], low[of], high[of]
        piece = values[begin[chunk] : end[chunk]]
        for i in range(piece.size):
            value = np.float32(piece[i])
            for j in range(np.uint64(mine.size)):
                whole = np.float32(np.float32(np.float32(value * inverses[j]) + EITHER_WHOLE) - EITHER_WHOLE)
                whole = lows[j] if whole < lows[j] else whole
                whole = highs[j] if whole > highs[j] else whole
                error = np.float64(np.float32(np.float32(whole * scales[j]) - value))
                mine[j] += error * error


@inner
def round_unit(words, inverse, scale, low, high, grid, rounding, key, first):
    """Round the words of one scale; returns how many were clipped."""
    values = words.view(np.float32)
    saturated = ZERO
    for i in range(np.uint64(words.size)):
        scaled = np.float32(values[i] * inverse).view(np.uint32)
        random = random_word(key, first + i) if rounding == STOCHASTIC else ZERO
        magnitude = np.uint32(scaled & MAGNITUDE)
        rounded = round_magnitude(magnitude, grid, rounding, random)
        sign = np.uint32(scaled & (SIGN if rounded else grid.zero_sign))
        number = np.uint32(rounded | sign).view(np.float32)
        is_low, is_high = number < low, number > high
        saturated = np.uint32(saturated + np.uint32(is_low | is_high))
        number = low if is_low else (high if is_high else number)
        values[i] = np.float32(number * scale)
    return saturated


@kernel
def round_in_units(
    words, begin, end, unit, offset, inverse, scale, low, high, grid, rounding, key, first, counts, sums
):
    """Round each chunk as `reference.round_scaled` does; returns what `rounding.round_to_grid` does."""
    for chunk in range(begin.size):
        piece = words[begin[chunk] : end[chunk]]
        old = piece.copy()
        at, stop = begin[chunk], end[chunk]
        while at < stop:
            of = (offset + at) // unit
            until = min(stop, (of + 1) * unit - offset)
            position = np.uint64(first) + np.uint64(at)
            counts[chunk, 1] += round_unit(
                words[at:until], inverse[of], scale[of], low[of], high[of], grid, rounding, key, position
            )
            at = until
        tally(old, piece, counts[chunk], sums[chunk])
