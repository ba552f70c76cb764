"""Which values a code of a quantized block stands for, against all codes dequantized by gguf-py."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from extras import NEEDS_EVAL
from truebits.lineage.cells import TYPES, CodeCells
from truebits.quantizers.ggml import quantize


def values(rows=16, seed=0):
    return np.random.default_rng(seed).normal(0, 0.02, (rows, 256)).astype(np.float32)


def blocks(type, seed=0):
    """Return packed blocks of a type, by whatever quantizes it, and what they mean."""
    number = GGMLQuantizationType[type]
    try:
        packed = gguf.quants.quantize(values(seed=seed), number)
    except NotImplementedError:
        packed = quantize(values(seed=seed), number)
    packed = packed.reshape(-1, TYPES[type].nbytes)
    return packed, gguf.quants.dequantize(packed, number).reshape(-1).astype(np.float32)


@NEEDS_EVAL
@pytest.mark.parametrize("type", TYPES)
def test_a_value_is_in_its_own_cell(type):
    packed, stored = blocks(type)
    got = CodeCells(type).of(packed.reshape(-1), stored)
    assert (got.least <= stored).all()
    assert (stored <= got.most).all()
    assert (got.least < got.most).all()
    assert got.least.shape == got.step.shape == stored.shape


@NEEDS_EVAL
@pytest.mark.parametrize("type", TYPES)
def test_what_was_quantized_is_in_the_cell_of_its_code(type):
    packed, stored = blocks(type)
    got = CodeCells(type).of(packed.reshape(-1), stored)
    original = values().reshape(-1)
    slack = 1e-3 * got.step * (1 + got.offset)
    outside = (original < got.least - slack) | (original > got.most + slack)
    assert np.count_nonzero(outside) <= (TYPES[type].not_nearest + 1e-3) * original.size


@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "Q5_1", "Q4_1"])
def test_borders_are_halfway_between_neighbouring_codes(type):
    packed, stored = blocks(type)
    got = CodeCells(type).of(packed.reshape(-1), stored)
    inner = np.isfinite(got.least) & np.isfinite(got.most)
    assert np.count_nonzero(inner) > stored.size / 2
    middle = (got.least + got.most)[inner] / 2
    assert np.allclose(middle, stored[inner], atol=1e-6 * np.abs(stored).max())
    assert np.allclose((got.most - got.least)[inner], got.step[inner], rtol=1e-4)


def test_the_outermost_codes_have_no_end():
    packed, stored = blocks("Q4_0")
    got = CodeCells("Q4_0").of(packed.reshape(-1), stored)
    for row in np.arange(stored.size).reshape(-1, 32):
        code = (stored[row] / got.step[row]).round()
        is_last = np.isin(np.abs(code), (7, 8))
        assert (np.isinf(got.least[row]) | np.isinf(got.most[row])).any() == is_last.any()


def test_a_block_without_a_scale_may_be_anything():
    packed, _ = blocks("Q4_0")
    packed[0, :2] = 0
    stored = gguf.quants.dequantize(packed, GGMLQuantizationType.Q4_0).reshape(-1)
    got = CodeCells("Q4_0").of(packed.reshape(-1), stored)
    assert np.isneginf(got.least[:32]).all()
    assert np.isposinf(got.most[:32]).all()
    assert not got.step[:32].any()


def test_no_blocks():
    got = CodeCells("Q8_0").of(np.empty(0, np.uint8), np.empty(0, np.float32))
    assert got.least.size == 0


@pytest.mark.parametrize("type", TYPES)
def test_the_table_is_ggmls(type):
    of = TYPES[type]
    assert (of.values, of.nbytes) == gguf.GGML_QUANT_SIZES[GGMLQuantizationType[type]]
    assert 0 <= of.first < of.last <= of.nbytes
    assert list(of.levels) == sorted(set(of.levels))
