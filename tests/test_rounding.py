"""Rounding to a format: kernels against twins, and both against a list of the format's values and ml_dtypes.

All of it holds without the compiler, too, on fewer words: `some` takes a sample of them there.
"""

import math
import os
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import truebits_native as native
from truebits.files.types import FLOAT_FORMATS
from truebits.numbers.formats import CATALOGUE
from truebits.numbers.rounding import MODES, OVERFLOWS, Rounding, grid_of
from truebits.numbers.spelling import find
from truebits_native import reference
from truebits_native.reference import LANES, ROUND_CHUNK, Difference, Grid
from words import DTYPE_OF, SPECIAL, assert_same_bits, mixed

WITHOUT_COMPILER = os.environ.get("NUMBA_DISABLE_JIT") == "1"
SAMPLE = 150 if WITHOUT_COMPILER else 3_001
AROUND_LANES = (0, 1, 5, LANES - 1, LANES, LANES + 1)
AROUND_CHUNK = (ROUND_CHUNK - 1, ROUND_CHUNK, ROUND_CHUNK + 1, 3 * ROUND_CHUNK + LANES + 7)
SIZES = (*AROUND_LANES, ROUND_CHUNK + 1) if WITHOUT_COMPILER else (*AROUND_LANES, 2 * LANES + 1, *AROUND_CHUNK)
SEVERAL_CHUNKS = ROUND_CHUNK + 7 if WITHOUT_COMPILER else 5 * ROUND_CHUNK + 3

compiled = pytest.mark.skipif(WITHOUT_COMPILER, reason="takes minutes without the compiler")
pytestmark = [
    # without the compiler the kernels' numbers are NumPy's scalars, which warn where a machine's wrap around
    pytest.mark.filterwarnings(f"ignore:{what} encountered in scalar:RuntimeWarning")
    for what in ("overflow", "invalid value", "divide by zero")
    if WITHOUT_COMPILER
]

INFINITY, MAGNITUDE, SIGN = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF), np.uint32(0x80000000)

CUSTOM = ("e2m0", "e8m0", "e3m4", "e5m7", "e8m3", "e7m16", "e8m23")
FORMATS = {name: find(name) for name in (*CATALOGUE, *CUSTOM) if name != "f64"}
LISTED = [name for name in FORMATS if FORMATS[name].bits <= 19]
"""Those whose values can be listed."""

ORACLES = {name: dtype for name, dtype in DTYPE_OF.items() if name not in ("f64", "f32")}
SMALL = [name for name in ORACLES if FORMATS[name].bits <= 8]

NEAREST, TRUNCATE, STOCHASTIC = (Rounding(rounding) for rounding in MODES)
SATURATE, TO_INF = (Rounding(overflow=overflow) for overflow in OVERFLOWS)
FLUSH = Rounding(flush_subnormals=True)


def overflows(name):
    """Return what a format can do with a value beyond its largest."""
    return OVERFLOWS if FORMATS[name].has_inf or FORMATS[name].has_nan else OVERFLOWS[:1]


def manners(name, rounding):
    """Return what can be asked of a format beside the rounding, each thing alone."""
    asked = [(None, False), (None, True), *((overflow, False) for overflow in overflows(name))]
    return [Rounding(rounding, 0, *one) for one in asked]


every_format = pytest.mark.parametrize("name", FORMATS)
every_listed_format = pytest.mark.parametrize("name", LISTED)
every_rounding = pytest.mark.parametrize("rounding", MODES)


def some(words, count=SAMPLE):
    """Return the words; without the compiler only so many of them."""
    return np.random.default_rng(count).choice(words, count) if WITHOUT_COMPILER and words.size > count else words


def singles(values):
    return np.array(values, np.float32).view(np.uint32)


def grid_for(name, manner=NEAREST, storage="F32"):
    return grid_of(find(name), find(FLOAT_FORMATS[storage]), manner)


def rounded(words, name, manner=NEAREST, key=0, first=0):
    """Return new words, rounded, and the Difference; on one thread, which is the fastest for so few."""
    words = words.copy()
    grid = grid_for(name, manner, f"F{8 * words.itemsize}")
    return words, native.round_floats(words, grid, MODES[manner.mode], key, first, threads=1)


def becomes(values, name, manner=NEAREST, type=np.float32):
    """Return what numbers become, as Python floats."""
    values = np.array(values, type)
    return rounded(values.view(f"u{values.itemsize}"), name, manner)[0].view(type).tolist()


def assert_same_values(got, expected):
    """Compare F32 or F64 words; of a NaN only that it is one."""
    got, expected = got.copy(), expected.copy()
    for words in (got, expected):
        words[np.isnan(words.view(f"f{words.itemsize}"))] = np.iinfo(words.dtype).max
    assert_same_bits(got, expected)


# --- the definition, by a list of the format's values


@cache
def ladder(name):
    """Return the format's finite values from 0 up, by their codes, and what would be the next one; float64."""
    format = find(name)
    codes = np.arange(1 << (format.exponent_bits + format.mantissa_bits))
    exponents, mantissas = np.divmod(codes, 1 << format.mantissa_bits)
    significands = np.where(exponents > 0, mantissas + (1 << format.mantissa_bits), mantissas)
    values = np.ldexp(significands.astype(float), np.maximum(exponents, 1) - format.bias - format.mantissa_bits)
    lost = {"ieee": 1 << format.mantissa_bits, "nan": 1, "none": 0, "fnuz": 0}[format.special]
    values = values[: codes.size - lost]
    step = 2.0 ** (math.frexp(values[-1])[1] - 1 - format.mantissa_bits)
    return np.append(values, values[-1] + step)


def is_odd(name, codes):
    """Tell which codes' last digit is odd: where there is no mantissa it is the leading 1 of a normal value."""
    return codes % 2 == 1 if find(name).mantissa_bits else codes > 0


def defined(values, name, manner, random=None):
    """Return what F32 or F64 values become, as float64, and which are beyond the format.

    IEEE 754-2019, 4.3.1: of two equally near values the one whose last digit is even, and the larger one where
    neither's is.
    """
    format, rungs = find(name), ladder(name)
    largest, following = rungs[-2:]
    overflow = manner.overflow or ("inf" if format.has_inf and manner.mode != "truncate" else "saturate")
    overflown = largest if overflow == "saturate" else (math.inf if format.has_inf else math.nan)
    is_nan, is_inf = np.isnan(values), np.isinf(values)
    magnitudes = np.abs(np.where(is_nan | is_inf, 0, values).astype(np.float64))
    below = np.minimum(np.searchsorted(rungs, magnitudes, "right") - 1, rungs.size - 2)
    lower, upper = rungs[below], rungs[below + 1]
    if manner.mode == "nearest":
        middle = lower + (upper - lower) / 2
        is_up = (magnitudes > middle) | ((magnitudes == middle) & is_odd(name, below))
    elif manner.mode == "stochastic":
        is_up = random / 2**32 < (magnitudes - lower) / (upper - lower)
    else:
        is_up = magnitudes >= following
    result = np.where(is_up, upper, lower)
    is_beyond = result > largest
    if manner.flush_subnormals:
        result[result < 2.0**format.smallest_normal_exponent] = 0
    result[is_beyond] = overflown
    result[is_inf] = math.inf if format.has_inf else overflown
    result[is_nan] = math.nan if format.has_nan else largest
    result = np.copysign(result, np.where(np.signbit(values), -1, 1))
    if not format.has_negative_zero:
        result[result == 0] = 0
    return result, is_beyond | (is_inf & (not format.has_inf)) | (is_nan & (not format.has_nan))


@cache
def around(name):
    """Return F32 words of the format's values, of the middles between them, and of those next to each; both signs.

    Of formats with more than 16 bits, of some of the values.
    """
    rungs = ladder(name)
    some_below = np.arange(0, rungs.size - 1, 1 + (rungs.size >> 16))
    middles = (rungs[some_below] + rungs[some_below + 1]) / 2
    points = np.concatenate([rungs[some_below], rungs[-2:], middles, [1.5 * rungs[-1], 2 * rungs[-1]]])
    points = points[points <= np.finfo(np.float32).max].astype(np.float32).view(np.uint32)
    words = np.unique(np.concatenate([points[points > 0] - np.uint32(1), points, points + np.uint32(1)]))
    return np.concatenate([words, words | SIGN])


@cache
def half_patterns():
    """Return, as F32, every BF16 and every FP16."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        halves = patterns.view(np.float16).astype(np.float32).view(np.uint32)
    return np.concatenate([patterns.astype(np.uint32) << np.uint32(16), halves])


def of_every_kind(name, seed):
    """Return special words, any words, weights, and words around the format's values."""
    near = around(name) if name in LISTED else half_patterns()
    return np.concatenate([SPECIAL, mixed(SAMPLE, seed), np.random.default_rng(seed).choice(near, SAMPLE)])


@pytest.mark.parametrize("name", ORACLES)
def test_the_list_of_values_is_that_of_ml_dtypes(name):
    format, dtype = FORMATS[name], ORACLES[name]
    codes = np.arange(1 << (format.bits - 1), dtype=np.uint16 if format.bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = codes.view(dtype).astype(np.float64)
    assert values[np.isfinite(values)].tolist() == ladder(name)[:-1].tolist()
    assert format.largest == ladder(name)[-2]


def test_definition_of_rounding():
    values = np.array([0.25, 0.75, 1.75, -2.5, 3.5, 5.0, 7.0, -math.inf, math.nan])
    got, lost = defined(values, "fp4_e2m1fn", NEAREST)
    assert got.tolist() == [0.0, 1.0, 2.0, -2.0, 4.0, 4.0, 6.0, -6.0, 6.0]
    assert np.flatnonzero(lost).tolist() == [6, 7, 8]
    assert defined(values, "fp4_e2m1fn", TRUNCATE)[0].tolist() == [0.0, 0.5, 1.5, -2.0, 3.0, 4.0, 6.0, -6.0, 6.0]
    assert ladder("e2m0").tolist() == [0, 1, 2, 4]
    assert defined(np.array([0.5, 1.5, 3.0]), "e2m0", NEAREST)[0].tolist() == [0.0, 2.0, math.inf]


@every_listed_format
@every_rounding
def test_rounding_is_the_definition(both, name, rounding):
    words, key, first = of_every_kind(name, 1), 0xFEDCBA9876543210, 1 << 40
    random = reference.random_words(key, first, words.size)
    for manner in manners(name, rounding):
        got, difference = rounded(words, name, manner, key, first)
        expected, lost = defined(words.view("f4"), name, manner, random)
        assert_same_values(got, singles(expected))
        assert difference.saturated == np.count_nonzero(lost)


@pytest.mark.parametrize("name", ["f32", "e8m23"])
@every_rounding
def test_rounding_f32_to_itself_changes_no_bit(both, name, rounding):
    words = of_every_kind(name, 2)
    got, difference = rounded(words, name, Rounding(rounding))
    assert_same_bits(got, words)
    assert difference[:7] == (words.size, 0, 0, 0, 0, 0.0, 0.0)
    assert difference.snr_db == math.inf


# --- kernels against twins


def assert_kernel_is_twin(words, name, manner, key=0, first=0):
    """Round with the kernel (the caller uses its fixture) and with the twin; compare words and Difference."""
    expected, numbers = words.copy(), (MODES[manner.mode], key, first)
    told = reference.round_floats(expected, grid_for(name, manner), *numbers)
    got, difference = rounded(words, name, manner, key, first)
    assert_same_bits(got, expected)
    assert difference == told
    assert [*map(type, difference)] == [*map(type, told)] == [int] * 5 + [float] * 6 + [int] * 2


@every_format
@every_rounding
def test_kernel_is_twin(kernels, name, rounding):
    words = of_every_kind(name, 3)
    for manner in manners(name, rounding):
        assert_kernel_is_twin(words, name, manner, 0x9E3779B97F4A7C15, 12_345)


@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3fn"])
@pytest.mark.parametrize("size", SIZES)
def test_kernel_is_twin_at_sizes(kernels, name, size):
    for rounding in MODES:
        assert_kernel_is_twin(mixed(size, size), name, Rounding(rounding), 5, 6)


@every_format
def test_kernel_is_twin_on_weights_alone(kernels, name):
    """No special value makes the kernels take their longer way."""
    weights = singles(np.random.default_rng(4).normal(0, 0.02, SAMPLE))
    for rounding in MODES:
        assert_kernel_is_twin(weights, name, Rounding(rounding), 7, 8)


@pytest.mark.parametrize("word", SPECIAL.tolist(), ids="{:#010x}".format)
def test_kernel_is_twin_on_one_special_value(kernels, word):
    for name in FORMATS:
        for overflow in overflows(name):
            assert_kernel_is_twin(np.full(3, word, np.uint32), name, Rounding(overflow=overflow))


def any_grid(random):
    """Return a grid that no format may have: of any width, with every combination of what a format can lack."""
    mantissa_bits = int(random.integers(0, 24))
    least_exponent = int(random.choice([-126, random.integers(mantissa_bits - 126, 24)]))
    largest = (2 - 2.0**-mantissa_bits) * 2.0 ** random.integers(least_exponent, 128)
    beyond = random.choice([largest, math.inf, math.nan])
    infinity = random.choice([beyond, math.inf])
    nan_bits = int(random.integers(-1, mantissa_bits + 1))
    return Grid(mantissa_bits, least_exponent, largest, beyond, infinity, nan_bits, *random.choice([True, False], 2))


@every_rounding
def test_kernel_is_twin_on_any_grid(kernels, rounding):
    random = np.random.default_rng(19)
    for _ in range(30 if WITHOUT_COMPILER else 300):
        grid, words = any_grid(random), np.concatenate([SPECIAL, mixed(300, 19)])
        words = words if random.random() < 0.5 else words[words & MAGNITUDE < singles(grid.largest)]
        expected, how = words.copy(), (grid, MODES[rounding], 1, 2)
        told = reference.round_floats(expected, *how)
        assert native.round_floats(words, *how, threads=1) == told, grid
        assert_same_bits(words, expected)


@every_format
@every_rounding
def test_words_and_counts_are_the_same_where_nothing_is_measured(both, name, rounding):
    words = of_every_kind(name, 9)
    for manner in manners(name, rounding):
        expected, got, how = words.copy(), words.copy(), (grid_for(name, manner), MODES[rounding], 10, 11)
        told = reference.round_floats(expected, *how)
        counted = native.round_floats(got, *how, measured=False, threads=1)
        assert_same_bits(got, expected)
        assert counted == Difference(words.size, told.changed, saturated=told.saturated)


@every_rounding
def test_any_number_of_threads_gives_the_same(kernels, rounding):
    words, grid = mixed(SEVERAL_CHUNKS, 12), grid_for("fp8_e5m2", SATURATE)
    expected = words.copy()
    told = reference.round_floats(expected, grid, MODES[rounding], 13, 14)
    for threads in (None,) if WITHOUT_COMPILER else (1, 2, None, 64, 0):
        got = words.copy()
        assert native.round_floats(got, grid, MODES[rounding], 13, 14, threads=threads) == told
        assert_same_bits(got, expected)
        assert native.compare(words, got, threads) == told._replace(saturated=0)


def unaligned(words):
    """Return a copy of words that starts at an odd address."""
    array = np.frombuffer(bytearray(words.nbytes + 1), np.uint32, words.size, 1)
    array[:] = words
    assert not array.flags.aligned
    return array


@every_rounding
def test_words_may_lie_apart_backward_or_unaligned(both, rounding):
    words, grid, how = mixed(3 * SAMPLE, 15), grid_for("fp16"), (MODES[rounding], 16, 17)
    for lay in (lambda words: words[::3], lambda words: words[::-1][:SAMPLE], lambda words: unaligned(words[:SAMPLE])):
        whole = words.copy()
        got = lay(whole)
        expected = got.copy()
        told = reference.round_floats(expected, grid, *how)
        assert native.round_floats(got, grid, *how) == told
        assert_same_bits(got.copy(), expected)
        before = lay(words.copy())
        assert native.compare(before, got) == told._replace(saturated=0)
    assert np.count_nonzero(told.changed)
    whole = words.copy()
    native.round_floats(whole[::3], grid, *how)
    for rest in (1, 2):
        assert_same_bits(whole[rest::3], words[rest::3])


def test_the_number_of_threads_is_put_back(kernels):
    import numba

    before = numba.config.NUMBA_NUM_THREADS
    numba.set_num_threads(before)
    words = mixed(100, 18)
    native.round_floats(words, grid_for("bf16"), threads=1)
    native.compare(words, words, threads=1)
    assert numba.get_num_threads() == before


# --- against ml_dtypes


def by_oracle(words, name):
    """Return F32 words rounded by ml_dtypes (FP16: by NumPy)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return words.view(np.float32).astype(ORACLES[name]).astype(np.float32).view(np.uint32)


def as_ml_dtypes(name):
    """Return the manner of ml_dtypes: what is beyond becomes Inf, or else NaN, or else the largest."""
    return Rounding(overflow=overflows(name)[-1])


@pytest.mark.parametrize("name", ORACLES)
def test_every_bf16_and_fp16_becomes_what_it_does_in_ml_dtypes(both, name):
    words = some(half_patterns())
    if not FORMATS[name].has_nan:
        words = words[~np.isnan(words.view(np.float32))]
    got, _ = rounded(words, name, as_ml_dtypes(name))
    assert_same_values(got, by_oracle(words, name))


@pytest.mark.parametrize("name", SMALL)
def test_values_middles_and_their_neighbours_become_what_they_do_in_ml_dtypes(both, name):
    words = around(name)
    got, _ = rounded(words, name, as_ml_dtypes(name))
    assert_same_bits(got[np.isfinite(got.view("f4"))], by_oracle(words, name)[np.isfinite(got.view("f4"))])
    assert_same_values(got, by_oracle(words, name))


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_middles_of_half_precision_become_what_they_do_in_ml_dtypes(both, name):
    words = some(around(name))
    got, _ = rounded(words, name)
    assert_same_values(got, by_oracle(words, name))


@pytest.mark.parametrize("name", ORACLES)
def test_any_words_become_what_they_do_in_ml_dtypes(both, name):
    words = np.random.default_rng(20).integers(0, 1 << 32, 10 * SAMPLE if not WITHOUT_COMPILER else SAMPLE, np.uint32)
    words = words[~np.isnan(words.view(np.float32))]
    assert_same_values(rounded(words, name, as_ml_dtypes(name))[0], by_oracle(words, name))


def test_e4m3fn_saturates_where_ml_dtypes_makes_nan(both):
    values = [448.0, 449.0, 464.0, np.nextafter(np.float32(464), np.float32(465)), 480.0, 1e30, math.inf]
    words = singles(values)
    assert becomes(values, "fp8_e4m3fn") == [448.0] * 7
    assert becomes(values, "fp8_e4m3fn", SATURATE) == [448.0] * 7
    assert becomes(np.negative(values), "fp8_e4m3fn") == [-448.0] * 7
    got, difference = rounded(words, "fp8_e4m3fn", TO_INF)
    assert_same_values(got, singles([448.0] * 3 + [math.nan] * 4))
    assert_same_values(got, by_oracle(words, "fp8_e4m3fn"))
    assert difference.saturated == rounded(words, "fp8_e4m3fn")[1].saturated == 4


def test_480_is_not_a_value_of_e4m3fn(both):
    assert 480.0 not in ladder("fp8_e4m3fn")[:-1]
    for rounding in MODES:
        assert becomes([480.0, -480.0], "fp8_e4m3fn", Rounding(rounding)) == [448.0, -448.0]
        assert becomes([448.0, -448.0], "fp8_e4m3fn", Rounding(rounding)) == [448.0, -448.0]


@pytest.mark.parametrize(
    ("name", "largest"),
    [("fp6_e2m3fn", 7.5), ("fp6_e3m2fn", 28.0), ("fp4_e2m1fn", 6.0)],
)
def test_formats_without_inf_and_nan_saturate(both, name, largest):
    values = [1.01 * largest, 1e30, math.inf, -math.inf]
    got, difference = rounded(singles(values), name)
    assert got.view("f4").tolist() == [largest, largest, largest, -largest]
    assert_same_bits(got, by_oracle(singles(values), name))
    assert difference.saturated == 3  # the first of them is nearest to the largest


@pytest.mark.parametrize("name", ["fp6_e2m3fn", "fp6_e3m2fn", "fp4_e2m1fn", "e2m0"])
@every_rounding
def test_nan_becomes_the_largest_where_there_is_none(both, name, rounding):
    words = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    got, difference = rounded(words, name, Rounding(rounding))
    largest = FORMATS[name].largest
    assert got.view("f4").tolist() == [largest, -largest, largest, -largest]
    assert difference == Difference(4, 4, saturated=4, replaced=4)


@every_format
def test_nan_stays_nan_where_there_is_one(both, name):
    words = SPECIAL[np.isnan(SPECIAL.view("f4"))]
    for overflow in overflows(name):
        for rounding in MODES:
            got, difference = rounded(words, name, Rounding(rounding, overflow=overflow))
            assert np.isnan(got.view("f4")).all() == FORMATS[name].has_nan
            assert difference.saturated == (0 if FORMATS[name].has_nan else words.size)
            assert_same_bits(got & SIGN, words & SIGN)


def test_nan_keeps_the_bits_that_a_wide_format_has(both):
    nans = np.array([0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0xFFA12345, 0x7F80FFFF, 0x7F812000], np.uint32)
    kept = {
        "bf16": [0x7FC00000, 0xFFFF0000, 0x7FC00000, 0xFFA10000, 0x7FC00000, 0x7F810000],
        "fp16": [0x7FC00000, 0xFFFFE000, 0x7FC00000, 0xFFA12000, 0x7F80E000, 0x7F812000],
        "tf32": [0x7FC00000, 0xFFFFE000, 0x7FC00000, 0xFFA12000, 0x7F80E000, 0x7F812000],
        "fp8_e5m2": [0x7FC00000, 0xFFC00000, 0x7FC00000, 0xFFC00000, 0x7FC00000, 0x7FC00000],
        "e8m3": [0x7FC00000, 0xFFC00000, 0x7FC00000, 0xFFC00000, 0x7FC00000, 0x7FC00000],
    }
    for name, expected in kept.items():
        assert_same_bits(rounded(nans, name)[0], np.array(expected, np.uint32))


@every_format
@every_rounding
def test_negative_zero_stays_but_in_fnuz_formats(both, name, rounding):
    small = 2.0 ** FORMATS[name].quantum_exponent / 2**40 if FORMATS[name].exponent_bits < 8 else 0.0
    for manner in (Rounding(rounding), Rounding(rounding, flush_subnormals=True)):
        got, difference = rounded(singles([-0.0, 0.0, -small]), name, manner)
        minus = 0 if name.endswith("fnuz") else 0x80000000
        assert_same_bits(got, np.array([minus, 0, minus], np.uint32))
        assert difference.changed == (2 if not minus else 0) + (bool(small) and bool(minus))
        assert difference.flushed == bool(small)


# --- mistakes that other tools make


@pytest.mark.parametrize(
    ("name", "middles", "even"),
    [
        ("bf16", [1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)], [1.0, 1 + 2**-6, -1.0]),
        ("fp16", [2049.0, 2051.0, -2049.0], [2048.0, 2052.0, -2048.0]),
        ("tf32", [1 + 2**-11, 1 + 3 * 2**-11], [1.0, 1 + 2**-9]),
        ("fp8_e4m3fn", [17.0, 19.0, 2**-10, 3 * 2**-10], [16.0, 20.0, 0.0, 2**-8]),
        ("fp8_e5m2", [9.0, 11.0, 2**-17, 3 * 2**-17], [8.0, 12.0, 0.0, 2**-15]),
        ("fp4_e2m1fn", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
    ],
)
def test_half_way_goes_to_the_even_neighbour_not_away_from_zero(both, name, middles, even):
    assert becomes(middles, name) == even


def test_without_a_mantissa_half_way_goes_to_the_larger_neighbour(both):
    """IEEE 754-2019, 4.3.1: no neighbour but zero has an even digit."""
    assert becomes([0.5, 1.5], "e2m0", SATURATE) == [0.0, 2.0]
    assert becomes([0.75, 1.5, 3.0, 6.0, -12.0], "e8m0") == [1.0, 2.0, 4.0, 8.0, -16.0]


@pytest.mark.parametrize(
    ("name", "quantum"),
    [
        *(("fp16", 2**-24), ("fp8_e4m3fn", 2**-9), ("fp8_e5m2", 2**-16), ("fp8_e4m3fnuz", 2**-10)),
        *(("bf16", 2**-133), ("tf32", 2**-136), ("fp8_e3m4", 2**-6), ("fp4_e2m1fn", 0.5)),
    ],
)
def test_subnormals_of_the_target_are_values(both, name, quantum):
    assert ladder(name)[1] == quantum
    values = [quantum, -quantum, 0.5 * quantum, 0.75 * quantum, 1.5 * quantum]
    assert becomes(values, name) == [quantum, -quantum, 0.0, quantum, 2 * quantum]
    assert becomes(values, name, TRUNCATE) == [quantum, -quantum, 0.0, 0.0, quantum]


@every_listed_format
def test_flushing_makes_subnormals_zero_and_leaves_normal_values(both, name):
    least = 2.0 ** FORMATS[name].smallest_normal_exponent
    values = ladder(name)[:-1]
    values = values[values < 4 * least].astype(np.float32)
    got, difference = rounded(some(singles(values)), name, FLUSH)
    expected = some(singles(np.where(values < least, 0, values)))
    assert_same_bits(got, expected)
    assert difference.changed == difference.flushed == np.count_nonzero(some(singles(values)) != expected)


def test_flushing_looks_at_the_rounded_value(both):
    """As IEEE 754 has it after rounding: what rounds up to the smallest normal value is not flushed."""
    least = 2.0**-14
    values = [np.float32(least * (1 - 2**-12)), np.float32(least * (1 - 2**-10)), np.float32(-least * (1 - 2**-13))]
    assert becomes(values, "fp16", FLUSH) == [least, 0.0, -least]
    assert becomes(values, "fp16", Rounding("truncate", flush_subnormals=True)) == [0.0, 0.0, -0.0]


@every_rounding
def test_3_stays_3_with_the_mantissa_of_f32(both, rounding):
    """It is -3.0 from QPyTorch's float_quantize(3.0, exp=8, man=23)."""
    assert becomes([3.0, -3.0, 1.0], "e8m23", Rounding(rounding)) == [3.0, -3.0, 1.0]


def test_f64_is_rounded_once_not_by_way_of_f32(both):
    value = 1 + 2**-8 + 2**-40
    neighbours = 1.0, 1 + 2**-7
    apart = [abs(Fraction(value) - Fraction(neighbour)) for neighbour in neighbours]
    assert apart[1] < apart[0]
    assert becomes([float(np.float32(value))], "bf16") == [1.0]
    assert becomes([value, -value], "bf16", type=np.float64) == [neighbours[1], -neighbours[1]]


# --- all F32


@compiled
@pytest.mark.slow
def test_all_f32_to_bf16_by_an_integer_formula(kernels):
    changed, saturated, block = 0, 0, 1 << 24
    grid = grid_for("bf16")
    for first in range(0, 1 << 32, block):
        words = np.arange(first, first + block, dtype=np.uint32)
        expected = (words + (((words >> 16) & 1) + 0x7FFF)) & np.uint32(0xFFFF0000)
        is_nan = (words & MAGNITUDE) > INFINITY
        got = words.copy()
        difference = native.round_floats(got, grid, measured=False)
        nans = got[is_nan]
        assert ((nans & MAGNITUDE) > INFINITY).all()
        assert ((nans ^ words[is_nan]) & SIGN == 0).all()
        expected[is_nan] = nans
        assert_same_bits(got, expected)
        assert difference.changed == np.count_nonzero(got != words)
        changed, saturated = changed + difference.changed, saturated + difference.saturated
    assert changed == (1 << 32) - (1 << 16)
    assert saturated == 2 * (1 << 15)


# --- truncation


@pytest.mark.parametrize(("name", "bits"), [("bf16", 16), ("tf32", 13), ("e8m3", 20), ("e8m0", 23)])
def test_truncating_is_clearing_bits(both, name, bits):
    words = of_every_kind(name, 30)
    got, _ = rounded(words, name, TRUNCATE)
    cut = words.copy()
    native.truncate(cut, bits)
    usual = ~np.isnan(words.view("f4"))
    assert_same_bits(got[usual], words[usual] & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF))
    assert_same_bits(got[usual], cut[usual])


@every_format
def test_truncating_never_makes_larger(both, name):
    words = of_every_kind(name, 31)
    words = words[np.isfinite(words.view("f4"))]
    got, _ = rounded(words, name, TRUNCATE)
    assert ((got & MAGNITUDE) <= (words & MAGNITUDE)).all()
    assert_same_bits(got & SIGN, np.where(got & MAGNITUDE | FORMATS[name].has_negative_zero, words & SIGN, 0))


def test_truncating_overflows_only_where_told_and_from_the_next_value_on(both):
    """IEEE 754-2019, 7.4: toward zero, what is beyond becomes the largest."""
    values = [65504.0, 65535.0, 65536.0, -1e9]
    assert becomes(values, "fp16", TRUNCATE) == [65504.0, 65504.0, 65504.0, -65504.0]
    assert becomes(values, "fp16", Rounding("truncate", overflow="inf")) == [65504.0, 65504.0, math.inf, -math.inf]
    assert rounded(singles(values), "fp16", TRUNCATE)[1].saturated == 2


# --- stochastic rounding

SPLITMIX64 = (
    *(6457827717110365317, 3203168211198807973, 9817491932198370423),
    *(4593380528125082431, 16408922859458223821),
)
"""The first outputs for the seed 1234567, as published with Vigna's C code."""


def splitmix64(state):
    """Return the output at a state, as Vigna's C code has it."""
    mask = (1 << 64) - 1
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
    return state ^ state >> 31


def test_random_words_are_the_high_halves_of_splitmix64():
    got = reference.random_words(1234567, 1, 5)
    assert_same_bits(got, np.array([output >> 32 for output in SPLITMIX64], np.uint32))


@pytest.mark.parametrize("key", [0, 1, 1234567, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("first", [0, 1, (1 << 32) - 3, (1 << 40) + 7])
def test_random_words_are_splitmix64_at_any_key_and_position(key, first):
    states = [(key + position * 0x9E3779B97F4A7C15) % 2**64 for position in range(first, first + 50)]
    expected = np.array([splitmix64(state) >> 32 for state in states], np.uint32)
    assert_same_bits(reference.random_words(key, first, 50), expected)
    assert_same_bits(reference.random_words(key, first + 20, 30), expected[20:])
    assert reference.random_words(key, first, 0).size == 0


def test_the_kernel_draws_the_same_random_words(kernels):
    """A value half-way goes up where the first of its random bits is 0."""
    key, first, count = 1234567, 1, 64
    got, _ = rounded(np.full(count, 1 + 2**-8, np.float32).view(np.uint32), "bf16", STOCHASTIC, key, first)
    drawn = [splitmix64((key + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(first, first + count)]
    assert got.view("f4").tolist() == [1.0 if bits >> 63 else 1 + 2**-7 for bits in drawn]


BETWEEN = [
    *(("bf16", 1 + 2**-9), ("bf16", -3.3), ("bf16", 1e-3), ("bf16", 0.3 * 2**-133), ("bf16", 5.7 * 2**-133)),
    *(("fp16", 1.0003), ("fp16", -777.77), ("fp16", 0.3 * 2**-24), ("fp16", 12.9 * 2**-24)),
    *(("fp8_e4m3fn", 17.3), ("fp8_e4m3fn", 1.7 * 2**-9), ("fp8_e4m3fn", 0.01 * 2**-9), ("fp8_e5m2", -9.1)),
    *(("fp4_e2m1fn", 0.2), ("fp4_e2m1fn", -2.7), ("e2m0", 0.8), ("e2m0", 1.1), ("e7m16", 1 + 2**-18)),
]


@pytest.mark.parametrize(("name", "value"), BETWEEN)
def test_stochastic_rounding_is_unbiased(both, request, name, value):
    is_slow = WITHOUT_COMPILER and "kernels" in request.node.name
    count = 2_000 if is_slow else 200_000
    value = np.float32(value)
    got, difference = rounded(np.full(count, value).view(np.uint32), name, STOCHASTIC, 41, 42)
    magnitude, results = abs(float(value)), np.abs(got.view("f4").astype(float))
    exponent = max(math.frexp(magnitude)[1] - 1, FORMATS[name].smallest_normal_exponent)
    quantum = 2.0 ** (exponent - FORMATS[name].mantissa_bits)
    lower = magnitude // quantum * quantum
    assert set(results.tolist()) == {lower, lower + quantum}
    share = (magnitude - lower) / quantum
    assert 0 < share < 1
    error = quantum * math.sqrt(share * (1 - share) / count)
    assert abs(results.mean() - magnitude) < 4 * error
    assert difference.changed == count


@every_listed_format
def test_stochastic_rounding_leaves_exact_values(both, name):
    values = some(singles(ladder(name)[:-1]))
    values = np.concatenate([values, values | SIGN]) if FORMATS[name].has_negative_zero else values
    for key in (0, 50, (1 << 64) - 1):
        got, difference = rounded(values, name, STOCHASTIC, key)
        assert_same_bits(got, values)
        assert difference.changed == difference.saturated == 0


@every_listed_format
def test_stochastic_rounding_takes_one_of_two_neighbours(both, name):
    words = of_every_kind(name, 51)
    values = words.view("f4")
    words = words[np.abs(np.where(np.isnan(values), np.inf, values)) < ladder(name)[-2]]
    magnitudes = np.abs(words.view("f4").astype(float))
    below = np.searchsorted(ladder(name), magnitudes, "right") - 1
    lower, upper = ladder(name)[below], ladder(name)[below + 1]
    upper = np.where(lower == magnitudes, lower, upper)
    result = np.abs(rounded(words, name, STOCHASTIC, 52)[0].view("f4"))
    assert ((result == lower) | (result == upper)).all()
    assert (result == lower).any()
    assert (result[lower < upper] == upper[lower < upper]).any()


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3fn"])
def test_stochastic_rounding_is_the_same_in_pieces(both, name, pieces):
    words, start = mixed(SEVERAL_CHUNKS, 53), 1 << 33
    expected, told = rounded(words, name, STOCHASTIC, 54, start)
    got, grid = words.copy(), grid_for(name, STOCHASTIC)
    cuts = [0, *sorted(np.random.default_rng(pieces).integers(0, words.size, pieces - 1).tolist()), words.size]
    parts = [
        native.round_floats(got[begin:end], grid, reference.STOCHASTIC, 54, start + begin)
        for begin, end in pairwise(cuts)
    ]
    assert len(parts) == pieces
    assert_same_bits(got, expected)
    assert reference.merged(parts)[:7] == told[:7]


def test_another_key_or_position_gives_another_result(both):
    words = singles(np.random.default_rng(55).normal(0, 0.02, SAMPLE))
    base = rounded(words, "bf16", STOCHASTIC, 56, 0)[0]
    for key, first in ((57, 0), (56 + (1 << 63), 0), (56, 1), (56, 1 << 32)):
        other = rounded(words, "bf16", STOCHASTIC, key, first)[0]
        assert 0.2 < np.mean(other != base) < 0.5  # 1/3 of values between neighbours, on the average
    assert_same_bits(rounded(words, "bf16", STOCHASTIC, 56, 0)[0], base)


# --- once and twice


@every_format
@every_rounding
def test_rounding_twice_is_rounding_once(both, name, rounding):
    words = of_every_kind(name, 60)
    for manner in manners(name, rounding):
        once, _ = rounded(words, name, manner, 61)
        twice, difference = rounded(once, name, manner, 62)
        assert_same_bits(twice, once)
        assert difference.changed == difference.flushed == difference.max_ulp == difference.squared_error == 0


# --- the difference


def order(words):
    """Return whole numbers that neighbouring F32 have neighbouring ones of; both zeros have 0."""
    return np.where(words & SIGN, -1, 1) * (words & MAGNITUDE).astype(np.int64)


def plainly(before, after):
    """Return the Difference of F32 words, computed in float64, and the sum of the products' magnitudes.

    Errors are rounded to F32 once; what became NaN counts as the Inf of its sign.
    """
    usual = np.isfinite(before.view("f4"))
    old_words, new_words = before[usual], after[usual]
    new_words = np.where(np.isnan(new_words.view("f4")), INFINITY | (new_words & SIGN), new_words)
    old, new = old_words.view("f4").astype(float), new_words.view("f4").astype(float)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        error = np.abs(new - old).astype(np.float32).astype(float)
        share = np.where(np.isinf(error), np.inf, np.where(old == 0, 0, error / np.abs(old))).astype(np.float32)
        products = old * new
    is_finite = np.isfinite(products).all()
    whole = Difference(
        values=before.size,
        changed=np.count_nonzero(before != after),
        flushed=np.count_nonzero((old != 0) & (new == 0)),
        saturated=0,
        max_ulp=np.abs(order(old_words) - order(new_words)).max(initial=0),
        max_abs=error.max(initial=0),
        max_rel=share.max(initial=0),
        squared_error=math.fsum(error**2),
        squares=math.fsum(old**2),
        products=math.fsum(products) if is_finite else math.inf,
        other_squares=math.fsum(new**2),
    )
    return whole, math.fsum(np.abs(products)) if is_finite else math.inf


def assert_is_plainly(got, before, after):
    expected, products = plainly(before, after)
    assert got[:3] + got[4:7] == expected[:3] + expected[4:7]
    assert got.squared_error == pytest.approx(expected.squared_error, rel=1e-12, abs=0)
    assert got.squares == pytest.approx(expected.squares, rel=1e-12, abs=0)
    assert got.other_squares == pytest.approx(expected.other_squares, rel=1e-12, abs=0)
    assert got.products == pytest.approx(expected.products, rel=0, abs=1e-12 * products)


@every_format
@every_rounding
def test_difference_by_float64(both, name, rounding):
    words = of_every_kind(name, 70)
    for flush in (False, True):
        got, difference = rounded(words, name, Rounding(rounding, 0, "saturate", flush), 71)
        assert_is_plainly(difference, words, got)


@every_format
def test_difference_of_weights_by_float64(both, name):
    words = singles(np.random.default_rng(72).normal(0, 0.02, SAMPLE))
    got, difference = rounded(words, name)
    assert_is_plainly(difference, words, got)
    assert difference.saturated == 0
    assert difference.changed == np.count_nonzero(got != words)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2fnuz"])
def test_difference_with_overflow_by_float64(both, name):
    words = of_every_kind(name, 73)
    got, difference = rounded(words, name, TO_INF)
    assert_is_plainly(difference, words, got)
    assert difference.max_abs == difference.max_rel == difference.squared_error == math.inf
    assert difference.snr_db == -math.inf


@pytest.mark.parametrize("size", SIZES)
def test_compare_by_float64(both, size):
    before, after = mixed(size, 74), mixed(size, 75)
    after[::3] = before[::3]
    got = native.compare(before, after, 1)
    assert_is_plainly(got, before, after)
    assert got.saturated == 0
    assert native.compare(before, before)[:8] == (size, 0, 0, 0, 0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("size", SIZES)
def test_compare_kernel_is_twin(kernels, size):
    before, after = mixed(size, 76), mixed(size, 77)
    usual = [words[: size // 2] & np.uint32(0xBFFFFFFF) for words in (before, after)]
    for ours, theirs in ((before, after), usual, (before, before ^ np.uint32(1)), (before, before ^ SIGN)):
        assert native.compare(ours, theirs, 1) == reference.compare(ours, theirs)


def test_compare_changes_neither(both):
    before, after = mixed(SAMPLE, 78), mixed(SAMPLE, 79)
    copies = before.copy(), after.copy()
    for words in (before, after):
        words.flags.writeable = False
    native.compare(before, after, 1)
    assert_same_bits(before, copies[0])
    assert_same_bits(after, copies[1])


def test_compare_f64(both):
    before = np.array([1.0, -1e300, 0.0, 3.0, math.nan, math.inf, 5e-324])
    after = np.array([1.0 + 2**-52, -1e300, -0.0, 2.0, 7.0, 8.0, 0.0])
    got = native.compare(before.view(np.uint64), after.view(np.uint64))
    assert got[:7] == (7, 6, 1, 0, 1 << 51, 1.0, 1.0)
    assert got.squared_error == 1.0
    assert got.squares == math.inf
    assert got.snr_db == math.inf


def test_what_was_inf_or_nan_has_no_error(both):
    words = singles([math.inf, -math.inf, math.nan, 1.0])
    got, difference = rounded(words, "fp4_e2m1fn")
    assert got.view("f4").tolist() == [6.0, -6.0, 6.0, 1.0]
    assert difference == Difference(4, 3, saturated=3, squares=1.0, products=1.0, other_squares=1.0, replaced=3)
    assert native.compare(words, got) == Difference(4, 3, squares=1.0, products=1.0, other_squares=1.0, replaced=3)


@pytest.mark.parametrize(("name", "value"), [("fp16", 65520.0), ("fp8_e4m3fn", 465.0), ("bf16", 3.4e38)])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_becomes_inf_or_nan_has_an_infinite_error(both, name, value, sign):
    words = singles([sign * value, 1.0, 0.0])
    got, difference = rounded(words, name, TO_INF)
    assert not np.isfinite(got.view("f4")[0])
    assert difference[:4] == (3, 1, 0, 1)
    assert difference.max_abs == difference.max_rel == difference.squared_error == math.inf
    assert difference.max_ulp == int(INFINITY) - int(singles(value))
    assert difference.snr_db == -math.inf
    assert difference.rms == math.inf


@every_format
def test_difference_does_not_depend_on_signs(both, name):
    """A NaN is as far away, on whichever side."""
    words = singles(np.abs(np.random.default_rng(80).normal(0, 200, SAMPLE)))
    for overflow in overflows(name):
        ours = rounded(words, name, Rounding(overflow=overflow))[1]
        assert rounded(words | SIGN, name, Rounding(overflow=overflow))[1] == ours


def test_distance_across_zero(both):
    before, after = np.array([0x00000003, 0x80000002, 0], np.uint32), np.array([0x80000004, 1, SIGN], np.uint32)
    got = native.compare(before, after, 1)
    assert (got.max_ulp, got.changed, got.flushed) == (7, 3, 0)


def test_rms_and_snr():
    difference = Difference(values=4, squared_error=0.25, squares=25.0)
    assert difference.rms == 0.25
    assert difference.mse == 0.0625
    assert difference.snr_db == pytest.approx(20.0, rel=1e-15)
    assert Difference().rms == Difference().mse == 0.0
    assert Difference().snr_db == Difference(3, squares=2.0).snr_db == math.inf
    assert Difference(3, squared_error=1.0).snr_db == -math.inf
    assert Difference(3, squared_error=math.inf, squares=math.inf).snr_db == -math.inf
    assert Difference(3, squared_error=math.inf, squares=1.0).rms == math.inf


def test_cosine(both):
    before = singles([3.0, 4.0, 0.0])
    assert native.compare(before, singles([4.0, 3.0, 0.0])).cosine == pytest.approx(24 / 25, rel=1e-14)
    assert native.compare(before, singles([-4.0, 3.0, 12.0])).cosine == pytest.approx(0.0, abs=1e-14)
    assert native.compare(before, singles([-6.0, -8.0, 0.0])).cosine == pytest.approx(-1.0, rel=1e-14)
    assert native.compare(before, before).cosine == 1.0
    flushed = native.compare(singles([1.0, 1e-9]), singles([0.0, 1e-9]))
    assert flushed.cosine == pytest.approx(float(np.float32(1e-9)), rel=1e-14)
    for ours, theirs in ((before, before * 0), (before * 0, before), (before, singles([np.inf, 4.0, 0.0]))):
        assert math.isnan(native.compare(ours, theirs).cosine)
    assert math.isnan(Difference().cosine)


def test_snr_of_known_noise(both):
    """Rounding weights to 8 significant bits gives the noise that the textbook says."""
    words = singles(np.random.default_rng(81).normal(0, 0.02, 100_000 if not WITHOUT_COMPILER else 2_000))
    got, difference = rounded(words, "bf16")
    before, after = words.view("f4").astype(float), got.view("f4").astype(float)
    assert difference.snr_db == pytest.approx(
        10 * np.log10((before**2).sum() / ((after - before) ** 2).sum()), rel=1e-9
    )
    assert difference.rms == pytest.approx(np.sqrt(((after - before) ** 2).mean()), rel=1e-9)
    assert difference.cosine == pytest.approx(
        (before * after).sum() / np.sqrt((before**2).sum() * (after**2).sum()), rel=1e-9
    )
    assert 0 < difference.max_rel <= 2.0**-8


def test_merged_adds_and_takes_the_most():
    one = Difference(10, 5, 1, 2, 7, 0.5, 0.25, 3.0, 100.0, -4.0, 99.0)
    other = Difference(4, 3, 2, 1, 9, 0.125, 0.75, 1.5, 50.0, 0.5, 1.0)
    assert reference.merged([one, other]) == Difference(14, 8, 3, 3, 9, 0.5, 0.75, 4.5, 150.0, -3.5, 100.0)
    assert reference.merged([]) == Difference()
    assert reference.merged(iter([one])) == one


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_of_a_whole_are_those_of_its_chunks_in_order(both, threads):
    words = mixed(SEVERAL_CHUNKS, 82) & np.uint32(0xBFFFFFFF)
    grid, got = grid_for("fp8_e5m2", SATURATE), words.copy()
    whole = native.round_floats(got, grid, threads=threads)
    chunks = [words[at : at + ROUND_CHUNK] for at in range(0, words.size, ROUND_CHUNK)]
    assert reference.merged(native.round_floats(chunk.copy(), grid, threads=threads) for chunk in chunks) == whole
    assert len(chunks) > 1


def test_sums_keep_what_single_precision_would_lose(both):
    """10,000 values of 2^-12 beside one of 1."""
    before = singles([1.0] + [2.0**-12] * (2_000 if WITHOUT_COMPILER else 10_000))
    got = native.compare(before, np.zeros_like(before))
    assert got.squares == got.squared_error == 1 + (before.size - 1) * 2.0**-24
    assert got.flushed == got.changed == before.size


# --- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (np.zeros(4, np.float32), "1-D uint32, not 1-D float32"),
        (np.zeros(4, np.int32), "1-D uint32, not 1-D int32"),
        (np.zeros(4, np.uint16), "1-D uint32, not 1-D uint16"),
        (np.zeros(4, np.uint8), "1-D uint32, not 1-D uint8"),
        (np.zeros(4, ">u4"), "1-D uint32, not 1-D >u4"),
        (np.zeros((2, 2), np.uint32), "1-D uint32, not 2-D uint32"),
        (np.zeros((), np.uint32), "1-D uint32, not 0-D uint32"),
        (np.zeros(4, np.float64), "1-D uint64, not 1-D float64"),
        (np.zeros((2, 2), np.uint64), "1-D uint64, not 2-D uint64"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_words_of_another_type_or_shape_are_refused(both, words, said):
    with pytest.raises(TypeError, match=f"words must be {said}"):
        native.round_floats(words, grid_for("bf16"))
    with pytest.raises(TypeError, match=f"words must be {said}"):
        native.compare(words, words)


def test_compare_wants_words_of_one_type_and_number(both):
    three, four = np.zeros(3, np.uint32), np.zeros(4, np.uint32)
    with pytest.raises(ValueError, match="arrays of 3 and 4 words"):
        native.compare(three, four)
    with pytest.raises(TypeError, match="words must be 1-D uint32, not 1-D uint64"):
        native.compare(three, three.astype(np.uint64))
    with pytest.raises(TypeError, match="words must be 1-D uint64, not 1-D uint32"):
        native.compare(three.astype(np.uint64), three)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_read_only_words_are_refused(both, dtype):
    words = np.frombuffer(bytes(16), dtype)
    with pytest.raises(ValueError, match="words must be writable"):
        native.round_floats(words, grid_for("bf16"))


# --- F64


def doubles(name, seed):
    """Return F64 words: any, weights, specials, and around the format's values and middles."""
    random = np.random.default_rng(seed)
    rungs = ladder(name) if name in LISTED else random.normal(0, 1, SAMPLE).astype(np.float32).astype(float)
    points = np.concatenate([rungs[:-1], rungs[:-1] + (rungs[1:] - rungs[:-1]) / 2, rungs[-1:]])
    points = random.choice(points, min(points.size, 5 * SAMPLE), replace=False)
    special = [0.0, math.inf, math.nan, 5e-324, 2.0**-1022, 2.0**-1074 * 3, np.finfo(float).max, 1e300, 1e-300, 65520.0]
    largest = float(np.finfo(np.float32).max)
    special += [largest, largest * (1 + 2**-25), np.nextafter(largest * (1 + 2**-25), 0), 2.0**-150, 2.0**-150 * 1.1]
    values = np.concatenate(
        [
            *(special, random.normal(0, 0.02, SAMPLE), random.integers(0, 1 << 63, SAMPLE).view(float)),
            *(points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)),
            points * (1 + random.choice([-1, 1], points.size) * 2.0 ** -random.integers(20, 52, points.size)),
        ]
    )
    return np.concatenate([values, -values]).view(np.uint64)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8_e4m3fn", "fp4_e2m1fn", "tf32", "e5m7"])
@every_rounding
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_f64_is_rounded_by_the_definition(both, name, rounding, overflow):
    if overflow not in overflows(name):
        overflow = None
    words, manner = doubles(name, 90), Rounding(rounding, overflow=overflow)
    got, difference = rounded(words, name, manner, 91, 92)
    expected, lost = defined(words.view(float), name, manner, reference.random_words(91, 92, words.size))
    assert_same_values(got, expected.view(np.uint64))
    assert difference.saturated == np.count_nonzero(lost)
    assert difference.changed == np.count_nonzero(got != words)


@pytest.mark.parametrize(("name", "type"), [("fp16", np.float16), ("f32", np.float32)])
def test_f64_becomes_what_it_does_in_numpy(both, name, type):
    words = doubles(name, 93)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = words.view(float).astype(type).astype(float)
    assert_same_values(rounded(words, name)[0], expected.view(np.uint64))


@pytest.mark.parametrize("name", SMALL)
def test_f64_becomes_what_it_does_in_ml_dtypes(both, name):
    """The middles and what is next to them in F64 left out: there ml_dtypes may round twice."""
    values = doubles(name, 94).view(float)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = values[values.astype(np.float32) == values]
        expected = values.astype(ORACLES[name]).astype(float)
    got, _ = rounded(values.view(np.uint64), name, as_ml_dtypes(name))
    assert_same_values(got, expected.view(np.uint64))


def test_f64_nan_keeps_its_sign_and_leading_bits(both):
    nans = np.array([0x7FF8000000000000, 0xFFF0000000000001, 0x7FFFFFFFFFFFFFFF, 0xFFF1234567890ABC], np.uint64)
    got, difference = rounded(nans, "bf16")
    kept = [0x7FF8000000000000, 0xFFF8000000000000, 0x7FFFE00000000000, 0xFFF1200000000000]
    assert_same_bits(got, np.array(kept, np.uint64))
    assert difference == Difference(4, 3)
    assert becomes([math.nan, -math.inf], "fp4_e2m1fn", type=np.float64) == [6.0, -6.0]


def test_f64_difference(both):
    values = np.array([1 + 2**-8 + 2**-40, 3.0, -1e-60, 1e300])
    got, difference = rounded(values.view(np.uint64), "bf16", SATURATE)
    largest = FORMATS["bf16"].largest
    assert got.view(float).tolist() == [1 + 2**-7, 3.0, -0.0, largest]
    assert difference[:4] == (4, 3, 1, 1)
    assert difference.max_ulp == int(values.view(np.uint64)[3]) - int(got[3])
    assert difference.max_abs == 1e300 - largest
    assert difference.max_rel == 1.0


@every_rounding
def test_f64_to_itself_changes_no_bit(both, rounding):
    words = doubles("f32", 95)
    words = np.concatenate([words, np.random.default_rng(96).integers(0, 1 << 63, SAMPLE).astype(np.uint64) * 2])
    got, difference = rounded(words, "f64", Rounding(rounding))
    assert_same_bits(got, words)
    assert difference.changed == difference.saturated == 0
