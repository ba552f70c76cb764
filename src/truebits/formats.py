"""The catalogue of numeric formats: what each can hold, and where that is written down."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from truebits.errors import UsageError


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Attributes
    ----------
    name : str
    exponent_bits, mantissa_bits, bias : int
    special : {"ieee", "nan", "none"}
        What the all-ones exponent holds: Inf and NaN, as IEEE 754; ordinary values but for
        one NaN code (the "fn" formats with NaN); ordinary values only.
    source : str
        Where the format is defined.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    special: Literal["ieee", "nan", "none"]
    source: str

    @property
    def bits(self) -> int:
        """Width of one value: sign, exponent and mantissa."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def largest_exponent(self) -> int:
        """Exponent of the largest finite value, ``floor(log2(largest))``."""
        return (1 << self.exponent_bits) - 1 - self.bias - (self.special == "ieee")

    @property
    def smallest_normal_exponent(self) -> int:
        return 1 - self.bias

    @property
    def quantum_exponent(self) -> int:
        """Exponent of the smallest subnormal: every value is a multiple of 2 to this power."""
        return self.smallest_normal_exponent - self.mantissa_bits

    @property
    def largest(self) -> float:
        """The largest finite value."""
        lost = 2 if self.special == "nan" else 1
        return (2.0 - lost * 2.0**-self.mantissa_bits) * 2.0**self.largest_exponent


IEEE = "IEEE 754-2019"
OCP8 = "OCP 8-bit Floating Point Specification 1.0"

CATALOGUE = {
    format.name: format
    for format in (
        Format("f64", 11, 52, 1023, "ieee", f"{IEEE}, binary64"),
        Format("f32", 8, 23, 127, "ieee", f"{IEEE}, binary32"),
        Format("tf32", 8, 10, 127, "ieee", "NVIDIA A100 Tensor Core GPU Architecture whitepaper"),
        Format("bf16", 8, 7, 127, "ieee", "Google/Intel bfloat16: the upper half of binary32"),
        Format("fp16", 5, 10, 15, "ieee", f"{IEEE}, binary16"),
        Format("fp8_e5m2", 5, 2, 15, "ieee", OCP8),
        Format("fp8_e4m3fn", 4, 3, 7, "nan", OCP8),
    )
}

LEFT_BY_CUT = {13: "tf32", 16: "bf16"}
"""What an F32 is when so many of its low bits are zero, where that has a name."""

ALIASES = {"f16": "fp16", "fp32": "f32", "bfloat16": "bf16", "float16": "fp16", "float32": "f32"}

_CUSTOM = re.compile(r"e([2-8])m(\d+)")


def find(name: str) -> Format:
    """Return the format called `name`: one of the catalogue, or any ``eXmY``.

    An ``eXmY`` has X exponent bits (2 to 8), Y mantissa bits (0 to 23), the IEEE bias
    ``2**(X - 1) - 1``, Inf and NaN.

    Raises
    ------
    UsageError
        No such format; names the nearest ones.
    """
    key = ALIASES.get(name.lower(), name.lower())
    if key in CATALOGUE:
        return CATALOGUE[key]
    match = _CUSTOM.fullmatch(key)
    if match and int(match[2]) <= 23:
        exponent_bits, mantissa_bits = int(match[1]), int(match[2])
        bias = (1 << (exponent_bits - 1)) - 1
        return Format(key, exponent_bits, mantissa_bits, bias, "ieee", "IEEE 754 style, by its widths")
    from difflib import get_close_matches

    near = get_close_matches(key, [*CATALOGUE, *ALIASES], 3, 0.3) or list(CATALOGUE)
    raise UsageError(f"no format is called {name!r}; did you mean {', '.join(near)}? (or eXmY, as e5m7)")
