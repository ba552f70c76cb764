"""Twins of `truebits_native.kernels.lowbits`."""

from __future__ import annotations

import numpy as np

from truebits_native.types import Ranges


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
