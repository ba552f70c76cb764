"""Codes out of the words that they are packed in."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantized_files import stream
from truebits.quantizers.unpacking import e8m0_table, nibbles, unpack


@given(bits=st.integers(1, 8), rows=st.integers(0, 3), words=st.integers(1, 5), seed=st.integers(0, 99))
def test_unpack_undoes_a_stream_of_bits(bits, rows, words, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, 32 * words // bits), np.uint8)
    packed = stream(codes, bits)[:, :words] if rows else np.empty((0, words), np.uint32)
    assert unpack(packed, bits).tolist() == codes.tolist()
    assert unpack(packed.view(np.int32), bits).tolist() == codes.tolist()


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 2), (2, 0, 3), (2, 3, 4)])
def test_nibbles_are_the_low_half_and_the_high(shape):
    packed = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    got = nibbles(packed)
    assert got.shape == (*shape[:-1], 2 * shape[-1])
    assert (got[..., ::2] == packed % 16).all()
    assert (got[..., 1::2] == packed // 16).all()


def test_e8m0():
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(e8m0_table(), expected, equal_nan=True)
    assert e8m0_table().dtype == np.float32
