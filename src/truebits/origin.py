"""Profiles -> the format the values came from, with the odds of being wrong.

The tests are nested: all values BF16, else all FP16, else F32, as far as these are narrower than the
storage type. The null model: a true F32 value has its low 16 bits zero by chance once in 2^16 and is
exact in FP16 once in 2^13; a true FP16 value is exact in BF16 once in 2^3; a true F64 value is exact in
F32 once in 2^29. Values with at most `FEW_BITS` mantissa bits (0, 0.5, 1, 1.5, ...) are exact in every
format and tell nothing: only the others count as informative.
"""

from __future__ import annotations

from dataclasses import dataclass

from truebits.formats import find
from truebits.profile import PrecisionProfile

FEW_BITS = 1
ODDS_WANTED = 1e-6
"""A verdict with a greater chance of being false is called ambiguous."""

NARROWER = {"F64": ("bf16", "fp16", "f32"), "F32": ("bf16", "fp16"), "F16": ("bf16",), "BF16": ()}
OWN = {"F64": "f64", "F32": "f32", "F16": "fp16", "BF16": "bf16"}
BITS_BY_CHANCE = {"bf16": 16, "fp16": 13, "f32": 29}
"""Bits of a wider format's value that are zero only by chance where it is exact in this one."""

BF16_IN_FP16 = 3


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
    if not values:
        return Origin("ambiguous", 0.0, "there are no values")
    tells = layout.trailing < layout.table_bits - FEW_BITS
    if profile.bins.size == 1 and not profile.count(tells):
        return Origin(
            "constant", 1.0, f"all {values:,} values have one magnitude, with at most {FEW_BITS} mantissa bit"
        )
    outside = {name: values - profile.fits(name) for name in NARROWER[profile.type]}
    for name, count in outside.items():
        if count == 0:
            nested = name == "bf16" and (profile.type == "F16" or outside.get("fp16") == 0)
            if nested:  # FP16's subnormals have too few bits to fall out of BF16
                tells = tells & (layout.exponent - layout.table_bias >= find("fp16").smallest_normal_exponent)
            bits = BF16_IN_FP16 if nested else BITS_BY_CHANCE[name]
            return _by_chance(name, values, profile.count(tells), bits)
    missed = ", ".join(f"{count:,} do not fit {name.upper()}" for name, count in outside.items())
    return Origin(OWN[profile.type], 1.0, f"of {values:,} values {missed}" if missed else "the storage type itself")


def _by_chance(name: str, values: int, informative: int, bits: int) -> Origin:
    odds = 2.0 ** -(bits * informative)
    exact = f"all {values:,} values are exact in {name.upper()}"
    if odds > ODDS_WANTED:
        return Origin("ambiguous", 1 - odds, f"{exact}, but only {informative:,} have enough bits to tell")
    return Origin(name, 1 - odds, f"{exact}, by chance once in 2^{bits * informative:,}")
