"""Twins of `truebits_native.kernels.difference`."""

from __future__ import annotations

import math

import numpy as np

from truebits_native.types import LANES, ROUND_CHUNK, ROWS, Difference, merged


def differing_count(before: np.ndarray, after: np.ndarray, mask: int = 0xFFFFFFFF) -> int:
    """Count the words of two uint32 arrays of one size that differ in the bits of `mask`."""
    return int(np.count_nonzero((before ^ after) & np.uint32(mask)))


def compare(before: np.ndarray, after: np.ndarray) -> Difference:
    """Measure how far words are from others.

    Parameters
    ----------
    before, after : ndarray of uint32 (F32) or uint64 (F64), shape (n,)

    Returns
    -------
    Difference
        Its `saturated` is 0: the words do not tell.
    """
    chunks = range(0, before.size, ROUND_CHUNK)
    return merged(_compared(before[at : at + ROUND_CHUNK], after[at : at + ROUND_CHUNK]) for at in chunks)


def _compared(before: np.ndarray, after: np.ndarray) -> Difference:
    changed = before != after
    replaced = changed & _is_replaced(before, after)
    before, after = _specials_aside(before, after)
    old, new = (words.view(f"<f{words.itemsize}") for words in (before, after))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        error = np.abs(new - old)
        relative = np.nan_to_num(error / np.where(old == 0, np.inf, np.abs(old)), nan=np.inf, posinf=np.inf)
    bits = 8 * before.itemsize - 1
    word = before.dtype.type
    ours, theirs = (words & word((1 << bits) - 1) for words in (before, after))
    apart = np.where(
        (before ^ after) >> word(bits) == 0, np.maximum(ours, theirs) - np.minimum(ours, theirs), ours + theirs
    )
    wide, other = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        error_of_sums = error.astype(np.float64)
        errors, squares, products, other_squares = (
            _in_lanes(terms) for terms in (error_of_sums * error_of_sums, wide * wide, wide * other, other * other)
        )
    return Difference(
        before.size,
        int(np.count_nonzero(changed)),
        int(np.count_nonzero((ours != 0) & (theirs == 0))),
        0,
        int(apart.max(initial=0)),
        float(error.max(initial=0)),
        float(relative.max(initial=0)),
        errors,
        squares,
        products if math.isfinite(products) else math.inf,
        other_squares,
        int(np.count_nonzero((ours == 0) & (theirs != 0))),
        int(np.count_nonzero(replaced)),
    )


def _is_replaced(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Tell which words were Inf or NaN, but for a NaN that is one still."""
    old, new = (words.view(f"<f{words.itemsize}") for words in (before, after))
    return ~np.isfinite(old) & ~(np.isnan(old) & np.isnan(new))


def _specials_aside(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make pairs that have no error equal, and what became NaN the Inf of its sign."""
    old, new = (words.view(f"<f{words.itemsize}") for words in (before, after))
    usual = np.isfinite(old)
    infinity = after & np.array(-np.inf, old.dtype).view(before.dtype)
    return np.where(usual, before, 0), np.where(usual, np.where(np.isnan(new), infinity, after), 0)


def _in_lanes(terms: np.ndarray) -> float:
    """Sum up at most `ROUND_CHUNK` float64, in the order that `LANES` defines."""
    step = LANES * ROWS
    padded = np.zeros(-(-terms.size // step) * step)
    padded[: terms.size] = terms
    rows = np.add.accumulate(padded.reshape(-1, ROWS, LANES), axis=1)[:, -1]
    lanes = np.add.accumulate(rows, axis=0)[-1]
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


HALF_INFINITY = {"F16": np.uint16(0x7C00), "BF16": np.uint16(0x7F80)}


def half_distance(before: np.ndarray, after: np.ndarray, kind: str) -> int:
    """Return the largest distance between F16 or BF16 words, in units of the last place.

    As in `compare` there is none from Inf or NaN, and that to a NaN is that to Inf.
    """
    infinity = HALF_INFINITY[kind]
    ours, theirs = (np.minimum(words & np.uint16(0x7FFF), infinity) for words in (before, after))
    apart = np.maximum(ours, theirs) - np.minimum(ours, theirs)
    crossing = ((before ^ after) & np.uint16(0x8000)) != 0
    if crossing.any():
        apart[crossing] = ours[crossing] + theirs[crossing]
    return int(np.where(ours < infinity, apart, 0).max(initial=0))
