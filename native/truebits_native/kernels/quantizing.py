"""F32 values to blocks of 32 with one scale, byte for byte as ``gguf.quants.quantize`` makes them of finite values.

A block with other values, or with zeros of both signs, is left to the twin: which of several zeros or NaNs is the
least depends on NumPy's loops.
"""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel

ONE, FOUR, LANES, STRIP = (np.uint64(of) for of in (1, 4, 16, 32))
SIGN, MAGNITUDE, INFINITY, ZERO = (np.uint32(of) for of in (0x80000000, 0x7FFFFFFF, 0x7F800000, 0))
LAST = np.uint32(31)
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
def put_half(block, at, single):
    """Write an F32 as F16 at a byte of a block."""
    half = half_of(single)
    block[at], block[at + ONE] = np.uint8(half & np.uint32(0xFF)), np.uint8(half >> np.uint32(8))


@inner
def ordered(word):
    """Return an F32 word as a whole number of the same order, and back: -0 is less than 0, NaN beyond Inf."""
    order = np.int32(word)
    return np.int32(order ^ np.int32(np.int32(order >> np.int32(31)) & REST))


@inner
def least_and_most(piece):
    """Return the least and the greatest value, and whether one is Inf or NaN."""
    low, high, words = REST, np.int32(~REST), piece.view(np.uint32)
    for i in range(np.uint64(words.size)):  # so that LLVM does not know how often, and makes vector instructions
        order = ordered(words[i])
        low = order if order < low else low
        high = order if order > high else high
    least, most = np.uint32(ordered(low)), np.uint32(ordered(high))
    is_special = (np.uint32(least & MAGNITUDE) >= INFINITY) | (np.uint32(most & MAGNITUDE) >= INFINITY)
    return np.uint32(least).view(np.float32), np.uint32(most).view(np.float32), is_special


@inner
def largest(piece, least, most):
    """Return the first of the values of the greatest magnitude, with its sign."""
    if -least > most:
        return least
    if most > -least:
        return most
    for value in piece:
        if np.float32(np.abs(value)) == np.float32(np.abs(most)):
            return np.float32(value)
    return most


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
    nbytes, has_offset, is_bytes, most, middle = packing
    codes = np.empty(STRIP, np.uint32)
    for chunk in range(begin.size):
        for number in range(np.uint64(begin[chunk]), np.uint64(end[chunk])):
            piece, block = (
                values[number * STRIP : (number + ONE) * STRIP],
                raw[number * nbytes : (number + ONE) * nbytes],
            )
            least, greatest, is_special = least_and_most(piece)
            is_left[number] = is_special | (has_offset & (np.float32(least).view(np.uint32) == SIGN))
            if is_bytes:
                scale = np.float32(np.abs(np.float32(np.maximum(-least, greatest) / np.float32(127))))
                inverse = inverse_of(scale)
                put_half(block, np.uint64(0), scale)
                packed = block[np.uint64(2) :]
                for i in range(np.uint64(piece.size)):
                    packed[i] = signed_byte(np.float32(piece[i] * inverse))
                continue
            half, at = middle, np.uint64(2)
            if has_offset:
                scale = np.float32(np.float32(greatest - least) / np.float32(most))
                put_half(block, at, least)
                half, at = np.float32(0.5), FOUR
            else:
                scale = np.float32(largest(piece, least, greatest) / np.float32(np.float32(0.5) - middle))
                least = np.float32(0)
            put_half(block, np.uint64(0), scale)
            inverse = inverse_of(scale)
            for i in range(np.uint64(piece.size)):
                value = np.float32(piece[i] - least) if has_offset else np.float32(piece[i])
                code = whole(np.float32(np.float32(value * inverse) + half))
                codes[i] = code if code < most else most
            if most > np.uint32(15):
                fifth = ZERO
                for i in range(np.uint64(piece.size)):
                    fifth = np.uint32(
                        fifth | np.uint32(np.uint32(codes[i] >> np.uint32(4)) << np.uint32(np.uint32(i) & LAST))
                    )
                for i in range(FOUR):
                    block[at + i] = np.uint8(np.uint32(fifth >> np.uint32(np.uint64(8) * i)) & np.uint32(0xFF))
                at += FOUR
            packed = block[at:]
            for i in range(np.uint64(packed.size)):
                packed[i] = np.uint8(
                    np.uint32(codes[i] & np.uint32(15))
                    | np.uint32(np.uint32(codes[i + LANES] & np.uint32(15)) << np.uint32(4))
                )
