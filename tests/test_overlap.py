"""Whether two tensors can be one, quantized twice."""

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from traced_pair import a_gguf
from truebits.comparing.sides import Side
from truebits.lineage.cells import TYPES
from truebits.lineage.overlap import CellOverlap, _half_ulp, has_cells

VALUES = np.random.default_rng(0).normal(0, 0.02, (32, 256)).astype(np.float32)
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def stored(values, type):
    if type in FLOATS:
        return type, values.astype(FLOATS[type]).view(f"<u{np.dtype(FLOATS[type]).itemsize}")
    return type, quants.quantize(values, GGMLQuantizationType[type])


def overlap(tmp_path, first, other, piece=1 << 20):
    model = a_gguf(tmp_path / "m.gguf", a=first, b=other)
    found = CellOverlap(first[0], other[0])
    with model.map() as files:
        sides = tuple(Side(tensor, files) for tensor in model.tensors)
        values = sides[0].tensor.values
        for at in range(0, values, piece):
            found.add(sides, at, min(piece, values - at))
    return found


PAIRS = [("Q8_0", "Q4_0"), ("Q4_0", "Q4_1"), ("Q5_1", "Q8_0"), ("F32", "Q8_0"), ("BF16", "Q4_0"), ("F16", "MXFP4")]


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("piece", [512, 1 << 20])
def test_one_quantized_twice_may_be_one(tmp_path, a, b, piece):
    got = overlap(tmp_path, stored(VALUES, a), stored(VALUES, b), piece)
    assert got.is_possible
    assert got.values == VALUES.size


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_other_values_are_not(tmp_path, a, b):
    other = np.random.default_rng(1).normal(0, 0.02, VALUES.shape).astype(np.float32)
    got = overlap(tmp_path, stored(VALUES, a), stored(other, b))
    assert not got.is_possible
    assert got.apart > VALUES.size / 10


def test_one_changed_value_of_a_fine_type_is_enough(tmp_path):
    """Of types whose codes are the nearest; one of the others allows for what they do."""
    changed = VALUES.copy()
    changed[3, 7] += 0.03
    got = overlap(tmp_path, stored(VALUES, "F32"), stored(changed, "MXFP4"))
    assert got.is_exact
    assert not got.is_possible
    assert got.apart == got.wide_apart == 1


@pytest.mark.parametrize("type", ["F16", "BF16"])
def test_half_a_unit_in_the_last_place(type):
    """Of zero, too, which only stands for what is smaller than half the format's least value."""
    singles = np.array([1.0, 1.5, 2.0, 0.02, -3.0, 0.0, -0.0, 6e-8], np.float32).astype(FLOATS[type])
    above = (singles.view(np.uint16) + 1).view(FLOATS[type])
    expected = np.abs(above.astype(np.float32) - singles.astype(np.float32)) / 2
    assert _half_ulp(singles.astype(np.float32), type).tolist() == expected.tolist()
    assert _half_ulp(singles.astype(np.float32), "F32") == 0


def test_values_that_were_lost_are_not_the_same(tmp_path):
    """Zeros in the place of small weights are no rounding of them."""
    lost = np.where(np.abs(VALUES) < 0.0018, 0, VALUES).astype(np.float32)
    assert overlap(tmp_path, stored(VALUES, "BF16"), stored(VALUES, "Q8_0")).is_possible
    assert not overlap(tmp_path, stored(lost, "BF16"), stored(VALUES, "Q8_0")).is_possible


def test_types_whose_cells_are_known():
    assert all(has_cells(type) for type in (*TYPES, "F32", "F16", "BF16"))
    assert not any(has_cells(type) for type in ("F64", "IQ2_XXS", "I32", "nobody's"))
