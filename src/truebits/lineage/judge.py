"""One tensor of a GGUF against what a converter makes of its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from truebits.comparing.diff import ITEM_BYTES, Place, Side, place_of
from truebits.files.mapping import MappedFile
from truebits.files.types import FLOAT_BYTES
from truebits.lineage.block_error import (
    BOUNDS,
    REFERENCE_VALUES,
    WORST_RATIO,
    BlockErrors,
    is_deterministic,
    reference,
    squares,
)
from truebits.lineage.source import Expected
from truebits.lineage.ways import BF16, FP16, Cast, Verdict, Way, near, same, ways
from truebits.quantizers.ggml import in_rows

MOSTLY = 0.5
"""Where more blocks than that are the reference quantizer's, and its bytes never vary, the others are wrong."""

Advance = Callable[[int], None]
Look = Callable[[int, np.ndarray, np.ndarray], None]


class Settings(NamedTuple):
    """What a trace was asked for."""

    thorough: bool
    threads: int | None


class Outcome(NamedTuple):
    """What became of one tensor; the fields are those of `truebits.lineage.trace.TensorTrace`."""

    verdict: Verdict
    detail: str = ""
    changed: int = 0
    differing: int = 0
    first: Place | None = None
    error: float | None = None


@dataclass
class Tally:
    """How well one way explains a tensor."""

    way: Way
    changed: int = 0
    differing: int = 0
    first: Place | None = None

    def add(self, wrong: np.ndarray, place: Callable[[int], Place]) -> None:
        """Count what is `wrong` in a piece; `place` tells of one value of it."""
        count = int(np.count_nonzero(wrong))
        if count and self.first is None:
            self.first = place(int(np.argmax(wrong)))
        self.differing += count


@dataclass
class Comparison:
    """A pair at work.

    Attributes
    ----------
    expected : Expected
    side : Side
        The GGUF's tensor.
    file : MappedFile
        That holds it.
    settings : Settings
    advance : callable
        Called after each piece with the GGUF's bytes that were read.
    """

    expected: Expected
    side: Side
    file: MappedFile
    settings: Settings
    advance: Advance

    def outcome(self) -> Outcome:
        """Compare the two."""
        return self._plain() if self.side.tensor.type in FLOAT_BYTES else self._quantized()

    def _plain(self) -> Outcome:
        """Judge a tensor of floating-point words by the ways that lead to it."""
        source, stored = self.expected.type, self.side.tensor.type
        if stored == "F64" != source:
            return Outcome(Verdict.UNCOMPARED, "F64 is compared with F64 only")
        every = list(ways(source, stored, self.expected.is_computed))
        (right,) = self._tallies(every[:1], is_patient=False)
        if right.differing:
            tallies = self._tallies([*every, *self._astray()])
            good = [tally for tally in tallies if not tally.differing]
            if not good or not good[0].way.is_ordered:
                return self._altered(good[0] if good else min(tallies, key=lambda tally: tally.differing), good)
            right = good[0]
        return self._explained(right)

    def _explained(self, tally: Tally) -> Outcome:
        way = tally.way
        is_lossless = way.verdict in (Verdict.ROUNDED, Verdict.TRUNCATED) and not tally.changed
        if is_lossless and self.expected.type != "F64":
            source, stored = (ITEM_BYTES[type] for type in self._types)
            return Outcome(Verdict.UPCAST if source < stored else Verdict.NARROWED)
        detail = f"{way.detail} to one unit in the last place".strip() if self.expected.is_exponential else way.detail
        return Outcome(way.verdict, detail, tally.changed)

    def _altered(self, nearest: Tally, good: Sequence[Tally]) -> Outcome:
        first = nearest.first or self._tallies(list(ways(*self._types, self.expected.is_computed))[:1])[0].first
        if good:
            done = ", ".join(map(str, self.expected.pair.transforms))
            return Outcome(
                Verdict.ALTERED, f"the source's values as they are, without {done}", 0, self.expected.values, first
            )
        return Outcome(Verdict.ALTERED, "", 0, nearest.differing, first)

    @property
    def _types(self) -> tuple[str, str]:
        return self.expected.type, self.side.tensor.type

    def _astray(self) -> list[Way]:
        """Return the way of a converter that forgot what it should do."""
        if not self.expected.is_transformed:
            return []
        right = next(iter(ways(*self._types, False)))
        return [right._replace(is_ordered=False)]

    def _tallies(self, every: Sequence[Way], is_patient: bool = True) -> list[Tally]:
        """Go through the tensor once, along all ways; give up at the first difference unless `is_patient`.

        Ways that explain much less than others are left on the way.
        """
        tallies = [Tally(way) for way in every]
        for first, count in self.expected.spans(1):
            for tally in tallies:
                self._tally(tally, first, count)
            self._leave(first, count)
            if not is_patient and all(tally.differing for tally in tallies):
                break
            tallies = _promising(tallies, first + count)
        return tallies

    def _tally(self, tally: Tally, first: int, count: int) -> None:
        """Compare one piece along one way."""
        way, own = tally.way, self.side.tensor.type
        words = self.expected.words(first, count, way.is_ordered)
        if way.verdict is Verdict.IDENTICAL and not (way.before or way.after or self.expected.is_computed):
            ours = self.side.words(self.file, first, count, own)
            tally.add(ours != words, lambda at: place_of(ours, words, first, own, at))
            return
        values, changed = way.values(self.expected, words, self.settings.threads)
        tally.changed += changed
        singles = self.side.words(self.file, first, count, "F32")
        alike = near if self.expected.is_exponential and way.is_ordered else same
        tally.add(~alike(singles, values), lambda at: place_of(singles, values, first, "F32", at))

    def _leave(self, first: int, count: int) -> None:
        self.side.forget(self.file, first, count)
        self.expected.forget(first)
        self.advance((first + count) * self.side.tensor.nbytes // max(1, self.side.tensor.values))

    def _quantized(self) -> Outcome:
        """Judge a tensor of blocks by its bytes, and by its error."""
        type = self.side.tensor.type
        if type not in BOUNDS:
            return Outcome(Verdict.UNCOMPARED, f"{type} is not a type whose error is known")
        again = Requantized(self)
        errors = self._errors(again.add)
        if not again.is_same:
            again = max([again, *self._through_others()], key=lambda one: one.equal)
        if again.is_same and again.is_whole:
            return Outcome(Verdict.SAME_BLOCKS, again.through, error=errors.rms)
        if again.problem or not errors.is_consistent:
            return self._inconsistent(errors, again)
        return Outcome(Verdict.CONSISTENT, again.described, error=errors.rms)

    def _through_others(self) -> Iterator[Requantized]:
        """Quantize once more what the source's values are after they went through another type."""
        block, _ = self.side.block
        for cast in {"F16": (), "BF16": (FP16,)}.get(self.expected.type, (FP16, BF16)):
            again = Requantized(self, cast)
            for first, count in self.expected.spans(block):
                if first >= again.budget:
                    break
                stored = self.side.words(self.file, first, count, "F32").view("<f4")
                again.add(first, self._values(first, count), stored)
                self._leave(first, count)
            yield again

    def _values(self, first: int, count: int, is_ordered: bool = True) -> np.ndarray:
        """Return a piece of what the converter has, as float32."""
        singles = self.expected.singles(self.expected.words(first, count, is_ordered), self.settings.threads)
        return (self.expected.computed(singles) if is_ordered else singles).view("<f4")

    def _errors(self, also: Look | None = None, is_ordered: bool = True) -> BlockErrors:
        """Go through the tensor once and add its errors up; `also` looks at every piece."""
        block, _ = self.side.block
        errors = BlockErrors(self.side.tensor.type, block)
        for first, count in self.expected.spans(block):
            values = self._values(first, count, is_ordered)
            stored = self.side.words(self.file, first, count, "F32").view("<f4")
            errors.add(stored, values, first)
            if also is not None:
                also(first, values, stored)
            self._leave(first, count)
        return errors

    def _inconsistent(self, errors: BlockErrors, again: Requantized) -> Outcome:
        detail = (
            again.problem
            or f"relative error {errors.rms:.3g}, {self.side.tensor.type} makes at most {errors.bound.rms}"
        )
        at = again.first_wrong if again.problem else errors.first_beyond
        if errors.beyond:
            detail, at = "beyond what its blocks can be off", errors.first_beyond
        if self.expected.is_transformed and self._errors(is_ordered=False).is_consistent:
            detail = f"the source's values as they are, without {', '.join(map(str, self.expected.pair.transforms))}"
        differing = errors.beyond or (again.blocks - again.equal) * self.side.block[0] or errors.values
        first = self._place_at(at if at is not None else 0)
        return Outcome(Verdict.ALTERED, detail, 0, differing, first, errors.rms)

    def _place_at(self, at: int) -> Place:
        """Look one value up on both sides."""
        block, _ = self.side.block
        first, count = next((f, c) for f, c in self.expected.spans(block) if f <= at < f + c)
        values = self._values(first, count).view("<u4")
        return place_of(self.side.words(self.file, first, count, "F32"), values, first, "F32", at - first)


class Requantized:
    """Blocks of a tensor made once more, from its source, by the reference quantizer.

    Parameters
    ----------
    of : Comparison
    cast : Cast, optional
        What the values went through before.

    Attributes
    ----------
    blocks, equal : int
        Blocks made of values that are not all zero, and those of them that are equal to the GGUF's.
    first_wrong : int or None
        First value of the first block that is not equal.
    """

    def __init__(self, of: Comparison, cast: Cast | None = None):
        self.of = of
        self.cast = cast
        self.type = of.side.tensor.type
        self.budget = of.expected.values if of.settings.thorough else REFERENCE_VALUES
        self.quantize = reference(self.type)
        self.blocks = self.equal = 0
        self.first_wrong: int | None = None
        self.squared_error = self.reference_error = 0.0

    def add(self, first: int, values: np.ndarray, stored: np.ndarray) -> None:
        """Take in a piece: values of the source and of the GGUF from value `first` on, in whole blocks."""
        block, nbytes = self.of.side.block
        count = min(values.size, (self.budget - first) // block * block)
        if self.quantize is None or count <= 0:
            return
        values, stored = values[:count], stored[:count]
        words = values.view("<u4").copy()
        if self.cast is not None:
            self.cast.apply(words, self.of.settings.threads)
        with np.errstate(all="ignore"):  # values that are NaN or Inf
            made = self.quantize(words.view("<f4")).reshape(-1, nbytes)
        unequal = (made != self.of.side.bytes(self.of.file, first, count).reshape(-1, nbytes)).any(axis=1)
        telling = values.reshape(-1, block).any(axis=1)
        self.blocks += int(np.count_nonzero(telling))
        self.equal += int(np.count_nonzero(telling & ~unequal))
        if unequal.any() and self.first_wrong is None:
            self.first_wrong = first + int(np.argmax(unequal)) * block
        self._compare_errors(values, stored, made)

    def _compare_errors(self, values: np.ndarray, stored: np.ndarray, made: np.ndarray) -> None:
        import gguf

        rows = in_rows(made.reshape(-1), *self.of.side.block)
        with np.errstate(invalid="ignore", over="ignore"):
            best = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[self.type]).reshape(-1)
            self.squared_error += squares(stored - values)
            self.reference_error += squares(best - values)

    @property
    def is_same(self) -> bool:
        return self.quantize is not None and self.first_wrong is None

    @property
    def is_whole(self) -> bool:
        return self.budget >= self.of.expected.values

    @property
    def through(self) -> str:
        """What the values went through before they were quantized."""
        return f"through {self.cast.format.upper()}" if self.cast is not None else ""

    @property
    def ratio(self) -> float:
        """Error over that of the reference quantizer."""
        if not self.reference_error:
            return 1.0 if self.squared_error == 0 else np.inf
        return float(np.sqrt(self.squared_error / self.reference_error))

    @property
    def problem(self) -> str | None:
        """Say what is wrong with blocks that are not the reference quantizer's."""
        if self.quantize is None or self.is_same:
            return None
        if is_deterministic(self.type) and self.equal > MOSTLY * self.blocks:
            wrong = f"{self.blocks - self.equal:,} of {self.blocks:,}"
            return f"{wrong} blocks are not the reference quantizer's, the others are"
        if self.ratio > WORST_RATIO:
            return f"error {self.ratio:.3g} times the reference quantizer's"
        return None

    @property
    def described(self) -> str:
        """How much is known of the bytes."""
        if self.quantize is None:
            return "no quantizer at hand to compare bytes with"
        extent = "" if self.is_whole else "first "
        if not self.equal:
            return f"error {self.ratio:.2f} times the reference quantizer's"
        through = f", {self.through}" if self.through else ""
        return f"{self.equal:,} of {extent}{self.blocks:,} blocks the reference quantizer's bytes{through}"


def _promising(tallies: list[Tally], seen: int) -> list[Tally]:
    """Keep the ways that may turn out to be the nearest; one, where none is near."""
    best = min(tallies, key=lambda tally: tally.differing)
    if 2 * best.differing > seen:
        return [best]
    return [tally for tally in tallies if tally.differing <= 2 * best.differing]
