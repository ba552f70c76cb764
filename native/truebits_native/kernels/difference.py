"""Two buffers against each other."""

from __future__ import annotations

import numpy as np

from truebits_native.jit import fused, inner, kernel
from truebits_native.types import LANES, ROUND_CHUNK, ROWS

INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
ZERO = np.uint32(0)

STEP = LANES * ROWS


@kernel
def count_differing(before, after, begin, end, mask, counts):
    """Count, in each chunk, the words of two arrays that differ in the bits of `mask`."""
    for chunk in range(begin.size):
        ours, theirs = before[begin[chunk] : end[chunk]], after[begin[chunk] : end[chunk]]
        count = np.uint32(0)
        for i in range(np.uint64(ours.size)):
            count = np.uint32(count + np.uint32(np.uint32((ours[i] ^ theirs[i]) & mask) != np.uint32(0)))
        counts[chunk] = np.int64(count)


@inner
def look(old, new):
    """Return how many words differ, and whether one is Inf or NaN."""
    changed, largest = ZERO, ZERO
    for i in range(np.uint64(old.size)):
        changed = np.uint32(changed + np.uint32(old[i] != new[i]))
        ours, theirs = np.uint32(old[i] & MAGNITUDE), np.uint32(new[i] & MAGNITUDE)
        more = ours if ours > theirs else theirs
        largest = more if more > largest else largest
    return changed, largest >= INFINITY


@inner
def set_specials_aside(old, new):
    """Make pairs that have no error equal, and what became NaN the Inf of its sign.

    Returns how many that were Inf or NaN are another value now.
    """
    replaced = ZERO
    for i in range(old.size):
        ours, theirs = np.uint32(old[i] & MAGNITUDE), np.uint32(new[i] & MAGNITUDE)
        if ours >= INFINITY:
            is_nan = (ours > INFINITY) & (theirs > INFINITY)
            replaced = np.uint32(replaced + np.uint32((old[i] != new[i]) & (not is_nan)))
            old[i] = new[i] = ZERO
        elif theirs > INFINITY:
            new[i] = np.uint32(new[i] & np.uint32(~MAGNITUDE | INFINITY))
    return replaced


@inner
def furthest(old, new):
    """Return how many words became zero and were zero, the largest distance in words, and the largest errors."""
    before, after = old.view(np.float32), new.view(np.float32)
    flushed, raised, apart, error, relative = ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(np.uint64(old.size)):
        ours, theirs = np.uint32(old[i] & MAGNITUDE), np.uint32(new[i] & MAGNITUDE)
        flushed = np.uint32(flushed + np.uint32((ours != ZERO) & (theirs == ZERO)))
        raised = np.uint32(raised + np.uint32((ours == ZERO) & (theirs != ZERO)))
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
    return flushed, raised, apart, error, min(relative, INFINITY)


@fused
def terms(ours, theirs, at):
    """Return the squared error, the squares of both values and their product."""
    value, other = np.float64(ours[at]), np.float64(theirs[at])
    error = np.float64(np.float32(theirs[at] - ours[at]))
    return error * error, value * value, value * other, other * other


@fused
def add_step(ours, theirs, lanes):
    """Add the rows of one step up, and these to the lanes."""
    for lane in range(np.uint64(LANES)):
        error, square, product, other = terms(ours, theirs, lane)
        for row in range(1, ROWS):
            more = terms(ours, theirs, lane + np.uint64(row * LANES))
            error, square, product, other = error + more[0], square + more[1], product + more[2], other + more[3]
        lanes[0, lane] += error
        lanes[1, lane] += square
        lanes[2, lane] += product
        lanes[3, lane] += other


@inner
def padded(values):
    """Fill a step up with zeros."""
    step = np.zeros(STEP, np.float32)
    for i in range(values.size):  # assigning to a slice takes two seconds to compile
        step[i] = values[i]
    return step


@inner
def add_up(old, new, sums):
    """Add squared errors, squares of both sides and products up, in the order of `reference.LANES`."""
    lanes = np.zeros((4, LANES))
    before, after = old.view(np.float32), new.view(np.float32)
    for at in range(0, before.size, STEP):
        ours, theirs = before[at : at + STEP], after[at : at + STEP]
        if ours.size < STEP:
            ours, theirs = padded(ours), padded(theirs)
        add_step(ours, theirs, lanes)
    half = np.uint64(LANES // 2)
    while half:
        for lane in range(half):
            for kind in range(4):
                lanes[kind, lane] += lanes[kind, lane + half]
        half = half >> np.uint64(1)
    sums[2], sums[3] = lanes[0, 0], lanes[1, 0]
    sums[4] = lanes[2, 0] if abs(lanes[2, 0]) < np.inf else np.inf
    sums[5] = lanes[3, 0]


@inner
def tally(old, new, counts, sums):
    """Measure a chunk as `reference.compare` does, but for what saturated."""
    counts[0], has_specials = look(old, new)
    if has_specials:
        old, new = old.copy(), new.copy()
        counts[5] = set_specials_aside(old, new)
    counts[2], counts[4], counts[3], error, relative = furthest(old, new)
    sums[0], sums[1] = np.uint32(error).view(np.float32), np.uint32(relative).view(np.float32)
    add_up(old, new, sums)


@kernel
def measure(before, after, begin, end, counts, sums):
    """Measure each chunk as `reference.compare` does; writes what `rounding.round_to_grid` does.

    Of copies, which the cache holds: read-only words and the copies that `tally` makes would be two types, and the
    whole compiled twice.
    """
    ours, theirs = np.empty(ROUND_CHUNK, np.uint32), np.empty(ROUND_CHUNK, np.uint32)
    for chunk in range(begin.size):
        old, new = before[begin[chunk] : end[chunk]], after[begin[chunk] : end[chunk]]
        for i in range(np.uint64(old.size)):
            ours[i], theirs[i] = old[i], new[i]
        tally(ours[: old.size], theirs[: old.size], counts[chunk], sums[chunk])
