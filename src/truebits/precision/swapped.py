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
"""Words of a tensor that are swapped for a trial."""

SPREAD, USUAL = 0.85, 0.6
"""Of all bits of the exponent: the entropy that weights never reach, and the one that they do not exceed."""


def is_swapped(words: np.ndarray, type: str, bins: np.ndarray) -> bool:
    """Tell whether words are those of weights with their bytes swapped.

    Parameters
    ----------
    words : ndarray of unsigned integers
        From the start of a tensor.
    type : str
        F32, F16, BF16 or F64.
    bins : ndarray of int64
        Those that occur in the tensor, ascending.
    """
    layout = FLOAT_LAYOUTS[type]
    exponents = 1 << layout.exponent_bits
    found = int(np.count_nonzero(np.diff(bins // layout.columns))) + 1
    are_subnormal = bins[-1] < layout.columns
    if words.size < FEWEST or not (are_subnormal or found > exponents // 3):
        return False
    some = words[:LOOKED_AT]
    return (are_subnormal or _spread(some, type) > SPREAD) and _spread(some.byteswap(), type) < USUAL


def _spread(words: np.ndarray, type: str) -> float:
    """Return the entropy of the exponents, of all the bits that they have; 1 if there is nothing but zeros."""
    bins, counts = np.unique(native.bins_of(words, type), return_counts=True)
    profile = PrecisionProfile(type, bins.astype(np.int64), counts)
    layout = profile.layout
    usual = profile.count(~(layout.is_special | layout.is_zero))
    return profile.exponent_entropy / layout.exponent_bits if 2 * usual > words.size else 1.0
