"""Where the kernels find the codes and factors of block-quantized bytes: numbers made of `LAYOUTS`.

A *strip* is 32 values whose fields lie at the same place of 32 neighbouring bytes. Layouts are those of
ggml-common.h, as `gguf.quants` unpacks them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from truebits_native.types import FLOAT_POINT_FOUR, LAYOUTS, BlockLayout

STRIP = 32

WHOLE, NIBBLES, SIXES, PACKED_SIXES, BYTES = range(5)
"""How a block keeps the factors of its groups: not at all; a scale's in the low, an offset's in the high half of a
byte; six bits in two places; the same for scales and offsets together; in whole bytes."""


QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types that values are quantized to here."""


class Fields(NamedTuple):
    """Fields of `bits` bits: of each `width` bytes, all lowest ones come first.

    Attributes
    ----------
    at, bits, width : int
    """

    at: int
    bits: int
    width: int = 32

    def strip(self, first: int) -> tuple[int, int]:
        """Return the first byte of the strip from value `first` on, and how far to shift."""
        run, inside = divmod(first, self.width * 8 // self.bits)
        return self.at + self.width * run + inside % self.width, self.bits * (inside // self.width)


class SuperBlock(NamedTuple):
    """How a block of 256 values is packed.

    Attributes
    ----------
    low : Fields
        Of each code, its lower bits.
    high : Fields or None
        Its upper bits.
    factors, factors_at : int
        How the groups' factors are kept, and from which byte on.
    """

    low: Fields
    high: Fields | None
    factors: int
    factors_at: int = 0


SUPER_BLOCKS = {
    "Q2_K": SuperBlock(Fields(16, 2), None, NIBBLES),
    "Q3_K": SuperBlock(Fields(32, 2), Fields(0, 1), SIXES, 96),
    "Q4_K": SuperBlock(Fields(16, 4), None, PACKED_SIXES, 4),
    "Q5_K": SuperBlock(Fields(48, 4), Fields(16, 1), PACKED_SIXES, 4),
    "Q6_K": SuperBlock(Fields(0, 4, 64), Fields(128, 2), BYTES, 192),
    "TQ2_0": SuperBlock(Fields(0, 2), None, WHOLE),
}

SIMPLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
"""Types of 32 values with one scale in front."""


def simple_numbers(layout: BlockLayout) -> tuple[Any, ...]:
    """Return what `dequantizing.dequantize_blocks` wants to know of a type of `SIMPLE`."""
    has_fifth, is_bytes = layout.levels.size == 32, layout.levels.size == 256
    is_float = layout.levels is FLOAT_POINT_FOUR
    codes_at = np.uint64(layout.nbytes - (32 if is_bytes else 16))
    zero = np.int32(0 if is_bytes or is_float else -layout.levels[0])
    is_wide, has_offset = layout.scale.nbytes == 2, layout.offset_at is not None
    return np.uint64(layout.nbytes), is_wide, has_offset, codes_at, has_fifth, is_bytes, is_float, zero


def quantizing_numbers(layout: BlockLayout) -> tuple[Any, ...]:
    """Return what `quantizing.quantize_blocks` wants to know of a type of `QUANTIZED`.

    The number of values of a block is always the same, and LLVM should not know it: it makes no vector instructions
    of loops that it can unroll.
    """
    most = layout.levels.size - 1
    return (
        np.uint64(layout.nbytes),
        np.uint64(layout.values),
        layout.offset_at is not None,
        most == 255,
        np.uint32(most),
        np.float32(most / 2 + 1),
    )


def super_block_numbers(type: str) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return what `dequantizing.dequantize_super_blocks` wants to know of a type of `SUPER_BLOCKS`, and its strips.

    Returns
    -------
    numbers : tuple
    strips : ndarray of uint64, shape (4, 8)
        Pairs of strips: where their lower and their upper bits are, which values they are, and the shifts of each.
    """
    layout, packed = LAYOUTS[type], SUPER_BLOCKS[type]
    high = packed.high or Fields(0, 1)
    strips = []
    for first in range(0, layout.values, STRIP):
        second = first + packed.low.width
        if first // packed.low.width % 2 == 0:
            (low_at, low_shift), (high_at, high_shift) = packed.low.strip(first), high.strip(first)
            shifts = low_shift, high_shift, packed.low.strip(second)[1], high.strip(second)[1]
            strips.append((low_at, high_at, first, second, *shifts))
    places = np.uint64(layout.nbytes), np.uint64(layout.scale_at), np.uint64(layout.offset_at or 0)
    masks = np.uint32((1 << packed.low.bits) - 1), np.uint32((1 << high.bits) - 1 if packed.high else 0)
    codes = np.int32(-layout.levels[0]), *masks, np.uint32(packed.low.bits)
    factors = packed.factors, np.uint64(packed.factors_at)
    return (*places, layout.offset_at is not None, np.float32(-1), *factors, *codes), np.array(strips, np.uint64)
