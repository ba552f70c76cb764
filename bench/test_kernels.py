"""The kernels in memory: against the same loops in C, against NumPy, and against casts there and back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

import truebits_native
import yardstick
from compare import alternate, record
from goals import BLOCK_TYPES
from truebits_native import reference
from truebits_native.reference.blocks import LAYOUTS, block_counts

BITS = 16
MASK = np.uint32((1 << BITS) - 1)

FIRST_USE = """
import numba, numpy, truebits_native
words = numpy.arange(1 << 20, dtype=numpy.uint32)
print(truebits_native.low_zero_count(words, 16), truebits_native.profile(words)[:2].tolist())
"""
"""Importing numba first lets small work go to the kernels."""


def ours_against(benchmark, words, theirs, rounds):
    """Time `low_zero_count` against another way to the same number."""
    ours, others = alternate(benchmark, lambda: truebits_native.low_zero_count(words, BITS), theirs, rounds)
    got, expected = ours.results[-1], others.results[-1]
    record(benchmark, ours.seconds, others.seconds, f"{got:,} of {words.size:,}", got == expected)


def test_low_zero_count_c(benchmark, words, threads, library):
    ours_against(benchmark, words, lambda: yardstick.low_zero(library, words, BITS, threads), rounds=21)


def test_low_zero_count_numpy(benchmark, words, threads):
    ours_against(benchmark, words, lambda: int(np.count_nonzero(words & MASK == 0)), rounds=5)


def test_low_zero_count_ml_dtypes(benchmark, words, threads):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    some = words[: words.size // 4]
    values = some.view(np.float32)
    ours_against(
        benchmark,
        some,
        lambda: int(np.count_nonzero(values.astype(bfloat16).astype(np.float32) == values)),
        rounds=5,
    )


def test_low_zero_count_torch(benchmark, words, threads):
    torch = pytest.importorskip("torch")
    some = words[: words.size // 4]
    values = torch.from_numpy(some.view(np.float32))
    ours_against(benchmark, some, lambda: int((values.to(torch.bfloat16).to(torch.float32) == values).sum()), rounds=5)


def test_profile_c(benchmark, words, threads, library):
    ours, theirs = alternate(
        benchmark, lambda: truebits_native.profile(words), lambda: yardstick.read_or(library, words, threads), rounds=15
    )
    table = ours.results[-1]
    result = f"{int(table.sum()):,} values in {np.count_nonzero(table)} bins"
    record(benchmark, ours.seconds, theirs.seconds, result, np.array_equal(table, reference.profile(words)))


def test_profile_numpy(benchmark, words, threads):
    some = words[: words.size // 8]
    ours, theirs = alternate(
        benchmark, lambda: truebits_native.profile(some), lambda: reference.profile(some), rounds=3
    )
    got, expected = ours.results[-1], theirs.results[-1]
    record(
        benchmark,
        ours.seconds,
        theirs.seconds,
        f"{int(got.sum()):,} values in {np.count_nonzero(got)} bins",
        np.array_equal(got, expected),
    )


def truncate_against(benchmark, words, theirs, rounds):
    """Compare the words once, each side's on its own copy; then time both on one array."""
    got, expected = words.copy(), words.copy()
    changed = truebits_native.truncate(got, BITS)
    theirs(expected)
    equal = np.array_equal(got, expected) and changed == np.count_nonzero(words & MASK)
    del expected
    ours, others = alternate(benchmark, lambda: truebits_native.truncate(got, BITS), lambda: theirs(got), rounds)
    record(benchmark, ours.seconds, others.seconds, f"{changed:,} of {words.size:,} changed", equal)


def test_truncate_c(benchmark, words, threads, library):
    truncate_against(benchmark, words, lambda array: yardstick.and_loop(library, array, BITS, threads), rounds=21)


def test_truncate_numpy(benchmark, words, threads):
    truncate_against(benchmark, words, lambda array: np.bitwise_and(array, ~MASK, out=array), rounds=7)


@pytest.mark.parametrize("type", BLOCK_TYPES)
def test_block_counts(benchmark, words, threads, type):
    """Blocks of random bytes: no code and no scale is spared."""
    raw = np.random.default_rng(1).integers(0, 256, words.nbytes // 4, np.uint8)
    whole = np.array([0]), np.array([raw.size - raw.size % LAYOUTS[type].nbytes])
    some = raw[: raw.size - raw.size % 4].view(np.uint32)
    first = np.array([0]), np.array([min(100_000 * LAYOUTS[type].nbytes, int(whole[1][0]))])
    truebits_native.block_counts(raw, *first, type)
    ours, theirs = alternate(
        benchmark,
        lambda: truebits_native.block_counts(raw, *whole, type),
        lambda: truebits_native.low_zero_count(some, BITS),
        rounds=9,
    )
    got, expected = truebits_native.block_counts(raw, *first, type), block_counts(raw, *first, type)
    equal = all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))
    record(benchmark, ours.seconds, theirs.seconds, f"{ours.results[-1].distinct.sum():,} groups", equal)


@pytest.mark.slow
def test_compile(benchmark):
    """A process that compiles what it needs into an empty cache, against one that finds it there."""
    with tempfile.TemporaryDirectory() as filled, tempfile.TemporaryDirectory() as emptied:

        def first_use(cache: str) -> str:
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            command = [sys.executable, "-c", FIRST_USE]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

        def empty() -> None:
            shutil.rmtree(emptied, ignore_errors=True)

        first_use(filled)
        ours, theirs = alternate(benchmark, lambda: first_use(emptied), lambda: first_use(filled), 3, prepare=empty)
    got, expected = ours.results[-1], theirs.results[-1]
    record(benchmark, ours.seconds, theirs.seconds, f"{got.split()[0]} of 1,048,576", got == expected)
