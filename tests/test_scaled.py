"""A matrix in a file: with what scales it is FP8, strip by strip."""

from shutil import rmtree

import numpy as np
import pytest

from truebits.files.model import open_model
from truebits.rewriting import scaled as module
from truebits.rewriting.narrowest import Stray
from truebits.rewriting.scaled import row_spans, strip_of, strips, ways_of
from upcast_fp8 import folder_of, made


def ways(tmp_path, values, type="F32"):
    rmtree(tmp_path / "m", ignore_errors=True)
    model = open_model(folder_of(tmp_path / "m", {"a.weight": values}, type))
    with model.parts[0].map() as file:
        return ways_of(file, model.tensors[0], 2)


@pytest.mark.parametrize(
    ("per", "expected"), [("block", ["block"]), ("row", ["row"]), ("tensor", ["tensor", "row", "block"])]
)
def test_the_scales_are_those_that_they_were(tmp_path, per, expected):
    of = made(per)
    got = ways(tmp_path, of.values)
    assert [way.per for way in got] == expected
    assert np.array_equal(got[0].scales.view(np.uint32), of.scales.view(np.uint32))
    assert all(np.array_equal(np.unique(way.scales), np.unique(of.scales)) for way in got)
    assert not got[0].finer


@pytest.mark.parametrize("type", ["F16", "BF16"])
@pytest.mark.parametrize("per", ["block", "row", "tensor"])
def test_values_that_were_rounded_once_more(tmp_path, per, type):
    of = made(per)
    got = ways(tmp_path, of.values, type)[0]
    assert (got.per, got.scales.shape, got.finer > of.values.size // 2) == (per, of.scales.shape, True)
    assert np.allclose(got.scales, of.scales, rtol=2e-3)


@pytest.mark.parametrize(("per", "unit", "of"), [("block", "blocks", 9), ("row", "rows", 300)])
def test_one_value_off_is_named(tmp_path, per, unit, of):
    values = made(per).values
    values[270, 133] += np.float32(1e-3)
    got = ways(tmp_path, values)
    assert got == Stray("F8_E4M3 x scale", 270 * 260 + 133, float(values[270, 133]), 1, of, unit)


def test_what_is_nothing_of_the_kind(tmp_path):
    assert ways(tmp_path, np.random.default_rng(0).normal(0, 1, (300, 260)).astype(np.float32)) is None
    assert ways(tmp_path, np.zeros((300, 260), np.float32)) is None
    assert ways(tmp_path, np.random.default_rng(0).normal(0, 1, (300, 2)), "BF16") is None


def test_blocks_of_zeros_have_a_scale_of_one(tmp_path):
    of = made("block")
    of.values[128:256, 128:256] = 0
    (got,) = ways(tmp_path, of.values)
    expected = of.scales.copy()
    expected[1, 1] = 1
    assert np.array_equal(got.scales, expected)


def test_rows_too_long_for_a_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_ROW", 259)
    assert ways(tmp_path, made("row").values) is None


def test_pieces_are_whole_rows_of_one_strip(tmp_path):
    model = open_model(folder_of(tmp_path / "m", {"a.weight": made("row").values}))
    (tensor,) = model.tensors
    with model.parts[0].map() as file:
        got = np.concatenate([strip_of(file, tensor, first) for first in strips(tensor)])
    assert np.array_equal(got.view(np.float32), made("row").values)
    assert sum(count for _, count in row_spans(tensor)) == tensor.values
    assert all(first % 260 == count % 260 == 0 and count <= 128 * 260 for first, count in row_spans(tensor))
