"""Truncation, in place."""

from __future__ import annotations

import numpy as np
from numba import prange

from truebits_native.jit import kernel

INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
MANTISSA = np.uint32(0x007FFFFF)
QUIET = np.uint32(0x00400000)


@kernel
def cut_low_bits(words, begin, end, mask):
    """Clear the bits outside `mask` in each chunk, as `reference.truncate` does; count changes."""
    counts = np.empty(begin.size, np.int64)
    special_mask = np.uint32(mask | ~MAGNITUDE | INFINITY)
    for chunk in prange(begin.size):
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
    return counts
