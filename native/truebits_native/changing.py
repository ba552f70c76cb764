"""The front doors of changing words in place, and of measuring the change: kernel or twin."""

from __future__ import annotations

import numpy as np

from truebits_native import choice, reference
from truebits_native.choice import check_bits, check_words, on_threads, readable
from truebits_native.chunks import CHUNK, cut
from truebits_native.reference import Difference, Grid, Scales


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
    if not choice.uses_kernels("truncate", words.size):
        return reference.truncate(words, bits)
    from truebits_native.rounding import cut_low_bits

    plain = np.require(words, requirements=["C", "A", "W"])
    _, begin, end = cut(np.array([0]), np.array([plain.size]))
    with on_threads(threads):
        changed = int(cut_low_bits(plain, begin, end, np.uint32(0xFFFFFFFF >> bits << bits)).sum())
    if plain is not words:
        words[:] = plain
    return changed


def round_floats(
    words: np.ndarray,
    grid: Grid,
    rounding: int = reference.NEAREST,
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
    if words.itemsize == 8 or not choice.uses_kernels("rounding", words.size):
        return reference.round_floats(words, grid, rounding, key, first)
    from truebits_native.rounding import round_to_grid, word_grid

    plain, begin, end = _in_chunks(words)
    with on_threads(threads):
        tables = round_to_grid(
            plain, begin, end, word_grid(grid), np.int64(rounding), np.uint64(key), np.int64(first), measured
        )
    _put_back(words, plain)
    return _totalled(words.size, *tables)


def round_scaled(
    words: np.ndarray,
    unit: int,
    offset: int,
    scales: Scales,
    grid: Grid,
    rounding: int = reference.NEAREST,
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
    if not choice.uses_kernels("rounding", words.size):
        return reference.round_scaled(words, unit, offset, scales, grid, rounding, key, first)
    from truebits_native.rounding import word_grid
    from truebits_native.scaling import round_in_units

    plain, begin, end = _in_chunks(words)
    numbers = np.int64(rounding), np.uint64(key), np.int64(first)
    with on_threads(threads):
        tables = round_in_units(plain, begin, end, unit, offset, *scales, word_grid(grid), *numbers)
    _put_back(words, plain)
    return _totalled(words.size, *tables)


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
    if not choice.uses_kernels("rounding", words.size):
        return reference.extremes(words, starts, stops)
    from truebits_native.scaling import find_extremes

    owner, begin, end = np.arange(starts.size), starts, stops
    if (stops - starts).max(initial=0) > CHUNK:
        owner, begin, end = cut(starts, stops)
    firsts = np.searchsorted(owner, np.arange(starts.size))
    with on_threads(threads):
        least, most, special = find_extremes(words, begin, end)
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
    owner, begin, end = cut(starts, stops, reference.ROUND_CHUNK)
    if not choice.uses_kernels("rounding", words.size * scales.scale.shape[1] // 16):
        errors = reference.scale_errors(words, begin, end, Scales(*(of[owner] for of in scales)))
    else:
        from truebits_native.scaling import sum_scale_errors

        with on_threads(threads):
            errors = sum_scale_errors(words.view(np.float32), begin, end, owner, *scales)
    return np.add.reduceat(errors, np.searchsorted(owner, np.arange(starts.size)), axis=0)


def compare(before: np.ndarray, after: np.ndarray, threads: int | None = None) -> Difference:
    """Measure how far words are from others.

    Parameters
    ----------
    before, after : ndarray of uint32 (F32) or uint64 (F64), shape (n,)
        F64 is for the twin alone.
    threads : int, optional

    Returns
    -------
    Difference
        Its `saturated` is 0: the words do not tell.
    """
    dtype = np.uint64 if before.dtype.itemsize == 8 else np.uint32
    before, after = readable(before, dtype), readable(after, dtype)
    if before.size != after.size:
        raise ValueError(f"arrays of {before.size} and {after.size} words")
    if before.itemsize == 8 or not choice.uses_kernels("rounding", before.size):
        return reference.compare(before, after)
    from truebits_native.difference import measure, measure_specials

    _, begin, end = cut(np.array([0]), np.array([before.size]), reference.ROUND_CHUNK)
    with on_threads(threads):
        counts, sums, left = measure(before, after, begin, end)
        if left.any():
            counts[left], sums[left] = measure_specials(before, after, begin[left], end[left])
    return _totalled(before.size, counts, sums)


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
    if not choice.uses_kernels("rounding", words.size):
        return reference.widened(words, kind)
    from truebits_native.halves import widen_bfloats, widen_with

    wide = np.empty(words.size, np.uint32)
    with on_threads(threads):
        if kind == "BF16":
            widen_bfloats(words, wide)
        else:
            widen_with(words, reference.half_singles(), wide)
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
    if not choice.uses_kernels("rounding", words.size):
        return reference.narrowed(words, kind)
    from truebits_native.halves import narrow_to_bfloats, narrow_to_halves

    narrow = np.empty(words.size, np.uint16)
    with on_threads(threads):
        (narrow_to_bfloats if kind == "BF16" else narrow_to_halves)(words, narrow)
    return narrow


def _check_changeable(words: np.ndarray) -> None:
    check_words(words, np.uint64 if words.itemsize == 8 else np.uint32)
    if not words.flags.writeable:
        raise ValueError("rounding works in place: words must be writable")


def _in_chunks(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return words that a kernel can change, a copy where these are not contiguous, and chunks of them."""
    plain = np.require(words, requirements=["C", "A", "W"])
    _, begin, end = cut(np.array([0]), np.array([plain.size]), reference.ROUND_CHUNK)
    return plain, begin, end


def _put_back(words: np.ndarray, plain: np.ndarray) -> None:
    if plain is not words:
        words[:] = plain


def _totalled(values: int, counts: np.ndarray, sums: np.ndarray) -> Difference:
    """Add up a kernel's chunks, in order."""
    if not values:
        return Difference()
    changed, saturated, flushed, _, raised, replaced = counts.sum(axis=0).tolist()
    squared_error, squares, products, other_squares = np.add.accumulate(sums[:, 2:], axis=0)[-1].tolist()
    max_abs, max_rel = sums[:, :2].max(axis=0).tolist()
    return Difference(
        values=values,
        changed=changed,
        flushed=flushed,
        saturated=saturated,
        max_ulp=int(counts[:, 3].max()),
        max_abs=max_abs,
        max_rel=max_rel,
        squared_error=squared_error,
        squares=squares,
        products=products,
        other_squares=other_squares,
        raised=raised,
        replaced=replaced,
    )
