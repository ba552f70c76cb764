"""Storage types: the one table of how a file keeps a tensor's values, GGUF's and safetensors' together.

What is asked of it stands below it, as views: by ggml's number, by safetensors' dtype, the plain floats.
"""

from __future__ import annotations

from typing import NamedTuple


class Storage(NamedTuple):
    """How values are stored: `values` of them in `bits` bits, as one block.

    Attributes
    ----------
    name : str
        ggml's, or safetensors' where ggml has no such type; one that both have is called the same in both.
    values, bits : int
        Of a block; a type without blocks has blocks of one value.
    number : int or None
        ggml's type id.
    dtype : bool
        safetensors has it, under this name.
    format : str or None
        What a value is, in `truebits.numbers.formats`' words, where a value is a floating-point word by itself.
    """

    name: str
    values: int
    bits: int
    number: int | None = None
    dtype: bool = False
    format: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of a block, of a type whose blocks fill whole bytes."""
        return self.bits // 8


def _blocks(number: int, name: str, values: int, nbytes: int) -> Storage:
    return Storage(name, values, 8 * nbytes, number)


STORAGE_TYPES = (
    Storage("F32", 1, 32, 0, True, "f32"), Storage("F16", 1, 16, 1, True, "fp16"),
    _blocks(2, "Q4_0", 32, 18), _blocks(3, "Q4_1", 32, 20), _blocks(6, "Q5_0", 32, 22),
    _blocks(7, "Q5_1", 32, 24), _blocks(8, "Q8_0", 32, 34), _blocks(9, "Q8_1", 32, 36),
    _blocks(10, "Q2_K", 256, 84), _blocks(11, "Q3_K", 256, 110), _blocks(12, "Q4_K", 256, 144),
    _blocks(13, "Q5_K", 256, 176), _blocks(14, "Q6_K", 256, 210), _blocks(15, "Q8_K", 256, 292),
    _blocks(16, "IQ2_XXS", 256, 66), _blocks(17, "IQ2_XS", 256, 74), _blocks(18, "IQ3_XXS", 256, 98),
    _blocks(19, "IQ1_S", 256, 50), _blocks(20, "IQ4_NL", 32, 18), _blocks(21, "IQ3_S", 256, 110),
    _blocks(22, "IQ2_S", 256, 82), _blocks(23, "IQ4_XS", 256, 136),
    Storage("I8", 1, 8, 24, True), Storage("I16", 1, 16, 25, True), Storage("I32", 1, 32, 26, True),
    Storage("I64", 1, 64, 27, True), Storage("F64", 1, 64, 28, True, "f64"),
    _blocks(29, "IQ1_M", 256, 56), Storage("BF16", 1, 16, 30, True, "bf16"),
    _blocks(34, "TQ1_0", 256, 54), _blocks(35, "TQ2_0", 256, 66), _blocks(39, "MXFP4", 32, 17),
    _blocks(40, "NVFP4", 64, 36), _blocks(41, "Q1_0", 128, 18), _blocks(42, "Q2_0", 64, 18),
    Storage("BOOL", 1, 8, None, True), Storage("U8", 1, 8, None, True), Storage("U16", 1, 16, None, True),
    Storage("U32", 1, 32, None, True), Storage("U64", 1, 64, None, True),
    Storage("C64", 1, 64, None, True), Storage("F8_E8M0", 1, 8, None, True),
    Storage("F8_E4M3", 1, 8, None, True, "fp8_e4m3fn"), Storage("F8_E5M2", 1, 8, None, True, "fp8_e5m2"),
    Storage("F8_E4M3FNUZ", 1, 8, None, True, "fp8_e4m3fnuz"),
    Storage("F8_E5M2FNUZ", 1, 8, None, True, "fp8_e5m2fnuz"),
    Storage("F6_E2M3", 1, 6, None, True, "fp6_e2m3fn"), Storage("F6_E3M2", 1, 6, None, True, "fp6_e3m2fn"),
    Storage("F4", 1, 4, None, True, "fp4_e2m1fn"),
)  # fmt: skip
"""ggml's types (``ggml.h``, ``ggml-common.h``; Q8_1 is 36 bytes, gguf-py says 40, wrongly) and safetensors'
(``Dtype`` in its ``tensor.rs``). F8_E8M0 is a power of two without a sign: a scale."""

BY_NAME = {type.name: type for type in STORAGE_TYPES}
BY_NUMBER = {type.number: type for type in STORAGE_TYPES if type.number is not None}
BY_DTYPE = {type.name: type for type in STORAGE_TYPES if type.dtype}

FLOAT_FORMATS = {type.name: type.format for type in STORAGE_TYPES if type.format and type.number is not None}
"""The formats of the plain floating-point types that both have, F32 F16 F64 BF16, by type."""

FLOAT_BYTES = {name: BY_NAME[name].nbytes for name in FLOAT_FORMATS}
"""Bytes per value of those."""

FP8_FORMATS = {type.name: type.format for type in STORAGE_TYPES if type.format and type.bits == 8}
"""The formats of safetensors' FP8 dtypes."""

SMALL_FLOATS = {**FP8_FORMATS, "F8_E8M0": "e8m0", "F4": "fp4_e2m1fn"}
"""What a value of those, of powers of two and of 4 bits is, where no scale belongs to it."""

WHOLE_NUMBERS = ("I64", "U64", "BOOL")
"""Types that no quantizer packs codes into: positions, counters, masks."""

TORCH_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Those types by PyTorch's name, as a ``config.json`` has it."""

FIRST_CLAIMED_TWICE = 39
"""From this number on forks have numbered types of their own before ggml did: BitNet's TL2 is 39, ggml's MXFP4, too."""

OPAQUE_NAMES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "I2_S", 37: "I8_S", 38: "TL1",
    133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64", 137: "IQ2_K", 138: "IQ3_K", 139: "IQ4_K",
    140: "IQ5_K", 141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 147: "Q8_K16", 148: "Q8_K32",
    149: "Q8_KR8", 150: "Q8_K128", 151: "Q8_KV", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT", 155: "IQ4_KT",
    156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT", 202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8", 210: "Q2_K_R4",
    211: "Q3_K_R4", 212: "Q4_K_R4", 213: "Q5_K_R4", 214: "Q6_K_R4", 216: "IQ2_XXS_R4", 217: "IQ2_XS_R4",
    218: "IQ3_XXS_R4", 219: "IQ1_S_R4", 220: "IQ4_NL_R4", 221: "IQ3_S_R4", 222: "IQ2_S_R4", 223: "IQ4_XS_R8",
    229: "IQ1_M_R4", 230: "BF16_R16", 233: "Q6_0_R4", 335: "IQ2_BN_R4", 337: "IQ2_K_R4", 338: "IQ3_K_R4",
    339: "IQ4_K_R4", 340: "IQ5_K_R4", 344: "IQ4_KS_R4", 352: "IQ5_KS_R4", 398: "Q8_KV_R8", 399: "Q8_K_R8",
}  # fmt: skip
"""What ggml does not define now, by number: removed types, BitNet's, ik_llama.cpp's (``ggml.h`` of each)."""
