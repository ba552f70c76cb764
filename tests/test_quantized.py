"""A tensor that is stored as several, a few rows at a time."""

import numpy as np
import pytest

from quantized_files import folder, stored
from quantized_files import tensor as header
from truebits.files.model import open_model
from truebits.quantizers.quantized import Quantized, Stored, Unread, meant, need
from words import values_of as floats_of

VALUES = np.arange(60, dtype=np.float32).reshape(6, 10)


@pytest.fixture
def files(tmp_path):
    model = folder(tmp_path, {"a": stored("F32", VALUES), "b": stored("I8", VALUES.astype(np.int8))})
    with model.parts[0].map() as file:
        yield model, {0: file}


def doubled(arrays, start, stop):
    return arrays["weight"].values()[start:stop] * 2


@pytest.fixture
def one(files):
    (tensor, _), _ = files[0].tensors, None
    return Quantized(tensor, {"weight": tensor}, doubled)


@pytest.mark.parametrize(("first", "count"), [(0, 60), (0, 0), (0, 1), (59, 1), (7, 5), (10, 10), (3, 40)])
def test_any_range_of_values(files, one, first, count):
    got = one.words(files[1], first, count)
    assert got.dtype == np.uint32
    assert got.view(np.float32).tolist() == (2 * VALUES).ravel()[first : first + count].tolist()


@pytest.mark.parametrize(("size", "pieces"), [(1, 6), (10, 6), (25, 3), (60, 1), (1 << 20, 1)])
def test_pieces_are_whole_rows(files, one, size, pieces):
    got = list(one.pieces(files[1], size))
    assert len(got) == pieces
    assert [first % 10 for first, _ in got] == [0] * pieces
    assert np.concatenate([words for _, words in got]).view(np.float32).tolist() == (2 * VALUES).ravel().tolist()


def test_a_tensor_without_values_has_no_pieces(files):
    empty = header("F32", 0, 10)
    assert list(Quantized(empty, {"weight": empty}, doubled).pieces(files[1])) == []


@pytest.mark.parametrize(
    ("type", "array"),
    [
        ("I8", np.array([-128, 127], np.int8)),
        ("U8", np.array([0, 255], np.uint8)),
        ("I16", np.array([-5, 5], np.int16)),
        ("I32", np.array([-(2**20), 5], np.int32)),
        ("I64", np.array([-3, 3], np.int64)),
        ("U32", np.array([1 << 31, 3], np.uint32)),
        ("BOOL", np.array([0, 1], np.uint8)),
        ("F16", np.array([1.5, -2], np.float16)),
        ("F64", np.array([1.5, -2], np.float64)),
        ("F32", np.array([1.5, np.nan], np.float32)),
    ],
)
def test_values_of_every_type(tmp_path, type, array):
    model = folder(tmp_path, {"pad": stored("U8", np.zeros(3, np.uint8)), "a": stored(type, array)})
    with model.parts[0].map() as file:
        got = Stored(file, model.tensors[1]).values()
    assert got.dtype == np.float32
    assert np.array_equal(got, array.astype(np.float32), equal_nan=True)


def test_an_empty_tensor_at_the_end_of_the_file(tmp_path):
    model = folder(tmp_path, {"a": stored("F32", np.empty((0, 4), np.float32))})
    with model.parts[0].map() as file:
        assert Stored(file, model.tensors[0]).values().shape == (0, 4)


def test_what_is_meant_takes_all_that_is_stored():
    sources = {"weight": header("U8", 4, 8), "scale": header("F32", 4)}
    got = meant("a", "NEW", (4, 16), sources)
    assert (got.name, got.type, got.shape, got.values, got.nbytes) == ("a", "NEW", (4, 16), 64, 32 + 16)


def test_what_is_needed_and_absent_is_named():
    assert need({"scale": header("F32", 1)}, "scale").type == "F32"
    with pytest.raises(Unread, match="its zero is absent"):
        need({}, "zero")


def test_a_file_that_changed_is_not_read(files, one):
    path = files[0].parts[0].path
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(OSError, match="was changed"):
        one.words(files[1], 0, 1)
    assert open_model(path).tensors
    assert floats_of(np.array([1], np.uint32), "F32").size == 1
