"""Kernels against their twins, and the twins against a definition in plain Python, bit for bit.

The same file runs in a child process without the compiler, where coverage of kernels is measured:
there the tests marked `compiled` are left out, because they would take minutes.
"""

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import truebits_native as native
from truebits_native import CHUNK, chunks, counting, dispatch, reference
from truebits_native.reference import histogram
from words import SPECIAL, assert_same_bits, bins_of, grid, mixed

WITHOUT_COMPILER = os.environ.get("NUMBA_DISABLE_JIT") == "1"
PACKAGE = Path(native.__file__).parent
LENGTHS = (0, 1, 3, 4, 5, 31, 513) if WITHOUT_COMPILER else (*range(1026), 2053, 4099, 8191, 65_537)
AROUND_CHUNK = (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK + 1, 786_433)
SAMPLE = 300 if WITHOUT_COMPILER else 10_007

compiled = pytest.mark.skipif(WITHOUT_COMPILER, reason="takes minutes without the compiler")


def whole(words):
    """Return the one range that is all of `words`."""
    return np.array([0]), np.array([words.size])


def assert_same_profiles(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert_same_bits(one, other)


# --- the definition, in plain Python


def bin_defined(word):
    mantissa, trailing = word % 2**23, 23
    while mantissa % 2**trailing:
        trailing -= 1
    return word // 2**23 % 256, trailing


def profile_defined(words):
    expected = np.zeros((256, 24), np.int64)
    for word in words.tolist():
        expected[bin_defined(word)] += 1
    return expected


def truncated(word, bits):
    sign, exponent, mantissa = word >> 31, word >> 23 & 0xFF, word & 0x7FFFFF
    if exponent < 255:
        return word - word % 2**bits
    kept = mantissa - mantissa % 2 ** min(bits, 23)
    if mantissa and not kept:
        kept = 1 << 22
    return sign << 31 | exponent << 23 | kept


def test_definition_of_truncation():
    nan, infinity, one = 0xFF80FFFF, 0xFF800000, 0x3F8CCCCD
    assert truncated(nan, 16) == 0xFFC00000
    assert truncated(infinity, 31) == infinity
    assert truncated(one, 16) == 0x3F8C0000


def test_twin_of_profile_is_the_definition():
    words = np.concatenate([SPECIAL, mixed(5_000, 1)])
    assert_same_bits(reference.profile(words), profile_defined(words))


def test_twin_of_profile_on_every_exponent_and_number_of_trailing_zeros():
    words = grid("F32")
    expected = profile_defined(words)
    assert (expected > 0).all()
    assert_same_bits(reference.profile(words), expected)


def test_twin_of_low_zero_count_is_the_definition():
    words = np.concatenate([SPECIAL, mixed(2_000, 2)])
    for bits in range(1, 32):
        expected = sum(word % 2**bits == 0 for word in words.tolist())
        assert reference.low_zero_count(words, bits) == expected


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0xFFFF0000, 1, 0])
def test_twin_of_differing_count_is_the_definition(mask):
    before, after = mixed(2_000, 4), mixed(2_000, 5)
    after[::3] = before[::3]
    expected = sum((a ^ b) & mask != 0 for a, b in zip(before.tolist(), after.tolist(), strict=True))
    assert reference.differing_count(before, after, mask) == expected


@pytest.mark.parametrize("size", [0, 1, 513, *([] if WITHOUT_COMPILER else AROUND_CHUNK)])
@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0xFFFF0000, 1])
def test_differing_count(kernels, size, mask):
    before, after = mixed(size, 6), mixed(size, 7)
    after[::3] = before[::3]
    assert native.differing_count(before, after, mask) == reference.differing_count(before, after, mask)
    assert native.differing_count(before, before, mask, threads=1) == 0


def test_differing_count_wants_equal_sizes(kernels):
    with pytest.raises(ValueError, match="3 and 4 words"):
        native.differing_count(np.zeros(3, np.uint32), np.zeros(4, np.uint32))


@pytest.mark.parametrize("bits", range(1, 32))
def test_twin_of_truncate_is_the_definition(bits):
    words = np.concatenate([SPECIAL, mixed(2_000, 3)])
    expected = np.array([truncated(word, bits) for word in words.tolist()], np.uint32)
    got = words.copy()
    assert reference.truncate(got, bits) == sum(a != b for a, b in zip(words.tolist(), expected.tolist(), strict=True))
    assert_same_bits(got, expected)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64"])
def test_twin_of_profiles_counts_each_range_by_itself(kind):
    words = np.random.default_rng(4).permutation(grid(kind))[:3_000]
    starts, stops = np.array([0, 10, 10, 500, 2_999, 40]), np.array([10, 10, 1_000, 3_000, 3_000, 41])
    lookup = counting.half_lookup(kind) if kind in ("F16", "BF16") else None
    bins, counts, splits = reference.profiles(words, starts, stops, lookup)
    assert splits[0] == 0
    assert splits[-1] == bins.size == counts.size
    expected_bins = bins_of(words, kind)
    columns, biggest = (53, 1023) if kind == "F64" else (24, 127)
    apart = (2 * biggest + 2) * columns
    expected_bins[expected_bins == apart] = (biggest + 8) * columns + columns - 4  # +-480
    expected_bins[expected_bins == apart + 1] = (biggest + 15) * columns + columns - 11  # +-65504
    for i in range(starts.size):
        expected, expected_counts = np.unique(expected_bins[starts[i] : stops[i]], return_counts=True)
        assert_same_bits(bins[splits[i] : splits[i + 1]], expected)
        assert_same_bits(counts[splits[i] : splits[i + 1]], expected_counts)


def test_twin_of_profiles_across_its_blocks(monkeypatch):
    words = mixed(1_000, 5)
    starts, stops = np.array([0, 3, 3, 500, 999]), np.array([900, 3, 4, 1_000, 1_000])
    expected = reference.profiles(words, starts, stops)
    for block in (1, 7, 64, 997):
        monkeypatch.setattr(histogram, "BLOCK", block)
        assert_same_profiles(reference.profiles(words, starts, stops), expected)


def test_bins_of_all_fp16_patterns():
    patterns = np.arange(1 << 16, dtype=np.uint16)
    is_nan = (patterns & 0x7FFF) > 0x7C00
    finite = np.where(is_nan, 0, patterns).astype(np.uint16)
    singles = finite.view(np.float16).astype(np.float32).view(np.uint32)
    singles[is_nan] = 0x7F800000 + (patterns[is_nan] & 0x3FF) * np.uint32(1 << 13)
    got = reference.half_bins()
    expected = [24 * exponent + trailing for exponent, trailing in map(bin_defined, singles.tolist())]
    assert_same_bits(got, np.array(expected, np.uint16))


def test_bins_of_all_bf16_patterns():
    patterns = np.arange(1 << 16, dtype=np.uint16)
    is_nan = (patterns & 0x7FFF) > 0x7F80
    finite = np.where(is_nan, 0, patterns).astype(np.uint16)
    singles = finite.view(ml_dtypes.bfloat16).astype(np.float32).view(np.uint32)
    singles[is_nan] = 0x7F800000 + (patterns[is_nan] & 0x7F) * np.uint32(1 << 16)
    got = reference.bfloat_bins()
    expected = [24 * exponent + trailing for exponent, trailing in map(bin_defined, singles.tolist())]
    assert_same_bits(got, np.array(expected, np.uint16))


# --- kernels against twins: lengths, bits, values


def test_low_zero_count_kernel_at_every_length(kernels):
    words = mixed(max(LENGTHS), 10)
    for length in LENGTHS:
        assert native.low_zero_count(words[:length], 16) == reference.low_zero_count(words[:length], 16), length


def test_profile_kernel_at_every_length(kernels):
    words = mixed(max(LENGTHS), 11)
    for length in LENGTHS:
        assert_same_bits(native.profile(words[:length]), reference.profile(words[:length]))


def test_truncate_kernel_at_every_length(kernels):
    words = mixed(max(LENGTHS), 12)
    for length in LENGTHS:
        got, expected = words.copy(), words.copy()
        assert native.truncate(got[:length], 16) == reference.truncate(expected[:length], 16), length
        assert_same_bits(got, expected)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_profile_kernel_at_every_length(kernels, kind):
    words = mixed(max(LENGTHS), 13).astype(np.uint16)
    for length in LENGTHS:
        expected = reference.profiles(words, *whole(words[:length]), counting.half_lookup(kind))
        assert_same_profiles(native.profiles(words, *whole(words[:length]), kind), expected)


@compiled
@pytest.mark.parametrize("length", AROUND_CHUNK)
def test_kernels_around_the_length_of_a_chunk(kernels, length):
    words = mixed(length, length)
    assert native.low_zero_count(words, 9) == reference.low_zero_count(words, 9)
    assert_same_bits(native.profile(words), reference.profile(words))
    got, expected = words.copy(), words.copy()
    assert native.truncate(got, 21) == reference.truncate(expected, 21)
    assert_same_bits(got, expected)
    halves = words.view(np.uint16)[:length]
    expected = reference.profiles(halves, *whole(halves), counting.half_lookup("BF16"))
    assert_same_profiles(native.profiles(halves, *whole(halves), "BF16"), expected)


@pytest.mark.parametrize("bits", range(1, 32))
def test_kernels_at_every_number_of_bits(kernels, bits):
    words = np.concatenate([SPECIAL, mixed(SAMPLE, bits)])
    assert native.low_zero_count(words, bits) == reference.low_zero_count(words, bits)
    got, expected = words.copy(), words.copy()
    assert native.truncate(got, bits) == reference.truncate(expected, bits)
    assert_same_bits(got, expected)


@pytest.mark.parametrize("word", SPECIAL.tolist(), ids="{:#010x}".format)
def test_kernels_on_one_special_value(kernels, word):
    for bits in (1, 16, 22, 23, 24, 31):
        words = np.full(5, word, np.uint32)
        assert native.low_zero_count(words, bits) == 5 * (word % 2**bits == 0)
        expected = truncated(word, bits)
        assert native.truncate(words, bits) == 5 * (expected != word)
        assert_same_bits(words, np.full(5, expected, np.uint32))
    assert_same_bits(native.profile(np.full(5, word, np.uint32)), 5 * profile_defined(np.array([word])))


@compiled
def test_profile_kernel_on_every_exponent_and_number_of_trailing_zeros(kernels):
    words = grid("F32")
    assert_same_bits(native.profile(words), profile_defined(words))


@compiled
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_profile_kernel_on_every_pattern(kernels, kind):
    words = np.arange(1 << 16, dtype=np.uint16)
    lookup = counting.half_lookup(kind)
    starts = np.arange(words.size)
    bins, counts, splits = native.profiles(words, starts, starts + 1, kind)
    assert_same_bits(bins, lookup.astype(np.int64))
    assert_same_bits(counts, np.ones(words.size, np.int64))
    assert_same_bits(splits, np.arange(words.size + 1))


@pytest.mark.parametrize("word", [0x00000000, 0x3F8CCCCD, 0xFFFF0000])
def test_kernels_where_all_values_share_a_bin(kernels, word):
    words = np.full(2 * histogram.BLOCK + 3 if not WITHOUT_COMPILER else 1_027, word, np.uint32)
    assert_same_bits(native.profile(words), reference.profile(words))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64"])
def test_profiles_without_a_word_or_a_range(kernels, kind):
    words = np.empty(0, counting.WORD[kind])
    nothing = np.empty(0, np.int64)
    assert_same_profiles(native.profiles(words, nothing, nothing, kind), (nothing, nothing, np.array([0])))
    assert_same_profiles(native.profiles(words, *whole(words), kind), (nothing, nothing, np.array([0, 0])))
    assert_same_bits(native.matching_counts(words, nothing, nothing, 1, 0), nothing)


def test_f64_profiles_come_from_the_twin(kernels):
    words = np.random.default_rng(14).permutation(grid("F64"))[:SAMPLE]
    starts, stops = np.array([0, 5, 5]), np.array([5, 5, SAMPLE])
    expected = reference.profiles(words, starts, stops)
    assert_same_profiles(native.profiles(words, starts, stops, "F64"), expected)
    assert native.profiles(words, starts, stops, "F64", threads=1)[1].sum() == SAMPLE


# --- many ranges


def ranges_of(words, count, seed):
    """Return `count` ranges: many empty, most tiny, some overlapping."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, words.size, count)
    lengths = random.choice([0, 0, 1, 2, 17, 300], count)
    return starts, np.minimum(starts + lengths, words.size)


DENSE_RANGES = counting.DENSE_BINS // reference.BINS


@pytest.mark.parametrize("count", [1, 2, DENSE_RANGES, DENSE_RANGES + 1, 1_000])
def test_kernels_on_many_ranges(kernels, count):
    count = min(count, 60) if WITHOUT_COMPILER else count
    words = mixed(SAMPLE, count)
    starts, stops = ranges_of(words, count, count)
    expected = reference.profiles(words, starts, stops)
    assert_same_profiles(native.profiles(words, starts, stops), expected)
    expected = reference.low_zero_counts(words, starts, stops, 12)
    assert_same_bits(native.low_zero_counts(words, starts, stops, 12), expected)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_kernel_on_many_ranges(kernels, kind):
    words = mixed(SAMPLE, 20).astype(np.uint16)
    starts, stops = ranges_of(words, 60, 21)
    expected = reference.profiles(words, starts, stops, counting.half_lookup(kind))
    assert_same_profiles(native.profiles(words, starts, stops, kind), expected)


@compiled
@pytest.mark.parametrize("count", [DENSE_RANGES, DENSE_RANGES + 1])
def test_kernels_on_many_ranges_of_many_chunks(kernels, count):
    words = mixed(3 * CHUNK + 17, count)
    starts, stops = ranges_of(words, count, count)
    starts[[0, 3, count - 1]] = 0, 5, 1
    stops[[0, 3, count - 1]] = words.size, 5 + CHUNK, 2 * CHUNK + 2
    expected = reference.profiles(words, starts, stops)
    assert_same_profiles(native.profiles(words, starts, stops), expected)
    expected = reference.low_zero_counts(words, starts, stops, 16)
    assert_same_bits(native.low_zero_counts(words, starts, stops, 16), expected)


def test_many_chunks_of_many_ranges_add_up(kernels, monkeypatch):
    """With small chunks every range has several, and both ways of adding them up are taken."""
    monkeypatch.setattr(counting, "cut", lambda starts, stops: chunks.cut(starts, stops, 64))
    words = mixed(SAMPLE, 30)
    starts, stops = ranges_of(words, 12, 31)
    expected = reference.profiles(words, starts, stops)
    for dense_bins in (counting.DENSE_BINS, 0):
        monkeypatch.setattr(counting, "DENSE_BINS", dense_bins)
        assert_same_profiles(native.profiles(words, starts, stops), expected)
    expected = reference.low_zero_counts(words, starts, stops, 3)
    assert_same_bits(native.low_zero_counts(words, starts, stops, 3), expected)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_chunks_cover_each_range_once_and_in_order(size):
    starts, stops = np.array([5, 5, 0, 100, 9]), np.array([6, 5, 64, 171, 9])
    owner, begin, end = chunks.cut(starts, stops, size)
    got = [list(range(b, e)) for b, e in zip(begin, end, strict=True)]
    assert all(0 < len(piece) <= size for piece in got)
    for i in range(starts.size):
        covered = [word for piece, of in zip(got, owner, strict=True) if of == i for word in piece]
        assert covered == list(range(starts[i], stops[i]))
    assert (np.diff(owner) >= 0).all()


# --- matching_counts


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_matching_counts(kernels, dtype):
    words = mixed(SAMPLE, 40).astype(dtype)
    starts, stops = ranges_of(words, 20, 41)
    top = (1 << (8 * words.itemsize - 1)) - 1
    for mask, pattern in ((0, 0), (1, 1), (0xFFFF, 0), (top, 0x43F0), (top, int(words[5]) & top), (0xF0, 0x50)):
        expected = [
            sum(word & mask == pattern for word in words[a:b].tolist()) for a, b in zip(starts, stops, strict=True)
        ]
        expected = np.array(expected, np.int64)
        assert_same_bits(native.matching_counts(words, starts, stops, mask, pattern), expected)
        assert_same_bits(reference.matching_counts(words, starts, stops, mask, pattern), expected)


# --- input of every sort


def unaligned(words):
    """Return the same words at an odd address."""
    return np.frombuffer(bytearray(b"\0" + words.tobytes()), words.dtype, offset=1)


def assert_kernels_agree(words):
    plain = words.copy()
    assert native.low_zero_count(words, 16) == reference.low_zero_count(plain, 16)
    assert_same_bits(native.profile(words), reference.profile(plain))
    assert_same_bits(np.array(words), plain)


def test_kernels_on_unaligned_words(kernels):
    words = unaligned(mixed(SAMPLE, 50))
    assert not words.flags.aligned
    assert_kernels_agree(words)


@pytest.mark.parametrize("step", [2, 3, -1])
def test_kernels_on_strided_words(kernels, step):
    assert_kernels_agree(mixed(SAMPLE, 51)[::step])


def test_kernels_on_read_only_words(kernels):
    words = np.frombuffer(mixed(SAMPLE, 52).tobytes(), np.uint32)
    assert not words.flags.writeable
    assert_kernels_agree(words)


def test_reading_leaves_the_array_writable(kernels):
    words = mixed(100, 53)
    native.profile(words)
    native.low_zero_count(words, 16)
    assert words.flags.writeable


def test_half_kernel_on_unaligned_and_strided_words(kernels):
    plain = mixed(SAMPLE, 54).astype(np.uint16)
    expected = reference.profiles(plain, *whole(plain), counting.half_lookup("F16"))
    for words in (unaligned(plain), np.repeat(plain, 2)[::2]):
        assert_same_profiles(native.profiles(words, *whole(words), "F16"), expected)


def test_truncate_unaligned_words_in_place(kernels):
    plain = mixed(SAMPLE, 55)
    buffer = bytearray(b"\xa5" + plain.tobytes() + b"\x5a")
    words = np.frombuffer(buffer, np.uint32, count=plain.size, offset=1)
    assert native.truncate(words, 16) == reference.truncate(plain, 16)
    assert_same_bits(np.array(words), plain)
    assert (buffer[0], buffer[-1]) == (0xA5, 0x5A)


@pytest.mark.parametrize("size", [SAMPLE, 0])
def test_truncate_strided_words_in_place_and_nothing_between(kernels, size):
    got = mixed(size, 56)
    expected = got.copy()
    count = reference.truncate(expected[::3], 13)
    assert native.truncate(got[::3], 13) == count
    assert_same_bits(got, expected)


# --- truncate: what it promises


@pytest.fixture(params=["kernels", "twins"])
def both(request):
    request.getfixturevalue(request.param)


def test_truncate_keeps_infinity_zero_and_nan(both):
    kept = np.array([0x7F800000, 0xFF800000, 0x00000000, 0x80000000, 0x7FC00000, 0xFFC00000], np.uint32)
    for bits in range(1, 32):
        got = kept.copy()
        assert native.truncate(got, bits) == 0
        assert_same_bits(got, kept)


def test_truncate_leaves_every_nan_a_nan_of_the_same_sign(both):
    payloads = np.concatenate([1 << np.arange(23), (1 << np.arange(1, 24)) - 1]).astype(np.uint32)
    words = np.concatenate([payloads | 0x7F800000, payloads | np.uint32(0xFF800000)])
    for bits in range(1, 32):
        got = words.copy()
        native.truncate(got, bits)
        assert np.isnan(got.view(np.float32)).all()
        assert_same_bits(got >> 31, words >> 31)


def test_truncate_moves_finite_values_towards_zero_by_less_than_a_cut(both):
    words = mixed(SAMPLE, 60)
    words = words[(words & 0x7FFFFFFF) < 0x7F800000]
    for bits in range(1, 32):
        got = words.copy()
        native.truncate(got, bits)
        assert_same_bits(got, (words.astype(np.int64) // 2**bits * 2**bits).astype(np.uint32))


@pytest.mark.parametrize("bits", range(1, 32))
def test_truncating_twice_is_truncating_once(both, bits):
    once = np.concatenate([SPECIAL, mixed(500, bits)])
    native.truncate(once, bits)
    twice = once.copy()
    assert native.truncate(twice, bits) == 0
    assert_same_bits(twice, once)


def test_truncate_returns_how_many_changed(both):
    words = mixed(SAMPLE, 61)
    for bits in (1, 8, 16, 24, 31):
        got = words.copy()
        count = native.truncate(got, bits)
        assert count == np.count_nonzero(got != words)
        assert type(count) is int


def test_truncate_refuses_read_only_words(both):
    words = np.frombuffer(bytes(16), np.uint32)
    with pytest.raises(ValueError, match="writable"):
        native.truncate(words, 16)


@pytest.mark.parametrize("bits", [-1, 0, 32, 64])
def test_bits_outside_1_to_31_are_refused(both, bits):
    words = np.array([0x3F8CCCCD], np.uint32)
    calls = (
        lambda: native.truncate(words, bits),
        lambda: native.low_zero_count(words, bits),
        lambda: native.low_zero_counts(words, *whole(words), bits),
    )
    for call in calls:
        with pytest.raises(ValueError, match=rf"bits is {bits}, allowed are 1 to 31"):
            call()
    assert_same_bits(words, np.array([0x3F8CCCCD], np.uint32))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (np.zeros(4, np.float32), "1-D float32"),
        (np.zeros(4, np.int32), "1-D int32"),
        (np.zeros(4, np.uint64), "1-D uint64"),
        (np.zeros(4, ">u4"), "1-D >u4"),
        (np.zeros((2, 2), np.uint32), "2-D uint32"),
        (np.zeros((), np.uint32), "0-D uint32"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_words_of_another_type_or_shape_are_refused(both, words, said):
    calls = (
        lambda: native.truncate(words, 16),
        lambda: native.low_zero_count(words, 16),
        lambda: native.profile(words),
    )
    for call in calls:
        with pytest.raises(TypeError, match=f"words must be 1-D uint32, not {said}"):
            call()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64"])
def test_profiles_refuses_words_of_another_size(both, kind):
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        words = np.zeros(4, dtype)
        if dtype == counting.WORD[kind]:
            native.profiles(words, *whole(words), kind)
            continue
        with pytest.raises(TypeError, match=f"words must be 1-D {np.dtype(counting.WORD[kind])}"):
            native.profiles(words, *whole(words), kind)


# --- threads


@compiled
def test_any_number_of_threads_gives_the_same(kernels):
    words = mixed(5 * CHUNK + 3, 70)
    halves = words.view(np.uint16)
    starts, stops = np.array([0, CHUNK, 7]), np.array([words.size, CHUNK, 3 * CHUNK])
    expected = {
        "counts": reference.low_zero_counts(words, starts, stops, 16),
        "single": reference.profiles(words, starts, stops),
        "half": reference.profiles(halves, starts, stops, counting.half_lookup("BF16")),
    }
    cut = words.copy()
    changed = reference.truncate(cut, 16)
    for threads in (1, 2, None, 64, 0):
        assert_same_bits(native.low_zero_counts(words, starts, stops, 16, threads), expected["counts"])
        assert_same_profiles(native.profiles(words, starts, stops, threads=threads), expected["single"])
        assert_same_profiles(native.profiles(halves, starts, stops, "BF16", threads), expected["half"])
        got = words.copy()
        assert native.truncate(got, 16, threads) == changed
        assert_same_bits(got, cut)


# --- kernel or twin


@pytest.mark.parametrize("name", dispatch.COSTS)
def test_kernels_are_used_where_they_pay(monkeypatch, name):
    """In memory soon, from the cache later, compiled later still, and a little later yet without Numba."""
    work = [1 << bits for bits in range(10, 34)]
    monkeypatch.setattr(dispatch, "loaded", {name})
    monkeypatch.setattr(dispatch, "expected", set())
    borders = [next(words for words in work if dispatch.uses_kernel(name, words))]
    assert borders == [dispatch.LOADED_WORDS]
    monkeypatch.setattr(dispatch, "loaded", set())
    for numba, is_kept in ((True, True), (True, False), (False, False)):
        (monkeypatch.setitem if numba else monkeypatch.delitem)(sys.modules, "numba", *([None] if numba else [False]))
        monkeypatch.setattr(dispatch, "_is_kept", lambda _, answer=is_kept: answer)
        borders.append(next(words for words in work if dispatch.uses_kernel(name, words)))
    assert borders == sorted(borders)
    assert borders[1] < borders[2]


def test_work_that_was_announced_uses_kernels_from_the_first_call_on(monkeypatch):
    monkeypatch.setattr(dispatch, "loaded", set())
    monkeypatch.setattr(dispatch, "expected", set())
    monkeypatch.setattr(dispatch, "_is_kept", lambda _: False)
    native.expect_work("truncate", 1 << 20)
    assert not dispatch.uses_kernel("rounding.cut_low_bits", 1 << 20)
    native.expect_work("truncate", 1 << 33)
    assert dispatch.uses_kernel("rounding.cut_low_bits", 1 << 20)
    assert not dispatch.uses_kernel("rounding.cut_low_bits", dispatch.LOADED_WORDS - 1)


def test_a_small_scan_compiles_nothing_because_somebody_imported_numba(tmp_path):
    code = """
import numba, numpy as np, truebits_native as native
native.dispatch.on_compile = print
native.profile(np.arange(1 << 16, dtype=np.uint32))
"""
    assert child(code, NUMBA_CACHE_DIR=str(tmp_path)) == ""
    assert not list(tmp_path.iterdir())


def test_each_call_asks_for_its_own_size(monkeypatch):
    asked = []
    monkeypatch.setattr(dispatch, "uses_kernel", lambda *question: asked.append(question))
    words = mixed(100, 80)
    starts, stops = np.array([0, 20, 90]), np.array([10, 20, 100])
    native.low_zero_count(words, 16)
    native.low_zero_counts(words, starts, stops, 16)
    native.profile(words)
    native.profiles(words, starts, stops)
    native.profiles(words.view(np.uint16), starts, stops, "F16")
    native.truncate(words, 16)
    single, half = "histogram.count_single_bins", "histogram.count_half_bins"
    sizes = [("lowbits.count_matching", n) for n in (100, 20)] + [(single, 100), (single, 20), (half, 20)]
    assert asked == [*sizes, ("rounding.cut_low_bits", 100)]


def child(code_or_arguments, **environment):
    """Run the interpreter with warnings as errors; return what it printed."""
    arguments = ["-c", code_or_arguments] if isinstance(code_or_arguments, str) else code_or_arguments
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-B", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_small_work_imports_no_numba():
    code = """
import sys
import numpy as np
import truebits_native as native
words = np.arange(50_000, dtype=np.uint32)
native.low_zero_count(words, 16, threads=2)
native.profile(words, threads=2)
native.profiles(words.view(np.uint16), np.array([0]), np.array([9]), "F16")
native.truncate(words, 16, threads=2)
print("numba" in sys.modules)
native.dispatch.uses_kernel = lambda *_: True
native.low_zero_count(words, 16)
print("numba" in sys.modules)
"""
    assert child(code, NUMBA_DISABLE_JIT="1").split() == ["False", "True"]


def test_the_twins_import_no_numba():
    code = "import sys, truebits_native.reference; print(sorted({'numba', 'truebits'} & set(sys.modules)))"
    assert child(code).split() == ["[]"]


# --- other ways to run


@compiled
def test_everything_holds_without_the_compiler():
    got = child(["-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], NUMBA_DISABLE_JIT="1", PYTEST_ADDOPTS="")
    assert "passed" in got
    assert "failed" not in got


def test_a_difference_is_reported_by_index_and_value():
    expected = np.array([0, 0x3F8CCCCD, 1], np.uint32)
    got = np.array([0, 0x3F8C0000, 2], np.uint32)
    expected_text = "2 of 3 differ, the first at 1: got 0x3f8c0000, expected 0x3f8ccccd"
    with pytest.raises(pytest.fail.Exception, match=expected_text):
        assert_same_bits(got, expected)
    with pytest.raises(AssertionError):
        assert_same_bits(got.astype(np.int64), got)
