"""Rounding in memory: against truncation, and against casts there and back by others."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import truebits_native
from compare import alternate, record
from truebits.files.tensor import Tensor
from truebits.numbers.rounding import Quantizer, Rounding, grid_of
from truebits.numbers.spelling import find, target
from truebits.quantizers.quantize import quantizer

BF16, FP8 = (grid_of(find(name), find("f32"), Rounding()) for name in ("bf16", "fp8_e4m3fn"))


@pytest.fixture(scope="module")
def some(words):
    """A quarter of the words, small enough for every FP8 and F16."""
    return (words[: words.size // 4].view(np.float32) * np.float32(0.02)).view(np.uint32)


def there_and_back(benchmark, words, cast, rounds):
    """Round copies of the words to FP8 E4M3FN, with all error figures, against a cast there and back."""
    buffer, expected = words.copy(), cast()

    def ours_once():
        return truebits_native.round_floats(buffer, FP8)

    def refill():
        buffer[:] = words

    ours, theirs = alternate(benchmark, ours_once, cast, rounds, prepare=refill)
    refill()
    changed = ours_once().changed
    equal = np.array_equal(buffer, expected.view(np.uint32))
    record(benchmark, ours.seconds, theirs.seconds, f"{changed:,} of {words.size:,} changed", equal)


def against_truncate(benchmark, words, measured):
    """Time rounding to BF16 against truncation to it, both on one array."""
    array, expected = words.copy(), words.copy()

    def round_once():
        return truebits_native.round_floats(array, BF16, measured=measured)

    changed = round_once().changed
    half = np.uint32(0x7FFF) + ((expected >> np.uint32(16)) & np.uint32(1))
    expected += half
    expected &= np.uint32(0xFFFF0000)
    equal = np.array_equal(array, expected) and changed == np.count_nonzero(expected != words)
    del expected, half
    ours, theirs = alternate(benchmark, round_once, lambda: truebits_native.truncate(array, 16), rounds=21)
    record(benchmark, ours.seconds, theirs.seconds, f"{changed:,} of {words.size:,} changed", equal)


def test_round_counted(benchmark, words, threads):
    against_truncate(benchmark, words, measured=False)


def test_round_measured(benchmark, words, threads):
    against_truncate(benchmark, words, measured=True)


def test_round_ml_dtypes(benchmark, some, threads):
    float8 = pytest.importorskip("ml_dtypes").float8_e4m3fn
    there_and_back(benchmark, some, lambda: some.view(np.float32).astype(float8).astype(np.float32), rounds=5)


def test_round_torch(benchmark, some, threads):
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(some.view(np.float32))
    there_and_back(benchmark, some, lambda: values.to(torch.float8_e4m3fn).to(torch.float32).numpy(), rounds=5)


def test_round_blocks(benchmark, some, threads):
    """Q8_0, whole numbers of 8 bits in blocks of 32, there and back."""
    part = some[: some.size // 4]
    type = gguf.GGMLQuantizationType.Q8_0
    of_all: Quantizer = quantizer(target("q8_0"), Tensor("all", "F32", (32, part.size // 32), 0, 0, 0), 32, Rounding())

    def ours_once():
        rounded = part.copy()
        return rounded, of_all.round(rounded, 0, None)

    def theirs_once():
        return gguf.quants.dequantize(gguf.quants.quantize(part.view(np.float32).reshape(-1, 32), type), type)

    ours, theirs = alternate(benchmark, ours_once, theirs_once, rounds=5)
    rounded, difference = ours.results[-1]
    equal = np.array_equal(rounded, theirs.results[-1].view(np.uint32).ravel())
    record(benchmark, ours.seconds, theirs.seconds, f"{difference.changed:,} of {part.size:,} changed", equal)
