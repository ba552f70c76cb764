"""What a converter makes of a checkpoint's tensors, piece by piece."""

import ml_dtypes
import numpy as np
import pytest

from quantized_files import folder, fp8, positive, stored
from traced_pair import a_gguf, compared
from truebits.comparing.sides import QuantizedSide, Side
from truebits.files.mapping import FileChanged
from truebits.files.model import open_model
from truebits.lineage import layout
from truebits.lineage.layout import strips, whole
from truebits.lineage.matching import Pair
from truebits.lineage.source import reader_of, why_unread
from truebits.precision.converters import Kind, Transform
from truebits.quantizers.weights import meaning_of

VALUES = np.arange(48, dtype=np.float32).reshape(8, 6) / 7
ADDING = Transform(Kind.ADDED, (), "", "", 1.0)
EXPONENTIAL = Transform(Kind.EXPONENTIAL, (), "", "")


def all_words(of, is_ordered=True):
    return np.concatenate([of.expected.words(first, count, is_ordered) for first, count in of.expected.spans(1)])


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_words_in_the_order_of_the_gguf(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(layout, "PIECE_VALUES", piece)
    with compared(tmp_path, ("F32", VALUES.view("<u4").ravel()), VALUES, lambda of: [of.T]) as of:
        assert all_words(of).view("<f4").tolist() == VALUES.T.ravel().tolist()
        assert all_words(of, False).view("<f4").tolist() == VALUES.ravel().tolist()
        assert of.expected.is_transformed
        for first, _ in of.expected.spans(1):
            of.expected.forget(first)


def test_what_stays_as_it_is_is_not_transformed(tmp_path):
    with compared(tmp_path, ("F32", VALUES.view("<u4").ravel()), VALUES) as of:
        assert (of.expected.is_transformed, of.expected.is_computed, of.expected.type) == (False, False, "F32")


@pytest.mark.parametrize("values", [VALUES, np.array([[0, -0.0, 1e38, np.inf, -200, 88.8]], np.float32)])
def test_what_is_computed(tmp_path, values):
    with compared(tmp_path, ("F32", values.view("<u4").ravel()), values, transforms=[ADDING]) as of:
        got = of.expected.computed(all_words(of)).view("<f4")
        assert (of.expected.shift, of.expected.is_computed, of.expected.is_transformed) == (1.0, True, True)
        assert got.tolist() == (values.ravel() + np.float32(1)).tolist()
    with compared(tmp_path, ("F32", values.view("<u4").ravel()), values, transforms=[EXPONENTIAL]) as of:
        got = of.expected.computed(all_words(of)).view("<f4")
        with np.errstate(over="ignore"):
            expected = (-np.exp(values.ravel().astype(np.float64))).astype(np.float32)
        assert got.tolist() == expected.tolist()
        assert of.expected.is_exponential


def test_singles_are_a_copy(tmp_path):
    with compared(tmp_path, ("F32", VALUES.view("<u4").ravel()), VALUES) as of:
        words = all_words(of)
        singles = of.expected.singles(words)
        singles[:] = 0
        assert words.any()


def test_the_sources_own_words(tmp_path):
    halves = VALUES.astype(ml_dtypes.bfloat16)
    with compared(tmp_path, ("F32", VALUES.view("<u4").ravel()), halves) as of:
        assert of.expected.type == "BF16"
        assert all_words(of).tolist() == halves.view(np.uint16).ravel().tolist()
        assert of.expected.singles(all_words(of)).view("<f4").tolist() == halves.astype(np.float32).ravel().tolist()


def test_readers_of_what_is_meant(tmp_path):
    codes, scale = fp8(8, 16), positive(1)
    tensors = {
        "a.weight": stored("F8_E4M3", codes),
        "a.weight_scale": stored("F32", scale),
        "b": stored("F32", VALUES),
        "ids": stored("I64", np.arange(4)),
    }
    of = meaning_of(folder(tmp_path, tensors, {"quant_method": "fp8"}))
    by_name = {tensor.name: tensor for tensor in of.model.tensors}
    with of.model.map() as files:
        readers = {name: reader_of(of, files, tensor) for name, tensor in by_name.items()}
        assert {name: type(reader) for name, reader in readers.items()} == {
            "a.weight": QuantizedSide,
            "b": Side,
            "ids": Side,
        }
        got = readers["a.weight"].words(5, 20, "F32").view("<f4")
        assert got.tolist() == (codes.astype(np.float32) * scale).ravel()[5:25].tolist()
        pairs = {name: Pair(tensor, (tensor,), (), strips([tensor.shape], whole)) for name, tensor in by_name.items()}
        assert {name: why_unread(of, files, pair) for name, pair in pairs.items()} == {
            "a.weight": None,
            "b": None,
            "ids": "the source is I64",
        }
        both = Pair(by_name["b"], (by_name["b"], by_name["ids"]))
        assert why_unread(of, files, both) == "the source is F32 and I64"


def test_blocks_of_a_gguf_are_read_as_values(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("Q8_0", np.zeros(34, np.uint8)))
    with model.map() as files:
        assert reader_of(meaning_of(model), files, model.tensors[0]).words(0, 32, "F32").tolist() == [0] * 32


def test_a_source_that_changes_is_not_read(tmp_path):
    with compared(tmp_path, ("F32", VALUES.view("<u4").ravel()), VALUES) as of:
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(FileChanged):
            all_words(of)
    assert open_model(tmp_path / "model.gguf")
