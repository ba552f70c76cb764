"""Words of every kind and, by brute force, the bins a profile must put them in."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np
import pytest

from truebits.precision.profile import PrecisionProfile

DTYPE = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16, "F64": np.uint64}
TYPES = tuple(DTYPE)

DTYPE_OF = {
    "f64": np.float64,
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8_e3m4": ml_dtypes.float8_e3m4,
    "fp6_e2m3fn": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2fn": ml_dtypes.float6_e3m2fn,
    "fp4_e2m1fn": ml_dtypes.float4_e2m1fn,
}
"""The dtypes of formats that NumPy and ml_dtypes have."""

SPECIAL = np.array(
    [
        0x00000000, 0x80000000,  # zeros
        0x00000001, 0x80000001, 0x00400000, 0x007FFFFF, 0x807F0000,  # subnormal
        0x00800000, 0x80800000, 0x3F800000, 0xBF800000, 0x3FC00000, 0x3F800001,  # normal
        0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F0000,  # largest
        0x7F800000, 0xFF800000,  # infinities
        0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF,  # quiet NaN
        0x7F800001, 0xFF800001, 0x7F80FFFF, 0xFF810000, 0x7FA00000, 0xFFBFFFFF,  # signalling NaN
        0x43E00000, 0xC3E00000, 0x43F00000, 0xC3F00000,  # +-448, +-480
        0x47800000, 0x477FE000, 0x33800000, 0x33000000, 0x38800000, 0x387FC000,  # ends of FP16
    ],
    np.uint32,
)  # fmt: skip


def mixed(size: int, seed: int) -> np.ndarray:
    """Return F32 words of any bits, words with low zeros, usual weights and special values, shuffled."""
    random = np.random.default_rng(seed)
    anything = random.integers(0, 1 << 32, size, np.uint32)
    patterned = anything << random.integers(0, 32, size, np.uint32)
    weights = random.normal(0, 0.02, size).astype(np.float32).view(np.uint32)
    special = random.choice(SPECIAL, size)
    return np.choose(random.integers(0, 5, size), [anything, patterned, weights, weights & 0xFFFF0000, special])


@cache
def grid(type: str) -> np.ndarray:
    """Return words of every exponent with every number of trailing zeros; all of 16-bit types. Don't write to it."""
    if DTYPE[type] == np.uint16:
        return np.arange(1 << 16, dtype=np.uint16)
    exponents, bits = (256, 23) if type == "F32" else (2048, 52)
    random = np.random.default_rng(0)
    shifts = np.arange(bits + 1, dtype=np.uint64)
    mantissas = (random.integers(0, 1 << 53, (exponents, bits + 1), np.uint64) | 1) << shifts
    coarse = np.tile(np.arange(16, dtype=np.uint64) << (bits - 4), (exponents, 1))
    rows = np.hstack([mantissas & ((1 << bits) - 1), coarse]) | np.arange(exponents, dtype=np.uint64)[:, None] << bits
    words = np.concatenate([rows.ravel(), rows.ravel() | 1 << (exponents.bit_length() + bits - 1)])
    return words.astype(DTYPE[type])


def draws(size: int, scale: float = 0.02, seed: int = 0) -> np.ndarray:
    """Return weights as a model has them, in F32."""
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def rounded(values: np.ndarray, name: str) -> np.ndarray:
    """Round F32 values to BF16 or FP16, nearest, ties to even; keep them in F32."""
    if name == "fp16":
        return values.astype(np.float16).astype(np.float32)
    if name == "bf16":
        words = values.view(np.uint32)
        return (words + 0x7FFF + (words >> 16 & 1) & 0xFFFF0000).view(np.float32)
    return values


def values_of(words: np.ndarray, type: str) -> np.ndarray:
    """Return what the words stand for, as float64."""
    if type == "BF16":
        words, type = words.astype(np.uint32) << 16, "F32"
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return words.view({"F32": np.float32, "F16": np.float16, "F64": np.float64}[type]).astype(np.float64)


def is_nan(words: np.ndarray, type: str) -> np.ndarray:
    return np.isnan(values_of(words, type))


def wide(words: np.ndarray, type: str) -> np.ndarray:
    """Return the words of the same values, NaN payloads included, in the type whose table counts them."""
    if type == "BF16":
        return words.astype(np.uint32) << 16
    if type == "F16":
        payload = np.uint32(0x7F800000) | (words & 0x3FF).astype(np.uint32) << 13
        payload |= (words & 0x8000).astype(np.uint32) << 16
        finite = np.where(is_nan(words, type), 0, values_of(words, type)).astype(np.float32).view(np.uint32)
        return np.where(is_nan(words, type), payload, finite)
    return words


def bins_of(words: np.ndarray, type: str) -> np.ndarray:
    """Return the bin of each word, those of +-480 and +-65504 included: trailing zeros are tried one by one."""
    bits, exponents = (52, 2048) if type == "F64" else (23, 256)
    whole = wide(words, type).astype(np.uint64)
    trailing = sum((whole & ((1 << k) - 1) == 0).astype(np.int64) for k in range(1, bits + 1))
    exponent = (whole >> bits).astype(np.int64) & (exponents - 1)
    bins = exponent * (bits + 1) + trailing
    for number, magnitude in enumerate((480, 65504)):
        bins[np.abs(values_of(words, type)) == magnitude] = exponents * (bits + 1) + number
    return bins


def profile_of(words: np.ndarray, type: str) -> PrecisionProfile:
    return PrecisionProfile.of(type, bins_of(words, type), np.ones(words.size, np.int64))


def assert_same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """Compare integer arrays; say how many differ, and the index and both values of the first."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    differ = np.flatnonzero(got.ravel() != expected.ravel())
    if differ.size:
        first = differ[0]
        values = f"got {int(got.ravel()[first]):#x}, expected {int(expected.ravel()[first]):#x}"
        pytest.fail(f"{differ.size} of {got.size} differ, the first at {first}: {values}")


def assert_same_answers(got: np.ndarray, expected: np.ndarray, words: np.ndarray) -> None:
    """Compare one bool per word; say how many differ, and the first of these words."""
    assert got.shape == expected.shape == words.shape
    differ = np.flatnonzero(got != expected)
    if differ.size:
        first = differ[0]
        values = f"word {int(words[first]):#x}: got {got[first]}, expected {expected[first]}"
        pytest.fail(f"{differ.size} of {got.size} differ, the first at {first}: {values}")


def representable(exponent_bits, mantissa_bits):
    """Return every finite value that is not negative of an IEEE-like format, as float64, ascending."""
    bias = 2 ** (exponent_bits - 1) - 1
    fraction = np.arange(2**mantissa_bits) / 2**mantissa_bits
    subnormal = np.ldexp(fraction, 1 - bias)
    normal = [np.ldexp(1 + fraction, exponent - bias) for exponent in range(1, 2**exponent_bits - 1)]
    return np.concatenate([subnormal, *normal])


FLOATS = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": ml_dtypes.bfloat16}


def words_in(values, type):
    """Return float values as words of a storage type, rounded to the nearest."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(FLOATS[type]).view(DTYPE[type])


CUSTOM = ("e4m3", "e5m7", "e2m0", "e8m0", "e3m9", "e8m2")


def finite_words(type, shape, seed=0):
    return words_in(np.random.default_rng(seed).standard_t(3, shape) * 0.05, type)


def unaligned(words):
    """Return a copy of words that starts at an odd address."""
    array = np.frombuffer(bytearray(words.nbytes + 1), words.dtype, words.size, 1)
    array[:] = words
    assert not array.flags.aligned
    return array
