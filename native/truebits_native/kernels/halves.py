"""16-bit words to the F32 words of the same values, and back."""

from __future__ import annotations

import numpy as np

from truebits_native.jit import kernel

SPECIAL = np.uint32(0x7F800000)
HALF_BIAS = np.uint32(112 << 23)
"""Difference of the exponents' biases, at F32's place."""

LEAST_NORMAL = np.uint32(113 << 23)
PER_QUANTUM = np.float32(1 << 24)


@kernel
def widen_with(words, table, wide):
    """Look each word up."""
    for i in range(words.size):
        wide[i] = table[words[i]]


@kernel
def widen_bfloats(words, wide):
    """Put 16 zeros after each word."""
    for i in range(words.size):
        wide[i] = np.uint32(np.uint32(words[i]) << np.uint32(16))


@kernel
def narrow_to_bfloats(words, narrow):
    """Drop the low half of each word."""
    for i in range(words.size):
        narrow[i] = np.uint16(np.uint32(words[i]) >> np.uint32(16))


@kernel
def narrow_to_halves(words, narrow):
    """Write each F32 word, exact in F16, as F16."""
    for i in range(words.size):
        word = np.uint32(words[i])
        magnitude = np.uint32(word & np.uint32(0x7FFFFFFF))
        payload = np.uint32(np.uint32(0x7C00) | np.uint32(np.uint32(magnitude >> np.uint32(13)) & np.uint32(0x3FF)))
        normal = np.uint32(np.uint32(magnitude - HALF_BIAS) >> np.uint32(13))
        below = magnitude if magnitude < LEAST_NORMAL else np.uint32(0)
        small = np.uint32(np.float32(np.uint32(below).view(np.float32) * PER_QUANTUM))
        half = payload if magnitude >= SPECIAL else (normal if magnitude >= LEAST_NORMAL else small)
        narrow[i] = np.uint16(half | np.uint32(np.uint32(word >> np.uint32(16)) & np.uint32(0x8000)))
