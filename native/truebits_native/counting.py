"""The front doors of counting: they check the words, and send them to the kernel or to its twin."""

from __future__ import annotations

from functools import cache

import numpy as np

from truebits_native import dispatch, reference
from truebits_native.chunks import cut
from truebits_native.dispatch import check_bits, check_words, readable, run
from truebits_native.pool import over_runs
from truebits_native.types import BINS, TABLE, Sparse

DENSE_BINS = 1 << 18
"""Tables of all ranges together that still fit the cache are added up as they are."""


WORD = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16, "F64": np.uint64}


@cache
def half_lookup(kind: str) -> np.ndarray:
    """Return the bin of each of the 65,536 patterns of F16 or BF16."""
    return reference.half_bins() if kind == "F16" else reference.bfloat_bins()


def bins_of(words: np.ndarray, kind: str = "F32") -> np.ndarray:
    """Return the bin in which `profiles` counts each word.

    Parameters
    ----------
    words : ndarray of uint32 (F32), uint16 (F16, BF16) or uint64 (F64), shape (n,)
    kind : {"F32", "F16", "BF16", "F64"}

    Returns
    -------
    ndarray of unsigned integers, shape (n,)
    """
    check_words(words, WORD[kind])
    if kind in ("F16", "BF16"):
        return half_lookup(kind)[words]
    return reference.double_bins(words) if kind == "F64" else reference.single_bins(words)


def low_zero_count(words: np.ndarray, bits: int, threads: int | None = None) -> int:
    """Count the words whose low `bits` bits are zero.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    bits : int
        1 to 31.
    threads : int, optional
        All cores if not given.

    Returns
    -------
    int
    """
    return int(low_zero_counts(words, np.array([0]), np.array([words.size]), bits, threads)[0])


def low_zero_counts(
    words: np.ndarray, starts: np.ndarray, stops: np.ndarray, bits: int, threads: int | None = None
) -> np.ndarray:
    """Do `low_zero_count` for each range ``words[start:stop]``.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
    bits, threads : int

    Returns
    -------
    ndarray of int64, shape (m,)
    """
    check_words(words, np.uint32)
    check_bits(bits)
    return matching_counts(words, starts, stops, (1 << bits) - 1, 0, threads)


def matching_counts(
    words: np.ndarray, starts: np.ndarray, stops: np.ndarray, mask: int, pattern: int, threads: int | None = None
) -> np.ndarray:
    """Count, in each range ``words[start:stop]``, the words that show `pattern` under `mask`.

    Parameters
    ----------
    words : ndarray of uint16, uint32 or uint64, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
    mask, pattern : int
        Counted is ``word & mask == pattern``.
    threads : int, optional

    Returns
    -------
    ndarray of int64, shape (m,)
    """
    words = readable(words, words.dtype)
    name = "lowbits.count_matching"
    if words.itemsize == 8 or not dispatch.uses_kernel(name, int((stops - starts).sum())):
        return reference.matching_counts(words, starts, stops, mask, pattern)
    owner, begin, end = cut(starts, stops)
    counts, asked = np.empty(begin.size, np.int64), (np.uint32(mask), np.uint32(pattern))
    over_runs(lambda of: run(name, words, begin[of], end[of], *asked, counts[of]), begin.size, threads)
    totals = np.zeros(starts.size, np.int64)
    np.add.at(totals, owner, counts)
    return totals


def profile(words: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Count F32 words by exponent and trailing zeros of the mantissa.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    threads : int, optional

    Returns
    -------
    ndarray of int64, shape (256, 24)
        ``[e, t]``: words with biased exponent e whose 23-bit mantissa has t trailing zero bits;
        t is 23 where the mantissa is zero.
    """
    check_words(words, np.uint32)
    bins, counts, _ = profiles(words, np.array([0]), np.array([words.size]), threads=threads)
    table = np.zeros(BINS, np.int64)
    table[bins] = counts
    return table.reshape(TABLE)


def profiles(
    words: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    kind: str = "F32",
    threads: int | None = None,
) -> Sparse:
    """Do `profile` for each range ``words[start:stop]``, without the zeros.

    Parameters
    ----------
    words : ndarray of uint32 (F32), uint16 (F16, BF16) or uint64 (F64), shape (n,)
    starts, stops : ndarray of int64, shape (m,)
    kind : {"F32", "F16", "BF16", "F64"}
        What the words are. F16 and BF16 are counted as the F32 of the same value; F64 in its
        own table of shape (2048, 53).
    threads : int, optional

    Returns
    -------
    bins, counts : ndarray of int64
        The flat bins that occur, ascending within each range, and how often.
    splits : ndarray of int64, shape (m + 1,)
        Range i has ``bins[splits[i] : splits[i + 1]]``.
    """
    words = readable(words, WORD[kind])
    lookup = half_lookup(kind) if kind in ("F16", "BF16") else None
    name = "histogram.count_single_bins" if lookup is None else "histogram.count_half_bins"
    if kind == "F64" or not dispatch.uses_kernel(name, int((stops - starts).sum())):
        return reference.profiles(words, starts, stops, lookup)
    owner, begin, end = cut(starts, stops)
    room = np.minimum(end - begin, BINS)
    slot = np.cumsum(room) - room
    bins, counts = np.empty(room.sum(), np.uint16), np.empty(room.sum(), np.uint32)
    met, more = np.empty(begin.size, np.int64), () if lookup is None else (lookup,)
    over_runs(
        lambda of: run(name, words, begin[of], end[of], *more, slot[of], bins, counts, met[of]), begin.size, threads
    )
    return _merged(owner, slot, met, bins, counts, starts.size)


def _merged(
    owner: np.ndarray, slot: np.ndarray, met: np.ndarray, bins: np.ndarray, counts: np.ndarray, ranges: int
) -> Sparse:
    """Add up the chunks of each range, in order."""
    inside = np.arange(met.sum()) - np.repeat(np.cumsum(met) - met, met)
    where = np.repeat(slot, met) + inside
    used, counted = bins[where].astype(np.int64), counts[where].astype(np.int64)
    key = np.repeat(owner, met) * BINS + used
    if ranges * BINS <= DENSE_BINS:
        table = np.zeros(ranges * BINS, np.int64)
        np.add.at(table, key, counted)
        key = np.flatnonzero(table)
        counted = table[key]
    elif (owner[1:] == owner[:-1]).any():
        key, at = np.unique(key, return_inverse=True)
        counted, once = np.zeros(key.size, np.int64), counted
        np.add.at(counted, at, once)
    return key % BINS, counted, np.searchsorted(key, np.arange(ranges + 1) * BINS)
