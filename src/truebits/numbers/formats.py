"""The catalogue of numeric formats: what each can hold, and where that is written down."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from truebits.errors import UsageError
from truebits.files import types


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Attributes
    ----------
    name : str
    exponent_bits, mantissa_bits, bias : int
    special : {"ieee", "nan", "none", "fnuz"}
        What the all-ones exponent holds: Inf and NaN, as IEEE 754; ordinary values but for
        one NaN code (the "fn" formats with NaN); ordinary values only; the same, and the code
        of -0 is NaN (the "fnuz" formats).
    source : str
        Where the format is defined.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    special: Literal["ieee", "nan", "none", "fnuz"]
    source: str

    @property
    def has_inf(self) -> bool:
        return self.special == "ieee"

    @property
    def has_nan(self) -> bool:
        return self.special != "none" and self.mantissa_bits > 0

    @property
    def has_negative_zero(self) -> bool:
        return self.special != "fnuz"

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

    def stored_bits(self, values: int, row: int) -> int:
        """Bits that so many values would take, in rows of `row`."""
        return values * self.bits


@dataclass(frozen=True)
class Integer:
    """Whole numbers times a scale, as quantization to INT8 and INT4 means it.

    Symmetric: the scale is the largest magnitude over ``2**(bits - 1) - 1``, and the numbers are
    as many below zero as above. Affine: the scale is the range, zero included, over ``2**bits - 1``,
    and a whole number is added so that zero stays zero.

    Attributes
    ----------
    bits : int
        2 to 16.
    per : {"block", "row", "tensor"}
        What has one scale, an F32.
    block : int
        Values in a block.
    affine : bool
    mse : bool
        The scale is the one of `CLIPS` times the largest that makes the least squared error.
    source : str
    """

    bits: int
    per: Literal["block", "row", "tensor"] = "block"
    block: int = 32
    affine: bool = False
    mse: bool = False
    source: str = "Krishnamoorthi 2018, Quantizing deep convolutional networks (arXiv:1806.08342)"

    @property
    def name(self) -> str:
        per = f"block{self.block}" if self.per == "block" else self.per
        return ":".join([f"int{self.bits}", per, *["affine"] * self.affine, *["mse"] * self.mse])

    def unit(self, values: int, row: int) -> int:
        """Values that have one scale, of a tensor of `values` in rows of `row`."""
        return max(1, {"block": self.block, "row": row, "tensor": values}[self.per])

    def stored_bits(self, values: int, row: int) -> int:
        of_scale = 32 + self.bits * self.affine
        return values * self.bits + values // self.unit(values, row) * of_scale


@dataclass(frozen=True)
class Shared:
    """Small floating-point values, with a scale for each block of them.

    Attributes
    ----------
    name : str
    element : Format
    block : int
        Values in a block.
    scale : Format or None
        None: a power of two (E8M0). Otherwise the blocks' scales are in this format, times one F32 of
        the tensor.
    source : str
    """

    name: str
    element: Format
    block: int
    scale: Format | None
    source: str

    def stored_bits(self, values: int, row: int) -> int:
        return values * self.element.bits + values // self.block * 8 + (32 if self.scale else 0)


@dataclass(frozen=True)
class GgmlType:
    """A block-quantized type of ggml, rounded to by ggml's own rules.

    Attributes
    ----------
    name : str
    type : str
        ggml's name.
    by : {"gguf", "ggml"}
        What quantizes: gguf-py, or ggml's own library.
    source : str
    """

    name: str
    type: str
    by: str
    source: str = "ggml-quants.c"

    @property
    def block(self) -> int:
        return self._layout.values

    def stored_bits(self, values: int, row: int) -> int:
        return values // self.block * self._layout.nbytes * 8

    @property
    def _layout(self) -> types.Storage:
        return types.BY_NAME[self.type]


Target = Format | Integer | Shared | GgmlType
"""What `fakequant` can round to."""

IEEE = "IEEE 754-2019"
OCP8 = "OCP 8-bit Floating Point Specification 1.0"
OCP_MX = "OCP Microscaling Formats (MX) Specification 1.0"
FNUZ = "Noune et al. 2022, 8-bit Numerical Formats for Deep Neural Networks (arXiv:2206.02915)"

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
        Format("fp8_e5m2fnuz", 5, 2, 16, "fnuz", FNUZ),
        Format("fp8_e4m3fnuz", 4, 3, 8, "fnuz", FNUZ),
        Format("fp8_e3m4", 3, 4, 3, "ieee", f"{IEEE} style, as float8_e3m4 of ml_dtypes"),
        Format("fp6_e2m3fn", 2, 3, 1, "none", OCP_MX),
        Format("fp6_e3m2fn", 3, 2, 3, "none", OCP_MX),
        Format("fp4_e2m1fn", 2, 1, 1, "none", OCP_MX),
    )
}

SHARED = {
    shared.name: shared
    for shared in (
        Shared("mxfp8", CATALOGUE["fp8_e4m3fn"], 32, None, OCP_MX),
        Shared("mxfp8_e5m2", CATALOGUE["fp8_e5m2"], 32, None, OCP_MX),
        Shared("mxfp6", CATALOGUE["fp6_e2m3fn"], 32, None, OCP_MX),
        Shared("mxfp6_e3m2", CATALOGUE["fp6_e3m2fn"], 32, None, OCP_MX),
        Shared("mxfp4", CATALOGUE["fp4_e2m1fn"], 32, None, OCP_MX),
        Shared("nvfp4", CATALOGUE["fp4_e2m1fn"], 16, CATALOGUE["fp8_e4m3fn"], "NVIDIA, Introducing NVFP4 (2025)"),
    )
}

BLOCK_TYPES = {
    name.lower(): GgmlType(name.lower(), name, by)
    for by, names in (
        ("gguf", ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0")),
        ("ggml", ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")),
    )
    for name in names
} | {"ggml_mxfp4": GgmlType("ggml_mxfp4", "MXFP4", "gguf")}

CLIPS = tuple(1 - i / 64 for i in range(45))
"""Shares of the largest magnitude that an MSE-optimal scale is chosen of: 1 down to 0.31."""

LEFT_BY_CUT = {13: "tf32", 16: "bf16"}
"""What an F32 is when so many of its low bits are zero, where that has a name."""

ALIASES = {
    **{"f16": "fp16", "fp32": "f32", "fp64": "f64", "bfloat16": "bf16", "float16": "fp16", "float32": "f32"},
    **{name.removeprefix(prefix): name for name in CATALOGUE for prefix in ("fp8_", "fp6_", "fp4_") if prefix in name},
    "fp4": "fp4_e2m1fn",
}

LARGEST_BLOCK = 1 << 16

_CUSTOM = re.compile(r"e([2-8])m(\d+)", re.ASCII)
_INTEGER = re.compile(r"int(\d{1,2})", re.ASCII)
_BLOCK = re.compile(r"block(\d{1,6})", re.ASCII)


def find(name: str) -> Format:
    """Return the format called `name`: one of the catalogue, or any ``eXmY``.

    An ``eXmY`` has X exponent bits (2 to 8), Y mantissa bits (0 to 23), the IEEE bias
    ``2**(X - 1) - 1``, Inf, and NaN if Y is not 0.

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
    raise _unknown(name, [*CATALOGUE, *ALIASES])


def target(name: str) -> Target:
    """Return what `name` spells: a format of `find`, or one whose values share scales.

    ``intN`` (N from 2 to 16) takes options after colons: ``block32`` (the default; any number),
    ``row`` or ``tensor``: what has a scale; ``affine``; ``mse``. As in ``int4:block128:affine``.

    Raises
    ------
    UsageError
        No such format, or an option that it does not have.
    """
    key, *options = name.lower().split(":")
    match = _INTEGER.fullmatch(key)
    if match and 2 <= int(match[1]) <= 16:
        return _integer(int(match[1]), options)
    found: Target | None = SHARED.get(key) or BLOCK_TYPES.get(key)
    if found is None:
        try:
            found = find(key)
        except UsageError:
            raise _unknown(key, [*CATALOGUE, *ALIASES, *SHARED, *BLOCK_TYPES, "int8", "int4"]) from None
    if options:
        raise UsageError(f"{key} has no option {options[0]!r}: only intN has any")
    return found


def _integer(bits: int, options: list[str]) -> Integer:
    values: dict[str, Any] = {}
    for option in options:
        match = _BLOCK.fullmatch(option)
        if match and 1 < int(match[1]) <= LARGEST_BLOCK:
            new = {"per": "block", "block": int(match[1])}
        elif option in ("row", "tensor"):
            new = {"per": option}
        elif option in ("affine", "mse"):
            new = {option: True}
        else:
            raise UsageError(
                f"int{bits} has no option {option!r}: there are blockN (N from 2 to {LARGEST_BLOCK}), "
                "row, tensor, affine, mse"
            )
        if values.keys() & new.keys():
            raise UsageError(f"int{bits}: {option!r} says a second time what was said before")
        values |= new
    return Integer(bits, **values)


MEANT = {
    "fp8": "there are two: fp8_e4m3fn, which weights are usually stored in, and fp8_e5m2",
    "fp6": "there are two: fp6_e2m3fn and fp6_e3m2fn",
}
"""Names that somebody may mean something by, and what."""

_RECIPE = re.compile(r"(i?q\d_k)_([sml])", re.ASCII)


def _unknown(name: str, known: list[str]) -> UsageError:
    if name.lower() in MEANT:
        return UsageError(f"{name} is not one format: {MEANT[name.lower()]}")
    if recipe := _RECIPE.fullmatch(name.lower()):
        return UsageError(
            f"{name} is llama.cpp's recipe for a whole model, a type for each tensor; a format is {recipe[1]}: "
            f"--to {recipe[1]} for all, or --rule REGEX=FORMAT for some"
        )
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), known, 3, 0.3) or list(CATALOGUE)
    return UsageError(f"no format is called {name!r}; did you mean {', '.join(near)}? (or eXmY, as e5m7)")
