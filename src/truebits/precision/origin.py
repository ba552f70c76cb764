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

from truebits.files.types import FLOAT_FORMATS, SMALL_FLOATS
from truebits.numbers.spelling import title_of
from truebits.precision.evidence import Evidence, ladder, most_exceptions
from truebits.precision.profile import PrecisionProfile

ODDS_WANTED = 1e-6
"""A verdict with a greater chance of being false is called ambiguous."""

BITS_WANTED = -math.log2(ODDS_WANTED)

NO_FLOATS = ("nan", "inf", "constant", "integer")
"""Verdicts that say more than a small float's type."""

LAST_BIT_SET = 0.45
"""How often FP16 values set their last bit, at least: half of the time, less where ties were rounded to even."""

BITS_DOUBTED = 10
"""Against FP16: from here on it is not named any more, from `BITS_WANTED` on it is excluded."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor's precision came from.

    Attributes
    ----------
    format : str
        ``fp8_e5m2``, ``fp8_e4m3fn``, ``bf16``, ``fp16``, ``tf32``, ``f32``, ``f64``, ``constant``, ``integer``,
        ``nan``, ``inf``, ``made`` or ``ambiguous``; what is stored as a small float is what its type says.
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
    if {"bf16", "fp16"} & {*fitting}:
        fitting = [name for name in fitting if name != "tf32"]  # what either holds, TF32 holds, or nearly
    if evidence.magnitude is not None:
        reason = f"all {values:,} values have one magnitude, with at most 1 mantissa bit"
        return Origin("constant", 1.0, reason, fitting[0], fitting[0])
    return _whole(evidence, fitting) or _clipped(evidence, fitting) or _narrowest(evidence, fitting) or _own(evidence)


def origin_of(members: Sequence[PrecisionProfile]) -> Origin:
    """Judge tensors of one storage type together; those that a converter changed as they were before.

    Those that a converter makes are left out.

    Parameters
    ----------
    members : sequence of PrecisionProfile
        Or of `truebits.precision.counting.TensorPrecision`.
    """
    own = [member for member in members if not getattr(member, "is_made", False)]
    if members and not own:
        return Origin("made", 1.0, "the converter makes it of config.json: it is nobody's weight")
    undone = [getattr(member, "before", None) for member in own]
    parts = [evidence for evidence in undone if evidence is not None]
    plain = [member for member, evidence in zip(own, undone, strict=True) if evidence is None]
    if plain:
        parts.append(Evidence.of(PrecisionProfile.merge(plain)))
    found = judge(Evidence.merge(parts))
    stored = {getattr(member, "stored", member.type) for member in own}
    if stored <= SMALL_FLOATS.keys() and len(stored) == 1 and found.format not in NO_FLOATS:
        return Origin(SMALL_FLOATS[stored.pop()], 1.0, "the storage type itself")
    return found


def _narrowest(evidence: Evidence, fitting: list[str]) -> Origin | None:
    """Judge by the formats that hold every value; None if it is only the storage type's own."""
    for at, name in enumerate(fitting[:-1], 1):
        wider = min(fitting[at:], key=lambda wider: evidence.bits[name, wider])
        bits = evidence.bits[name, wider]
        odds = 2.0**-bits
        exact = f"all {evidence.values:,} values are exact in {_title(evidence, name)}"
        if bits < BITS_WANTED:
            few = f"{exact}, but only {evidence.telling:,} have enough bits to tell it from {title_of(wider)}"
            return Origin("ambiguous", 1 - odds, few, fitting[0], fitting[0])
        kinds = min(evidence.kinds[name, wider] for wider in fitting[at:])
        if kinds < BITS_WANTED:
            few = f"{exact}, but too few of them differ to tell it from what else holds them"
            return Origin("ambiguous", 1 - 2.0**-kinds, few, fitting[0], fitting[0])
        if name in ("fp16", "tf32") and evidence.type != "F16" and (computed := _computed(evidence, name)):
            return computed
        trace = _trace_of_fp16(evidence) if name == "bf16" and wider == "fp16" and evidence.type != "F16" else None
        others = " (fits FP16: FP16, TF32, or arithmetic on BF16)" if name == "fp16" and evidence.type != "F16" else ""
        reason = f"{exact}, {_by_chance(bits)}{_before(evidence)}{f'; {trace}' if trace else ''}{others}"
        return Origin(name, 1 - odds, reason, fitting[0], fitting[0], through="fp16" if trace else None)
    return None


def _computed(evidence: Evidence, name: str) -> Origin | None:
    """Judge values that FP16 or TF32 holds, and that set its last bit too seldom to be its own; else None."""
    last, of = evidence.last_bits_set, evidence.last_bits
    bits = _bits_against(last, of, LAST_BIT_SET)
    if bits < BITS_DOUBTED:
        return None
    seldom = f"{last:,} of {of:,} set its last bit, which its own values do once in two"
    reason = f"all {evidence.values:,} values are exact in {title_of(name)}, but {seldom}: {_by_chance(int(bits))}"
    if bits < BITS_WANTED:
        return Origin("ambiguous", 1 - 2.0**-bits, f"{reason}; FP16, TF32, or arithmetic on BF16", name, name)
    computed = f"{reason}; computed from coarser values, as a mean of BF16"
    return Origin(FLOAT_FORMATS[evidence.type], 1 - 2.0**-bits, computed, name, name)


def _bits_against(some: int, all: int, chance: float) -> float:
    """Return what speaks against so few of all coming up, each with a chance: Chernoff's bound, in bits."""
    if some >= chance * all:
        return 0.0
    shares = (some / all, chance), (1 - some / all, 1 - chance)
    return all * sum(share * math.log2(share / expected) for share, expected in shares if share)


def _whole(evidence: Evidence, fitting: list[str]) -> Origin | None:
    """Judge whole numbers, which are codes, counts or a table; None if there are too few to tell, or fractions."""
    if evidence.fractions or evidence.whole_bits < BITS_WANTED:
        return None
    bits = evidence.whole_bits
    reason = (
        f"all {evidence.values:,} values are whole numbers, {_by_chance(bits)}: codes, counts or a table, no weights"
    )
    return Origin("integer", 1 - 2.0**-bits, reason, fitting[0], fitting[0])


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
            most = f"{values - few:,} of {values:,} values are exact in {_title(evidence, name)}, {_by_chance(bits)}"
            return Origin(own, 1.0, f"{most}; {few:,} are not{_before(evidence)}", own, name, few)
    narrower = [name for name in ladder(evidence.type)[:-1] if name in FLOAT_FORMATS.values()]
    missed = ", ".join(f"{evidence.outside[name]:,} do not fit {title_of(name)}" for name in narrower)
    reason = f"of {values:,} values {missed}{_before(evidence)}" if missed else "the storage type itself"
    return Origin(own, 1.0, reason, own, own)


def _bits_of_most(evidence: Evidence, name: str, wider: str) -> int:
    """Return what speaks against chance where a format holds all but very few values; 0 where it does not."""
    few = evidence.outside[name]
    if not 0 < few <= most_exceptions(evidence.values) or few == evidence.values:
        return 0
    choices = few * math.log2(math.e * evidence.values / few)
    return max(0, int(evidence.bits[name, wider] - choices))


def _title(evidence: Evidence, name: str) -> str:
    return f"{title_of(name)}{' times a power of two' if evidence.scaled.get(name) else ''}"


def _by_chance(bits: int) -> str:
    return f"by chance once in 2^{bits:,}"


def _before(evidence: Evidence) -> str:
    return ", before the converter changed them" if evidence.converted else ""
