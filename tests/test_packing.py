"""Where the kernels find codes and factors, against gguf-py's unpacking of one code at a time."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from truebits_native.codes import unpack
from truebits_native.packing import (
    QUANTIZED,
    SIMPLE,
    SUPER_BLOCKS,
    Fields,
    quantizing_numbers,
    simple_numbers,
    super_block_numbers,
)
from truebits_native.types import LAYOUTS


@pytest.mark.parametrize(
    ("fields", "first", "expected"),
    [
        (Fields(16, 4), 0, (16, 0)),
        (Fields(16, 4), 32, (16, 4)),
        (Fields(16, 4), 64, (48, 0)),
        (Fields(16, 2), 96, (16, 6)),
        (Fields(16, 2), 128, (48, 0)),
        (Fields(0, 1), 224, (0, 7)),
        (Fields(0, 4, 64), 32, (32, 0)),
        (Fields(0, 4, 64), 64, (0, 4)),
    ],
)
def test_where_a_strip_is(fields, first, expected):
    assert fields.strip(first) == expected


@pytest.mark.parametrize("type", SUPER_BLOCKS)
def test_strips_lead_to_the_codes(type):
    """Each byte of codes is read at the places that the numbers name, and gives the codes that unpacking gives."""
    layout, packed = LAYOUTS[type], SUPER_BLOCKS[type]
    block = np.random.default_rng(0).integers(0, 256, layout.nbytes, np.uint8)
    numbers, strips = super_block_numbers(type)
    low_mask, high_mask, low_bits = (int(one) for one in numbers[-3:])
    codes, got = unpack(block, type).codes.reshape(-1), np.full(layout.values, -1)
    for low_at, high_at, first, second, *shifts in strips.astype(int).tolist():
        for start, low_shift, high_shift in ((first, *shifts[:2]), (second, *shifts[2:])):
            low = block[low_at : low_at + 32].astype(int) >> low_shift & low_mask
            high = block[high_at : high_at + 32].astype(int) >> high_shift & high_mask
            got[start : start + 32] = low | high << low_bits
    assert got.tolist() == codes.tolist()
    assert packed.low.bits == low_bits


@pytest.mark.parametrize("type", SIMPLE)
def test_simple_types_are_what_gguf_says(type):
    nbytes, is_wide, has_offset, codes_at, *_ = simple_numbers(LAYOUTS[type])
    assert (32, int(nbytes)) == (LAYOUTS[type].values, LAYOUTS[type].nbytes)
    assert is_wide == (type != "MXFP4")
    assert has_offset == type.endswith("_1")
    assert int(codes_at) == int(nbytes) - (32 if type == "Q8_0" else 16)
    assert GGMLQuantizationType[type] in quants._type_traits


@pytest.mark.parametrize("type", QUANTIZED)
def test_types_that_values_are_quantized_to(type):
    nbytes, values, has_offset, is_bytes, most, middle = quantizing_numbers(LAYOUTS[type])
    assert values == LAYOUTS[type].values
    assert (int(nbytes), has_offset, is_bytes) == (LAYOUTS[type].nbytes, type.endswith("_1"), type == "Q8_0")
    assert (int(most), float(middle)) == (LAYOUTS[type].levels.size - 1, (LAYOUTS[type].levels.size + 1) / 2)
