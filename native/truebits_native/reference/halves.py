"""Twins of `truebits_native.kernels.halves`."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def half_singles() -> np.ndarray:
    """Return the F32 word of each of the 65,536 F16 patterns; NaNs keep their bits."""
    words = np.arange(1 << 16, dtype=np.uint16)
    special = (words & 0x7C00) == 0x7C00
    singles = np.where(special, 0, words).astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    wide = words.astype(np.uint32)
    return np.where(special, ((wide & 0x8000) << 16) | 0x7F800000 | ((wide & 0x3FF) << 13), singles)


def widened(words: np.ndarray, kind: str) -> np.ndarray:
    """Return the F32 words of F16 or BF16 words; uint32."""
    return words.astype(np.uint32) << np.uint32(16) if kind == "BF16" else half_singles()[words]


def narrowed(words: np.ndarray, kind: str) -> np.ndarray:
    """Return the F16 or BF16 words of F32 words that are exact in it; uint16."""
    if kind == "BF16":
        return (words >> np.uint32(16)).astype(np.uint16)
    special = (words & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    halves = np.where(special, 0, words).view(np.float32).astype(np.float16).view(np.uint16)
    kept = (
        ((words >> np.uint32(16)) & np.uint32(0x8000))
        | np.uint32(0x7C00)
        | ((words >> np.uint32(13)) & np.uint32(0x3FF))
    )
    return np.where(special, kept, halves).astype(np.uint16)
