"""Rewriting a file: against copying it with cp, and bringing the copy to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import truebits
from compare import alternate, record
from files import BITS, BLOCK_WORDS, MASK, TRUEBITS, expected_low_zero, run


def test_truncate_file(benchmark, two_gib, folder, threads):
    def truncate(cut: Path) -> int:
        return truebits.truncate(two_gib, cut, bits=BITS).changed

    compare_with_cp(benchmark, two_gib, folder, truncate, lambda cut, changed: is_cut(two_gib, cut, changed))


def test_truncate_process(benchmark, two_gib, folder):
    def truncate(cut: Path) -> int:
        return json.loads(run(*TRUEBITS, "truncate", two_gib, cut, "--bits", str(BITS), "--json"))["changed"]

    compare_with_cp(benchmark, two_gib, folder, truncate, lambda cut, changed: is_cut(two_gib, cut, changed))


def test_fakequant_file(benchmark, two_gib, folder, threads):
    def rounded(out: Path) -> int:
        return truebits.fakequant(two_gib, out, to="fp8_e4m3fn").changed

    compare_with_cp(benchmark, two_gib, folder, rounded, lambda out, changed: is_in_fp8(out))


def is_in_fp8(path: Path) -> bool:
    """Tell, with ml_dtypes, whether all F32 values are exact in FP8 E4M3FN."""
    float8 = pytest.importorskip("ml_dtypes").float8_e4m3fn
    tensors = [tensor.data.reshape(-1) for tensor in gguf.GGUFReader(path).tensors]
    blocks = (values[at : at + BLOCK_WORDS] for values in tensors for at in range(0, values.size, BLOCK_WORDS))
    return all(np.array_equal(block.astype(float8).astype(np.float32), block) for block in blocks)


def compare_with_cp(
    benchmark,
    source: Path,
    folder: Path,
    rewrite: Callable[[Path], int],
    is_right: Callable[[Path, int], bool],
) -> None:
    """Time rewriting a file against copying it and bringing the copy to disk."""
    cut, copied = folder / "cut.gguf", folder / "copied.gguf"

    def copy_to_disk() -> None:
        run("cp", "--reflink=never", source, copied)
        run("sync", copied)

    def clear() -> None:
        cut.unlink(missing_ok=True)
        copied.unlink(missing_ok=True)
        os.sync()
        claim_memory(3 * source.stat().st_size // 2)

    ours, theirs = alternate(benchmark, lambda: rewrite(cut), copy_to_disk, rounds=5, prepare=clear)
    changed = ours.results[-1]
    equal = is_right(cut, changed)
    clear()
    record(benchmark, ours.seconds, theirs.seconds, f"{changed:,} values changed", equal)


def claim_memory(nbytes: int) -> None:
    """Touch memory and give it back, so that neither side waits for its pages.

    A virtual machine's host takes free memory back within seconds and returns it page by page: 4 s for
    2 GiB, whoever asks first.
    """
    np.ones(nbytes, np.uint8)


def is_cut(source: Path, cut: Path, changed: int) -> bool:
    """Tell whether a file is the other with all F32 words masked and every other byte the same."""
    if changed != words_changed(source):
        return False
    start = min(int(tensor.data_offset) for tensor in gguf.GGUFReader(source).tensors)
    before, after = np.memmap(source, np.uint32, "r"), np.memmap(cut, np.uint32, "r")
    first = start // 4
    if before.size != after.size or not np.array_equal(before[:first], after[:first]):
        return False
    blocks = (slice(at, at + BLOCK_WORDS) for at in range(first, before.size, BLOCK_WORDS))
    return all(np.array_equal(before[block] & ~MASK, after[block]) for block in blocks)


def words_changed(path: Path) -> int:
    tensors = gguf.GGUFReader(path).tensors
    return sum(tensor.n_elements for tensor in tensors) - sum(expected_low_zero(path).values())
