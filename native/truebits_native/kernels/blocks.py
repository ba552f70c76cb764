"""What the scales of block-quantized bytes are: whatever can hide in one block of many is looked for in all."""

from __future__ import annotations

from typing import Any

import numpy as np

from truebits_native.jit import kernel
from truebits_native.types import BLOCKS, EXPONENTS, GREATEST, HALF, LEAST, NEGATIVE, NO_SCALE, SPECIAL, USUAL, ZERO

SIGN = np.uint32(0x8000)
OFFSET_MAGNITUDE, OFFSET_SPECIAL = np.uint32(HALF.magnitude), np.uint32(HALF.special)
ONE = np.uint64(1)


@kernel
def count_scales(raw, begin, end, layout, facts):
    """Count the scales of each chunk's blocks ``raw[begin:end]`` as `reference.blocks.block_counts` does.

    Blocks are 17 to 210 bytes long: nothing in them is aligned, and a scale is put together from its bytes.
    """
    nbytes, scale_at, scales, is_wide, offset_at, has_offset, magnitude_bits, first, special, shift = layout
    for chunk in range(begin.size):
        odd = zero = negative = usual = exponents = np.int64(0)
        least, greatest = np.uint32(NO_SCALE), np.uint32(0)
        at, blocks = np.uint64(begin[chunk]), np.uint64(end[chunk] - begin[chunk]) // nbytes
        for _ in range(blocks):
            is_odd: Any = False
            if has_offset:
                offset = np.uint32(np.uint32(raw[at + offset_at + ONE]) << np.uint32(8))
                is_odd = (np.uint32(offset | np.uint32(raw[at + offset_at])) & OFFSET_MAGNITUDE) >= OFFSET_SPECIAL
            for i in range(scales):
                stored = np.uint32(raw[at + scale_at + i])
                if is_wide:
                    stored = np.uint32(stored | np.uint32(np.uint32(raw[at + scale_at + ONE]) << np.uint32(8)))
                magnitude = np.uint32(np.uint32(stored & magnitude_bits) + first)
                is_special = magnitude >= special
                odd += np.int64(is_special | is_odd)
                zero += np.int64(magnitude == np.uint32(0))
                negative += np.int64(stored > SIGN)
                finite = np.uint32(0) if is_special else magnitude
                usual += np.int64(finite > np.uint32(0))
                exponents += np.int64(finite >> shift)
                greatest = finite if finite > greatest else greatest
                nonzero = finite if finite > np.uint32(0) else np.uint32(NO_SCALE)
                least = nonzero if nonzero < least else least
            at += nbytes
        row = facts[chunk]
        row[BLOCKS], row[SPECIAL], row[ZERO], row[NEGATIVE] = np.int64(blocks), odd, zero, negative
        row[USUAL], row[EXPONENTS], row[LEAST], row[GREATEST] = usual, exponents, np.int64(least), np.int64(greatest)
