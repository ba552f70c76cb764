"""The ways in which a value gets from one floating-point type into another: right, wrong, and through a third."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import numpy as np

import truebits_native as native
from truebits.files.types import FLOAT_FORMATS
from truebits.lineage.source import Expected
from truebits.numbers.rounding import MODES, Rounding, grid_of
from truebits.numbers.spelling import find


class Verdict(StrEnum):
    """What became of a tensor."""

    IDENTICAL = "identical"
    UPCAST = "upcast, exact"
    NARROWED = "narrowed, exact"
    ROUNDED = "rounded to nearest"
    TRUNCATED = "truncated"
    THROUGH_FP16 = "through FP16"
    THROUGH_BF16 = "through BF16"
    SAME_BLOCKS = "quantized, the same bytes as the reference quantizer"
    CONSISTENT = "quantized, block error consistent"
    MADE = "made by the converter"
    UNCOMPARED = "not compared"
    ALTERED = "altered"
    MISSING = "missing"
    EXTRA = "extra"

    @property
    def is_fault(self) -> bool:
        return self in (Verdict.ALTERED, Verdict.MISSING, Verdict.EXTRA)

    @property
    def is_exact(self) -> bool:
        """Every value is the source's, bit for bit."""
        return self in (Verdict.IDENTICAL, Verdict.UPCAST, Verdict.NARROWED)


class Cast(NamedTuple):
    """One rounding to a format."""

    format: str
    rounding: str = "nearest"
    overflow: str | None = None

    def apply(self, words: np.ndarray, threads: int | None) -> int:
        """Round F32 words in place; return how many changed."""
        rounding = Rounding(self.rounding, overflow=self.overflow)
        grid = grid_of(find(self.format), find("f32"), rounding)
        return native.round_floats(words, grid, MODES[self.rounding], measured=False, threads=threads).changed


class Way(NamedTuple):
    """One way from the source's values to those of the GGUF.

    Attributes
    ----------
    verdict : Verdict
        Where at least one value changed on the way; else nothing was lost.
    before, after : tuple of Cast
        What happens to the source's values, and to what the converter computes of them.
    detail : str
        What the verdict does not say: the format, ``clipped at 65504``.
    is_ordered : bool
        False: nothing was permuted, transposed or computed, though it should have been.
    """

    verdict: Verdict
    before: tuple[Cast, ...] = ()
    after: tuple[Cast, ...] = ()
    detail: str = ""
    is_ordered: bool = True

    def values(self, expected: Expected, words: np.ndarray, threads: int | None = None) -> tuple[np.ndarray, int]:
        """Return the F32 words that this way makes of the source's words, and how many values it changed."""
        singles = expected.singles(words, threads)
        changed = sum(cast.apply(singles, threads) for cast in self.before)
        if self.is_ordered and expected.is_computed:
            singles = expected.computed(singles)
        return singles, changed + sum(cast.apply(singles, threads) for cast in self.after)


BF16, FP16 = Cast("bf16"), Cast("fp16")
CLIPPED = Cast("fp16", overflow="saturate")
CLIPPED_TEXT = "clipped at 65504"


def ways(source: str, stored: str, is_computed: bool) -> Iterator[Way]:
    """Yield the ways from one type to another, the converter's own first.

    Parameters
    ----------
    source, stored : str
        Types of the checkpoint's tensor and of the GGUF's.
    is_computed : bool
        The converter computes: in F32, but with a source in FP16 in FP16.
    """
    own = FLOAT_FORMATS[stored]
    plain = Verdict.IDENTICAL if source == stored else Verdict.UPCAST
    if own == "f32":
        yield from _to_wide(source, plain, is_computed)
        return
    name = own.upper()
    if source == stored and not is_computed:
        yield Way(plain)
    else:
        in_halves = (FP16,) if is_computed and source == "F16" else ()
        yield Way(Verdict.ROUNDED, (), (*in_halves, Cast(own)), name)
        yield Way(Verdict.TRUNCATED, (), (Cast(own, "truncate"),), name)
    if own == "fp16":
        yield Way(Verdict.ROUNDED, (), (CLIPPED,), f"{name}, {CLIPPED_TEXT}")
        yield Way(Verdict.THROUGH_BF16, (BF16,), (FP16,))
    else:
        yield Way(Verdict.THROUGH_FP16, (FP16,), (Cast(own),))
        yield Way(Verdict.THROUGH_FP16, (CLIPPED,), (Cast(own),), CLIPPED_TEXT)


def _to_wide(source: str, plain: Verdict, is_computed: bool) -> Iterator[Way]:
    if is_computed and source == "F16":
        yield Way(plain, (), (FP16,), "computed in FP16")
    yield Way(Verdict.ROUNDED, (), (), "F32") if source == "F64" else Way(plain)
    for verdict, cast, detail in (
        (Verdict.ROUNDED, BF16, "BF16"),
        (Verdict.TRUNCATED, Cast("bf16", "truncate"), "BF16"),
        (Verdict.THROUGH_FP16, FP16, ""),
        (Verdict.THROUGH_FP16, CLIPPED, CLIPPED_TEXT),
        (Verdict.TRUNCATED, Cast("fp16", "truncate"), "FP16"),
    ):
        yield Way(verdict, (cast,), (), detail)
        if is_computed:
            yield Way(verdict, (), (cast,), f"{detail} after computing".strip())


def same(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Tell which F32 words mean the same value: any NaN is the same as any other."""
    equal = ours == theirs
    if not equal.all():
        equal |= np.isnan(ours.view("<f4")) & np.isnan(theirs.view("<f4"))
    return equal


def near(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Tell which F32 words are at most one unit in the last place apart, or both NaN."""
    apart = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
    return (apart <= 1) | same(ours, theirs)
