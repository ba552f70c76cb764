"""Words whose low k bits are zero: the report's number, at memory speed."""

from __future__ import annotations

import numpy as np

from truebits_native.jit import kernel


@kernel
def count_matching(words, begin, end, mask, pattern, counts):
    """Count, in each chunk ``words[begin:end]``, the words that show `pattern` under `mask`.

    The casts keep LLVM at 32 bits, the unsigned index spares it the wrap-around of negative
    ones: without either the loop runs at half the speed of C's.
    """
    for chunk in range(begin.size):
        piece = words[begin[chunk] : end[chunk]]
        count = np.uint32(0)
        for i in range(np.uint64(piece.size)):
            count = np.uint32(count + np.uint32(np.uint32(piece[i] & mask) == pattern))
        counts[chunk] = np.int64(count)
