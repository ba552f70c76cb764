"""Runs of values that have few different ones: a codebook, whichever it is, and its name where its levels tell.

*The null model* is any density that does not rise away from zero, on the grid of the values' type. One value v of
it is not more likely than F(v) u / v, where u is the distance to the next value and F the share of values that are
not larger. If n values have d different ones, n - d of them repeated others, each by a chance of at most the sum of
the d largest of these shares, and which of them did can be chosen in (n over d) ways. Zeros tell nothing.
Where the values do not gather around zero, as norms do around 1, the model is wrong: then the share that the most
frequent d have in all values counts, if it is more.
"""

from __future__ import annotations

from functools import cache
from math import lgamma, log
from typing import NamedTuple

import numpy as np

from truebits.precision.levels import IQ2, IQ3_S, IQ3_XXS
from truebits_native.types import FLOAT_POINT_FOUR

SIZES = (128, 64, 32)
"""Values that may share a codebook, along a row or a column."""

CODEBOOK_SIZES = (4, 8, 16, 32, 64)
"""Numbers of different values that are looked for: what 2 to 6 bits tell apart."""

SHARE_WANTED = 0.999

TRIED = 64
"""Runs whose levels are held against those of codebooks that are known."""

NAMED_SHARE = 0.95
"""Of these runs, so many have to lie on the levels."""

NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
"""bitsandbytes, ``csrc/kernels.cu`` (QLoRA, appendix E)."""

IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""``kvalues_iq4nl`` in ggml-common.h."""


def _both(*magnitudes: float) -> tuple[float, ...]:
    return tuple(sorted({sign * magnitude for magnitude in magnitudes for sign in (-1, 1)}))


GRIDS = {
    "nf4": NF4,
    "fp4": _both(0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1),
    "mxfp4 or nvfp4": _both(*FLOAT_POINT_FOUR.tolist()),
    "iq4_nl or iq4_xs": IQ4_NL,
    "iq3_s": _both(*IQ3_S),
    "iq3_xxs": _both(*IQ3_XXS),
    "iq2": _both(*IQ2),
    "iq1": (-1.125, -0.125, 0.875),
}
"""Codebooks by name: bitsandbytes' (``fp4`` has the steps of its ``dDequantizeFP4Tree``), OCP's, and ggml's grids."""


class Codebook(NamedTuple):
    """What runs of values have in common.

    Attributes
    ----------
    levels : int
        Different values that a run has at most, rounded up to a power of two.
    size : int
        Values in a run.
    agreeing, runs : int
    bits : float
        What speaks against chance.
    """

    levels: int
    size: int
    agreeing: int
    runs: int
    bits: float


def find_codebook(values: np.ndarray, ulps: np.ndarray, sizes: tuple[int, ...] = SIZES) -> Codebook | None:
    """Find the fewest different values that all runs do with, and the longest runs that do with them.

    Parameters
    ----------
    values, ulps : ndarray of float64, shape (runs, n)
        Finite neighbours along a row or a column, and the null model's distance from each to the next value.
    sizes : tuple of int
        Lengths of runs to look at, all of them divisors of n.

    Returns
    -------
    Codebook or None
    """
    shares = _largest_shares(values, ulps)
    found = [
        Codebook(levels, size, agreeing, different.size, _worth(different, nonzero, shares))
        for size in sizes
        for different, nonzero in [_counts(values.reshape(-1, size))]
        for levels in CODEBOOK_SIZES
        if 2 * levels <= size
        and (agreeing := int(np.count_nonzero(different <= levels))) >= SHARE_WANTED * different.size > 0
    ]
    return min(found, key=lambda one: (one.levels, -one.size), default=None)


def _counts(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many different values each run has, and how many that are not zero."""
    ordered = np.sort(runs, axis=1)
    return 1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1), np.count_nonzero(runs, axis=1)


def _worth(different: np.ndarray, nonzero: np.ndarray, shares: np.ndarray) -> float:
    """Add up what speaks against chance in each run, in bits; a run may count for nothing, not for less."""
    kinds = np.minimum(different, nonzero)
    bits = -(nonzero - kinds) * np.log2(shares[np.clip(kinds, 1, shares.size - 1)])
    ways = _log_factorials()
    bits = bits - (ways[nonzero] - ways[kinds] - ways[nonzero - kinds])
    return float(np.maximum(bits, 0.0).sum())


def _largest_shares(values: np.ndarray, ulps: np.ndarray) -> np.ndarray:
    """Return the most that 0, 1, 2, ... values can make up of all values that are not zero."""
    usual = values != 0
    kinds, first, counts = np.unique(values[usual], return_index=True, return_counts=True)
    if not kinds.size:
        return np.ones(2)
    magnitudes = np.abs(kinds)
    order = np.argsort(magnitudes)
    not_larger: np.ndarray = np.empty(kinds.size)
    not_larger[order] = counts[order].cumsum() / counts.sum()
    shares = np.minimum(1.0, not_larger * ulps[usual][first] / magnitudes)
    middle = np.abs(values).max(axis=1, keepdims=True) / 2
    if np.count_nonzero(usual & (np.abs(values) <= middle)) < 0.5 * np.count_nonzero(usual):
        shares = np.maximum(shares, counts / counts.sum())
    return np.minimum(1.0, np.append(0.0, np.sort(shares)[::-1].cumsum()))


@cache
def _log_factorials() -> np.ndarray:
    """The binary logarithm of n!, for n up to the longest run."""
    return np.array([lgamma(n + 1) / log(2) for n in range(max(SIZES) + 1)])


def name_of(found: Codebook, values: np.ndarray, rounding: np.ndarray) -> str:
    """Name a codebook by its levels: of a format, of evenly spaced integers, or just by its size.

    Parameters
    ----------
    found : Codebook
    values, rounding : ndarray of float64, shape (runs, n)
        Values, and how far off its level each may be.
    """
    runs, slack = (array.reshape(-1, found.size) for array in (values, rounding))
    kept = np.flatnonzero((runs != 0).any(axis=1))
    some = kept[np.linspace(0, kept.size - 1, min(TRIED, kept.size)).astype(np.int64)]
    runs, slack = runs[some], slack[some]
    shares = {name: _share_on(runs, slack, np.array(grid, np.float64)) for name, grid in GRIDS.items()}
    shares = {name: share for name, share in shares.items() if len(GRIDS[name]) <= found.levels}
    best = max(shares, key=lambda name: (shares[name], -len(GRIDS[name])), default=None)
    bits, even, zero = found.levels.bit_length() - 1, *_even_shares(runs, slack, found.levels)
    if best is not None and shares[best] >= max(NAMED_SHARE, even):
        return best
    if even < NAMED_SHARE:
        return f"codebook of {found.levels} in blocks of {found.size}"
    return f"int{bits} (gptq or awq)" if zero >= NAMED_SHARE else f"affine int{bits} (mlx or hqq)"


def _share_on(runs: np.ndarray, slack: np.ndarray, grid: np.ndarray) -> float:
    """Return the share of runs that lie on a grid times one scale, whichever level is a run's largest value."""
    agrees: np.ndarray = np.zeros(len(runs), bool)
    at = np.abs(runs).argmax(axis=1)[:, None]
    largest = np.take_along_axis(runs, at, axis=1)
    for top in grid[grid != 0]:
        levels = largest / top * grid  # shape (runs, levels)
        off = np.abs(runs[:, :, None] - levels[:, None, :]).min(axis=2)
        agrees |= (off <= slack).all(axis=1)
    return float(agrees.mean())


def _even_shares(runs: np.ndarray, slack: np.ndarray, levels: int) -> tuple[float, float]:
    """Return the share of runs whose values stand at even distances, and of those with zero among these."""
    least, largest = runs.min(axis=1, keepdims=True), runs.max(axis=1, keepdims=True)
    slack = slack.max(axis=1, keepdims=True)
    even, zero = np.zeros(len(runs), bool), np.zeros(len(runs), bool)
    for steps in range(1, levels):
        spacing = np.where(largest > least, largest - least, 1.0) / steps
        off = np.abs(runs - least - np.rint((runs - least) / spacing) * spacing)
        is_even = (off <= slack).all(axis=1) & (spacing > 4 * slack)[:, 0] & ~even
        from_zero = np.abs(least - np.rint(least / spacing) * spacing)[:, 0]
        zero |= is_even & (from_zero <= slack[:, 0] * (1 + np.abs(least / spacing)[:, 0] / steps))
        even |= is_even
    return float(even.mean()), float(zero[even].mean()) if even.any() else 0.0
