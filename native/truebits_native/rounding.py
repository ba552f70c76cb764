"""The front doors of changing words, mostly in place: kernel or twin."""

from __future__ import annotations

import numpy as np

from truebits_native import dispatch, reference
from truebits_native.chunks import CHUNK, cut
from truebits_native.difference import totalled
from truebits_native.dispatch import check_bits, check_words, readable, run
from truebits_native.pool import over_runs
from truebits_native.types import NEAREST, ROUND_CHUNK, Difference, Grid, Scales, word_grid


def truncate(words: np.ndarray, bits: int, threads: int | None = None) -> int:
    """Set the low `bits` bits of F32 words to zero, in place.

    Inf stays Inf. A NaN stays a NaN: where the cut would leave no mantissa bit, the quiet bit
    is set. Cutting twice is cutting once.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
        Changed in place.
    bits : int
        1 to 31.
    threads : int, optional

    Returns
    -------
    int
        How many words changed.
    """
    check_words(words, np.uint32)
    check_bits(bits)
    if not words.flags.writeable:
        raise ValueError("truncate works in place: words must be writable")
    name = "rounding.cut_low_bits"
    if not dispatch.uses_kernel(name, words.size):
        return reference.truncate(words, bits)
    plain, begin, end = _in_chunks(words, CHUNK)
    counts, mask = np.empty(begin.size, np.int64), np.uint32(0xFFFFFFFF >> bits << bits)
    over_runs(lambda of: run(name, plain, begin[of], end[of], mask, counts[of]), begin.size, threads)
    _put_back(words, plain)
    return int(counts.sum())


def round_floats(
    words: np.ndarray,
    grid: Grid,
    rounding: int = NEAREST,
    key: int = 0,
    first: int = 0,
    *,
    measured: bool = True,
    threads: int | None = None,
) -> Difference:
    """Round F32 or F64 words to a grid, in place.

    Parameters
    ----------
    words : ndarray of uint32 (F32) or uint64 (F64), shape (n,)
        Changed in place. F64 is for the twin alone.
    grid : Grid
    rounding : int
        `reference.NEAREST`, `TRUNCATE` or `STOCHASTIC`.
    key, first : int
        Of stochastic rounding: the generator's key, and the position of the first word in it.
    measured : bool
        False: only count what changed and what was beyond the grid, which takes a third of the time.
    threads : int, optional

    Returns
    -------
    Difference
        Of the words before and after.
    """
    _check_changeable(words)
    name = "rounding.round_to_grid"
    if words.itemsize == 8 or not dispatch.uses_kernel(name, words.size):
        return reference.round_floats(words, grid, rounding, key, first, measured=measured)
    plain, begin, end = _in_chunks(words, ROUND_CHUNK)
    counts, sums = np.zeros((begin.size, 6), np.int64), np.zeros((begin.size, 6))
    how = word_grid(grid), np.int64(rounding), np.uint64(key), np.int64(first), measured
    over_runs(lambda of: run(name, plain, begin[of], end[of], *how, counts[of], sums[of]), begin.size, threads)
    _put_back(words, plain)
    return totalled(words.size, counts, sums)


def round_scaled(
    words: np.ndarray,
    unit: int,
    offset: int,
    scales: Scales,
    grid: Grid,
    rounding: int = NEAREST,
    key: int = 0,
    first: int = 0,
    *,
    threads: int | None = None,
) -> Difference:
    """Round F32 words to a grid of which each unit of values has its own multiple, in place.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
        Finite values; changed in place.
    unit : int
        Values per scale.
    offset : int
        Place of the first word in its unit, 0 to unit - 1.
    scales : Scales
        From the first word's unit on.
    grid : Grid
        Of the scaled values; its end and its specials are not asked for.
    rounding, key, first, threads
        As for `round_floats`; also `reference.AWAY`.

    Returns
    -------
    Difference
    """
    _check_changeable(words)
    check_words(words, np.uint32)
    name = "scaling.round_in_units"
    if not dispatch.uses_kernel(name, words.size):
        return reference.round_scaled(words, unit, offset, scales, grid, rounding, key, first)
    plain, begin, end = _in_chunks(words, ROUND_CHUNK)
    counts, sums = np.zeros((begin.size, 6), np.int64), np.zeros((begin.size, 6))
    how = unit, offset, *scales, word_grid(grid), np.int64(rounding), np.uint64(key), np.int64(first)
    over_runs(lambda of: run(name, plain, begin[of], end[of], *how, counts[of], sums[of]), begin.size, threads)
    _put_back(words, plain)
    return totalled(words.size, counts, sums)


def extremes(
    words: np.ndarray, starts: np.ndarray, stops: np.ndarray, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest F32 of each range ``words[start:stop]``; NaN where not all are finite.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Not empty.
    threads : int, optional

    Returns
    -------
    low, high : ndarray of float32, shape (m,)
    """
    words = readable(words, np.uint32)
    name = "scaling.find_extremes"
    if not dispatch.uses_kernel(name, words.size):
        return reference.extremes(words, starts, stops)
    owner, begin, end = np.arange(starts.size), starts, stops
    if (stops - starts).max(initial=0) > CHUNK:
        owner, begin, end = cut(starts, stops)
    firsts = np.searchsorted(owner, np.arange(starts.size))
    least, most = np.empty(begin.size, np.int32), np.empty(begin.size, np.int32)
    special = np.empty(begin.size, np.uint8)
    over_runs(lambda of: run(name, words, begin[of], end[of], least[of], most[of], special[of]), begin.size, threads)
    found = np.minimum.reduceat(least, firsts), np.maximum.reduceat(most, firsts)
    low, high = (reference.ordered(order.view(np.uint32)).view(np.float32) for order in found)
    is_special = np.maximum.reduceat(special, firsts) > 0
    return np.where(is_special, np.float32(np.nan), low), np.where(is_special, np.float32(np.nan), high)


def scale_errors(
    words: np.ndarray, starts: np.ndarray, stops: np.ndarray, scales: Scales, threads: int | None = None
) -> np.ndarray:
    """Return the squared error that each of several scales makes of each range of F32 words.

    Values are rounded to whole numbers of the scale, to the nearest, ties to even.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Not empty.
    scales : Scales
        Of shape (m, candidates).
    threads : int, optional

    Returns
    -------
    ndarray of float64, shape (m, candidates)
        Summed up value by value in chunks of `reference.ROUND_CHUNK`, and then chunk by chunk.
    """
    words = readable(words, np.uint32)
    owner, begin, end = cut(starts, stops, ROUND_CHUNK)
    name = "scaling.sum_scale_errors"
    if not dispatch.uses_kernel(name, words.size * scales.scale.shape[1] // 16):
        errors = reference.scale_errors(words, begin, end, Scales(*(of[owner] for of in scales)))
    else:
        values, errors = words.view(np.float32), np.zeros((begin.size, scales.scale.shape[1]))
        over_runs(lambda of: run(name, values, begin[of], end[of], owner[of], *scales, errors[of]), begin.size, threads)
    return np.add.reduceat(errors, np.searchsorted(owner, np.arange(starts.size)), axis=0)


def widened(words: np.ndarray, kind: str, threads: int | None = None) -> np.ndarray:
    """Return the F32 words of F16 or BF16 words.

    Parameters
    ----------
    words : ndarray of uint16, shape (n,)
    kind : {"F16", "BF16"}
    threads : int, optional

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    words = readable(words, np.uint16)
    name = "halves.widen_bfloats" if kind == "BF16" else "halves.widen_with"
    if not dispatch.uses_kernel(name, words.size):
        return reference.widened(words, kind)
    wide, more = np.empty(words.size, np.uint32), () if kind == "BF16" else (reference.half_singles(),)
    over_runs(lambda of: run(name, words[of], *more, wide[of]), words.size, threads)
    return wide


def narrowed(words: np.ndarray, kind: str, threads: int | None = None) -> np.ndarray:
    """Return the F16 or BF16 words of F32 words that are exact in it.

    Parameters
    ----------
    words : ndarray of uint32, shape (n,)
    kind : {"F16", "BF16"}
    threads : int, optional

    Returns
    -------
    ndarray of uint16, shape (n,)
    """
    words = readable(words, np.uint32)
    name = "halves.narrow_to_bfloats" if kind == "BF16" else "halves.narrow_to_halves"
    if not dispatch.uses_kernel(name, words.size):
        return reference.narrowed(words, kind)
    narrow = np.empty(words.size, np.uint16)
    over_runs(lambda of: run(name, words[of], narrow[of]), words.size, threads)
    return narrow


def _check_changeable(words: np.ndarray) -> None:
    check_words(words, np.uint64 if words.itemsize == 8 else np.uint32)
    if not words.flags.writeable:
        raise ValueError("rounding works in place: words must be writable")


def _in_chunks(words: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return words that a kernel can change, a copy where these are not contiguous, and chunks of them."""
    plain = np.require(words, requirements=["C", "A", "W"])
    _, begin, end = cut(np.array([0]), np.array([plain.size]), size)
    return plain, begin, end


def _put_back(words: np.ndarray, plain: np.ndarray) -> None:
    if plain is not words:
        words[:] = plain
