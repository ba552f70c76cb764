"""F32 values to blocks of 32 with one scale, byte for byte as ``gguf.quants.quantize`` makes them of finite values.

A block with other values, or with zeros of both signs, is left to the twin: which of several zeros or NaNs is the
least depends on NumPy's loops.
"""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel

ONE, TWO, FOUR, LANES, STRIP = (np.uint64(of) for of in (1, 2, 4, 16, 32))
SIGN, MAGNITUDE, INFINITY, ZERO = (np.uint32(of) for of in (0x80000000, 0x7FFFFFFF, 0x7F800000, 0))
ONE_BIT, LAST = np.uint32(1), np.uint32(31)
REST = np.int32(0x7FFFFFFF)

LEAST_NORMAL, PAST_LARGEST, MOST = np.uint32(0x38800000), np.uint32(0x47800000), np.uint32(0x7C00)
"""Of F16 as F32 words, and Inf as F16."""

HALF_BIAS = np.uint32(0x37FFF001)
"""Difference of the exponents' biases, less half a unit and one."""

MAGIC, MAGIC_WORD = np.float32(0.5), np.uint32(0x3F000000)
"""Added to a subnormal F16 it leaves that as whole units in its last place."""


@inner
def half_of(single):
    """Round an F32 to F16, to the nearest, ties to even; its bits."""
    word = np.float32(single).view(np.uint32)
    magnitude = np.uint32(word & MAGNITUDE)
    odd = np.uint32(np.uint32(magnitude >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(np.uint32(magnitude - HALF_BIAS) + odd) >> np.uint32(13))
    shifted = np.float32(np.uint32(magnitude).view(np.float32) + MAGIC)
    small = np.uint32(shifted.view(np.uint32) - MAGIC_WORD)
    half = small if magnitude < LEAST_NORMAL else (normal if magnitude < PAST_LARGEST else MOST)
    return np.uint32(half | np.uint32(np.uint32(word & SIGN) >> np.uint32(16)))


@inner
def put_half(raw, at, single):
    """Write an F32 as F16 at a byte."""
    half = half_of(single)
    raw[at], raw[at + ONE] = np.uint8(half & np.uint32(0xFF)), np.uint8(half >> np.uint32(8))


@inner
def ordered(word):
    """Return an F32 word as a whole number of the same order, and back: -0 is less than 0, NaN beyond Inf."""
    order = np.int32(word)
    return np.int32(order ^ np.int32(np.int32(order >> np.int32(31)) & REST))


@inner
def least_and_most(words, at, size):
    """Return the least and the greatest value of a block, as words, and whether one is Inf or NaN."""
    low, high = REST, np.int32(~REST)
    for i in range(size):
        order = ordered(words[at + i])
        low = order if order < low else low
        high = order if order > high else high
    least, most = np.uint32(ordered(low)), np.uint32(ordered(high))
    is_special = (np.uint32(least & MAGNITUDE) >= INFINITY) | (np.uint32(most & MAGNITUDE) >= INFINITY)
    return least, most, is_special


@inner
def turned(word):
    """Return a word with its sign as the last bit: of a greater magnitude it is greater."""
    return np.uint32(np.uint32(word << ONE_BIT) | np.uint32(word >> LAST))


@inner
def largest(words, at, least, most):
    """Return the first of the values of the greatest magnitude, with its sign; no jump but for a draw."""
    low, high = turned(least), turned(most)
    found = low if low > high else high
    if np.uint32(low ^ high) == ONE_BIT:
        i = at
        while np.uint32(turned(words[i]) | ONE_BIT) != np.uint32(found | ONE_BIT):
            i += ONE
        found = turned(words[i])
    return np.uint32(np.uint32(found >> ONE_BIT) | np.uint32(found << LAST)).view(np.float32)


@inner
def inverse_of(scale):
    return np.float32(0) if scale == np.float32(0) else np.float32(np.float32(1) / scale)


@inner
def whole(number):
    """Drop the fraction of a number that is not negative; what is no byte is 0, as casts make it."""
    return np.uint32(np.int32(number if (number >= np.float32(0)) & (number < np.float32(256)) else np.float32(0)))


@inner
def signed_byte(number):
    """Round a number to the nearest whole one, ties away from zero, as `gguf.quants.np_roundf` does."""
    magnitude = np.float32(np.abs(number))
    floor = np.float32(np.floor(magnitude))
    rounded = np.float32(floor + np.float32(np.floor(np.float32(np.float32(2) * np.float32(magnitude - floor)))))
    rounded = rounded if rounded < np.float32(128) else np.float32(0)
    return np.uint8(np.int32(-rounded if number < np.float32(0) else rounded))


@kernel
def quantize_blocks(values, begin, end, packing, raw, is_left):
    """Quantize blocks ``begin[i]`` to ``end[i]`` of each chunk; mark those that are left to the twin."""
    nbytes, size, has_offset, is_bytes, most, middle = packing
    codes, words = np.empty(STRIP, np.uint32), values.view(np.uint32)
    for chunk in range(begin.size):
        for number in range(np.uint64(begin[chunk]), np.uint64(end[chunk])):
            first, at = number * STRIP, number * nbytes
            low, high, is_special = least_and_most(words, first, size)
            is_left[number] = is_special | (has_offset & (low == SIGN))
            least, greatest = np.uint32(low).view(np.float32), np.uint32(high).view(np.float32)
            if is_bytes:
                scale = np.float32(np.abs(np.float32(np.maximum(-least, greatest) / np.float32(127))))
                inverse = inverse_of(scale)
                put_half(raw, at, scale)
                for i in range(size):
                    raw[at + TWO + i] = signed_byte(np.float32(values[first + i] * inverse))
                continue
            if has_offset:
                half, scale = np.float32(0.5), np.float32(np.float32(greatest - least) / np.float32(most))
                put_half(raw, at + TWO, least)
            else:
                half, least = middle, np.float32(0)
                scale = np.float32(largest(words, first, low, high) / np.float32(np.float32(0.5) - middle))
            put_half(raw, at, scale)
            at += FOUR if has_offset else TWO
            inverse = inverse_of(scale)
            for i in range(size):
                value = np.float32(values[first + i] - least) if has_offset else np.float32(values[first + i])
                code = whole(np.float32(np.float32(value * inverse) + half))
                codes[i] = code if code < most else most
            if most > np.uint32(15):
                fifth = ZERO
                for i in range(size):
                    fifth = np.uint32(
                        fifth | np.uint32(np.uint32(codes[i] >> np.uint32(4)) << np.uint32(np.uint32(i) & LAST))
                    )
                for i in range(FOUR):
                    raw[at + i] = np.uint8(np.uint32(fifth >> np.uint32(np.uint64(8) * i)) & np.uint32(0xFF))
                at += FOUR
            for i in range(size // TWO):
                raw[at + i] = np.uint8(
                    np.uint32(codes[i] & np.uint32(15))
                    | np.uint32(np.uint32(codes[i + LANES] & np.uint32(15)) << np.uint32(4))
                )
