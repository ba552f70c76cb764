"""ggml's block types, by gguf-py's code and by ggml's own."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from extras import NEEDS_EVAL
from truebits.errors import Refused
from truebits.files.tensor import Tensor
from truebits.numbers.rounding import Rounding
from truebits.numbers.spelling import target
from truebits.quantizers import ggml
from truebits.quantizers.ggml import GgmlQuantizer, in_rows, quantize, round_trip

BLOCKS = np.random.default_rng(0).normal(0, 0.02, (40, 256)).astype(np.float32)


@NEEDS_EVAL
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q5_1"])
def test_ggml_and_gguf_py_quantize_alike(name):
    """gguf-py repeats ggml's reference code; a value in a thousand may lie on a border that rounding moves."""
    type = GGMLQuantizationType[name]
    blocks = BLOCKS.reshape(-1, 32)
    got, expected = quantize(blocks, type), gguf.quants.quantize(blocks, type)
    assert (got.shape, got.dtype) == (expected.shape, np.uint8)
    assert np.count_nonzero(got != expected) <= got.size / 1000


@NEEDS_EVAL
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "IQ4_NL"])
def test_what_only_ggml_quantizes_comes_near(name):
    type = GGMLQuantizationType[name]
    got = gguf.quants.dequantize(quantize(BLOCKS.reshape(-1, gguf.GGML_QUANT_SIZES[type][0]), type), type)
    assert np.sqrt(np.mean((got.ravel() - BLOCKS.ravel()) ** 2)) < 0.1 * BLOCKS.std()


@NEEDS_EVAL
def test_no_blocks():
    assert quantize(np.empty((0, 32), np.float32), GGMLQuantizationType.Q8_0).shape == (0, 34)


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q5_1"])
def test_there_and_back_is_gguf_pys(name):
    blocks, type = BLOCKS.reshape(-1, 32), GGMLQuantizationType[name.upper()]
    expected = gguf.quants.dequantize(gguf.quants.quantize(blocks, type), type)
    assert np.array_equal(round_trip(target(name))(blocks).reshape(-1), expected.reshape(-1))


def quantizer(name="q4_0"):
    return GgmlQuantizer(target(name), Tensor("a", "F32", (BLOCKS.size,), 0, BLOCKS.nbytes, BLOCKS.size), Rounding())


@pytest.mark.parametrize("slice", [32, 1_000, 1 << 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_rounding_in_slices_is_rounding_at_once(monkeypatch, slice, threads):
    monkeypatch.setattr(ggml, "SLICE", slice)
    words = BLOCKS.ravel().view(np.uint32).copy()
    difference = quantizer().round(words, 0, threads)
    expected = round_trip(target("q4_0"))(BLOCKS.reshape(-1, 32)).reshape(-1)
    assert np.array_equal(words.view(np.float32), expected)
    assert difference.changed == np.count_nonzero(words != BLOCKS.ravel().view(np.uint32))


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "has NaN or Inf"), (np.inf, "has NaN or Inf"), (1e30, "beyond F16")]
)
def test_values_that_a_block_cannot_hold(value, words):
    spoiled = BLOCKS.ravel().copy()
    spoiled[77] = value
    with pytest.raises(Refused, match=words):
        quantizer().round(spoiled.view(np.uint32), 0, 1)


def test_nothing_to_round():
    assert quantizer().round(np.empty(0, np.uint32), 0, 1).changed == 0


@pytest.mark.parametrize("blocks", [1, 7, 8, 128, 129, 256, 1000])
def test_rows_have_whole_blocks(blocks):
    got = in_rows(np.arange(blocks * 32), 32, 32)
    assert got.shape[1] % 32 == 0
    assert (got.ravel() == np.arange(blocks * 32)).all()
    assert got.shape[1] // 32 >= min(8, blocks)
