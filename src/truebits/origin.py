"""Profiles -> the format the values came from, with the odds of being wrong.

The tests are nested: all values BF16, else all FP16, else F32. The null model: a true F32 value has
its low 16 bits zero by chance once in 2^16, and is exact in FP16 once in 2^13; a true FP16 value is
exact in BF16 once in 2^3. Values with at most `FEW_BITS` mantissa bits (0, 0.5, 1, 1.5, ...)
are exact in every format and tell nothing: only the others count as informative.
"""

from __future__ import annotations

from dataclasses import dataclass

from truebits.profile import PrecisionProfile

FEW_BITS = 1
ODDS_WANTED = 1e-6
"""A verdict with a greater chance of being false is called ambiguous."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor's precision came from.

    Attributes
    ----------
    format : str
        ``bf16``, ``fp16``, ``f32``, ``f64``, ``constant`` or ``ambiguous``.
    confidence : float
        One minus the chance that values of the next wider format look like this.
    reason : str
    """

    format: str
    confidence: float
    reason: str


def judge(profile: PrecisionProfile) -> Origin:
    """Tell the narrowest format that explains every value of a profile.

    Parameters
    ----------
    profile : PrecisionProfile

    Returns
    -------
    Origin
    """
    layout, values = profile.layout, profile.values
    informative = profile.count(layout.own_trailing < layout.mantissa_bits - FEW_BITS)
    if profile.bins.size <= 1 and not informative:
        return Origin("constant", 1.0, f"all {values:,} values have the same magnitude, of at most {FEW_BITS} bits")
    in_bf16, in_fp16 = values - profile.fits("bf16"), values - profile.fits("fp16")
    if in_bf16 == 0:
        return _by_chance("bf16", informative, 16 if in_fp16 else 3, "have their low 16 bits zero", values)
    if in_fp16 == 0:
        return _by_chance("fp16", informative, 13, "are exact in FP16", values)
    wide = "f64" if layout.word_bits == 64 and profile.fits("f32") < values else "f32"
    return Origin(wide, 1.0, f"{in_bf16:,} of {values:,} values do not fit BF16, {in_fp16:,} do not fit FP16")


def _by_chance(format: str, informative: int, bits: int, what: str, values: int) -> Origin:
    odds = 2.0 ** -(bits * informative)
    if odds > ODDS_WANTED:
        reason = f"all {values:,} values {what}, but only {informative:,} have enough bits to tell"
        return Origin("ambiguous", 1 - odds, reason)
    return Origin(format, 1 - odds, f"all {values:,} values {what}; by chance once in 2^{bits * informative:,}")
