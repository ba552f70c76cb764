"""Blocks of values against the levels of block formats, and what it is worth that they are on them.

*The null model* is any density that does not rise away from zero (Gaussian, Laplace, uniform, ...). A level's
*run* reaches from the next level nearer to zero, without it, up to the level itself: of the values in a run, at
most the share (values taken as the level) / (values in the run) is taken as the level, because those nearer to
zero are at least as likely. The level around zero has no run and tells nothing; nor does the block's largest
value, nor, with an offset, its least, which fix the scale. A value taken as a level is worth -log2(share) bits.
The product of the inverse shares over the values of a block, 0 where a value is off the levels, has mean at most
1 under the null model; so, by Markov's inequality, values that are all on the levels and are worth B bits come
about with a chance of at most 2^-B. A block may choose among K sets of levels: that costs log2 K bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import numpy as np

from truebits_native.types import FLOAT_POINT_FOUR

IQ2, IQ3_S, IQ3_XXS = (8, 25, 43), tuple(range(1, 16, 2)), (4, 12, 20, 28, 36, 44, 52, 62)
"""Magnitudes of ``iq2xxs_grid``, ``iq3s_grid`` and ``iq3xxs_grid`` in ggml-common.h; zero is none of them."""


class Levels(NamedTuple):
    """A format's levels: for each way a block may use them, the multiples of a unit, ascending from 0.

    Attributes
    ----------
    name : str
    choices : tuple of ndarray of int
        The last multiple is that of the block's largest value (with an offset: of the distance from its
        least to its largest).
    size : int
        Values that share a scale; of int8, whose scale is a row's or a tensor's, enough of them to find it.
    has_offset : bool
    """

    name: str
    choices: tuple[np.ndarray, ...]
    size: int = 32
    has_offset: bool = False

    @property
    def most(self) -> int:
        """Levels that a block can use, both signs and zero."""
        steps = max(choice.size for choice in self.choices)
        return steps if self.has_offset else 2 * steps - 1


def _even(first: int, last: int) -> tuple[np.ndarray, ...]:
    return tuple(np.arange(most + 1) for most in range(first, last + 1))


def _of(magnitudes: Sequence[int], fewest: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([0, *magnitudes[:count]]) for count in range(fewest, len(magnitudes) + 1))


FP4 = _of(FLOAT_POINT_FOUR[1:8].tolist(), 1)

LATTICES = (
    Levels("ternary", _even(1, 1)),
    Levels("q4_0", _even(2, 8)),
    Levels("mxfp4", FP4),
    Levels("iq2", _of(IQ2, 3)),
    Levels("iq3_s", _of(IQ3_S, 3)),
    Levels("iq3_xxs", _of(IQ3_XXS, 3)),
    Levels("q5_0", _even(9, 16)),
    Levels("q2_k", _even(1, 3), size=16, has_offset=True),
    Levels("q3_k", _even(1, 4), size=16),
    Levels("nvfp4", FP4, size=16),
    Levels("q4_1 or q4_k", _even(1, 15), has_offset=True),
    Levels("q5_1 or q5_k", _even(16, 31), has_offset=True),
    Levels("q6_k", _even(5, 32), size=16),
    Levels("q8_0", _even(127, 127)),
    Levels("int8", _even(32, 127), size=128),
)
"""From the fewest levels to the most: the first that explains the blocks is the verdict."""


class Agreement(NamedTuple):
    """How blocks agree with levels: which of them do, and what that is worth in bits."""

    agrees: np.ndarray
    bits: np.ndarray


def agreement(
    values: np.ndarray, ulps: np.ndarray, slack: float, levels: Levels, rounding: np.ndarray | None = None
) -> Agreement:
    """Hold blocks against a format's levels.

    Parameters
    ----------
    values, ulps : ndarray of float64, shape (blocks, n)
        Values, and the distance from each to its neighbours among all values that the null model has there.
    slack : float
        How far off a level a value may be, in units of `rounding`.
    levels : Levels
    rounding : ndarray of float64, shape (blocks, n), optional
        The step that values were rounded to; `ulps` if not given.

    Returns
    -------
    Agreement
        Per block; bits are those of the best choice, less what choosing costs.
    """
    blocks, size = values.shape
    pieces = values.reshape(-1, levels.size)
    units = ulps.reshape(-1, levels.size)
    steps = units if rounding is None else rounding.reshape(-1, levels.size)
    best: np.ndarray = np.full(len(pieces), -np.inf)
    for choice in levels.choices:
        bits = _bits_with_offset if levels.has_offset else _bits
        best = np.maximum(best, bits(pieces, units, slack, steps, choice))
    best = (best - log2(len(levels.choices))).reshape(blocks, size // levels.size)
    if levels.size < 32 and not levels.has_offset:
        # A piece without the block's largest value may have been rounded when the codes were made: its scale is unsure.
        tops = np.abs(pieces).max(axis=1).reshape(best.shape)
        best = np.where(tops == tops.max(axis=1, keepdims=True), best, -np.inf).max(axis=1, keepdims=True) - 1
    agrees = np.isfinite(best.min(axis=1))
    return Agreement(agrees, np.where(agrees[:, None], best, 0.0).sum(axis=1))


def _bits(pieces: np.ndarray, ulps: np.ndarray, slack: float, steps: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Return what each piece is worth if its values are multiples of one unit, minus infinity if not."""
    magnitudes = np.abs(pieces)
    largest = magnitudes.max(axis=1, keepdims=True)
    unit = np.where(largest > 0, largest, 1.0) / choice[-1]
    if choice[-1] == choice.size - 1:
        index = np.rint(magnitudes / unit).astype(np.int64)
    else:
        index = np.searchsorted((choice[1:] + choice[:-1]) / 2, magnitudes / unit)
    level, below = choice[index] * unit, choice[np.maximum(index - 1, 0)] * unit
    worth = _worth(magnitudes, level, below, slack * steps, ulps)
    worth[(index == 0) & np.isfinite(worth)] = 0.0
    np.put_along_axis(worth, magnitudes.argmax(axis=1)[:, None], 0.0, axis=1)
    return worth.sum(axis=1)


def _bits_with_offset(
    pieces: np.ndarray, ulps: np.ndarray, slack: float, steps: np.ndarray, choice: np.ndarray
) -> np.ndarray:
    """Return what each piece is worth if its values are at even distances, minus infinity if not."""
    least, largest = pieces.min(axis=1, keepdims=True), pieces.max(axis=1, keepdims=True)
    spacing = np.where(largest > least, largest - least, 1.0) / choice[-1]
    level = least + np.rint((pieces - least) / spacing) * spacing
    coarsest, far = steps.max(axis=1, keepdims=True), np.abs(level)
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
