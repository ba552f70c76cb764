"""The kernels in memory: against the same loops in C, against NumPy, and against casts there and back."""

from __future__ import annotations

import numpy as np
import pytest

import truebits_native
import yardstick
from compare import alternate, record
from first_use import first_and_second, processor_seconds
from truebits_native import reference

BITS = 16
MASK = np.uint32((1 << BITS) - 1)


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


@pytest.mark.slow
def test_compile(benchmark):
    """All kernels into an empty cache: processor seconds of the whole process."""
    ours, theirs = first_and_second(benchmark, "-m", "truebits_native")
    compiled, kept = ours.results[-1].count(": compiled"), theirs.results[-1].count(": from the cache")
    record(benchmark, *map(processor_seconds, (ours, theirs)), f"{compiled} kernels", compiled == kept)
