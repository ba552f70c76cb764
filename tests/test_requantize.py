"""Blocks made once more of a source's values, by the reference quantizer."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from traced_pair import compared
from truebits.lineage.detours import casts
from truebits.lineage.requantize import Requantized

VALUES = np.random.default_rng(0).normal(0, 0.02, (8, 256)).astype(np.float32)


def packed(values, type="Q8_0"):
    return gguf.quants.quantize(values, GGMLQuantizationType[type])


def meant(blocks, type="Q8_0"):
    return gguf.quants.dequantize(blocks, GGMLQuantizationType[type]).astype(np.float32).ravel()


def made(tmp_path, blocks, source=VALUES, type="Q8_0", through=None, piece=None):
    with compared(tmp_path, (type, blocks), source) as of:
        detour = next((one for one in casts(of) if one.name == through), None)
        found = Requantized(of, detour)
        values, stored = source.astype(np.float32).ravel(), meant(blocks, type)
        for at in range(0, values.size, piece or values.size):
            end = at + (piece or values.size)
            found.add(at, values[at:end], stored[at:end])
        return found


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("piece", [32, 512, None])
def test_the_reference_quantizers_own_bytes(tmp_path, type, piece):
    got = made(tmp_path, packed(VALUES, type), type=type, piece=piece)
    assert (got.is_same, got.problem, got.first_wrong) == (True, None, None)
    assert (got.blocks, got.equal, got.equal_scales) == (64, 64, 64)
    assert got.ratio == 1
    assert got.described == "64 of 64 blocks the reference quantizer's bytes"


def test_one_block_of_its_own(tmp_path):
    blocks = packed(VALUES)
    blocks.reshape(-1, 34)[5, 9] ^= 0x40
    got = made(tmp_path, blocks)
    assert (got.is_same, got.equal, got.first_wrong) == (False, 63, 5 * 32)
    assert got.problem == "1 of 64 blocks are not the reference quantizer's, the others are"


def test_other_values_have_a_larger_error(tmp_path):
    other = np.random.default_rng(1).normal(0, 0.02, VALUES.shape).astype(np.float32)
    got = made(tmp_path, packed(other))
    assert got.ratio > 10
    assert got.problem.startswith("error ")
    assert got.described.startswith("error ")


def test_what_went_through_another_type(tmp_path):
    halves = VALUES.astype(np.float16).astype(np.float32)
    blocks = packed(halves)
    direct, through = made(tmp_path, blocks), made(tmp_path, blocks, through="FP16")
    assert through.is_same
    assert not direct.is_same
    assert (through.told, direct.told) == ("through FP16", "")
    assert through.described.endswith(", through FP16")


def test_blocks_of_zeros_tell_nothing(tmp_path):
    values = VALUES.copy()
    values[0] = 0
    got = made(tmp_path, packed(values), values)
    assert (got.blocks, got.equal, got.is_same) == (56, 56, True)


def test_no_more_than_the_first_values_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("truebits.lineage.requantize.REFERENCE_VALUES", 512)
    with compared(tmp_path, ("Q8_0", packed(VALUES)), VALUES, thorough=False) as of:
        got = Requantized(of)
        got.add(0, VALUES.ravel(), meant(packed(VALUES)))
        assert (got.blocks, got.is_whole) == (16, False)
        assert got.described == "16 of first 16 blocks the reference quantizer's bytes"


def test_a_type_that_nothing_here_quantizes(tmp_path):
    blocks = np.random.default_rng(2).integers(0, 100, (8, 66), np.uint8)
    with compared(tmp_path, ("IQ2_XXS", blocks), VALUES) as of:
        got = Requantized(of)
        got.add(0, VALUES.ravel(), VALUES.ravel())
    assert (got.is_same, got.problem, got.blocks) == (False, None, 0)
    assert got.described == "no quantizer at hand to compare bytes with"
