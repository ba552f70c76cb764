"""The front doors of holding two arrays against each other: kernel or twin."""

from __future__ import annotations

import numpy as np

from truebits_native import dispatch, reference
from truebits_native.chunks import cut
from truebits_native.dispatch import readable, run
from truebits_native.pool import over_runs
from truebits_native.types import ROUND_CHUNK, Difference


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
    name = "difference.count_differing"
    if not dispatch.uses_kernel(name, before.size):
        return reference.differing_count(before, after, mask)
    _, begin, end = cut(np.array([0]), np.array([before.size]))
    counts = np.empty(begin.size, np.int64)
    over_runs(lambda of: run(name, before, after, begin[of], end[of], np.uint32(mask), counts[of]), begin.size, threads)
    return int(counts.sum())


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
    name = "difference.measure"
    if before.itemsize == 8 or not dispatch.uses_kernel(name, before.size):
        return reference.compare(before, after)
    _, begin, end = cut(np.array([0]), np.array([before.size]), ROUND_CHUNK)
    counts, sums = np.zeros((begin.size, 6), np.int64), np.zeros((begin.size, 6))
    over_runs(lambda of: run(name, before, after, begin[of], end[of], counts[of], sums[of]), begin.size, threads)
    return totalled(before.size, counts, sums)


def totalled(values: int, counts: np.ndarray, sums: np.ndarray) -> Difference:
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
