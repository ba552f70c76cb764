"""Stored words -> F32 words of the same values, and back."""

from __future__ import annotations

from functools import cache

import numpy as np

import truebits_native as native
from truebits.files.types import FP8_FORMATS
from truebits.numbers.spelling import find


def to_singles(words: np.ndarray, type: str, threads: int | None = None) -> np.ndarray:
    """Return a tensor's values as F32 words; those of F64 are rounded.

    Parameters
    ----------
    words : ndarray
        Unsigned, of the type's size.
    type : str
        F32, F16, BF16, F64 or one of `FP8_FORMATS`.

    Returns
    -------
    ndarray of uint32
        `words` themselves if they are F32.
    """
    if type == "F64":
        with np.errstate(over="ignore", invalid="ignore"):  # a signaling NaN is invalid
            return words.view("<f8").astype("<f4").view("<u4")
    if type in FP8_FORMATS:
        return single_words(type)[words]
    return words if type == "F32" else native.widened(words, type, threads)


def from_singles(words: np.ndarray, type: str, threads: int | None = None) -> np.ndarray:
    """Return the words of a type for F32 words that are exact in it; for others those of another value.

    Parameters
    ----------
    words : ndarray of uint32
    type : str
        F32, F16, BF16 or one of `FP8_FORMATS`.

    Returns
    -------
    ndarray
        `words` themselves for F32.
    """
    if type in FP8_FORMATS:
        table = single_words(type)
        order = np.argsort(table).astype(np.uint8)
        places = np.searchsorted(table[order], words)
        return order[np.minimum(places, order.size - 1)]
    return words if type == "F32" else native.narrowed(words, type, threads)


@cache
def single_words(type: str) -> np.ndarray:
    """Return the F32 word of each of the 256 codes of an FP8 dtype, exact; a NaN keeps its sign and payload.

    Parameters
    ----------
    type : str
        One of `FP8_FORMATS`.

    Returns
    -------
    ndarray of uint32, shape (256,)
    """
    format = find(FP8_FORMATS[type])
    codes = np.arange(256, dtype=np.uint32)
    sign, payload = codes >> 7 << 31, (codes & (1 << format.mantissa_bits) - 1) << 23 - format.mantissa_bits
    exponent = (codes & 0x7F) >> format.mantissa_bits
    significand = (codes & (1 << format.mantissa_bits) - 1) | (exponent > 0).astype(np.uint32) << format.mantissa_bits
    powers = np.maximum(exponent, 1).astype(np.int32) - 1 + format.quantum_exponent
    finite = np.ldexp(significand.astype(np.float32), powers).view(np.uint32)
    special = {
        "ieee": exponent == exponent.max(),
        "nan": codes & 0x7F == 0x7F,
        "fnuz": codes == 0x80,
    }[format.special]
    quiet = 0 if format.has_inf else 1 << 22
    return sign | np.where(special, 0xFF << 23 | quiet | payload, finite).astype(np.uint32)
