"""Values that were dequantized, put back into blocks: against what gguf-py quantizes and dequantizes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truebits.quantizers.upcasts import TYPES, repacked, rounded

QUANTIZED_BY_GGUF = tuple(type for type in TYPES if type != "NVFP4")
SCALES_ONLY = ("Q4_0", "Q5_0", "Q8_0", "MXFP4", "NVFP4")


def number(type):
    return gguf.GGMLQuantizationType[type]


def values_of(raw, type):
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, number(type)).astype(np.float32).reshape(len(raw), -1)


def words_of(values):
    return np.ascontiguousarray(values).view(np.uint32).reshape(-1)


def weights(blocks=300, seed=1, size=64):
    """Weights of three magnitudes, with blocks of zeros and of one value."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((blocks, size)) * random.choice([1e-3, 0.02, 1.0], (blocks, 1))
    values[3], values[4], values[5, 5:] = 0, 0.25, 0
    return values.astype(np.float32)


def blocks_of(type, seed=1):
    """Return blocks that are finite: gguf-py's, or of any codes and scales."""
    if type in QUANTIZED_BY_GGUF:
        return gguf.quants.quantize(weights(seed=seed), number(type)).reshape(
            -1, gguf.GGML_QUANT_SIZES[number(type)][1]
        )
    raw = np.random.default_rng(seed).integers(0, 256, (300, 36), dtype=np.uint8)
    raw[:, :4] %= 127
    return raw


@pytest.mark.parametrize("type", TYPES)
def test_values_of_blocks_become_blocks_of_the_same_values(type):
    raw = blocks_of(type)
    expected = values_of(raw, type)
    found = repacked(words_of(expected), type)
    assert found.held.all()
    assert np.array_equal(words_of(values_of(found.raw, type)), words_of(expected))


@pytest.mark.parametrize("type", QUANTIZED_BY_GGUF)
def test_what_gguf_py_quantized_comes_back_byte_for_byte(type):
    raw = blocks_of(type)
    telling = values_of(raw, type).std(axis=1) > 0
    assert np.array_equal(repacked(words_of(values_of(raw, type)), type).raw[telling], raw[telling])


@pytest.mark.parametrize("type", SCALES_ONLY)
@given(data=st.data())
def test_any_block_without_an_offset_is_found_again(type, data):
    nbytes = gguf.GGML_QUANT_SIZES[number(type)][1]
    raw = (
        np.frombuffer(data.draw(st.binary(min_size=4 * nbytes, max_size=4 * nbytes)), np.uint8)
        .reshape(4, nbytes)
        .copy()
    )
    if type == "NVFP4":
        raw[:, :4] &= 127  # its scales have no sign
    expected = values_of(raw, type)
    found = repacked(words_of(expected), type)
    assert found.held.tolist() == np.isfinite(expected).all(axis=1).tolist()
    got = values_of(found.raw, type)
    assert np.array_equal(words_of(got[found.held]), words_of(expected[found.held]))


@pytest.mark.parametrize("type", ["Q4_1", "Q5_1"])
@given(data=st.data())
def test_what_is_held_gives_back_every_bit(type, data):
    nbytes = gguf.GGML_QUANT_SIZES[number(type)][1]
    codes = data.draw(st.binary(min_size=nbytes - 4, max_size=nbytes - 4))
    halves = np.array(data.draw(st.tuples(st.floats(0, 2), st.floats(-8, 8))), np.float16)
    raw = np.frombuffer(halves.tobytes() + codes, np.uint8).reshape(1, -1)
    expected = values_of(raw, type)
    found = repacked(words_of(expected), type)
    if found.held[0]:
        assert np.array_equal(words_of(values_of(found.raw, type)), words_of(expected))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("at", [0, 17, 31])
def test_one_value_off_by_its_last_bit_is_seen(type, at):
    words = words_of(values_of(blocks_of(type), type)).copy()
    size = gguf.GGML_QUANT_SIZES[number(type)][0]
    words[100 * size + at] ^= 1
    held = repacked(words, type).held
    assert np.flatnonzero(~held).tolist() == [100]


@pytest.mark.parametrize("type", TYPES)
def test_weights_that_never_were_blocks_are_none(type):
    values = np.random.default_rng(3).standard_normal((200, 64)).astype(np.float32)
    assert not repacked(words_of(values), type).held.any()
    assert not repacked(words_of(values) & np.uint32(0xFFFF0000), type).held.any()


@pytest.mark.parametrize("type", ["Q4_0", "Q5_0", "Q8_0"])
def test_zeros_keep_their_signs(type):
    both = np.zeros((3, 32), np.float32)
    both[1], both[2, ::2] = -0.0, -0.0
    found = repacked(words_of(both), type)
    assert found.held.all()
    assert np.array_equal(words_of(values_of(found.raw, type)), words_of(both))
    both[0, 0] = 1  # beside a value that is not zero they are of one sign in a block
    both[2, 0] = 1
    assert repacked(words_of(both), type).held.tolist() == [True, True, False]


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", TYPES)
def test_blocks_with_values_that_are_no_numbers_are_not_held(type, special):
    values = values_of(blocks_of(type), type).copy()
    values[7, 1] = special
    assert np.flatnonzero(~repacked(words_of(values), type).held).tolist() == [7]


@pytest.mark.parametrize("stored", ["F16", "BF16"])
@pytest.mark.parametrize("type", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_values_that_were_rounded_once_more_become_blocks_that_round_to_them(type, stored):
    expected = rounded(values_of(blocks_of(type), type), stored)
    assert not repacked(expected.reshape(-1), type).held.all()
    found = repacked(expected.reshape(-1), type, stored)
    assert found.held.all()
    got = values_of(found.raw, type)
    assert np.array_equal(rounded(got, stored), expected)
    assert found.finer.sum() == np.count_nonzero(words_of(got) != expected.reshape(-1)) > 0
