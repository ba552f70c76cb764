"""The catalogue of formats against ml_dtypes and gguf-py."""

from __future__ import annotations

import math

import gguf
import ml_dtypes
import numpy as np
import pytest

from truebits.numbers.formats import BLOCK_TYPES, CATALOGUE
from truebits.numbers.spelling import find, target
from words import DTYPE_OF, grid

BY_DTYPE = pytest.mark.parametrize(("name", "dtype"), DTYPE_OF.items())


# --- what a format holds


def test_all_but_tf32_are_in_ml_dtypes():
    assert set(CATALOGUE) - set(DTYPE_OF) == {"tf32"}


@BY_DTYPE
def test_a_float_format_has_the_widths_and_limits_of_ml_dtypes(name, dtype):
    format = find(name)
    limits = ml_dtypes.finfo(dtype)
    assert (format.bits, format.mantissa_bits, format.exponent_bits) == (limits.bits, limits.nmant, limits.nexp)
    assert format.largest == float(limits.max)
    assert 2.0**format.quantum_exponent == float(limits.smallest_subnormal)
    assert 2.0**format.smallest_normal_exponent == float(limits.smallest_normal)
    assert format.largest_exponent == math.frexp(float(limits.max))[1] - 1


@BY_DTYPE
def test_a_float_format_has_the_specials_of_ml_dtypes(name, dtype):
    format = find(name)
    if name in ("f32", "f64"):
        values = grid(name.upper()).view(dtype)
    else:
        values = np.arange(1 << format.bits).astype("<u2" if format.bits == 16 else "<u1").view(dtype)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = values.astype(np.float64)
    assert format.has_inf == np.isinf(values).any()
    assert format.has_nan == np.isnan(values).any()
    assert format.has_negative_zero == np.signbit(values[values == 0]).any()


def test_tf32_is_f32_with_ten_bits_of_mantissa():
    tf32 = find("tf32")
    assert (tf32.bits, tf32.exponent_bits, tf32.mantissa_bits) == (19, 8, 10)
    assert tf32.largest == float(np.uint32(0x7F7FE000).view(np.float32))
    assert 2.0**tf32.quantum_exponent == float(np.uint32(1 << 13).view(np.float32))
    assert tf32.has_inf
    assert tf32.has_nan
    assert tf32.has_negative_zero


@pytest.mark.parametrize("mantissa_bits", range(24))
@pytest.mark.parametrize("exponent_bits", range(2, 9))
def test_exmy_is_ieee_by_its_widths(exponent_bits, mantissa_bits):
    format = find(f"e{exponent_bits}m{mantissa_bits}")

    def value(code):
        exponent, mantissa = divmod(code, 1 << mantissa_bits)
        hidden = min(exponent, 1)
        return (hidden + mantissa / (1 << mantissa_bits)) * 2.0 ** (max(exponent, 1) - (1 << (exponent_bits - 1)) + 1)

    infinity = ((1 << exponent_bits) - 1) << mantissa_bits
    assert format.bits == 1 + exponent_bits + mantissa_bits
    assert format.largest == value(infinity - 1)
    assert 2.0**format.quantum_exponent == value(1)
    assert 2.0**format.smallest_normal_exponent == value(1 << mantissa_bits)
    assert format.has_inf
    assert format.has_nan == (mantissa_bits > 0)


def test_largest():
    got = {name: find(name).largest for name in ("fp8_e4m3fn", "fp8_e5m2", "fp16", "bf16", "tf32", "f32")}
    assert got == {
        "fp8_e4m3fn": 448,
        "fp8_e5m2": 57_344,
        "fp16": 65_504,
        "bf16": 0xFF * 2.0**120,
        "tf32": 0x7FF * 2.0**117,
        "f32": float(np.finfo(np.float32).max),
    }


def test_every_format_says_its_source():
    assert all(name == format.name and format.source for name, format in CATALOGUE.items())


# --- what it would take


@pytest.mark.parametrize(
    ("name", "per_value", "more"),
    [
        ("bf16", 16, 0),
        ("tf32", 19, 0),
        ("fp8_e4m3fn", 8, 0),
        ("fp6_e2m3fn", 6, 0),
        ("e5m7", 13, 0),
        ("int8", 9, 0),
        ("int4", 5, 0),
        ("int4:affine", 5 + 4 / 32, 0),
        ("int4:block128:affine", 4 + 36 / 128, 0),
        ("int4:mse", 5, 0),
        ("int8:row", 8 + 32 / 512, 0),
        ("int8:row:affine", 8 + 40 / 512, 0),
        ("int8:tensor", 8, 32),
        ("int8:tensor:affine", 8, 40),
        ("mxfp8", 8.25, 0),
        ("mxfp8_e5m2", 8.25, 0),
        ("mxfp6", 6.25, 0),
        ("mxfp6_e3m2", 6.25, 0),
        ("mxfp4", 4.25, 0),
        ("nvfp4", 4.5, 32),
        ("q8_0", 8.5, 0),
        ("q4_0", 4.5, 0),
        ("q4_1", 5, 0),
        ("q5_0", 5.5, 0),
        ("q5_1", 6, 0),
        ("ggml_mxfp4", 4.25, 0),
        ("tq1_0", 1.6875, 0),
        ("tq2_0", 2.0625, 0),
        ("q2_k", 2.625, 0),
        ("q3_k", 3.4375, 0),
        ("q4_k", 4.5, 0),
        ("q5_k", 5.5, 0),
        ("q6_k", 6.5625, 0),
        ("iq4_nl", 4.5, 0),
        ("iq4_xs", 4.25, 0),
    ],
)
def test_stored_bits_have_the_scales_in_them(name, per_value, more):
    """Of a tensor of 3 rows of 512."""
    assert target(name).stored_bits(3 * 512, 512) == 3 * 512 * per_value + more


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_block_types_have_the_sizes_of_gguf_py(name):
    format = target(name)
    values, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format.type]]
    assert format.block == values
    assert format.stored_bits(5 * values, values) == 5 * nbytes * 8


@pytest.mark.parametrize("name", ["bf16", "int8", "int8:row", "int8:tensor:affine", "mxfp4", "nvfp4", "q4_k"])
def test_no_values_take_no_more_than_a_scale(name):
    assert 0 <= target(name).stored_bits(0, 0) <= 40
