"""Codes of 2 to 8 bits out of the words that they are packed in: a stream of bits, the lowest first; and E8M0."""

from __future__ import annotations

from functools import cache

import numpy as np


def nibbles(packed: np.ndarray) -> np.ndarray:
    """Return two codes for each byte, the low half first.

    Parameters
    ----------
    packed : ndarray of uint8, shape (..., n)

    Returns
    -------
    ndarray of uint8, shape (..., 2 n)
    """
    codes = np.empty((*packed.shape, 2), np.uint8)
    np.bitwise_and(packed, 15, out=codes[..., 0])
    np.right_shift(packed, 4, out=codes[..., 1])
    return codes.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes in rows of 32-bit words: a value may begin in one word and end in the next.

    Parameters
    ----------
    words : ndarray of uint32 or int32, shape (rows, n)
        Its columns are contiguous.
    bits : int
        1 to 8.

    Returns
    -------
    ndarray of uint8, shape (rows, 32 n // bits)
    """
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data
    if bits == 4:
        return nibbles(data)
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        each = np.arange(0, 8, bits, dtype=np.uint8)
        return ((data[..., np.newaxis] >> each) & mask).reshape(len(data), 8 // bits * data.shape[1])
    first = np.arange(data.shape[1] * 8 // bits) * bits
    at, shift = first // 8, (first % 8).astype(np.uint16)
    padded = np.pad(data, ((0, 0), (0, 1))).astype(np.uint16)
    return ((padded[:, at] | padded[:, at + 1] << 8) >> shift & mask).astype(np.uint8)


@cache
def e8m0_table() -> np.ndarray:
    """Return the value of each code of E8M0: a power of two, and NaN for 255 (OCP Microscaling Formats)."""
    return np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan)).astype(np.float32)
