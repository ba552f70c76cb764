"""Values or codes -> the coarser format they were made from, with the odds.

What was quantized twice gives itself away. Each block of values lies on the few levels of the first format, scaled
by one number, or by one number and an offset (`truebits.precision.levels`); or each run of values, along a row or
along a column, has only so many different ones (`truebits.precision.codebooks`); values that came straight from
the original fall between the levels too. With e exceptions among n blocks, log2 (n over e) bits are taken off the
evidence; with all the formats that are tried, log2 of their number.

The null model's grid has as many mantissa bits as the values make use of: values that are coarse anyhow, as FP4
with a scale in another direction, are on many lattices and prove none.

What this cannot tell: Q8_0 made from Q8_0 (the codes are the same); and what a tensor of a K type, of Q4_1, Q5_1,
MXFP4 or NVFP4 was made from, because their levels have room for none but their own: ambiguous. ``direct`` says
that all of this was tried, and that there is no sign of any.
"""

from __future__ import annotations

from math import comb, log2

import numpy as np

from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.codebooks import CODEBOOK_SIZES, SIZES, Codebook, find_codebook, name_of
from truebits.precision.levels import LATTICES, Levels, agreement
from truebits.precision.origin import BITS_WANTED, ODDS_WANTED, Origin
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

VALUE_SLACK = 1.6
"""In steps of the type that stores them: how far off its level a value may be."""

CODE_SLACK = 0.04
"""A level that falls between two codes, within this, may have become either: F16 on the way moves it so far."""

BF16_CODE_SLACK = 0.5
"""BF16 on the way moves it so far: a level by a quarter, and the largest, of 127, that gives the unit, too."""

FAR_APART = 35
"""Formats of no more levels have them at least 7 of Q8_0's codes apart."""

FLOATING = ("ternary", "mxfp4", "nvfp4")
"""Formats whose own values are coarse: to them the grid of coarse values is no other explanation."""

LARGEST = {"Q8_0": 127, "Q5_0": 16, "Q4_0": 8}
"""Magnitude of the code that a block's largest value gets."""


def sample(blocks: int) -> np.ndarray:
    """Return which of so many blocks a verdict looks at: `RUNS` runs at equal distances, or all."""
    return np.concatenate([np.arange(0), *(np.arange(first, stop) for first, stop in sample_runs(blocks))])


def sample_runs(blocks: int) -> list[tuple[int, int]]:
    """Return the first block of each run that `sample` names, and the one after its last."""
    if blocks <= RUNS * RUN_BLOCKS:
        return [(0, blocks)] if blocks else []
    firsts = np.linspace(0, blocks - RUN_BLOCKS, RUNS).astype(np.int64) // EIGHTHS_BLOCKS * EIGHTHS_BLOCKS
    return [(first, first + RUN_BLOCKS) for first in firsts.tolist()]


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
    coarser = [levels for levels in LATTICES if _is_coarser(levels, largest)]
    ones, what = np.ones_like(codes), f"codes of {type}"
    found = _judged(codes, ones, ones, 0.5 + CODE_SLACK, coarser, what)
    if found.format in ("constant", "ternary"):
        return found
    if largest == 127 and codes.size:
        names = [levels.name for levels in coarser]
        before = coarser[: names.index(found.format)] if found.format in names else coarser
        far = [levels for levels in before if levels.most <= FAR_APART and levels.size == 32]
        wide = _judged(codes, ones, ones, 0.5 + BF16_CODE_SLACK, far, what)
        found = wide if wide.format in names else found
        return _finer(found, find_codebook(codes, ones, (32,)), codes, ones, what)
    return found


def _is_coarser(levels: Levels, largest: int) -> bool:
    """Tell whether a block type with codes up to `largest` has room for codes between the levels."""
    if levels.size > 32:
        return False
    if levels.has_offset or levels.size < 32:
        return largest == 127
    return 2 * max(int(choice[-1]) for choice in levels.choices) <= largest


def judge_values(values: np.ndarray, type: str, row: int) -> Origin:
    """Tell what floating-point values were dequantized from.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (blocks, 32)
        Runs of neighbouring values of a matrix's rows, or of its columns; `sample` says which.
    type : {"F32", "F16", "BF16"}
        The type that stores them.
    row : int
        How many values follow each other in a row (or column); what shares a scale divides it.

    Returns
    -------
    Origin
        ``direct``, the name of a format, ``scaled fp8_e4m3fn``, ``constant``, or ``ambiguous``.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = values.astype(np.float64)
    sizes = tuple(size for size in SIZES if row % size == 0 and values.size % size == 0)
    longest = sizes[0] if sizes else 32
    runs = values.reshape(-1, longest)
    runs = runs[np.isfinite(runs).all(axis=1) & (runs != 0).any(axis=1)]
    blocks = runs.reshape(-1, 32)
    blocks = blocks[(blocks != 0).any(axis=1)]
    used = min(_bits_in_use(runs), FLOAT_LAYOUTS[type].mantissa_bits)
    if _is_table(blocks):
        return Origin("ambiguous", 0.0, "neighbours rise or fall throughout: positions or another table, no weights")
    candidates = [levels for levels in LATTICES if levels.size <= longest]
    found = _of_values(blocks, runs, type, used, candidates, exact=True)
    if found.format == "direct" and used < FLOAT_LAYOUTS[type].mantissa_bits:
        found = _of_values(blocks, runs, type, used, candidates, exact=False)
    if found.format in ("constant", "ternary"):
        return found
    book = find_codebook(runs, _steps(runs, type, used), sizes) if runs.size else None
    found = _finer(found, book, runs, 2 * _steps(runs, type, used), "values")
    if found.format in ("direct", "ambiguous") and row % (32 * EIGHTHS_BLOCKS) == 0 and longest == 128:
        return _scaled_fp8(runs, type) or found
    return found


def _is_table(blocks: np.ndarray) -> bool:
    """Tell whether all blocks rise or fall, as no weights do: at even distances they are on any format's levels."""
    distances = np.diff(blocks, axis=1)
    in_order = (distances >= 0).all(axis=1) | (distances <= 0).all(axis=1)
    return bool(distances.any() and np.count_nonzero(in_order) >= SHARE_WANTED * in_order.size)


def _of_values(
    blocks: np.ndarray, runs: np.ndarray, type: str, used: int, candidates: list[Levels], exact: bool
) -> Origin:
    """Judge values whose type is as fine as they are, or finer: then they are exact, or were rounded before."""
    grid, stored = _steps(blocks, type, used), _steps(blocks, type, FLOAT_LAYOUTS[type].mantissa_bits)
    small = [levels for levels in candidates if levels.size <= 32]
    found = _judged(blocks, grid, stored if exact else grid, VALUE_SLACK, small, "values")
    large = [levels for levels in candidates if levels.size > 32]
    if found.format == "direct" and large:
        grid, stored = _steps(runs, type, used), _steps(runs, type, FLOAT_LAYOUTS[type].mantissa_bits)
        wide = _judged(runs, grid, stored if exact else grid, VALUE_SLACK, large, "values")
        return wide if wide.format == "int8" else found
    return found


def _steps(values: np.ndarray, type: str, mantissa_bits: int) -> np.ndarray:
    """Return the distance from each value to its neighbours, with so many mantissa bits, in the range of a type."""
    least = 1 - FLOAT_LAYOUTS[type].bias
    exponents = np.where(values != 0, np.frexp(values)[1] - 1, least)
    return np.ldexp(1.0, np.maximum(exponents, least) - mantissa_bits)


def _bits_in_use(values: np.ndarray) -> int:
    """Return how many mantissa bits hold nearly all values."""
    if not values.size:
        return 0
    words = np.abs(np.frexp(values[values != 0])[0] * 2.0**53).astype(np.int64)
    zeros = np.log2((words & -words).astype(np.float64)).astype(np.int64)
    return int(np.quantile(52 - zeros, SHARE_WANTED, method="higher")) if zeros.size else 0


def _finer(found: Origin, book: Codebook | None, values: np.ndarray, slack: np.ndarray, what: str) -> Origin:
    """Choose between a lattice and a codebook: that with fewer levels, in larger runs, tells more."""
    if book is None:
        return found
    levels = {levels.name: levels for levels in LATTICES}.get(found.format)
    is_small = levels is not None and levels.most <= book.levels + 1
    if is_small and (book.size <= 32 or found.format in ("mxfp4", "nvfp4")):
        return found
    tried = log2(len(SIZES) * len(CODEBOOK_SIZES)) + log2(comb(book.runs, book.agreeing))
    bits = book.bits - tried
    share = (
        f"{book.agreeing:,} of {book.runs:,} runs of {book.size} {what} looked at have at most {book.levels} different"
    )
    if bits <= BITS_WANTED:
        if found.format != "direct":
            return found
        return Origin("ambiguous", 0.0, f"{share}, but too few to tell whether that is chance")
    name = name_of(book, values, slack)
    return Origin(name, 1 - 2.0**-bits, f"{share}, by chance once in 2^{int(bits):,}")


def _scaled_fp8(runs: np.ndarray, type: str) -> Origin | None:
    """Judge runs of values that may be E4M3 times one scale: eight significands, at even distances.

    The significand of a run's largest value is one of the eight; which, costs three bits.
    """
    first = runs[:: max(1, len(runs) // FIRST_LOOK)]
    if first.size < runs.size and _scaled_fp8(first, type) is None:
        return None
    runs = np.abs(runs)
    largest = runs.argmax(axis=1)[:, None]
    step = _steps(runs, type, FLOAT_LAYOUTS[type].mantissa_bits)
    best: np.ndarray = np.full(len(runs), -np.inf)
    eighths = np.zeros(len(runs), np.int64)
    for eighth in range(8):
        scale = np.take_along_axis(runs, largest, axis=1) / (8 + eighth)
        significands, exponents = np.frexp(np.where(runs > 0, runs / scale, 1.0))
        level = np.rint(16 * significands) / 8
        ulp = step / np.ldexp(scale, exponents - 1)
        slack = 1.1 * np.maximum(ulp, 2.0 ** -FLOAT_LAYOUTS[type].mantissa_bits * level)
        worth = np.where(np.abs(2 * significands - level) <= slack, -np.log2(8 * (2 * slack + ulp)), -np.inf)
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
    total = float((best[agrees] - 3).sum()) - log2(comb(agrees.size, int(np.count_nonzero(agrees))))
    if total <= BITS_WANTED:
        return None
    share = f"{np.count_nonzero(agrees):,} of {agrees.size:,} runs of {runs.shape[1]} values looked at"
    reason = f"{share} have only the eight significands of E4M3 times one scale, by chance once in 2^{int(total):,}"
    return Origin("scaled fp8_e4m3fn", 1 - 2.0**-total, reason)


def _judged(
    values: np.ndarray, ulps: np.ndarray, rounding: np.ndarray, slack: float, candidates: list[Levels], what: str
) -> Origin:
    """Try one set of levels after the other; `slack` is in steps of `rounding`."""
    magnitudes = np.abs(values)
    if not values.size:
        return Origin("ambiguous", 0.0, "every block is zero or has no finite scale")
    if (magnitudes == magnitudes.max(axis=1, keepdims=True)).all():
        return Origin("constant", 1.0, f"each of {len(values):,} blocks has one magnitude only")
    unclear, every = None, max(1, values.size // (FIRST_LOOK * 32))
    for levels in candidates:
        grid = rounding if levels.name in FLOATING else ulps
        first = agreement(values[::every], grid[::every], slack, levels, rounding[::every])
        if 2 * np.count_nonzero(first.agrees) < first.agrees.size:
            continue
        found = agreement(values, grid, slack, levels, rounding)
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
    looked = f"the {what} of {len(values):,} blocks looked at are on no coarser format's levels"
    return Origin("direct", 1.0, f"no sign of a coarser quantization: {looked}")
