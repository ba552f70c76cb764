"""Block-quantized bytes: which codes each group uses, and what its scales are.

Blocks are 17 to 210 bytes long, so nothing in them is aligned and no vector holds a whole number of them.
Each chunk therefore goes in tiles of at most `GROUPS` groups, in steps that run over all groups of a tile:

1. *take*: read the packed codes as 64-bit words, wherever they start, and write them into planes: plane p
   holds the p-th word of every group. (LLVM makes one load of eight bytes put together.)
2. *mark*: unpack a byte's codes, set bit ``code`` of a lane for each, and OR a group's planes: all with vectors,
   no step across lanes. Lanes are as wide as there are codes: 16, 32 or 64 bits. Where a byte packs codes of
   several groups, the groups of all lowest fields come first in the tile, then those of the next (*segments*).
3. *fold* the eight lanes of each group into one mask, count its bits, and tally.

Positions are unsigned, which spares the wrap-around of negative ones; arithmetic on lanes narrower than
64 bits is cast at every step, because Numba widens it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from truebits_native.jit import inner, kernel
from truebits_native.reference_blocks import (
    CODES,
    DEAD,
    EXPONENTS,
    FACTS,
    GREATEST,
    LEAST,
    MOST_CODES,
    NEGATIVE,
    NO_SCALE,
    SPECIAL,
    USUAL,
    ZERO,
)

GROUPS = 256
"""Of a tile: all that a tile needs stays in the first-level cache."""

PLANES = 8
"""Words of eight codes, or of packed ones, that a group has at most."""

U64 = np.uint64
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

ONE_16, ONE_32 = np.uint16(1), np.uint32(1)
INFINITE = np.uint16(0x7C00)
MAGNITUDE = np.uint16(0x7FFF)

Q4_0, Q4_1, MXFP4, NVFP4, Q2_K, Q3_K, Q4_K, TQ1_0, TQ2_0 = range(9)
Q5_0, Q5_1, Q5_K, Q6_K, Q8_0 = range(9, 14)


class Tile(NamedTuple):
    """What the steps hand on. `factors` and `shifts` are the groups' scales and offsets: 0, finite, or 255."""

    planes: Any
    packed: Any
    factors: Any
    shifts: Any
    factor_words: Any
    shift_words: Any
    scales: Any
    offsets: Any
    ones: Any
    distinct: Any
    facts: Any


@inner
def word64(raw, at):
    """Read eight bytes, the first lowest."""
    word = U64(0)
    for i in range(U64(8)):
        word |= U64(raw[at + i]) << (U64(8) * i)
    return word


@inner
def word32(raw, at):
    word = U64(0)
    for i in range(U64(4)):
        word |= U64(raw[at + i]) << (U64(8) * i)
    return word


@inner
def word16(raw, at):
    return np.uint16(np.uint16(raw[at]) | np.uint16(np.uint16(raw[at + U64(1)]) << np.uint16(8)))


@inner
def under(half, factors):
    """Return eight groups' factors as they are under a block's scale."""
    magnitude = np.uint16(half & MAGNITUDE)
    kept = U64(0) if magnitude == np.uint16(0) else factors
    return NOT_FINITE if magnitude >= INFINITE else kept


# --- take: packed codes into planes, and the scales


@inner
def take_two(raw, at, step, blocks, first, planes):
    """Copy two neighbouring words of each block into the first two planes; one group per block.

    LLVM would gather more than two at a time, which takes twice as long.
    """
    for i in range(blocks):
        start = at + i * step + first
        planes[i], planes[WIDTH + i] = word64(raw, start), word64(raw, start + U64(8))


@inner
def take_halves(raw, at, step, blocks, first, stored, factors):
    """Read an FP16 of each block, and the state of it."""
    for i in range(blocks):
        stored[i] = word16(raw, at + i * step + first)
    for i in range(blocks):
        magnitude = np.uint16(stored[i] & MAGNITUDE)
        factors[i] = np.uint8(255) if magnitude >= INFINITE else np.uint8(magnitude != np.uint16(0))


@inner
def take_fifth_bits(raw, at, step, blocks, first, planes):
    """Put each of four bytes of bits apart, bit i into byte i: planes 2 to 5."""
    for i in range(blocks):
        bits = word32(raw, at + i * step + first)
        planes[U64(2) * WIDTH + i] = ((bits & U64(0xFF)) * BYTES) & DIAGONAL
        planes[U64(3) * WIDTH + i] = (((bits >> U64(8)) & U64(0xFF)) * BYTES) & DIAGONAL
        planes[U64(4) * WIDTH + i] = (((bits >> U64(16)) & U64(0xFF)) * BYTES) & DIAGONAL
        planes[U64(5) * WIDTH + i] = ((bits >> U64(24)) * BYTES) & DIAGONAL


@inner
def take_e8m0(raw, at, blocks, tile):
    for i in range(blocks):
        tile.scales[i] = np.uint16(raw[at + i * U64(17)])
    for i in range(blocks):
        tile.scales[i] = np.uint16(tile.scales[i] + ONE_16)
        tile.factors[i] = np.uint8(1)


@inner
def take_nvfp4(raw, at, blocks, tile):
    scales, factors, planes = tile.scales, tile.factors, tile.planes
    for i in range(blocks):
        start = at + i * U64(36)
        for k in range(U64(4)):
            scales[U64(4) * i + k] = np.uint16(raw[start + k])
            planes[U64(4) * i + k] = word64(raw, start + U64(4) + U64(8) * k)
    for i in range(U64(4) * blocks):
        scale = scales[i]
        scales[i] = np.uint16(scale & np.uint16(0x7F))
        factors[i] = np.uint8((np.uint16(scale & np.uint16(0x7F)) != np.uint16(0)) & (scale != np.uint16(0x7F)))


@inner
def take_q8_0(raw, at, blocks, tile):
    """Copy 32 codes; if all are zero, the block counts as one whose scale is."""
    take_halves(raw, at, U64(34), blocks, U64(0), tile.scales, tile.factors)
    planes, factors = tile.planes, tile.factors
    take_two(raw, at, U64(34), blocks, U64(2), planes)
    take_two(raw, at, U64(34), blocks, U64(18), planes[U64(2) * WIDTH :])
    for i in range(blocks):
        codes = planes[i] | planes[WIDTH + i] | planes[U64(2) * WIDTH + i] | planes[U64(3) * WIDTH + i]
        factors[i] = np.uint8(0) if (codes == U64(0)) & (factors[i] != np.uint8(255)) else factors[i]


@inner
def take_trits(raw, at, blocks, planes):
    """Copy TQ1_0's 48 bytes of five codes, and twice its 4 bytes of four."""
    for k in range(U64(3)):
        take_two(raw, at, U64(54), blocks, U64(16) * k, planes[U64(2) * k * WIDTH :])
    for i in range(blocks):
        start = at + i * U64(54)
        last = word32(raw, start + U64(48))
        planes[U64(6) * WIDTH + i] = last | last << U64(32)


@inner
def take_tq2_0(raw, at, blocks, planes):
    """Copy eight words of 2-bit codes."""
    for k in range(U64(4)):
        take_two(raw, at, U64(66), blocks, U64(16) * k, planes[U64(2) * k * WIDTH :])


@inner
def evens(word):
    """Return bytes 0, 2, 4 and 6 of a word, close together."""
    word = word & EVEN_BYTES
    word = (word | word >> U64(8)) & EVEN_PAIRS
    return (word | word >> U64(16)) & HALF_WORD


@inner
def put_in_two(factors, blocks, i, word):
    """Write eight groups' factors, four to a word, into two segments."""
    factors[i] = np.uint32(evens(word))
    factors[blocks + i] = np.uint32(evens(word >> U64(8)))


@inner
def put_in_four(factors, blocks, i, first, second):
    """Write sixteen groups' factors, four to a word, into four segments."""
    for k in range(U64(4)):
        pair = ((first >> (U64(16) * k)) & U64(0xFFFF)) | ((second >> (U64(16) * k)) & U64(0xFFFF)) << U64(16)
        factors[k * blocks + i] = np.uint32(pair)


@inner
def take_q45_k(raw, at, step, blocks, codes_at, tile):
    """Four planes of packed codes; a pair of groups for each 32 bytes."""
    for i in range(blocks):
        start = at + i * step
        scale, offset = word16(raw, start), word16(raw, start + U64(2))
        tile.scales[i], tile.offsets[i] = scale, offset
        first, second = word32(raw, start + U64(4)), word32(raw, start + U64(8))
        third = word32(raw, start + U64(12))
        high = (third & HALF_BYTES) | ((first >> U64(2)) & TOP_TWO)
        put_in_two(tile.factor_words, blocks, i, under(scale, (first & SIX_BITS) | high << U64(32)))
        high = ((third >> U64(4)) & HALF_BYTES) | ((second >> U64(2)) & TOP_TWO)
        put_in_two(tile.shift_words, blocks, i, under(offset, (second & SIX_BITS) | high << U64(32)))
        for j in range(U64(4)):
            for k in range(U64(4)):
                word = word64(raw, start + codes_at + U64(32) * j + U64(8) * k)
                tile.planes[k * WIDTH + U64(4) * i + j] = word


@inner
def take_fifth_bits_k(raw, at, blocks, planes):
    """Q5_K's bits, two for each byte of codes: planes 4 to 7."""
    for i in range(blocks):
        for k in range(U64(4)):
            bits = word64(raw, at + i * U64(176) + U64(16) + U64(8) * k)
            for j in range(U64(4)):
                planes[(U64(4) + k) * WIDTH + U64(4) * i + j] = bits >> (U64(2) * j)


@inner
def take_pairs(raw, at, step, blocks, codes_at, planes):
    """Copy 64 bytes of 2-bit codes, two words for each quarter of a block's groups."""
    for i in range(blocks):
        for j in range(U64(4)):
            start = at + i * step + codes_at + U64(16) * j
            planes[U64(4) * i + j] = word64(raw, start)
            planes[WIDTH + U64(4) * i + j] = word64(raw, start + U64(8))


@inner
def take_q2_k(raw, at, blocks, tile):
    take_pairs(raw, at, U64(84), blocks, U64(16), tile.planes)
    for i in range(blocks):
        start = at + i * U64(84)
        scale, offset = word16(raw, start + U64(80)), word16(raw, start + U64(82))
        tile.scales[i], tile.offsets[i] = scale, offset
        first, second = word64(raw, start), word64(raw, start + U64(8))
        low, high = under(scale, first & HALF_BYTES_64), under(scale, second & HALF_BYTES_64)
        put_in_four(tile.factor_words, blocks, i, low, high)
        low = under(offset, (first >> U64(4)) & HALF_BYTES_64)
        high = under(offset, (second >> U64(4)) & HALF_BYTES_64)
        put_in_four(tile.shift_words, blocks, i, low, high)


@inner
def take_q3_k(raw, at, blocks, tile):
    """Two planes of 2-bit codes, two of the third bits."""
    take_pairs(raw, at, U64(110), blocks, U64(32), tile.planes)
    for i in range(blocks):
        start = at + i * U64(110)
        for j in range(U64(4)):
            for k in range(U64(2)):
                bits = word64(raw, start + U64(16) * (j & U64(1)) + U64(8) * k)
                tile.planes[(U64(2) + k) * WIDTH + U64(4) * i + j] = bits >> (U64(4) * (j >> U64(1)))
        scale = word16(raw, start + U64(108))
        tile.scales[i] = scale
        low, high = word64(raw, start + U64(96)), word32(raw, start + U64(104))
        tops = (high & LOW_TWO) | ((high >> U64(2)) & LOW_TWO) << U64(32)
        first = (low & HALF_BYTES_64) | tops << U64(4)
        tops = ((high >> U64(4)) & LOW_TWO) | ((high >> U64(6)) & LOW_TWO) << U64(32)
        second = ((low >> U64(4)) & HALF_BYTES_64) | tops << U64(4)
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
        for j in range(U64(4)):
            half, side = j >> U64(1), U64(16) * (j & U64(1))
            for k in range(U64(2)):
                to = k * WIDTH + U64(4) * i + j
                lower = start + U64(64) * half + side + U64(8) * k
                tile.planes[to] = word64(raw, lower)
                tile.planes[U64(2) * WIDTH + to] = word64(raw, lower + U64(32))
                bits = word64(raw, start + U64(128) + U64(32) * half + side + U64(8) * k)
                tile.planes[U64(4) * WIDTH + to] = bits
        scale = word16(raw, start + U64(208))
        tile.scales[i] = scale
        low = under(scale, occupied(word64(raw, start + U64(192))))
        high = under(scale, occupied(word64(raw, start + U64(200))))
        put_in_four(tile.factor_words, blocks, i, low, high)


# --- mark: codes into lanes
#
# Shifts are constants and each loop writes one array: otherwise LLVM does them in lanes of 64 bits.


@inner
def bit16(code):
    return np.uint16(ONE_16 << np.uint16(code))


@inner
def bit32(code):
    return np.uint32(ONE_32 << np.uint32(code))


@inner
def mark_halves(packed, lanes, planes, seen):
    """Two codes of one group in each byte, in one or two planes."""
    other = LANES * (planes - U64(1))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[other + i])
        low = np.uint16(bit16(a & np.uint16(15)) | bit16(b & np.uint16(15)))
        seen[i] = np.uint16(low | np.uint16(bit16(a >> np.uint16(4)) | bit16(b >> np.uint16(4))))


@inner
def mark_q4_k(packed, lanes, seen):
    """Two codes of neighbouring groups in each byte, in four planes: two segments."""
    high = seen[lanes : U64(2) * lanes]
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        c, d = np.uint16(packed[U64(2) * LANES + i]), np.uint16(packed[U64(3) * LANES + i])
        low = np.uint16(bit16(a & np.uint16(15)) | bit16(b & np.uint16(15)))
        seen[i] = np.uint16(low | np.uint16(bit16(c & np.uint16(15)) | bit16(d & np.uint16(15))))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        c, d = np.uint16(packed[U64(2) * LANES + i]), np.uint16(packed[U64(3) * LANES + i])
        low = np.uint16(bit16(a >> np.uint16(4)) | bit16(b >> np.uint16(4)))
        high[i] = np.uint16(low | np.uint16(bit16(c >> np.uint16(4)) | bit16(d >> np.uint16(4))))


@inner
def mark_q2_k(packed, lanes, seen):
    """Four codes of as many groups in each byte, in two planes: four segments."""
    second, third = seen[lanes : U64(2) * lanes], seen[U64(2) * lanes : U64(3) * lanes]
    fourth = seen[U64(3) * lanes : U64(4) * lanes]
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        seen[i] = np.uint16(bit16(a & np.uint16(3)) | bit16(b & np.uint16(3)))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        second[i] = np.uint16(bit16((a >> np.uint16(2)) & np.uint16(3)) | bit16((b >> np.uint16(2)) & np.uint16(3)))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        third[i] = np.uint16(bit16((a >> np.uint16(4)) & np.uint16(3)) | bit16((b >> np.uint16(4)) & np.uint16(3)))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        fourth[i] = np.uint16(bit16(a >> np.uint16(6)) | bit16(b >> np.uint16(6)))


@inner
def mark_q3_k(packed, lanes, seen):
    """The same with a third bit, in the next two planes."""
    second, third = seen[lanes : U64(2) * lanes], seen[U64(2) * lanes : U64(3) * lanes]
    fourth = seen[U64(3) * lanes : U64(4) * lanes]
    three, four = np.uint16(3), np.uint16(4)
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        c, d = np.uint16(packed[U64(2) * LANES + i]), np.uint16(packed[U64(3) * LANES + i])
        low = bit16(a & three | (c << np.uint16(2)) & four)
        seen[i] = np.uint16(low | bit16(b & three | (d << np.uint16(2)) & four))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        c, d = np.uint16(packed[U64(2) * LANES + i]), np.uint16(packed[U64(3) * LANES + i])
        low = bit16((a >> np.uint16(2)) & three | (c << np.uint16(1)) & four)
        second[i] = np.uint16(low | bit16((b >> np.uint16(2)) & three | (d << np.uint16(1)) & four))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        c, d = np.uint16(packed[U64(2) * LANES + i]), np.uint16(packed[U64(3) * LANES + i])
        low = bit16((a >> np.uint16(4)) & three | c & four)
        third[i] = np.uint16(low | bit16((b >> np.uint16(4)) & three | d & four))
    for i in range(lanes):
        a, b = np.uint16(packed[i]), np.uint16(packed[LANES + i])
        c, d = np.uint16(packed[U64(2) * LANES + i]), np.uint16(packed[U64(3) * LANES + i])
        low = bit16(a >> np.uint16(6) | (c >> np.uint16(1)) & four)
        fourth[i] = np.uint16(low | bit16(b >> np.uint16(6) | (d >> np.uint16(1)) & four))


@inner
def mark_pairs(packed, lanes, seen):
    """Four codes of one group in each byte, in eight planes."""
    for i in range(lanes):
        seen[i] = np.uint16(0)
    for plane in range(U64(8)):
        bytes = packed[plane * LANES : plane * LANES + lanes]
        for i in range(lanes):
            a = np.uint16(bytes[i])
            low = np.uint16(bit16(a & np.uint16(3)) | bit16((a >> np.uint16(2)) & np.uint16(3)))
            high = np.uint16(bit16((a >> np.uint16(4)) & np.uint16(3)) | bit16(a >> np.uint16(6)))
            seen[i] = np.uint16(seen[i] | np.uint16(low | high))


@inner
def mark_trits(packed, lanes, seen):
    """Five codes of one group in each byte, in six planes; four in the seventh.

    A byte is a fraction of 256: three times it has the code before the point, and the rest after it.
    """
    for i in range(lanes):
        seen[i] = np.uint16(0)
    for plane in range(U64(7)):
        bytes = packed[plane * LANES : plane * LANES + lanes]
        last = np.uint16(0xFFFF) if plane < U64(6) else np.uint16(0)
        for i in range(lanes):
            found, rest = np.uint16(0), np.uint16(bytes[i])
            for _ in range(4):
                rest = np.uint16(np.uint16(rest & np.uint16(255)) * np.uint16(3))
                found = np.uint16(found | bit16(rest >> np.uint16(8)))
            rest = np.uint16(np.uint16(rest & np.uint16(255)) * np.uint16(3))
            seen[i] = np.uint16(seen[i] | np.uint16(found | np.uint16(bit16(rest >> np.uint16(8)) & last)))


@inner
def bit5(code, fifth):
    """Set the bit of a code whose fifth bit is set if `fifth` is not zero."""
    return bit32(np.uint32(code | (np.uint32(16) if fifth else np.uint32(0))))


@inner
def mark_q5(packed, lanes, seen):
    """Two codes of one group in each byte of two planes; their fifth bits in the next four."""
    for i in range(lanes):
        a, b = np.uint32(packed[i]), np.uint32(packed[LANES + i])
        low = np.uint32(
            bit5(a & np.uint32(15), packed[U64(2) * LANES + i]) | bit5(b & np.uint32(15), packed[U64(3) * LANES + i])
        )
        high = np.uint32(
            bit5(a >> np.uint32(4), packed[U64(4) * LANES + i]) | bit5(b >> np.uint32(4), packed[U64(5) * LANES + i])
        )
        seen[i] = np.uint32(low | high)


@inner
def mark_q5_k(packed, lanes, seen):
    """Two codes of neighbouring groups in each byte of four planes, two fifth bits in the next: two segments."""
    high = seen[lanes : U64(2) * lanes]
    half, fifth, up, down = np.uint32(15), np.uint32(16), np.uint32(4), np.uint32(3)
    for i in range(lanes):
        a, b = np.uint32(packed[i]), np.uint32(packed[LANES + i])
        c, d = np.uint32(packed[U64(2) * LANES + i]), np.uint32(packed[U64(3) * LANES + i])
        e, f = np.uint32(packed[U64(4) * LANES + i]), np.uint32(packed[U64(5) * LANES + i])
        g, h = np.uint32(packed[U64(6) * LANES + i]), np.uint32(packed[U64(7) * LANES + i])
        low = np.uint32(bit32(a & half | (e << up) & fifth) | bit32(b & half | (f << up) & fifth))
        rest = np.uint32(bit32(c & half | (g << up) & fifth) | bit32(d & half | (h << up) & fifth))
        seen[i] = np.uint32(low | rest)
    for i in range(lanes):
        a, b = np.uint32(packed[i]), np.uint32(packed[LANES + i])
        c, d = np.uint32(packed[U64(2) * LANES + i]), np.uint32(packed[U64(3) * LANES + i])
        e, f = np.uint32(packed[U64(4) * LANES + i]), np.uint32(packed[U64(5) * LANES + i])
        g, h = np.uint32(packed[U64(6) * LANES + i]), np.uint32(packed[U64(7) * LANES + i])
        low = np.uint32(bit32(a >> up | (e << down) & fifth) | bit32(b >> up | (f << down) & fifth))
        rest = np.uint32(bit32(c >> up | (g << down) & fifth) | bit32(d >> up | (h << down) & fifth))
        high[i] = np.uint32(low | rest)


@inner
def mark_q6_k(packed, lanes, seen):
    """Two codes in each byte of four planes, four pairs of high bits in the next two: four segments."""
    first, second = seen[:lanes], seen[lanes : U64(2) * lanes]
    third, fourth = seen[U64(2) * lanes : U64(3) * lanes], seen[U64(3) * lanes : U64(4) * lanes]
    for i in range(lanes):
        e, f = U64(packed[U64(4) * LANES + i]), U64(packed[U64(5) * LANES + i])
        a, b = U64(packed[i]), U64(packed[LANES + i])
        first[i] = U64(1) << (a & U64(15) | (e << U64(4)) & U64(48)) | U64(1) << (b & U64(15) | (f << U64(4)) & U64(48))
        third[i] = U64(1) << (a >> U64(4) | e & U64(48)) | U64(1) << (b >> U64(4) | f & U64(48))
        a, b = U64(packed[U64(2) * LANES + i]), U64(packed[U64(3) * LANES + i])
        second[i] = U64(1) << (a & U64(15) | (e << U64(2)) & U64(48)) | U64(1) << (
            b & U64(15) | (f << U64(2)) & U64(48)
        )
        fourth[i] = U64(1) << (a >> U64(4) | (e >> U64(2)) & U64(48)) | U64(1) << (
            b >> U64(4) | (f >> U64(2)) & U64(48)
        )


@inner
def mark_q8_0(packed, lanes, seen):
    """Cells of four neighbouring codes: 256 bits would take four times as long."""
    for i in range(lanes):
        found = U64(0)
        for k in range(U64(4)):
            found |= U64(1) << ((U64(packed[k * LANES + i]) ^ U64(128)) >> U64(2))
        seen[i] = found


# --- fold and tally


@inner
def fold_two(seen, groups, masks):
    """OR the eight lanes of 16 bits of each group."""
    for i in range(groups):
        mask = seen[U64(2) * i] | seen[U64(2) * i + U64(1)]
        mask |= mask >> U64(32)
        masks[i] = (mask | mask >> U64(16)) & U64(0xFFFF)


@inner
def fold_four(seen, groups, masks):
    """OR the eight lanes of 32 bits of each group."""
    for i in range(groups):
        at = U64(4) * i
        mask = seen[at] | seen[at + U64(1)] | seen[at + U64(2)] | seen[at + U64(3)]
        masks[i] = (mask | mask >> U64(32)) & HALF_WORD


@inner
def fold_eight(seen, groups, masks, eight):
    """OR the eight lanes of 64 bits of each group; were `eight` a constant, LLVM would gather them slowly."""
    for i in range(groups):
        mask = U64(0)
        for k in range(eight):
            mask |= seen[eight * i + k]
        masks[i] = mask


@inner
def tally_groups(masks, groups, zeros, tile):
    """Count the groups by the ones of their masks, and those that are dead."""
    factors, shifts, ones = tile.factors, tile.shifts, tile.ones
    codes, dead = U64(0), U64(0)
    for i in range(groups):
        mask = masks[i]
        codes |= mask
        factor = factors[i]
        is_zero = (factor == np.uint8(0)) | (((mask & ~zeros) == U64(0)) & (factor != np.uint8(255)))
        dead += U64(is_zero & (shifts[i] == np.uint8(0)))
    for i in range(groups):
        mask = masks[i]
        mask = mask - ((mask >> U64(1)) & U64(0x5555555555555555))
        mask = (mask & U64(0x3333333333333333)) + ((mask >> U64(2)) & U64(0x3333333333333333))
        ones[i] = np.uint8((((mask + (mask >> U64(4))) & HALF_BYTES_64) * BYTES) >> U64(56))
    tile.facts[CODES] |= np.int64(codes)
    tile.facts[DEAD] += np.int64(dead)
    for number in range(tile.distinct.size):
        count = np.uint16(0)
        for i in range(groups):
            count = np.uint16(count + np.uint16(ones[i] == np.uint8(number)))
        tile.distinct[number] += np.int64(count)


@inner
def tally_scales(tile, count, special, shift):
    """Count the scales that are special, zero or negative; find the reach of the others."""
    scales, offsets = tile.scales, tile.offsets
    odd, zero, negative = np.uint16(0), np.uint16(0), np.uint16(0)
    usual, exponents = np.uint16(0), np.uint16(0)
    least, greatest = np.uint16(0xFFFF), np.uint16(0)
    for i in range(count):
        scale = scales[i]
        magnitude = np.uint16(scale & MAGNITUDE)
        offset = np.uint16(offsets[i] & MAGNITUDE)
        odd = np.uint16(odd + np.uint16((magnitude >= special) | (offset >= INFINITE)))
        zero = np.uint16(zero + np.uint16(magnitude == np.uint16(0)))
        negative = np.uint16(negative + np.uint16(scale > np.uint16(0x8000)))
        high = magnitude if magnitude < special else np.uint16(0)
        usual = np.uint16(usual + np.uint16(high != np.uint16(0)))
        low = np.uint16(high - ONE_16)
        least = low if low < least else least
        greatest = high if high > greatest else greatest
    for i in range(count):
        magnitude = np.uint16(scales[i] & MAGNITUDE)
        magnitude = magnitude if magnitude < special else np.uint16(0)
        exponents = np.uint16(exponents + np.uint16(magnitude >> np.uint16(shift & np.uint16(15))))
    facts = tile.facts
    facts[SPECIAL] += np.int64(odd)
    facts[ZERO] += np.int64(zero)
    facts[NEGATIVE] += np.int64(negative)
    facts[USUAL] += np.int64(usual)
    facts[EXPONENTS] += np.int64(exponents)
    facts[LEAST] = min(facts[LEAST], np.int64(least) + 1)
    facts[GREATEST] = max(facts[GREATEST], np.int64(greatest))


@inner
def empty_tile(distinct, facts):
    """Return the arrays of one thread's tiles."""
    planes = np.zeros(PLANES * GROUPS, np.uint64)
    factors, shifts = np.zeros(GROUPS, np.uint8), np.zeros(GROUPS, np.uint8)
    scales, offsets = np.zeros(GROUPS, np.uint16), np.zeros(GROUPS, np.uint16)
    ones = np.zeros(GROUPS, np.uint8)
    words = factors.view(np.uint32), shifts.view(np.uint32)
    return Tile(planes, planes.view(np.uint8), factors, shifts, *words, scales, offsets, ones, distinct, facts)


@inner
def narrow_tile(raw, at, blocks, kind, tile, seen):
    """Take and mark blocks of a type with at most 16 codes."""
    planes, packed, lanes = tile.planes, tile.packed, U64(8) * blocks
    if kind == Q4_0:
        take_two(raw, at, U64(18), blocks, U64(2), planes)
        take_halves(raw, at, U64(18), blocks, U64(0), tile.scales, tile.factors)
        mark_halves(packed, lanes, U64(2), seen)
    elif kind == Q4_1:
        take_two(raw, at, U64(20), blocks, U64(4), planes)
        take_halves(raw, at, U64(20), blocks, U64(0), tile.scales, tile.factors)
        take_halves(raw, at, U64(20), blocks, U64(2), tile.offsets, tile.shifts)
        mark_halves(packed, lanes, U64(2), seen)
    elif kind == MXFP4:
        take_two(raw, at, U64(17), blocks, U64(1), planes)
        take_e8m0(raw, at, blocks, tile)
        mark_halves(packed, lanes, U64(2), seen)
    elif kind == NVFP4:
        take_nvfp4(raw, at, blocks, tile)
        mark_halves(packed, U64(4) * lanes, U64(1), seen)
    elif kind == Q4_K:
        take_q45_k(raw, at, U64(144), blocks, U64(16), tile)
        mark_q4_k(packed, U64(4) * lanes, seen)
    elif kind == TQ1_0:
        take_trits(raw, at, blocks, planes)
        take_halves(raw, at, U64(54), blocks, U64(52), tile.scales, tile.factors)
        mark_trits(packed, lanes, seen)
    elif kind == TQ2_0:
        take_tq2_0(raw, at, blocks, planes)
        take_halves(raw, at, U64(66), blocks, U64(64), tile.scales, tile.factors)
        mark_pairs(packed, lanes, seen)
    elif kind == Q2_K:
        take_q2_k(raw, at, blocks, tile)
        mark_q2_k(packed, U64(4) * lanes, seen)
    else:
        take_q3_k(raw, at, blocks, tile)
        mark_q3_k(packed, U64(4) * lanes, seen)


@inner
def middle_tile(raw, at, blocks, kind, tile, seen):
    """Take and mark blocks of a type with 32 codes."""
    planes, packed, lanes = tile.planes, tile.packed, U64(8) * blocks
    if kind == Q5_K:
        take_q45_k(raw, at, U64(176), blocks, U64(48), tile)
        take_fifth_bits_k(raw, at, blocks, planes)
        mark_q5_k(packed, U64(4) * lanes, seen)
        return
    step, first = (U64(22), U64(2)) if kind == Q5_0 else (U64(24), U64(4))
    take_two(raw, at, step, blocks, first + U64(4), planes)
    take_fifth_bits(raw, at, step, blocks, first, planes)
    take_halves(raw, at, step, blocks, U64(0), tile.scales, tile.factors)
    if kind == Q5_1:
        take_halves(raw, at, step, blocks, U64(2), tile.offsets, tile.shifts)
    mark_q5(packed, lanes, seen)


@inner
def wide_tile(raw, at, blocks, kind, tile, seen):
    """Take and mark blocks of a type whose codes, or cells of codes, are 64."""
    packed, lanes = tile.packed, U64(8) * blocks
    if kind == Q8_0:
        take_q8_0(raw, at, blocks, tile)
        mark_q8_0(packed, lanes, seen)
        return
    take_q6_k(raw, at, blocks, tile)
    mark_q6_k(packed, U64(4) * lanes, seen)


@kernel
def count_narrow(raw, begin, end, kind, nbytes, groups, most, zeros, special, shift):
    """Count each chunk's blocks ``raw[begin:end]`` of a type with at most 16 codes.

    Returns what `reference_blocks.block_counts` does, one row per chunk.
    """
    distinct = np.zeros((begin.size, MOST_CODES + 1), np.int64)
    facts = np.zeros((begin.size, len(FACTS)), np.int64)
    for chunk in prange(begin.size):
        facts[chunk, LEAST] = NO_SCALE
        tile = empty_tile(distinct[chunk, : most + 1], facts[chunk])
        seen, masks = np.zeros(8 * GROUPS, np.uint16), np.zeros(GROUPS, np.uint64)
        words = seen.view(np.uint64)
        step = U64(GROUPS) // groups
        at, blocks = U64(begin[chunk]), U64(end[chunk] - begin[chunk]) // nbytes
        while blocks:
            some = min(step, blocks)
            narrow_tile(raw, at, some, kind, tile, seen)
            fold_two(words, some * groups, masks)
            tally_groups(masks, some * groups, zeros, tile)
            tally_scales(tile, some * groups if kind == NVFP4 else some, special, shift)
            at, blocks = at + some * nbytes, blocks - some
    return distinct, facts


@kernel
def count_middle(raw, begin, end, kind, nbytes, groups, most, zeros, special, shift):
    """Do the same for a type with 32 codes."""
    distinct = np.zeros((begin.size, MOST_CODES + 1), np.int64)
    facts = np.zeros((begin.size, len(FACTS)), np.int64)
    for chunk in prange(begin.size):
        facts[chunk, LEAST] = NO_SCALE
        tile = empty_tile(distinct[chunk, : most + 1], facts[chunk])
        seen, masks = np.zeros(8 * GROUPS, np.uint32), np.zeros(GROUPS, np.uint64)
        words = seen.view(np.uint64)
        step = U64(GROUPS) // groups
        at, blocks = U64(begin[chunk]), U64(end[chunk] - begin[chunk]) // nbytes
        while blocks:
            some = min(step, blocks)
            middle_tile(raw, at, some, kind, tile, seen)
            fold_four(words, some * groups, masks)
            tally_groups(masks, some * groups, zeros, tile)
            tally_scales(tile, some, special, shift)
            at, blocks = at + some * nbytes, blocks - some
    return distinct, facts


@kernel
def count_wide(raw, begin, end, kind, nbytes, groups, most, zeros, special, shift):
    """Do the same for a type with 64 codes or cells."""
    distinct = np.zeros((begin.size, MOST_CODES + 1), np.int64)
    facts = np.zeros((begin.size, len(FACTS)), np.int64)
    for chunk in prange(begin.size):
        facts[chunk, LEAST] = NO_SCALE
        tile = empty_tile(distinct[chunk, : most + 1], facts[chunk])
        seen, masks = np.zeros(8 * GROUPS, np.uint64), np.zeros(GROUPS, np.uint64)
        step = U64(GROUPS) // groups
        at, blocks = U64(begin[chunk]), U64(end[chunk] - begin[chunk]) // nbytes
        while blocks:
            some = min(step, blocks)
            wide_tile(raw, at, some, kind, tile, seen)
            fold_eight(seen, some * groups, masks, U64(seen.size) // WIDTH)
            tally_groups(masks, some * groups, zeros, tile)
            tally_scales(tile, some, special, shift)
            at, blocks = at + some * nbytes, blocks - some
    return distinct, facts
