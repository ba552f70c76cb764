"""F16 and BF16 to F32 and back: kernels against twins, on every pattern. All of it holds without the compiler, too."""

import os

import ml_dtypes
import numpy as np
import pytest

import truebits_native as native
from truebits_native import reference
from truebits_native.reference import Difference
from words import assert_same_bits, unaligned

WITHOUT_COMPILER = os.environ.get("NUMBA_DISABLE_JIT") == "1"


pytestmark = [
    # without the compiler the kernels' numbers are NumPy's scalars, which warn where a machine's wrap around
    pytest.mark.filterwarnings(f"ignore:{what} encountered in scalar:RuntimeWarning")
    for what in ("overflow", "invalid value", "divide by zero")
    if WITHOUT_COMPILER
]


def patterns():
    return np.arange(1 << 16, dtype=np.uint16)


EVERY = 97 if WITHOUT_COMPILER else 1


HALVES = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("kind", HALVES)
def test_all_half_patterns_go_there_and_back(both, kind):
    words = patterns()[::EVERY]
    wide = native.widened(words, kind)
    assert_same_bits(native.narrowed(wide, kind), words)
    assert_same_bits(wide, reference.widened(words, kind))
    assert_same_bits(native.widened(words, kind, 1), wide)
    assert_same_bits(native.narrowed(wide, kind, 1), words)


@pytest.mark.parametrize("kind", HALVES)
def test_all_half_patterns_are_the_same_numbers(kind):
    wide = reference.widened(patterns(), kind)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        expected = patterns().view(HALVES[kind]).astype(np.float32)
    is_nan = np.isnan(expected)
    assert_same_bits(wide[~is_nan], expected.view(np.uint32)[~is_nan])
    assert np.isnan(wide[is_nan].view(np.float32)).all()
    payload, shift = {"F16": (0x3FF, 13), "BF16": (0x7F, 16)}[kind]
    assert_same_bits(wide[is_nan] & np.uint32(0x7FFFFF), (patterns()[is_nan] & payload).astype(np.uint32) << shift)
    assert_same_bits(wide >> np.uint32(31), (patterns() >> 15).astype(np.uint32))
    assert_same_bits(reference.narrowed(wide, kind), patterns())


def test_half_singles_are_the_widened_patterns():
    assert_same_bits(reference.half_singles(), reference.widened(patterns(), "F16"))


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("size", [0, 1, 3, 1_000])
def test_half_words_of_any_size_and_lay(both, kind, size):
    words = np.random.default_rng(size).integers(0, 1 << 16, 3 * size, np.uint16)
    for lay in (words[:size], words[::3], words[::-1][:size], *([unaligned(words[:size])] if size else [])):
        wide = native.widened(lay, kind)
        assert_same_bits(wide, reference.widened(lay.copy(), kind))
        assert_same_bits(native.narrowed(wide, kind), lay.copy())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.uint32])
def test_half_words_of_another_type_are_refused(both, dtype):
    with pytest.raises(TypeError, match="words must be 1-D uint16"):
        native.widened(np.zeros(4, dtype), "F16")


def distance(before, after, kind):
    """Return the distance of two patterns, one by one."""
    infinity = {"F16": 0x7C00, "BF16": 0x7F80}[kind]
    if before & 0x7FFF >= infinity:
        return 0
    places = [(-1 if word & 0x8000 else 1) * min(word & 0x7FFF, infinity) for word in (before, after)]
    return abs(places[0] - places[1])


@pytest.mark.parametrize("kind", HALVES)
def test_half_distance_one_by_one(kind):
    random = np.random.default_rng(50)
    before = random.integers(0, 1 << 16, 2_000, np.uint16)
    after = np.where(random.random(2_000) < 0.5, before + random.integers(-3, 4, 2_000), before ^ 0x8000)
    after = after.astype(np.uint16)
    for ours, theirs in zip(before, after, strict=True):
        expected = distance(int(ours), int(theirs), kind)
        assert reference.half_distance(np.array([ours]), np.array([theirs]), kind) == expected
    expected = max(distance(int(a), int(b), kind) for a, b in zip(before, after, strict=True))
    assert reference.half_distance(before, after, kind) == expected


@pytest.mark.parametrize(("kind", "infinity"), [("F16", 0x7C00), ("BF16", 0x7F80)])
def test_half_distance_of_known_patterns(kind, infinity):
    def of(before, after):
        return reference.half_distance(np.array([before], np.uint16), np.array([after], np.uint16), kind)

    assert of(0x0000, 0x8000) == 0
    assert of(0x8001, 0x0002) == 3
    assert of(infinity - 1, infinity) == 1
    assert of(infinity - 1, infinity + 5) == of(infinity - 1, infinity)
    assert of(infinity - 1, 0x8000 | (infinity - 1)) == 2 * (infinity - 1)
    assert of(infinity, 0x3C00) == of(infinity + 1, 0x3C00) == of(0xFFFF, 0) == 0
    assert reference.half_distance(np.empty(0, np.uint16), np.empty(0, np.uint16), kind) == 0


@pytest.mark.parametrize("kind", HALVES)
def test_half_distance_is_that_of_f32_in_larger_steps(kind):
    """For BF16, whose words are the upper halves of F32 words; for F16 on normal values."""
    random = np.random.default_rng(51)
    before = random.integers(0x0400, 0x7BF0, 1_000, np.uint16) | random.choice([0, 0x8000], 1_000).astype(np.uint16)
    after = (before + random.integers(0, 9, 1_000)).astype(np.uint16)
    wide = [reference.widened(words, kind) for words in (before, after)]
    measured = reference.compare(*wide)
    assert isinstance(measured, Difference)
    assert measured.max_ulp == reference.half_distance(before, after, kind) << {"F16": 13, "BF16": 16}[kind]
