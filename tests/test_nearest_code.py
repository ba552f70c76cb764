"""Codes that are the nearest to their values: of ggml's own blocks all, and of any others not.

`tests/data/quantized.npz` was made by ggml itself (`tools/quantized_blocks.py`).
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from truebits.lineage.cells import TYPES
from truebits.lineage.nearest_code import NearestCodes

MADE = Path(__file__).with_name("data") / "quantized.npz"
EXACT = [type for type, codes in TYPES.items() if not codes.not_nearest]


@pytest.fixture(scope="module")
def made():
    with np.load(MADE) as file:
        found = dict(file)
    values = (found.pop("values").astype(np.uint32) << 16).view(np.float32)
    return values.reshape(-1), found


def looked(type, packed, values):
    found = NearestCodes(type)
    stored = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[type]).reshape(-1)
    found.add(packed.reshape(-1), stored, values, 0)
    return found


@pytest.mark.parametrize("end", ["", "+imatrix"])
@pytest.mark.parametrize("type", TYPES)
def test_ggmls_own_codes_are_the_nearest(made, type, end):
    values, packed = made
    found = looked(type, packed[type + end], values)
    assert found.values == values.size
    assert found.problem is None, found.problem
    if type in EXACT:
        assert found.wrong == 0


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("noise", [1e-2, 3e-2, 1e-1])
def test_noise_is_found(made, type, noise):
    values, packed = made
    factors = 1 + noise * np.random.default_rng(1).standard_normal(values.size)
    found = looked(type, packed[type], (values * factors).astype(np.float32))
    least = {1e-2: EXACT, 3e-2: [*EXACT, "Q5_0", "Q5_1", "Q8_0"], 1e-1: list(TYPES)}[noise]
    assert type not in least or found.problem is not None


@pytest.mark.parametrize("type", EXACT)
def test_one_flipped_bit_of_a_code(made, type):
    values, packed = made
    changed = packed[type].copy()
    at = TYPES[type].last - 5
    changed[7, at] ^= 1
    found = looked(type, changed, values)
    assert found.wrong > 0
    assert found.first_wrong // TYPES[type].values == 7


def test_blocks_without_a_scale_tell_nothing():
    packed = np.zeros((2, 144), np.uint8)
    packed[:, 16:] = 0x5A
    packed[1, :2] = 0xFF  # NaN
    found = looked("Q4_K", packed, np.zeros(512, np.float32))
    assert (found.values, found.wrong) == (512, 0)


@pytest.mark.parametrize("type", ["Q4_K", "Q6_K"])
def test_values_far_from_zero(made, type):
    """Offsets of hundreds of steps, of which F32 does not tell the last bits."""
    blocks = made[1][type].copy()
    stored = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[type]).reshape(-1)
    assert looked(type, blocks, stored).wrong == 0
    assert looked(type, blocks, stored + np.float32(1)).problem is not None
