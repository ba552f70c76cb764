"""What counts say for each number format."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from truebits.numbers.spelling import find
from truebits.precision.evidence import Evidence, at_scale, ladder, most_exceptions
from truebits.precision.origin import judge
from words import draws, profile_of, rounded, words_in


def test_evidence_adds_up():
    parts = [profile_of(words_in(rounded(draws(500, 0.02, seed), "bf16"), "F32"), "F32") for seed in range(3)]
    whole = Evidence.merge(Evidence.of(part) for part in parts)
    together = Evidence.of(parts[0] + parts[1] + parts[2])
    assert replace(whole, kinds={}) == replace(together, kinds={})
    assert all(together.kinds[pair] <= bits for pair, bits in whole.kinds.items())
    assert judge(whole).format == "bf16"
    with pytest.raises(ValueError, match="of one storage type"):
        Evidence.merge([Evidence.of(parts[0]), Evidence.of(profile_of(words_in([1.0], "F16"), "F16"))])


def evidence(values, type="F32"):
    return Evidence.of(profile_of(words_in(values, type), type))


CASTS = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "f32": np.float32}


@pytest.mark.parametrize("type", ["F32", "F16", "F64"])
def test_who_does_not_fit_is_counted(type):
    dtype = {"F32": np.float32, "F16": np.float16, "F64": np.float64}[type]
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 65504, -65504, 1e-7])
    with np.errstate(over="ignore"):
        values = np.concatenate([np.random.default_rng(0).normal(0, 1, 3_000), special]).astype(dtype)
        values[:1_000] = values[:1_000].astype(ml_dtypes.bfloat16)
        got = evidence(values, type)
        assert (got.values, got.nan) == (values.size - 1, 1)
        for name in set(CASTS) & set(ladder(type)):
            expected = np.count_nonzero((values.astype(CASTS[name]).astype(dtype) != values) & ~np.isnan(values))
            assert got.outside[name] == expected
    assert (got.infinite, got.at_end) == (2, 2)


def test_bits_that_are_zero_by_chance_only():
    """A normal F32 is exact in BF16 once in 2^16, in FP16 once in 2^13: so many bits each value is worth."""
    values = rounded(draws(1_000, 1.0), "bf16")
    values = values[(np.abs(values) > 0.01) & (np.abs(values) != 2.0 ** np.floor(np.log2(np.abs(values))))]
    got = evidence(values)
    assert got.bits["bf16", "f32"] == 16 * got.telling
    assert got.bits["bf16", "fp16"] == 3 * got.telling
    assert got.bits["fp16", "f32"] == 13 * got.telling
    assert got.kinds["bf16", "f32"] <= got.bits["bf16", "f32"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], (0, 0, None)), ([0, 1, 2, 1.5, -3], (5, 0, None)), ([1.25], (1, 1, None)), ([-2, 2, 2], (3, 0, 1))],
)
def test_few_values(values, expected):
    got = evidence(np.array(values, np.float32))
    assert (got.values, got.telling, None if got.magnitude is None else 1) == expected


def test_the_last_bit_of_fp16_is_set_once_in_two():
    got = evidence(rounded(draws(4_000, 1.0), "fp16"))
    assert 0.45 < got.last_bits_set / got.last_bits < 0.55
    assert evidence(rounded(draws(4_000, 1.0), "bf16")).last_bits_set == 0


def test_whole_numbers():
    assert evidence(np.arange(300.0, dtype=np.float32)).fractions == 0
    assert evidence(np.array([1.5, 2, 0.25, np.inf], np.float32)).fractions == 2


@pytest.mark.parametrize("shift", [0, -9, 5])
def test_fp8_under_a_power_of_two(shift):
    values = np.random.default_rng(0).normal(0, 1, 2_000).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = np.append(values, 416) * np.float32(2.0**shift)
    profile = profile_of(words_in(values, "F32"), "F32")
    format = at_scale(profile, find("fp8_e4m3fn"))
    assert profile.fits(format) == profile.values
    assert (format == find("fp8_e4m3fn")) == (shift == 0)


@pytest.mark.parametrize("values", [[], [0.0], draws(2_000)])
def test_a_format_that_no_scale_helps_stays(values):
    profile = profile_of(words_in(np.array(values, np.float32), "F32"), "F32")
    for name in ("fp8_e4m3fn", "bf16"):
        assert at_scale(profile, find(name)) == find(name)


@pytest.mark.parametrize(("values", "expected"), [(0, 1), (500, 1), (1_000, 1), (10_000, 10)])
def test_most_exceptions(values, expected):
    assert most_exceptions(values) == pytest.approx(expected)


@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "F64"])
def test_a_ladder_ends_with_its_own_type(type):
    assert ladder(type)[-1] == {"F32": "f32", "F16": "fp16", "BF16": "bf16", "F64": "f64"}[type]


def test_nothing_does_not_add_up():
    with pytest.raises(ValueError, match="of one storage type"):
        Evidence.merge([])
    alone = evidence(draws(10))
    assert Evidence.merge([alone]) is alone
