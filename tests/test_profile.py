"""Every question asked of a profile, against an answer found value by value."""

import math
from collections import Counter
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truebits.errors import UsageError
from truebits.numbers.spelling import find
from truebits.precision.bins import FLOAT_LAYOUTS
from truebits.precision.profile import PrecisionProfile, Questions
from truebits_native import profiles, reference
from words import (
    DTYPE,
    SPECIAL,
    TYPES,
    assert_same_answers,
    bins_of,
    grid,
    is_nan,
    mixed,
    profile_of,
    representable,
    values_of,
    wide,
)

MANTISSA_BITS = {"F32": 23, "F16": 10, "BF16": 7, "F64": 52}
WORD_BITS = {"F32": 32, "F16": 16, "BF16": 16, "F64": 64}

EVERY_TYPE = pytest.mark.parametrize("type", TYPES)


@pytest.fixture(scope="module")
def every():
    """Words of each type that reach every bin, with random ones among the F32."""
    words = {type: grid(type) for type in TYPES}
    words["F32"] = np.concatenate([words["F32"], SPECIAL, mixed(5_000, 0)])
    return words


def by_word(mask, words, type):
    """Look up, for each word, the answer for its bin."""
    return mask[bins_of(words, type)]


# --- an independent definition of formats


def exact_by_list(exponent_bits, mantissa_bits):
    values = representable(exponent_bits, mantissa_bits)

    def exact(asked):
        asked = np.abs(asked)
        return values[np.minimum(np.searchsorted(values, asked), values.size - 1)] == asked

    return exact


def exact_by_cast(dtype):
    def exact(asked):
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return asked.astype(dtype).astype(np.float64) == asked

    return exact


EXACT = {
    "bf16": exact_by_cast(ml_dtypes.bfloat16),
    "fp16": exact_by_cast(np.float16),
    "f32": exact_by_cast(np.float32),
    "tf32": exact_by_list(8, 10),
    "fp8_e5m2": exact_by_cast(ml_dtypes.float8_e5m2),
    "fp8_e4m3fn": exact_by_cast(ml_dtypes.float8_e4m3fn),
    "e4m3": exact_by_cast(ml_dtypes.float8_e4m3),
    "e3m4": exact_by_cast(ml_dtypes.float8_e3m4),
    "e5m10": exact_by_cast(np.float16),
    "e8m7": exact_by_cast(ml_dtypes.bfloat16),
    "e8m23": exact_by_cast(np.float32),
    "e2m0": exact_by_list(2, 0),
    "e2m3": exact_by_list(2, 3),
    "e3m0": exact_by_list(3, 0),
    "e4m0": exact_by_list(4, 0),
    "e5m7": exact_by_list(5, 7),
    "e6m9": exact_by_list(6, 9),
    "e7m1": exact_by_list(7, 1),
    "e8m0": exact_by_list(8, 0),
    "e2m15": exact_by_list(2, 15),
}
WITHOUT_INFINITY = {"fp8_e4m3fn"}


def fits_defined(words, type, name):
    """Finite values as `EXACT` says. Inf where the format has it. A NaN where its payload survives:
    the leading bits of formats of 16 bits and more, only the quiet bit of narrower ones, and none where
    the format has no mantissa to hold it.
    """
    values = values_of(words, type)
    expected = EXACT[name](np.where(np.isfinite(values), values, 0))
    expected[np.isinf(values)] = name not in WITHOUT_INFINITY
    format = find(name)
    bits = 52 if type == "F64" else 23
    payload = wide(words, type).astype(np.uint64) & ((1 << bits) - 1)
    if format.mantissa_bits == 0:
        survives = np.zeros(words.size, bool)
    elif format.bits >= 16:
        survives = payload % 2 ** (bits - format.mantissa_bits) == 0
    else:
        survives = payload == 2 ** (bits - 1)
    return np.where(np.isnan(values), survives, expected)


def test_the_list_of_values_is_that_of_ml_dtypes():
    for dtype, widths in ((ml_dtypes.float8_e4m3, (4, 3)), (ml_dtypes.float8_e5m2, (5, 2)), (np.float16, (5, 10))):
        patterns = np.arange(1 << (8 * np.dtype(dtype).itemsize - 1)).astype(f"u{np.dtype(dtype).itemsize}")
        with np.errstate(invalid="ignore"):
            values = patterns.view(dtype).astype(np.float64)
        assert np.array_equal(representable(*widths), values[np.isfinite(values)])


# --- the bins


@EVERY_TYPE
def test_the_kernels_bins_are_those_of_the_layout(every, type):
    """Only +-480 and +-65504 are `scan`'s to move."""
    words = every[type]
    starts, stops = np.array([0]), np.array([words.size])
    got = PrecisionProfile.of(type, *profiles(words, starts, stops, type)[:2])
    expected = profile_of(words, type)
    assert np.array_equal(got.table, expected.table)
    assert got.values == expected.values == words.size


@EVERY_TYPE
def test_table(every, type):
    words = every[type]
    profile = profile_of(words, type)
    expected = np.zeros((2048, 53) if type == "F64" else (256, 24), np.int64)
    columns = expected.shape[1]
    bins = bins_of(words, type)
    for magnitude, exponent, bits in ((480, 8, 3), (65504, 15, 10)):
        place = (exponent + expected.shape[0] // 2 - 1) * columns + columns - 1 - bits
        bins[np.abs(values_of(words, type)) == magnitude] = place
    np.add.at(expected.reshape(-1), bins, 1)
    assert profile.table.dtype == np.int64
    assert np.array_equal(profile.table, expected)


def test_f32_table_is_that_of_the_native_profile():
    words = mixed(10_000, 1)
    assert np.array_equal(profile_of(words, "F32").table, reference.profile(words))


# --- zeros, subnormals, Inf and NaN


@EVERY_TYPE
def test_special_values(every, type):
    words = every[type]
    profile, layout, values = profile_of(words, type), FLOAT_LAYOUTS[type], values_of(words, type)
    smallest_normal = {"F16": 2.0**-14, "F64": 2.0**-1022}.get(type, 2.0**-126)
    for name, expected in (
        ("zero", values == 0),
        ("subnormal", (values != 0) & (np.abs(values) < smallest_normal)),
        ("inf", np.isinf(values)),
        ("nan", np.isnan(values)),
    ):
        assert_same_answers(by_word(getattr(layout, f"is_{name}"), words, type), expected, words)
        assert getattr(profile, name) == np.count_nonzero(expected) > 0


# --- low zeros and cuts


@EVERY_TYPE
def test_low_zero_for_every_number_of_bits(every, type):
    words = every[type]
    profile = profile_of(words, type)
    for bits in range(1, WORD_BITS[type]):
        expected = words.astype(np.uint64) % np.uint64(2**bits) == 0
        assert_same_answers(by_word(FLOAT_LAYOUTS[type].low_zero(bits), words, type), expected, words)
        assert profile.low_zero(bits) == np.count_nonzero(expected)


def test_low_zero_is_what_the_kernel_counts():
    words = mixed(10_000, 2)
    profile = profile_of(words, "F32")
    for bits in range(1, 32):
        assert profile.low_zero(bits) == reference.low_zero_count(words, bits)


@EVERY_TYPE
def test_low_zero_refuses_other_numbers_of_bits(type):
    profile = profile_of(np.zeros(1, DTYPE[type]), type)
    for bits in (-1, 0, WORD_BITS[type]):
        with pytest.raises(ValueError, match=rf"bits is {bits}, allowed are 1 to {WORD_BITS[type] - 1} for {type}"):
            profile.low_zero(bits)


def test_changed_by_cut_is_what_truncate_changes(every):
    words = every["F32"]
    profile = profile_of(words, "F32")
    for bits in range(1, 32):
        cut = words.copy()
        assert profile.changed_by_cut(bits) == reference.truncate(cut, bits)
        assert_same_answers(by_word(FLOAT_LAYOUTS["F32"].unchanged(bits), words, "F32"), cut == words, words)


@pytest.mark.parametrize("type", ["F16", "BF16", "F64"])
def test_changed_by_cut_of_other_types(every, type):
    """The same rule, in the type's own sizes: Inf stays, and a NaN keeps or gets a mantissa bit."""
    words = every[type]
    profile, mantissa_bits = profile_of(words, type), MANTISSA_BITS[type]
    mantissa = DTYPE[type](2**mantissa_bits - 1)
    special = ~np.isfinite(values_of(words, type))
    for bits in range(1, WORD_BITS[type]):
        mask = DTYPE[type](2 ** WORD_BITS[type] - 2**bits)
        cut = np.where(special, words & (mask | ~mantissa), words & mask)
        cut[is_nan(words, type) & (cut & mantissa == 0)] |= DTYPE[type](2 ** (mantissa_bits - 1))
        assert profile.changed_by_cut(bits) == np.count_nonzero(cut != words)
        assert_same_answers(by_word(FLOAT_LAYOUTS[type].unchanged(bits), words, type), cut == words, words)


# --- fits


@EVERY_TYPE
@pytest.mark.parametrize("name", EXACT)
def test_fits(every, type, name):
    words = every[type]
    expected = fits_defined(words, type, name)
    assert expected.any()
    assert_same_answers(by_word(FLOAT_LAYOUTS[type].fits(find(name)), words, type), expected, words)
    assert profile_of(words, type).fits(name) == np.count_nonzero(expected)


@EVERY_TYPE
def test_fits_takes_names_aliases_and_formats(every, type):
    profile = profile_of(every[type], type)
    assert profile.fits("bf16") == profile.fits("bfloat16") == profile.fits(find("bf16")) == profile.fits("e8m7")
    assert profile.fits("FP16") == profile.fits("f16") == profile.fits("e5m10")
    with pytest.raises(UsageError):
        profile.fits("nothing")


@pytest.mark.parametrize(("type", "name"), [("F32", "f32"), ("F16", "fp16"), ("BF16", "bf16")])
def test_every_value_fits_its_own_format(every, type, name):
    assert profile_of(every[type], type).fits(name) == every[type].size


def words_like(values, type):
    """Return the words of exact values in a storage type."""
    dtype = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}[type]
    return np.array(values, np.float64).astype(dtype).view(DTYPE[type])


@EVERY_TYPE
def test_448_is_the_largest_fp8_e4m3fn_and_480_its_nan(type):
    exact = [256, 288, 320, 352, 384, 416, 448]
    for value, expected in [(value, 1) for value in exact] + [(480, 0), (512, 0), (272, 0)]:
        words = words_like([value, -value], type)
        assert profile_of(words, type).fits("fp8_e4m3fn") == 2 * expected, value
        assert profile_of(words, type).fits("e5m3") == 2 * (value != 272), value
    all_of_them = profile_of(words_like([*exact, 480, 512], type), type)
    assert all_of_them.fits("fp8_e4m3fn") == 7
    assert all_of_them.fits("e5m3") == 9


@pytest.mark.parametrize("name", ["e2m0", "e5m0", "e8m0"])
def test_no_nan_fits_a_format_without_a_mantissa(name):
    """Its all-ones exponent has one code, and that is Inf."""
    words = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7F800000], np.uint32)
    assert profile_of(words, "F32").fits(name) == 1


# --- adding up


def random_profile(type, seed, size=500):
    words = np.random.default_rng(seed).permutation(grid(type))[:size]
    return words, profile_of(words, type)


@EVERY_TYPE
def test_profiles_add_up(type):
    (first, a), (second, b), (third, c) = (random_profile(type, seed) for seed in (1, 2, 3))
    expected = profile_of(np.concatenate([first, second, third]), type)
    assert (a + b) + c == expected
    assert a + (b + c) == expected
    assert c + a + b == expected
    assert PrecisionProfile.merge([a, b, c]) == expected
    assert PrecisionProfile.merge(iter([b, c, a])) == expected
    assert PrecisionProfile.merge([a]) == a
    assert (a + b).values == a.values + b.values
    assert (np.diff(expected.bins) > 0).all()
    assert (expected.counts > 0).all()


def test_nothing_is_the_neutral_element():
    _, profile = random_profile("F32", 4)
    nothing = profile_of(np.empty(0, np.uint32), "F32")
    assert nothing.values == 0
    assert profile + nothing == nothing + profile == profile


def test_merging_leaves_the_parts_alone():
    words, profile = random_profile("F32", 5)
    profile + profile
    assert profile == profile_of(words, "F32")


def test_profiles_of_different_types_do_not_add_up():
    single, half = random_profile("F32", 6)[1], random_profile("F16", 6)[1]
    for merge in (lambda: single + half, lambda: PrecisionProfile.merge([half, single])):
        with pytest.raises(ValueError, match=r"\['F16', 'F32'\]"):
            merge()
    with pytest.raises(ValueError, match=r"\[\]"):
        PrecisionProfile.merge([])


def test_equality():
    words, profile = random_profile("F16", 7)
    assert profile == profile_of(words[::-1].copy(), "F16")
    assert profile != profile_of(words[1:], "F16")
    assert profile != PrecisionProfile("BF16", profile.bins, profile.counts)
    assert profile != "profile"


@EVERY_TYPE
def test_questions_of_many_profiles_are_those_of_each(type):
    layout = FLOAT_LAYOUTS[type]
    masks = [layout.is_zero, layout.is_nan, ~layout.fits(find("bf16")), np.ones(layout.bins, bool)]
    some = [random_profile(type, seed, size)[1] for seed, size in enumerate((1, 0, 300, 7))]
    expected = [[one.count(mask) for one in some] for mask in masks]
    assert Questions(masks).of(some).tolist() == expected


def test_of_takes_bins_in_any_order_and_drops_those_that_cancel_out():
    got = PrecisionProfile.of("F32", np.array([9, 3, 9, 5, 5]), np.array([1, 2, 3, 4, -4]))
    assert got.bins.tolist() == [3, 9]
    assert got.counts.tolist() == [2, 4]


WORDS = st.lists(st.sampled_from(SPECIAL.tolist()) | st.integers(0, 2**32 - 1), max_size=40).map(
    lambda words: np.array(words, np.uint32)
)


@settings(max_examples=100, deadline=None)
@given(first=WORDS, second=WORDS, bits=st.integers(1, 31), name=st.sampled_from(sorted(EXACT)))
def test_any_two_profiles_answer_as_their_values_together(first, second, bits, name):
    together = np.concatenate([first, second])
    got = profile_of(first, "F32") + profile_of(second, "F32")
    assert got == profile_of(together, "F32")
    assert got.low_zero(bits) == reference.low_zero_count(together, bits)
    assert got.changed_by_cut(bits) == reference.truncate(together.copy(), bits)
    assert got.fits(name) == np.count_nonzero(fits_defined(together, "F32", name))


# --- exponents and mantissas


def exponents_of(words, type):
    """Return floor(log2) of each finite value that is not zero; F32's and F64's subnormals share one."""
    values = values_of(words, type)
    values = np.abs(values[np.isfinite(values) & (values != 0)])
    return np.maximum(np.frexp(values)[1] - 1, -1023 if type == "F64" else -127).tolist()


@EVERY_TYPE
def test_exponent_range(every, type):
    expected = {"F32": (-127, 127), "BF16": (-127, 127), "F16": (-24, 15), "F64": (-1023, 1023)}
    assert profile_of(every[type], type).exponent_range == expected[type]
    words = words_like([0.75, -12.5, 0, math.inf, math.nan], type)
    assert profile_of(words, type).exponent_range == (-1, 3)
    words = words_like([0, -0.0, math.inf, math.nan], type)
    assert profile_of(words, type).exponent_range is None
    assert profile_of(words[:0], type).exponent_range is None


def entropy_of(exponents):
    shares = np.array(list(Counter(exponents).values())) / len(exponents) if exponents else np.ones(1)
    return -np.sum(shares * np.log2(shares))


@EVERY_TYPE
def test_exponent_entropy(every, type):
    profile = profile_of(every[type], type)
    assert profile.exponent_entropy == pytest.approx(entropy_of(exponents_of(every[type], type)), abs=1e-9)
    even = profile_of(words_like([1, 2, -4, 8, 1.5, 3, 5, 15, 0, math.nan], type), type)
    assert even.exponent_entropy == pytest.approx(2)
    for one in ([], [0, math.inf], [1, 1.5, -1.25]):
        got = profile_of(words_like(one, type), type).exponent_entropy
        assert got == 0
        assert math.copysign(1, got) == 1


@settings(max_examples=60, deadline=None)
@given(words=WORDS)
def test_exponents_of_any_words(words):
    profile, exponents = profile_of(words, "F32"), exponents_of(words, "F32")
    assert profile.exponent_range == ((min(exponents), max(exponents)) if exponents else None)
    assert profile.exponent_entropy == pytest.approx(entropy_of(exponents), abs=1e-9)


def mantissa_bits_of(words, type, share):
    """Try one number of leading mantissa bits after the other."""
    words = words[np.isfinite(values_of(words, type))].astype(np.uint64)
    for bits in range(MANTISSA_BITS[type] + 1):
        exact = np.count_nonzero(words % np.uint64(2 ** (MANTISSA_BITS[type] - bits)) == 0)
        if exact >= share * words.size:
            return bits
    raise AssertionError("all mantissa bits hold every value")


@EVERY_TYPE
@pytest.mark.parametrize("share", [Fraction(1), Fraction(999, 1000), Fraction(1, 2), Fraction(0)])
def test_mantissa_bits(every, type, share):
    for words in (every[type], every[type][:1], every[type][:0], every[type][::7]):
        assert profile_of(words, type).mantissa_bits(float(share)) == mantissa_bits_of(words, type, share)


def test_mantissa_bits_of_nearly_all_values():
    """One odd value in 1,000 is passed over at 99.9 %; two are not."""
    bf16, odd = np.full(1_000, 0x3F8F0000, np.uint32), np.uint32(0x3F8CCCCD)
    for odd_ones, expected in ((0, 7), (1, 7), (2, 23)):
        words = bf16.copy()
        words[:odd_ones] = odd
        profile = profile_of(words, "F32")
        assert profile.mantissa_bits(0.999) == expected
        assert profile.mantissa_bits() == (23 if odd_ones else 7)


@settings(max_examples=100, deadline=None)
@given(words=WORDS, share=st.sampled_from([Fraction(1), Fraction(9, 10), Fraction(1, 3), Fraction(999, 1000)]))
def test_mantissa_bits_of_any_words(words, share):
    assert profile_of(words, "F32").mantissa_bits(float(share)) == mantissa_bits_of(words, "F32", share)


# --- narrowest


@pytest.mark.parametrize(
    ("type", "values", "expected", "saved"),
    [
        ("F32", [1, 2.5, -0.0, math.inf], "bf16", 8),
        ("F32", [1, 2.0**99, 2.0**-133], "bf16", 6),
        ("F32", [1, 1 + 2**-10, 65504, 2.0**-24], "fp16", 8),
        ("F32", [1 + 2**-10, 65536], None, 0),
        ("F32", [1 + 2**-10, 2.0**-25], None, 0),
        ("F32", [1 + 2**-11], None, 0),
        ("F64", [1, 1e300], None, 0),
        ("F64", [1.5, 2.0**127], "bf16", 12),
        ("F64", [1 + 2**-10, 3], "fp16", 12),
        ("F64", [1 + 2**-23, 2.0**-149], "f32", 8),
        ("F64", [1 + 2**-24], None, 0),
        ("F16", [1, 0], None, 0),
        ("BF16", [1, 0], None, 0),
    ],
)
def test_narrowest_and_bytes_saved(type, values, expected, saved):
    profile = profile_of(words_like(values, type), type)
    assert profile.narrowest == expected
    assert profile.bytes_saved == saved


def test_a_nan_payload_counts_for_narrowest():
    for word, expected in ((0x7FC00000, "bf16"), (0x7F802000, "fp16"), (0x7F800001, None)):
        assert profile_of(np.array([0x3F800000, word], np.uint32), "F32").narrowest == expected


# --- answers


@EVERY_TYPE
def test_answers_are_those_to_the_single_questions(every, type):
    profile = profile_of(every[type], type)
    expected = {
        "values": profile.values,
        "low_zero": {str(bits): profile.low_zero(bits) for bits in range(1, WORD_BITS[type])},
        "fits": {name: profile.fits(name) for name in ("bf16", "fp16", "tf32", "fp8_e5m2", "fp8_e4m3fn")},
        "nan": profile.nan,
        "inf": profile.inf,
        "zero": profile.zero,
        "subnormal": profile.subnormal,
    }
    got = profile.answers()
    assert got == expected
    assert list(got) == list(expected)
    numbers = [got[key] for key in ("values", "nan", "inf", "zero", "subnormal")]
    numbers += [*got["low_zero"].values(), *got["fits"].values()]
    assert {number.__class__ for number in numbers} == {int}


def test_answers_of_nothing_are_all_zero():
    got = profile_of(np.empty(0, np.uint32), "F32").answers()
    assert {got["values"], *got["low_zero"].values(), *got["fits"].values(), got["nan"], got["zero"]} == {0}
