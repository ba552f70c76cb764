"""A tensor of floating-point words against its source: by the ways that lead from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from truebits.comparing.measure import Place, place_of
from truebits.comparing.sides import ITEM_BYTES
from truebits.files.types import FLOAT_FORMATS
from truebits.lineage.comparison import Comparison, Outcome
from truebits.lineage.detours import Detour, requantizations
from truebits.lineage.ways import Cast, Verdict, Way, near, same, ways

LARGEST_FP16 = 65520.0
"""From which on a value rounds to Inf."""

FIRST_VALUES = 1 << 12
"""Requantized before all of a piece is: whole blocks of all types."""


@dataclass
class Tally:
    """How well one way explains a tensor; `overflown` values of the source became Inf on it."""

    way: Way
    changed: int = 0
    overflown: int = 0
    differing: int = 0
    first: Place | None = None

    def add(self, wrong: np.ndarray, place: Callable[[int], Place]) -> None:
        """Count what is `wrong` in a piece; `place` tells of one value of it."""
        count = int(np.count_nonzero(wrong))
        if count and self.first is None:
            self.first = place(int(np.argmax(wrong)))
        self.differing += count


def judge_plain(of: Comparison) -> Outcome:
    """Judge a tensor of floating-point words by the ways that lead to it."""
    source, stored = of.expected.type, of.type
    if stored == "F64" != source:
        return Outcome(Verdict.UNCOMPARED, "F64 is compared with F64 only")
    every = list(ways(source, stored, of.expected.is_computed))
    (right,) = _tallies(of, every[:1], is_patient=False)
    if right.differing:
        tallies = _tallies(of, [*every, *_astray(of)])
        good = [tally for tally in tallies if not tally.differing]
        if not good or not good[0].way.is_ordered:
            return _altered(of, good[0] if good else min(tallies, key=lambda tally: tally.differing), good)
        right = good[0]
    return _explained(of, right)


def _explained(of: Comparison, tally: Tally) -> Outcome:
    way = tally.way
    is_lossless = way.verdict in (Verdict.ROUNDED, Verdict.TRUNCATED) and not tally.changed
    if is_lossless and of.expected.type != "F64":
        return Outcome(Verdict.UPCAST if ITEM_BYTES[of.expected.type] < ITEM_BYTES[of.type] else Verdict.NARROWED)
    detail = f"{way.detail} to one unit in the last place".strip() if of.expected.is_exponential else way.detail
    if tally.overflown:
        detail += f", {tally.overflown:,} became Inf"
    return Outcome(way.verdict, detail, tally.changed)


def _altered(of: Comparison, nearest: Tally, good: Sequence[Tally]) -> Outcome:
    first_way = list(ways(of.expected.type, of.type, of.expected.is_computed))[:1]
    first = nearest.first or _tallies(of, first_way)[0].first
    if good:
        done = ", ".join(map(str, of.expected.pair.transforms))
        detail = f"the source's values as they are, without {done}"
        return Outcome(Verdict.ALTERED, detail, 0, of.expected.values, first)
    return Outcome(Verdict.ALTERED, _history(of), 0, nearest.differing, first)


def _history(of: Comparison) -> str:
    """Say what was done to a tensor, if it can be told."""
    for text, other in ((one.text, replace(of, expected=one.expected)) for one in of.suspects):
        if _is_explained(other):
            return text
    if ITEM_BYTES[of.type] > 1 and _is_explained(replace(of, is_swapped=True)):
        return "its bytes are swapped"
    return _born(of) or _requantized(of)


def _is_explained(of: Comparison) -> bool:
    """Tell whether all values are as a converter would have made them."""
    every = list(ways(of.expected.type, of.type, of.expected.is_computed))[:1]
    return not _tallies(of, every, is_patient=False)[0].differing


def _born(of: Comparison) -> str:
    """Say how many values are NaN or Inf that were not, or would not be in the type, and where."""
    number, at = 0, 0
    for first, count in of.expected.spans(1):
        values = of.values(first, count)
        with np.errstate(over="ignore"):
            limit = LARGEST_FP16 if of.type == "F16" else np.inf
            born = ~np.isfinite(of.words(first, count).view("<f4")) & np.isfinite(values) & (np.abs(values) < limit)
        if born.any() and not number:
            at = first + int(np.argmax(born))
        number += int(np.count_nonzero(born))
    return f"{number:,} NaN or Inf that the source has not, the first at {at:,}" if number else ""


def _requantized(of: Comparison) -> str:
    """Say of which block type of the source the values are, if they are; found by the first piece, then all."""
    for detour in requantizations(of):
        if all(_is_detoured(of, detour, *span) for span in of.expected.spans(detour.block)):
            return f"requantized from {detour.name} of this checkpoint"
    return ""


def _is_detoured(of: Comparison, detour: Detour, first: int, count: int) -> bool:
    cast = Cast(FLOAT_FORMATS[of.type])
    values, stored = of.values(first, count), of.words(first, count)
    for some in (min(count, FIRST_VALUES), count):
        words = detour.apply(values[:some]).view("<u4")
        if cast.format != "f32":
            cast.apply(words, of.settings.threads)
        if not same(stored[:some], words).all():
            return False
    return True


def _astray(of: Comparison) -> list[Way]:
    """Return the way of a converter that forgot what it should do."""
    if not of.expected.is_transformed:
        return []
    right = next(iter(ways(of.expected.type, of.type, False)))
    return [right._replace(is_ordered=False)]


def _tallies(of: Comparison, every: Sequence[Way], is_patient: bool = True) -> list[Tally]:
    """Go through the tensor once, along all ways; give up at the first difference unless `is_patient`.

    Ways that explain much less than others are left on the way.
    """
    tallies = [Tally(way) for way in every]
    for first, count in of.expected.spans(1):
        for tally in tallies:
            _tally(of, tally, first, count)
        of.leave(first, count)
        if not is_patient and all(tally.differing for tally in tallies):
            break
        tallies = _promising(tallies, first + count)
    return tallies


def _tally(of: Comparison, tally: Tally, first: int, count: int) -> None:
    """Compare one piece along one way."""
    way, own = tally.way, of.type
    words = of.expected.words(first, count, way.is_ordered)
    if way.verdict is Verdict.IDENTICAL and not (way.before or way.after or of.expected.is_computed):
        ours = of.words(first, count, own)
        tally.add(ours != words, lambda at: place_of(ours, words, first, own, at))
        return
    values, changed = way.values(of.expected, words, of.settings.threads)
    tally.changed += changed
    if own == "F16" and (inf := np.isinf(values.view("<f4"))).any():
        source = of.expected.singles(words, of.settings.threads).view("<f4")
        tally.overflown += int(np.count_nonzero(inf & np.isfinite(source)))
    singles = of.words(first, count)
    alike = near if of.expected.is_exponential and way.is_ordered else same
    tally.add(~alike(singles, values), lambda at: place_of(singles, values, first, "F32", at))


def _promising(tallies: list[Tally], seen: int) -> list[Tally]:
    """Keep the ways that may turn out to be the nearest; one, where none is near."""
    best = min(tallies, key=lambda tally: tally.differing)
    if 2 * best.differing > seen:
        return [best]
    return [tally for tally in tallies if tally.differing <= 2 * best.differing]
