"""Truncation and rounding, in place.

A rounding kernel works on chunks that fit the cache: it keeps a copy of a chunk, rounds the chunk, and
measures one against the other.
"""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel
from truebits_native.kernels.difference import tally
from truebits_native.types import AWAY, GOLDEN, MIX_1, MIX_2, NEAREST, STOCHASTIC, TRUNCATE

INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
MANTISSA = np.uint32(0x007FFFFF)
QUIET = np.uint32(0x00400000)
ZERO, ONE = np.uint32(0), np.uint32(1)
ALL = np.uint32(23)
"""Mantissa bits; where all are lost the implicit one is the last that counts."""

IMPLICIT = np.uint32(1 << 23)
WHOLE = np.float32(1 << 23)
"""From here on an F32 is a whole number."""

STEP, FIRST_MIX, SECOND_MIX = np.uint64(GOLDEN), np.uint64(MIX_1), np.uint64(MIX_2)


@kernel
def cut_low_bits(words, begin, end, mask, counts):
    """Clear the bits outside `mask` in each chunk, as `reference.truncate` does; count changes."""
    special_mask = np.uint32(mask | ~MAGNITUDE | INFINITY)
    for chunk in range(begin.size):
        piece = words[begin[chunk] : end[chunk]]
        changed = np.uint32(0)
        for i in range(np.uint64(piece.size)):
            word = np.uint32(piece[i])
            magnitude = np.uint32(word & MAGNITUDE)
            kept = special_mask if magnitude >= INFINITY else mask
            cut = np.uint32(word & kept)
            is_lost = (magnitude > INFINITY) & (np.uint32(cut & MANTISSA) == np.uint32(0))
            cut = np.uint32(cut | (QUIET if is_lost else np.uint32(0)))
            changed = np.uint32(changed + np.uint32(cut != word))
            piece[i] = cut
        counts[chunk] = np.int64(changed)


@inner
def random_word(key, position):
    """Return 32 random bits, as `reference.random_words` does."""
    state = np.uint64(np.uint64(position) * STEP + key)
    state = np.uint64(np.uint64(state ^ np.uint64(state >> np.uint64(30))) * FIRST_MIX)
    state = np.uint64(np.uint64(state ^ np.uint64(state >> np.uint64(27))) * SECOND_MIX)
    return np.uint32(np.uint64(state ^ np.uint64(state >> np.uint64(31))) >> np.uint64(32))


@inner
def round_normal(magnitude, grid, rounding, random):
    """Round the mantissa of an F32 word without sign; a carry goes on into the exponent."""
    low = np.uint32(np.uint32(ONE << grid.shift) - ONE)
    if rounding == NEAREST:
        odd = np.uint32(np.uint32(magnitude >> grid.shift) & ONE)
        odd = odd if grid.shift < ALL else np.uint32(magnitude >= IMPLICIT)
        magnitude = np.uint32(magnitude + np.uint32(low >> ONE) + (odd if low else ZERO))
    elif rounding == STOCHASTIC:
        drawn = np.uint32(np.uint32(random >> ONE) >> np.uint32(np.uint32(31) - grid.shift))
        magnitude = np.uint32(magnitude + np.uint32(low ^ drawn))
    elif rounding == AWAY:
        magnitude = np.uint32(magnitude + np.uint32(np.uint32(low >> ONE) + (ONE if low else ZERO)))
    return np.uint32(magnitude & np.uint32(~low))


@inner
def round_whole(number, rounding, random):
    """Round an F32 below 2^23 that is not negative to a whole number."""
    if rounding == NEAREST:
        return np.float32(np.float32(number + WHOLE) - WHOLE)
    floor = np.float32(np.floor(number))
    if rounding == STOCHASTIC:
        chance = np.float64(random) * 2.0**-32
        return np.float32(floor + np.float32(chance < np.float64(np.float32(number - floor))))
    if rounding == AWAY:
        return np.float32(floor + np.float32(np.float32(number - floor) >= np.float32(0.5)))
    return floor


@inner
def round_magnitude(magnitude, grid, rounding, random):
    """Round a finite F32 word without sign to the grid, which has no end here."""
    normal = round_normal(magnitude, grid, rounding, random)
    number = np.float32(np.uint32(magnitude).view(np.float32) * grid.per_quantum)
    number = number if magnitude < grid.least_normal else np.float32(0)
    small = np.float32(round_whole(number, rounding, random) * grid.quantum).view(np.uint32)
    rounded = small if magnitude < grid.least_normal else normal
    return ZERO if rounded < grid.least_kept else np.uint32(rounded)


@inner
def round_word(word, grid, rounding, random):
    """Round any F32 word; returns it, and 1 if it was beyond what the grid holds."""
    magnitude = np.uint32(word & MAGNITUDE)
    rounded = round_magnitude(magnitude, grid, rounding, random)
    is_beyond = rounded > grid.largest
    rounded = grid.beyond if is_beyond else rounded
    nan = np.uint32(magnitude & grid.nan_kept)
    nan = np.uint32(nan | (grid.nan_set if np.uint32(nan & MANTISSA) == ZERO else ZERO))
    is_nan, is_inf = magnitude > INFINITY, magnitude == INFINITY
    rounded = nan if is_nan else (grid.infinity if is_inf else rounded)
    lost = grid.nan_lost if is_nan else np.uint32(grid.infinity != INFINITY if is_inf else is_beyond)
    sign = np.uint32(word & (np.uint32(~MAGNITUDE) if rounded else grid.zero_sign))
    return np.uint32(sign | rounded), lost


@inner
def round_inside(words, grid):
    """Round words to the nearest that are inside a grid as wide as F32, and leave the others.

    Returns how many changed, and how many were left.
    """
    low = np.uint32(np.uint32(ONE << grid.shift) - ONE)
    half, mask = np.uint32(low >> ONE), np.uint32(~low)
    changed, left = ZERO, ZERO
    for i in range(np.uint64(words.size)):
        word = np.uint32(words[i])
        odd = np.uint32(np.uint32(word >> grid.shift) & ONE)
        rounded = np.uint32(np.uint32(word + np.uint32(half + odd)) & mask)
        is_outside = np.uint32(word & MAGNITUDE) > grid.largest
        rounded = word if is_outside else rounded
        left = np.uint32(left + np.uint32(is_outside))
        changed = np.uint32(changed + np.uint32(rounded != word))
        words[i] = rounded
    return changed, left


@inner
def round_each(words, grid, rounding, key, first):
    """Round words to a grid; returns how many changed and how many were beyond it."""
    changed, saturated = ZERO, ZERO
    for i in range(np.uint64(words.size)):
        random = random_word(key, first + i) if rounding == STOCHASTIC else ZERO
        word = np.uint32(words[i])
        rounded, lost = round_word(word, grid, rounding, random)
        changed = np.uint32(changed + np.uint32(rounded != word))
        saturated = np.uint32(saturated + lost)
        words[i] = rounded
    return changed, saturated


@inner
def round_piece(words, grid, rounding, key, first):
    """Round words to a grid: a loop for each rounding, and one for what most tensors are like."""
    is_usual = (grid.shift > ZERO) & (grid.shift < ALL) & (grid.zero_sign > ZERO)
    is_wide = is_usual & (grid.least_normal == ZERO) & (grid.least_kept == ZERO)
    if rounding == STOCHASTIC:
        return round_each(words, grid, STOCHASTIC, key, first)
    if rounding == TRUNCATE:
        return round_each(words, grid, TRUNCATE, key, first)
    if not is_wide:
        return round_each(words, grid, NEAREST, key, first)
    changed, left = round_inside(words, grid)
    if not left:
        return changed, ZERO
    more, saturated = round_each(words, grid, NEAREST, key, first)
    return np.uint32(changed + more), saturated


@kernel
def round_to_grid(words, begin, end, grid, rounding, key, first, measured, counts, sums):
    """Round each chunk as `reference.round_floats` does.

    Returns, by chunk, the numbers of `reference.Difference`: counts as int64, the rest as float64;
    without `measured` only how many changed and were beyond the grid.
    """
    for chunk in range(begin.size):
        piece = words[begin[chunk] : end[chunk]]
        old = piece.copy() if measured else piece
        at = np.uint64(first) + np.uint64(begin[chunk])
        counts[chunk, 0], counts[chunk, 1] = round_piece(piece, grid, rounding, key, at)
        if measured:
            tally(old, piece, counts[chunk], sums[chunk])
