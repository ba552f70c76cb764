"""Evidence -> the format the values came from, with the odds of being wrong.

The tests are nested, narrowest format first: a format that holds every value is the origin if values of the
next wider one that holds them too would look like this less than once in a million times. Inside FP16's
normal range every BF16 value is an exact FP16 as well, so that values may be BF16 and have gone through FP16;
this is said only where there is a trace of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from truebits.files.types import FLOAT_FORMATS
from truebits.precision.evidence import Evidence, ladder, most_exceptions
from truebits.precision.profile import PrecisionProfile

ODDS_WANTED = 1e-6
"""A verdict with a greater chance of being false is called ambiguous."""

BITS_WANTED = -math.log2(ODDS_WANTED)


@dataclass(frozen=True)
class Origin:
    """Where a tensor's precision came from.

    Attributes
    ----------
    format : str
        ``fp8_e5m2``, ``fp8_e4m3fn``, ``bf16``, ``fp16``, ``f32``, ``f64``, ``constant``, ``nan``, ``inf`` or
        ``ambiguous``.
    confidence : float
        One minus the chance that values of the next wider format look like this.
    reason : str
    holds : str or None
        The narrowest format that holds every value, whatever the odds.
    holds_most : str or None
        The narrowest that holds all but one value or 0.1 % of them, at odds as for a verdict.
    exceptions : int
        Values that `holds_most` does not hold.
    through : str or None
        ``fp16``: BF16 values with the trace of a way through FP16.
    """

    format: str
    confidence: float
    reason: str
    holds: str | None = None
    holds_most: str | None = None
    exceptions: int = 0
    through: str | None = None

    def __str__(self) -> str:
        """Return the verdict in a word or two: ``f32 (bf16 but for 1)``."""
        if self.through:
            return f"{self.format} (through {self.through})"
        return f"{self.format} ({self.holds_most} but for {self.exceptions:,})" if self.exceptions else self.format


def judge(evidence: Evidence) -> Origin:
    """Tell the narrowest format that explains every value.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Origin
    """
    values, outside = evidence.values, evidence.outside
    if not values and evidence.nan:
        return Origin("nan", 1.0, f"all {evidence.nan:,} values are NaN")
    if not values:
        return Origin("ambiguous", 0.0, "there are no values")
    if values == evidence.infinite:
        return Origin("inf", 1.0, f"all {values:,} values are Inf")
    fitting = [name for name in ladder(evidence.type) if not outside[name]]
    if evidence.magnitude is not None:
        reason = f"all {values:,} values have one magnitude, with at most 1 mantissa bit"
        return Origin("constant", 1.0, reason, fitting[0], fitting[0])
    return _clipped(evidence, fitting) or _narrowest(evidence, fitting) or _own(evidence)


def origin_of(members: Sequence[PrecisionProfile]) -> Origin:
    """Judge tensors of one storage type together; those that a converter changed as they were before.

    Parameters
    ----------
    members : sequence of PrecisionProfile
        Or of `truebits.precision.scan.TensorPrecision`.
    """
    undone = [getattr(member, "before", None) for member in members]
    parts = [evidence for evidence in undone if evidence is not None]
    plain = [member for member, evidence in zip(members, undone, strict=True) if evidence is None]
    if plain:
        parts.append(Evidence.of(PrecisionProfile.merge(plain)))
    return judge(Evidence.merge(parts))


def _narrowest(evidence: Evidence, fitting: list[str]) -> Origin | None:
    """Judge by the formats that hold every value; None if it is only the storage type's own."""
    for name, wider in pairwise(fitting):
        bits = evidence.bits[name, wider]
        if bits < BITS_WANTED and name == "fp8_e5m2" and wider == "fp8_e4m3fn":
            continue  # one family: which of the two is of less interest than that it is FP8
        odds = 2.0**-bits
        exact = f"all {evidence.values:,} values are exact in {_title(name)}"
        if bits < BITS_WANTED:
            few = f"{exact}, but only {evidence.telling:,} have enough bits to tell it from {_title(wider)}"
            return Origin("ambiguous", 1 - odds, few, fitting[0], fitting[0])
        trace = _trace_of_fp16(evidence) if name == "bf16" and wider == "fp16" and evidence.type != "F16" else None
        reason = f"{exact}, {_by_chance(bits)}{_before(evidence)}{f'; {trace}' if trace else ''}"
        return Origin(name, 1 - odds, reason, fitting[0], fitting[0], through="fp16" if trace else None)
    return None


def _trace_of_fp16(evidence: Evidence) -> str | None:
    """Say how BF16 values that FP16 holds too show that they went through it; None if they do not."""
    if evidence.infinite:
        return f"{evidence.infinite:,} are Inf, as what FP16 cannot hold becomes, and none is beyond its range"
    if evidence.flushed_bits >= BITS_WANTED:
        return f"those below 2^-17 are on FP16's grid, {_by_chance(evidence.flushed_bits)}"
    return None


def _clipped(evidence: Evidence, fitting: list[str]) -> Origin | None:
    """Judge BF16 values of which the largest stand at FP16's end; None if there are no such."""
    few = evidence.at_end
    if fitting[0] != "fp16" or few != evidence.outside["bf16"]:
        return None
    bits = _bits_of_most(evidence, "bf16", "fp16")
    if bits < BITS_WANTED:
        return None
    exact = f"{evidence.values - few:,} of {evidence.values:,} values are exact in BF16, {_by_chance(bits)}"
    reason = f"{exact}; the other {few:,} stand at FP16's end, 65504"
    return Origin("bf16", 1 - 2.0**-bits, reason, "fp16", "bf16", few, "fp16")


def _own(evidence: Evidence) -> Origin:
    """Say that the values are of their storage type, and what most of them are."""
    values, own = evidence.values, FLOAT_FORMATS[evidence.type]
    for name in ladder(evidence.type)[:-1]:
        bits = _bits_of_most(evidence, name, own)
        if bits >= BITS_WANTED:
            few = evidence.outside[name]
            most = f"{values - few:,} of {values:,} values are exact in {_title(name)}, {_by_chance(bits)}"
            return Origin(own, 1.0, f"{most}; {few:,} are not{_before(evidence)}", own, name, few)
    narrower = [name for name in ladder(evidence.type)[:-1] if not name.startswith("fp8")]
    missed = ", ".join(f"{evidence.outside[name]:,} do not fit {_title(name)}" for name in narrower)
    reason = f"of {values:,} values {missed}{_before(evidence)}" if missed else "the storage type itself"
    return Origin(own, 1.0, reason, own, own)


def _bits_of_most(evidence: Evidence, name: str, wider: str) -> int:
    """Return what speaks against chance where a format holds all but very few values; 0 where it does not."""
    few = evidence.outside[name]
    if not 0 < few <= most_exceptions(evidence.values) or few == evidence.values:
        return 0
    choices = few * math.log2(math.e * evidence.values / few)
    return max(0, int(evidence.bits[name, wider] - choices))


def _by_chance(bits: int) -> str:
    return f"by chance once in 2^{bits:,}"


def _before(evidence: Evidence) -> str:
    return ", before the converter changed them" if evidence.converted else ""


def _title(name: str) -> str:
    return name.upper().replace("FP8_", "FP8 ")
