"""Words whose bytes stand in the wrong order."""

from itertools import pairwise

import numpy as np
import pytest

import truebits_native as native
from truebits.precision.swapped import FEWEST, is_swapped, perhaps_swapped
from words import words_in

WEIGHTS = np.random.default_rng(0).normal(0, 0.02, 4_096)


def judged(words, type):
    """Judge words that stand between weights in a batch."""
    around = words_in(WEIGHTS, type)
    all, borders = np.concatenate([around, words, around]), np.cumsum([0, around.size, words.size, around.size])
    bins, counts, splits = native.profiles(all, borders[:-1], borders[1:], type)
    before, got, after = (
        perhaps and is_swapped(all[a:b], type, bins[c:d], counts[c:d])
        for perhaps, (a, b), (c, d) in zip(
            perhaps_swapped(type, bins, splits), pairwise(borders), pairwise(splits), strict=True
        )
    )
    assert not before
    assert not after
    return got


@pytest.mark.parametrize(
    ("type", "size", "expected"),
    [
        ("F32", FEWEST, True),
        ("F16", FEWEST, True),
        ("BF16", FEWEST, True),
        ("F64", 1_024, True),
        ("F64", FEWEST, False),  # too few for 2,048 exponents
        ("F32", FEWEST - 1, False),
    ],
)
def test_weights(type, size, expected):
    words = words_in(WEIGHTS[:size], type)
    assert not judged(words, type)
    assert judged(words.byteswap(), type) == expected


def test_bf16_stored_as_f32():
    words = words_in(WEIGHTS, "F32") & np.uint32(0xFFFF0000)
    assert not judged(words, "F32")
    assert judged(words.byteswap(), "F32")


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(4_096, np.uint32),
        np.full(4_096, 0x3F800000, np.uint32),
        np.full(4_096, 0x0000803F, np.uint32)[: FEWEST - 1],
        np.random.default_rng(1).integers(0, 1 << 32, 4_096, np.uint32),
        np.arange(4_096, dtype=np.uint32),
        np.full(4_096, 0x7FC00000, np.uint32),
    ],
    ids=["zeros", "ones", "too few", "noise", "subnormals", "NaN"],
)
def test_what_is_odd_either_way_is_not_called_swapped(words):
    assert not judged(words, "F32")
