"""The front doors of counting: they check the words, and send them to the kernel or to its twin."""

from __future__ import annotations

from functools import cache

import numpy as np

from truebits_native import choice, reference
from truebits_native.choice import check_bits, check_words, on_threads, readable
from truebits_native.chunks import cut

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
    if words.itemsize == 8 or not choice.uses_kernels("matching_counts", int((stops - starts).sum())):
        return reference.matching_counts(words, starts, stops, mask, pattern)
    from truebits_native.lowbits import count_matching

    owner, begin, end = cut(starts, stops)
    with on_threads(threads):
        counts = count_matching(words, begin, end, np.uint32(mask), np.uint32(pattern))
    totals = np.zeros(starts.size, np.int64)
    np.add.at(totals, owner, counts)
    return totals


def differing_count(before: np.ndarray, after: np.ndarray, mask: int = 0xFFFFFFFF, threads: int | None = None) -> int:
    """Count the words of two arrays that differ in the bits of `mask`.

    Parameters
    ----------
    before, after : ndarray of uint32, shape (n,)
    mask : int
        All bits if not given: 0 words then prove that the arrays are the same.
    threads : int, optional

    Returns
    -------
    int

    Raises
    ------
    ValueError
        The arrays differ in size.
    """
    before, after = readable(before, np.uint32), readable(after, np.uint32)
    if before.size != after.size:
        raise ValueError(f"arrays of {before.size} and {after.size} words")
    if not choice.uses_kernels("differing_count", before.size):
        return reference.differing_count(before, after, mask)
    from truebits_native.difference import count_differing

    _, begin, end = cut(np.array([0]), np.array([before.size]))
    with on_threads(threads):
        return int(count_differing(before, after, begin, end, np.uint32(mask)).sum())


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
    table = np.zeros(reference.BINS, np.int64)
    table[bins] = counts
    return table.reshape(reference.TABLE)


def profiles(
    words: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    kind: str = "F32",
    threads: int | None = None,
) -> reference.Sparse:
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
    if kind == "F64" or not choice.uses_kernels("profiles", int((stops - starts).sum())):
        return reference.profiles(words, starts, stops, lookup)
    from truebits_native.histogram import count_half_bins, count_single_bins

    owner, begin, end = cut(starts, stops)
    room = np.minimum(end - begin, reference.BINS)
    slot = np.cumsum(room) - room
    bins, counts = np.empty(room.sum(), np.uint16), np.empty(room.sum(), np.uint32)
    with on_threads(threads):
        if lookup is None:
            met = count_single_bins(words, begin, end, slot, bins, counts)
        else:
            met = count_half_bins(words, begin, end, lookup, slot, bins, counts)
    return _merged(owner, slot, met, bins, counts, starts.size)


def _merged(
    owner: np.ndarray, slot: np.ndarray, met: np.ndarray, bins: np.ndarray, counts: np.ndarray, ranges: int
) -> reference.Sparse:
    """Add up the chunks of each range, in order."""
    inside = np.arange(met.sum()) - np.repeat(np.cumsum(met) - met, met)
    where = np.repeat(slot, met) + inside
    used, counted = bins[where].astype(np.int64), counts[where].astype(np.int64)
    key = np.repeat(owner, met) * reference.BINS + used
    if ranges * reference.BINS <= DENSE_BINS:
        table = np.zeros(ranges * reference.BINS, np.int64)
        np.add.at(table, key, counted)
        key = np.flatnonzero(table)
        counted = table[key]
    elif (owner[1:] == owner[:-1]).any():
        key, at = np.unique(key, return_inverse=True)
        counted, once = np.zeros(key.size, np.int64), counted
        np.add.at(counted, at, once)
    return key % reference.BINS, counted, np.searchsorted(key, np.arange(ranges + 1) * reference.BINS)
