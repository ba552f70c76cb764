"""Verdicts on true draws: weights of a known precision, seeded."""

import numpy as np
import pytest

from truebits.origin import ODDS_WANTED, judge
from words import DTYPE, profile_of


def draws(size, scale=0.02, seed=0):
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def rounded(values, name):
    """Round F32 values to a format; keep them in F32."""
    if name == "fp16":
        return values.astype(np.float16).astype(np.float32)
    if name == "bf16":
        words = values.view(np.uint32)
        return (words + 0x7FFF + (words >> 16 & 1) & 0xFFFF0000).view(np.float32)
    return values


def stored(values, type):
    """Return the words of values that are exact in a storage type."""
    if type == "BF16":
        return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.asarray(values, {"F32": np.float32, "F16": np.float16, "F64": np.float64}[type]).view(DTYPE[type])


def judged(values, type="F32"):
    return judge(profile_of(stored(values, type), type))


@pytest.mark.parametrize("name", ["bf16", "fp16", "f32"])
@pytest.mark.parametrize("scale", [0.02, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_weights_of_a_known_precision(name, scale, seed):
    got = judged(rounded(draws(2_048, scale, seed), name))
    assert got.format == name
    assert got.confidence == 1


@pytest.mark.parametrize(
    ("type", "name", "expected"),
    [
        ("BF16", "bf16", "bf16"),
        ("F16", "fp16", "fp16"),
        ("F64", "bf16", "bf16"),
        ("F64", "fp16", "fp16"),
        ("F64", "f32", "f32"),
    ],
)
def test_other_storage_types(type, name, expected):
    assert judged(rounded(draws(1_000), name), type).format == expected


def test_bf16_storage_needs_no_proof():
    got = judged([0.0, 1.0, 1.5], "BF16")
    assert (got.format, got.confidence) == ("bf16", 1)


def test_f32_in_f64_is_told_by_29_zero_bits():
    got = judged([1 + 2.0**-20], "F64")
    assert (got.format, got.confidence) == ("f32", 1 - 2.0**-29)


def test_true_f64():
    got = judged(np.random.default_rng(1).normal(0, 0.02, 1_000), "F64")
    assert (got.format, got.confidence) == ("f64", 1)


def test_bf16_weights_in_f16():
    """Those above FP16's least quantum survive the way through FP16."""
    values = rounded(draws(1_000), "bf16")
    values = values[np.abs(values) > 2.0**-14]
    assert judged(values, "F16").format == "bf16"


def test_one_full_value_among_bf16_makes_it_f32():
    values = rounded(draws(1_000, 1e6), "bf16")
    values[500] = np.float32(0.1)
    got = judged(values)
    assert (got.format, got.confidence) == ("f32", 1)
    assert "of 1,000 values 1 do not fit BF16" in got.reason


@pytest.mark.parametrize(
    ("type", "value"), [("F32", 0), ("F32", 1), ("F32", -1.5), ("F16", 0.5), ("F16", 2.0**-20), ("BF16", 3), ("F64", 1)]
)
@pytest.mark.parametrize("size", [1, 4_096])
def test_constant(type, value, size):
    got = judged(np.full(size, value), type)
    assert (got.format, got.confidence) == ("constant", 1)
    assert f"all {size:,} values" in got.reason


@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "F64"])
def test_no_values_tell_nothing(type):
    got = judged(np.empty(0), type)
    assert (got.format, got.confidence) == ("ambiguous", 0)


def test_constants_of_either_sign():
    assert judged([1.0, -1.0, 1.0]).format == "constant"


def test_a_constant_of_many_bits_is_judged_by_them():
    assert judged(np.full(100, np.float32(0.1))).format == "f32"


def test_few_bits_tell_nothing():
    """0, 0.5, 1, 1.5, 2 and 3 are exact in every format."""
    got = judged(np.resize([0, 0.5, 1, 1.5, 2, 3, -0.75], 10_000))
    assert (got.format, got.confidence) == ("ambiguous", 0)
    assert "only 0 have enough bits to tell" in got.reason


LARGE = 1.25 * 2.0**20
"""Exact in BF16, not in FP16: a true F32 value looks so once in 2^16."""


@pytest.mark.parametrize(
    ("values", "format", "confidence"),
    [
        ([LARGE], "ambiguous", 1 - 2.0**-16),
        ([LARGE, 2 * LARGE], "bf16", 1 - 2.0**-32),
        ([LARGE, 1, 1.5, 0], "ambiguous", 1 - 2.0**-16),
        ([1.25], "ambiguous", 1 - 2.0**-3),
        ([1.25, 1.75, 2.5, 3.5, 5, 7], "ambiguous", 1 - 2.0**-18),
        ([1.25, 1.75, 2.5, 3.5, 5, 7, 10], "bf16", 1 - 2.0**-21),
        ([1 + 2**-10], "ambiguous", 1 - 2.0**-13),
        ([1 + 2**-10, 3 + 2**-9], "fp16", 1 - 2.0**-26),
        ([1 + 2**-10, 1.5, 0], "ambiguous", 1 - 2.0**-13),
        ([1 + 2**-20], "f32", 1),
    ],
)
def test_confidence(values, format, confidence):
    """By chance: BF16 among F32 once in 2^16, BF16 among FP16 once in 2^3, FP16 among F32 once in 2^13."""
    got = judged(values)
    assert (got.format, got.confidence) == (format, confidence)
    assert (1 - confidence > ODDS_WANTED) == (format == "ambiguous")
    assert f"{len(values):,} " in got.reason


@pytest.mark.parametrize("size", [1, 2, 4, 8, 100])
def test_true_f32_draws_are_rarely_called_anything_else(size):
    verdicts = {judged(draws(size, 1.0, seed)).format for seed in range(200)}
    assert verdicts == {"f32"}


def test_true_fp16_draws_are_not_called_bf16():
    """One FP16 value in 8 is exact in BF16, so few values may leave it open, never wrong."""
    verdicts = [judged(rounded(draws(3, 1.0, seed), "fp16")).format for seed in range(500)]
    assert "bf16" not in verdicts
    assert verdicts.count("fp16") > 400


@pytest.mark.parametrize("type", ["F16", "F32"])
@pytest.mark.parametrize("seed", range(3))
def test_small_fp16_draws_are_not_called_bf16(type, seed):
    """Below 2^-17 FP16 has 8 significant bits or fewer: all its values are exact in BF16, never by chance."""
    values = rounded(draws(1_000, 2.0**-20, seed), "fp16")
    assert np.abs(values).max() < 2.0**-17
    assert judged(values, type).format == "ambiguous"
