"""Block-quantized bytes: which codes each group uses, and what its scales are.

Each chunk goes in tiles of at most `GROUPS` groups, in steps that run over all groups of a tile: *take* the blocks
apart (`planes`), *mark* the codes (`marks`), *fold* the eight lanes of each group into one mask, and *tally*.
"""

from __future__ import annotations

import numpy as np

from truebits_native.jit import inner, kernel
from truebits_native.kernels.marks import (
    NONE,
    clear,
    empty_marks,
    fold,
    fold_eight,
    mark_cells,
    mark_fives,
    mark_halves,
    mark_pairs,
    mark_triples,
    mark_trits,
    spread_q6_k,
    spread_q8_0,
)
from truebits_native.kernels.planes import (
    BYTES,
    EIGHT,
    FOUR,
    GROUPS,
    HALF_BYTES_64,
    INFINITE,
    MAGNITUDE,
    MXFP4,
    NVFP4,
    ONE,
    Q2_K,
    Q3_K,
    Q4_1,
    Q4_K,
    Q5_1,
    Q5_K,
    Q8_0,
    TQ1_0,
    TWO,
    U8,
    U16,
    U64,
    WIDTH,
    empty_tile,
    take_codes,
    take_e8m0,
    take_fifth_bits,
    take_fifth_bits_k,
    take_halves,
    take_last_trits,
    take_nvfp4,
    take_q2_k,
    take_q3_k,
    take_q6_k,
    take_q8_0,
    take_q45_k,
)
from truebits_native.reference.blocks import (
    CODES,
    DEAD,
    EXPONENTS,
    GREATEST,
    LEAST,
    NEGATIVE,
    SPECIAL,
    USUAL,
    ZERO,
)

COUNTED = U64(128)
"""Groups that are counted in a byte before it could overflow."""


# --- take and mark: a function for each number of codes, so that no more is compiled than a file needs


@inner
def fill_fours(raw, at, step, blocks, kind, tile, seen):
    """Take and mark blocks of a type with 16 codes."""
    if kind == NVFP4:
        take_nvfp4(raw, at, blocks, tile)
    elif kind == Q4_K:
        take_q45_k(raw, at, step, blocks, tile)
    else:
        take_codes(raw, at, step, blocks, step - U64(16), ONE, tile.planes)
        if kind == MXFP4:
            take_e8m0(raw, at, blocks, tile)
        else:
            take_halves(raw, at, step, blocks, U64(0), tile.scales, tile.factors)
        if kind == Q4_1:
            take_halves(raw, at, step, blocks, TWO, tile.offsets, tile.shifts)
    planes = ONE if kind == NVFP4 else (FOUR if kind == Q4_K else TWO)
    groups = blocks * (FOUR if kind == NVFP4 else (EIGHT if kind == Q4_K else ONE))
    mark_halves(tile.packed, planes, kind == Q4_K, groups, seen)


@inner
def fill_fives(raw, at, step, blocks, kind, tile, seen):
    """Do the same for a type with 32 codes."""
    if kind == Q5_K:
        take_q45_k(raw, at, step, blocks, tile)
        take_fifth_bits_k(raw, at, step, blocks, tile.planes)
        mark_fives(tile.packed, FOUR, True, EIGHT * blocks, seen)
        return
    take_codes(raw, at, step, blocks, step - U64(16), ONE, tile.planes)
    take_fifth_bits(raw, at, step, blocks, step - U64(20), tile.planes)
    take_halves(raw, at, step, blocks, U64(0), tile.scales, tile.factors)
    if kind == Q5_1:
        take_halves(raw, at, step, blocks, TWO, tile.offsets, tile.shifts)
    mark_fives(tile.packed, TWO, False, blocks, seen)


@inner
def fill_few(raw, at, step, blocks, kind, tile, seen):
    """Do the same for a type with 3, 4 or 8 codes."""
    packed = tile.packed
    if kind == Q2_K:
        take_q2_k(raw, at, blocks, tile)
        mark_pairs(packed, TWO, True, U64(16) * blocks, seen)
    elif kind == Q3_K:
        take_q3_k(raw, at, blocks, tile)
        mark_triples(packed, U64(16) * blocks, seen)
    else:
        take_codes(raw, at, step, blocks, U64(0), U64(3) if kind == TQ1_0 else FOUR, tile.planes)
        take_halves(raw, at, step, blocks, step - TWO, tile.scales, tile.factors)
        if kind == TQ1_0:
            take_last_trits(raw, at, blocks, tile.planes)
            mark_trits(packed, blocks, seen)
        else:
            mark_pairs(packed, EIGHT, False, blocks, seen)


@inner
def fill_wide(raw, at, blocks, kind, tile, cells, seen):
    """Do the same for a type whose codes, or cells of codes, are 64."""
    if kind == Q8_0:
        take_q8_0(raw, at, blocks, tile)
        spread_q8_0(tile.packed, blocks, cells)
        mark_cells(cells, FOUR, blocks, seen)
    else:
        take_q6_k(raw, at, blocks, tile)
        spread_q6_k(tile.packed, U64(16) * blocks, cells)
        mark_cells(cells, TWO, U64(16) * blocks, seen)


# --- fold and tally


@inner
def tally_masks(masks, groups, bit_planes, zeros, tile):
    """Count the ones of the groups' masks, and find those whose values are all zero."""
    ones, live = tile.ones, tile.live
    codes = U64(0)
    for i in range(groups):
        ones[i] = live[i] = NONE
    for k in range(bit_planes):
        own = masks[k * groups : k * groups + groups]
        kept = U8(~(zeros >> (EIGHT * k)))
        all = NONE
        for i in range(groups):
            mask = own[i]
            all = U8(all | mask)
            live[i] = U8(live[i] | U8(mask & kept))
            mask = U8(mask - U8(U8(mask >> U8(1)) & U8(0x55)))
            mask = U8(U8(mask & U8(0x33)) + U8(U8(mask >> U8(2)) & U8(0x33)))
            ones[i] = U8(ones[i] + U8(U8(mask + U8(mask >> U8(4))) & U8(15)))
        codes |= U64(all) << (EIGHT * k)
    tile.facts[CODES] |= np.int64(codes)


@inner
def tally_words(masks, groups, zeros, tile):
    """Do the same as `tally_masks` for masks of 64 bits."""
    ones, live = tile.ones, tile.live
    codes = U64(0)
    for i in range(groups):
        codes |= masks[i]
        live[i] = U8((masks[i] & ~zeros) != U64(0))
    for i in range(groups):
        mask = masks[i]
        mask = mask - ((mask >> U64(1)) & U64(0x5555555555555555))
        mask = (mask & U64(0x3333333333333333)) + ((mask >> U64(2)) & U64(0x3333333333333333))
        ones[i] = U8((((mask + (mask >> U64(4))) & HALF_BYTES_64) * BYTES) >> U64(56))
    tile.facts[CODES] |= np.int64(codes)


@inner
def tally_groups(tile, groups):
    """Count the groups by their number of codes, and those that are dead."""
    factors, shifts, ones, live = tile.factors, tile.shifts, tile.ones, tile.live
    for first in range(U64(0), groups, COUNTED):
        some = min(COUNTED, groups - first)
        dead = NONE
        for i in range(first, first + some):
            is_zero = (factors[i] == NONE) | ((live[i] == NONE) & (factors[i] != U8(255)))
            dead = U8(dead + U8(is_zero & (shifts[i] == NONE)))
        tile.facts[DEAD] += np.int64(dead)
        for number in range(tile.distinct.size):
            count = NONE
            for i in range(first, first + some):
                count = U8(count + U8(ones[i] == U8(number)))
            tile.distinct[number] += np.int64(count)


@inner
def tally_scales(tile, count, special, shift):
    """Count the scales that are special, zero or negative; find the reach of the others."""
    scales, offsets = tile.scales, tile.offsets
    odd, zero, negative = U16(0), U16(0), U16(0)
    usual, exponents = U16(0), U16(0)
    least, greatest = U16(0xFFFF), U16(0)
    for i in range(count):
        scale = scales[i]
        magnitude = U16(scale & MAGNITUDE)
        offset = U16(offsets[i] & MAGNITUDE)
        odd = U16(odd + U16((magnitude >= special) | (offset >= INFINITE)))
        zero = U16(zero + U16(magnitude == U16(0)))
        negative = U16(negative + U16(scale > U16(0x8000)))
        high = magnitude if magnitude < special else U16(0)
        usual = U16(usual + U16(high != U16(0)))
        low = U16(high - U16(1))
        least = low if low < least else least
        greatest = high if high > greatest else greatest
    for i in range(count):
        magnitude = U16(scales[i] & MAGNITUDE)
        magnitude = magnitude if magnitude < special else U16(0)
        exponents = U16(exponents + U16(magnitude >> U16(shift & U16(15))))
    facts = tile.facts
    facts[SPECIAL] += np.int64(odd)
    facts[ZERO] += np.int64(zero)
    facts[NEGATIVE] += np.int64(negative)
    facts[USUAL] += np.int64(usual)
    facts[EXPONENTS] += np.int64(exponents)
    facts[LEAST] = min(facts[LEAST], np.int64(least) + 1)
    facts[GREATEST] = max(facts[GREATEST], np.int64(greatest))


@inner
def tally(tile, marks, groups, zeros):
    """Fold the marks of at most 32 codes, and count them."""
    fold(marks, marks.bit_planes * groups)
    tally_masks(marks.masks, groups, marks.bit_planes, zeros, tile)
    tally_groups(tile, groups)


# --- all steps: the loops differ by a call only, but Numba cannot cache a kernel that gets a function


@inner
def fours_chunk(raw, at, blocks, layout, distinct, facts):
    """Count the blocks of a chunk of a type with 16 codes."""
    kind, step, groups, most, zeros, special, shift = layout
    tile, marks = empty_tile(distinct[: most + 1], facts), empty_marks(most)
    while blocks:
        some = min(WIDTH // groups, blocks)
        clear(marks.words, marks.bit_planes * some * groups)
        fill_fours(raw, at, step, some, kind, tile, marks.seen)
        tally(tile, marks, some * groups, zeros)
        tally_scales(tile, some * groups if kind == NVFP4 else some, special, shift)
        at, blocks = at + some * step, blocks - some


@inner
def fives_chunk(raw, at, blocks, layout, distinct, facts):
    """Do the same for a type with 32 codes."""
    kind, step, groups, most, zeros, special, shift = layout
    tile, marks = empty_tile(distinct[: most + 1], facts), empty_marks(most)
    while blocks:
        some = min(WIDTH // groups, blocks)
        clear(marks.words, marks.bit_planes * some * groups)
        fill_fives(raw, at, step, some, kind, tile, marks.seen)
        tally(tile, marks, some * groups, zeros)
        tally_scales(tile, some * groups if kind == NVFP4 else some, special, shift)
        at, blocks = at + some * step, blocks - some


@inner
def few_chunk(raw, at, blocks, layout, distinct, facts):
    """Do the same for a type with 3, 4 or 8 codes."""
    kind, step, groups, most, zeros, special, shift = layout
    tile, marks = empty_tile(distinct[: most + 1], facts), empty_marks(most)
    while blocks:
        some = min(WIDTH // groups, blocks)
        clear(marks.words, marks.bit_planes * some * groups)
        fill_few(raw, at, step, some, kind, tile, marks.seen)
        tally(tile, marks, some * groups, zeros)
        tally_scales(tile, some * groups if kind == NVFP4 else some, special, shift)
        at, blocks = at + some * step, blocks - some


@inner
def wide_chunk(raw, at, blocks, layout, distinct, facts):
    """Do the same for a type with 64 codes or cells."""
    kind, step, groups, most, zeros, special, shift = layout
    tile = empty_tile(distinct[: most + 1], facts)
    seen, masks, cells = np.zeros(8 * GROUPS, U64), np.zeros(GROUPS, U64), np.zeros(32 * GROUPS, U8)
    while blocks:
        some = min(WIDTH // groups, blocks)
        fill_wide(raw, at, some, kind, tile, cells, seen)
        fold_eight(seen, some * groups, masks, U64(seen.size) // WIDTH)
        tally_words(masks, some * groups, zeros, tile)
        tally_groups(tile, some * groups)
        tally_scales(tile, some, special, shift)
        at, blocks = at + some * step, blocks - some


@kernel
def count_fours(raw, begin, end, layout, distinct, facts):
    """Count each chunk's blocks ``raw[begin:end]`` of a type with 16 codes.

    Returns what `reference_blocks.block_counts` does, one row per chunk.
    """
    for chunk in range(begin.size):
        blocks = U64(end[chunk] - begin[chunk]) // layout[1]
        fours_chunk(raw, U64(begin[chunk]), blocks, layout, distinct[chunk], facts[chunk])


@kernel
def count_fives(raw, begin, end, layout, distinct, facts):
    """Do the same for a type with 32 codes."""
    for chunk in range(begin.size):
        blocks = U64(end[chunk] - begin[chunk]) // layout[1]
        fives_chunk(raw, U64(begin[chunk]), blocks, layout, distinct[chunk], facts[chunk])


@kernel
def count_few(raw, begin, end, layout, distinct, facts):
    """Do the same for a type with 3, 4 or 8 codes."""
    for chunk in range(begin.size):
        blocks = U64(end[chunk] - begin[chunk]) // layout[1]
        few_chunk(raw, U64(begin[chunk]), blocks, layout, distinct[chunk], facts[chunk])


@kernel
def count_wide(raw, begin, end, layout, distinct, facts):
    """Do the same for a type with 64 codes or cells."""
    for chunk in range(begin.size):
        blocks = U64(end[chunk] - begin[chunk]) // layout[1]
        wide_chunk(raw, U64(begin[chunk]), blocks, layout, distinct[chunk], facts[chunk])
