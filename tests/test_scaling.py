"""Rounding with shared scales: kernels against twins, and both against a few lines of NumPy, bit for bit.

All of it holds without the compiler, too, on fewer words.
"""

import os
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

import truebits_native as native
from truebits.quantizers.scales import WHOLE
from truebits_native import CHUNK, dispatch, reference
from truebits_native.reference import AWAY, NEAREST, ROUND_CHUNK, STOCHASTIC, TRUNCATE, Grid, Scales
from words import assert_same_bits, mixed, unaligned

WITHOUT_COMPILER = os.environ.get("NUMBA_DISABLE_JIT") == "1"
UNITS = (1, 2, 16, 32, 100, ROUND_CHUNK + 3)
LONG = ROUND_CHUNK + 700 if WITHOUT_COMPILER else 3 * ROUND_CHUNK + 70
SHORT = 700 if WITHOUT_COMPILER else 5_003
MODES = {"nearest": NEAREST, "truncate": TRUNCATE, "stochastic": STOCHASTIC, "away": AWAY}

compiled = pytest.mark.skipif(WITHOUT_COMPILER, reason="takes minutes without the compiler")
pytestmark = [
    # without the compiler the kernels' numbers are NumPy's scalars, which warn where a machine's wrap around
    pytest.mark.filterwarnings(f"ignore:{what} encountered in scalar:RuntimeWarning")
    for what in ("overflow", "invalid value", "divide by zero")
    if WITHOUT_COMPILER
]

E2M1 = Grid(1, 0, 6.0, np.inf, np.inf, 0)
GRIDS = {"whole": WHOLE, "e2m1": E2M1}
SIGN, INFINITY = np.uint32(0x80000000), np.uint32(0x7F800000)


@pytest.fixture
def by_each(monkeypatch):
    """Give a function that makes a call with the kernels and with the twins, and returns both results."""

    def make(call):
        results = []
        for is_kernel in (True, False):
            monkeypatch.setattr(dispatch, "uses_kernel", lambda *_, is_kernel=is_kernel: is_kernel)
            results.append(call())
        return results

    return make


def singles(values):
    return np.array(values, np.float32).view(np.uint32)


def finite(size, seed):
    """Return F32 words, finite and not so large that a scale would be beyond F32."""
    words = mixed(size, seed)
    return np.where(words & INFINITY >= np.uint32(0x7E800000), words & ~INFINITY, words)


def weights(size, seed):
    return singles(np.random.default_rng(seed).normal(0, 0.02, size))


def scales_of(words, unit, offset=0, most=127.0, clip=1.0):
    """Return a symmetric scale for each unit; `clip` is the share of the largest magnitude it covers."""
    padded = np.concatenate([np.zeros(offset, np.float32), np.abs(words.view("f4"))])
    largest = np.maximum.reduceat(padded, np.arange(0, padded.size, unit))
    with np.errstate(over="ignore", divide="ignore"):
        scale = np.float32(clip) * largest / np.float32(most)
        inverse = 1 / scale
    scale = np.where(np.isfinite(inverse), scale, 0).astype(np.float32)
    inverse = np.where(np.isfinite(inverse), inverse, 0).astype(np.float32)
    end = np.full(scale.size, most, np.float32)
    return Scales(inverse, scale, -end, end)


def rounded(words, unit, offset, scales, grid=WHOLE, rounding=NEAREST, key=0, first=0):
    """Return new words, rounded, and the Difference; on one thread, which is the fastest for so few."""
    words = words.copy()
    return words, native.round_scaled(words, unit, offset, scales, grid, rounding, key, first, threads=1)


def spread(scales, size, unit, offset):
    """Return the four numbers of each value."""
    return [of[(np.arange(size) + offset) // unit] for of in scales]


# --- rounding in units


def assert_kernel_is_twin(words, unit, offset, scales, grid, rounding, key=0, first=0):
    """Round with the kernel (the caller uses its fixture) and with the twin; compare words and Difference."""
    expected = words.copy()
    told = reference.round_scaled(expected, unit, offset, scales, grid, rounding, key, first)
    got, difference = rounded(words, unit, offset, scales, grid, rounding, key, first)
    assert_same_bits(got, expected)
    assert difference == told
    assert [*map(type, difference)] == [*map(type, told)] == [int] * 5 + [float] * 6 + [int] * 2
    return difference


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("grid", GRIDS)
def test_kernel_is_twin(kernels, unit, rounding, grid):
    most = {"whole": 127.0, "e2m1": 6.0}[grid]
    for words, clip in ((finite(SHORT, unit), 1.0), (weights(SHORT, unit), 0.6)):
        for offset in {0, 1, unit // 2, unit - 1} if unit > 1 else {0}:
            scales = scales_of(words, unit, offset, most, clip)
            difference = assert_kernel_is_twin(words, unit, offset, scales, GRIDS[grid], MODES[rounding], 3, 4)
            assert difference.changed
            if clip < 1:
                assert difference.saturated


@pytest.mark.parametrize("size", [0, 1, 2, 99, 100, 101, ROUND_CHUNK - 1, ROUND_CHUNK, ROUND_CHUNK + 1])
def test_kernel_is_twin_at_sizes(kernels, size):
    words = weights(size, 5)
    scales = scales_of(words, 100, 30) if size else Scales(*(np.zeros(0, np.float32),) * 4)
    difference = assert_kernel_is_twin(words, 100, 30, scales, WHOLE, NEAREST)
    assert difference.values == size


@pytest.mark.parametrize("rounding", MODES)
def test_kernel_is_twin_with_one_sided_ends(kernels, rounding):
    """As affine scales have them: from -3 to 12, and so on."""
    words, units = weights(SHORT, 6), -(-SHORT // 32)
    random = np.random.default_rng(7)
    low = -random.integers(0, 16, units).astype(np.float32)
    scale = random.uniform(0.001, 0.005, units).astype(np.float32)
    scales = Scales(1 / scale, scale, low, low + np.float32(15))
    for grid in GRIDS.values():
        difference = assert_kernel_is_twin(words, 32, 0, scales, grid, MODES[rounding], 8, 9)
        assert difference.saturated > 100


def test_kernel_is_twin_where_scaled_values_are_huge_or_tiny(kernels):
    """Beyond 2^23, where an F32 is whole, and subnormal."""
    words = finite(100 if WITHOUT_COMPILER else SHORT, 10)
    for factor in (1e38, 2.0**24, 2.0**-30, 1e-38, 2.0**-149, 0.0):
        with np.errstate(over="ignore"):
            inside = words[np.abs(words.view("f4") * np.float32(factor)) < 3e38]
        for most in (127.0, 3e38):
            end, inverse = np.full(1, most, np.float32), np.full(1, factor, np.float32)
            scales = Scales(inverse, np.full(1, 0.5, np.float32), -end, end)
            for rounding in MODES.values():
                for grid in GRIDS.values():
                    assert_kernel_is_twin(inside, words.size, 0, scales, grid, rounding, 1, 2)


@pytest.mark.parametrize("rounding", [NEAREST, TRUNCATE])
def test_scaled_values_beyond_f32_are_clipped(both, rounding):
    one = np.ones(1, np.float32)
    scales = Scales(np.float32(1e38) * one, one, -127 * one, 127 * one)
    got, difference = rounded(singles([1e3, -1e3, 9.7e-38, 0.0]), 4, 0, scales, WHOLE, rounding)
    assert got.view("f4").tolist() == [127.0, -127.0, 10.0 if rounding == NEAREST else 9.0, 0.0]
    assert difference.saturated == 2


def by_numpy(words, unit, offset, scales, rounding):
    """Round to whole numbers of the scale, in single precision; returns values, and how many are clipped."""
    values = words.view("f4")
    inverse, scale, low, high = spread(scales, words.size, unit, offset)
    scaled = values * inverse
    whole = {NEAREST: np.rint, TRUNCATE: np.trunc, AWAY: lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x)}
    numbers = whole[rounding](scaled.astype(float)).astype(np.float32)
    return np.clip(numbers, low, high) * scale, np.count_nonzero((numbers < low) | (numbers > high))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("rounding", ["nearest", "truncate", "away"])
def test_whole_numbers_by_numpy(both, unit, rounding):
    words, offset = weights(SHORT, 11), unit // 3
    for most, clip in ((127.0, 1.0), (7.0, 0.7), (32767.0, 1.0)):
        scales = scales_of(words, unit, offset, most, clip)
        got, difference = rounded(words, unit, offset, scales, WHOLE, MODES[rounding])
        expected, clipped = by_numpy(words, unit, offset, scales, MODES[rounding])
        assert_same_bits(got, (expected + np.float32(0)).view(np.uint32))
        assert difference.saturated == clipped
        assert (clipped > 0) == (clip < 1)


@pytest.mark.parametrize("unit", [16, 32])
def test_e2m1_elements_are_those_of_ml_dtypes(both, unit):
    words = weights(SHORT, 12)
    scales = scales_of(words, unit, 0, 6.0, 0.6)
    got, difference = rounded(words, unit, 0, scales, E2M1)
    inverse, scale, *_ = spread(scales, words.size, unit, 0)
    elements = (words.view("f4") * inverse).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert_same_bits(got, (elements * scale).view(np.uint32))
    assert set(np.abs(elements).tolist()) == {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}
    assert difference.saturated > 0


def test_roundings_of_known_numbers(both):
    values = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, 2.51, -3.7, 126.4, 127.6, -1e9]
    one = np.ones(1, np.float32)
    scales = Scales(one, one, -127 * one, 127 * one)
    expected = {
        NEAREST: [0.0, 2.0, 2.0, 0.0, -2.0, -2.0, 0.0, 3.0, -4.0, 126.0, 127.0, -127.0],
        TRUNCATE: [0.0, 1.0, 2.0, 0.0, -1.0, -2.0, 0.0, 2.0, -3.0, 126.0, 127.0, -127.0],
        AWAY: [1.0, 2.0, 3.0, -1.0, -2.0, -3.0, 0.0, 3.0, -4.0, 126.0, 127.0, -127.0],
    }
    for rounding, numbers in expected.items():
        got, difference = rounded(singles(values), len(values), 0, scales, WHOLE, rounding)
        assert_same_bits(got, singles(numbers))
        assert difference.saturated == (1 if rounding == TRUNCATE else 2)


def test_e2m1_of_known_numbers(both):
    values = [0.25, 0.75, -1.25, -1.75, 2.5, 3.5, 5.0, 5.1, -7.1, 6.0, -0.2, -0.0]
    one = np.ones(1, np.float32)
    scales = Scales(one, one, -6 * one, 6 * one)
    expected = {
        NEAREST: [0.0, 1.0, -1.0, -2.0, 2.0, 4.0, 4.0, 6.0, -6.0, 6.0, -0.0, -0.0],
        TRUNCATE: [0.0, 0.5, -1.0, -1.5, 2.0, 3.0, 4.0, 4.0, -6.0, 6.0, -0.0, -0.0],
        AWAY: [0.5, 1.0, -1.5, -2.0, 3.0, 4.0, 6.0, 6.0, -6.0, 6.0, -0.0, -0.0],
    }
    for rounding, numbers in expected.items():
        assert_same_bits(rounded(singles(values), 99, 0, scales, E2M1, rounding)[0], singles(numbers))


def test_what_is_clipped_is_counted(both):
    one = np.ones(1, np.float32)
    scales = Scales(2 * one, 0.5 * one, -3 * one, 4 * one)
    values = [1.5, -1.5, 1.74, -1.74, 1.76, -1.76, 2.0, 2.24, 2.26, 9.0]
    got, difference = rounded(singles(values), 10, 0, scales)
    assert got.view("f4").tolist() == [1.5, -1.5, 1.5, -1.5, 2.0, -1.5, 2.0, 2.0, 2.0, 2.0]
    assert difference.saturated == 3
    assert difference.max_abs == 7.0
    assert difference.changed == 7
    assert difference.values == 10


def test_zero_has_no_sign_on_whole_numbers_and_keeps_it_on_floats(both):
    one = np.ones(1, np.float32)
    values = singles([-0.0, -0.1, 0.0, 0.1])
    scales = Scales(one, one, -6 * one, 6 * one)
    assert_same_bits(rounded(values, 4, 0, scales)[0], np.zeros(4, np.uint32))
    assert_same_bits(rounded(values, 4, 0, scales, E2M1)[0], singles([-0.0, -0.0, 0.0, 0.0]))


def test_a_unit_whose_scale_is_zero_becomes_zero(both):
    words = weights(96, 13)
    words[32:64] = singles([0.0, -0.0] * 16)
    scales = scales_of(words, 32)
    assert scales.inverse.tolist()[1] == scales.scale.tolist()[1] == 0
    got, difference = rounded(words, 32, 0, scales)
    assert_same_bits(got[32:64], np.zeros(32, np.uint32))
    assert difference.flushed == np.count_nonzero((got == 0) & (words & ~SIGN != 0))
    assert np.count_nonzero(got[:32]) > 25


@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("unit", [16, 100, ROUND_CHUNK + 3])
def test_rounding_in_pieces_is_rounding_the_whole(both, rounding, unit):
    """With the scales from the piece's first unit on, its place in it, and its position among random numbers."""
    words, start = weights(LONG, 14), 1 << 35
    scales = scales_of(words, unit)
    expected, told = rounded(words, unit, 0, scales, WHOLE, MODES[rounding], 15, start)
    got = words.copy()
    cuts = [0, 1, unit + 5, LONG // 2, LONG - 1, LONG]
    parts = []
    for begin, end in pairwise(sorted(cuts)):
        before, offset = divmod(begin, unit)
        rest = Scales(*(of[before:] for of in scales))
        part = got[begin:end]
        how = WHOLE, MODES[rounding], 15, start + begin
        parts.append(native.round_scaled(part, unit, offset, rest, *how, threads=1))
    assert_same_bits(got, expected)
    assert reference.merged(parts)[:7] == told[:7]


@pytest.mark.parametrize("grid", GRIDS)
def test_stochastic_rounding_is_unbiased_and_takes_neighbours(both, request, grid):
    count = 2_000 if WITHOUT_COMPILER and "kernels" in request.node.name else 200_000
    one = np.ones(1, np.float32)
    scales = Scales(4 * one, 0.25 * one, -6 * one, 6 * one)
    for value, lower, upper in ((0.3, 0.25, 0.5), (-0.52, 0.5, 0.75), (0.02, 0.0, 0.25 if grid == "whole" else 0.125)):
        words = np.full(count, value, np.float32).view(np.uint32)
        got = rounded(words, count, 0, scales, GRIDS[grid], STOCHASTIC, 16, 17)[0].view("f4").astype(float)
        if (grid, value) == ("e2m1", 0.3):
            upper = 0.375
        assert set(np.abs(got).tolist()) == {lower, upper}
        share = (abs(value) - lower) / (upper - lower)
        error = (upper - lower) * np.sqrt(share * (1 - share) / count)
        assert abs(got.mean() - value) < 4 * error


@pytest.mark.parametrize("grid", GRIDS)
def test_stochastic_rounding_leaves_exact_values(both, grid):
    numbers = np.arange(-6, 7, dtype=np.float32) if grid == "whole" else np.array([0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    words = np.tile((numbers * np.float32(0.25)).view(np.uint32), 20)
    one = np.ones(1, np.float32)
    scales = Scales(4 * one, 0.25 * one, -6 * one, 6 * one)
    for key in (0, 18, (1 << 64) - 1):
        got, difference = rounded(words, words.size, 0, scales, GRIDS[grid], STOCHASTIC, key)
        assert_same_bits(got, words)
        assert difference.changed == difference.saturated == 0


def test_stochastic_rounding_depends_on_the_key(both):
    words = weights(SHORT, 19)
    scales = scales_of(words, 32)
    base, again, other = (rounded(words, 32, 0, scales, WHOLE, STOCHASTIC, key)[0] for key in (20, 20, 21))
    assert_same_bits(again, base)
    assert 0.2 < np.mean(other != base) < 0.5


def test_difference_is_that_of_compare(both):
    words = weights(LONG, 22)
    got, difference = rounded(words, 100, 7, scales_of(words, 100, 7, clip=0.9))
    assert difference == native.compare(words, got, 1)._replace(saturated=difference.saturated)
    before, after = words.view("f4").astype(float), got.view("f4").astype(float)
    assert difference.squared_error == pytest.approx(((after - before) ** 2).sum(), rel=1e-12)
    assert difference.squares == pytest.approx((before**2).sum(), rel=1e-12)
    assert difference.max_abs == np.abs(after - before).max()


def test_any_number_of_threads_gives_the_same(kernels):
    words = weights(LONG, 23)
    scales = scales_of(words, 100, 7)
    starts = np.arange(0, LONG - 100, 100)
    of_ranges = Scales(*(np.tile(of[: starts.size, np.newaxis], 3) for of in scales))
    expected = words.copy()
    told = reference.round_scaled(expected, 100, 7, scales, WHOLE, STOCHASTIC, 24, 25)
    least, most = reference.extremes(words, starts, starts + 100)
    errors = reference.scale_errors(words, starts, starts + 100, of_ranges)
    for threads in (None,) if WITHOUT_COMPILER else (1, 2, None, 64, 0):
        got = words.copy()
        assert native.round_scaled(got, 100, 7, scales, WHOLE, STOCHASTIC, 24, 25, threads=threads) == told
        assert_same_bits(got, expected)
        low, high = native.extremes(words, starts, starts + 100, threads)
        assert_same_bits(low.view(np.uint32), least.view(np.uint32))
        assert_same_bits(high.view(np.uint32), most.view(np.uint32))
        sums = native.scale_errors(words, starts, starts + 100, of_ranges, threads)
        assert_same_bits(sums.view(np.uint64), errors.view(np.uint64))


def test_words_may_lie_apart_backward_or_unaligned(both):
    words = weights(900, 26)
    for lay in (lambda words: words[::3], lambda words: words[::-1][:300], lambda words: unaligned(words[:300])):
        got = lay(words.copy())
        expected = got.copy()
        scales = scales_of(expected, 32)
        assert np.shares_memory(got, got.base)
        told = reference.round_scaled(expected, 32, 0, scales, WHOLE)
        assert native.round_scaled(got, 32, 0, scales, WHOLE, threads=1) == told
        assert_same_bits(got.copy(), expected)
        laid, ends = lay(words.copy()), (np.array([0]), np.array([300]))
        low, high = native.extremes(laid, *ends)
        assert (low[0], high[0]) == (laid.copy().view("f4").min(), laid.copy().view("f4").max())
        of_range = Scales(*(of[:1, np.newaxis] for of in scales))
        (sums,), (same,) = (native.scale_errors(of, *ends, of_range) for of in (laid, laid.copy()))
        assert sums == same > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (np.zeros(4, np.float32), "1-D float32"),
        (np.zeros(4, np.int32), "1-D int32"),
        (np.zeros(4, np.uint16), "1-D uint16"),
        (np.zeros(4, np.uint64), "1-D uint64"),
        (np.zeros(4, ">u4"), "1-D >u4"),
        (np.zeros((2, 2), np.uint32), "2-D uint32"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_words_of_another_type_or_shape_are_refused(both, words, said):
    four, ends = Scales(*(np.ones(4, np.float32),) * 4), (np.array([0]), np.array([4]))
    calls = (
        lambda: native.round_scaled(words, 1, 0, four, WHOLE),
        lambda: native.extremes(words, *ends),
        lambda: native.scale_errors(words, *ends, Scales(*(of[np.newaxis] for of in four))),
        lambda: native.narrowed(words, "BF16"),
    )
    for call in calls:
        with pytest.raises(TypeError, match=f"words must be 1-D uint32, not {said}"):
            call()


def test_read_only_words_are_refused(both):
    words = np.frombuffer(bytes(16), np.uint32)
    four = Scales(*(np.ones(4, np.float32),) * 4)
    with pytest.raises(ValueError, match="words must be writable"):
        native.round_scaled(words, 1, 0, four, WHOLE)
    assert native.extremes(words, np.array([0]), np.array([4]))[0].tolist() == [0.0]


# --- extremes


def ranges(size, count, seed):
    """Return ranges that are not empty; some overlap."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, size, count)
    return starts, np.minimum(starts + random.choice([1, 2, 17, 300], count), size)


def extremes_by_numpy(words, starts, stops):
    """Return the ends of each range, as Python floats."""
    lows, highs = [], []
    for start, stop in zip(starts, stops, strict=True):
        values = words[start:stop].view("f4").astype(float)
        is_finite = np.isfinite(values).all()
        lows.append(values.min() if is_finite else np.nan)
        highs.append(values.max() if is_finite else np.nan)
    return lows, highs


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("make", [mixed, finite, weights], ids=lambda make: make.__name__)
def test_extremes_by_numpy(both, count, make):
    with np.errstate(invalid="ignore"):  # signalling NaNs
        words = make(SHORT, 30)
        starts, stops = ranges(words.size, count, 31)
        expected = extremes_by_numpy(words, starts, stops)
        got = native.extremes(words, starts, stops, 1)
    assert [of.dtype for of in got] == [np.float32] * 2
    np.testing.assert_array_equal(got, expected)
    if make is mixed and count > 1:
        assert 0 < np.isnan(got[0]).sum() < count
    else:
        assert not np.isnan(got).any() or make is mixed


@compiled
def test_extremes_of_ranges_longer_than_a_chunk(kernels):
    words = weights(3 * CHUNK + 11, 32)
    words[[5, CHUNK + 9, 2 * CHUNK + 1, 3 * CHUNK + 10]] = singles([-7.0, 8.0, -9.0, 10.0])
    starts = np.array([0, 3, 0, 0, CHUNK + 10, 2 * CHUNK])
    stops = np.array([words.size, CHUNK + 3, CHUNK, CHUNK + 10, words.size, 3 * CHUNK + 10])
    low, high = native.extremes(words, starts, stops)
    expected = extremes_by_numpy(words, starts, stops)
    np.testing.assert_array_equal((low, high), expected)
    assert low[[0, 3, 4, 5]].tolist() == [-9.0, -7.0, -9.0, -9.0]
    assert high[[0, 3, 4]].tolist() == [10.0, 8.0, 10.0]
    for place in (0, CHUNK + 5, words.size - 1):
        spoilt = words.copy()
        spoilt[place] = 0xFFC00000
        got = np.isnan(native.extremes(spoilt, starts, stops))
        inside = (starts <= place) & (place < stops)
        assert got.tolist() == [inside.tolist()] * 2


def test_negative_zero_is_the_least_of_zeros(both):
    words = singles([0.0, -0.0, 0.0, -0.0, -0.0, 0.0])
    starts, stops = np.array([0, 0, 1, 3, 5]), np.array([6, 1, 2, 5, 6])
    low, high = native.extremes(words, starts, stops)
    assert np.signbit(low).tolist() == [True, False, True, True, False]
    assert np.signbit(high).tolist() == [False, False, True, True, False]
    assert not low.any()
    assert not high.any()


@pytest.mark.parametrize("word", [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF])
def test_inf_or_nan_make_both_ends_nan(both, word):
    words = weights(40, 33)
    words[17] = word
    starts, stops = np.array([0, 10, 17, 18, 0]), np.array([40, 18, 18, 40, 17])
    for ends in native.extremes(words, starts, stops):
        assert np.isnan(ends).tolist() == [True, True, True, False, False]


def test_extremes_of_the_ends_of_f32(both):
    words = np.array([0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000001], np.uint32)
    starts = np.array([0, 2, 0, 1])
    low, high = native.extremes(words, starts, np.array([4, 4, 1, 2]))
    assert_same_bits(low.view(np.uint32), np.array([0xFF7FFFFF, 0x80000001, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32))
    assert_same_bits(high.view(np.uint32), np.array([0x7F7FFFFF, 0x00000001, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32))


def test_no_range_has_no_extremes_and_no_errors(both):
    none, words = np.empty(0, np.int64), weights(10, 34)
    low, high = native.extremes(words, none, none)
    assert low.shape == high.shape == (0,)
    assert native.scale_errors(words, none, none, Scales(*(np.empty((0, 3), np.float32),) * 4)).shape == (0, 3)


def test_ordered_words_are_ordered_as_values():
    words = np.unique(np.concatenate([finite(2_000, 35), singles([0.0, -0.0])]))
    values = words.view("f4")
    order = reference.ordered(words)
    by_order = values[np.argsort(order)]
    assert (np.diff(by_order) >= 0).all()
    assert np.signbit(by_order[by_order == 0]).tolist() == [True, False]
    assert order.dtype == np.int32
    assert_same_bits(reference.ordered(order.view(np.uint32)).view(np.uint32), words)


# --- the errors of scales


def candidates(words, starts, stops, most=7.0, affine=False):
    """Return scales for each range: of 1, 15/16 ... of its largest magnitude."""
    clips = np.array([1 - i / 16 for i in range(9)], np.float32)
    largest = np.array([np.abs(words[a:b].view("f4")).max() for a, b in zip(starts, stops, strict=True)])
    scale = (largest[:, np.newaxis] * clips / np.float32(most)).astype(np.float32)
    scale[scale < 1e-30] = 1e-30
    low = np.full(scale.shape, 0 if affine else -most, np.float32)
    return Scales((1 / scale).astype(np.float32), scale, low, low + np.float32(2 * most))


def errors_by_numpy(words, starts, stops, scales):
    """Return what `scale_errors` does: numbers in single precision, sums by NumPy."""
    errors = np.empty(scales.scale.shape)
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        values = words[start:stop].view("f4")
        for j in range(errors.shape[1]):
            inverse, scale, low, high = (of[i, j] for of in scales)
            numbers = np.minimum(np.maximum(np.rint(values * inverse), low), high)
            errors[i, j] = ((numbers * scale - values).astype(np.float64) ** 2).sum()
    return errors


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("unit", [2, 32, 100, ROUND_CHUNK + 3])
def test_scale_errors_by_numpy(by_each, unit, affine):
    words = weights({2: 500, 32: 3_000, 100: 7_010}.get(unit, LONG), 40)
    starts = np.arange(0, words.size, unit)
    stops = np.minimum(starts + unit, words.size)
    scales = candidates(words, starts, stops, affine=affine)
    ours, theirs = by_each(lambda: native.scale_errors(words, starts, stops, scales, 1))
    assert_same_bits(ours.view(np.uint64), theirs.view(np.uint64))
    np.testing.assert_allclose(ours, errors_by_numpy(words, starts, stops, scales), rtol=1e-12, atol=0)


def test_scale_errors_of_ranges_that_overlap(by_each):
    words = weights(SHORT, 41)
    starts, stops = ranges(words.size, 60, 42)
    scales = candidates(words, starts, stops)
    ours, theirs = by_each(lambda: native.scale_errors(words, starts, stops, scales, 1))
    assert_same_bits(ours.view(np.uint64), theirs.view(np.uint64))
    np.testing.assert_allclose(ours, errors_by_numpy(words, starts, stops, scales), rtol=1e-12, atol=0)


def test_scale_errors_where_most_is_clipped(by_each):
    """Scaled values far beyond 2^22, where adding 1.5 * 2^23 does not round any more."""
    words = finite(300, 43)
    one = np.ones((1, 4), np.float32)
    scales = Scales(np.array([[1.0, 2.0**10, 1e-3, 5e5]], np.float32), one, -32768 * one, 32767 * one)
    words = words[np.abs(words.view("f4")) < 1e30]
    ends = np.array([0]), np.array([words.size])
    ours, theirs = by_each(lambda: native.scale_errors(words, *ends, scales, 1))
    assert_same_bits(ours.view(np.uint64), theirs.view(np.uint64))
    np.testing.assert_allclose(ours, errors_by_numpy(words, *ends, scales), rtol=1e-12, atol=0)


def test_scale_errors_of_known_numbers(both):
    """Ties go to the even number; 9 is clipped to 7; the second scale is twice the first."""
    words = singles([0.5, 1.5, -2.5, 3.25, 9.0])
    one = np.array([[1.0, 2.0]], np.float32)
    scales = Scales(1 / one, one, np.full((1, 2), -7, np.float32), np.full((1, 2), 7, np.float32))
    got = native.scale_errors(words, np.array([0]), np.array([5]), scales)
    first = 0.5**2 + 0.5**2 + 0.5**2 + 0.25**2 + 2.0**2
    second = 0.5**2 + 0.5**2 + 0.5**2 + 0.75**2 + 1.0**2
    assert got.tolist() == [[first, second]]


def test_the_error_of_the_scale_is_the_error_of_the_rounding(both):
    words = weights(SHORT // 32 * 32, 44)
    starts = np.arange(0, words.size, 32)
    scales = candidates(words, starts, starts + 32)
    errors = native.scale_errors(words, starts, starts + 32, scales, 1)
    for j in (0, 4, 8):
        _, difference = rounded(words, 32, 0, Scales(*(of[:, j].copy() for of in scales)))
        assert errors[:, j].sum() == pytest.approx(difference.squared_error, rel=1e-12)
