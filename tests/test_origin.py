"""Verdicts on true draws: weights of a known precision, seeded."""

import ml_dtypes
import numpy as np
import pytest

from truebits.precision.evidence import Evidence
from truebits.precision.origin import ODDS_WANTED, judge
from words import DTYPE, draws, profile_of, rounded, words_in


def judged(values, type="F32"):
    return judge(Evidence.of(profile_of(words_in(values, type), type)))


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


@pytest.mark.parametrize(("type", "own"), [("F32", "f32"), ("F16", "fp16"), ("BF16", "bf16"), ("F64", "f64")])
def test_full_values_of_a_storage_type_need_no_proof(type, own):
    words = np.random.default_rng(3).integers(0, 1 << 63, 100, np.uint64).astype(DTYPE[type])
    got = judge(Evidence.of(profile_of(words, type)))
    assert (got.format, got.confidence, got.exceptions) == (own, 1, 0)
    assert got.holds == got.holds_most == own


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
    assert (got.holds, got.holds_most, got.exceptions) == ("f32", "bf16", 1)
    assert "999 of 1,000 values are exact in BF16" in got.reason
    assert str(got) == "f32 (bf16 but for 1)"


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


LARGE = (1 + 2**-7) * 2.0**20
"""Exact in BF16, not in FP16: a true F32 value looks so once in 2^16."""

FULL = 1 + 2**-7
"""Exact in BF16 and in FP16, with all bits that BF16 has."""

EIGHTH = 1 + 2**-3
"""The same for FP8 E4M3."""


@pytest.mark.parametrize(
    ("values", "format", "confidence"),
    [
        ([LARGE], "ambiguous", 1 - 2.0**-16),
        ([LARGE, 2 * LARGE], "bf16", 1 - 2.0**-32),
        ([LARGE, 1, 1.5, 0], "ambiguous", 1 - 2.0**-16),
        ([FULL], "ambiguous", 1 - 2.0**-3),
        ([FULL, *[1.25, 1.75, 2.5, 3.5, 5]], "ambiguous", 1 - 2.0**-18),
        ([FULL, *[1.25, 1.75, 2.5, 3.5, 5, 7]], "bf16", 1 - 2.0**-21),
        ([EIGHTH, *[1.25, 1.75, 2.5]], "ambiguous", 1 - 2.0**-16),
        ([EIGHTH, *[1.25, 1.75, 2.5, 3.5]], "fp8_e4m3fn", 1 - 2.0**-20),
        ([1.25, 1.75, 2.5, 3.5, 5] * 4, "ambiguous", 1 - 2.0**-6),
        ([1.25, 1.75, 2.5, 3.5, 5], "ambiguous", 1 - 2.0**-5),
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


@pytest.mark.parametrize("exponent", range(-30, 15))
def test_the_odds_of_a_binade(exponent):
    """What truly is F32 or FP16 is taken for a narrower format as often as the module says; 40,000 draws."""
    random = np.random.default_rng(exponent + 100)
    values = (random.uniform(1, 2, 40_000) * 2.0**exponent).astype(np.float32)
    for wide, narrow, bits in (("f32", "bf16", 16), ("f32", "fp16", 13), ("fp16", "bf16", 3)):
        true = rounded(values, wide)
        true = true[true != 0]
        evidence = Evidence.of(profile_of(words_in(true, "F32"), "F32"))
        if "fp16" in (wide, narrow) and exponent < -14:
            continue  # near the ends of FP16 values have fewer bits
        inside = true.size - evidence.outside[narrow]
        expected = true.size * 2.0**-bits
        assert abs(inside - expected) <= 5 * np.sqrt(expected) + 1, (wide, narrow)


@pytest.mark.parametrize("exponent", range(-24, -14))
def test_the_odds_below_fp16s_normal_range(exponent):
    """FP16 has 24 + e bits there, BF16 7 at most."""
    true = np.float32(2.0**-24) * np.random.default_rng(0).integers(1 << (24 + exponent), 2 << (24 + exponent), 40_000)
    profile = profile_of(words_in(true.astype(np.float32), "F32"), "F32")
    evidence = Evidence.of(profile)
    spare = max(0, 24 + exponent - 7)
    expected = true.size * 2.0**-spare
    assert abs(true.size - evidence.outside["bf16"] - expected) <= 5 * np.sqrt(expected) + 1
    assert (evidence.bits["bf16", "fp16"] == 0) == (spare == 0)


@pytest.mark.parametrize("type", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("name", ["fp8_e4m3fn", "fp8_e5m2"])
@pytest.mark.parametrize("scale", [1, 2.0**-6])
def test_fp8_weights(type, name, scale):
    """Also where a power of two was taken out of them."""
    dtype = {"fp8_e4m3fn": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2}[name]
    for seed in range(10):
        values = draws(2_000, 1.0, seed).astype(dtype).astype(np.float32) * np.float32(scale)
        got = judged(values, type)
        assert got.format == name, (seed, got)


def test_bf16_weights_are_not_called_fp8():
    assert {judged(rounded(draws(20, 1.0, seed), "bf16"), "BF16").format for seed in range(200)} == {"bf16"}


@pytest.mark.parametrize("type", ["F32", "F64"])
def test_bf16_through_fp16_is_said_where_small_values_show_it(type):
    values = rounded(draws(5_000, 2.0**-16), "bf16")
    assert judged(values, type).through is None
    got = judged(rounded(values, "fp16"), type)
    assert (got.format, got.through) == ("bf16", "fp16")
    assert "FP16's grid" in got.reason
    assert str(got) == "bf16 (through fp16)"


def test_bf16_through_fp16_is_said_where_values_are_clipped():
    values = rounded(draws(5_000, 20_000.0), "bf16")
    assert np.abs(values).max() > 65_504
    assert judged(values).through is None
    clipped = judged(np.clip(values, -65_504, 65_504))
    assert (clipped.format, clipped.through, clipped.holds, clipped.holds_most) == ("bf16", "fp16", "fp16", "bf16")
    assert str(clipped) == "bf16 (through fp16)"
    assert f"the other {clipped.exceptions:,} stand at FP16's end" in clipped.reason
    with np.errstate(over="ignore"):
        overflown = judged(rounded(values, "fp16"))
    assert (overflown.format, overflown.through) == ("bf16", "fp16")
    assert "are Inf" in overflown.reason


@pytest.mark.parametrize("seed", range(20))
def test_bf16_that_fp16_would_hold_is_not_said_to_have_gone_through_it(seed):
    got = judged(rounded(draws(2_000, 0.02, seed), "bf16"))
    assert (got.format, got.through) == ("bf16", None)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("size", [64, 2_048, 100_000])
def test_few_outliers_do_not_hide_an_upcast(name, size):
    values = rounded(draws(size, 1.0), name)
    few = max(1, size // 1_000)
    values[:few] = np.float32(0.1) + np.arange(few, dtype=np.float32)
    got = judged(values)
    assert (got.format, got.holds, got.holds_most, got.exceptions) == ("f32", "f32", name, few)
    more = values.copy()
    more[few : 2 * few] = np.float32(0.3)
    assert judged(more).exceptions == 0


def test_outliers_of_too_few_values_tell_nothing():
    got = judged([0.1, LARGE])
    assert (got.format, got.exceptions) == ("f32", 0)


def test_small_values_of_few_bits_are_no_trace_of_fp16():
    values = np.append(rounded(draws(1_000), "bf16"), np.full(100, 2.0**-20, np.float32))
    assert judged(values).through is None


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_near_constant_norms(name):
    """All 1 but for some: too few of these leave it open, whatever they are."""
    some = rounded(draws(2_000, 1.0), name)
    for count, expected in ((1, "ambiguous"), (40, name)):
        values = np.ones(2_048, np.float32)
        values[:count] = some[:count]
        assert judged(values).format == expected


@pytest.mark.parametrize("scale", [0.02, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_mean_of_bf16_models_is_not_called_fp16(scale, seed):
    """What one training step apart is: the mean of two neighbours has one bit more than BF16."""
    one = rounded(draws(2_048, scale, seed), "bf16")
    other = rounded(one * np.random.default_rng(seed).uniform(0.99, 1.01, one.size).astype(np.float32), "bf16")
    mean = (one + other) / 2
    mean = mean[np.abs(mean) > 2.0**-14]
    got = judged(mean)
    assert (got.format, got.holds) == ("f32", "fp16")


def test_too_few_values_of_a_mean_are_ambiguous():
    few = np.float32([1 + 2**-8, 1 + 3 * 2**-8] * 6)
    got = judged(few)
    assert (got.format, got.holds) == ("ambiguous", "fp16")


@pytest.mark.parametrize("scale", [0.02, 1.0, 1e5])
@pytest.mark.parametrize("seed", range(5))
def test_tf32_is_not_fp16(scale, seed):
    words = draws(20_000, scale, seed).view(np.uint32)
    got = judged((words + 0xFFF + (words >> 13 & 1) & 0xFFFFE000).view(np.float32))
    assert got.format == "tf32" or (scale == 1.0 and "fits FP16: FP16, TF32" in got.reason)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp8_e5m2", ml_dtypes.float8_e5m2), ("fp8_e4m3fn", ml_dtypes.float8_e4m3fn)]
)
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 0.02, 1.0])
def test_small_fp8_weights_are_not_called_the_other_fp8(name, dtype, scale):
    got = judged(draws(20_000, scale).astype(dtype).astype(np.float32))
    assert got.format in (name, "ambiguous", "constant")


@pytest.mark.parametrize("scale", [2.0**-24, 2.0**-23, 2.0**-22, 2.0**-20])
def test_fp16_of_deep_subnormals_is_not_fp8(scale):
    got = judged(rounded(draws(5_000, scale), "fp16"))
    assert got.format in ("ambiguous", "fp16")


@pytest.mark.parametrize("size", [64, 512, 4_096, 100_000])
def test_tables_of_whole_numbers_are_no_weights(size):
    got = judged(np.arange(size, dtype=np.float32))
    assert got.format == "integer"
    assert "no weights" in got.reason


@pytest.mark.parametrize("scale", [1.125, 1.0078125, 1.75])
def test_one_number_times_signs_proves_no_format(scale):
    """Ternary weights have one magnitude: that it is exact in FP8 is chance, once in 16 for a BF16 scale."""
    values = np.random.default_rng(0).integers(-1, 2, 10_000).astype(np.float32) * np.float32(scale)
    assert not judged(values).format.startswith("fp8")
