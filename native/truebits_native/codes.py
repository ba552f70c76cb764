"""The codes of block-quantized bytes, taken apart in NumPy: what wants them looks at a sample. No numba import.

A *block* is what ggml stores a run of values in; a *group* is the part of a block that has a scale of its
own: 32 values of Q4_K's 256, 16 of Q6_K's, the whole block where there is only one scale. A *code* is the
unsigned number a value is stored as. Layouts are those of ggml-common.h, as `gguf.quants` unpacks them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import NamedTuple

import numpy as np

from truebits_native.types import LAYOUTS, UE4M3, BlockLayout

MOST_CODES = 32
"""Most values of a group that are looked at one by one: a histogram of distinct codes ends here."""


class Unpacked(NamedTuple):
    """Blocks taken apart: the values are ``scale * levels[codes] + offset``.

    Attributes
    ----------
    codes : ndarray of uint8, shape (blocks, groups, values per group)
    scale, offset : ndarray of float32, shape (blocks, groups)
    """

    codes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Return the values, float32 of shape (blocks, values).

        Where both a product and its offset are NaN it is the product, whichever NumPy's loop would take.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = self.scale[..., None] * levels[self.codes].astype(np.float32)
            values = scaled + self.offset[..., None]
        is_nan = np.isnan(scaled)
        if is_nan.any():
            values[is_nan] = scaled[is_nan]
        return values.reshape(len(self.codes), prod(self.codes.shape[1:]))


class CodeCounts(NamedTuple):
    """What the codes of some blocks are.

    Attributes
    ----------
    distinct : ndarray of int64, shape (MOST_CODES + 1,)
        Groups by how many distinct codes (Q8_0: cells of four codes) their values use.
    dead : int
        Groups that are zero by their scale or codes, without an offset.
    used : int
        A mask of the codes (cells) that occur, the lowest in bit 0.
    """

    distinct: np.ndarray
    dead: int
    used: int


def code_counts(raw: np.ndarray, type: str) -> CodeCounts:
    """Count what some blocks use of their codes.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
        Whole blocks, which are taken apart all at once: a sample.
    type : str
        A key of `LAYOUTS`.

    Returns
    -------
    CodeCounts
    """
    parts, layout = unpack(raw, type), LAYOUTS[type]
    groups = parts.codes.reshape(-1, layout.values // layout.groups)
    of = cells(layout)
    word = next(word for word in (np.uint16, np.uint32, np.uint64) if of.max() < 8 * np.dtype(word).itemsize)
    bits = np.left_shift(word(1), groups if layout.cell == 1 else of[groups], dtype=word)
    seen = _or_of_rows(bits)
    scale = parts.scale.ravel()
    zeros = np.left_shift(word(1), of[layout.levels == 0], dtype=word)
    has_no_other = seen & ~np.bitwise_or.reduce(zeros, initial=word(0)) == 0
    if layout.cell > 1:  # the cell of zero has other codes, too
        has_no_other[has_no_other] = (layout.levels[groups[has_no_other]] == 0).all(axis=1)
    is_zero = (scale == 0) | (has_no_other & np.isfinite(scale))
    dead = np.count_nonzero(is_zero & (parts.offset == 0).ravel())
    used = np.bitwise_or.reduce(seen, initial=word(0))
    distinct = np.bincount(_ones(seen.astype(np.uint64)), minlength=MOST_CODES + 1)
    return CodeCounts(distinct, int(dead), int(used))


def _or_of_rows(rows: np.ndarray) -> np.ndarray:
    """OR the columns together, as many at once as uint64 holds: ten times as fast as NumPy's reduction."""
    wide = np.ascontiguousarray(rows).view(np.uint64)
    seen = wide[:, 0].copy()
    for column in wide.T[1:]:
        seen |= column
    for width in (32, 16):
        if width >= 8 * rows.itemsize:
            seen |= seen >> np.uint64(width)
    return seen.astype(rows.dtype)


def _ones(words: np.ndarray) -> np.ndarray:
    """Count the set bits of each uint64; int64 (Warren, Hacker's Delight, 5-1)."""
    words = words - (words >> np.uint64(1) & np.uint64(0x5555555555555555))
    words = (words & np.uint64(0x3333333333333333)) + (words >> np.uint64(2) & np.uint64(0x3333333333333333))
    words = words + (words >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (words * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.int64)


def cells(layout: BlockLayout) -> np.ndarray:
    """Return the cell of each code, uint8: the code itself where a cell is one code."""
    if layout.cell == 1:
        return np.arange(layout.levels.size, dtype=np.uint8)
    return ((layout.levels - layout.levels.min()) // layout.cell).astype(np.uint8)


def unpack(raw: np.ndarray, type: str) -> Unpacked:
    """Take blocks apart.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
        Whole blocks.
    type : str
        A key of `LAYOUTS`.

    Returns
    -------
    Unpacked
    """
    layout = LAYOUTS[type]
    return _UNPACK[type](raw.reshape(-1, layout.nbytes))


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """Return the FP16 at byte `at` of each block; float32 of shape (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _simple(blocks: np.ndarray, codes: np.ndarray, scale_at: int, offset_at: int | None = None) -> Unpacked:
    """Put together a type with one scale, and perhaps one offset, per block."""
    scale = _half(blocks, scale_at)
    return Unpacked(codes[:, None], scale, _no_offset(scale) if offset_at is None else _half(blocks, offset_at))


def _no_offset(scale: np.ndarray) -> np.ndarray:
    """Return offsets that change nothing: -0, which leaves a -0 what it is."""
    return np.full_like(scale, -0.0)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Return the low halves of all bytes of a row, then the high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _shifted(packed: np.ndarray, width: int, bits: int) -> np.ndarray:
    """Return, for each run of `width` bytes, all lowest fields of `bits` bits, then all next ones; (blocks, -1)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), packed.shape[1] // width, 1, width)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), 8 // bits * packed.shape[1])


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _q5(blocks: np.ndarray, at: int, offset_at: int | None = None) -> Unpacked:
    return _simple(blocks, _nibbles(blocks[:, at + 4 :]) | _fifth_bits(blocks, at), 0, offset_at)


def _by_group(codes: np.ndarray, groups: int) -> np.ndarray:
    return codes.reshape(len(codes), groups, codes.shape[1] // groups)


def _scaled(scale: np.ndarray, factors: np.ndarray, sign: int = 1) -> np.ndarray:
    """Multiply block scales with their groups' factors; Inf times 0 is NaN, as it is for ggml.

    What is subtracted gets its sign by multiplication, which leaves a NaN's as it is.
    """
    with np.errstate(invalid="ignore"):
        return scale * np.float32(sign) * factors.astype(np.float32)


def _q2_k(blocks: np.ndarray) -> Unpacked:
    factors = blocks[:, :16]
    codes = _by_group(_shifted(blocks[:, 16:80], 32, 2), 16)
    return Unpacked(codes, _scaled(_half(blocks, 80), factors & 15), _scaled(_half(blocks, 82), factors >> 4, -1))


def _q3_k(blocks: np.ndarray) -> Unpacked:
    low, high = _nibbles(blocks[:, 96:104]), _shifted(blocks[:, 104:108], 4, 2)
    factors = (low | high << 4).astype(np.int8) - np.int8(32)
    codes = _shifted(blocks[:, 32:96], 32, 2) | _shifted(blocks[:, :32], 32, 1) << np.uint8(2)
    scale = _scaled(_half(blocks, 108), factors)
    return Unpacked(_by_group(codes, 16), scale, _no_offset(scale))


def _q45_k(blocks: np.ndarray, codes: np.ndarray) -> Unpacked:
    """Put together Q4_K or Q5_K, whose scales and offsets share twelve bytes of six-bit factors."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    factors = np.concatenate([first & 63, third & 15 | (first >> 6) << 4], axis=1)
    offsets = np.concatenate([second & 63, third >> 4 | (second >> 6) << 4], axis=1)
    scale, offset = _scaled(_half(blocks, 0), factors), _scaled(_half(blocks, 2), offsets, -1)
    return Unpacked(_by_group(codes, 8), scale, offset)


def _q4_k(blocks: np.ndarray) -> Unpacked:
    return _q45_k(blocks, _shifted(blocks[:, 16:], 32, 4))


def _q5_k(blocks: np.ndarray) -> Unpacked:
    return _q45_k(blocks, _shifted(blocks[:, 48:], 32, 4) | _shifted(blocks[:, 16:48], 32, 1) << np.uint8(4))


def _q6_k(blocks: np.ndarray) -> Unpacked:
    codes = _shifted(blocks[:, :128], 64, 4) | _shifted(blocks[:, 128:192], 32, 2) << np.uint8(4)
    scale = _scaled(_half(blocks, 208), np.ascontiguousarray(blocks[:, 192:208]).view(np.int8))
    return Unpacked(_by_group(codes, 16), scale, _no_offset(scale))


def _trits(packed: np.ndarray, count: int) -> np.ndarray:
    """Return, of a row's bytes, all first ternary digits, then all second ones."""
    powers = np.uint8(3) ** np.arange(count, dtype=np.uint8)[:, None]
    fractions = (packed[:, None] * powers).astype(np.uint16)
    return ((fractions * np.uint16(3)) >> 8).astype(np.uint8).reshape(len(packed), count * packed.shape[1])


def _tq1_0(blocks: np.ndarray) -> Unpacked:
    parts = _trits(blocks[:, :32], 5), _trits(blocks[:, 32:48], 5), _trits(blocks[:, 48:52], 4)
    return _simple(blocks, np.concatenate(parts, axis=1), 52)


@cache
def e8m0_singles() -> np.ndarray:
    """Return half the value of each of the 256 powers of two of E8M0, as F32: levels of FP4 are doubled."""
    exponent = np.arange(256, dtype=np.uint32)
    return np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << 23).astype(np.uint32).view("<f4")


def _mxfp4(blocks: np.ndarray) -> Unpacked:
    scale = e8m0_singles()[blocks[:, :1]]
    return Unpacked(_nibbles(blocks[:, 1:])[:, None], scale, _no_offset(scale))


@cache
def ue4m3_singles() -> np.ndarray:
    """Return half the value of each of the 256 bytes of UE4M3 (the highest bit tells nothing), as F32; 127 is 0."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    singles = np.ldexp(np.where(exponent > 0, 8 + mantissa, mantissa).astype("<f4"), np.maximum(exponent, 1) - 11)
    singles[UE4M3.special] = 0
    return singles


def _nvfp4(blocks: np.ndarray) -> Unpacked:
    scale = ue4m3_singles()[blocks[:, :4]]
    codes = _nibbles(blocks[:, 4:].reshape(-1, 8)).reshape(-1, 4, 16)
    return Unpacked(codes, scale, _no_offset(scale))


_UNPACK: dict[str, Callable[[np.ndarray], Unpacked]] = {
    "Q4_0": lambda blocks: _simple(blocks, _nibbles(blocks[:, 2:]), 0),
    "Q4_1": lambda blocks: _simple(blocks, _nibbles(blocks[:, 4:]), 0, 2),
    "Q5_0": lambda blocks: _q5(blocks, 2),
    "Q5_1": lambda blocks: _q5(blocks, 4, 2),
    "Q8_0": lambda blocks: _simple(blocks, blocks[:, 2:], 0),
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "TQ1_0": _tq1_0,
    "TQ2_0": lambda blocks: _simple(blocks, _shifted(blocks[:, :64], 32, 2), 64),
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
}
