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
def half_at(raw, at):
    """Return the bits of the FP16 at a byte, where nothing is aligned."""
    return np.uint32(np.uint32(raw[at]) | np.uint32(np.uint32(raw[at + ONE]) << np.uint32(8)))


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
    size = np.uint64(nbytes - codes_at)
    for chunk in range(begin.size):
        for number in range(np.uint64(begin[chunk]), np.uint64(end[chunk])):
            block, at = number * nbytes, number * STRIP
            codes = block + codes_at
            scale = singles[half_at(raw, block) if is_wide else np.uint32(raw[block])]
            offset = singles[half_at(raw, block + TWO)] if has_offset else np.float32(-0.0)
            if is_bytes:
                for i in range(size):  # a number of steps that LLVM knows, and it would not vectorize
                    values[at + i] = scaled(np.int8(raw[codes + i]), scale, offset)
                continue
            fifth = np.uint32(0)
            if has_fifth:
                for i in range(FOUR):
                    byte = np.uint32(raw[codes - FOUR + i])
                    fifth = np.uint32(fifth | np.uint32(byte << np.uint32(EIGHT * i)))
            for i in range(LANES):
                byte = np.uint32(raw[codes + i])
                low, high = np.uint32(byte & LOW), np.uint32(byte >> np.uint32(4))
                if has_fifth:
                    low, high = np.uint32(low | fifth_bit(fifth, i)), np.uint32(high | fifth_bit(fifth, i + LANES))
                if is_float:
                    first, second = float_point_four(np.int32(low)), float_point_four(np.int32(high))
                else:
                    first, second = np.int32(np.int32(low) - zero), np.int32(np.int32(high) - zero)
                values[at + i], values[at + i + LANES] = scaled(first, scale, offset), scaled(second, scale, offset)


@inner
def spread_factors(raw, packed, kind, scale, offset, scales, offsets):
    """Write the scale and the offset of each 16 values of a block of 256, whose factors begin at byte `packed`."""
    for i in range(EIGHT):
        first, second = TWO * i, TWO * i + ONE
        if kind == WHOLE:
            scales[first] = scales[second] = scale
        elif kind == NIBBLES:
            for group in (first, second):
                byte = raw[packed + group]
                scales[group] = np.float32(scale * np.float32(byte & 15))
                offsets[group] = np.float32(offset * np.float32(byte >> 4))
        elif kind == BYTES:
            for group in (first, second):
                scales[group] = np.float32(scale * np.float32(np.int8(raw[packed + group])))
        elif kind == SIXES:
            low, high = raw[packed + i], raw[packed + EIGHT + i % FOUR] >> (i // FOUR * TWO)
            scales[i] = np.float32(scale * np.float32(np.int32(low & 15 | (high & 3) << 4) - 32))
            scales[i + EIGHT] = np.float32(scale * np.float32(np.int32(low >> 4 | (high >> 4 & 3) << 4) - 32))
        elif kind == PACKED_SIXES:
            at, is_late = packed + i % FOUR, i >= FOUR
            one, two, both = raw[at], raw[at + FOUR], raw[at + EIGHT]
            factor = both & 15 | one >> 6 << 4 if is_late else one & 63
            scales[first] = scales[second] = np.float32(scale * np.float32(factor))
            factor = both >> 4 | two >> 6 << 4 if is_late else two & 63
            offsets[first] = offsets[second] = np.float32(offset * np.float32(factor))


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
            block = number * nbytes
            scale = singles[half_at(raw, block + scale_at)]
            offset = np.float32(sign * singles[half_at(raw, block + offset_at)]) if has_offset else np.float32(-0.0)
            spread_factors(raw, block + factors_at, factors, scale, offset, scales, offsets)
            for pair in range(np.uint64(strips.shape[0])):
                low_at, high_at = block + strips[pair, 0], block + strips[pair, 1]
                first, second = strips[pair, 2], strips[pair, 3]
                at, other = number * VALUES + first, number * VALUES + second
                shift_1, high_1 = np.uint32(strips[pair, 4] & SMALL), np.uint32(strips[pair, 5] & SMALL)
                shift_2, high_2 = np.uint32(strips[pair, 6] & SMALL), np.uint32(strips[pair, 7] & SMALL)
                g, h = first // LANES, second // LANES
                scale_1, scale_2, scale_3, scale_4 = scales[g], scales[g + ONE], scales[h], scales[h + ONE]
                off_1, off_2, off_3, off_4 = offsets[g], offsets[g + ONE], offsets[h], offsets[h + ONE]
                for i in range(STRIP):
                    is_early, byte = i < LANES, np.uint32(raw[low_at + i])
                    more = np.uint32(raw[high_at + i]) if high_mask else np.uint32(0)
                    code = np.int32(code_at(byte, more, shift_1, high_1, low_mask, high_mask, up) - zero)
                    values[at + i] = scaled(code, scale_1 if is_early else scale_2, off_1 if is_early else off_2)
                    code = np.int32(code_at(byte, more, shift_2, high_2, low_mask, high_mask, up) - zero)
                    values[other + i] = scaled(code, scale_3 if is_early else scale_4, off_3 if is_early else off_4)
