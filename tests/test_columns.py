"""Neighbours in the columns of a matrix."""

import ml_dtypes
import numpy as np
import pytest

from truebits.files.mapping import MappedFile
from truebits.files.tensor import Tensor
from truebits.precision.columns import COLUMNS, SPOTS, column_runs

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


def runs_of(tmp_path, matrix, type, rows, row, before=6):
    path = tmp_path / "data"
    path.write_bytes(bytes(before) + matrix.astype(DTYPES[type]).tobytes())
    nbytes = path.stat().st_size - before
    tensor = Tensor("a", type, matrix.shape, before, nbytes, matrix.size)
    with MappedFile(path) as file:
        return column_runs(file, tensor, rows, row)


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("rows", "length"), [(32, 32), (96, 32), (64, 64), (128, 128), (512, 128), (2560, 128)])
def test_runs_are_of_one_column_each(tmp_path, type, rows, length):
    """A value tells its column (sixteenths) and its row modulo 32 (whole numbers): exact in BF16."""
    row = 48
    columns, at = np.meshgrid(np.arange(row) % 8, np.arange(rows) % 32)
    matrix = at + columns / 8
    got = runs_of(tmp_path, matrix, type, rows, row)
    spots = min(SPOTS, rows // length)
    assert (got.shape, got.dtype) == ((spots * COLUMNS, length), np.float32)
    assert (np.floor(got) == np.arange(length) % 32).all()
    assert (got % 1 == (got % 1)[:, :1]).all()
    assert len({one[0] % 1 for one in got.tolist()}) == 8


def test_no_run_leaves_its_matrix(tmp_path):
    """A tensor of experts: a run of 32 rows is one expert's."""
    experts, rows, row = 8, 32, 40
    tensor = np.repeat(np.arange(experts), rows)[:, None] * np.ones(row)
    got = runs_of(tmp_path, tensor, "F32", rows, row)
    assert (got == got[:, :1]).all()
    assert set(got[:, 0]) == set(range(experts))


@pytest.mark.parametrize(("rows", "row"), [(0, 64), (33, 64), (31, 64), (32, COLUMNS - 1), (1, 64)])
def test_matrices_that_have_none(tmp_path, rows, row):
    assert runs_of(tmp_path, np.zeros((rows, row)), "F32", rows, row) is None
