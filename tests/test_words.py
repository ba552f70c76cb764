"""Stored words as F32 words of the same values."""

import ml_dtypes
import numpy as np
import pytest

from truebits.files.types import FP8_FORMATS
from truebits.numbers.words import from_singles, single_words, to_singles
from words import grid, values_of

FP8 = {name: getattr(ml_dtypes, format.replace("fp8", "float8")) for name, format in FP8_FORMATS.items()}


@pytest.mark.parametrize("type", ["F16", "BF16", "F64", "F32"])
def test_values_stay_what_they_are(type):
    words = grid(type)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values_of(words, type).astype(np.float32)
    got = to_singles(words, type).view(np.float32)
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got)[expected == 0], np.signbit(expected)[expected == 0])


def test_f32_words_are_themselves():
    words = np.arange(5, dtype=np.uint32)
    assert to_singles(words, "F32") is words


@pytest.mark.parametrize("type", FP8)
def test_every_code_of_fp8(type):
    codes = np.arange(256, dtype=np.uint8)
    got, expected = single_words(type), codes.view(FP8[type]).astype(np.float32)
    is_nan = np.isnan(expected)
    assert (got.shape, got.dtype) == ((256,), np.uint32)
    assert (got == expected.view(np.uint32))[~is_nan].all()
    assert np.isnan(got.view(np.float32)[is_nan]).all()
    assert (got[is_nan] >> 31 == codes[is_nan] >> 7).all()
    assert to_singles(codes, type).tolist() == got.tolist()


def test_nothing():
    for type, dtype in (("F16", np.uint16), ("F64", np.uint64), ("F8_E4M3", np.uint8)):
        assert to_singles(np.empty(0, dtype), type).tolist() == []


@pytest.mark.parametrize("type", ["F16", "BF16", "F32", "F8_E4M3", "F8_E5M2"])
def test_there_and_back(type):
    """Every value of a type comes back from F32; but for the NaNs of FP8."""
    if type in FP8:
        words = np.arange(256, dtype=np.uint8)
        words = words[np.isfinite(words.view(FP8[type]).astype(np.float32))]
    else:
        words = grid(type)
        words = words[np.isfinite(values_of(words, type))]
    got = from_singles(to_singles(words, type), type)
    assert got.dtype == words.dtype
    assert (got == words).all()
