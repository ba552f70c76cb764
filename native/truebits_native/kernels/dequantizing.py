"""Block-quantized bytes to the values they stand for, bit for bit as ``gguf.quants.dequantize`` makes them.

The inner loops are of 16 or 32 steps, with 32-bit arithmetic and shifts that are known to be small: LLVM makes a few
vector instructions of each.
"""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel
from truebits_native.packing import BYTES, NIBBLES, PACKED_SIXES, SIXES, WHOLE

ONE, TWO, FOUR, EIGHT, LANES, STRIP, VALUES = (np.uint64(of) for of in (1, 2, 4, 8, 16, 32, 256))
FIFTH, LOW = np.uint32(4), np.uint32(15)
SMALL = np.uint64(7)
"""Mask of a shift within a byte."""


@inner
def half_at(block, at):
    """Return the bits of the FP16 at a byte of a block, where nothing is aligned."""
    return np.uint32(np.uint32(block[at]) | np.uint32(np.uint32(block[at + ONE]) << np.uint32(8)))


@inner
def float_point_four(code):
    """Return what a code of FP4 E2M1 stands for, doubled."""
    low = np.int32(code & np.int32(7))
    shift = np.int32(np.int32(np.int32(low >> np.int32(1)) - np.int32(1)) & np.int32(3))
    magnitude = np.int32(np.int32(np.int32(low & np.int32(1)) | np.int32(2)) << shift)
    magnitude = magnitude if low > np.int32(1) else low
    return np.int32(-magnitude) if code & np.int32(8) else magnitude


@inner
def scaled(level, scale, offset):
    """Return a value. A product that is NaN stays that one: the sum could be the offset's NaN."""
    product = np.float32(np.float32(level) * scale)
    return product if product != product else np.float32(product + offset)


@inner
def fifth_bit(fifth, place):
    return np.uint32(np.uint32(np.uint32(fifth >> np.uint32(place)) & np.uint32(1)) << FIFTH)


@kernel
def dequantize_blocks(raw, begin, end, singles, packing, values):
    """Write the values of blocks of 32 with one scale: those from ``begin[i]`` to ``end[i]``, for each chunk."""
    nbytes, is_wide, has_offset, codes_at, has_fifth, is_bytes, is_float, zero = packing
    for chunk in range(begin.size):
        for number in range(np.uint64(begin[chunk]), np.uint64(end[chunk])):
            block = raw[number * nbytes : (number + ONE) * nbytes]
            piece = values[number * STRIP : (number + ONE) * STRIP]
            scale = singles[half_at(block, np.uint64(0)) if is_wide else np.uint32(block[0])]
            offset = singles[half_at(block, np.uint64(2))] if has_offset else np.float32(-0.0)
            codes = block[codes_at:]
            if is_bytes:
                for i in range(np.uint64(codes.size)):  # a number of steps that LLVM knows, and it would not vectorize
                    piece[i] = scaled(np.int8(codes[i]), scale, offset)
                continue
            fifth = np.uint32(0)
            if has_fifth:
                for i in range(FOUR):
                    byte = np.uint32(block[codes_at - FOUR + i])
                    fifth = np.uint32(fifth | np.uint32(byte << np.uint32(EIGHT * i)))
            for i in range(LANES):
                byte = np.uint32(codes[i])
                first = np.int32(np.uint32(byte & LOW) | fifth_bit(fifth, i))
                second = np.int32(np.uint32(byte >> np.uint32(4)) | fifth_bit(fifth, i + LANES))
                if is_float:
                    first, second = float_point_four(first), float_point_four(second)
                else:
                    first, second = np.int32(first - zero), np.int32(second - zero)
                piece[i], piece[i + LANES] = scaled(first, scale, offset), scaled(second, scale, offset)


@inner
def spread_factors(packed, kind, scale, offset, scales, offsets):
    """Write the scale and the offset of each 16 values of a block of 256."""
    for i in range(LANES):
        if kind == WHOLE:
            scales[i] = scale
        elif kind == NIBBLES:
            scales[i] = np.float32(scale * np.float32(packed[i] & 15))
            offsets[i] = np.float32(offset * np.float32(packed[i] >> 4))
        elif kind == BYTES:
            scales[i] = np.float32(scale * np.float32(np.int8(packed[i])))
        elif kind == SIXES:
            low, high = packed[i % EIGHT] >> (i // EIGHT * FOUR), packed[EIGHT + i % FOUR] >> (i // FOUR * TWO)
            scales[i] = np.float32(scale * np.float32(np.int32(low & 15 | (high & 3) << 4) - 32))
        elif kind == PACKED_SIXES:
            at, is_late = i // TWO % FOUR, i >= EIGHT
            first, second, third = packed[at], packed[at + FOUR], packed[at + EIGHT]
            scales[i] = np.float32(scale * np.float32(third & 15 | first >> 6 << 4 if is_late else first & 63))
            offsets[i] = np.float32(offset * np.float32(third >> 4 | second >> 6 << 4 if is_late else second & 63))


@inner
def code_at(low, high, shift, shift_high, low_mask, high_mask, up):
    code = np.uint32(np.uint32(low >> shift) & low_mask)
    return np.int32(code | np.uint32(np.uint32(np.uint32(high >> shift_high) & high_mask) << up))


@kernel
def dequantize_super_blocks(raw, begin, end, singles, packing, strips, values):
    """Write the values of blocks of 256, of which each 16 have their scale, as above."""
    nbytes, scale_at, offset_at, has_offset, sign, factors, factors_at, zero, low_mask, high_mask, bits = packing
    up = np.uint32(np.uint64(bits) & SMALL)
    scales, offsets = np.zeros(16, np.float32), np.full(16, -0.0, np.float32)
    for chunk in range(begin.size):
        for number in range(np.uint64(begin[chunk]), np.uint64(end[chunk])):
            block = raw[number * nbytes : (number + ONE) * nbytes]
            scale = singles[half_at(block, scale_at)]
            offset = np.float32(sign * singles[half_at(block, offset_at)]) if has_offset else np.float32(-0.0)
            spread_factors(block[factors_at:], factors, scale, offset, scales, offsets)
            for pair in range(np.uint64(strips.shape[0])):
                strip = strips[pair]
                low_at, high_at, first, second = strip[0], strip[1], strip[2], strip[3]
                at, other = number * VALUES + first, number * VALUES + second
                shift_1, high_1 = np.uint32(strip[4] & SMALL), np.uint32(strip[5] & SMALL)
                shift_2, high_2 = np.uint32(strip[6] & SMALL), np.uint32(strip[7] & SMALL)
                g, h = first // LANES, second // LANES
                scale_1, scale_2, scale_3, scale_4 = scales[g], scales[g + ONE], scales[h], scales[h + ONE]
                off_1, off_2, off_3, off_4 = offsets[g], offsets[g + ONE], offsets[h], offsets[h + ONE]
                for i in range(STRIP):
                    is_early, byte = i < LANES, np.uint32(block[low_at + i])
                    more = np.uint32(block[high_at + i]) if high_mask else np.uint32(0)
                    code = np.int32(code_at(byte, more, shift_1, high_1, low_mask, high_mask, up) - zero)
                    values[at + i] = scaled(code, scale_1 if is_early else scale_2, off_1 if is_early else off_2)
                    code = np.int32(code_at(byte, more, shift_2, high_2, low_mask, high_mask, up) - zero)
                    values[other + i] = scaled(code, scale_3 if is_early else scale_4, off_3 if is_early else off_4)
