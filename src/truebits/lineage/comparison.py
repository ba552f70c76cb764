"""One tensor of a GGUF beside what a converter makes of its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from truebits.comparing.measure import Place, place_of
from truebits.comparing.sides import Side
from truebits.lineage.source import Expected
from truebits.lineage.ways import Verdict
from truebits.numbers.words import to_singles

UNRELATED = 0.7
"""Relative error from which on values have nothing to do with each other: in another order it is about 1.4."""

Advance = Callable[[int], None]


class Effort(NamedTuple):
    """What a trace was asked for."""

    thorough: bool
    threads: int | None


class Outcome(NamedTuple):
    """What became of one tensor; the fields are those of `truebits.lineage.traces.TensorTrace`."""

    verdict: Verdict
    detail: str = ""
    changed: int = 0
    differing: int = 0
    first: Place | None = None
    error: float | None = None


class Suspect(NamedTuple):
    """A mistake that somebody may have made.

    Attributes
    ----------
    text : str
        ``its scale is left out``.
    expected : Expected
        What the tensor would be then.
    """

    text: str
    expected: Expected


@dataclass
class Comparison:
    """A pair at work.

    Attributes
    ----------
    expected : Expected
    side : Side
        The GGUF's tensor.
    settings : Effort
    advance : callable
        Called after each piece with the GGUF's bytes that were read.
    suspects : tuple of Suspect
        Mistakes that may have been made with the source, to be tried where the two differ.
    is_swapped : bool
        Read the GGUF's words as if their bytes stood the other way round.
    """

    expected: Expected
    side: Side
    settings: Effort
    advance: Advance
    suspects: tuple[Suspect, ...] = ()
    is_swapped: bool = False

    @property
    def type(self) -> str:
        """In the GGUF."""
        return self.side.tensor.type

    def words(self, first: int, count: int, type: str = "F32") -> np.ndarray:
        """Return a piece of the GGUF as words of a type."""
        if not self.is_swapped:
            return self.side.words(first, count, type)
        own = self.side.words(first, count, self.type).byteswap()
        return own if type == self.type else to_singles(own, self.type)

    def packed(self, first: int, count: int) -> np.ndarray:
        """Return the bytes of a piece of the GGUF."""
        return self.side.bytes(first, count)

    def values(self, first: int, count: int, is_ordered: bool = True) -> np.ndarray:
        """Return a piece of what the converter has, as float32."""
        singles = self.expected.singles(self.expected.words(first, count, is_ordered), self.settings.threads)
        return (self.expected.computed(singles) if is_ordered else singles).view("<f4")

    def leave(self, first: int, count: int) -> None:
        """Unmap a piece that was read, and tell of it."""
        self.side.forget(first, count)
        self.expected.forget(first)
        self.advance((first + count) * self.side.tensor.nbytes // max(1, self.side.tensor.values))

    def place_at(self, at: int) -> Place:
        """Look one value up on both sides."""
        block, _ = self.side.block
        first, count = next((f, c) for f, c in self.expected.spans(block) if f <= at < f + c)
        values = self.values(first, count).view("<u4")
        return place_of(self.words(first, count), values, first, "F32", at - first)
