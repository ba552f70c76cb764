"""The NumPy twins of the kernels over block-quantized bytes, and the layouts both follow. No numba import.

A *block* is what ggml stores a run of values in; a *group* is the part of a block that has a scale of its
own: 32 values of Q4_K's 256, 16 of Q6_K's, the whole block where there is only one scale. A *code* is the
unsigned number a value is stored as. Layouts are those of ggml-common.h, as `gguf.quants` unpacks them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MOST_CODES = 32
"""Most values of a group that are looked at one by one: a histogram of distinct codes ends here."""

FACTS = ("dead", "special", "zero", "negative", "usual", "least", "greatest", "exponents", "codes")
"""What a row of facts holds: see `BlockCounts`."""

DEAD, SPECIAL, ZERO, NEGATIVE, USUAL, LEAST, GREATEST, EXPONENTS, CODES = range(len(FACTS))

NO_SCALE = 1 << 16
"""The least scale where no scale is finite and not zero."""

FLOAT_POINT_FOUR = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16)
"""What the codes of FP4 E2M1 stand for, doubled, as ggml keeps them."""


class ScaleFormat(NamedTuple):
    """How to read the bits of a scale: `special` is the least magnitude that is Inf or NaN.

    The magnitude's bits from `shift` on are the exponent, with this `bias`.
    """

    special: int
    shift: int
    bias: int


HALF = ScaleFormat(0x7C00, 10, 15)
E8M0 = ScaleFormat(256, 0, 128)
"""Its patterns count from 1 here, because it has no zero."""

UE4M3 = ScaleFormat(0x7F, 3, 7)


class BlockLayout(NamedTuple):
    """One block type.

    Attributes
    ----------
    values, nbytes, groups : int
        Per block.
    levels : ndarray of int16
        What each code stands for, before it is scaled.
    scale : ScaleFormat
        Of the scale that a block (NVFP4: a group) stores in floating point.
    cell : int
        How many neighbouring codes are counted as one.
    """

    values: int
    nbytes: int
    groups: int
    levels: np.ndarray
    scale: ScaleFormat = HALF
    cell: int = 1


def _levels(count: int, zero: int = 0) -> np.ndarray:
    return np.arange(count, dtype=np.int16) - np.int16(zero)


LAYOUTS = {
    "Q4_0": BlockLayout(32, 18, 1, _levels(16, 8)),
    "Q4_1": BlockLayout(32, 20, 1, _levels(16)),
    "Q5_0": BlockLayout(32, 22, 1, _levels(32, 16)),
    "Q5_1": BlockLayout(32, 24, 1, _levels(32)),
    "Q8_0": BlockLayout(32, 34, 1, np.arange(256).astype(np.uint8).view(np.int8).astype(np.int16), cell=4),
    "Q2_K": BlockLayout(256, 84, 16, _levels(4)),
    "Q3_K": BlockLayout(256, 110, 16, _levels(8, 4)),
    "Q4_K": BlockLayout(256, 144, 8, _levels(16)),
    "Q5_K": BlockLayout(256, 176, 8, _levels(32)),
    "Q6_K": BlockLayout(256, 210, 16, _levels(64, 32)),
    "TQ1_0": BlockLayout(256, 54, 1, _levels(3, 1)),
    "TQ2_0": BlockLayout(256, 66, 1, _levels(4, 1)),
    "MXFP4": BlockLayout(32, 17, 1, FLOAT_POINT_FOUR, E8M0),
    "NVFP4": BlockLayout(64, 36, 4, FLOAT_POINT_FOUR, UE4M3),
}


class Unpacked(NamedTuple):
    """Blocks taken apart: the values are ``scale * levels[codes] + offset``.

    Attributes
    ----------
    codes : ndarray of uint8, shape (blocks, groups, values per group)
    scale, offset : ndarray of float32, shape (blocks, groups)
    stored : ndarray of uint16, shape (blocks, scales)
        Bits of the floating-point scales, as `ScaleFormat` reads them.
    stored_offset : ndarray of uint16, shape (blocks, 1)
        Bits of the FP16 number that offsets are multiples of; 0 where a type has none.
    """

    codes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    stored: np.ndarray
    stored_offset: np.ndarray

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Return the values, float32 of shape (blocks, values)."""
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = self.scale[..., None] * levels[self.codes].astype(np.float32)
            return (scaled + self.offset[..., None]).reshape(len(self.codes), -1)


class BlockCounts(NamedTuple):
    """What `block_counts` finds in each range.

    Attributes
    ----------
    distinct : ndarray of int64, shape (m, MOST_CODES + 1)
        Groups by how many distinct codes (Q8_0: cells of four codes) their values use.
    facts : ndarray of int64, shape (m, len(FACTS))
        Groups that are zero by their scale or codes, without an offset; of the floating-point scales, those
        that are Inf or NaN (or whose offset is), zero, negative, and finite but not zero; of these last, the
        bits of the least and the greatest magnitude (`NO_SCALE` and 0 if none), and the sum of the exponents;
        a mask of the codes (cells) that occur, the lowest in bit 0.
    """

    distinct: np.ndarray
    facts: np.ndarray


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
    """Return the FP16 at byte `at` of each block, as bits; shape (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2")


def _single(bits: np.ndarray) -> np.ndarray:
    return bits.view(np.float16).astype(np.float32)


def _simple(blocks: np.ndarray, codes: np.ndarray, scale_at: int, offset_at: int | None = None) -> Unpacked:
    """Put together a type with one scale, and perhaps one offset, per block."""
    stored = _half(blocks, scale_at)
    scale = _single(stored)
    if offset_at is None:
        return Unpacked(codes[:, None], scale, _no_offset(scale), stored, np.zeros_like(stored))
    stored_offset = _half(blocks, offset_at)
    return Unpacked(codes[:, None], scale, _single(stored_offset), stored, stored_offset)


def _no_offset(scale: np.ndarray) -> np.ndarray:
    """Return offsets that change nothing: -0, which leaves a -0 what it is."""
    return np.full_like(scale, -0.0)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Return the low halves of all bytes of a row, then the high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _shifted(packed: np.ndarray, width: int, bits: int) -> np.ndarray:
    """Return, for each run of `width` bytes, all lowest fields of `bits` bits, then all next ones; (blocks, -1)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, width)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _q5(blocks: np.ndarray, at: int, offset_at: int | None = None) -> Unpacked:
    return _simple(blocks, _nibbles(blocks[:, at + 4 :]) | _fifth_bits(blocks, at), 0, offset_at)


def _by_group(codes: np.ndarray, groups: int) -> np.ndarray:
    return codes.reshape(len(codes), groups, -1)


def _scaled(stored: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply block scales with their groups' factors; Inf times 0 is NaN, as it is for ggml."""
    with np.errstate(invalid="ignore"):
        return _single(stored) * factors.astype(np.float32)


def _q2_k(blocks: np.ndarray) -> Unpacked:
    factors = blocks[:, :16]
    stored, stored_offset = _half(blocks, 80), _half(blocks, 82)
    codes = _by_group(_shifted(blocks[:, 16:80], 32, 2), 16)
    return Unpacked(codes, _scaled(stored, factors & 15), -_scaled(stored_offset, factors >> 4), stored, stored_offset)


def _q3_k(blocks: np.ndarray) -> Unpacked:
    low, high = _nibbles(blocks[:, 96:104]), _shifted(blocks[:, 104:108], 4, 2)
    factors = (low | high << 4).astype(np.int8) - np.int8(32)
    codes = _shifted(blocks[:, 32:96], 32, 2) | _shifted(blocks[:, :32], 32, 1) << np.uint8(2)
    stored = _half(blocks, 108)
    scale = _scaled(stored, factors)
    return Unpacked(_by_group(codes, 16), scale, _no_offset(scale), stored, np.zeros_like(stored))


def _q45_k(blocks: np.ndarray, codes: np.ndarray) -> Unpacked:
    """Put together Q4_K or Q5_K, whose scales and offsets share twelve bytes of six-bit factors."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    factors = np.concatenate([first & 63, third & 15 | (first >> 6) << 4], axis=1)
    offsets = np.concatenate([second & 63, third >> 4 | (second >> 6) << 4], axis=1)
    stored, stored_offset = _half(blocks, 0), _half(blocks, 2)
    scale, offset = _scaled(stored, factors), -_scaled(stored_offset, offsets)
    return Unpacked(_by_group(codes, 8), scale, offset, stored, stored_offset)


def _q4_k(blocks: np.ndarray) -> Unpacked:
    return _q45_k(blocks, _shifted(blocks[:, 16:], 32, 4))


def _q5_k(blocks: np.ndarray) -> Unpacked:
    return _q45_k(blocks, _shifted(blocks[:, 48:], 32, 4) | _shifted(blocks[:, 16:48], 32, 1) << np.uint8(4))


def _q6_k(blocks: np.ndarray) -> Unpacked:
    codes = _shifted(blocks[:, :128], 64, 4) | _shifted(blocks[:, 128:192], 32, 2) << np.uint8(4)
    stored = _half(blocks, 208)
    scale = _scaled(stored, np.ascontiguousarray(blocks[:, 192:208]).view(np.int8))
    return Unpacked(_by_group(codes, 16), scale, _no_offset(scale), stored, np.zeros_like(stored))


def _trits(packed: np.ndarray, count: int) -> np.ndarray:
    """Return, of a row's bytes, all first ternary digits, then all second ones."""
    powers = np.uint8(3) ** np.arange(count, dtype=np.uint8)[:, None]
    fractions = (packed[:, None] * powers).astype(np.uint16)
    return ((fractions * np.uint16(3)) >> 8).astype(np.uint8).reshape(len(packed), -1)


def _tq1_0(blocks: np.ndarray) -> Unpacked:
    parts = _trits(blocks[:, :32], 5), _trits(blocks[:, 32:48], 5), _trits(blocks[:, 48:52], 4)
    return _simple(blocks, np.concatenate(parts, axis=1), 52)


def _mxfp4(blocks: np.ndarray) -> Unpacked:
    exponent = blocks[:, :1].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - np.uint32(1)) << np.uint32(23))
    scale = bits.view(np.float32)
    stored = exponent.astype(np.uint16) + np.uint16(1)
    return Unpacked(_nibbles(blocks[:, 1:])[:, None], scale, _no_offset(scale), stored, np.zeros_like(stored))


def _nvfp4(blocks: np.ndarray) -> Unpacked:
    stored = blocks[:, :4].astype(np.uint16)
    exponent, mantissa = (stored >> 3 & 15).astype(np.int32), (stored & 7).astype(np.float32)
    normal = np.ldexp(np.float32(1) + mantissa / np.float32(8), exponent - 8)
    scale = np.where(exponent == 0, mantissa * np.float32(2**-10), normal).astype(np.float32)
    scale[stored == UE4M3.special] = 0
    codes = _nibbles(blocks[:, 4:].reshape(-1, 8)).reshape(-1, 4, 16)
    return Unpacked(codes, scale, _no_offset(scale), stored & np.uint16(0x7F), np.zeros_like(stored[:, :1]))


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


def block_counts(raw: np.ndarray, starts: np.ndarray, stops: np.ndarray, type: str) -> BlockCounts:
    """Count what the blocks of each range ``raw[start:stop]`` use of their codes and scales.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
    starts, stops : ndarray of int64, shape (m,)
        Each range holds whole blocks.
    type : str
        A key of `LAYOUTS`.

    Returns
    -------
    BlockCounts
    """
    layout = LAYOUTS[type]
    distinct = np.zeros((starts.size, MOST_CODES + 1), np.int64)
    facts = np.zeros((starts.size, len(FACTS)), np.int64)
    facts[:, LEAST] = NO_SCALE
    step = SLICE * layout.nbytes
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        for low in range(start, stop, step):
            counted, found = _counted(unpack(raw[low : min(low + step, stop)], type), layout)
            distinct[row] += counted
            add_facts(facts[row], found)
    return BlockCounts(distinct, facts)


SLICE = 1 << 10
"""Blocks that `block_counts` takes apart at a time."""


def add_facts(into: np.ndarray, more: np.ndarray) -> None:
    """Merge rows of facts, in place; shape (..., len(FACTS))."""
    least = np.minimum(into[..., LEAST], more[..., LEAST])
    greatest = np.maximum(into[..., GREATEST], more[..., GREATEST])
    codes = into[..., CODES] | more[..., CODES]
    into += more
    into[..., LEAST], into[..., GREATEST], into[..., CODES] = least, greatest, codes


def cells(layout: BlockLayout) -> np.ndarray:
    """Return the cell of each code, uint64: the code itself where a cell is one code."""
    if layout.cell == 1:
        return np.arange(layout.levels.size, dtype=np.uint64)
    return ((layout.levels.astype(np.int64) - layout.levels.min()) // layout.cell).astype(np.uint64)


def _counted(parts: Unpacked, layout: BlockLayout) -> tuple[np.ndarray, np.ndarray]:
    groups = parts.codes.reshape(-1, layout.values // layout.groups)
    seen = np.bitwise_or.reduce(np.uint64(1) << cells(layout)[groups], axis=1)
    counts = np.bitwise_count(seen) if hasattr(np, "bitwise_count") else _ones(seen)
    scale = parts.scale.ravel()
    is_zero = (scale == 0) | ((layout.levels[groups] == 0).all(axis=1) & np.isfinite(scale))
    magnitude = parts.stored & np.uint16(0x7FFF)
    special = (magnitude >= layout.scale.special) | ((parts.stored_offset & np.uint16(0x7FFF)) >= HALF.special)
    usual = magnitude[(magnitude < layout.scale.special) & (magnitude > 0)].astype(np.int64)
    facts = np.zeros(len(FACTS), np.int64)
    facts[DEAD] = np.count_nonzero(is_zero & (parts.offset == 0).ravel())
    facts[SPECIAL], facts[ZERO] = np.count_nonzero(special), np.count_nonzero(magnitude == 0)
    facts[NEGATIVE] = np.count_nonzero(parts.stored > np.uint16(0x8000))
    facts[USUAL] = usual.size
    facts[LEAST], facts[GREATEST] = usual.min(initial=NO_SCALE), usual.max(initial=0)
    facts[EXPONENTS] = (usual >> layout.scale.shift).sum()
    facts[CODES] = np.bitwise_or.reduce(seen, initial=np.uint64(0)).view(np.int64)
    return np.bincount(counts.astype(np.int64), minlength=MOST_CODES + 1), facts


def _ones(masks: np.ndarray) -> np.ndarray:
    """Count the bits that are one (NumPy before 2.0 does not)."""
    return np.unpackbits(masks.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
