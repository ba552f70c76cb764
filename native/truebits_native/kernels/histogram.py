"""Exponent x trailing-zero counts.

Each chunk runs in two steps over small blocks: the bins of a block are computed with vector
instructions into a buffer, then counted. Counting goes round four copies of the table, because
neighbouring values often share a bin and an increment has to wait for the one before it.
"""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel

BINS = 256 * 24
BLOCK = 512
COPY = BINS + 16
"""Distance between copies of the table: not a multiple of 4 KiB, or their cache sets would meet."""

COPY_1, COPY_2, COPY_3 = np.uint64(COPY), np.uint64(2 * COPY), np.uint64(3 * COPY)

IMPLICIT = np.uint32(1 << 23)
ONE = np.uint32(1)


@inner
def add_to_copies(table, block, size):
    """Count the first `size` bins of `block`, in turn into each of the four copies."""
    whole = np.uint64(size & ~np.uint64(3))
    for i in range(np.uint64(0), whole, np.uint64(4)):
        table[np.uint64(block[i])] += ONE
        table[np.uint64(block[i + np.uint64(1)]) + COPY_1] += ONE
        table[np.uint64(block[i + np.uint64(2)]) + COPY_2] += ONE
        table[np.uint64(block[i + np.uint64(3)]) + COPY_3] += ONE
    for i in range(whole, size):
        table[np.uint64(block[i])] += ONE


@inner
def gather(table, least, most, slot, bins, counts):
    """Add up the copies' bins from `least` to `most`, write those that occur, and clear them for the next chunk.

    They are written ascending from ``bins[slot]`` on; returns how many.
    """
    met = 0
    for i in range(np.uint64(least), np.uint64(most) + np.uint64(1)):
        count = np.uint32(table[i] + table[i + COPY_1] + table[i + COPY_2] + table[i + COPY_3])
        if count:
            bins[slot + met] = i
            counts[slot + met] = count
            met += 1
    for copy in range(4):
        table[copy * COPY + least : copy * COPY + most + 1] = 0
    return met


@kernel
def count_single_bins(words, begin, end, slot, bins, counts, met):
    """Count F32 words: chunk i writes the bins it met, ascending, from ``bins[slot[i]]`` on.

    Returns how many bins each chunk met.
    """
    table = np.zeros(4 * COPY, np.uint32)
    block = np.empty(BLOCK, np.uint16)
    for chunk in range(begin.size):
        least, most = np.uint32(BINS), np.uint32(0)
        for low in range(begin[chunk], end[chunk], BLOCK):
            piece = words[low : min(low + BLOCK, end[chunk])]
            for i in range(np.uint64(piece.size)):
                word = np.uint32(piece[i])
                mantissa = np.uint32(word | IMPLICIT)
                lowest = np.uint32(mantissa & np.uint32(~mantissa + ONE))
                trailing = np.uint32(np.float32(np.int32(lowest)).view(np.uint32) >> np.uint32(23))
                exponent = np.uint32(np.uint32(word >> np.uint32(23)) & np.uint32(0xFF))
                found = np.uint32(np.uint32(exponent * np.uint32(24)) + np.uint32(trailing - np.uint32(127)))
                least = found if found < least else least
                most = found if found > most else most
                block[i] = np.uint16(found)
            add_to_copies(table, block, np.uint64(piece.size))
        met[chunk] = gather(table, least, most, slot[chunk], bins, counts)


@kernel
def count_half_bins(words, begin, end, lookup, slot, bins, counts, met):
    """Count 16-bit words by the bin that `lookup` gives each pattern; otherwise as above."""
    table = np.zeros(4 * COPY, np.uint32)
    block = np.empty(BLOCK, np.uint16)
    for chunk in range(begin.size):
        least, most = np.uint32(BINS), np.uint32(0)
        for low in range(begin[chunk], end[chunk], BLOCK):
            piece = words[low : min(low + BLOCK, end[chunk])]
            for i in range(np.uint64(piece.size)):
                found = np.uint32(lookup[piece[i]])
                least = found if found < least else least
                most = found if found > most else most
                block[i] = np.uint16(found)
            add_to_copies(table, block, np.uint64(piece.size))
        met[chunk] = gather(table, least, most, slot[chunk], bins, counts)
