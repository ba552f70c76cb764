"""What the scale of each block, row or tensor is."""

import ml_dtypes
import numpy as np
import pytest

from truebits.errors import Refused
from truebits.files.tensor import Tensor
from truebits.numbers.rounding import Rounding
from truebits.numbers.spelling import target
from truebits.quantizers.scales import (
    IntegerQuantizer,
    Q8Quantizer,
    SharedQuantizer,
    extremes,
    inverse_of,
    segments,
)

VALUES = np.random.default_rng(0).normal(0, 0.02, 640).astype(np.float32)
TENSOR = Tensor("a.weight", "F32", (640,), 0, 2560, 640)


@pytest.mark.parametrize(
    ("first", "count", "unit", "units", "starts", "stops"),
    [
        (0, 10, 5, (0, 2), [0, 5], [5, 10]),
        (3, 10, 5, (0, 3), [0, 2, 7], [2, 7, 10]),
        (5, 5, 5, (1, 2), [0], [5]),
        (7, 1, 5, (1, 2), [0], [1]),
        (0, 3, 100, (0, 1), [0], [3]),
        (99, 2, 100, (0, 2), [0, 1], [1, 2]),
    ],
)
def test_segments(first, count, unit, units, starts, stops):
    got = segments(first, count, unit)
    assert (got[0], got[1].tolist(), got[2].tolist()) == (slice(*units), starts, stops)


def in_pieces(values, size):
    words = values.view(np.uint32)
    return lambda: ((at, words[at : at + size]) for at in range(0, max(1, words.size), size))


@pytest.mark.parametrize("size", [1, 7, 64, 640])
@pytest.mark.parametrize("unit", [1, 32, 100, 640])
def test_extremes_of_units_whatever_the_pieces(size, unit):
    low, high = extremes(in_pieces(VALUES, size), unit, -(-640 // unit), TENSOR)
    ends = range(0, 640, unit)
    assert low.tolist() == [VALUES[at : at + unit].min() for at in ends]
    assert high.tolist() == [VALUES[at : at + unit].max() for at in ends]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_without_a_scale_is_refused(value):
    spoiled = VALUES.copy()
    spoiled[500] = value
    with pytest.raises(Refused, match=r"a\.weight has NaN or Inf values.*--rule '\^a\\\.weight\$=keep'"):
        extremes(in_pieces(spoiled, 64), 32, 20, TENSOR)


def test_inverses():
    scale = np.array([2, 0, 0.5], np.float32)
    assert inverse_of(scale, scale > 0, TENSOR).tolist() == [0.5, 0, 2]
    for tiny in (0, 1e-45):
        with pytest.raises(Refused, match="so small that their scale would be zero"):
            inverse_of(np.array([tiny], np.float32), np.array([True]), TENSOR)


def quantizer(name, tensor=TENSOR, row=64):
    format, rounding = target(name), Rounding()
    if hasattr(format, "bits") and hasattr(format, "affine"):
        return IntegerQuantizer(format, tensor, format.unit(tensor.values, row), rounding)
    return Q8Quantizer(format, tensor, rounding) if name == "q8_0" else SharedQuantizer(format, tensor, rounding)


def rounded(name, values):
    words = values.view(np.uint32).copy()
    tensor = like(values)
    one = quantizer(name, tensor)
    one.prepare(in_pieces(values, 128))
    difference = one.round(words, 0, 1)
    return words.view(np.float32), difference


def like(values):
    return TENSOR._replace(shape=(values.size,), values=values.size, nbytes=values.nbytes)


NAMES = [
    "int8:block32",
    "int4:block32",
    "int8:row",
    "int8:tensor",
    "int4:row:affine",
    "mxfp4",
    "mxfp8_e5m2",
    "nvfp4",
    "q8_0",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_round_trip_changes_nothing(name):
    once, difference = rounded(name, VALUES)
    assert difference.changed > 0
    _, difference = rounded(name, once)
    assert difference.changed == 0 or "affine" in name
    assert np.abs(once - VALUES).max() <= np.abs(VALUES).max() / 3


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay(name):
    zeros = np.zeros(640, np.float32)
    got, difference = rounded(name, zeros)
    assert (got == 0).all()
    assert difference.changed == 0


@pytest.mark.parametrize(
    ("name", "unit", "steps"), [("int8:block32", 32, 127), ("int4:row", 64, 7), ("int8:tensor", 640, 127)]
)
def test_symmetric_integers_by_their_definition(name, unit, steps):
    got, _ = rounded(name, VALUES)
    for at in range(0, 640, unit):
        piece = VALUES[at : at + unit]
        scale = np.abs(piece).max() / np.float32(steps)
        assert np.allclose(got[at : at + unit], np.rint(piece / scale) * scale, rtol=1e-6, atol=0)


def test_mxfp4_by_its_definition():
    """The scale is 2 to the power of the largest value's exponent less two (OCP, 6.3)."""
    got, _ = rounded("mxfp4", VALUES)
    for at in range(0, 640, 32):
        piece = VALUES[at : at + 32]
        scale = np.float32(2.0 ** (np.floor(np.log2(np.abs(piece).max())) - 2))
        elements = np.clip(piece / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        assert np.array_equal(got[at : at + 32], elements * scale)


def test_mse_is_no_worse():
    errors = {name: rounded(name, VALUES)[1].squared_error for name in ("int4:block32", "int4:block32:mse")}
    assert errors["int4:block32:mse"] <= errors["int4:block32"]


def test_a_scale_beyond_f16_is_refused():
    with pytest.raises(Refused, match="beyond F16"):
        rounded("q8_0", np.full(32, 1e30, np.float32))
