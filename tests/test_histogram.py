"""Words by exponent and trailing zeros: kernel and twin against bins found one by one."""

import numpy as np
import pytest

import truebits_native as native
from truebits_native import reference
from words import DTYPE, TYPES, assert_same_bits, bins_of, grid, mixed


def by_hand(words, type):
    """Return the bins of words, those of +-480 and +-65504 as any others'."""
    own = bins_of(words, type)
    table = 2048 * 53 if type == "F64" else 256 * 24
    apart = own >= table
    exponents = {table: (8, 3), table + 1: (15, 10)}
    bias, columns = (1023, 53) if type == "F64" else (127, 24)
    for bin, (exponent, bits) in exponents.items():
        own = np.where(own == bin, (exponent + bias) * columns + columns - 1 - bits, own)
    assert apart.any()
    return own


@pytest.mark.parametrize("type", TYPES)
def test_bins(type):
    words = np.concatenate([grid(type), special(type)])
    assert (native.bins_of(words, type).astype(np.int64) == by_hand(words, type)).all()


def special(type):
    values = np.array([480, -480, 65504, -65504, 0, -0.0, np.inf, np.nan], np.float32)
    if type == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype({"F32": np.float32, "F16": np.float16, "F64": np.float64}[type]).view(DTYPE[type])


@pytest.mark.parametrize("type", TYPES)
def test_profiles_of_ranges(both, type):
    words = np.random.default_rng(1).choice(np.concatenate([grid(type), special(type)]), 3_000)
    starts, stops = np.array([0, 10, 10, 500]), np.array([0, 11, 500, 3_000])
    bins, counts, splits = native.profiles(words, starts, stops, type)
    for at, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        some = slice(splits[at], splits[at + 1])
        expected = np.unique(native.bins_of(words[start:stop], type).astype(np.int64), return_counts=True)
        assert bins[some].tolist() == expected[0].tolist()
        assert counts[some].tolist() == expected[1].tolist()


@pytest.mark.parametrize("size", [0, 1, 1_000])
def test_profile_is_a_table(both, size):
    words = mixed(size, 5)
    got = native.profile(words)
    expected = np.zeros((256, 24), np.int64)
    for bin in native.bins_of(words).tolist():
        expected[bin // 24, bin % 24] += 1
    assert_same_bits(got, expected)
    assert_same_bits(reference.profile(words), expected)


def test_halves_are_in_the_bins_of_their_values():
    assert native.bins_of(np.array([0x3C00], np.uint16), "F16") == native.bins_of(np.array([0x3F800000], np.uint32))
    assert native.bins_of(np.array([0x3F80], np.uint16), "BF16") == native.bins_of(np.array([0x3F800000], np.uint32))
