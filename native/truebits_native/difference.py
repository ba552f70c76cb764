"""Two buffers against each other."""

from __future__ import annotations

import numpy as np
from numba import prange

from truebits_native.jit import kernel


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
