"""Words that show a pattern under a mask: kernel, twin and a loop."""

import numpy as np
import pytest

import truebits_native as native
from truebits_native import reference
from truebits_native.chunks import CHUNK
from words import mixed

STARTS = np.array([0, 5, 5, 100, 700])
STOPS = np.array([0, 6, 300, 700, 1_000])


def loop(words, starts, stops, mask, pattern):
    pairs = zip(starts.tolist(), stops.tolist(), strict=True)
    return [sum(word & mask == pattern for word in words[start:stop].tolist()) for start, stop in pairs]


@pytest.mark.parametrize(("mask", "pattern"), [(0xFFFF, 0), (1, 1), (0xFFFFFFFF, 0x80000000), (0x7F800000, 0x7F800000)])
def test_ranges(both, mask, pattern):
    words = mixed(1_000, 3)
    expected = loop(words, STARTS, STOPS, mask, pattern)
    assert native.matching_counts(words, STARTS, STOPS, mask, pattern).tolist() == expected
    assert reference.matching_counts(words, STARTS, STOPS, mask, pattern).tolist() == expected


@pytest.mark.parametrize("bits", [1, 8, 16, 23, 31])
def test_low_zero_bits(both, bits):
    words = mixed(1_000, 4)
    expected = sum(word % (1 << bits) == 0 for word in words.tolist())
    assert native.low_zero_count(words, bits) == reference.low_zero_count(words, bits) == expected
    assert native.low_zero_counts(words, STARTS, STOPS, bits).tolist() == loop(words, STARTS, STOPS, (1 << bits) - 1, 0)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_around_the_length_of_a_chunk(kernels, size):
    words = np.zeros(size, np.uint32)
    words[::7] = 1
    assert native.low_zero_count(words, 16, threads=2) == size - -(-size // 7)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint64])
def test_words_of_other_sizes(both, dtype):
    words = np.array([0, 1, 1 << 15, 0, 5], dtype)
    got = native.matching_counts(words, np.array([0]), np.array([5]), (1 << 8 * words.itemsize) - 1, 1 << 15)
    assert got.tolist() == [1]


def test_no_words_and_no_ranges(both):
    nothing = np.empty(0, np.int64)
    assert native.low_zero_count(np.empty(0, np.uint32), 16) == 0
    assert native.low_zero_counts(np.empty(0, np.uint32), nothing, nothing, 16).size == 0
