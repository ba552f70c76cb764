"""The codes in planes, marked: a bit for each code that a group uses.

A group has eight lanes. In each, the marks of eight codes are a byte; 16 codes have two such bytes, one in each of two
*bit planes*, 32 have four. Byte by byte, because vectors look ``1 << code`` up 32 at a time that way. 64 codes would
need eight bit planes: there a lane is a word of 64 bits.

Each loop writes one or two arrays: of more, LLVM does not try to prove that they are apart. Arithmetic on lanes
narrower than 64 bits is cast at every step, because Numba widens it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from truebits_native.jit import inner
from truebits_native.kernels.planes import (
    EIGHT,
    FOUR,
    LANES,
    ONE,
    TWO,
    U8,
    U16,
    U32,
    U64,
    WIDTH,
)

NONE = U8(0)


class Marks(NamedTuple):
    """The marks of a tile's codes, and what becomes of them.

    Attributes
    ----------
    bit_planes : uint64
        For each group has eight lanes, of a byte.
    seen, words : ndarray of uint8, uint64
        The same memory, by lanes and by groups.
    singles, halves, masks : ndarray of uint32, uint16, uint8
        The lanes of each group ORed: four left, two, one.
    """

    bit_planes: Any
    seen: Any
    words: Any
    singles: Any
    halves: Any
    masks: Any


@inner
def empty_marks(codes):
    """Return the arrays for so many codes."""
    bit_planes = (U64(codes) + U64(7)) // EIGHT
    count = bit_planes * WIDTH
    words = np.zeros(count, U64)
    return Marks(bit_planes, words.view(U8), words, np.zeros(count, U32), np.zeros(count, U16), np.zeros(count, U8))


@inner
def clear(words, count):
    """Set words to zero. (Written in the `prange` itself, this loop took no effect after the first tile.)"""
    for i in range(count):
        words[i] = U64(0)


@inner
def bit(code):
    """Return ``1 << code % 8``; vectors look it up."""
    return U8(U8(1) << U8(code & U8(7)))


@inner
def under_eight(code):
    """Return the bit of a code from 0 to 7, and zero for others."""
    return bit(code) if code < U8(8) else NONE


@inner
def over_seven(code):
    """Return the bit of a code from 8 to 15, and zero for others."""
    return NONE if code < U8(8) else bit(code)


@inner
def mark_halves(packed, planes, apart, groups, seen):
    """Two codes in each byte."""
    whole = EIGHT * groups
    lanes = whole // TWO if apart else whole
    for plane in range(U64(0), planes, TWO):
        one = packed[plane * LANES : plane * LANES + lanes]
        next = min(plane + ONE, planes - ONE) * LANES
        two = packed[next : next + lanes]
        for half in range(TWO):
            start = half * lanes if apart else U64(0)
            low, high = seen[start : start + lanes], seen[whole + start : whole + start + lanes]
            shift = U8(half * FOUR)
            for i in range(lanes):
                a, b = U8(U8(one[i] >> shift) & U8(15)), U8(U8(two[i] >> shift) & U8(15))
                low[i] = U8(low[i] | U8(under_eight(a) | under_eight(b)))
                high[i] = U8(high[i] | U8(over_seven(a) | over_seven(b)))


@inner
def mark_pairs(packed, planes, apart, groups, seen):
    """Four codes in each byte."""
    whole = EIGHT * groups
    lanes = whole // FOUR if apart else whole
    for plane in range(planes):
        bytes = packed[plane * LANES : plane * LANES + lanes]
        for field in range(FOUR):
            start = field * lanes if apart else U64(0)
            into = seen[start : start + lanes]
            shift = U8(field * TWO)
            for i in range(lanes):
                into[i] = U8(into[i] | bit(U8(U8(bytes[i] >> shift) & U8(3))))


@inner
def mark_triples(packed, groups, seen):
    """Four codes of as many groups in each byte of two planes; their third bits in the next two."""
    lanes = TWO * groups
    for plane in range(TWO):
        bytes = packed[plane * LANES : plane * LANES + lanes]
        thirds = packed[(plane + TWO) * LANES : (plane + TWO) * LANES + lanes]
        for field in range(FOUR):
            into = seen[field * lanes : field * lanes + lanes]
            shift, place = U8(field * TWO), U8(field)
            for i in range(lanes):
                low = U8(U8(bytes[i] >> shift) & U8(3))
                third = U8(U8(U8(thirds[i] >> place) & U8(1)) * U8(4))
                into[i] = U8(into[i] | bit(U8(low | third)))


@inner
def mark_trits(packed, groups, seen):
    """Five codes of one group in each byte, in six planes; four in the seventh.

    A byte is a fraction of 256: three times it has the code before the point, and the rest after it.
    """
    lanes = EIGHT * groups
    for plane in range(U64(7)):
        bytes = packed[plane * LANES : plane * LANES + lanes]
        for _ in range(U64(5) if plane < U64(6) else FOUR):
            for i in range(lanes):
                rest = bytes[i]
                found = U8(1) if rest < U8(86) else (U8(2) if rest < U8(171) else U8(4))
                seen[i] = U8(seen[i] | found)
                bytes[i] = U8(rest + U8(rest + rest))


@inner
def mark_fives(packed, planes, apart, groups, seen):
    """Two codes in each byte; their fifth bits in planes of their own."""
    whole = EIGHT * groups
    lanes = whole // TWO if apart else whole
    for plane in range(planes):
        bytes = packed[plane * LANES : plane * LANES + lanes]
        for half in range(TWO):
            start = half * lanes if apart else U64(0)
            at = planes + plane if apart else planes + half * planes + plane
            fifths = packed[at * LANES : at * LANES + lanes]
            which = U8(ONE << half) if apart else U8(255)
            shift = U8(half * FOUR)
            for upper in range(TWO):
                first = start + TWO * upper * whole
                low, high = seen[first : first + lanes], seen[first + whole : first + whole + lanes]
                for i in range(lanes):
                    code = U8(U8(bytes[i] >> shift) & U8(15))
                    found = bit(code) if (U8(fifths[i] & which) != NONE) == (upper != U64(0)) else NONE
                    low[i] = U8(low[i] | (found if code < U8(8) else NONE))
                    high[i] = U8(high[i] | (NONE if code < U8(8) else found))


@inner
def spread_q6_k(packed, groups, cells):
    """Put each code into a byte: two planes."""
    lanes = TWO * groups
    for plane in range(TWO):
        tops = packed[(FOUR + plane) * LANES : (FOUR + plane) * LANES + lanes]
        for field in range(FOUR):
            first = (plane + TWO * (field & ONE)) * LANES
            bytes = packed[first : first + lanes]
            first = EIGHT * groups * plane + field * lanes
            into = cells[first : first + lanes]
            half, shift = U8(FOUR * (field >> ONE)), U8(TWO * field)
            for i in range(lanes):
                into[i] = U8(U8(U8(bytes[i] >> half) & U8(15)) | U8(U8(U8(tops[i] >> shift) & U8(3)) * U8(16)))


@inner
def spread_q8_0(packed, groups, cells):
    """Put the cell of four neighbouring codes into a byte: four planes. 256 bits would take four times as long."""
    lanes = EIGHT * groups
    for plane in range(FOUR):
        bytes, into = packed[plane * LANES : plane * LANES + lanes], cells[plane * lanes : plane * lanes + lanes]
        for i in range(lanes):
            into[i] = U8(U8(bytes[i] ^ U8(128)) >> U8(2))


@inner
def mark_cells(cells, planes, groups, seen):
    """Mark codes, or cells of codes, that are below 64: two or four planes, eight words a group."""
    lanes = EIGHT * groups
    one, two = cells[:lanes], cells[lanes : TWO * lanes]
    for i in range(lanes):
        seen[i] = ONE << U64(one[i]) | ONE << U64(two[i])
    if planes > TWO:
        three, four = cells[TWO * lanes : U64(3) * lanes], cells[U64(3) * lanes : FOUR * lanes]
        for i in range(lanes):
            seen[i] |= ONE << U64(three[i]) | ONE << U64(four[i])


@inner
def fold(marks, count):
    """OR the eight lanes of each group, by halves."""
    words, singles, halves, masks = marks.words, marks.singles, marks.halves, marks.masks
    for i in range(count):
        word = words[i]
        singles[i] = U32(word | word >> U64(32))
    for i in range(count):
        word = singles[i]
        halves[i] = U16(word | word >> U32(16))
    for i in range(count):
        word = halves[i]
        masks[i] = U8(word | U16(word >> U16(8)))


@inner
def fold_eight(seen, groups, masks, eight):
    """OR the eight words of each group; were `eight` a constant, LLVM would gather them slowly."""
    for i in range(groups):
        mask = U64(0)
        for k in range(eight):
            mask |= seen[eight * i + k]
        masks[i] = mask
