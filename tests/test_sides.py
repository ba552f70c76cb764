"""One side of a comparison, piece by piece."""

from math import lcm

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st

from models import words_for
from quantized_files import folder, fp8, positive, stored
from traced_pair import a_gguf
from truebits.comparing.sides import QuantizedSide, Side, side_of, spans
from truebits.files.mapping import FileChanged
from truebits.quantizers.weights import meaning_of
from words import TYPES, values_of


@given(
    values=st.integers(0, 500),
    size=st.integers(1, 100),
    blocks=st.lists(st.sampled_from([1, 2, 32, 48]), min_size=1, max_size=2),
)
def test_spans_cover_all_in_whole_blocks(values, size, blocks):
    got = list(spans(values, size, *blocks))
    assert [first for first, _ in got] == [sum(count for _, count in got[:at]) for at in range(len(got))]
    assert sum(count for _, count in got) == values
    assert all(first % lcm(*blocks) == 0 for first, _ in got)
    assert all(0 < count <= max(size, lcm(*blocks)) for _, count in got)


@pytest.mark.parametrize("type", TYPES)
def test_words_of_plain_types(tmp_path, type):
    words = words_for(type, 500)
    model = a_gguf(tmp_path / "m.gguf", a=(type, words))
    with model.map() as files:
        side = Side(model.tensors[0], files)
        assert side.words(100, 50, type).tolist() == words[100:150].tolist()
        assert side.bytes(100, 50).tobytes() == words[100:150].tobytes()
        expected = values_of(words[100:150], type)
        with np.errstate(over="ignore", invalid="ignore"):
            assert np.array_equal(side.words(100, 50, "F32").view("<f4"), expected.astype("<f4"), equal_nan=True)
            assert np.array_equal(side.words(100, 50, "F64").view("<f8"), expected, equal_nan=True)
        side.forget(0, 500)
    assert side.block == (1, words.itemsize)


def test_words_of_blocks(tmp_path):
    packed = quants.quantize(
        np.random.default_rng(0).normal(0, 1, (4, 64)).astype(np.float32), GGMLQuantizationType.Q4_0
    )
    model = a_gguf(tmp_path / "m.gguf", a=("Q4_0", packed))
    expected = quants.dequantize(packed, GGMLQuantizationType.Q4_0).astype("<f4").ravel()
    with model.map() as files:
        side = Side(model.tensors[0], files)
        assert side.words(32, 64, "F32").view("<f4").tolist() == expected[32:96].tolist()
        assert side.words(32, 64, "F64").view("<f8").tolist() == expected[32:96].astype(float).tolist()
        assert side.bytes(64, 64).tobytes() == packed.ravel()[36:72].tobytes()
    assert side.block == (32, 18)


@pytest.mark.parametrize("type", ["F8_E4M3", "F8_E5M2"])
def test_words_of_fp8(tmp_path, type):
    dtype = ml_dtypes.float8_e4m3fn if type == "F8_E4M3" else ml_dtypes.float8_e5m2
    codes = np.arange(256, dtype=np.uint8)
    model = folder(tmp_path, {"a": stored(type, codes)})
    with model.map() as files:
        side = Side(model.tensors[0], files)
        got = side.words(0, 256, "F32").view("<f4")
    assert np.array_equal(got, codes.view(dtype).astype(np.float32), equal_nan=True)


def test_what_is_meant_by_a_quantized_checkpoint(tmp_path):
    codes, scale = fp8(8, 16), positive(1)
    tensors = {
        "a.weight": stored("F8_E4M3", codes),
        "a.weight_scale": stored("F32", scale),
        "b": stored("F32", np.ones(4, np.float32)),
    }
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": "fp8"}))
    quantized, plain = of.model.tensors
    with side_of(of, plain) as side:
        assert (plain.name, type(side), side.type) == ("b", Side, "F32")
    expected = (codes.astype(np.float32) * scale).ravel()
    with side_of(of, quantized) as side:
        assert (quantized.name, type(side), side.type) == ("a.weight", QuantizedSide, "F32")
        assert {tensor.name for _, tensor in side.stored} == {"a.weight", "a.weight_scale"}
        assert side.words(3, 20, "F32").view("<f4").tolist() == expected[3:23].tolist()
        assert side.words(3, 20, "F64").view("<f8").tolist() == expected[3:23].astype(float).tolist()
        with pytest.raises(TypeError, match=r"FP8|F8_E4M3 x scale has no bytes by value"):
            side.bytes(0, 1)
        side.forget(0, 10)


def test_a_file_that_changes_is_not_read(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.zeros(8, np.uint32)))
    with model.map() as files:
        side = Side(model.tensors[0], files)
        with (tmp_path / "m.gguf").open("ab") as other:
            other.write(b"x")
        with pytest.raises(FileChanged):
            side.words(0, 1, "F32")
