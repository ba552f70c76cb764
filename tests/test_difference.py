"""How far words are from others: kernel, twin and plain Python."""

import math
from fractions import Fraction

import numpy as np
import pytest

import truebits_native as native
from truebits_native import reference
from truebits_native.reference import Difference, merged
from truebits_native.types import ROUND_CHUNK
from words import mixed


def words_of(*values):
    return np.array(values, np.float32).view(np.uint32)


def by_hand(before, after):
    """Measure finite values one by one, exactly."""
    pairs = list(zip(before.view("<f4").tolist(), after.view("<f4").tolist(), strict=True))
    errors = [abs(Fraction(b) - Fraction(a)) for a, b in pairs]

    def place(word):
        return -(word & 0x7FFFFFFF) if word >> 31 else word

    apart = [abs(place(a) - place(b)) for a, b in zip(before.tolist(), after.tolist(), strict=True)]
    return {
        "values": len(pairs),
        "changed": sum(a != b for a, b in zip(before.tolist(), after.tolist(), strict=True)),
        "flushed": sum(a != 0 and b == 0 for a, b in pairs),
        "raised": sum(a == 0 and b != 0 for a, b in pairs),
        "max_ulp": max(apart, default=0),
        "max_abs": float(max(errors, default=0)),
        "squared_error": float(sum(error * error for error in errors)),
        "squares": float(sum(Fraction(a) ** 2 for a, _ in pairs)),
        "products": float(sum(Fraction(a) * Fraction(b) for a, b in pairs)),
    }


def finite(size, seed):
    values = np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)
    values[::9] = 0
    return values.view(np.uint32)


@pytest.mark.parametrize("size", [0, 1, 7, 500])
def test_finite_values(both, size):
    before, after = finite(size, 0), finite(size, 1)
    after[::3] = before[::3]
    got, expected = native.compare(before, after), by_hand(before, after)
    for name, value in expected.items():
        assert getattr(got, name) == pytest.approx(value, rel=1e-6), name
    assert got.replaced == 0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.0, -0.0, {"changed": 1, "max_abs": 0, "max_ulp": 0}),
        (1.0, 0.0, {"changed": 1, "flushed": 1, "max_abs": 1, "max_rel": 1}),
        (0.0, 1.0, {"changed": 1, "raised": 1, "max_abs": 1, "max_rel": 0}),
        (1.0, -1.0, {"changed": 1, "max_abs": 2, "max_ulp": 2 * 0x3F800000}),
        (np.nan, np.nan, {"changed": 0, "replaced": 0}),
        (np.nan, 1.0, {"changed": 1, "replaced": 1, "max_abs": 0}),
        (np.inf, 1.0, {"changed": 1, "replaced": 1, "max_abs": 0}),
        (np.inf, -np.inf, {"changed": 1, "replaced": 1}),
        (1.0, np.nan, {"changed": 1, "replaced": 0, "max_abs": math.inf, "squared_error": math.inf}),
        (1.0, np.inf, {"changed": 1, "max_abs": math.inf}),
        (3e38, -3e38, {"max_abs": math.inf}),
    ],
)
def test_one_pair(both, before, after, expected):
    got = native.compare(words_of(before), words_of(after))
    assert {name: getattr(got, name) for name in expected} == expected


def test_another_nan_is_a_change_without_an_error(both):
    got = native.compare(words_of(np.nan), words_of(np.nan) ^ np.uint32(1 << 31))
    assert (got.changed, got.replaced, got.max_abs) == (1, 0, 0)


def test_kernel_is_twin(kernels):
    before, after = mixed(ROUND_CHUNK + 700, 1), mixed(ROUND_CHUNK + 700, 2)
    after[::2] = before[::2]
    assert native.compare(before, after, threads=2) == reference.compare(before, after)


def test_pieces_add_up():
    before, after = finite(900, 3), finite(900, 4)
    whole = reference.compare(before, after)
    parts = merged(reference.compare(before[at : at + 300], after[at : at + 300]) for at in range(0, 900, 300))
    assert parts.squared_error == pytest.approx(whole.squared_error)
    assert (parts.changed, parts.max_abs, parts.max_ulp) == (whole.changed, whole.max_abs, whole.max_ulp)
    assert merged([]) == Difference()


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0xFFFF, 1, 0])
def test_words_that_differ_under_a_mask(both, mask):
    before, after = mixed(1_000, 5), mixed(1_000, 6)
    after[:500] = before[:500]
    expected = sum((a ^ b) & mask != 0 for a, b in zip(before.tolist(), after.tolist(), strict=True))
    assert native.differing_count(before, after, mask) == expected


@pytest.mark.parametrize("call", [native.compare, native.differing_count])
def test_what_is_no_pair_is_refused(call):
    with pytest.raises(ValueError, match="arrays of 3 and 4 words"):
        call(np.zeros(3, np.uint32), np.zeros(4, np.uint32))
    with pytest.raises(TypeError, match="words must be 1-D uint32"):
        call(np.zeros(3, np.float32), np.zeros(3, np.float32))


def test_doubles():
    before, after = np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.5, np.nan])
    got = native.compare(before.view(np.uint64), after.view(np.uint64))
    assert (got.changed, got.max_abs, got.squared_error) == (1, 0.5, 0.25)
