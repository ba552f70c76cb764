"""Model against model: against reading both in C, and against NumPy with one expression per figure."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import truebits
import yardstick
from compare import alternate, record
from conftest import GIB, make
from files import TRUEBITS, packed, run


@pytest.fixture(scope="module")
def pair(folder, scale):
    """Two files of 1 GiB that differ in nearly every value."""
    a = make(folder / "a.gguf", GIB * scale)
    truebits.fakequant(a, folder / "b.gguf", to="bf16")
    return a, folder / "b.gguf"


def words_of(path):
    return [tensor.data.reshape(-1).view(np.uint32) for tensor in gguf.GGUFReader(path).tensors]


def figures_by_numpy(a, b):
    """Compute what `diff` does, one expression for each figure."""
    changed, errors, squares, most = 0, 0.0, 0.0, 0.0
    relative, ulp, product, others = 0.0, 0, 0.0, 0.0
    for old, new in zip(words_of(a), words_of(b), strict=True):
        x, y = old.view(np.float32), new.view(np.float32)
        changed += int(np.count_nonzero(old != new))
        most = max(most, float(np.abs(y - x).max()))
        with np.errstate(invalid="ignore"):  # 0 against 0
            relative = max(relative, float(np.nanmax(np.abs(y - x) / np.abs(x))))
        ulp = max(ulp, int(np.abs(old.astype(np.int64) - new).max()))
        errors += float(((y - x).astype(np.float64) ** 2).sum())
        squares += float((x.astype(np.float64) ** 2).sum())
        product += float((x.astype(np.float64) * y).sum())
        others += float((y.astype(np.float64) ** 2).sum())
    return changed, most, relative, ulp, errors, squares, product, others


def test_diff_c(benchmark, pair, words, threads, library):
    truebits.diff(*pair)

    def read_both():
        return [yardstick.read_or(library, words, threads) for _ in range(2)]

    ours, theirs = alternate(benchmark, lambda: truebits.diff(*pair), read_both, rounds=9)
    found = ours.results[-1]
    record(benchmark, ours.seconds, theirs.seconds, f"{found.changed:,} of {found.values:,} differ", equal=None)


def test_diff_numpy(benchmark, pair, threads):
    ours, theirs = alternate(benchmark, lambda: truebits.diff(*pair), lambda: figures_by_numpy(*pair), rounds=3)
    found, expected = ours.results[-1], theirs.results[-1]
    total = found.total
    exact = (found.changed, total.max_abs, total.max_rel, total.max_ulp) == expected[:4]
    sums = total.squared_error, total.squares, total.products, total.other_squares
    equal = exact and bool(np.allclose(sums, expected[4:], rtol=1e-9))
    record(benchmark, ours.seconds, theirs.seconds, f"{found.changed:,} of {found.values:,} differ", equal)


def test_diff_one_bit(benchmark, folder, scale):
    """As a process: bytes are compared before any is taken for a value."""
    a, b = folder / "one.gguf", folder / "other.gguf"
    packed(a, dict.fromkeys(("Q4_0", "Q8_0", "Q4_K", "Q6_K"), int(62.5e6 * scale)))
    data = bytearray(a.read_bytes())
    data[-100] ^= 1
    b.write_bytes(data)
    ours, theirs = alternate(
        benchmark, lambda: run(*TRUEBITS, "diff", a, b, code=1), lambda: run("cmp", "-l", a, b, code=1), rounds=5
    )
    record(benchmark, ours.seconds, theirs.seconds, theirs.results[-1].strip(), equal=None)


def test_trace(benchmark, pair, threads):
    ours, theirs = alternate(benchmark, lambda: truebits.trace(*pair), lambda: truebits.diff(*pair), rounds=5)
    tensors = ours.results[-1].tensors
    record(benchmark, ours.seconds, theirs.seconds, f"{len(tensors)} tensors", equal=None)
