"""Twins of `truebits_native.kernels.histogram`."""

from __future__ import annotations

import numpy as np

from truebits_native.types import BINS, DOUBLE_TABLE, TABLE, Ranges, Sparse

BLOCK = 1 << 17
"""Values that `profiles` holds in memory at a time."""


def single_bins(words: np.ndarray) -> np.ndarray:
    """Return the flat index into `TABLE` of each F32: exponent * 24 + trailing zeros."""
    mantissa = words | np.uint32(1 << 23)
    lowest = mantissa & (~mantissa + np.uint32(1))
    trailing = (lowest.astype(np.float32).view(np.uint32) >> np.uint32(23)) - np.uint32(127)
    exponent = (words >> np.uint32(23)) & np.uint32(0xFF)
    return exponent * np.uint32(24) + trailing


def double_bins(words: np.ndarray) -> np.ndarray:
    """Return the flat index into `DOUBLE_TABLE` of each F64 (uint64 words)."""
    mantissa = words | np.uint64(1 << 52)
    lowest = mantissa & (~mantissa + np.uint64(1))
    trailing = (lowest.astype(np.float64).view(np.uint64) >> np.uint64(52)) - np.uint64(1023)
    exponent = (words >> np.uint64(52)) & np.uint64(0x7FF)
    return exponent * np.uint64(53) + trailing


def half_bins() -> np.ndarray:
    """Return the bin of each of the 65,536 F16 patterns: that of the F32 of the same value."""
    words = np.arange(1 << 16, dtype=np.uint16)
    singles = words.view(np.float16).astype(np.float32).view(np.uint32)
    special = (words & 0x7C00) == 0x7C00
    payload = (words & 0x3FF).astype(np.uint32) << 13
    return single_bins(np.where(special, np.uint32(0x7F800000) | payload, singles)).astype(np.uint16)


def bfloat_bins() -> np.ndarray:
    """Return the bin of each of the 65,536 BF16 patterns: that of the F32 of the same value."""
    return single_bins(np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).astype(np.uint16)


def profile(words: np.ndarray) -> np.ndarray:
    """Count F32 words by exponent and trailing zeros of the mantissa.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)

    Returns
    -------
    ndarray of int64, shape (256, 24)
        ``[e, t]``: words with biased exponent e whose 23-bit mantissa has t trailing zero bits;
        t is 23 where the mantissa is zero.
    """
    return np.bincount(single_bins(words).astype(np.int64), minlength=BINS).reshape(TABLE)


def profiles(words: np.ndarray, starts: Ranges, stops: Ranges, bins: np.ndarray | None = None) -> Sparse:
    """Do `profile` for each range ``words[start:stop]``, without the zeros.

    Parameters
    ----------
    words : ndarray of uint32, uint64 or uint16, shape (n,)
        F32 or F64 words, or the 16-bit patterns of the type that `bins` belongs to.
    starts, stops : ndarray of int64, shape (m,)
    bins : ndarray of uint16, shape (65536,), optional
        `half_bins` or `bfloat_bins`, for 16-bit words.

    Returns
    -------
    bins, counts : ndarray of int64
        The flat bins that occur, ascending within each range, and how often.
    splits : ndarray of int64, shape (m + 1,)
        Range i has ``bins[splits[i] : splits[i + 1]]``.
    """
    width = DOUBLE_TABLE[0] * DOUBLE_TABLE[1] if words.dtype == np.uint64 else BINS
    lengths = stops - starts
    ends = np.cumsum(lengths)
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for low in range(0, int(lengths.sum()), BLOCK):
        flat = np.arange(low, min(low + BLOCK, int(ends[-1])))
        first, last = np.searchsorted(ends, flat[[0, -1]], "right")
        inside = np.minimum(ends[first : last + 1], flat[-1] + 1) - np.maximum(
            ends[first : last + 1] - lengths[first : last + 1], low
        )
        owner = np.repeat(np.arange(first, last + 1), inside)
        block = words[flat - (ends - stops)[owner]]
        if bins is not None:
            found = bins[block]
        else:
            found = double_bins(block) if words.dtype == np.uint64 else single_bins(block)
        key, count = np.unique(owner * width + found.astype(np.int64), return_counts=True)
        keys.append(key)
        counts.append(count)
    merged, totals = keys[-1], counts[-1]
    if len(keys) > 2:
        merged, where = np.unique(np.concatenate(keys), return_inverse=True)
        totals = np.zeros(merged.size, np.int64)
        np.add.at(totals, where, np.concatenate(counts))
    splits = np.searchsorted(merged, np.arange(starts.size + 1) * width)
    return merged % width, totals, splits
