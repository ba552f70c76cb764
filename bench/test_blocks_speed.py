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


@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "Q2_K", "Q4_K", "Q6_K"])
def test_dequantize(benchmark, words, threads, type):
    layout, number = LAYOUTS[type], gguf.GGMLQuantizationType[type]
    values = words.size // 4 // ROW * ROW
    raw = words.view(np.uint8)[: values // layout.values * layout.nbytes].copy()
    raw.reshape(-1, layout.nbytes)[:, layout.scale_at + 1] &= 0x3F  # finite scales
    rows = raw.reshape(values // ROW, -1)
    ours, theirs = alternate(
        benchmark, lambda: native.dequantized(raw, type), lambda: gguf.quants.dequantize(rows, number), rounds=7
    )
    same_bytes(benchmark, ours, theirs, f"{values:,} values")


@pytest.mark.parametrize("type", ["Q4_0", "Q5_1"])
def test_quantize(benchmark, words, threads, type):
    number, values = gguf.GGMLQuantizationType[type], words.view(np.float32)[: words.size // 4 // ROW * ROW]
    rows = values.reshape(-1, ROW)
    ours, theirs = alternate(
        benchmark, lambda: native.quantized(values, type), lambda: gguf.quants.quantize(rows, number), rounds=5
    )
    same_bytes(benchmark, ours, theirs, f"{values.size:,} values")


def same_bytes(benchmark, ours, theirs, result):
    got, expected = (runs.results[-1].ravel().view(np.uint8) for runs in (ours, theirs))
    record(benchmark, ours.seconds, theirs.seconds, result, np.array_equal(got, expected))
