"""A tensor of quantized blocks against its source: by its bytes, its error, and each of its codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from truebits.comparing.sides import QuantizedSide
from truebits.lineage.block_error import BOUNDS, BlockErrors
from truebits.lineage.cells import TYPES
from truebits.lineage.comparison import Comparison, Outcome
from truebits.lineage.detours import Detour, casts, requantizations
from truebits.lineage.nearest_code import NearestCodes
from truebits.lineage.requantize import Requantized
from truebits.lineage.ways import Verdict, same

FIRST_VALUES = 1 << 14
"""Requantized before more are."""


@dataclass
class Look:
    """What one pass over a tensor tells, its source taken by some detour.

    Attributes
    ----------
    again : Requantized
    errors : BlockErrors
    nearest : NearestCodes or None
        None for types whose codes are not looked at.
    """

    again: Requantized
    errors: BlockErrors
    nearest: NearestCodes | None

    @property
    def is_same(self) -> bool:
        """All bytes are the reference quantizer's."""
        return self.again.is_same and self.again.is_whole

    @property
    def problem(self) -> str | None:
        """Say why the blocks cannot be the source's; None if they can."""
        if self.errors.beyond:
            return "beyond what its blocks can be off"
        if self.code_problem or self.again.problem:
            return self.code_problem or self.again.problem
        if not self.errors.is_consistent:
            most = self.errors.bound.rms
            return f"relative error {self.errors.rms:.3g}, {self.again.type} makes at most {most}"
        return None

    @property
    def code_problem(self) -> str | None:
        """Say that codes are not the nearest, unless it is told better that blocks are not the reference's."""
        if self.nearest is None or (self.nearest.codes.not_nearest and (self.again.is_same or self.again.problem)):
            return None
        return self.nearest.problem

    @property
    def first_wrong(self) -> int:
        """Return the first value that shows the problem."""
        if self.errors.beyond:
            return self.errors.first_beyond or 0
        at = self.nearest.first_wrong if self.nearest and self.code_problem else self.again.first_wrong
        return at or 0

    @property
    def differing(self) -> int:
        """Count the values that are wrong, or in blocks that are."""
        wrong = self.nearest.wrong if self.nearest and self.code_problem else 0
        blocks = self.again.blocks - self.again.equal
        return self.errors.beyond or wrong or blocks * self.errors.block or self.errors.values


def judge_blocks(of: Comparison) -> Outcome:
    """Judge a tensor of blocks."""
    if all(_is_identical(of, *span) for span in of.expected.spans(of.side.block[0])):
        return Outcome(Verdict.IDENTICAL)
    if of.type not in BOUNDS:
        return Outcome(Verdict.UNCOMPARED, f"{of.type} is not a type whose error is known")
    direct = _looked(of)
    found = direct
    if not direct.is_same:
        others = [direct, *(_looked(of, detour) for detour in casts(of))]
        good = [look for look in others if look.problem is None]
        found = max(good or [direct], key=lambda look: look.again.equal)
    if found.is_same:
        return Outcome(Verdict.SAME_BLOCKS, found.again.told, error=direct.errors.rms)
    if found.problem is None:
        return Outcome(Verdict.CONSISTENT, found.again.described, error=direct.errors.rms)
    detail = _history(of, direct) or found.problem
    return Outcome(Verdict.ALTERED, detail, 0, direct.differing, of.place_at(direct.first_wrong), direct.errors.rms)


def _is_identical(of: Comparison, first: int, count: int) -> bool:
    """Tell whether blocks and source mean the same values: those of a source in blocks itself."""
    if not isinstance(of.expected.readers[0], QuantizedSide):
        return False
    stored, values = of.words(first, count), of.values(first, count)
    return bool(((stored.view("<f4") == values) | same(stored, values.view("<u4"))).all())  # ggml's FP4 has one zero


def _looked(of: Comparison, through: Detour | None = None, is_ordered: bool = True, most: int | None = None) -> Look:
    """Go through the tensor once; through `most` of its values, whole blocks, if that is given."""
    block, _ = of.side.block
    nearest = NearestCodes(of.type) if of.type in TYPES else None
    look = Look(Requantized(of, through), BlockErrors(of.type, block), nearest)
    for first, count in of.expected.spans(lcm(block, through.block if through else 1)):
        some = count if most is None else min(count, most - first)
        if some <= 0:
            break
        values = of.values(first, count, is_ordered)[:some]
        before = values if through is None else through.apply(values)
        stored = of.words(first, some).view("<f4")
        look.errors.add(stored, before, first)
        look.again.add(first, values, stored)
        if nearest is not None:
            nearest.add(of.packed(first, some), stored, before, first)
        of.leave(first, count)
    return look


def _history(of: Comparison, direct: Look) -> str:
    """Say how blocks that are not the source's came to be, if it can be told."""
    if of.expected.is_transformed and _looked(of, is_ordered=False).problem is None:
        return f"the source's values as they are, without {', '.join(map(str, of.expected.pair.transforms))}"
    for text, other in ((one.text, replace(of, expected=one.expected)) for one in of.suspects):
        if all(_looked(other, most=most).problem is None for most in (FIRST_VALUES, direct.again.budget)):
            return text
    if direct.errors.born:
        return f"{direct.errors.born:,} NaN or Inf that the source has not"
    for detour in _plausible(of, direct):
        if all(_looked(of, detour, most=most).problem is None for most in (FIRST_VALUES, direct.again.budget)):
            return f"requantized from {detour.name} of this checkpoint"
    return ""


def _plausible(of: Comparison, direct: Look) -> Iterable[Detour]:
    """Yield the requantizations that may have been: only where the values have to do with the source's at all."""
    return requantizations(of) if direct.errors.rms < np.sqrt(0.5) else ()
