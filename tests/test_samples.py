"""Some of a tensor's values, word by word."""

import numpy as np
import pytest

from models import write
from truebits.errors import SelectionError
from truebits.files.model import open_model
from truebits.precision.samples import samples
from words import DTYPE, TYPES

TENSORS = {f"t.{type}": (type, np.arange(100, dtype=DTYPE[type]) * 3) for type in TYPES}


@pytest.fixture
def model(tmp_path):
    one = {"one": ("F32", np.array([0xDEADBEEF], np.uint32)), "packed": ("Q8_0", np.zeros(34, np.uint8))}
    return open_model(write(tmp_path / "model.gguf", TENSORS | one))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(("count", "places"), [(1, [0]), (2, [0, 99]), (4, [0, 33, 66, 99]), (1000, range(100))])
def test_first_to_last_at_equal_distances(model, type, count, places):
    got = samples(model, f"t.{type}", count)
    assert got == (f"t.{type}", type, tuple((at, 3 * at) for at in places))


def test_a_single_value(model):
    assert samples(model, "one").words == ((0, 0xDEADBEEF),)


@pytest.mark.parametrize(
    ("name", "words"), [("absent\x1b", r"no tensor is called absent\\x1b"), ("packed", "packed is Q8_0")]
)
def test_what_has_none(model, name, words):
    with pytest.raises(SelectionError, match=words):
        samples(model, name)
