"""Blocks to values and back: against gguf-py's own code, which works on one core."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import truebits_native as native
from compare import alternate, record
from truebits_native.types import LAYOUTS

ROW = 4096
"""Values: gguf-py is at its fastest with rows of about so many."""

PIECE_ROWS = 1 << 10
"""Handled together, as `dequantize` and `diff` do: memory that was just given back is taken again."""


@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "Q2_K", "Q4_K", "Q6_K"])
def test_dequantize(benchmark, words, threads, type):
    layout, number = LAYOUTS[type], gguf.GGMLQuantizationType[type]
    values = words.size // 4 // ROW * ROW
    raw = words.view(np.uint8)[: values // layout.values * layout.nbytes].copy()
    raw.reshape(-1, layout.nbytes)[:, layout.scale_at + 1] &= 0x3F  # finite scales
    rows = raw.reshape(values // ROW, -1)
    by_pieces(
        *(benchmark, rows, f"{values:,} values"),
        lambda some: native.dequantized(some.ravel(), type),
        lambda some: gguf.quants.dequantize(some, number),
    )


@pytest.mark.parametrize("type", ["Q4_0", "Q5_1"])
def test_quantize(benchmark, words, threads, type):
    number, values = gguf.GGMLQuantizationType[type], words.view(np.float32)[: words.size // 4 // ROW * ROW]
    by_pieces(
        *(benchmark, values.reshape(-1, ROW), f"{values.size:,} values"),
        lambda some: native.quantized(some.ravel(), type),
        lambda some: gguf.quants.quantize(some, number),
    )


def by_pieces(benchmark, rows, result, ours_of, theirs_of):
    """Time both on all rows, piece by piece; the last piece's bytes have to be the same."""

    def last_of(function):
        for at in range(0, len(rows), PIECE_ROWS):
            made = function(rows[at : at + PIECE_ROWS])
        return made.ravel().view(np.uint8)

    ours, theirs = alternate(benchmark, lambda: last_of(ours_of), lambda: last_of(theirs_of), rounds=5)
    equal = np.array_equal(ours.results[-1], theirs.results[-1])
    record(benchmark, ours.seconds, theirs.seconds, result, equal)
