"""The catalogue of numeric formats: what each can hold, and where that is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
