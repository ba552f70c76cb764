"""F32 values to blocks: the twin and the kernel against gguf-py, byte for byte."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

import truebits_native as native
from truebits_native import reference
from truebits_native.packing import QUANTIZED
from truebits_native.reference import quantizing
from words import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of kernels that are not compiled


def by_gguf(values, type):
    with np.errstate(all="ignore"):
        return quants.quantize(values.reshape(-1, 32), GGMLQuantizationType[type]).ravel()


def drawn(blocks, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, 32 * blocks).astype(np.float32)


@pytest.mark.parametrize("type", QUANTIZED)
@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1.0, 1e4, 1e30])
def test_values_of_any_size(both, type, scale):
    values = drawn(40, scale=scale)
    assert_same_bits(native.quantized(values, type), by_gguf(values, type))
    assert_same_bits(reference.quantized(values, type), by_gguf(values, type))


@pytest.mark.parametrize("type", QUANTIZED)
def test_blocks_of_one_value(both, type):
    for value in (0.0, -0.0, 1.0, -1.0, 65504.0, 2.0**-24):
        values = np.full(32, value, np.float32)
        assert_same_bits(native.quantized(values, type), by_gguf(values, type))


@pytest.mark.parametrize("type", QUANTIZED)
def test_pieces_of_the_twin_are_the_whole(monkeypatch, type):
    values = drawn(10)
    monkeypatch.setattr(quantizing, "PIECE_BLOCKS", 3)
    assert_same_bits(reference.quantized(values, type), by_gguf(values, type))
    assert reference.quantized(values[:0], type).size == 0


@pytest.mark.parametrize("type", QUANTIZED)
def test_what_was_dequantized_is_quantized_again_to_the_same_values(type):
    once = quants.dequantize(by_gguf(drawn(40), type).reshape(40, -1), GGMLQuantizationType[type]).astype(np.float32)
    again = reference.quantized(once.ravel(), type).reshape(40, -1)
    got = quants.dequantize(again, GGMLQuantizationType[type])
    assert np.allclose(got, once, rtol=2e-3, atol=1e-3 * np.abs(once).max())
