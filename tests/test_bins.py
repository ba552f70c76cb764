"""What each bin's values are, against the values themselves."""

import ml_dtypes
import numpy as np
import pytest

from truebits.numbers.spelling import find
from truebits.precision.bins import APART, FLOAT_LAYOUTS
from truebits_native import reference
from words import DTYPE, TYPES, assert_same_answers, bins_of, grid, is_nan, values_of

EVERY_TYPE = pytest.mark.parametrize("type", TYPES)
MANTISSA_BITS = {"F32": 23, "F16": 10, "BF16": 7, "F64": 52}
WORD_BITS = {"F32": 32, "F16": 16, "BF16": 16, "F64": 64}
SMALLEST_NORMAL = {"F32": 2.0**-126, "F16": 2.0**-14, "BF16": 2.0**-126, "F64": 2.0**-1022}


def by_word(mask, words, type):
    return mask[bins_of(words, type)]


@EVERY_TYPE
def test_kinds_of_values(type):
    layout, words = FLOAT_LAYOUTS[type], grid(type)
    values = values_of(words, type)
    magnitudes = np.abs(values)
    for mask, expected in (
        (layout.is_zero, values == 0),
        (layout.is_inf, np.isinf(values)),
        (layout.is_nan, np.isnan(values)),
        (layout.is_special, ~np.isfinite(values)),
        (layout.is_subnormal, (magnitudes > 0) & (magnitudes < SMALLEST_NORMAL[type])),
    ):
        assert mask.shape == (layout.bins,)
        assert_same_answers(by_word(mask, words, type), expected, words)


@EVERY_TYPE
def test_own_exponent_and_trailing_zeros(type):
    layout, words, bits = FLOAT_LAYOUTS[type], grid(type), MANTISSA_BITS[type]
    exponents = (words.astype(np.uint64) >> np.uint64(bits)) & np.uint64((1 << (WORD_BITS[type] - 1 - bits)) - 1)
    assert (by_word(layout.own_exponent, words, type) == exponents.astype(np.int64)).all()
    whole = words.astype(np.uint64)
    trailing = sum((whole & np.uint64((1 << k) - 1) == 0).astype(np.int64) for k in range(1, bits + 1))
    usual = ~is_nan(words, type)
    assert (by_word(layout.own_trailing, words, type) == trailing)[usual].all()


@EVERY_TYPE
def test_the_lowest_bit_of_a_value(type):
    layout, words = FLOAT_LAYOUTS[type], grid(type)
    values = values_of(words, type)
    words = words[np.isfinite(values) & (values != 0)]
    values = values_of(words, type)
    lowest = by_word(layout.lowest, words, type)
    halves, exponents = np.frexp(np.abs(values))
    whole = (halves * 2.0**53).astype(np.uint64)
    expected = exponents - 53 + np.log2((whole & (~whole + np.uint64(1))).astype(np.float64)).astype(np.int64)
    assert (lowest == expected).all()


@EVERY_TYPE
def test_low_zero_bits_of_the_word(type):
    layout, words = FLOAT_LAYOUTS[type], grid(type)
    usual = words[~is_nan(words, type)]
    for bits in range(1, WORD_BITS[type]):
        expected = usual & DTYPE[type]((1 << bits) - 1) == 0
        assert_same_answers(by_word(layout.low_zero(bits), usual, type), expected, usual)


def test_what_a_cut_leaves_alone():
    words = grid("F32")
    for bits in (1, 13, 16, 22, 23):
        cut = words.copy()
        reference.truncate(cut, bits)
        assert_same_answers(by_word(FLOAT_LAYOUTS["F32"].unchanged(bits), words, "F32"), cut == words, words)


CASTS = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp4_e2m1fn": ml_dtypes.float4_e2m1fn,
    "f32": np.float32,
}


@EVERY_TYPE
@pytest.mark.parametrize("name", CASTS)
def test_what_a_format_holds(type, name):
    words = grid(type)
    words = words[np.isfinite(values_of(words, type))]
    values = values_of(words, type)
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(CASTS[name]).astype(np.float64) == values
    layout, format = FLOAT_LAYOUTS[type], find(name)
    assert_same_answers(by_word(layout.fits(format), words, type), expected, words)
    flushed = (np.abs(values) < 2.0**format.smallest_normal_exponent) & (values != 0)
    assert_same_answers(by_word(layout.flushed(format), words, type), flushed, words)


@EVERY_TYPE
def test_where_a_bin_stands(type):
    layout = FLOAT_LAYOUTS[type]
    rows, columns = layout.shape
    assert layout.bins == rows * columns + 2
    assert layout.columns == columns
    at = layout.bin_of(0, 1)
    assert (layout.exponent[at], layout.trailing[at]) == (layout.table_bias, layout.table_bits - 1)
    for magnitude, (exponent, bits) in APART.items():
        own, usual = layout.bin_apart(magnitude), layout.bin_of(exponent, bits)
        assert own >= rows * columns > usual
        assert (layout.exponent[own], layout.trailing[own]) == (layout.exponent[usual], layout.trailing[usual])
        assert 2.0**exponent <= magnitude < 2.0 ** (exponent + 1)
        assert magnitude % 2.0 ** (exponent - bits) == 0
