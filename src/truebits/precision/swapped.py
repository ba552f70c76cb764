"""Words whose bytes stand in the wrong order, told by their exponents.

What should be the mantissa's last bits is read as sign and exponent: all exponents occur, about equally often. In
the right order the weights of a tensor have exponents of two to four bits of entropy. BF16 values stored as F32
have nothing but zeros there: swapped, all are subnormal.
"""

from __future__ import annotations

import numpy as np

import truebits_native as native
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.profile import PrecisionProfile

FEWEST = 256
"""Words that are needed to tell."""

LOOKED_AT = 1 << 16
"""Words of a tensor that are swapped for a trial, at most."""

SPREAD, USUAL = 0.85, 0.6
"""Of all bits of the exponent: the entropy that weights never reach, and the one that they do not exceed."""


def perhaps_swapped(type: str, bins: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Tell which ranges of words have so many exponents, or are all so small, that bytes may be swapped.

    Parameters
    ----------
    type : str
        F32, F16, BF16 or F64.
    bins, splits : ndarray of int64
        As `truebits_native.profiles` gives them; no range is empty.

    Returns
    -------
    ndarray of bool, shape (ranges,)
    """
    layout = FLOAT_LAYOUTS[type]
    exponents = bins // layout.columns
    is_new = np.diff(exponents, prepend=-1) != 0
    is_new[splits[:-1]] = True
    found = np.add.reduceat(is_new, splits[:-1], dtype=np.int64)
    return (exponents[splits[1:] - 1] == 0) | (found > (1 << layout.exponent_bits) // 3)


def is_swapped(words: np.ndarray, type: str, bins: np.ndarray, counts: np.ndarray) -> bool:
    """Tell whether words are those of weights with their bytes swapped.

    Parameters
    ----------
    words : ndarray of unsigned integers
        From the start of a tensor, and `perhaps_swapped`.
    type : str
        F32, F16, BF16 or F64.
    bins, counts : ndarray of int64
        Those that occur, ascending, and how often.
    """
    if words.size < FEWEST:
        return False
    are_subnormal = bins[-1] < FLOAT_LAYOUTS[type].columns
    if not are_subnormal and _spread(type, bins, counts) <= SPREAD:
        return False
    swapped, counts = np.unique(native.bins_of(words[:LOOKED_AT].byteswap(), type), return_counts=True)
    return _spread(type, swapped.astype(np.int64), counts) < USUAL


def _spread(type: str, bins: np.ndarray, counts: np.ndarray) -> float:
    """Return the entropy of the exponents, of all the bits that they have; 1 if there is nothing but zeros."""
    profile = PrecisionProfile(type, bins, counts)
    layout = profile.layout
    usual = profile.count(~(layout.is_special | layout.is_zero))
    return profile.exponent_entropy / layout.exponent_bits if 2 * usual > profile.values else 1.0
