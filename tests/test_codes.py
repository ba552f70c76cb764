"""The codes of block-quantized bytes, against what gguf-py makes of them."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from truebits_native.codes import MOST_CODES, cells, code_counts, unpack
from truebits_native.types import LAYOUTS

READ = [name for name in LAYOUTS if GGMLQuantizationType[name] in quants._type_traits]


def any_blocks(type, count=50, seed=0):
    """Return blocks of anything, with scales that are finite in every type."""
    return np.random.default_rng(seed).integers(0, 256, (count, LAYOUTS[type].nbytes), np.uint8) & 0x3F


@pytest.mark.parametrize("type", READ)
def test_values_are_gguf_pys(type):
    raw = any_blocks(type)
    got = unpack(raw.ravel(), type).values(LAYOUTS[type].levels)
    expected = quants.dequantize(raw, GGMLQuantizationType[type])
    assert got.shape == expected.shape
    assert np.allclose(got, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("type", LAYOUTS)
def test_shapes(type):
    layout, parts = LAYOUTS[type], unpack(any_blocks(type, 3).ravel(), type)
    assert parts.codes.shape == (3, layout.groups, layout.values // layout.groups)
    assert parts.codes.dtype == np.uint8
    assert parts.codes.max() < len(layout.levels)
    assert parts.scale.shape == parts.offset.shape == (3, layout.groups)


def counted(raw, type):
    """Count group by group what the codes are."""
    layout, parts = LAYOUTS[type], unpack(raw, type)
    of, distinct, dead, used = cells(layout), [0] * (MOST_CODES + 1), 0, 0
    values = layout.levels[parts.codes].astype(np.float64)
    for block in range(len(parts.codes)):
        for group in range(layout.groups):
            seen = set(of[parts.codes[block, group]].tolist())
            distinct[len(seen)] += 1
            used |= sum(1 << one for one in seen)
            scale, offset = parts.scale[block, group], parts.offset[block, group]
            is_zero = scale == 0 or (np.isfinite(scale) and not values[block, group].any())
            dead += is_zero and offset == 0
    return distinct, dead, used


@pytest.mark.parametrize("type", LAYOUTS)
def test_counts_are_those_of_a_loop(type):
    raw = any_blocks(type, 40)
    raw[:5] = 0
    got = code_counts(raw.ravel(), type)
    assert (got.distinct.tolist(), got.dead, got.used) == counted(raw.ravel(), type)


@pytest.mark.parametrize("type", LAYOUTS)
def test_no_blocks(type):
    nothing = np.empty(0, np.uint8)
    got = code_counts(nothing, type)
    assert (got.distinct.sum(), got.dead, got.used) == (0, 0, 0)
    assert unpack(nothing, type).values(LAYOUTS[type].levels).shape == (0, LAYOUTS[type].values)


def test_blocks_of_zeros_are_dead():
    zeros = quants.quantize(np.zeros((4, 32), np.float32), GGMLQuantizationType.Q4_0)
    got = code_counts(zeros.ravel(), "Q4_0")
    assert (got.dead, got.distinct[1]) == (4, 4)
    assert gguf.GGML_QUANT_SIZES[GGMLQuantizationType.Q4_0] == (LAYOUTS["Q4_0"].values, LAYOUTS["Q4_0"].nbytes)
