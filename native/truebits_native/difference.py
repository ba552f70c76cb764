"""Two buffers against each other."""

from __future__ import annotations

import numpy as np
from numba import prange

from truebits_native.jit import inner, kernel
from truebits_native.reference import LANES

INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
ZERO = np.uint32(0)


@kernel
def count_differing(before, after, begin, end, mask):
    """Count, in each chunk, the words of two arrays that differ in the bits of `mask`."""
    counts = np.empty(begin.size, np.int64)
    for chunk in prange(begin.size):
        ours, theirs = before[begin[chunk] : end[chunk]], after[begin[chunk] : end[chunk]]
        count = np.uint32(0)
        for i in range(np.uint64(ours.size)):
            count = np.uint32(count + np.uint32(np.uint32((ours[i] ^ theirs[i]) & mask) != np.uint32(0)))
        counts[chunk] = np.int64(count)
    return counts


@inner
def set_specials_aside(old, new):
    """Make pairs that have no error equal, and what became NaN the Inf of its sign."""
    for i in range(old.size):
        if np.uint32(old[i] & MAGNITUDE) >= INFINITY:
            old[i] = new[i] = ZERO
        elif np.uint32(new[i] & MAGNITUDE) > INFINITY:
            new[i] = np.uint32(new[i] & np.uint32(~MAGNITUDE | INFINITY))


@inner
def furthest(old, new):
    """Return how many words became zero, the largest distance in words, and the largest errors."""
    before, after = old.view(np.float32), new.view(np.float32)
    flushed, apart, error, relative = ZERO, ZERO, ZERO, ZERO
    for i in range(np.uint64(old.size)):
        ours, theirs = np.uint32(old[i] & MAGNITUDE), np.uint32(new[i] & MAGNITUDE)
        flushed = np.uint32(flushed + np.uint32((ours != ZERO) & (theirs == ZERO)))
        is_same_side = np.uint32(old[i] ^ new[i]) <= MAGNITUDE
        distance = np.uint32(ours - theirs) if ours > theirs else np.uint32(theirs - ours)
        distance = distance if is_same_side else np.uint32(ours + theirs)
        apart = distance if distance > apart else apart
        off = np.float32(abs(np.float32(after[i] - before[i])))
        word = np.float32(off).view(np.uint32)
        error = word if word > error else error
        whole = np.float32(abs(before[i]))
        whole = whole if whole > np.float32(0) else np.float32(np.inf)
        share = np.float32(off / whole).view(np.uint32)
        relative = share if share > relative else relative
    return flushed, apart, error, min(relative, INFINITY)


@inner
def add_up(old, new, sums):
    """Add squared errors, squares of both sides and products up, in the order of `reference.LANES`."""
    errors, squares, products, others = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    before, after = old.view(np.float32), new.view(np.float32)
    for at in range(0, before.size, LANES):
        stop = min(at + LANES, before.size)
        ours, theirs = before[at:stop], after[at:stop]
        for lane in range(np.uint64(stop - at)):
            value, other = np.float64(ours[lane]), np.float64(theirs[lane])
            error = np.float64(np.float32(theirs[lane] - ours[lane]))
            errors[lane] += error * error
            squares[lane] += value * value
            products[lane] += value * other
            others[lane] += other * other
    half = np.uint64(LANES // 2)
    while half:
        for lane in range(half):
            errors[lane] += errors[lane + half]
            squares[lane] += squares[lane + half]
            products[lane] += products[lane + half]
            others[lane] += others[lane + half]
        half = half >> np.uint64(1)
    sums[2], sums[3] = errors[0], squares[0]
    sums[5] = others[0]
    sums[4] = products[0] if abs(products[0]) < np.inf else np.inf


@inner
def tally(old, new, counts, sums):
    """Measure a chunk as `reference.compare` does, but for what changed or saturated; may change `old`."""
    flushed, apart, error, relative = furthest(old, new)
    if error >= INFINITY:
        new = new.copy()
        set_specials_aside(old, new)
        flushed, apart, error, relative = furthest(old, new)
    counts[2], counts[3] = flushed, apart
    sums[0], sums[1] = np.uint32(error).view(np.float32), np.uint32(relative).view(np.float32)
    add_up(old, new, sums)


@kernel
def measure(before, after, begin, end):
    """Measure each chunk as `reference.compare` does; returns what `rounding.round_to_grid` does."""
    counts, sums = np.zeros((begin.size, 4), np.int64), np.zeros((begin.size, 6))
    for chunk in prange(begin.size):
        old, new = before[begin[chunk] : end[chunk]].copy(), after[begin[chunk] : end[chunk]].copy()
        counts[chunk, 0] = differing(old, new)
        tally(old, new, counts[chunk], sums[chunk])
    return counts, sums


@inner
def differing(ours, theirs):
    """Count the words that differ."""
    count = ZERO
    for i in range(np.uint64(ours.size)):
        count = np.uint32(count + np.uint32(ours[i] != theirs[i]))
    return count
