"""Packed codes and scales of block-quantized bytes, taken apart into planes.

Blocks are 17 to 210 bytes long, so nothing in them is aligned and no vector holds a whole number of them. Plane p
holds the p-th word of eight bytes of every group of a tile; what is done with planes is done with vectors. Words are
read wherever they start: LLVM makes one load of eight bytes put together.

Where a byte packs codes of several groups, the groups of all lowest fields come first in the tile, then those of the
next (*segments*). Positions are unsigned, which spares the wrap-around of negative ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from truebits_native.jit import inner
from truebits_native.reference.blocks import LEAST, NO_SCALE

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64

GROUPS = 256
"""Of a tile: all that a tile needs stays in the first-level cache."""

PLANES = 8
"""Words of eight codes, or of packed ones, that a group has at most."""

WIDTH = U64(GROUPS)
"""Words of one plane."""

LANES = U64(8 * GROUPS)
"""Bytes of one plane."""

BYTES, DIAGONAL = U64(0x0101010101010101), U64(0x8040201008040201)
SIX_BITS, TOP_TWO = U64(0x3F3F3F3F), U64(0x30303030)
HALF_BYTES, FIFTH_BITS = U64(0x0F0F0F0F), U64(0x2020202020202020)
HALF_BYTES_64, LOW_TWO = U64(0x0F0F0F0F0F0F0F0F), U64(0x03030303)
EVEN_BYTES, EVEN_PAIRS, HALF_WORD = U64(0x00FF00FF00FF00FF), U64(0x0000FFFF0000FFFF), U64(0xFFFFFFFF)
SEVEN_BITS, TOP_BITS = U64(0x7F7F7F7F7F7F7F7F), U64(0x8080808080808080)

NOT_FINITE = U64(0xFFFFFFFFFFFFFFFF)
"""Factors of a block whose scale is Inf or NaN: 255 in every byte, which no factor is otherwise."""

INFINITE, MAGNITUDE = U16(0x7C00), U16(0x7FFF)
ONE, TWO, FOUR, EIGHT = U64(1), U64(2), U64(4), U64(8)

Q4_0, Q4_1, MXFP4, NVFP4, Q2_K, Q3_K, Q4_K, TQ1_0, TQ2_0 = range(9)
Q5_0, Q5_1, Q5_K, Q6_K, Q8_0 = range(9, 14)


class Tile(NamedTuple):
    """What the steps hand on.

    Attributes
    ----------
    planes, packed : ndarray of uint64, uint8
        The same memory, by words and by bytes.
    factors, shifts : ndarray of uint8, shape (GROUPS,)
        The groups' scales and offsets: 0, finite, or 255. As words of four: `factor_words`, `shift_words`.
    scales, offsets : ndarray of uint16, shape (GROUPS,)
        The blocks' own, in floating point.
    ones, live : ndarray of uint8, shape (GROUPS,)
        How many codes each group uses, and 0 where its values are all zero.
    distinct, facts : ndarray of int64
        What is counted: see `reference_blocks.BlockCounts`.
    """

    planes: Any
    packed: Any
    factors: Any
    shifts: Any
    factor_words: Any
    shift_words: Any
    scales: Any
    offsets: Any
    ones: Any
    live: Any
    distinct: Any
    facts: Any


@inner
def empty_tile(distinct, facts):
    """Return the arrays of one thread's tiles."""
    facts[LEAST] = NO_SCALE
    planes = np.zeros(PLANES * GROUPS, U64)
    factors, shifts = np.zeros(GROUPS, U8), np.zeros(GROUPS, U8)
    scales, offsets = np.zeros(GROUPS, U16), np.zeros(GROUPS, U16)
    ones, live = np.zeros(GROUPS, U8), np.zeros(GROUPS, U8)
    words = factors.view(U32), shifts.view(U32)
    return Tile(planes, planes.view(U8), factors, shifts, *words, scales, offsets, ones, live, distinct, facts)


@inner
def word64(raw, at):
    """Read eight bytes, the first lowest."""
    word = U64(0)
    for i in range(EIGHT):
        word |= U64(raw[at + i]) << (EIGHT * i)
    return word


@inner
def word32(raw, at):
    word = U64(0)
    for i in range(FOUR):
        word |= U64(raw[at + i]) << (EIGHT * i)
    return word


@inner
def word16(raw, at):
    return U16(U16(raw[at]) | U16(U16(raw[at + ONE]) << U16(8)))


@inner
def under(half, factors):
    """Return eight groups' factors as they are under a block's scale."""
    magnitude = U16(half & MAGNITUDE)
    kept = U64(0) if magnitude == U16(0) else factors
    return NOT_FINITE if magnitude >= INFINITE else kept


@inner
def take_codes(raw, at, step, blocks, first, pairs, planes):
    """Copy pairs of neighbouring words of each block into planes; one group per block.

    LLVM would gather more than two at a time, which takes twice as long.
    """
    for k in range(pairs):
        one, two = planes[TWO * k * WIDTH :], planes[(TWO * k + ONE) * WIDTH :]
        for i in range(blocks):
            start = at + i * step + first + U64(16) * k
            one[i], two[i] = word64(raw, start), word64(raw, start + EIGHT)


@inner
def take_halves(raw, at, step, blocks, first, stored, factors):
    """Read an FP16 of each block, and the state of it."""
    for i in range(blocks):
        stored[i] = word16(raw, at + i * step + first)
    for i in range(blocks):
        magnitude = U16(stored[i] & MAGNITUDE)
        factors[i] = U8(255) if magnitude >= INFINITE else U8(magnitude != U16(0))


@inner
def take_fifth_bits(raw, at, step, blocks, first, planes):
    """Put each of four bytes of bits apart, bit i into byte i: planes 2 to 5."""
    bits = planes[U64(6) * WIDTH :]
    for i in range(blocks):
        bits[i] = word32(raw, at + i * step + first)
    for k in range(FOUR):
        plane = planes[(TWO + k) * WIDTH : (U64(3) + k) * WIDTH]
        shift = EIGHT * k
        for i in range(blocks):
            plane[i] = (((bits[i] >> shift) & U64(0xFF)) * BYTES) & DIAGONAL


@inner
def take_e8m0(raw, at, blocks, tile):
    for i in range(blocks):
        tile.scales[i] = U16(raw[at + i * U64(17)])
    for i in range(blocks):
        tile.scales[i] = U16(tile.scales[i] + U16(1))
        tile.factors[i] = U8(1)


@inner
def take_nvfp4(raw, at, blocks, tile):
    scales, factors, planes = tile.scales, tile.factors, tile.planes
    for i in range(blocks):
        start = at + i * U64(36)
        for k in range(FOUR):
            scales[FOUR * i + k] = U16(raw[start + k])
            planes[FOUR * i + k] = word64(raw, start + FOUR + EIGHT * k)
    for i in range(FOUR * blocks):
        scale = scales[i]
        scales[i] = U16(scale & U16(0x7F))
        factors[i] = U8((U16(scale & U16(0x7F)) != U16(0)) & (scale != U16(0x7F)))


@inner
def evens(word):
    """Return bytes 0, 2, 4 and 6 of a word, close together."""
    word = word & EVEN_BYTES
    word = (word | word >> EIGHT) & EVEN_PAIRS
    return (word | word >> U64(16)) & HALF_WORD


@inner
def put_in_two(factors, blocks, i, word):
    """Write eight groups' factors, four to a word, into two segments."""
    factors[i] = U32(evens(word))
    factors[blocks + i] = U32(evens(word >> EIGHT))


@inner
def put_in_four(factors, blocks, i, first, second):
    """Write sixteen groups' factors, four to a word, into four segments."""
    for k in range(FOUR):
        pair = ((first >> (U64(16) * k)) & U64(0xFFFF)) | ((second >> (U64(16) * k)) & U64(0xFFFF)) << U64(16)
        factors[k * blocks + i] = U32(pair)


@inner
def take_q45_k(raw, at, step, blocks, tile):
    """Four planes of packed codes; a pair of groups for each 32 bytes."""
    for i in range(blocks):
        start = at + i * step
        scale, offset = word16(raw, start), word16(raw, start + TWO)
        tile.scales[i], tile.offsets[i] = scale, offset
        first, second = word32(raw, start + FOUR), word32(raw, start + EIGHT)
        third = word32(raw, start + U64(12))
        high = (third & HALF_BYTES) | ((first >> TWO) & TOP_TWO)
        put_in_two(tile.factor_words, blocks, i, under(scale, (first & SIX_BITS) | high << U64(32)))
        high = ((third >> FOUR) & HALF_BYTES) | ((second >> TWO) & TOP_TWO)
        put_in_two(tile.shift_words, blocks, i, under(offset, (second & SIX_BITS) | high << U64(32)))
        for j in range(FOUR):
            for k in range(FOUR):
                word = word64(raw, start + step - U64(128) + U64(32) * j + EIGHT * k)
                tile.planes[k * WIDTH + FOUR * i + j] = word


@inner
def take_fifth_bits_k(raw, at, step, blocks, planes):
    """Q5_K's bits, two for each byte of codes: planes 4 to 7."""
    for i in range(blocks):
        for k in range(FOUR):
            bits = word64(raw, at + i * step + U64(16) + EIGHT * k)
            for j in range(FOUR):
                planes[(FOUR + k) * WIDTH + FOUR * i + j] = bits >> (TWO * j)


@inner
def take_pairs(raw, at, step, blocks, codes_at, planes):
    """Copy 64 bytes of 2-bit codes, two words for each quarter of a block's groups."""
    for i in range(blocks):
        for j in range(FOUR):
            start = at + i * step + codes_at + U64(16) * j
            planes[FOUR * i + j] = word64(raw, start)
            planes[WIDTH + FOUR * i + j] = word64(raw, start + EIGHT)


@inner
def take_q2_k(raw, at, blocks, tile):
    take_pairs(raw, at, U64(84), blocks, U64(16), tile.planes)
    for i in range(blocks):
        start = at + i * U64(84)
        scale, offset = word16(raw, start + U64(80)), word16(raw, start + U64(82))
        tile.scales[i], tile.offsets[i] = scale, offset
        first, second = word64(raw, start), word64(raw, start + EIGHT)
        low, high = under(scale, first & HALF_BYTES_64), under(scale, second & HALF_BYTES_64)
        put_in_four(tile.factor_words, blocks, i, low, high)
        low = under(offset, (first >> FOUR) & HALF_BYTES_64)
        high = under(offset, (second >> FOUR) & HALF_BYTES_64)
        put_in_four(tile.shift_words, blocks, i, low, high)


@inner
def take_q3_k(raw, at, blocks, tile):
    """Two planes of 2-bit codes, two of the third bits."""
    take_pairs(raw, at, U64(110), blocks, U64(32), tile.planes)
    for i in range(blocks):
        start = at + i * U64(110)
        for j in range(FOUR):
            for k in range(TWO):
                bits = word64(raw, start + U64(16) * (j & ONE) + EIGHT * k)
                tile.planes[(TWO + k) * WIDTH + FOUR * i + j] = bits >> (FOUR * (j >> ONE))
        scale = word16(raw, start + U64(108))
        tile.scales[i] = scale
        low, high = word64(raw, start + U64(96)), word32(raw, start + U64(104))
        tops = (high & LOW_TWO) | ((high >> TWO) & LOW_TWO) << U64(32)
        first = (low & HALF_BYTES_64) | tops << FOUR
        tops = ((high >> FOUR) & LOW_TWO) | ((high >> U64(6)) & LOW_TWO) << U64(32)
        second = ((low >> FOUR) & HALF_BYTES_64) | tops << FOUR
        low, high = under(scale, first ^ FIFTH_BITS), under(scale, second ^ FIFTH_BITS)
        put_in_four(tile.factor_words, blocks, i, low, high)


@inner
def occupied(word):
    """Return 128 in each byte that is not zero."""
    return (((word & SEVEN_BITS) + SEVEN_BITS) | word) & TOP_BITS


@inner
def take_q6_k(raw, at, blocks, tile):
    """Two planes of the lower bytes of codes, two of the upper ones, two of the high bits."""
    for i in range(blocks):
        start = at + i * U64(210)
        for j in range(FOUR):
            half, side = j >> ONE, U64(16) * (j & ONE)
            for k in range(TWO):
                to = k * WIDTH + FOUR * i + j
                lower = start + U64(64) * half + side + EIGHT * k
                tile.planes[to] = word64(raw, lower)
                tile.planes[TWO * WIDTH + to] = word64(raw, lower + U64(32))
                bits = word64(raw, start + U64(128) + U64(32) * half + side + EIGHT * k)
                tile.planes[FOUR * WIDTH + to] = bits
        scale = word16(raw, start + U64(208))
        tile.scales[i] = scale
        low = under(scale, occupied(word64(raw, start + U64(192))))
        high = under(scale, occupied(word64(raw, start + U64(200))))
        put_in_four(tile.factor_words, blocks, i, low, high)


@inner
def take_last_trits(raw, at, blocks, planes):
    """Copy TQ1_0's four bytes of four codes, twice."""
    for i in range(blocks):
        last = word32(raw, at + i * U64(54) + U64(48))
        planes[U64(6) * WIDTH + i] = last | last << U64(32)


@inner
def take_q8_0(raw, at, blocks, tile):
    """Copy 32 codes; if all are zero, the block counts as one whose scale is."""
    take_halves(raw, at, U64(34), blocks, U64(0), tile.scales, tile.factors)
    planes, factors = tile.planes, tile.factors
    take_codes(raw, at, U64(34), blocks, TWO, TWO, planes)
    for i in range(blocks):
        codes = planes[i] | planes[WIDTH + i] | planes[TWO * WIDTH + i] | planes[U64(3) * WIDTH + i]
        factors[i] = U8(0) if (codes == U64(0)) & (factors[i] != U8(255)) else factors[i]
