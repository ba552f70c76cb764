"""Blocks of values -> the coarser block format they were made from, with the odds.

What was quantized twice gives itself away: each block of values lies on the few levels of the first format,
scaled by one number (or by one number and an offset), while values that came straight from the original
fall between them too.

*The null model* is any density that does not rise away from zero (Gaussian, Laplace, uniform, ...). A level's
*run* reaches from the next level nearer to zero, without it, up to the level itself: of the values in a run, at
most the share (values taken as the level) / (values in the run) is taken as the level, because those nearer to
zero are at least as likely. The level around zero has no run and tells nothing; nor does the block's largest
value, nor, with an offset, its least, which fix the scale. A value taken as a level is worth -log2(share) bits.
The product of the inverse shares over the values of a block, 0 where a value is off the levels, has mean at most
1 under the null model; so, by Markov's inequality, values that are all on the levels and are worth B bits come
about with a chance of at most 2^-B. A block may choose among K sets of levels: that costs log2 K bits. With e
exceptions among n blocks, log2 (n over e) bits; with all the formats that are tried, log2 of their number.

What this cannot tell: Q8_0 made from Q8_0 (the codes are the same) or from formats whose levels are uneven (IQ4_NL
and the other IQ types), which are called direct as far as can be told; and what a tensor of a K type, of Q4_1,
Q5_1, MXFP4 or NVFP4 was made from, because their levels have room for none but their own: ambiguous.
"""

from __future__ import annotations

from math import comb, log2
from typing import NamedTuple

import numpy as np

from truebits.precision.origin import ODDS_WANTED, Origin
from truebits_native.codes import unpack
from truebits_native.types import LAYOUTS

SHARE_WANTED = 0.999
"""Of the blocks, at least so many have to lie on the levels."""

RUNS, RUN_BLOCKS = 64, 32
"""A verdict looks at so many runs of so many blocks, at equal distances, first to last; at all if there are fewer."""

FIRST_LOOK = 64
"""A format that explains less than half of about so many blocks, at equal distances, is given up."""

EIGHTHS_BLOCKS = 4
"""Blocks of 32 that are taken to share the scale of FP8 values: 128 of a row, as in blocks of 128 x 128."""

LEAST_EIGHTHS = 5
"""Of the eight significands of E4M3, as many have to occur: fewer are those of a block format."""

CODE_SLACK = 0.04
"""A level that falls between two codes, within this, may have become either: F16 on the way moves it so far."""

FP4_STEPS = np.array([0, 1, 2, 3, 4, 6, 8, 12])


class Levels(NamedTuple):
    """A format's levels: for each way a block may use them, the multiples of a unit, ascending from 0.

    Attributes
    ----------
    name : str
    choices : tuple of ndarray of int
        The last multiple is that of the block's largest value (with an offset: of the distance from its
        least to its largest).
    size : int
        Values that share a scale.
    has_offset : bool
    """

    name: str
    choices: tuple[np.ndarray, ...]
    size: int = 32
    has_offset: bool = False


def _even(first: int, last: int) -> tuple[np.ndarray, ...]:
    return tuple(np.arange(most + 1) for most in range(first, last + 1))


FP4 = tuple(FP4_STEPS[: most + 1] for most in range(1, FP4_STEPS.size))

LEVELS = (
    Levels("ternary", _even(1, 1)),
    Levels("q4_0", _even(2, 8)),
    Levels("mxfp4", FP4),
    Levels("q5_0", _even(9, 16)),
    Levels("q2_k", _even(1, 3), size=16, has_offset=True),
    Levels("q3_k", _even(1, 4), size=16),
    Levels("nvfp4", FP4, size=16),
    Levels("q4_1 or q4_k", _even(1, 15), has_offset=True),
    Levels("q5_1 or q5_k", _even(16, 31), has_offset=True),
    Levels("q6_k", _even(5, 32), size=16),
    Levels("q8_0", _even(127, 127)),
)
"""From the fewest levels to the most: the first that explains the blocks is the verdict."""

LARGEST = {"Q8_0": 127, "Q5_0": 16, "Q4_0": 8}
"""Magnitude of the code that a block's largest value gets."""


class Evidence(NamedTuple):
    """How blocks agree with levels: which of them do, and what that is worth in bits."""

    agrees: np.ndarray
    bits: np.ndarray


def sample(blocks: int) -> np.ndarray:
    """Return which of so many blocks a verdict looks at: `RUNS` runs at equal distances, or all."""
    if blocks <= RUNS * RUN_BLOCKS:
        return np.arange(blocks)
    firsts = np.linspace(0, blocks - RUN_BLOCKS, RUNS).astype(np.int64) // EIGHTHS_BLOCKS * EIGHTHS_BLOCKS
    return (firsts[:, None] + np.arange(RUN_BLOCKS)).ravel()


def judge_blocks(raw: np.ndarray, type: str) -> Origin:
    """Tell what blocks of a block type were made from.

    Parameters
    ----------
    raw : ndarray of uint8, shape (n,)
        Whole blocks; `sample` says which of a tensor.
    type : str
        ggml's name of a block type.

    Returns
    -------
    Origin
        ``direct``, the name of a coarser format, ``constant``, or ``ambiguous``.
    """
    if type not in LARGEST:
        return Origin("ambiguous", 0.0, f"what a {type} tensor was made from cannot be told from its codes")
    parts, layout = unpack(raw, type), LAYOUTS[type]
    codes = layout.levels[parts.codes[:, 0]].astype(np.float64)
    codes = codes[np.isfinite(parts.scale[:, 0]) & (parts.scale[:, 0] != 0)]
    largest = LARGEST[type]
    if largest < 127:  # the largest value has the code -8 or -16; its opposite is cut to 7 or 15
        codes[codes == largest - 1] = largest
    slack = 0.5 + CODE_SLACK
    coarser = [levels for levels in LEVELS if _is_coarser(levels, largest)]
    return _judged(codes, np.ones_like(codes), slack, coarser, f"codes of {type}")


def _is_coarser(levels: Levels, largest: int) -> bool:
    """Tell whether a block type with codes up to `largest` has room for codes between the levels."""
    if levels.has_offset or levels.size < 32:
        return largest == 127
    return 2 * max(int(choice[-1]) for choice in levels.choices) <= largest


def judge_values(values: np.ndarray, mantissa_bits: int, row: int) -> Origin:
    """Tell what floating-point values were dequantized from.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (blocks, 32)
        Runs of neighbouring values of a matrix's rows; `sample` says which.
    mantissa_bits : int
        Of the type they are stored in: 23, 10 or 7.
    row : int
        Length of the matrix's rows. Where it is a multiple of 128, FP8 with a scale for each 128 is looked for.

    Returns
    -------
    Origin
        ``direct``, the name of a block format, ``scaled fp8_e4m3fn``, ``constant``, or ``ambiguous``.
    """
    values = values.astype(np.float64)
    blocks = values[np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)]
    _, exponents = np.frexp(blocks)
    found = _judged(blocks, np.ldexp(1.0, exponents - 1 - mantissa_bits), 1.6, list(LEVELS), "values")
    if found.format == "direct" and row % (32 * EIGHTHS_BLOCKS) == 0 and len(values) % EIGHTHS_BLOCKS == 0:
        scaled = _scaled_fp8(values.reshape(-1, 32 * EIGHTHS_BLOCKS), mantissa_bits)
        return scaled or found
    return found


def _scaled_fp8(runs: np.ndarray, mantissa_bits: int) -> Origin | None:
    """Judge runs of values that may be E4M3 times one scale: eight significands, at even distances.

    The significand of a run's largest value is one of the eight; which, costs three bits.
    """
    runs = np.abs(runs[np.isfinite(runs).all(axis=1) & (runs != 0).any(axis=1)])
    largest = runs.argmax(axis=1)[:, None]
    ulp = 2.0**-mantissa_bits
    best: np.ndarray = np.full(len(runs), -np.inf)
    eighths = np.zeros(len(runs), np.int64)
    for eighth in range(8):
        scale = np.take_along_axis(runs, largest, axis=1) / (8 + eighth)
        significands = 2 * np.frexp(np.where(runs > 0, runs / scale, 1.0))[0]
        level = np.rint(8 * significands) / 8
        slack = 1.1 * ulp * level
        worth = np.where(np.abs(significands - level) <= slack, -np.log2(8 * (2 * slack + ulp * level)), -np.inf)
        worth = np.where(np.isfinite(worth), np.maximum(worth, 0.0), worth)
        worth[runs == 0] = 0.0
        np.put_along_axis(worth, largest, 0.0, axis=1)
        bits = worth.sum(axis=1)
        used = np.bitwise_or.reduce(np.left_shift(1, (8 * level).astype(np.int64) % 8), axis=1)
        eighths = np.where(bits > best, used, eighths)
        best = np.maximum(best, bits)
    many = np.array([mask.bit_count() >= LEAST_EIGHTHS for mask in eighths.tolist()], bool)
    agrees = np.isfinite(best) & many
    if not agrees.size or np.count_nonzero(agrees) < SHARE_WANTED * agrees.size:
        return None
    bits = float((best[agrees] - 3).sum()) - log2(comb(agrees.size, int(np.count_nonzero(agrees))))
    if bits <= -log2(ODDS_WANTED):
        return None
    share = f"{np.count_nonzero(agrees):,} of {agrees.size:,} runs of {runs.shape[1]} values looked at"
    reason = f"{share} have only the eight significands of E4M3 times one scale, by chance once in 2^{int(bits):,}"
    return Origin("scaled fp8_e4m3fn", 1 - 2.0**-bits, reason)


def _judged(values: np.ndarray, ulps: np.ndarray, slack: float, candidates: list[Levels], what: str) -> Origin:
    """Try one set of levels after the other; `slack` is in ulps."""
    magnitudes = np.abs(values)
    if not values.size:
        return Origin("ambiguous", 0.0, "every block is zero or has no finite scale")
    if (magnitudes == magnitudes.max(axis=1, keepdims=True)).all():
        return Origin("constant", 1.0, f"each of {len(values):,} blocks has one magnitude only")
    unclear, every = None, max(1, len(values) // FIRST_LOOK)
    for levels in candidates:
        first = evidence(values[::every], ulps[::every], slack, levels)
        if 2 * np.count_nonzero(first.agrees) < first.agrees.size:
            continue
        found = evidence(values, ulps, slack, levels)
        blocks, agreeing = found.agrees.size, int(np.count_nonzero(found.agrees))
        if agreeing < SHARE_WANTED * blocks:
            continue
        bits = float(found.bits[found.agrees].sum())
        bits -= log2(comb(blocks, agreeing)) + log2(len(candidates))
        share = f"{agreeing:,} of {blocks:,} blocks looked at have only levels of {levels.name.upper()}"
        if bits > -log2(ODDS_WANTED):
            return Origin(levels.name, 1 - 2.0**-bits, f"{share}, by chance once in 2^{int(bits):,}")
        unclear = unclear or f"{share}, but too few {what} could tell"
    if unclear:
        return Origin("ambiguous", 0.0, unclear)
    return Origin("direct", 1.0, f"the {what} of {len(values):,} blocks looked at are on no coarser format's levels")


def evidence(values: np.ndarray, ulps: np.ndarray, slack: float, levels: Levels) -> Evidence:
    """Hold blocks against a format's levels.

    Parameters
    ----------
    values, ulps : ndarray of float64, shape (blocks, 32)
        Values, and the distance from each to its neighbours in the type that stores them.
    slack : float
        How far off a level a value may be, in ulps.
    levels : Levels

    Returns
    -------
    Evidence
        Per block; bits are those of the best choice, less what choosing costs.
    """
    blocks = len(values)
    pieces = values.reshape(-1, levels.size)
    units = ulps.reshape(-1, levels.size)
    best: np.ndarray = np.full(len(pieces), -np.inf)
    for choice in levels.choices:
        bits = _bits_with_offset if levels.has_offset else _bits
        best = np.maximum(best, bits(pieces, units, slack, choice))
    best = (best - log2(len(levels.choices))).reshape(blocks, -1)
    if levels.size < 32 and not levels.has_offset:
        # A piece without the block's largest value may have been rounded when the codes were made: its scale is unsure.
        tops = np.abs(pieces).max(axis=1).reshape(blocks, -1)
        best = np.where(tops == tops.max(axis=1, keepdims=True), best, -np.inf).max(axis=1, keepdims=True) - 1
    agrees = np.isfinite(best.min(axis=1))
    return Evidence(agrees, np.where(agrees[:, None], best, 0.0).sum(axis=1))


def _bits(pieces: np.ndarray, ulps: np.ndarray, slack: float, choice: np.ndarray) -> np.ndarray:
    """Return what each piece is worth if its values are multiples of one unit, minus infinity if not."""
    magnitudes = np.abs(pieces)
    largest = magnitudes.max(axis=1, keepdims=True)
    unit = np.where(largest > 0, largest, 1.0) / choice[-1]
    index = np.searchsorted((choice[1:] + choice[:-1]) / 2, magnitudes / unit)
    level, below = choice[index] * unit, choice[np.maximum(index - 1, 0)] * unit
    worth = _worth(magnitudes, level, below, slack * ulps, ulps)
    worth[(index == 0) & np.isfinite(worth)] = 0.0
    np.put_along_axis(worth, magnitudes.argmax(axis=1)[:, None], 0.0, axis=1)
    return worth.sum(axis=1)


def _bits_with_offset(pieces: np.ndarray, ulps: np.ndarray, slack: float, choice: np.ndarray) -> np.ndarray:
    """Return what each piece is worth if its values are at even distances, minus infinity if not."""
    least, largest = pieces.min(axis=1, keepdims=True), pieces.max(axis=1, keepdims=True)
    spacing = np.where(largest > least, largest - least, 1.0) / choice[-1]
    level = least + np.rint((pieces - least) / spacing) * spacing
    coarsest, far = ulps.max(axis=1, keepdims=True), np.abs(level)
    worth = _worth(np.sign(level) * pieces, far, far - spacing, (slack + 0.5) * coarsest, ulps)
    worth[(far < spacing) & np.isfinite(worth)] = 0.0
    for place in (pieces.argmax(axis=1), pieces.argmin(axis=1)):
        np.put_along_axis(worth, place[:, None], 0.0, axis=1)
    return worth.sum(axis=1)


def _worth(values: np.ndarray, level: np.ndarray, below: np.ndarray, slack: np.ndarray, ulps: np.ndarray) -> np.ndarray:
    """Return the bits of each value: minus log2 of its level's share in the run; minus infinity off the level."""
    last = np.floor((level + slack) / ulps)
    taken = np.maximum(last - np.ceil((level - slack) / ulps) + 1, 1)
    run = np.maximum(last - np.floor((below + slack) / ulps), taken)
    return np.where(np.abs(values - level) <= slack, np.log2(run / taken), -np.inf)
